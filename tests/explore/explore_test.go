package explore

import (
	"flag"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
)

var (
	all  = flag.Bool("explore.all", false, "search within the full bounds, which takes minutes and up to 3 GB")
	only = flag.String("explore.scene", "", "search only scenes whose name contains this")
)

var (
	twoDatabases = []branchDef{{resource: 0, mode: core.ModeAT}, {resource: 1, mode: core.ModeAT}}
	oneDatabase  = []branchDef{{resource: 0, mode: core.ModeAT}, {resource: 0, mode: core.ModeAT}}
)

func at2(name string, left budget) scene {
	return scene{name: name, txs: 1, branches: twoDatabases, rules: atRules, left: left}
}

func row(name string, left budget) scene {
	return scene{name: name, txs: 1, branches: oneDatabase, rules: atRules, sameRow: true, left: left}
}

func rivals(name string, branches int, left budget) scene {
	return scene{name: name, txs: 2, branches: twoDatabases[:branches], rules: atRules, left: left}
}

// nearest searches the nearest states alone: there are too many to visit.
func nearest(s scene) scene {
	s.limit = 3_000_000
	return s
}

func sessions(left budget) scene {
	s := at2("two databases, RMs that come and go", left)
	s.attach = true
	return s
}

func settledFirst(left budget) scene {
	s := at2("two databases, commit is answered when settled", left)
	s.waitSettled = true
	return s
}

func saga(left budget) scene {
	return scene{name: "saga of two steps", txs: 1, branches: sagaOfTwo, rules: callRules, left: left}
}

func tcc(left budget) scene {
	return scene{name: "TCC of two branches", txs: 1, branches: tccOfTwo, rules: callRules, votesAnswered: true, left: left}
}

func message(left budget) scene {
	return scene{name: "message with a check-back", txs: 1, branches: messageWithCheck, rules: callRules, left: left}
}

// quick are searched by every run of the tests, full with -explore.all.
var (
	quick = []scene{
		at2("two databases", budget{crashes: 1}),
		at2("two databases", budget{losses: 1}),
		at2("two databases", budget{janitors: 1}),
		row("two branches on one row", budget{crashes: 1}),
		rivals("two transactions on one row", 1, budget{}),
		sessions(budget{detaches: 1}),
		settledFirst(budget{losses: 1}),
		saga(budget{crashes: 1, losses: 1, refusals: 1, operators: 1}),
		tcc(budget{crashes: 1}),
		message(budget{crashes: 2, losses: 1, deaths: 1}),
	}
	full = []scene{
		at2("two databases", budget{crashes: 2}),
		at2("two databases", budget{crashes: 1, losses: 1, operators: 1}),
		at2("two databases", budget{crashes: 1, doubles: 1, janitors: 1}),
		at2("two databases", budget{crashes: 1, deaths: 1, refusals: 1}),
		at2("two databases", budget{crashes: 2, losses: 1}),
		at2("two databases", budget{crashes: 2, doubles: 1}),
		at2("two databases", budget{crashes: 2, janitors: 1}),
		at2("two databases", budget{crashes: 2, operators: 1}),
		at2("two databases", budget{losses: 1, doubles: 1, deaths: 1, janitors: 1, operators: 1, refusals: 1}),
		at2("two databases", budget{janitors: 1, refusals: 1}),
		row("two branches on one row", budget{crashes: 2}),
		row("two branches on one row", budget{crashes: 1, losses: 1, janitors: 1}),
		rivals("two transactions on one row", 1, budget{crashes: 1, breaks: 1}),
		rivals("two transactions on one row", 1, budget{crashes: 1, janitors: 1}),
		nearest(rivals("two transactions on two rows", 2, budget{})),
		nearest(rivals("two transactions on two rows", 2, budget{crashes: 1, breaks: 1})),
		sessions(budget{crashes: 1, detaches: 1}),
		settledFirst(budget{crashes: 1, losses: 1}),
		saga(budget{crashes: 2, losses: 1, refusals: 1, operators: 1}),
		saga(budget{crashes: 2, losses: 2, refusals: 2, deaths: 1}),
		tcc(budget{crashes: 2, losses: 1}),
		tcc(budget{crashes: 1, losses: 1, operators: 1, deaths: 1}),
		message(budget{crashes: 2, losses: 2, deaths: 1}),
	}
)

