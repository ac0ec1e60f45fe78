package histories

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/tests/histories/adya"
	"github.com/handfast/handfast/tm"
)

// scene is one interleaving, step by step. What may fail does so by a panic of check,
// which ends the test.
type scene struct {
	*record
	t   *testing.T
	ctx context.Context
	// wrong is what was not refused and had to be.
	wrong []string
}

func (s *scene) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// actor is a transaction of a scene.
type actor struct {
	*trial
	s  *scene
	x  tm.Tx
	tx pgx.Tx // the open local transaction, if there is one
	at int    // the database of it
}

// global begins a global transaction.
func (s *scene) global(name string) *actor {
	s.t.Helper()
	a := &actor{trial: s.trial(name), s: s}
	var err error
	a.x, err = s.l.m.Begin(s.ctx, tm.WithWaitSettled())
	s.check(err)
	return a
}

// plain begins a transaction of a plain session, in the first database.
func (s *scene) plain(name string, level pgx.TxIsoLevel) *actor {
	s.t.Helper()
	a := &actor{trial: s.trial(name), s: s}
	var err error
	a.tx, err = s.l.bases[0].plain.BeginTx(s.ctx, pgx.TxOptions{IsoLevel: level})
	s.check(err)
	return a
}

// begin begins a local transaction.
func (a *actor) begin(db int, level pgx.TxIsoLevel) {
	a.s.t.Helper()
	var err error
	a.at = db
	a.local++
	a.tx, err = a.s.l.bases[db].pool.BeginTx(a.s.l.as(a.x.Context(a.s.ctx), a.hidden), pgx.TxOptions{IsoLevel: level})
	a.s.check(err)
}

// localCommit commits the local transaction, and leaves the global one undecided.
func (a *actor) localCommit() {
	a.s.t.Helper()
	a.s.check(a.tx.Commit(a.s.ctx))
	a.tx = nil
}

func (a *actor) reads(f form, rows ...string) []int {
	a.s.t.Helper()
	list, err := a.read(a.s.ctx, a.tx, a.at, f, rows...)
	a.s.check(err)
	return list
}

func (a *actor) appends(row string) {
	a.s.t.Helper()
	a.s.check(a.write(a.s.ctx, a.tx, a.at, row, nil))
}

func (a *actor) writes(row string, from []int) {
	a.s.t.Helper()
	a.s.check(a.write(a.s.ctx, a.tx, a.at, row, &from))
}

// commits ends it: the local transaction of a plain session, or the global one.
func (a *actor) commits() {
	a.s.t.Helper()
	if a.x.XID.IsZero() {
		a.trial.tx.Asked = clock()
		a.s.check(a.tx.Commit(a.s.ctx))
		a.end(adya.Committed)
		return
	}
	a.s.check(a.commit(a.s.ctx, a.x))
}

func (a *actor) rollsBack() {
	a.s.t.Helper()
	a.s.check(a.rollback(a.s.ctx, a.x))
}

// did is a whole local transaction of a global one.
func (a *actor) did(db int, level pgx.TxIsoLevel, f func()) {
	a.s.t.Helper()
	a.begin(db, level)
	f()
	a.localCommit()
}

// prepares is the same in XA mode.
func (a *actor) prepares(db int, level pgx.TxIsoLevel, f func()) {
	a.s.t.Helper()
	a.hidden = true
	a.did(db, level, f)
	a.hidden = false
}

const (
	rc  = pgx.ReadCommitted
	rr  = pgx.RepeatableRead
	ser = pgx.Serializable
)

var levels = []pgx.TxIsoLevel{rc, rr, ser}

// possibility is a scene with what is to be found in it.
type possibility struct {
	use  string // the row of the table
	what adya.Kind
	at   []pgx.TxIsoLevel
	play func(s *scene, level pgx.TxIsoLevel)
}

