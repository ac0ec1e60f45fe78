package sim

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var reportFlag = flag.String("sim.report", "", "write docs/simulation.md to this file; takes some minutes")

// TestReport writes what the documentation says about the simulation.
//
//	go test ./tests/sim -run Report -sim.report ../../docs/simulation.md -timeout 1h
func TestReport(t *testing.T) {
	t.Parallel()
	if *reportFlag == "" {
		t.Skip("-sim.report")
	}
	var b strings.Builder
	b.WriteString(reportHead)
	b.WriteString("| planted | rule | what it does | seeds | by promises alone |\n|---|---|---|---:|---:|\n")
	for _, p := range Planted() {
		all, _ := search(Options{Planted: p.Name}, mostSeeds)
		promises, _ := search(Options{Planted: p.Name, PromisesOnly: true}, mostSeeds)
		if all == 0 {
			t.Errorf("%s is not found in %d seeds", p.Name, mostSeeds)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", p.Name, p.Rule, p.Text, seedsText(all), seedsText(promises))
	}
	b.WriteString(reportSource)
	b.WriteString("| planted | what it does | seeds |\n|---|---|---:|\n")
	for _, m := range mutants {
		found, err := searchMutant(t, m)
		if err != nil || found == "" {
			t.Errorf("%s: %v, found %q", m.name, err, found)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m.name, m.text, found)
	}
	begun := time.Now()
	total := map[string]int{}
	for seed := range *seedsFlag {
		r := Run(uint64(seed+1), Options{})
		if r.Err != nil {
			t.Fatalf("seed %d: %v", seed+1, r.Err)
		}
		for k, n := range r.Counts {
			total[k] += n
		}
		total["events"] += r.Events
		total["seconds of virtual time"] += int(r.Time.Seconds())
	}
	took := time.Since(begun)
	fmt.Fprintf(&b, reportFigures, *seedsFlag, *seedsFlag, took.Round(time.Second),
		float64(total["transactions begun"])/took.Seconds(), float64(total["events"])/took.Seconds(), strings.TrimRight(counted(total), "\n"))
	b.WriteString(reportTail)
	if err := os.WriteFile(*reportFlag, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func seedsText(n int) string {
	if n == 0 {
		return "not in " + strconv.Itoa(mostSeeds)
	}
	return strconv.Itoa(n)
}

const reportHead = `# Simulation

Written by ` + "`go test ./tests/sim -run Report -sim.report ../../docs/simulation.md -timeout 1h`" + `.

Package [tests/sim](../tests/sim/doc.go) plays coordinators, services, clients and databases
in one process, with virtual time and one queue of events, under one seed: the real state
machines, the real graph of waits and the real encoding of the log, with models of the network,
the disks, Postgres and package rm around them. One seed is one run, bit for bit. Its
documentation says which part is real and which a model, what goes wrong in a run, and what is
checked at every step.

| | |
|---|---|
| Play 1,000 seeds | ` + "`go test ./tests/sim`" + ` |
| 100,000 seeds | ` + "`go test ./tests/sim -run Simulation -seeds 100000 -timeout 2h`" + ` |
| Repeat a failure, with its trace, shortened | ` + "`go test ./tests/sim -run Simulation -seed N -v`" + ` |
| Longer, and denser, runs | ` + "`go test ./tests/sim -run Simulation -sim.busy 10 -sim.jobs 3`" + ` |
| Accidents beyond the promises | ` + "`go test ./tests/sim -run Simulation -sim.accident adopt`" + `, or ` + "`failover`" + `, or ` + "`restore`" + ` |
| See one planted fault | ` + "`go test ./tests/sim -run Simulation -sim.planted skip-flush`" + ` |
| All of them | ` + "`go test ./tests/sim -run Planted -sim.all -v`" + ` |
| Those in the source of real code | ` + "`go test ./tests/sim -run Source -sim.source -v -timeout 1h`" + ` |
| Speed | ` + "`go test ./tests/sim -run - -bench .`" + ` |

## Planted faults

Each switches one rule off: in a model, or at the boundary of the real machine, by changing what
goes in, what comes out, or what is written. The last column leaves out the checks of rules, and
counts only what somebody outside could have seen broken.

`

const reportSource = `
Not found by promises alone are ` + "`early-compensation`" + `, which a fence in the participant makes
harmless, and what is only visible in the order of things.

These are faults in the source of real code. No switch for them exists there: the test builds
the simulation with another text in place of a line (` + "`go build -overlay`" + `).

`

const reportFigures = `
## Figures

` + "`go test ./tests/sim -run Simulation -seeds %d`" + `: %d seeds in %s on one core,
%.0f global transactions and %.0f events a second, and no promise broken. What happened in them:

` + "```" + `
%s
` + "```" + `
`

const reportTail = `
## What it has found

| fault | found by | what became of it |
|---|---|---|
| After a step back of the system's clock the coordinator's clock stood still until the old time of day was reached: no pause, retry, deadline or wait ended meanwhile. | steps of up to two hours; seed 3 at that time | It goes on by the time that passes. ` + "`TestClockGoesOnWhereTheSystemsWasSetBack`" + `, and the planted fault ` + "`clock-stands`" + `. |
| Two runs of a workflow at the same time, as after a timeout or a restart, both take a step that neither finds remembered. In one it is refused for good and remembered as without effect; the other has the effect, and can't say so any more. A rollback compensated nothing, and the effect stayed. | random refusals in steps; seed 5804 at that time | What was refused or withdrawn is undone: ` + "`TestWhatWithdrewIsUndoneWhateverTheOutcome`" + `, and the planted fault ` + "`core-withdrawn-is-proof`" + `. |
| A call that arrives twice as one attempt, the first copy refused for good and the second carried out, left an effect that nobody compensated. | calls that are doubled; seed 1556 at that time | The same: ` + "`TestARefusalIsUndoneHoweverItCame`" + `, and ` + "`core-refusal-is-proof`" + `. |
| Attempts of a call are counted anew after a restart, so an answer to an attempt of before was taken for one to the attempt of the same number that is under way. A refusal then let the compensation be called while the action ran. | the check that a compensation waits for its action; seed 79 at that time | Calls name the incarnation: ` + "`TestAPlanIsCarriedOut`" + `, and the planted fault ` + "`stale-attempt`" + `. |
| A waiter whose own row lock was in the way of settling the decided holder itself did not look for that meanwhile, and waited until its lock timeout where nobody else settled the holder. | a bound on how long row locks of a waiter hold up settling; seed 4377 at that time | It looks then, too: ` + "`" + `TestAWaiterInItsOwnWayGivesWay` + "`" + `. |
`
