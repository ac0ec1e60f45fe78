package undolog_test

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

var cluster = pgtest.New(pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "100"}})

var everything = flag.Bool("undolog.all", false, "try every type, setting, statement and ailment, and not every sixth")

// some tells whether the i-th of many cases of a kind is tried.
func some(i int) bool { return *everything || i%6 == 0 }

// database is one test's own, with the schema installed.
type database struct {
	t   testing.TB
	dsn string
	own *pgx.Conn // plain, for looking and for settling
}

func newDatabase(tb testing.TB, ddl string, protect ...string) *database {
	tb.Helper()
	d := &database{t: tb, dsn: cluster.DSN(tb)}
	d.own = d.connect()
	if err := undolog.Install(context.Background(), d.own); err != nil {
		tb.Fatal(err)
	}
	d.exec(d.own, ddl)
	if _, err := undolog.Protect(context.Background(), d.own, protect...); err != nil {
		tb.Fatal(err)
	}
	return d
}

func (d *database) connect() *pgx.Conn {
	d.t.Helper()
	conn, err := pgx.Connect(context.Background(), d.dsn)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (d *database) exec(conn interface {
	undolog.DB
}, sql string, args ...any) {
	d.t.Helper()
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// dump is every row of the user's tables, as text.
func (d *database) dump() string {
	d.t.Helper()
	ctx := context.Background()
	rows, err := d.own.Query(ctx, `SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname NOT IN ('handfast', 'pg_catalog', 'information_schema') ORDER BY 1`)
	if err != nil {
		d.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range tables {
		rows, err := d.own.Query(ctx, "SELECT t::text FROM "+name+" t ORDER BY 1")
		if err != nil {
			d.t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			d.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n%s\n", name, strings.Join(lines, "\n"))
	}
	return b.String()
}

// litter counts what is left of intents.
func (d *database) litter() int {
	d.t.Helper()
	var n int
	if err := d.own.QueryRow(context.Background(), `SELECT (SELECT count(*) FROM handfast.undo) + (SELECT count(*) FROM handfast.gate)
		+ (SELECT count(*) FROM handfast.fence WHERE state = 'L')`).Scan(&n); err != nil {
		d.t.Fatal(err)
	}
	return n
}

var counter atomic.Uint64

func newXID() xid.ID {
	p := xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{7}, Counter: counter.Add(1)}
	_, _ = rand.Read(p.Random[:])
	return xid.New(p)
}

func newBranch() xid.BranchID {
	var b xid.BranchID
	_, _ = rand.Read(b[:])
	return b
}

var witness = undolog.Witness{Store: xid.StoreID{7}, Incarnation: 1, Position: 42}

// local is an armed local transaction.
type local struct {
	d      *database
	conn   *pgx.Conn
	id     xid.ID
	branch xid.BranchID
}

func (d *database) arm(id xid.ID, level string) *local {
	d.t.Helper()
	l := &local{d: d, conn: d.connect(), id: id, branch: newBranch()}
	d.exec(l.conn, "BEGIN ISOLATION LEVEL "+level)
	sql, args := undolog.Arm(id, l.branch, undolog.ArmOptions{LockTimeout: 3 * time.Second})
	d.exec(l.conn, sql, args...)
	return l
}

func (l *local) exec(sql string, args ...any) {
	l.d.t.Helper()
	l.d.exec(l.conn, sql, args...)
}

func (l *local) seal() (wrote bool, err error) {
	sql, args := undolog.Seal(witness)
	err = l.conn.QueryRow(context.Background(), sql, args...).Scan(&wrote)
	return wrote, err
}

// commit seals and commits; it wants something to have been written.
func (l *local) commit() {
	l.d.t.Helper()
	wrote, err := l.seal()
	if err != nil || !wrote {
		l.d.t.Fatalf("seal: wrote %t, %v", wrote, err)
	}
	l.exec("COMMIT")
}

func (l *local) vote() undolog.BranchVote { return undolog.BranchVote{ID: l.branch, Yes: true} }

// work runs statements as one branch and commits it locally.
func (d *database) work(id xid.ID, statements ...string) *local {
	d.t.Helper()
	l := d.arm(id, "READ COMMITTED")
	for _, s := range statements {
		l.exec(s)
	}
	l.commit()
	return l
}

func (d *database) settle(conn *pgx.Conn, id xid.ID, commit bool, branches ...*local) error {
	s := undolog.Settlement{XID: id, Commit: commit}
	for _, l := range branches {
		s.Branches = append(s.Branches, l.vote())
	}
	return undolog.Settle(context.Background(), conn, []undolog.Settlement{s}, undolog.SettleOptions{})[0].Err
}

func (d *database) mustSettle(id xid.ID, commit bool, branches ...*local) {
	d.t.Helper()
	if err := d.settle(d.own, id, commit, branches...); err != nil {
		d.t.Fatal(err)
	}
}