// possible are scenes in which the checker has to find what docs/guarantees.md calls
// possible. They show that it would see it where that is called impossible.
var possible = []possibility{
	{"plain SELECT", adya.AbortedRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.reads(plain, s.rows[0])
		r.commits()
		x.rollsBack()
	}},
	{"plain SELECT", adya.EarlyRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.reads(plain, s.rows[0])
		r.commits()
		x.commits()
	}},
	{"plain SELECT", adya.Fractured, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.moment()
		r.reads(plain, s.rows...)
		r.commits()
		x.did(0, rc, func() { x.appends(s.rows[1]) })
		x.commits()
	}},
	{"plain SELECT", adya.IntermediateRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.reads(plain, s.rows[0])
		r.commits()
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		x.commits()
	}},
	{"<table>_committed", adya.FracturedAcross, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		x.did(1, rc, func() { x.appends(s.rows[0]) })
		// Settling in the second database waits for somebody who looks at its fence.
		hold, err := s.l.bases[1].plain.Begin(s.ctx)
		s.check(err)
		_, err = hold.Exec(s.ctx, `SELECT FROM handfast.fence WHERE xid = $1 FOR UPDATE`, x.x.XID.String())
		s.check(err)
		done := make(chan error, 1)
		go func() { done <- x.commit(s.ctx, x.x) }()
		r := s.trial("reader")
		for {
			list, err := r.read(s.ctx, s.l.bases[0].plain, 0, committedView, s.rows[0])
			s.check(err)
			if len(list) > 0 {
				break
			}
			r.tx.Ops = nil
		}
		r.moment()
		for db := range 2 {
			s.check(local(s.ctx, s.l.bases[db].plain, level, func(tx pgx.Tx) error {
				_, err := r.read(s.ctx, tx, db, committedView, s.rows[0])
				return err
			}))
		}
		r.end(adya.Committed)
		s.check(hold.Rollback(s.ctx))
		s.check(<-done)
	}},
	{"<table>_committed", adya.Fractured, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) {
		r := s.plain("reader", level)
		r.moment()
		r.reads(committedView, s.rows[0])
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]); x.appends(s.rows[1]) })
		x.commits()
		r.reads(committedView, s.rows[1]) // another statement
		r.commits()
	}},
	{"settled(t)", adya.Fractured, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) { settledBefore(s, level, settled) }},
	{"settled(t) of what is undone since the snapshot", adya.AbortedRead, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		undoneBefore(s, level, settled)
	}},
	{"settled(t) FOR UPDATE", adya.Fractured, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) {
		r := s.global("reader")
		r.moment()
		r.did(0, level, func() { r.reads(locked, s.rows[0]) })
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]); x.appends(s.rows[1]) })
		x.commits()
		r.did(0, level, func() { r.reads(locked, s.rows[1]) })
		r.commits()
	}},
	{"UPDATE: other rows that it reads", adya.AbortedRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		w := s.plain("writer", level)
		const other = `WITH o AS (SELECT k, v FROM item WHERE k = $1), u AS (
			UPDATE item SET over = over FROM o WHERE item.k = $2 RETURNING item.k) SELECT k, v FROM o WHERE EXISTS (SELECT FROM u)`
		var k string
		op := adya.Op{Key: adya.Key{DB: "a", Row: s.rows[0]}}
		s.check(w.tx.QueryRow(s.ctx, other, s.rows[0], s.rows[1]).Scan(&k, &op.List))
		op.At = clock()
		w.trial.tx.Ops = append(w.trial.tx.Ops, op)
		w.commits()
		x.rollsBack()
	}},
	{"plain SELECT, then a write", adya.LostUpdate, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.plain("one", level), s.plain("two", level)
		first, second := one.reads(plain, s.rows[0]), two.reads(plain, s.rows[0])
		one.writes(s.rows[0], first)
		one.commits()
		two.writes(s.rows[0], second)
		two.commits()
	}},
	{"plain SELECT, then a write", adya.AbortedUse, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		w := s.plain("writer", level)
		list := w.reads(plain, s.rows[0])
		x.rollsBack()
		w.writes(s.rows[0], list)
		w.commits()
	}},
	{"plain SELECT, then a write", adya.G2, []pgx.TxIsoLevel{rc, rr}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.begin(0, level)
		two.begin(0, level)
		one.reads(plain, s.rows...)
		two.reads(plain, s.rows...)
		one.appends(s.rows[0])
		two.appends(s.rows[1])
		one.localCommit()
		two.localCommit()
		one.commits()
		two.commits()
	}},
	{"plain SELECT, then a write: after the local commit", adya.G2, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.did(0, level, func() { one.reads(plain, s.rows...) })
		two.did(0, level, func() { two.reads(plain, s.rows...) })
		one.did(0, level, func() { one.appends(s.rows[0]) })
		two.did(0, level, func() { two.appends(s.rows[1]) })
		one.commits()
		two.commits()
	}},
	// As in Postgres, whoever writes at another level breaks the chain for all.
	{"plain SELECT, then a write: undone by READ COMMITTED meanwhile", adya.G2, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		one := s.plain("one", level)
		one.reads(plain, s.rows[0])
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		x.rollsBack()
		skew(s, one, level)
	}},
	{"settled(t) FOR UPDATE: of rows only read", adya.G2, levels, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.did(0, level, func() { one.reads(locked, s.rows[0]) })
		two.did(0, level, func() { two.reads(locked, s.rows[1]); two.appends(s.rows[0]) })
		one.did(0, level, func() { one.appends(s.rows[1]) })
		one.commits()
		two.commits()
	}},
}

// settledBefore reads one row before, and one after a transaction of both.
func settledBefore(s *scene, level pgx.TxIsoLevel, f form) {
	r := s.plain("reader", level)
	r.moment()
	r.reads(f, s.rows[0])
	x := s.global("X")
	x.did(0, rc, func() { x.appends(s.rows[0]); x.appends(s.rows[1]) })
	x.commits()
	r.reads(f, s.rows[1])
	r.commits()
}

func TestWhatIsPossibleIsSeen(t *testing.T) {
	t.Parallel()
	l := newLab(t, true)
	for _, p := range slices.Concat(possible, possibleWithXA) { //nolint:paralleltest // one lab
		for _, level := range p.at {
			t.Run(p.use+"/"+string(p.what)+"/"+string(level), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				r, err := l.record(ctx, 2)
				if err != nil {
					t.Fatal(err)
				}
				p.play(&scene{record: r, t: t, ctx: ctx}, level)
				all, err := r.found(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.ContainsFunc(all, func(a adya.Anomaly) bool { return a.Kind == p.what }) {
					t.Errorf("it found %v", all)
				}
				if slices.ContainsFunc(all, func(a adya.Anomaly) bool { return a.Kind == adya.Impossible || a.Kind == adya.DirtyWrite }) {
					t.Errorf("it also found %v", all)
				}
			})
		}
	}
}
