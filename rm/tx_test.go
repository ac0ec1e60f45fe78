package rm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/xid"
)

func TestAConflictInATransactionNamesTheHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(20*time.Millisecond))
	first, holder := w.begin()
	_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)

	for name, how := range map[string]func(ctx context.Context, tx pgx.Tx) error{ //nolint:paralleltest // they share the row
		"Exec": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE account SET balance = 1 WHERE id = $1", 1)
			return err
		},
		"text": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE account SET balance = 1 WHERE id = 1")
			return err
		},
		"QueryRow": func(ctx context.Context, tx pgx.Tx) error {
			var n int
			return tx.QueryRow(ctx, "DELETE FROM account WHERE id = 1 RETURNING id").Scan(&n)
		},
		"Query": func(ctx context.Context, tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, "DELETE FROM account WHERE id = 1 RETURNING id")
			rows.Close()
			return rows.Err()
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue("UPDATE account SET balance = 1 WHERE id = 1")
			return tx.SendBatch(ctx, b).Close()
		},
		"CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT 1"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "UPDATE account SET balance = 1 WHERE id = 1")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, x := w.begin()
			err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return how(ctx, tx) })
			var c *rm.LockConflictError
			if !errors.As(err, &c) {
				t.Fatalf("got %v", err)
			}
			equal(t, "holder", c.Holder, holder)
			if !strings.Contains(c.Table, "account") || !strings.Contains(c.Key, "1") {
				t.Errorf("table %q, key %q", c.Table, c.Key)
			}
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "HF001" {
				t.Errorf("no Postgres error in %v", err)
			}
			st, _ := status.FromError(fmt.Errorf("handler: %w", err))
			equal(t, "code", st.Code(), codes.Aborted)
			e := client.FromStatus(st)
			equal(t, "reason", e.Reason, pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT)
			equal(t, "holder in the status", e.Metadata["holder"], holder.String())
			// It did nothing, so it does not stand in the way of a commit.
			equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
		})
	}
	w.rollback(holder)
}

func TestASingleStatementWaitsForTheHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, how := range map[string]func(ctx context.Context) error{ //nolint:paralleltest // they share the row
		"Exec": func(ctx context.Context) error {
			_, err := w.pool.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 1")
			return err
		},
		"QueryRow": func(ctx context.Context) error {
			var n int
			return w.pool.QueryRow(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 1 RETURNING balance").Scan(&n)
		},
		"Query": func(ctx context.Context) error {
			rows, err := w.pool.Query(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 1 RETURNING balance")
			if err != nil {
				return err
			}
			_, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := value[int](w, "SELECT balance FROM account WHERE id = 1")
			first, holder := w.begin()
			_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
			check(t, err)
			second, x := w.begin()
			done := make(chan error, 1)
			go func() { done <- how(second) }()
			// Its branch is registered, so it has met the row or is about to.
			for len(w.branches(x)) == 0 {
				select {
				case err := <-done:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
			}
			w.rollback(holder)
			check(t, <-done)
			equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
			equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), before+1)
		})
	}
}

func TestWaitingEndsWithTheLockTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(50*time.Millisecond))
	first, holder := w.begin()
	_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	ctx, _ := w.begin()
	_, err = w.pool.Exec(ctx, "UPDATE account SET balance = 1 WHERE id = 1")
	var c *rm.LockConflictError
	if !errors.As(err, &c) || c.Holder != holder {
		t.Fatalf("got %v", err)
	}
	w.rollback(holder)
}

func TestALateBranchIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	for _, commit := range []bool{false, true} {
		ctx, x := w.begin()
		if commit {
			w.commit(x)
		} else {
			w.rollback(x)
		}
		_, err := w.pool.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
		wantError(t, err, rm.ErrDecided)
		var r *rm.RegisterError
		if !errors.As(err, &r) || r.XID != x {
			t.Fatalf("got %v", err)
		}
	}
	equal(t, "contents", w.contents(), before)
	equal(t, "intents", w.intents(), 0)
}

func TestATransactionOfAnotherStoreIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	x := xid.New(xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{1, 2}, Counter: 1})
	_, err := w.pool.Exec(xid.NewContext(limited(t), x), "UPDATE account SET balance = 0 WHERE id = 1")
	equal(t, "reason", client.ReasonOf(err), pb.ErrorReason_ERROR_REASON_FOREIGN_STORE)
	equal(t, "contents", w.contents(), before)
	equal(t, "intents", w.intents(), 0)
}

func TestADecisionBetweenStatementsRollsTheBranchBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	ctx, x := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	_, err = w.tc.Rollback(limited(t), &pb.RollbackRequest{Xid: x.String()})
	check(t, err)
	// Registered and fenced before the decision, it may commit, and is undone.
	if err := tx.Commit(ctx); err != nil {
		t.Logf("refused: %v", err)
	}
	w.rollback(x)
	equal(t, "contents", w.contents(), before)
	equal(t, "intents", w.intents(), 0)
}

func TestTransactionControlByTextIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.begin()
	for _, sql := range []string{
		"COMMIT", " begin", "/* x */ rollback", "--\nEND", "START TRANSACTION", "UPDATE account SET balance = 0; commit",
		"SELECT ';'; ABORT", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "(select 1);commit", "rollback work",
	} {
		_, err := w.pool.Exec(ctx, sql)
		wantError(t, err, rm.ErrTransactionControl)
		_, err = w.pool.Query(ctx, sql)
		wantError(t, err, rm.ErrTransactionControl)
		b := &pgx.Batch{}
		b.Queue("SELECT 1")
		b.Queue(sql)
		wantError(t, w.pool.SendBatch(ctx, b).Close(), rm.ErrTransactionControl)
		tx, err := w.pool.Begin(ctx)
		check(t, err)
		_, err = tx.Exec(ctx, "SELECT 1")
		check(t, err)
		_, err = tx.Exec(ctx, sql)
		wantError(t, err, rm.ErrTransactionControl)
		check(t, tx.Rollback(ctx))
	}
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	for _, sql := range []string{
		"SAVEPOINT a", "UPDATE account SET owner = 'commit; begin' WHERE id = 1", "ROLLBACK TO SAVEPOINT a", "ROLLBACK TO a",
		"SELECT $a$; commit; $a$", `SELECT 'x' AS "; commit"`, "SELECT E'\\'; commit'", "SELECT 1; -- ; commit", "RELEASE a",
		"UPDATE account SET owner = 'kept' WHERE id = 1",
	} {
		_, err = tx.Exec(ctx, sql)
		check(t, err)
	}
	check(t, tx.Commit(ctx))
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "owner", value[string](w, "SELECT owner FROM account WHERE id = 1"), "kept")
}

func TestATransactionEndedThroughItsConnectionIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	for _, end := range []string{"commit", "rollback"} {
		ctx, x := w.begin()
		tx, err := w.pool.Begin(ctx)
		check(t, err)
		_, err = tx.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
		check(t, err)
		_, err = tx.Conn().Exec(ctx, end)
		check(t, err)
		wantError(t, tx.Commit(ctx), rm.ErrTransactionLost)
		wantError(t, tx.Commit(ctx), pgx.ErrTxClosed)
		w.rollback(x)
	}
	equal(t, "contents", w.contents(), before)
	equal(t, "intents", w.intents(), 0)
}

func TestReadsMakeNoBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.begin()
	var n int
	check(t, w.pool.QueryRow(ctx, "SELECT balance FROM account WHERE id = $1", 1).Scan(&n))
	equal(t, "balance", n, 100)
	rows, err := w.pool.Query(ctx, "SELECT id FROM account ORDER BY id")
	check(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	check(t, err)
	equal(t, "rows", len(ids), 100)
	rows, err = w.pool.Query(ctx, "SELECT id FROM account ORDER BY id")
	check(t, err)
	rows.Next()
	rows.Close()
	check(t, rows.Err())
	wantError(t, w.pool.QueryRow(ctx, "SELECT id FROM account WHERE id = 0").Scan(&n), pgx.ErrNoRows)
	var pg *pgconn.PgError
	if err := w.pool.QueryRow(ctx, "SELECT 1 / $1", 0).Scan(&n); !errors.As(err, &pg) || pg.Code != "22012" {
		t.Fatalf("got %v", err)
	}
	check(t, pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT 1").Scan(&n)
	}))
	equal(t, "branches", len(w.branches(x)), 0)
	// In an explicit transaction it is registered, and withdrawn.
	check(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return tx.QueryRow(ctx, "SELECT 1").Scan(&n) }))
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "connections in use", w.pool.Stat().AcquiredConns(), int32(0))
}

func TestAFailedTransactionIsLikeThatOfPgx(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	for name, sql := range map[string]string{
		"syntax": "UPDAT account", "division": "SELECT 1/0", "table": "UPDATE nowhere SET x = 1",
	} {
		for _, args := range [][]any{nil, {pgx.QueryExecModeCacheDescribe}} {
			for _, plain := range []bool{true, false} {
				ctx, x := w.begin()
				if plain {
					ctx = limited(t)
				}
				tx, err := w.pool.Begin(ctx)
				check(t, err)
				_, first := tx.Exec(ctx, sql, args...)
				_, second := tx.Exec(ctx, "UPDATE account SET balance = 0")
				end := tx.Commit(ctx)
				var pg *pgconn.PgError
				if first == nil || !errors.As(second, &pg) || pg.Code != "25P02" || !errors.Is(end, pgx.ErrTxCommitRollback) {
					t.Errorf("%s, plain %v: first %v, second %v, commit %v", name, plain, first, second, end)
				}
				wantError(t, tx.Rollback(ctx), pgx.ErrTxClosed)
				equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
			}
		}
	}
	equal(t, "contents", w.contents(), before)
	equal(t, "connections in use", w.pool.Stat().AcquiredConns(), int32(0))
}

func TestAnEmptyTransactionSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	check(t, tx.Commit(ctx))
	wantError(t, tx.Rollback(ctx), pgx.ErrTxClosed)
	tx, err = w.pool.Begin(ctx)
	check(t, err)
	check(t, tx.Rollback(ctx))
	wantError(t, tx.Rollback(ctx), pgx.ErrTxClosed)
	equal(t, "branches", len(w.branches(x)), 0)
}

func TestStatementsOfAnotherGlobalTransactionAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.begin()
	other, _ := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(other, "UPDATE account SET balance = 0")
	wantError(t, err, rm.ErrOtherTransaction)
	_, err = tx.Exec(limited(t), "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	check(t, tx.Commit(ctx))
	w.rollback(x)
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 100)
}
