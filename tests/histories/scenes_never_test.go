package histories

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/tests/histories/adya"
)

// slowly makes a statement stop after it has its snapshot, before it looks at a row.
func slowly(f form) form {
	const where = "WHERE "
	i := slices.Index([]byte(f), 'W')
	return f[:i+len(where)] + "(SELECT pg_advisory_xact_lock_shared(4263)) IS NOT NULL AND " + f[i+len(where):]
}

// during starts a statement of the actor, and runs f when it has its snapshot and before
// it has looked at any row. The statement may be refused.
func (a *actor) during(f func(), form form, rows ...string) (refusal error) {
	a.s.t.Helper()
	s := a.s
	hold, err := s.l.bases[a.at].plain.Begin(s.ctx)
	s.check(err)
	_, err = hold.Exec(s.ctx, `SELECT pg_advisory_xact_lock(4263)`)
	s.check(err)
	done := make(chan error, 1)
	go func() {
		_, err := a.read(s.ctx, a.tx, a.at, slowly(form), rows...)
		done <- err
	}()
	for waiting := false; !waiting; {
		s.check(hold.QueryRow(s.ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4263 AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`).Scan(&waiting))
	}
	f()
	s.check(hold.Rollback(s.ctx))
	err = <-done
	if err != nil && !refused(err) {
		s.t.Fatal(err)
	}
	return err
}

// ends commits what was not refused.
func (a *actor) ends(refusal error) {
	a.s.t.Helper()
	if refusal == nil {
		a.commits()
		return
	}
	a.s.check(a.tx.Rollback(a.s.ctx))
	a.end(adya.Aborted)
}

// impossibility is a scene with what is not to be found in it.
type impossibility struct {
	name  string
	never adya.Kind
	at    []pgx.TxIsoLevel
	play  func(s *scene, level pgx.TxIsoLevel)
}

// impossible are scenes that come as near as can be to what docs/guarantees.md says can't
// happen. Being refused is fine.
var impossible = []impossibility{
	{"settled(t) of a row that is undone meanwhile", adya.AbortedRead, []pgx.TxIsoLevel{rc, rr}, func(s *scene, level pgx.TxIsoLevel) {
		undoneMeanwhile(s, level, settled)
	}},
	{"settled(t) FOR UPDATE of a row that is undone meanwhile", adya.AbortedRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		undoneMeanwhile(s, level, locked)
	}},
	{"settled(t) with an older snapshot", adya.AbortedRead, []pgx.TxIsoLevel{rr}, func(s *scene, level pgx.TxIsoLevel) {
		undoneBefore(s, level, settled)
	}},
	{"settled(t) FOR UPDATE with an older snapshot", adya.AbortedRead, []pgx.TxIsoLevel{rr, ser}, func(s *scene, level pgx.TxIsoLevel) {
		undoneBefore(s, level, locked)
	}},
	{"<table>_committed of a row that is undone meanwhile", adya.AbortedRead, levels, func(s *scene, level pgx.TxIsoLevel) {
		undoneMeanwhile(s, level, committedView)
	}},
	{"<table>_committed with an older snapshot", adya.AbortedRead, []pgx.TxIsoLevel{rr, ser}, func(s *scene, level pgx.TxIsoLevel) {
		undoneBefore(s, level, committedView)
	}},
	{"<table>_committed while a transaction ends", adya.Fractured, levels, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		r := s.plain("reader", level)
		r.moment()
		r.ends(r.during(func() {
			x.did(0, rc, func() { x.appends(s.rows[1]) })
			x.commits()
		}, committedView, s.rows...))
	}},
	{"a write computed from what was undone", adya.AbortedUse, []pgx.TxIsoLevel{rr, ser}, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.did(0, rc, func() { x.appends(s.rows[0]) })
		w := s.plain("writer", level)
		list := w.reads(plain, s.rows[0])
		x.rollsBack()
		w.ends(w.write(s.ctx, w.tx, 0, s.rows[0], &list))
	}},
	{"a lost update", adya.LostUpdate, []pgx.TxIsoLevel{rr, ser}, func(s *scene, level pgx.TxIsoLevel) {
		x := s.global("X")
		x.begin(0, level)
		list := x.reads(plain, s.rows[0])
		w := s.plain("writer", level)
		w.appends(s.rows[0])
		w.commits()
		err := x.write(s.ctx, x.tx, 0, s.rows[0], &list)
		s.check(x.tx.Rollback(s.ctx))
		if err == nil || !refused(err) {
			s.t.Errorf("got %v", err)
		}
		x.rollsBack()
	}},
	{"write skew over a row that is undone meanwhile", adya.G2, []pgx.TxIsoLevel{ser}, func(s *scene, level pgx.TxIsoLevel) {
		one := s.plain("one", level)
		one.reads(plain, s.rows[0])
		x := s.global("X")
		x.did(0, level, func() { x.appends(s.rows[0]) })
		x.rollsBack()
		skew(s, one, level)
	}},
}

// skew is the rest of a write skew, after one has read the first row.
func skew(s *scene, one *actor, level pgx.TxIsoLevel) {
	two := s.plain("two", level)
	two.reads(plain, s.rows[1])
	_ = two.writesAndEnds(s.rows[0]) // one of them may be refused
	_ = one.writesAndEnds(s.rows[1])
}

// writesAndEnds is the rest of a plain session, of which anything may be refused.
func (a *actor) writesAndEnds(row string) (refusal error) {
	a.s.t.Helper()
	err := a.write(a.s.ctx, a.tx, 0, row, nil)
	if err == nil {
		a.trial.tx.Asked = clock()
		err = a.tx.Commit(a.s.ctx)
	}
	if err == nil {
		a.end(adya.Committed)
	} else {
		a.ends(err)
	}
	return err
}

// undoneMeanwhile reads a row whose transaction is rolled back while the statement runs.
func undoneMeanwhile(s *scene, level pgx.TxIsoLevel, f form) {
	x := s.global("X")
	x.did(0, rc, func() { x.appends(s.rows[0]) })
	r := s.plain("reader", level)
	r.ends(r.during(x.rollsBack, f, s.rows[0]))
}

// undoneBefore reads it after that, with a snapshot from before.
func undoneBefore(s *scene, level pgx.TxIsoLevel, f form) {
	x := s.global("X")
	x.did(0, rc, func() { x.appends(s.rows[0]) })
	r := s.plain("reader", level)
	r.reads(plain, s.rows[1])
	x.rollsBack()
	_, err := r.read(s.ctx, r.tx, 0, f, s.rows[0])
	if err != nil && !refused(err) {
		s.t.Fatal(err)
	}
	r.ends(err)
}

// try plays the scene, and gives what must not have been.
func (p *impossibility) try(t *testing.T, l *lab, level pgx.TxIsoLevel) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := l.record(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{record: r, t: t, ctx: ctx}
	p.play(s, level)
	all, err := r.found(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if slices.Contains([]adya.Kind{p.never, adya.Impossible, adya.DirtyWrite, adya.G0}, a.Kind) {
			s.wrong = append(s.wrong, a.String())
		}
	}
	return s.wrong
}

func TestWhatIsImpossibleIsNot(t *testing.T) {
	t.Parallel()
	l := newLab(t, true)
	for _, p := range slices.Concat(impossible, impossibleWithXA) { //nolint:paralleltest // one lab
		for _, level := range p.at {
			t.Run(p.name+"/"+string(level), func(t *testing.T) {
				for _, wrong := range p.try(t, l, level) {
					t.Error(wrong)
				}
			})
		}
	}
}
