package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
)

// banks are two services, each with a database of its own.
type banks struct {
	tx           *tm.Manager // tm.New(coordinator)
	north, south *rm.Pool    // rm.Open(ctx, coordinator, dsn, rm.WithMode(rm.XA))
}

// transfer moves money from north to south: both or neither. Until the decision
// nobody sees either half.
func (b *banks) transfer(ctx context.Context, amount int) error {
	return b.tx.Do(ctx, func(ctx context.Context) error { // this ctx carries the XID
		// One statement: a local transaction of its own, prepared when it returns.
		if _, err := b.north.Exec(ctx, `UPDATE account SET balance = balance - $1 WHERE owner = 'anna'`, amount); err != nil {
			return err // an error rolls back everything
		}
		// Several statements: prepared by Commit.
		return pgx.BeginFunc(ctx, b.south, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE account SET balance = balance + $1 WHERE owner = 'bert'`, amount); err != nil {
				return err
			}
			// A table without a key, which AT could not protect.
			_, err := tx.Exec(ctx, `INSERT INTO journal VALUES (now(), $1)`, fmt.Sprintf("%d from anna", amount))
			return err
		})
	}, tm.WithName("transfer"), tm.WithWaitSettled())
}
