package sim

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "play this seed only, and show what happens with -v")
	firstFlag    = flag.Uint64("first", 1, "the first of -seeds")
	seedsFlag    = flag.Int("seeds", 1000, "how many seeds to play")
	shortFlag    = flag.Bool("sim.short", false, "only name the seed that fails")
	promisesFlag = flag.Bool("sim.promises", false, "check promises alone, and not the rules that they rest on")
	jobsFlag     = flag.Int("sim.jobs", 1, "multiply how many jobs a run has")
	busyFlag     = flag.Int("sim.busy", 1, "multiply how long jobs begin and faults happen, and their number")
	accidentFlag = flag.String("sim.accident", "", "restore, adopt or failover: see Options")
	plantedFlag  = flag.String("sim.planted", "", "the name of a fault to plant; see TestPlantedFaultsAreFound")
)

// TestSimulation plays seeds and checks the promises at every step. After a failure:
//
//	go test ./tests/sim -run Simulation -seed N -v
func TestSimulation(t *testing.T) {
	t.Parallel()
	if names := nameOf(Planted()); *plantedFlag != "" && !slices.Contains(names, *plantedFlag) {
		t.Fatalf("-sim.planted: no fault is called %q; there are %s", *plantedFlag, strings.Join(names, ", "))
	}
	if !slices.Contains([]string{"", "restore", "adopt", "failover"}, *accidentFlag) {
		t.Fatalf("-sim.accident: %q; want restore, adopt or failover", *accidentFlag)
	}
	o := Options{Planted: *plantedFlag, PromisesOnly: *promisesFlag, Jobs: *jobsFlag, Busy: *busyFlag}
	o.Restore, o.Adopt, o.FailOver = *accidentFlag == "restore", *accidentFlag == "adopt", *accidentFlag == "failover"
	if *seedFlag > 0 {
		o.Trace = true
		r := Run(*seedFlag, o)
		if r.Err == nil {
			t.Logf("every promise is kept\n%s\n%s", strings.Join(r.Trace, "\n"), counted(r.Counts))
			return
		}
		report(t, *seedFlag, o)
		return
	}
	begun := time.Now()
	total := map[string]int{}
	for seed := *firstFlag; seed < *firstFlag+uint64(*seedsFlag); seed++ {
		r := Run(seed, o)
		for k, n := range r.Counts {
			total[k] += n
		}
		total["events"] += r.Events
		total["seconds of virtual time"] += int(r.Time.Seconds())
		if r.Err != nil && *shortFlag {
			t.Fatalf("seed %d: %v", seed, r.Err)
		}
		if r.Err != nil {
			keepSimulation(t, begun, seed-*firstFlag+1, total, fmt.Sprintf("seed %d: %v", seed, r.Err))
			report(t, seed, o)
			return
		}
	}
	keepSimulation(t, begun, uint64(*seedsFlag), total)
	took := time.Since(begun)
	t.Logf("%d seeds in %s, %.0f transactions and %.0f events a second\n%s", *seedsFlag, took.Round(time.Millisecond),
		float64(total["transactions begun"])/took.Seconds(), float64(total["events"])/took.Seconds(), counted(total))
	// Runs in which nothing happens would keep every promise.
	for _, k := range happens {
		if total[k] < *seedsFlag/100 {
			t.Errorf("%q happened %d times in %d seeds", k, total[k], *seedsFlag)
		}
	}
}

// happens is what a thousand runs have to see.
var happens = []string{
	"decided COMMITTED", "decided ROLLEDBACK", "committed with effects", "rolled back with branches", "conflicts", "deadlocks",
	"messages lost", "messages doubled", "messages delayed", "connections broken", "connections broken at COMMIT", "disk failures",
	"user code that failed", "user code that hung", "user code that panicked", "user code that was late", "leftovers settled by a janitor",
	"plain sessions committed", "jobs of kind workflow", "jobs of kind saga", "jobs of kind tcc", "jobs of kind publish", "jobs of kind nested",
	"jobs of kind dtm saga", "jobs of kind dtm tcc", "jobs of kind dtm msg", "jobs of kind dtm workflow",
	"waiters that gave way", "rows read by relays that were undecided", "snapshots", "serialization failures", "gids used from two places", "keys used again", "requests of a gid repeated",
	"faults: operator", "faults: clock jump", "faults: one-way partition", "faults: crash of a coordinator",
}

func counted(counts map[string]int) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%9d %s\n", counts[k], k)
	}
	return b.String()
}

