package rmsql_test

import (
	"context"
	"testing"

	"github.com/handfast/handfast/internal/hftest"
)

// TestAStatementInATransactionWaitsForTheHolder: what the transaction did before
// is kept.
func TestAStatementInATransactionWaitsForTheHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, how := range map[string]work{ //nolint:paralleltest // they share the row
		"Exec": func(ctx context.Context, d db) error {
			return affected(1)(d.ExecContext(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1", 1))
		},
		"QueryRow": func(ctx context.Context, d db) error {
			var n int
			return d.QueryRowContext(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1 RETURNING balance", 1).Scan(&n)
		},
		"Stmt": func(ctx context.Context, d db) error {
			s, err := d.PrepareContext(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1 RETURNING id")
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // the transaction does it, too
			_, err = ids(s.QueryContext(ctx, 1))
			return err
		},
	} {
		for when, run := range map[string]work{"first": inTx("", how), "later": inTx("UPDATE account SET balance = 7 WHERE id = 2", how)} {
			t.Run(name+"/"+when, func(t *testing.T) {
				first, holder := w.Begin()
				w.Check(affected(1)(w.db.ExecContext(first, "UPDATE account SET balance = 0 WHERE id = 1")))
				ctx, x := w.Begin()
				done := make(chan error, 1)
				go func() { done <- run(ctx, w.db) }()
				for w.Branches(x) == 0 {
					select {
					case err := <-done:
						t.Fatalf("it did not wait: %v", err)
					default:
					}
				}
				w.Rollback(holder)
				w.Check(<-done)
				hftest.Equal(t, "balance", w.balance(1), 101)
				w.Rollback(x)
				hftest.Equal(t, "balances", w.balance(1)+w.balance(2), 200)
				w.Settled()
			})
		}
	}
}
