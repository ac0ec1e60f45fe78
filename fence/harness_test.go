package fence_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const patience = 30 * time.Second

var cluster = pgtest.New(pgserver.Options{})

func TestMain(m *testing.M) { os.Exit(cluster.Run(m)) }

// database is one test's own, with the schema and a table that counts effects.
type database struct {
	t   testing.TB
	dsn string
	own *pgx.Conn // plain, for looking
}

func newDatabase(tb testing.TB) *database {
	tb.Helper()
	d := &database{t: tb, dsn: cluster.DSN(tb)}
	d.own = d.connect("")
	if err := undolog.Install(limited(tb), d.own); err != nil {
		tb.Fatal(err)
	}
	d.exec(d.own, "CREATE TABLE effect (call text NOT NULL, by text NOT NULL DEFAULT '')")
	return d
}

// connect opens a connection with an isolation level of its own; "" is the server's.
func (d *database) connect(level string) *pgx.Conn {
	d.t.Helper()
	cfg, err := pgx.ParseConfig(d.dsn)
	if err != nil {
		d.t.Fatal(err)
	}
	if level != "" {
		cfg.RuntimeParams["default_transaction_isolation"] = level
	}
	conn, err := pgx.ConnectConfig(limited(d.t), cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (d *database) pool() *pgxpool.Pool {
	d.t.Helper()
	p, err := pgxpool.New(limited(d.t), d.dsn)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(p.Close)
	return p
}

func (d *database) sql() *sql.DB {
	d.t.Helper()
	db := stdlib.OpenDB(*d.own.Config())
	d.t.Cleanup(func() { _ = db.Close() })
	return db
}

func (d *database) exec(conn *pgx.Conn, sql string, args ...any) {
	d.t.Helper()
	if _, err := conn.Exec(limited(d.t), sql, args...); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// effects counts how often the effect of a call was committed.
func (d *database) effects(c fence.Call) int {
	d.t.Helper()
	var n int
	if err := d.own.QueryRow(limited(d.t), "SELECT count(*) FROM effect WHERE call = $1", c.Key()).Scan(&n); err != nil {
		d.t.Fatal(err)
	}
	return n
}

// wantEffects fails where the effects of a branch are not these.
func (d *database) wantEffects(c fence.Call, forward, commit, rollback int) {
	d.t.Helper()
	got := fmt.Sprint(d.effects(as(c, fence.Forward)), d.effects(as(c, fence.Commit)), d.effects(as(c, fence.Rollback)))
	if want := fmt.Sprint(forward, commit, rollback); got != want {
		d.t.Fatalf("effects forward, commit, rollback: %s, want %s", got, want)
	}
}

// awaitLockWait returns when the backend waits for a lock.
func (d *database) awaitLockWait(pid uint32) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var waiting bool
		if err := d.own.QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", int32(pid)).Scan(&waiting); err != nil {
			d.t.Fatal(err)
		}
		if waiting {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatal("it never waited")
		}
	}
}

// kill ends a backend and returns when it is gone.
func (d *database) kill(pid uint32) {
	d.t.Helper()
	var ended bool
	if err := d.own.QueryRow(limited(d.t), "SELECT pg_terminate_backend($1, 20000)", int32(pid)).Scan(&ended); err != nil || !ended {
		d.t.Fatal(ended, err)
	}
}

// effect makes the effect of a call in tx and returns a result that tells it from
// other runs.
func effect(ctx context.Context, tx pgx.Tx, c fence.Call) ([]byte, error) {
	res := result()
	_, err := tx.Exec(ctx, "INSERT INTO effect (call, by) VALUES ($1, $2)", c.Key(), string(res))
	return res, err
}

func result() []byte { return fmt.Appendf(nil, "result %d", counter.Add(1)) }

// run runs a call that makes its effect.
func run(tb testing.TB, db fence.Beginner, c fence.Call) (fence.Outcome, error) {
	tb.Helper()
	return fence.Run(limited(tb), db, c, func(ctx context.Context, tx pgx.Tx) ([]byte, error) { return effect(ctx, tx, c) })
}

var counter atomic.Uint64

func newXID(begin time.Time) xid.ID {
	p := xid.Parts{Begin: begin, Incarnation: 1, Store: xid.StoreID{7}, Counter: counter.Add(1)}
	_, _ = rand.Read(p.Random[:])
	return xid.New(p)
}

func newCall() fence.Call {
	return fence.Call{XID: newXID(time.Now()), Branch: xid.NewBranchID(), Action: fence.Forward, Attempt: 1}
}

// as is another action of the same branch.
func as(c fence.Call, a fence.Action) fence.Call {
	c.Action = a
	return c
}

// limited gives a context that ends when a test has waited long enough.
func limited(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantError(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got %v, want %v", err, want)
	}
}

func sqlState(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

var levels = []string{"read committed", "repeatable read", "serializable"}
