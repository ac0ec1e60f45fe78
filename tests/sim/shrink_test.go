package sim

import (
	"flag"
	"testing"
)

var shrunkFlag = flag.Int("sim.shrunk", 0, "shorten so many failures of each planted fault, and show what is left of them; takes minutes")

// TestHowShortFailuresGet shows how many jobs and faults are left of what planted
// faults break.
//
//	go test ./tests/sim -run HowShort -sim.shrunk 3 -v -timeout 1h
func TestHowShortFailuresGet(t *testing.T) {
	t.Parallel()
	if *shrunkFlag == 0 {
		t.Skip("-sim.shrunk")
	}
	all, allJobs, allFaults := 0, 0, 0
	for _, p := range Planted() {
		o := Options{Planted: p.Name}
		n, jobs, faults := 0, 0, 0
		for seed := uint64(1); seed <= mostSeeds && n < *shrunkFlag; seed++ {
			if Run(seed, o).Err == nil {
				continue
			}
			s := Shrink(seed, o)
			n++
			jobs += len(s.Jobs)
			faults += len(s.Faults)
		}
		if n == 0 {
			continue
		}
		t.Logf("%-28s %d failures: %.1f jobs and %.1f faults are left", p.Name, n, float64(jobs)/float64(n), float64(faults)/float64(n))
		all, allJobs, allFaults = all+n, allJobs+jobs, allFaults+faults
	}
	t.Logf("%-28s %d failures: %.2f jobs and %.2f faults are left", "all", all, float64(allJobs)/float64(all), float64(allFaults)/float64(all))
}
