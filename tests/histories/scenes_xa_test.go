package histories

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tests/histories/adya"
)

// possibleWithXA are scenes of what the section on XA calls possible.
var possibleWithXA = []possibility{
	{"XA: plain SELECT, then a write", adya.LostUpdate, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.hidden, two.hidden = true, true
		one.begin(0, level)
		two.begin(0, level)
		first, second := one.reads(plain, s.rows[0]), two.reads(plain, s.rows[0])
		one.writes(s.rows[0], first)
		one.localCommit()
		one.commits()
		two.writes(s.rows[0], second)
		two.localCommit()
		two.commits()
	}},
	{"XA: plain SELECT, then a write", adya.G2, []pgx.TxIsoLevel{rc, rr}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.hidden, two.hidden = true, true
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
	// What only reads is not prepared, so nothing is kept between two local transactions.
	{"XA: plain SELECT, then a write in another local transaction", adya.G2, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.prepares(0, level, func() { one.reads(plain, s.rows...) })
		two.prepares(0, level, func() { two.reads(plain, s.rows...) })
		one.prepares(0, level, func() { one.appends(s.rows[0]) })
		two.prepares(0, level, func() { two.appends(s.rows[1]) })
		one.commits()
		two.commits()
	}},
	{"XA: plain SELECT, then a write in another database", adya.G2, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.prepares(0, level, func() { one.reads(plain, s.rows[0]); one.appends(s.rows[1]) })
		two.prepares(1, level, func() { two.reads(plain, s.rows[0]); two.appends(s.rows[1]) })
		one.prepares(1, level, func() { one.appends(s.rows[0]) })
		two.prepares(0, level, func() { two.appends(s.rows[0]) })
		one.commits()
		two.commits()
	}},
	{"XA: plain SELECT", adya.FracturedAcross, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		for db := range s.l.bases {
			x.prepares(db, rc, func() { x.appends(s.rows[0]) })
		}
		// At the decision nobody serves the second database.
		s.l.bases[1].pool.Close()
		done := make(chan error, 1)
		go func() { done <- x.commit(s.ctx, x.x) }()
		r := s.seen(0, s.rows[0])
		r.moment()
		for db := range s.l.bases {
			s.check(local(s.ctx, s.l.bases[db].plain, level, func(tx pgx.Tx) error {
				_, err := r.read(s.ctx, tx, db, plain, s.rows[0])
				return err
			}))
		}
		r.end(adya.Committed)
		s.check(s.l.serve(s.l.bases[1]))
		s.check(<-done)
	}},
	{"XA: plain SELECT, of several branches in one database", adya.Fractured, []pgx.TxIsoLevel{rc}, func(s *scene, level pgx.TxIsoLevel) {
		for fractured := false; !fractured; {
			fractured = s.looksOnAtPreparedOnes(level)
		}
	}},
	{"AT and XA: <table>_committed", adya.Fractured, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		x.prepares(0, rc, func() { x.appends(s.rows[1]) })
		// What is prepared is committed first. Then settling waits for somebody who looks at a fence.
		hold, err := s.l.bases[0].plain.Begin(s.ctx)
		s.check(err)
		_, err = hold.Exec(s.ctx, `SELECT FROM handfast.fence WHERE xid = $1 FOR UPDATE`, x.x.XID.String())
		s.check(err)
		done := make(chan error, 1)
		go func() { done <- x.commit(s.ctx, x.x) }()
		r := s.seen(0, s.rows[1])
		r.moment()
		s.check(local(s.ctx, s.l.bases[0].plain, level, func(tx pgx.Tx) error {
			_, err := r.read(s.ctx, tx, 0, committedView, s.rows...)
			return err
		}))
		r.end(adya.Committed)
		s.check(hold.Rollback(s.ctx))
		s.check(<-done)
	}},
	{"AT and XA: plain SELECT", adya.AbortedRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		x.prepares(0, rc, func() { x.appends(s.rows[1]) })
		r := s.plain("reader", level)
		r.reads(plain, s.rows...)
		r.commits()
		x.rollsBack()
	}},
	{"AT and XA: settled(t) FOR UPDATE, of rows only read in AT mode", adya.G2, levels, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.global("two")
		one.did(0, level, func() { one.reads(locked, s.rows[0]) })
		two.prepares(0, level, func() { two.reads(locked, s.rows[1]); two.appends(s.rows[0]) })
		two.commits()
		one.did(0, level, func() { one.appends(s.rows[1]) })
		one.commits()
	}},
}

// seen waits until a row of the database shows something, to a reader who has read nothing
// yet.
func (s *scene) seen(db int, row string) *trial {
	s.t.Helper()
	r := s.trial("reader")
	for {
		list, err := r.read(s.ctx, s.l.bases[db].plain, db, plain, row)
		s.check(err)
		r.tx.Ops = nil
		if len(list) > 0 {
			return r
		}
	}
}

// looksOnAtPreparedOnes looks at both rows while a transaction commits that has one branch
// for each and some more between them. It tells whether one was seen without the other.
func (s *scene) looksOnAtPreparedOnes(level pgx.TxIsoLevel) (fractured bool) {
	s.t.Helper()
	x := s.global("X")
	var before int
	for _, row := range s.rows {
		x.prepares(0, rc, func() { before = len(x.reads(plain, row)); x.appends(row) })
		for range 3 { // they take their time
			x.prepares(0, rc, func() {
				_, err := x.tx.Exec(s.ctx, `SELECT pg_current_xact_id()`)
				s.check(err)
			})
		}
	}
	done := make(chan error, 1)
	go func() { done <- x.commit(s.ctx, x.x) }()
	for {
		r := s.trial("reader")
		r.moment()
		s.check(local(s.ctx, s.l.bases[0].plain, level, func(tx pgx.Tx) error {
			_, err := r.read(s.ctx, tx, 0, plain, s.rows...)
			return err
		}))
		there := 0
		for _, op := range r.tx.Ops {
			if len(op.List) > before {
				there++
			}
		}
		if fractured = there == 1; fractured {
			r.end(adya.Committed)
		}
		if there > 0 {
			s.check(<-done)
			return fractured
		}
	}
}

