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
	"github.com/handfast/handfast/tm"
)

func main() { bench.Main("mixed", stage) }

func stage(ctx context.Context, b *bench.Bench) error {
	s, courier, err := open(ctx, b)
	if err != nil {
		return err
	}
	b.Title("An order of 30, and the courier comes late")
	// place joins the transaction that is begun here, to look on before the decision.
	err = s.tx.Do(ctx, func(ctx context.Context) error {
		if err := s.place(ctx, order{Customer: "anna", Address: "Mill Lane 1", Price: 30}); err != nil {
			return err
		}
		if err := b.Show(ctx, "undecided"); err != nil {
			return err
		}
		_, err := courier.Attach(b.Coordinator)
		return err
	}, tm.WithName("order"), tm.WithWaitSettled())
	if err != nil {
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

// open makes the services. The courier is not there yet.
func open(ctx context.Context, b *bench.Bench) (*shop, *handlers.Group, error) {
	s := &shop{tx: b.Tx}
	orders, err := b.Database(ctx, bench.Database{
		Name:    "orders",
		Schema:  `CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text, price int)`,
		Protect: []string{"public.orders"},
		Look:    `SELECT count(*)::text FROM orders`,
	})
	if err != nil {
		return nil, nil, err
	}
	if s.orders, err = b.Pool(ctx, orders); err != nil {
		return nil, nil, err
	}
	ledger, err := b.Database(ctx, bench.Database{
		Name:   "ledger",
		Schema: `CREATE TABLE ledger (at timestamptz, account text, amount int)`,
		Look:   `SELECT count(*)::text FROM ledger`,
	})
	if err != nil {
		return nil, nil, err
	}
	if s.ledger, err = b.Pool(ctx, ledger, rm.WithMode(rm.XA)); err != nil {
		return nil, nil, err
	}
	s.money = &fenced{}
	courier, mail := &fenced{}, &fenced{}
	for _, x := range []struct {
		service  *fenced
		database bench.Database
	}{
		{s.money, bench.Database{
			Name:   "money",
			Schema: `CREATE TABLE account (customer text PRIMARY KEY, balance int, held int); INSERT INTO account VALUES ('anna', 100, 0)`,
			Look:   `SELECT format('%s, held %s', balance, held) FROM account`,
		}},
		{courier, bench.Database{Name: "courier", Schema: `CREATE TABLE tour (branch text, address text)`, Look: `SELECT count(*)::text FROM tour`}},
		{mail, bench.Database{Name: "mail", Schema: `CREATE TABLE mail (text text)`, Look: `SELECT count(*)::text FROM mail`}},
	} {
		d, err := b.Database(ctx, x.database)
		if err != nil {
			return nil, nil, err
		}
		if x.service.db, err = b.Plain(ctx, d); err != nil {
			return nil, nil, err
		}
	}
	for _, g := range []*handlers.Group{s.money.account(), mail.mail()} {
		if _, err := g.Attach(b.Coordinator); err != nil {
			return nil, nil, err
		}
	}
	return s, courier.courier(), nil
}
