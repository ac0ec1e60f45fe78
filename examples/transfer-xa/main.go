// Command transfer-xa moves money between two banks in XA mode: each bank's local
// transaction is prepared (PREPARE TRANSACTION), and the coordinator decides. It
// brings everything along that it needs: run it with
//
//	go run ./examples/transfer-xa
//
// The interesting part is transfer.go.
package main

import (
	"context"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
)

func main() { bench.Main("transfer-xa", stage) }

// city is two banks on a bench.
type city struct {
	banks
	b *bench.Bench
}

func stage(ctx context.Context, b *bench.Bench) error {
	c := city{b: b, banks: banks{tx: b.Tx}}
	var err error
	if c.north, err = c.open(ctx, "north", `INSERT INTO account VALUES ('anna', 100)`); err != nil {
		return err
	}
	if c.south, err = c.open(ctx, "south", `INSERT INTO account VALUES ('bert', 0)`); err != nil {
		return err
	}
	for _, scene := range []func(context.Context) error{c.commits, c.rollsBack, c.survives} {
		if err := scene(ctx); err != nil {
			return err
		}
		if err := b.Show(ctx, "afterwards"); err != nil {
			return err
		}
	}
	return nil
}

// open makes the database of a bank. No table needs protection.
func (c *city) open(ctx context.Context, name, accounts string) (*rm.Pool, error) {
	d, err := c.b.Database(ctx, bench.Database{
		Name: name,
		Schema: `CREATE TABLE account (owner text PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));
			CREATE TABLE journal (at timestamptz, what text); ` + accounts,
		Look: `SELECT format('%3s, prepared: %s', (SELECT sum(balance) FROM account),
			(SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()))`,
	})
	if err != nil {
		return nil, err
	}
	return c.b.Pool(ctx, d, rm.WithMode(rm.XA))
}

func (c *city) commits(ctx context.Context) error {
	c.b.Title("A transfer of 30")
	return c.undecided(ctx, 30, func(ctx context.Context) error { return c.b.Show(ctx, "both prepared") })
}

func (c *city) rollsBack(ctx context.Context) error {
	c.b.Title("A transfer of 500, which the account does not hold")
	_, err := c.b.Undone(ctx, c.transfer(ctx, 500))
	c.b.Say("rolled back: the balance may not be negative")
	return err
}

func (c *city) survives(ctx context.Context) error {
	c.b.Title("A transfer of 20, and Postgres crashes before the decision")
	return c.undecided(ctx, 20, func(ctx context.Context) error {
		c.b.Postgres.Kill()
		if err := c.b.Postgres.Restart(ctx); err != nil {
			return err
		}
		c.north.Reset()
		c.south.Reset()
		return c.b.Show(ctx, "after the restart")
	})
}

// undecided looks on between the transfer and the decision: the transfer joins the
// transaction that is begun here.
func (c *city) undecided(ctx context.Context, amount int, look func(context.Context) error) error {
	return c.tx.Do(ctx, func(ctx context.Context) error {
		if err := c.transfer(ctx, amount); err != nil {
			return err
		}
		return look(ctx)
	}, tm.WithWaitSettled())
}