// refuses notes where a statement was not refused.
func (s *scene) refuses(err error) {
	if err == nil || !refused(err) {
		s.wrong = append(s.wrong, fmt.Sprintf("got %v, want a refusal", err))
	}
}

// tries appends in a local transaction that ends with the attempt.
func (a *actor) tries(db int, level pgx.TxIsoLevel, row string) error {
	a.s.t.Helper()
	a.begin(db, level)
	err := a.write(a.s.ctx, a.tx, db, row, nil)
	if e := a.tx.Rollback(a.s.ctx); !errors.Is(e, pgx.ErrTxClosed) {
		a.s.check(e)
	}
	return err
}

// hurry bounds how long a plain session waits for a row.
func (a *actor) hurry() {
	a.s.t.Helper()
	_, err := a.tx.Exec(a.s.ctx, `SET LOCAL lock_timeout = '30ms'`)
	a.s.check(err)
}

// impossibleWithXA are scenes of what the section on XA excludes.
var impossibleWithXA = []impossibility{
	{"XA: plain SELECT of what is rolled back", adya.AbortedRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.prepares(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.reads(plain, s.rows[0])
		r.commits()
		x.rollsBack()
	}},
	{"XA: plain SELECT of what is committed later", adya.EarlyRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.prepares(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.reads(plain, s.rows[0])
		r.commits()
		x.commits()
	}},
	{"XA: plain SELECT of one branch that is committed meanwhile", adya.Fractured, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.prepares(0, rc, func() { x.appends(s.rows[0]); x.appends(s.rows[1]) })
		r := s.plain("reader", level)
		r.moment()
		r.ends(r.during(x.commits, plain, s.rows...))
	}},
	{"XA: its own transaction sees nothing of it either", adya.Impossible, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.prepares(0, rc, func() { x.appends(s.rows[0]); x.reads(plain, s.rows[0]) })
		x.prepares(0, level, func() { x.reads(plain, s.rows[0]); x.appends(s.rows[1]) })
		x.did(0, level, func() { x.reads(plain, s.rows...) })
		x.commits()
	}},
	{"XA: a plain session writes to what is prepared", adya.DirtyWrite, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.prepares(0, rc, func() { x.appends(s.rows[0]) })
		p := s.plain("session", level)
		p.hurry()
		err := p.write(s.ctx, p.tx, 0, s.rows[0], nil)
		s.refuses(err)
		p.ends(err)
		x.commits()
	}},
	{"XA: AT writes to what is prepared", adya.DirtyWrite, levels, func(s *scene, level pgx.TxIsoLevel) {
		x, y := s.global("X"), s.global("Y")
		x.prepares(0, rc, func() { x.appends(s.rows[0]) })
		s.refuses(y.tries(0, level, s.rows[0]))
		s.refuses(x.tries(0, level, s.rows[0])) // not even its own
		y.rollsBack()
		x.commits()
	}},
	{"XA writes to what AT has not decided", adya.DirtyWrite, levels, func(s *scene, level pgx.TxIsoLevel) {
		x, y := s.global("X"), s.global("Y")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		x.hidden, y.hidden = true, true
		s.refuses(y.tries(0, level, s.rows[0]))
		if err := x.tries(0, level, s.rows[0]); !errors.Is(err, rm.ErrMixedModes) {
			s.wrong = append(s.wrong, fmt.Sprintf("got %v, want %v", err, rm.ErrMixedModes))
		}
		y.rollsBack()
		x.commits()
	}},
	{"XA: a row that was only locked is kept until the decision", adya.G2, levels, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.plain("two", level)
		two.hurry()
		two.reads(kept, s.rows[1])
		one.prepares(0, level, func() { one.reads(kept, s.rows[0]) })
		err := two.write(s.ctx, two.tx, 0, s.rows[0], nil)
		s.refuses(err)
		two.ends(err)
		one.prepares(0, level, func() { one.appends(s.rows[1]) })
		one.commits()
	}},
	{"XA: a lost update", adya.LostUpdate, []pgx.TxIsoLevel{rr, ser}, func(s *scene, level pgx.TxIsoLevel) {
		x, y := s.global("X"), s.global("Y")
		x.hidden, y.hidden = true, true
		x.begin(0, level)
		list := x.reads(plain, s.rows[0])
		y.did(0, rc, func() { y.appends(s.rows[0]) })
		y.commits()
		s.refuses(x.write(s.ctx, x.tx, 0, s.rows[0], &list))
		s.check(x.tx.Rollback(s.ctx))
		x.rollsBack()
	}},
	{"XA: write skew until the decision", adya.G2, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		one, two := s.global("one"), s.plain("two", level)
		two.reads(plain, s.rows[1])
		one.prepares(0, level, func() { one.reads(plain, s.rows[0]); one.appends(s.rows[1]) })
		s.refuses(two.writesAndEnds(s.rows[0]))
		one.commits()
	}},
}
