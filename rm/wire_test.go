package rm_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
)

// TestTheReplyToCommitIsLost cuts the connection around COMMIT. The fence says
// what became of it; the work is never run again.
func TestTheReplyToCommitIsLost(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]bool{"it arrived": true, "it did not arrive": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			proxy, dsn := through(t, w.dsn, 0)
			pool := open(t, w.tc, dsn+"&default_query_exec_mode=exec")
			ctx, x := w.begin()
			tx, err := pool.Begin(ctx)
			check(t, err)
			_, err = tx.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1", 1)
			check(t, err)
			var once atomic.Bool
			proxy.onClient(func(b []byte) (forward, cut bool) {
				if !contains(b, "handfast.seal") || once.Swap(true) {
					return true, false
				}
				return arrives, true
			})
			err = tx.Commit(ctx)
			if !once.Load() {
				t.Fatal("nothing was cut")
			}
			wantError(t, tx.Rollback(ctx), pgx.ErrTxClosed)
			if arrives {
				check(t, err)
				equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
				equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 101)
			} else {
				wantError(t, err, pgx.ErrTxCommitRollback)
				equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_ROLLED_BACK)
				equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 100)
			}
			equal(t, "intents", w.intents(), 0)
		})
	}
}

func TestNobodyKnowsWhetherItCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, dsn := through(t, w.dsn, 0)
	pool := open(t, w.tc, dsn+"&default_query_exec_mode=exec")
	ctx, x := w.begin()
	tx, err := pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = $1", 1)
	check(t, err)
	proxy.onClient(func(b []byte) (forward, cut bool) {
		if contains(b, "handfast.seal") {
			_ = proxy.lis.Close() // the way back is closed, too
			return true, true
		}
		return true, false
	})
	wantError(t, tx.Commit(ctx), rm.ErrOutcomeUnknown)
	// The pool behind no proxy is asked by the coordinator, and knows.
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 101)
}

func TestAConnectionThatBreaksBeforeCommitLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, dsn := through(t, w.dsn, 0)
	pool := open(t, w.tc, dsn)
	for range 2 {
		ctx, x := w.begin()
		tx, err := pool.Begin(ctx)
		check(t, err)
		_, err = tx.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 1")
		check(t, err)
		proxy.cutAll()
		_, err = tx.Exec(ctx, "SELECT 1")
		if err == nil {
			t.Fatal("the connection lives")
		}
		wantError(t, tx.Commit(ctx), pgx.ErrTxCommitRollback)
		equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED) // of nothing
		equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 100)
		pool.Reset()
	}
}

// TestRoundTrips: a transaction under an XID costs no more than with plain pgx.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proxy, dsn := through(t, w.dsn, 0)
	plain, err := pgxpool.New(limited(t), dsn+"&pool_max_conns=1")
	check(t, err)
	t.Cleanup(plain.Close)
	conn, err := plain.Acquire(limited(t)) // one connection, whose caches get warm
	check(t, err)
	conn.Release()

	type beginner interface {
		Begin(context.Context) (pgx.Tx, error)
	}
	count := func(ctx context.Context, b beginner, work func(ctx context.Context, tx pgx.Tx) error) int64 {
		check(t, plain.Ping(limited(t))) // or the pool does it, where the connection was idle for long
		before := proxy.trips.Load()
		check(t, pgx.BeginFunc(ctx, b, func(tx pgx.Tx) error { return work(ctx, tx) }))
		return proxy.trips.Load() - before
	}
	update := "UPDATE account SET balance = balance + 1 WHERE id = $1"
	for name, work := range map[string]func(ctx context.Context, tx pgx.Tx) error{ //nolint:paralleltest // they share the connection
		"Exec": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, update, 1)
			return err
		},
		"text": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE account SET balance = 7 WHERE id = 1")
			return err
		},
		"QueryRow": func(ctx context.Context, tx pgx.Tx) error {
			var n int
			return tx.QueryRow(ctx, update+" RETURNING id", 1).Scan(&n)
		},
		"five": func(ctx context.Context, tx pgx.Tx) error {
			for i := range 5 {
				if _, err := tx.Exec(ctx, update, i+1); err != nil {
					return err
				}
			}
			return nil
		},
		"batch": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(update, 1)
			b.Queue(update, 2)
			return tx.SendBatch(ctx, b).Close()
		},
		"savepoint": func(ctx context.Context, tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, update, 1)
				return err
			})
		},
		"CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"entry"}, []string{"account", "n"},
				pgx.CopyFromRows([][]any{{value[int](w, "SELECT count(*)::int FROM entry"), 1}}))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			// Without settling connections in the same proxy.
			pool, err := rm.New(limited(t), w.tc, plain, rm.WithLogger(quiet()))
			check(t, err)
			defer pool.Close()
			var got, want int64
			for range 3 { // the last one is warm
				want = count(limited(t), plain, work)
				ctx, x := w.begin()
				got = count(ctx, pool, work)
				w.commit(x)
			}
			if got > want {
				t.Errorf("%d round trips, plain pgx makes %d", got, want)
			}
			t.Logf("%d round trips, plain pgx makes %d", got, want)
		})
	}
}

