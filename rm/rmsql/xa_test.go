package rmsql_test

import (
	"context"
	"testing"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/rm"
)

// The mode comes from the context, or from the pool.
func TestXAModeOfTheContextAndOfThePool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	xaDB := openDB(t, w.Open(w.DSN, rm.WithMode(rm.XA)))
	prepared := func() int {
		t.Helper()
		return hftest.Value[int](w.World, "SELECT count(*)::int FROM pg_prepared_xacts WHERE database = current_database()")
	}
	for name, work := range map[string]func(context.Context) error{ //nolint:paralleltest // they share the row
		"BeginTx": func(ctx context.Context) error {
			tx, err := w.db.BeginTx(rm.ContextWithMode(ctx, rm.XA), nil)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, "UPDATE account SET balance = balance - 1 WHERE id = 1"); err != nil {
				_ = tx.Rollback()
				return err
			}
			return tx.Commit()
		},
		"statement": func(ctx context.Context) error {
			_, err := w.db.ExecContext(rm.ContextWithMode(ctx, rm.XA), "UPDATE account SET balance = balance - 1 WHERE id = 1")
			return err
		},
		"query": func(ctx context.Context) error {
			var n int
			return w.db.QueryRowContext(rm.ContextWithMode(ctx, rm.XA), "SELECT pay(1)").Scan(&n)
		},
		"pool": func(ctx context.Context) error {
			_, err := xaDB.ExecContext(ctx, "UPDATE account SET balance = balance - 1 WHERE id = 1")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.balance(1)
			ctx, x := w.Begin()
			w.Check(work(ctx))
			hftest.Equal(t, "prepared", prepared(), 1)
			hftest.Equal(t, "balance before the decision", w.balance(1), before)
			w.Rollback(x)
			ctx, x = w.Begin()
			w.Check(work(ctx))
			w.Commit(x)
			hftest.Equal(t, "balance", w.balance(1), before-1)
			hftest.Equal(t, "prepared", prepared(), 0)
		})
	}
	w.Settled()
}
