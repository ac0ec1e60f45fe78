package rmsql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/rm/rmsql"
	"github.com/handfast/handfast/xid"
)

func TestAConflictInATransactionIsTyped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(50*time.Millisecond))
	first, holder := w.Begin()
	_, err := w.db.ExecContext(first, move, 1, 1)
	w.Check(err)
	for name, how := range map[string]work{ //nolint:paralleltest // they share the row
		"Exec": func(ctx context.Context, d db) error {
			_, err := d.ExecContext(ctx, move, 1, 1)
			return err
		},
		"Query": func(ctx context.Context, d db) error {
			_, err := ids(d.QueryContext(ctx, "DELETE FROM account WHERE id = 1 RETURNING id"))
			return err
		},
		"QueryRow": func(ctx context.Context, d db) error {
			var id int
			return d.QueryRowContext(ctx, "DELETE FROM account WHERE id = 1 RETURNING id").Scan(&id)
		},
		"Query that meets it late": func(ctx context.Context, d db) error {
			_, err := ids(d.QueryContext(ctx, "SELECT CASE WHEN id = 1 THEN pay(id) ELSE id END FROM account ORDER BY id = 1"))
			return err
		},
	} {
		for when, run := range map[string]work{"first": inTx("", how), "later": inTx(`UPDATE account SET balance = 0 WHERE id = 9`, how)} {
			t.Run(name+"/"+when, func(t *testing.T) {
				ctx, x := w.Begin()
				err := run(ctx, w.db)
				w.Conflict(err, holder)
				var pg *pgconn.PgError
				if !errors.As(err, &pg) || pg.Code != "HF001" {
					t.Errorf("no Postgres error in %v", err)
				}
				// It did nothing, so it does not stand in the way of a commit.
				w.Commit(x)
				hftest.Equal(t, "balance", w.balance(9), 100)
			})
		}
	}
	w.Rollback(holder)
	hftest.Equal(t, "balance", w.balance(1), 100)
}

func TestASingleStatementWaitsForTheHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	update := "UPDATE account SET balance = balance + 1 WHERE id = $1"
	for name, how := range map[string]func(ctx context.Context) error{ //nolint:paralleltest // they share the row
		"Exec": func(ctx context.Context) error {
			return affected(1)(w.db.ExecContext(ctx, update, 1))
		},
		"QueryRow": func(ctx context.Context) error {
			var n int
			return w.db.QueryRowContext(ctx, update+" RETURNING balance", 1).Scan(&n)
		},
		"Query of what seems to read": func(ctx context.Context) error {
			_, err := ids(w.db.QueryContext(ctx, "SELECT pay($1)", 1))
			return err
		},
		"Stmt": func(ctx context.Context) error {
			s, err := w.db.PrepareContext(ctx, update)
			if err != nil {
				return err
			}
			return errors.Join(affected(1)(s.ExecContext(ctx, 1)), s.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.balance(1)
			first, holder := w.Begin()
			w.Check(affected(1)(w.db.ExecContext(first, "UPDATE account SET balance = 0 WHERE id = 1")))
			second, x := w.Begin()
			done := make(chan error, 1)
			go func() { done <- how(second) }()
			// Its branch is registered, so it has met the row or is about to.
			for w.Branches(x) == 0 {
				select {
				case err := <-done:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
			}
			w.Rollback(holder)
			w.Check(<-done)
			w.Commit(x)
			if w.balance(1) == before {
				t.Error("nothing was done")
			}
		})
	}
}

func TestWaitingEndsWithTheLockTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(50*time.Millisecond))
	first, holder := w.Begin()
	w.Check(affected(1)(w.db.ExecContext(first, move, 1, 1)))
	ctx, _ := w.Begin()
	_, err := w.db.ExecContext(ctx, move, 1, 1)
	w.Conflict(err, holder)
	var n int
	w.Conflict(w.db.QueryRowContext(ctx, move+" RETURNING id", 1, 1).Scan(&n), holder)
	w.Rollback(holder)
}

func TestReadsAreNoBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.Begin()
	for range 2 {
		got, err := ids(w.db.QueryContext(ctx, "SELECT id FROM account WHERE id < $1", 4))
		w.Check(err)
		hftest.Equal(t, "rows", len(got), 3)
	}
	var n int
	wantError(t, w.db.QueryRowContext(ctx, "SELECT id FROM account WHERE id = 0").Scan(&n), sql.ErrNoRows)
	w.Check(w.db.PingContext(ctx))

	tx, err := w.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	w.Check(err)
	_, err = ids(tx.QueryContext(ctx, "SELECT id FROM account"))
	w.Check(err)
	_, err = tx.ExecContext(ctx, move, 1, 1)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "25006" {
		t.Errorf("got %v", err)
	}
	w.Check(tx.Rollback())

	s, err := w.db.PrepareContext(ctx, "SELECT balance FROM account WHERE id = $1")
	w.Check(err)
	w.Check(s.QueryRowContext(ctx, 1).Scan(&n))
	w.Check(s.Close())
	hftest.Equal(t, "branches", w.Branches(x), 0)
	w.Commit(x)
	// No connection was left in a transaction.
	hftest.Equal(t, "connections in use", w.Pool.Stat().AcquiredConns(), int32(0))
}

func TestAPreparedStatementWorksOnBothSides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	outside, err := w.db.PrepareContext(w.Limited(), move)
	w.Check(err)
	ctx, x := w.Begin()
	tx, err := w.db.BeginTx(ctx, nil)
	w.Check(err)
	inside := tx.StmtContext(ctx, outside)
	w.Check(affected(1)(inside.ExecContext(ctx, 10, 1)))
	w.Check(affected(1)(tx.Stmt(outside).Exec(10, 2))) //nolint:sqlclosecheck,nolintlint // the transaction closes it
	w.Check(tx.Commit())
	w.Check(affected(1)(outside.ExecContext(ctx, 10, 3)))                  // a branch of its own
	w.Check(affected(1)(outside.ExecContext(context.Background(), 10, 4))) // no branch
	hftest.Equal(t, "branches", w.Branches(x), 2)
	w.Check(outside.Close())
	w.Rollback(x)
	for id, want := range map[int]int{1: 100, 2: 100, 3: 100, 4: 90} {
		hftest.Equal(t, "balance", w.balance(id), want)
	}
	w.Settled()
}

func TestAStatementThatCanNotBePreparedFailsTheTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.Begin()
	tx, err := w.db.BeginTx(ctx, nil)
	w.Check(err)
	w.Check(affected(1)(tx.ExecContext(ctx, move, 1, 1)))
	_, err = tx.PrepareContext(ctx, "SELECT nothing")
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42703" {
		t.Fatalf("got %v", err)
	}
	wantError(t, tx.Commit(), pgx.ErrTxCommitRollback)
	w.Commit(x)
	hftest.Equal(t, "balance", w.balance(1), 100)
}

func TestAnOrdinaryTransactionRefusesAnXID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.Begin()
	tx, err := w.db.Begin()
	w.Check(err)
	_, err = tx.ExecContext(ctx, move, 1, 1)
	wantError(t, err, rm.ErrOtherTransaction)
	_, err = tx.QueryContext(ctx, "SELECT 1") //nolint:rowserrcheck,sqlclosecheck,nolintlint // there are none
	wantError(t, err, rm.ErrOtherTransaction)
	w.Check(affected(1)(tx.Exec(move, 1, 2))) // it was not spoiled
	w.Check(tx.Commit())

	tx, err = w.db.BeginTx(ctx, nil)
	w.Check(err)
	other, _ := w.Begin()
	_, err = tx.ExecContext(other, move, 1, 1)
	wantError(t, err, rm.ErrOtherTransaction)
	w.Check(tx.Rollback())
	w.Rollback(x)
	hftest.Equal(t, "balance", w.balance(1), 100)
	hftest.Equal(t, "balance", w.balance(2), 99)
}

func TestIsolationLevels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for level, want := range map[sql.IsolationLevel]string{
		sql.LevelDefault: "read committed", sql.LevelReadUncommitted: "read uncommitted", sql.LevelReadCommitted: "read committed",
		sql.LevelRepeatableRead: "repeatable read", sql.LevelSnapshot: "repeatable read", sql.LevelSerializable: "serializable",
		sql.LevelLinearizable: "", sql.LevelWriteCommitted: "", 99: "",
	} {
		ctx, x := w.Begin()
		tx, err := w.db.BeginTx(ctx, &sql.TxOptions{Isolation: level})
		if want == "" {
			if err == nil {
				t.Errorf("%s is supported", level)
			}
			continue
		}
		w.Check(err)
		var got string
		w.Check(tx.QueryRowContext(ctx, "SHOW transaction_isolation").Scan(&got))
		hftest.Equal(t, level.String(), got, want)
		w.Check(tx.Commit())
		w.Rollback(x)
	}
}

func TestALateBranchIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	var n int
	for name, work := range map[string]work{ //nolint:paralleltest // one database, looked at as a whole
		"Exec": func(ctx context.Context, d db) error {
			_, err := d.ExecContext(ctx, move, 1, 1)
			return err
		},
		"QueryRow": func(ctx context.Context, d db) error {
			return d.QueryRowContext(ctx, "DELETE FROM account WHERE id = 3 RETURNING id").Scan(&n)
		},
		"Query": func(ctx context.Context, d db) error {
			_, err := ids(d.QueryContext(ctx, "DELETE FROM account WHERE id < 50 RETURNING id"))
			return err
		},
		"Query closed early": func(ctx context.Context, d db) error {
			rows, err := d.QueryContext(ctx, "DELETE FROM account WHERE id < 50 RETURNING id")
			if err != nil {
				return err
			}
			return errors.Join(rows.Close(), rows.Err())
		},
		"Tx": inTx("DELETE FROM account", func(context.Context, db) error { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, x := w.Begin()
			w.Rollback(x)
			wantError(t, work(ctx, w.db), rm.ErrDecided)
			hftest.Equal(t, "contents", w.contents(), before)
			w.Settled()
		})
	}
}

func TestACancelledContextLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	ctx, x := w.Begin()
	ctx, cancel := context.WithCancel(ctx)
	tx, err := w.db.BeginTx(ctx, nil)
	w.Check(err)
	w.Check(affected(1)(tx.ExecContext(ctx, move, 1, 1)))
	cancel() // database/sql rolls back
	if tx.Commit() == nil {
		t.Fatal("it committed")
	}
	_, err = w.db.ExecContext(ctx, move, 1, 1)
	wantError(t, err, context.Canceled)
	_, err = w.db.QueryContext(ctx, move+" RETURNING id", 1, 1) //nolint:rowserrcheck,sqlclosecheck,nolintlint // there are none
	wantError(t, err, context.Canceled)

	// In the middle of a statement.
	for _, sqlText := range []string{"SELECT pay(1), pg_sleep(100)", "UPDATE account SET balance = 0 WHERE pg_sleep(100) IS NULL"} {
		mid, stop := context.WithCancel(xid.NewContext(w.Limited(), x))
		done := make(chan error, 1)
		go func() {
			_, err := w.db.ExecContext(mid, sqlText)
			done <- err
		}()
		for hftest.Value[int](w.World, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()") == 0 {
			w.Check(w.Limited().Err())
		}
		stop()
		wantError(t, <-done, context.Canceled)
	}
	w.Commit(x)
	hftest.Equal(t, "contents", w.contents(), before)
	w.Settled()
}

// TestACancelledTransactionKeepsItsConnection: the ROLLBACK does not share the
// fate of the context.
func TestACancelledTransactionKeepsItsConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	db := openDB(t, w.Open(w.DSN+"&pool_max_conns=1"))
	backend := func() (pid int) {
		w.Check(db.QueryRowContext(w.Limited(), "SELECT pg_backend_pid()").Scan(&pid))
		return pid
	}
	before := backend()
	ctx, x := w.Begin()
	ctx, cancel := context.WithCancel(ctx)
	tx, err := db.BeginTx(ctx, nil)
	w.Check(err)
	w.Check(affected(1)(tx.ExecContext(ctx, move, 1, 1)))
	cancel() // database/sql rolls back
	hftest.Equal(t, "backend", backend(), before)
	w.Commit(x)
	hftest.Equal(t, "balance", w.balance(1), 100)
}

func TestNestedBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn, err := w.db.Conn(w.Limited())
	w.Check(err)
	ctx, x := w.Begin()
	tx, err := conn.BeginTx(ctx, nil)
	w.Check(err)
	if _, err := conn.BeginTx(ctx, nil); err == nil {
		t.Error("two transactions on one connection")
	}
	w.Check(affected(1)(conn.ExecContext(context.Background(), move, 1, 1))) // as with pgx: inside of it
	w.Check(tx.Rollback())
	w.Check(conn.Close())
	w.Commit(x)
	hftest.Equal(t, "balance", w.balance(1), 100)
}

func TestTransactionControlByTextIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.Begin()
	for _, text := range []string{"COMMIT", "BEGIN", "ROLLBACK", "SELECT 1; COMMIT", "PREPARE TRANSACTION 'a'"} {
		_, err := w.db.ExecContext(ctx, text)
		wantError(t, err, rm.ErrTransactionControl)
		_, err = ids(w.db.QueryContext(ctx, text))
		wantError(t, err, rm.ErrTransactionControl)
	}
	w.Rollback(x)
}

func TestRawConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.Begin()
	conn, err := w.db.Conn(ctx)
	w.Check(err)
	tx, err := conn.BeginTx(ctx, nil)
	w.Check(err)
	w.Check(conn.Raw(func(d any) error {
		c := d.(interface{ Conn() *pgx.Conn }).Conn()
		_, err := c.CopyFrom(ctx, pgx.Identifier{"entry"}, []string{"account", "n"}, pgx.CopyFromRows([][]any{{1, 1}}))
		return err
	}))
	w.Check(tx.Commit())
	w.Check(conn.Raw(func(d any) error { return d.(*rmsql.Conn).Conn().Ping(ctx) }))
	w.Check(conn.Close())
	hftest.Equal(t, "entries", hftest.Value[int](w.World, "SELECT count(*) FROM entry"), 1)
	w.Rollback(x)
	hftest.Equal(t, "entries", hftest.Value[int](w.World, "SELECT count(*) FROM entry"), 0)
}

func TestABrokenConnectionNeverRunsAStatementTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, x := w.Begin()
	kill := func(id int) string {
		return "SELECT pay(" + string(rune('0'+id)) + "), pg_terminate_backend(pg_backend_pid())"
	}
	var balance, killed any
	for name, err := range map[string]error{
		"Exec":     second(w.db.ExecContext(ctx, kill(1))),
		"QueryRow": w.db.QueryRowContext(ctx, kill(2)).Scan(&balance, &killed),
	} {
		if err == nil || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	tx, err := w.db.BeginTx(ctx, nil)
	w.Check(err)
	w.Check(affected(1)(tx.ExecContext(ctx, move, 1, 3)))
	_, err = tx.ExecContext(ctx, kill(3))
	if err == nil || errors.Is(err, driver.ErrBadConn) {
		t.Errorf("got %v", err)
	}
	// The connection is known to be closed; still it is no other one's turn.
	for _, err := range []error{
		second(tx.ExecContext(ctx, move, 1, 3)), second(tx.QueryContext(ctx, "SELECT 1")), second(tx.PrepareContext(ctx, "SELECT 1")),
	} {
		if err == nil || errors.Is(err, driver.ErrBadConn) {
			t.Errorf("got %v", err)
		}
	}
	wantError(t, tx.Commit(), pgx.ErrTxCommitRollback)
	w.Commit(x)
	hftest.Equal(t, "balance", w.balance(1)+w.balance(2)+w.balance(3), 300)
	w.Settled()
}

func second[T any](_ T, err error) error { return err }

func TestAPinnedConnectionThatIsBrokenIsReplacedByNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn, err := w.db.Conn(w.Limited())
	w.Check(err)
	_, _ = conn.ExecContext(w.Limited(), "SELECT pg_terminate_backend(pg_backend_pid())")
	ctx, x := w.Begin()
	wantError(t, second(conn.ExecContext(ctx, move, 1, 1)), driver.ErrBadConn) // nothing was sent
	wantError(t, conn.PingContext(ctx), sql.ErrConnDone)
	w.Check(affected(1)(w.db.ExecContext(ctx, move, 1, 1))) // with another one
	w.Commit(x)
	hftest.Equal(t, "balance", w.balance(1), 99)
}

func TestATransactionLeftOpenBySQLTextGoesToNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetMaxIdleConns(1)
	conn, err := w.db.Conn(w.Limited())
	w.Check(err)
	_, err = conn.ExecContext(w.Limited(), "BEGIN")
	w.Check(err)
	ctx, x := w.Begin()
	if _, err := conn.ExecContext(ctx, move, 1, 1); err == nil {
		t.Error("a branch in a transaction that is not armed")
	}
	w.Check(conn.Close())
	w.Check(affected(1)(w.db.ExecContext(ctx, move, 1, 1)))
	w.Check(affected(1)(w.db.ExecContext(ctx, move, 1, 1))) // with the connection that was kept
	w.Commit(x)
	hftest.Equal(t, "balance", w.balance(1), 98)
}

func TestOpening(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := openDB(t, nil).Ping(); err == nil {
		t.Error("a DB without a pool")
	}
	if _, err := w.db.Driver().Open(w.DSN); err == nil {
		t.Error("a connection that is not part of anything")
	}
	w.Check(w.db.Close())
	w.Check(w.Pool.Ping(w.Limited()))
}
