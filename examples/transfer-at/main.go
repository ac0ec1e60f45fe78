// Command transfer-at moves money between two banks in AT mode: plain SQL in two
// databases, which stays or is undone as the coordinator decides. It brings everything
// along that it needs: run it with
//
//	go run ./examples/transfer-at
//
// The interesting part is transfer.go.
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/undolog"
)

func main() { bench.Main("transfer-at", stage) }

// city is two banks on a bench.
type city struct {
	banks
	b     *bench.Bench
	plain *bench.Database // north, as psql sees it
}

func stage(ctx context.Context, b *bench.Bench) error {
	c, err := found(ctx, b)
	if err != nil {
		return err
	}
	for _, scene := range []func(context.Context) error{c.commits, c.rollsBack, c.holds} {
		if err := scene(ctx); err != nil {
			return err
		}
		if err := b.Show(ctx, "afterwards"); err != nil {
			return err
		}
	}
	return nil
}

// found makes the city.
func found(ctx context.Context, b *bench.Bench) (c *city, err error) {
	c = &city{b: b, banks: banks{tx: b.Tx}}
	if c.plain, c.north, err = c.open(ctx, "north", `INSERT INTO account VALUES ('anna', 60), ('dora', 40)`); err != nil {
		return nil, err
	}
	_, c.south, err = c.open(ctx, "south", `INSERT INTO account VALUES ('bert', 0, false), ('carl', 0, true)`)
	return c, err
}

func (c *city) open(ctx context.Context, name, accounts string) (*bench.Database, *rm.Pool, error) {
	d, err := c.b.Database(ctx, bench.Database{
		Name:    name,
		Schema:  `CREATE TABLE account (owner text PRIMARY KEY, balance int NOT NULL, closed bool NOT NULL DEFAULT false); ` + accounts,
		Protect: []string{"public.account"},
		Look: `SELECT format('%3s, undo rows: %s', (SELECT sum(balance) FROM account),
			(SELECT count(*) FROM handfast.undo))`,
	})
	if err != nil {
		return nil, nil, err
	}
	p, err := c.b.Pool(ctx, d)
	return d, p, err
}

func (c *city) commits(ctx context.Context) error {
	c.b.Title("A transfer of 30")
	return c.transfer(ctx, "anna", "bert", 30)
}

func (c *city) rollsBack(ctx context.Context) error {
	c.b.Title("A transfer of 30 to an account that is closed, as turns out after the money was taken")
	cause, err := c.b.Undone(ctx, c.transfer(ctx, "anna", "carl", 30))
	if err == nil {
		c.b.Say("rolled back: %v", cause)
	}
	return err
}

// holds looks on between the transfer and the decision: the transfer joins the
// transaction that is begun here.
func (c *city) holds(ctx context.Context) error {
	c.b.Title("A transfer of 20, and somebody at psql before the decision")
	return c.tx.Do(ctx, func(ctx context.Context) error {
		if err := c.transfer(ctx, "dora", "bert", 20); err != nil {
			return err
		}
		if err := c.b.Show(ctx, "undecided"); err != nil {
			return err
		}
		err := c.plain.Exec(ctx, `UPDATE account SET balance = 1000000 WHERE owner = 'dora'`)
		refused, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || refused.Code != undolog.SQLStateConflict {
			return fmt.Errorf("want the plain session to be refused, got: %w", err)
		}
		c.b.Say("refused: %s (SQLSTATE %s)", refused.Message, refused.Code)
		return nil
	}, tm.WithName("transfer with an onlooker"), tm.WithWaitSettled())
}
