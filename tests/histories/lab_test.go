package histories

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tests/histories/adya"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/undolog"
)

// The table keeps beside each list its last value, and the one that was replaced by it:
// a client that computes what it writes may have read something else.
const itemDDL = `CREATE TABLE item (k text PRIMARY KEY, v int[] NOT NULL DEFAULT '{}', over int NOT NULL DEFAULT 0, last int NOT NULL DEFAULT 0)`

// form is how rows are read.
type form string

const (
	plain         form = `SELECT k, v FROM item WHERE k = ANY ($1) ORDER BY k`
	committedView form = `SELECT k, v FROM item_committed WHERE k = ANY ($1) ORDER BY k`
	settled       form = `SELECT k, v FROM item t WHERE k = ANY ($1) AND handfast.settled(t) ORDER BY k`
	locked        form = `SELECT k, v FROM item t WHERE k = ANY ($1) AND handfast.settled(t) ORDER BY k FOR UPDATE`
	// kept is a read that keeps its rows, of transactions that need not ask whether these are decided.
	kept form = `SELECT k, v FROM item WHERE k = ANY ($1) ORDER BY k FOR UPDATE`
)

const (
	appendSQL = `UPDATE item SET v = v || $1::int, over = last, last = $1 WHERE k = $2 RETURNING v, over`
	writeSQL  = `UPDATE item SET v = $3, over = last, last = $1 WHERE k = $2 RETURNING v, over`
)

// base is one of the two databases.
type base struct {
	name  string
	pool  *rm.Pool      // what services use
	plain *pgxpool.Pool // what everybody else uses
}

// lab is a coordinator, and two databases that take part.
type lab struct {
	t      *testing.T
	c      *client.Client
	m      *tm.Manager
	bases  []*base
	xa     rm.Mode // of local transactions that are to be prepared; a planted fault has another one here
	values atomic.Int64
	rows   atomic.Int64
}

// newLab makes one, whose tables let plain sessions write over what is undecided where
// the guard is off.
func newLab(t *testing.T, guard bool) *lab {
	t.Helper()
	c := hftest.Dial(t, hftest.Coordinator(t, func(c *tc.Config) { c.Engine = settings().Engine }))
	l := &lab{t: t, c: c, m: tm.New(c), xa: rm.XA}
	for _, name := range []string{"a", "b"} {
		cfg, err := pgxpool.ParseConfig(cluster.DSN(t))
		l.check(err)
		cfg.MaxConns = 30
		p, err := pgxpool.NewWithConfig(t.Context(), cfg)
		l.check(err)
		t.Cleanup(p.Close)
		l.check(p.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error {
			if err := undolog.Install(t.Context(), conn.Conn()); err != nil {
				return err
			}
			if _, err := conn.Exec(t.Context(), itemDDL); err != nil {
				return err
			}
			_, err := undolog.ProtectTables(t.Context(), conn.Conn(), []string{"item"}, undolog.WithCommittedView(), undolog.WithGuard(guard))
			return err
		}))
		b := &base{name: name, plain: p}
		l.bases = append(l.bases, b)
		l.check(l.serve(b))
		t.Cleanup(func() {
			b.pool.Close()
			l.forget(b)
		})
	}
	return l
}

// forget ends what a history that was given up has left prepared: its database could not
// be dropped.
func (l *lab) forget(b *base) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	left, err := undolog.PreparedBranches(ctx, b.plain, 0)
	for _, p := range left {
		_, e := b.plain.Exec(ctx, "ROLLBACK PREPARED '"+p.GID+"'")
		err = errors.Join(err, e)
	}
	if err != nil {
		l.t.Error(err)
	}
}

// serve begins to take part with a database, again where its pool was closed.
func (l *lab) serve(b *base) (err error) {
	b.pool, err = rm.New(l.t.Context(), l.c, b.plain, rm.WithLogger(quiet()), rm.WithName(b.name), rm.WithLockTimeout(200*time.Millisecond))
	return err
}

// as gives the context of a local transaction that is to be prepared, or not.
func (l *lab) as(ctx context.Context, hidden bool) context.Context {
	if !hidden {
		return ctx
	}
	return rm.ContextWithMode(ctx, l.xa)
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) exec(db int, sql string, args ...any) {
	l.t.Helper()
	_, err := l.bases[db].plain.Exec(l.t.Context(), sql, args...)
	l.check(err)
}

// record is one history while it is made. Its rows are its own.
type record struct {
	l    *lab
	rows []string // in each database

	mu sync.Mutex
	h  adya.History
	n  int
}

