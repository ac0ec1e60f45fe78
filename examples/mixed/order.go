package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
)

// shop is the service that begins the transaction.
type shop struct {
	tx     *tm.Manager // tm.New(coordinator)
	orders *rm.Pool    // rm.Open(ctx, coordinator, dsn): AT, the table is protected
	ledger *rm.Pool    // the same with rm.WithMode(rm.XA): nobody may see an entry early
	money  *fenced     // the service of the money
}

type order struct {
	Customer string `json:"customer"`
	Address  string `json:"address"`
	Price    int    `json:"price"`
}

// place does five things in five services, each in the mode that fits it. All of them
// stay, or none does, whichever fails.
func (s *shop) place(ctx context.Context, o order) error {
	return s.tx.Do(ctx, func(ctx context.Context) error { // this ctx carries the XID
		// AT: plain SQL. Committed here at once, undone where the transaction rolls back.
		if _, err := s.orders.Exec(ctx, `INSERT INTO orders (customer, price) VALUES ($1, $2)`, o.Customer, o.Price); err != nil {
			return err
		}
		// XA: plain SQL, too. Prepared, and seen by nobody before the decision.
		err := pgx.BeginFunc(ctx, s.ledger, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO ledger VALUES (now(), $1, $2), (now(), 'sales', -$2)`, o.Customer, o.Price)
			return err
		})
		if err != nil {
			return err
		}
		// TCC: reserved now, confirmed or cancelled afterwards.
		if _, err := tcc.Call(ctx, s.tx, tcc.Branch{
			Name:    "money",
			Confirm: target.Handler("money", "confirm", target.Payload(o)),
			Cancel:  target.Handler("money", "cancel", target.Payload(o)),
		}, s.money.try(o)); err != nil {
			return err
		}
		// Message: delivered after the commit, and only then.
		mail := message.New("thanks").To(target.Handler("mail", "send", target.Payload(o)))
		if err := mail.Enlist(ctx, s.tx); err != nil {
			return err
		}
		// Saga: the coordinator calls its step when all of this is done, and the
		// transaction commits only if it succeeds.
		return saga.New("delivery").
			Step("courier", target.Handler("courier", "book"), saga.Input(o), saga.Compensate(target.Handler("courier", "cancel"))).
			Enlist(ctx, s.tx)
	}, tm.WithName("order"), tm.WithWaitSettled())
}