// TestExecModes: however pgx is told to talk to the server.
func TestExecModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} { //nolint:paralleltest // they share the rows
		t.Run(mode, func(t *testing.T) {
			pool := open(t, w.tc, w.dsn+"&default_query_exec_mode="+mode)
			ctx, x := w.begin()
			_, err := pool.Exec(ctx, "UPDATE account SET balance = balance + $1 WHERE id = $2", 1, 1)
			check(t, err)
			_, err = pool.Exec(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 2")
			check(t, err)
			var n int
			check(t, pool.QueryRow(ctx, "UPDATE account SET balance = 7 WHERE id = $1 RETURNING balance", 3).Scan(&n))
			check(t, pool.QueryRow(ctx, "SELECT balance FROM account WHERE id = $1", 3).Scan(&n))
			equal(t, "read", n, 7)
			b := &pgx.Batch{}
			b.Queue("DELETE FROM account WHERE id = $1", 4)
			check(t, pool.SendBatch(ctx, b).Close())
			var pg *pgconn.PgError
			if _, err = pool.Exec(ctx, "SELECT $1 / 0", 1); !errors.As(err, &pg) || pg.Code != "22012" {
				t.Errorf("got %v", err)
			}
			if n := len(w.branches(x)); n < 4 {
				t.Errorf("%d branches", n)
			}
			w.rollback(x)
			equal(t, "contents", w.contents(), before)
		})
	}
}

func TestStatementsOnAnAcquiredConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	ctx, x := w.begin()
	check(t, w.pool.AcquireFunc(ctx, func(c *rm.Conn) error {
		check(t, c.Ping(ctx))
		_, err := c.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
		check(t, err)
		tx, err := c.Begin(ctx)
		check(t, err)
		// As with pgx: on the connection means in its transaction.
		_, err = c.Exec(limited(t), "UPDATE account SET balance = 0 WHERE id = 2")
		check(t, err)
		var n int
		check(t, c.QueryRow(ctx, "SELECT balance FROM account WHERE id = 2").Scan(&n))
		equal(t, "balance", n, 0)
		if _, err := c.Begin(ctx); err == nil {
			t.Error("a second transaction on one connection")
		}
		check(t, tx.Rollback(ctx))
		check(t, c.QueryRow(ctx, "SELECT balance FROM account WHERE id = 2").Scan(&n))
		equal(t, "balance", n, 100)
		return nil
	}))
	w.rollback(x)
	equal(t, "contents", w.contents(), before)
	equal(t, "connections in use", w.pool.Stat().AcquiredConns(), int32(0))
}

func TestConnIsInTheArmedTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	ctx, x := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Conn().Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	check(t, tx.Commit(ctx))
	if w.contents() == before {
		t.Fatal("nothing was done")
	}
	tx, err = w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Prepare(ctx, "mine", "UPDATE account SET balance = 1 WHERE id = $1")
	check(t, err)
	_, err = tx.Exec(ctx, "mine", 2)
	check(t, err)
	large := tx.LargeObjects()
	if _, err := large.Create(ctx, 0); err == nil {
		t.Error("a large object was made")
	}
	check(t, tx.Commit(ctx))
	w.rollback(x)
	equal(t, "contents", w.contents(), before)
}

func TestDeferredTriggersThatWriteAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exec(t, w.look, `CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		  INSERT INTO entry VALUES (0, 0, 'deferred'); RETURN NULL; END $$`)
	before := w.contents()
	ctx, x := w.begin()
	check(t, w.pool.AcquireFunc(ctx, func(c *rm.Conn) error {
		// Nothing but the trigger writes to a protected table, and that at COMMIT.
		_, err := c.Conn().Exec(ctx, `CREATE TEMP TABLE own (id int); CREATE CONSTRAINT TRIGGER late AFTER INSERT ON own
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log()`)
		check(t, err)
		_, err = c.Exec(ctx, "INSERT INTO own VALUES (1)")
		return err
	}))
	equal(t, "entries", value[int](w, "SELECT count(*)::int FROM entry"), 1)
	w.rollback(x)
	equal(t, "contents", w.contents(), before)
	equal(t, "intents", w.intents(), 0)
}