// record begins a history with as many empty rows in each database.
func (l *lab) record(ctx context.Context, rows int) (*record, error) {
	r := &record{l: l, h: adya.History{Final: map[adya.Key][]int{}}}
	n := l.rows.Add(1)
	for i := range rows {
		r.rows = append(r.rows, fmt.Sprintf("%c%d", 'p'+i, n))
	}
	for _, b := range l.bases {
		if _, err := b.plain.Exec(ctx, `INSERT INTO item (k) SELECT unnest($1::text[])`, r.rows); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// trial is a transaction of a history while it runs, by one goroutine.
type trial struct {
	r     *record
	tx    adya.Txn
	group int
	local int // which local transaction it is in
	// hidden tells that this one is to be prepared: nobody sees what it wrote, and it
	// keeps its row locks.
	hidden bool
	holds  map[adya.Key]hold
}

// hold is why a row is not free for other local transactions of the same global one.
type hold struct {
	local  int
	hidden bool
}

// blocked tells whether the transaction would meet itself at a row: what a prepared
// branch has locked, and what an AT branch has changed where this one is to be prepared.
func (t *trial) blocked(db int, row string) bool {
	h, ok := t.holds[adya.Key{DB: t.r.l.bases[db].name, Row: row}]
	return ok && h.local != t.local && (h.hidden || t.hidden)
}

func (t *trial) hold(k adya.Key) { t.holds[k] = hold{t.local, t.hidden} }

// trial begins a transaction. Whether it commits is not known yet.
func (r *record) trial(kind string) *trial {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	return &trial{r: r, holds: map[adya.Key]hold{}, tx: adya.Txn{Name: fmt.Sprintf("%s %d", kind, r.n), Outcome: adya.Unknown}}
}

// end adds the transaction to the history.
func (t *trial) end(o adya.Outcome) {
	t.tx.Outcome = o
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.r.h.Txns = append(t.r.h.Txns, t.tx)
}

// moment makes the next reads belong together.
func (t *trial) moment() { t.group++ }

// read reads rows in one statement.
func (t *trial) read(ctx context.Context, q undolog.DB, db int, f form, rows ...string) ([]int, error) {
	got, err := q.Query(ctx, string(f), rows)
	if err != nil {
		return nil, err
	}
	var ops []adya.Op
	var k string
	var v []int
	_, err = pgx.ForEachRow(got, []any{&k, &v}, func() error {
		ops = append(ops, adya.Op{Key: adya.Key{DB: t.r.l.bases[db].name, Row: k}, List: append([]int{}, v...), Local: t.local, Group: t.group})
		return nil
	})
	if err != nil {
		return nil, err
	}
	now := clock()
	for _, op := range ops {
		op.At = now
		t.tx.Ops = append(t.tx.Ops, op)
		if f == locked || f == kept {
			t.hold(op.Key)
		}
	}
	if len(ops) == 0 {
		return nil, fmt.Errorf("no row of %v", rows)
	}
	return ops[0].List, nil
}

// write appends a value in the database, or to a list that was read.
func (t *trial) write(ctx context.Context, q undolog.DB, db int, row string, computed *[]int) error {
	op := adya.Op{Key: adya.Key{DB: t.r.l.bases[db].name, Row: row}, Write: int(t.r.l.values.Add(1)), Local: t.local, Hidden: t.hidden, Physical: true}
	sql, args := appendSQL, []any{op.Write, row}
	if computed != nil {
		sql, args = writeSQL, append(args, append(append([]int{}, *computed...), op.Write))
	}
	if err := q.QueryRow(ctx, sql, args...).Scan(&op.List, &op.Over); err != nil {
		return err
	}
	op.At = clock()
	t.tx.Ops = append(t.tx.Ops, op)
	t.hold(op.Key)
	return nil
}

// local runs a local transaction.
func local(ctx context.Context, b interface {
	BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error)
}, level pgx.TxIsoLevel, f func(pgx.Tx) error,
) error {
	tx, err := b.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit it does nothing
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// commit asks for the commit of a global transaction, and waits until it is settled.
func (t *trial) commit(ctx context.Context, x tm.Tx) error {
	t.tx.Asked = clock()
	return t.decided(ctx, x, t.r.l.m.Commit(ctx, x))
}

// rollback rolls a global transaction back, and waits until that is done.
func (t *trial) rollback(ctx context.Context, x tm.Tx) error {
	if err := t.r.l.m.Rollback(ctx, x, errors.New("on purpose")); err != nil {
		return err
	}
	t.end(adya.Aborted)
	return nil
}

// expire waits until the deadline has rolled it back.
func (t *trial) expire(ctx context.Context, x tm.Tx) error {
	return t.decided(ctx, x, t.r.l.m.Wait(ctx, x.XID, tm.WithWaitSettled()))
}

func (t *trial) decided(ctx context.Context, x tm.Tx, err error) error {
	if err != nil && !errors.Is(err, tm.ErrRolledBack) {
		err = t.r.l.m.Wait(ctx, x.XID, tm.WithWaitSettled())
	}
	switch {
	case errors.Is(err, tm.ErrNotSettled):
		return err
	case err == nil:
		t.end(adya.Committed)
	case errors.Is(err, tm.ErrRolledBack):
		t.end(adya.Aborted)
	default:
		return err
	}
	return nil
}

// refused tells whether a statement or a commit failed because of somebody else.
func refused(err error) bool {
	if errors.Is(err, rm.ErrDecided) || errors.Is(err, tm.ErrRolledBack) || errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	if _, ok := errors.AsType[*rm.LockConflictError](err); ok {
		return true
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pg.Code {
	case undolog.SQLStateConflict, undolog.SQLStateDecided, "40001", "40P01", "55P03":
		return true
	}
	return false
}

// found closes the history and gives what is in it.
func (r *record) found(ctx context.Context) ([]adya.Anomaly, error) {
	for _, b := range r.l.bases {
		rows, err := b.plain.Query(ctx, string(plain), r.rows)
		if err != nil {
			return nil, err
		}
		var k string
		var v []int
		if _, err := pgx.ForEachRow(rows, []any{&k, &v}, func() error {
			r.h.Final[adya.Key{DB: b.name, Row: k}] = append([]int{}, v...)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return adya.Check(&r.h), nil
}
