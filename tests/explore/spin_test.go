package explore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// spin checks docs/spec/commit.pml with the given definitions, and gives what the checker
// said. With live the property that every run ends settled is checked, too.
func spin(t *testing.T, live bool, defs ...string) string {
	t.Helper()
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("HANDFAST_REQUIRE_SPIN") != "" {
				t.Fatal(err)
			}
			t.Skipf("%v; HANDFAST_REQUIRE_SPIN=1 makes this a failure", err)
		}
	}
	model, err := filepath.Abs("../../docs/spec/commit.pml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("spin", append(append([]string{"-a"}, defs...), model)...)
	optimize := "-O0" // the checker is compiled longer than it runs
	if *all {
		optimize = "-O2"
	}
	flags := []string{"-w", optimize, "-DVECTORSZ=2048", "-o", "pan", "pan.c"}
	if live {
		run("gcc", flags...)
		return run("./pan", "-a", "-m400000")
	}
	run("gcc", append([]string{"-DSAFETY", "-DNOCLAIM", "-DCOLLAPSE"}, flags...)...)
	return run("./pan", "-m400000")
}

var (
	statesOf = regexp.MustCompile(`([\d.e+]+) states, stored`)
	errorsOf = regexp.MustCompile(`errors: (\d+)`)
	firstOf  = regexp.MustCompile(`pan:1: (.*)`)
)

// The specification keeps its promises, and every run of it ends settled.
func TestSpecification(t *testing.T) {
	t.Parallel()
	type check struct {
		live bool
		defs []string
	}
	checks := []check{{true, []string{"-DN=1", "-DCRASHES=2"}}}
	if *all {
		checks = append(checks,
			check{false, []string{"-DN=2", "-DLOSSES=0", "-DDEATHS=0"}},
			check{true, []string{"-DN=2", "-DLOSSES=0", "-DDEATHS=0"}},
			check{false, []string{"-DN=2"}})
	}
	begun, states := time.Now(), new(atomic.Int64)
	t.Cleanup(func() {
		if states.Load() > 0 { // there is spin
			keep(t, begun, "spec", "Specification$", map[string]int{"searches": len(checks), "states": int(states.Load())})
		}
	})
	for _, c := range checks {
		t.Run(fmt.Sprint(c.defs, c.live), func(t *testing.T) {
			t.Parallel()
			out := spin(t, c.live, c.defs...)
			stored, errs := statesOf.FindStringSubmatch(out), errorsOf.FindStringSubmatch(out)
			if stored == nil || errs == nil || errs[1] != "0" || strings.Contains(out, "search was not completed") || strings.Contains(out, "max search depth too small") {
				t.Fatal(out)
			}
			t.Logf("%s states", stored[1])
			n, err := strconv.ParseFloat(stored[1], 64) // spin writes large numbers as 1.2e+07
			if err != nil {
				t.Fatal(err)
			}
			states.Add(int64(n))
		})
	}
}

// What is planted in the specification is found.
func TestSpecificationFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	found := newFound(t, "spec-planted", "SpecificationFinds")
	for name, c := range map[string]struct {
		live bool
		want string
	}{
		"UNFORCED_DECISION": {false, "dur.outcome==told"},
		"UNFORCED_REGISTER": {false, "dur.reg[j]"},
		"RECREATE":          {false, "!(gone)"},
		"OPINION":           {false, "mem.vote[j]==1"},
		"EARLY_COMMIT":      {false, "told!=1"},
		"EARLY_WITHDRAWAL":  {false, "mem.vote[j]==3"},
		"UNKNOWN_UNDOES":    {false, "told==2"},
		"ROLLBACK_BESIDE":   {true, "acceptance cycle"},
		"DONE_FIRST":        {true, "acceptance cycle"},
		"NO_RETRY":          {true, "acceptance cycle"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer found.add(t)
			out := spin(t, c.live, "-DN=1", "-DPLANT_"+name)
			if first := firstOf.FindString(out); !strings.Contains(first, c.want) {
				t.Fatalf("want %q\n%s", c.want, out)
			}
		})
	}
}
