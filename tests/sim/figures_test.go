package sim

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

var figuresFlag = flag.String("sim.figures", "", "write what was counted into this directory; see package figures")

// keep writes the figures of a run, if that is asked for.
func keep(t *testing.T, begun time.Time, r figures.Run) {
	t.Helper()
	if err := figures.Keep(*figuresFlag, begun, r); err != nil {
		t.Error(err)
	}
}

// keepSimulation keeps what happened in a run of TestSimulation that planted nothing.
func keepSimulation(t *testing.T, begun time.Time, seeds uint64, total map[string]int, failures ...string) {
	t.Helper()
	if *plantedFlag != "" || *promisesFlag || *accidentFlag != "" || *jobsFlag > 1 || *busyFlag > 1 {
		return
	}
	r := figures.Run{
		Name: "sim", Command: fmt.Sprintf("go test ./tests/sim -run Simulation -seeds %d", *seedsFlag),
		Counts: map[string]int64{"seeds": int64(seeds)}, Failures: failures,
	}
	if *firstFlag != 1 {
		r.Command += fmt.Sprintf(" -first %d", *firstFlag)
	}
	for what, n := range total {
		r.Counts[what] = int64(n)
		if isFault(what) {
			r.Counts["faults of every kind"] += int64(n)
		}
	}
	keep(t, begun, r)
}

// isFault tells whether a count is of something that went wrong because the simulation
// wanted it to.
func isFault(what string) bool {
	switch what {
	case "messages lost", "messages doubled", "messages delayed", "tries doubled", "connections broken", "connections broken at COMMIT", "disk failures":
		return true
	}
	return strings.HasPrefix(what, "faults: ") || strings.HasPrefix(what, "user code that ")
}

// finds counts faults that were planted, and found.
type finds struct{ all, found, seeds int64 }

func (p *finds) add(seeds int) {
	p.all++
	p.seeds += int64(seeds)
	if seeds > 0 {
		p.found++
	}
}

func (p *finds) keep(t *testing.T, begun time.Time, name, command string) {
	t.Helper()
	r := figures.Run{Name: name, Command: command, Counts: map[string]int64{"planted": p.all, "found": p.found, "seeds that it took": p.seeds}}
	if p.found < p.all {
		r.Failures = []string{fmt.Sprintf("%d were not found", p.all-p.found)}
	}
	keep(t, begun, r)
}
