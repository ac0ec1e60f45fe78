package main

import (
	"context"

	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
)

// shop is the service that begins the transaction. It has no database.
type shop struct {
	tx      *tm.Manager // tm.New(coordinator)
	stock   string      // URLs of the other services
	payment string
}

// item is what the stock service is sent, to reserve, to confirm and to cancel.
type item struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// money is the same for the payment service.
type money struct {
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

// place reserves an item and holds the money for it. Both are confirmed when it returns
// nil, and both cancelled when it returns an error, also where this process dies.
func (s *shop) place(ctx context.Context, what item, price money) error {
	return s.tx.Do(ctx, func(ctx context.Context) error {
		if err := s.try(ctx, "stock", s.stock, what); err != nil {
			return err
		}
		return s.try(ctx, "payment", s.payment, price)
	}, tm.WithName("order"), tm.WithWaitSettled())
}

// try has the coordinator know of Confirm and Cancel before it calls Try. Each gets what
// Try gets: Cancel may come where nobody knows what Try has answered.
func (s *shop) try(ctx context.Context, name, url string, what any) error {
	_, err := tcc.Call(ctx, s.tx, tcc.Branch{
		Name:    name,
		Confirm: target.HTTP(url+"/confirm", target.Payload(what)),
		Cancel:  target.HTTP(url+"/cancel", target.Payload(what)),
	}, tcc.Post(nil, url+"/try", what))
	return err
}
