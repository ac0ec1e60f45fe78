package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
)

// signup is the service that sends. It keeps no table of outgoing messages, and begins no
// global transaction.
type signup struct {
	db    *rm.Pool // rm.Open(ctx, coordinator, dsn)
	mails string   // URL of the service that receives
}

// welcome is the message.
type welcome struct {
	Customer int    `json:"customer"`
	Name     string `json:"name"`
}

var errCoupon = errors.New("the coupon is used already")

// add writes a customer and has a welcome sent, in one local transaction: the message is
// delivered if that commits, also where this process dies right after, and otherwise never.
func (s *signup) add(ctx context.Context, name, coupon string) error {
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		hello := welcome{Name: name}
		if err := tx.QueryRow(ctx, `INSERT INTO customer (name) VALUES ($1) RETURNING id`, name).Scan(&hello.Customer); err != nil {
			return err
		}
		if err := rm.Publish(ctx, tx, target.HTTP(s.mails+"/welcome", target.Payload(hello))); err != nil {
			return err
		}
		used, err := tx.Exec(ctx, `UPDATE coupon SET customer = $1 WHERE code = $2 AND customer IS NULL`, hello.Customer, coupon)
		if err == nil && used.RowsAffected() == 0 {
			err = errCoupon // takes the customer back, and the message with it
		}
		return err
	})
}