// Every state within the bounds keeps the promises, and from every state the end can be
// reached without further faults.
func TestEveryStateKeepsThePromises(t *testing.T) {
	t.Parallel()
	scenes := quick
	if *all {
		scenes = append(scenes[:len(scenes):len(scenes)], full...)
	}
	var states, steps, searched int
	start := time.Now()
	for _, s := range scenes {
		if !strings.Contains(s.name, *only) {
			continue
		}
		begun := time.Now()
		r := newExplorer(&s).search(s.limit)
		if r.bad != "" {
			t.Fatalf("%s, %s: %s", s.name, s.left, r.story())
		}
		t.Logf("%s, %s: %s; %s", s.name, s.left, r, time.Since(begun).Round(100*time.Millisecond))
		states, steps, searched = states+r.states, steps+r.steps, searched+1
		debug.FreeOSMemory()
	}
	t.Logf("together %d states, %d steps", states, steps)
	keep(t, start, "explore", "EveryState", map[string]int{"scenes": searched, "states": states, "steps": steps})
}

// Where two ways lead to one state, the machines at their ends are one for the search.
// They have to be one for everything that may come after, too.
func TestStatesThatCountAsOneBehaveAlike(t *testing.T) {
	t.Parallel()
	compared := 0
	for _, s := range []scene{
		at2("two databases", budget{losses: 1, operators: 1}), rivals("two transactions on one row", 1, budget{}),
		saga(budget{crashes: 1, refusals: 1}), tcc(budget{crashes: 1}), message(budget{crashes: 1}),
	} {
		e := newExplorer(&s)
		e.ms.compare = 4
		if r := e.search(50_000); r.bad != "" {
			t.Fatalf("%s: %s", s.name, r.story())
		}
		compared += e.ms.compared
	}
	if compared < 500 {
		t.Errorf("only %d pairs were compared", compared)
	}
	t.Logf("%d pairs compared", compared)
}

// Each planted fault is found. The trace is a shortest one.
func TestPlantedFaultsAreFound(t *testing.T) {
	t.Parallel()
	crash := budget{crashes: 1}
	found := newFound(t, "explore-planted", "TestPlanted")
	for _, c := range []struct {
		planted plant
		scene   scene
		bad     string
	}{
		{plantNaive, at2("", crash), "commit was told"},
		{plantNaiveRollback, at2("", crash), "rollback was told"},
		{plantUnforcedRegister, at2("", crash), "the registration of B1 was answered"},
		{plantEarlyCommit, at2("", crash), "is no branch of X1"},
		{plantOpinion, at2("", budget{}), "has not committed locally"},
		{plantEarlyWithdrawal, at2("", budget{}), "withdrew and has committed locally"},
		{plantUnknownUndoes, at2("", budget{crashes: 1, janitors: 1}), "nobody was told that X1 is rolled back"},
		{plantUndecided, at2("", budget{janitors: 1}), "nobody was told that X1 is rolled back"},
		{plantByBranch, row("", budget{}), "does not fit"},
		{plantLyingDisk, at2("", crash), "what is left says undecided"},
		{plantNoRetry, at2("", budget{losses: 1}), "from here nothing leads"},
		{plantEarlyDone, at2("", budget{}), "from here nothing leads"},
		{plantRollbackBeside, at2("", budget{}), "from here nothing leads"},
		{plantNoFence, saga(budget{refusals: 1}), "the effect of B1 is there"},
		{plantOpinion, tcc(budget{}), "was not tried"},
		{plantSilentSender, message(budget{}), "the sender has committed"},
	} {
		t.Run(c.planted.String(), func(t *testing.T) {
			t.Parallel()
			defer found.add(t)
			s := c.scene
			s.planted = c.planted
			r := newExplorer(&s).search(1_000_000)
			if !strings.Contains(r.bad, c.bad) {
				t.Fatalf("want %q, got %q: %s", c.bad, r.bad, r)
			}
			t.Log(r.story())
		})
	}
}

// What the canonical form leaves out is listed by name; a name that is gone would hide
// that the field goes by another.
func TestWhatIsLeftOutIsThere(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	var walk func(reflect.Type)
	seen := map[reflect.Type]bool{}
	walk = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() { //nolint:exhaustive // the others lead nowhere
		case reflect.Map:
			walk(typ.Key())
			walk(typ.Elem())
		case reflect.Slice, reflect.Array, reflect.Pointer:
			walk(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				found[typ.Name()+"."+typ.Field(i).Name] = true
				walk(typ.Field(i).Type)
			}
		}
	}
	walk(reflect.TypeFor[core.Machine]())
	for name := range leftOut {
		if !found[name] {
			t.Errorf("there is no %s", name)
		}
	}
}
