package main

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
)

// banks are two services, each with a database of its own in which the table account
// is protected ("handfast pg protect public.account").
type banks struct {
	tx           *tm.Manager // tm.New(coordinator)
	north, south *rm.Pool    // rm.Open(ctx, coordinator, dsn)
}

// transfer moves money from north to south: both or neither. Each statement commits in
// its own database at once; its undo row, written beside it, keeps everybody else from
// the row until the decision.
func (b *banks) transfer(ctx context.Context, from, to string, amount int) error {
	return b.tx.Do(ctx, func(ctx context.Context) error { // this ctx carries the XID
		taken, err := b.north.Exec(ctx, `UPDATE account SET balance = balance - $1 WHERE owner = $2 AND balance >= $1`, amount, from)
		if err != nil {
			return err
		}
		if taken.RowsAffected() == 0 {
			return fmt.Errorf("%s has less than %d", from, amount)
		}
		given, err := b.south.Exec(ctx, `UPDATE account SET balance = balance + $1 WHERE owner = $2 AND NOT closed`, amount, to)
		if err != nil {
			return err
		}
		if given.RowsAffected() == 0 {
			return fmt.Errorf("the account of %s is closed", to) // an error puts back what was taken
		}
		return nil // nil commits everything
	}, tm.WithName("transfer"), tm.WithWaitSettled())
}