func nameOf(planted []Plant) (names []string) {
	for _, p := range planted {
		names = append(names, p.Name)
	}
	return names
}

// report shrinks a failed run and shows it.
func report(t *testing.T, seed uint64, o Options) {
	t.Helper()
	s := Shrink(seed, o)
	again := fmt.Sprintf("go test ./tests/sim -run Simulation -seed %d -v", seed)
	if o.Planted != "" {
		again += " -sim.planted " + o.Planted
	}
	if o.Jobs > 1 || o.Busy > 1 {
		again += fmt.Sprintf(" -sim.jobs %d -sim.busy %d", o.Jobs, o.Busy)
	}
	for name, on := range map[string]bool{"restore": o.Restore, "adopt": o.Adopt, "failover": o.FailOver} {
		if on {
			again += " -sim.accident " + name
		}
	}
	if *promisesFlag {
		again += " -sim.promises"
	}
	t.Errorf("seed %d: %v\nrepeat it: %s\nshortened by %d jobs and faults; what is left:\n  %s\n  %s\n%s", seed, s.Err, again, s.Gone,
		strings.Join(s.Jobs, "\n  "), strings.Join(s.Faults, "\n  "), strings.Join(s.Trace, "\n"))
}

// One seed is one run, bit for bit.
func TestASeedIsOneRun(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		a, b := Run(seed, Options{}), Run(seed, Options{})
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Fatalf("seed %d: two runs differ: %x after %d events, %x after %d", seed, a.Hash, a.Events, b.Hash, b.Events)
		}
	}
}

// To look does not change a run.
func TestTracingChangesNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		if a, b := Run(seed, Options{}), Run(seed, Options{Trace: true}); a.Hash != b.Hash {
			t.Fatalf("seed %d: tracing changes it", seed)
		}
	}
}

func BenchmarkSimulation(b *testing.B) {
	txs, events, seed := 0, 0, uint64(1)
	for b.Loop() {
		r := Run(seed, Options{})
		txs += r.Counts["transactions begun"]
		events += r.Events
		seed++
	}
	b.ReportMetric(float64(txs)/b.Elapsed().Seconds(), "tx/s")
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}

// A store that was restored from a copy is in quarantine: nothing that it can't know is
// told, and nothing is done on its word.
func TestARestoredStoreContradictsNobody(t *testing.T) {
	t.Parallel()
	told := 0
	for seed := uint64(1); seed <= 300; seed++ {
		o := Options{Restore: true}
		r := Run(seed, o)
		if r.Err != nil {
			report(t, seed, o)
			return
		}
		told += r.Counts["decided COMMITTED"]
	}
	if told < 300 {
		t.Errorf("only %d transactions were committed", told)
	}
}

// A copy that was adopted is the truth. What it lacks is reported where a database shows
// it, and everything else keeps every promise.
func TestAnAdoptedStoreIsNeverSilent(t *testing.T) {
	t.Parallel()
	playAccidents(t, Options{Adopt: true}, "transactions that an accident broke, reported", "leftovers that nobody knows, reported", "alarms after an accident")
}

// The same goes for a database that lost commits which were voted for.
func TestAFailedOverDatabaseIsNeverSilent(t *testing.T) {
	t.Parallel()
	playAccidents(t, Options{FailOver: true}, "transactions that an accident broke, reported", "alarms after an accident")
}

func playAccidents(t *testing.T, o Options, happens ...string) {
	t.Helper()
	total := map[string]int{}
	for seed := uint64(1); seed <= 300; seed++ {
		r := Run(seed, o)
		if r.Err != nil {
			report(t, seed, o)
			return
		}
		for k, n := range r.Counts {
			total[k] += n
		}
	}
	t.Log("\n" + counted(total))
	for _, k := range happens {
		if total[k] == 0 {
			t.Errorf("%q never happened", k)
		}
	}
}

// What is left of a failed run fails in the same way, and is less.
func TestShrinkingLeavesLittle(t *testing.T) {
	t.Parallel()
	o := Options{Planted: "no-guard"}
	seed, _ := search(o, mostSeeds)
	a, b := Shrink(uint64(seed), o), Shrink(uint64(seed), o)
	if a.Err == nil || a.Hash != b.Hash {
		t.Fatalf("shortened twice: %v and %v", a.Err, b.Err)
	}
	if len(a.Jobs) > 8 || len(a.Trace) == 0 {
		t.Errorf("%d jobs are left: %v", len(a.Jobs), a.Jobs)
	}
}
