// Command mixed places an order in one global transaction of five modes: a row in AT, a
// ledger in XA, money in TCC, an e-mail as a message, and a courier as the step of a saga.
// It brings everything along that it needs: run it with
//
//	go run ./examples/mixed
//
// The interesting parts are order.go and services.go.
package main

import (
	"context"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/rm"
)

func main() { bench.Main("mixed", stage) }

func stage(ctx context.Context, b *bench.Bench) error {
	s, err := open(ctx, b)
	if err != nil {
		return err
	}
	if err := b.Show(ctx, "before"); err != nil {
		return err
	}
	b.Title("An order of 30")
	if err := s.place(ctx, order{Customer: "anna", Address: "Mill Lane 1", Price: 30}); err != nil {
		return err
	}
	if err := b.Show(ctx, "committed"); err != nil {
		return err
	}
	b.Title("An order to an island, where the courier refuses to go: the last step, when all else is done")
	cause, err := b.Undone(ctx, s.place(ctx, order{Customer: "anna", Address: "Far island", Price: 30}))
	if err != nil {
		return err
	}
	b.Say("rolled back: %v", cause)
	return b.Show(ctx, "afterwards")
}

func open(ctx context.Context, b *bench.Bench) (*shop, error) {
	s := &shop{tx: b.Tx}
	orders, err := b.Database(ctx, bench.Database{
		Name:    "orders",
		Schema:  `CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text, price int)`,
		Protect: []string{"public.orders"},
		Look:    `SELECT count(*)::text FROM orders`,
	})
	if err != nil {
		return nil, err
	}
	if s.orders, err = b.Pool(ctx, orders); err != nil {
		return nil, err
	}
	ledger, err := b.Database(ctx, bench.Database{
		Name:   "ledger",
		Schema: `CREATE TABLE ledger (at timestamptz, account text, amount int)`,
		Look:   `SELECT count(*)::text FROM ledger`,
	})
	if err != nil {
		return nil, err
	}
	if s.ledger, err = b.Pool(ctx, ledger, rm.WithMode(rm.XA)); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		database bench.Database
		group    func(*fenced) *handlers.Group
	}{
		{bench.Database{
			Name:   "money",
			Schema: `CREATE TABLE account (customer text PRIMARY KEY, balance int, held int); INSERT INTO account VALUES ('anna', 100, 0)`,
			Look:   `SELECT format('%s, held %s', balance, held) FROM account`,
		}, (*fenced).account},
		{bench.Database{Name: "courier", Schema: `CREATE TABLE tour (branch text, address text)`, Look: `SELECT count(*)::text FROM tour`}, (*fenced).courier},
		{bench.Database{Name: "mail", Schema: `CREATE TABLE mail (text text)`, Look: `SELECT count(*)::text FROM mail`}, (*fenced).mail},
	} {
		d, err := b.Database(ctx, x.database)
		if err != nil {
			return nil, err
		}
		pool, err := b.Plain(ctx, d)
		if err != nil {
			return nil, err
		}
		f := &fenced{db: pool}
		if d.Name == "money" {
			s.money = f
		}
		if _, err := x.group(f).Attach(b.Coordinator); err != nil {
			return nil, err
		}
	}
	return s, nil
}
