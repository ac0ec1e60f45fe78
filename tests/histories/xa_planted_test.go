package histories

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tests/histories/adya"
)

// Each of these takes part in another way than it says, or at another level, and random
// histories have to find each anomaly that this brings about.
func TestPlantedFaultsOfXAAreFound(t *testing.T) {
	t.Parallel()
	shared := newLab(t, true)
	faults := map[string]struct {
		use  string
		mode rm.Mode // in place of XA
		sql  string  // done to the databases
		how  func(*use)
		want []adya.Kind
	}{
		"it commits where it should prepare": {
			use: "XA: plain SELECT, UPDATE", mode: rm.AT, want: []adya.Kind{adya.AbortedRead, adya.EarlyRead}},
		"it commits, and what was rolled back is built upon": {
			use: "XA: plain SELECT, then a write", mode: rm.AT, how: func(u *use) { u.level = rc }, want: []adya.Kind{adya.AbortedUse}},
		"reads that lock nothing": {
			use: "XA: SELECT FOR UPDATE, then a write", how: func(u *use) { u.reads, u.level = plain, rc }, want: []adya.Kind{adya.G2}},
		"two branches where one is promised to be seen as a whole": {
			use: "XA: plain SELECT, of one branch each", mode: rm.AT, how: func(u *use) { u.single = false }, want: []adya.Kind{adya.Fractured}},
		"READ COMMITTED where REPEATABLE READ is asked for": {
			use: "XA: plain SELECT, then a write", how: func(u *use) { u.level = rc }, want: []adya.Kind{adya.LostUpdate}},
		"REPEATABLE READ where SERIALIZABLE is asked for": {
			use: "XA: plain SELECT, then a write, one local transaction", how: func(u *use) { u.level = rr }, want: []adya.Kind{adya.G2}},
		"a committed view of the table as it is": {
			use: "AT and XA: <table>_committed", sql: `CREATE OR REPLACE VIEW item_committed AS SELECT k COLLATE "C" AS k, v, over, last FROM item`, want: []adya.Kind{adya.EarlyRead}},
		"settled() FOR UPDATE that says yes to everything": {
			use: "AT and XA: settled(t) FOR UPDATE, then a write", sql: `CREATE OR REPLACE FUNCTION handfast.settled(p_row anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT true'`, want: []adya.Kind{adya.AbortedRead}},
	}
	for _, name := range someOf(faults) { //nolint:paralleltest // most are in one lab
		planted := faults[name]
		t.Run(name, func(t *testing.T) {
			l := shared
			if planted.sql != "" {
				l = newLab(t, true)
				for db := range l.bases {
					l.exec(db, planted.sql)
				}
			}
			l.xa = cmp.Or(planted.mode, rm.XA)
			at := slices.DeleteFunc(uses(), func(u use) bool {
				return u.name != planted.use || u.level != rr && !strings.HasSuffix(u.name, "one local transaction")
			})
			if len(at) != 1 {
				t.Fatalf("%d uses are %s", len(at), planted.use)
			}
			if planted.how != nil {
				planted.how(&at[0])
			}
			sum := &counts{}
			missing := slices.DeleteFunc(slices.Clone(planted.want), func(k adya.Kind) bool { return slices.Contains(at[0].never, k) })
			if len(missing) > 0 {
				t.Fatalf("%q may be there in histories of %s", missing, planted.use)
			}
			missing = slices.Clone(planted.want)
			for len(missing) > 0 && sum.get("histories") < mostToFind {
				at[0].never = missing // others would end it too early
				bad, err := l.play(t.Context(), at, time.Second, sum)
				if err != nil {
					t.Fatal(err)
				}
				missing = slices.DeleteFunc(missing, func(k adya.Kind) bool {
					return slices.ContainsFunc(bad, func(b string) bool { return strings.Contains(b, ": "+string(k)+": ") })
				})
			}
			if len(missing) > 0 {
				t.Fatalf("not found: %q, in %v", missing, sum.all())
			}
			t.Logf("found after %d histories", sum.get("histories"))
		})
	}
}
