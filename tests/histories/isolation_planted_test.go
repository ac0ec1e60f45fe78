package histories

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tests/histories/adya"
)

// mostToFind is how many histories may be needed to find a planted fault of isolation. Most
// show in the first few, and the slowest in some dozens.
const mostToFind = 1000

// Each of these databases is wrong in one way, and random histories have to find it.
func TestPlantedFaultsOfIsolationAreFound(t *testing.T) {
	t.Parallel()
	for name, planted := range map[string]struct { //nolint:paralleltest // each has the machine for itself
		sql string
		use string
	}{
		"a committed view of the table as it is": {`CREATE OR REPLACE VIEW item_committed AS SELECT k COLLATE "C" AS k, v, over, last FROM item`, "<table>_committed"},
		"settled() that says yes to everything": {
			`CREATE OR REPLACE FUNCTION handfast.settled(p_row anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT true'`, "settled(t)"},
		"settled() FOR UPDATE that says yes to everything": {
			`CREATE OR REPLACE FUNCTION handfast.settled(p_row anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT true'`, "settled(t) FOR UPDATE, then a write"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, true)
			for db := range l.bases {
				l.exec(db, planted.sql)
			}
			at := slices.DeleteFunc(uses(), func(u use) bool { return u.name != planted.use || u.level != rr })
			sum := &counts{}
			var bad []string
			for len(bad) == 0 && sum.get("histories") < mostToFind {
				var err error
				if bad, err = l.play(t.Context(), at, time.Second, sum); err != nil {
					t.Fatal(err)
				}
			}
			if len(bad) == 0 {
				t.Fatalf("it is not found: %v", sum.all())
			}
			t.Logf("found after %d histories", sum.get("histories"))
			if testing.Verbose() {
				t.Log(bad[0])
			}
		})
	}
}

// Where the guard is off for plain sessions, they write over what is undecided, and to the
// guard an XA branch is one of them.
func TestWithoutTheGuardThereAreDirtyWrites(t *testing.T) {
	t.Parallel()
	l := newLab(t, false)
	for i := range 2 * len(levels) {
		level, xa := levels[i/2], i%2 > 0
		t.Run(fmt.Sprintf("%s, XA: %t", level, xa), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			r, err := l.record(ctx, 2)
			if err != nil {
				t.Fatal(err)
			}
			s := &scene{record: r, t: t, ctx: ctx}
			x := s.global("X")
			x.did(0, rc, func() { x.appends(s.rows[0]) })
			both := func(a *actor) { a.appends(s.rows[0]); a.appends(s.rows[1]) }
			if xa {
				y := s.global("Y")
				y.prepares(0, level, func() { both(y) })
				y.commits()
			} else {
				p := s.plain("session", level)
				both(p)
				p.commits()
			}
			x.did(0, rc, func() { x.appends(s.rows[1]) })
			x.commits()
			all, err := r.found(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []adya.Kind{adya.DirtyWrite, adya.G0} {
				if !slices.ContainsFunc(all, func(a adya.Anomaly) bool { return a.Kind == want }) {
					t.Errorf("no %s in %v", want, all)
				}
			}
		})
	}
	// Scenes of XA are in order at no level if what should be prepared is committed, too.
	l.xa = rm.AT
	for _, p := range impossibleWithXA { //nolint:paralleltest // these are no subtests
		wrong := p.try(t, l, rc)
		// A statement sees all of one local transaction, or nothing, committed or prepared.
		if whole := p.never == adya.Fractured; len(wrong) == 0 && !whole {
			t.Errorf("%s: nothing is found where XA commits", p.name)
		}
	}
}
