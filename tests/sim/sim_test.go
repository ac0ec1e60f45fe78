package sim

import (
	"flag"
	"testing"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "play this seed only")
	seedsFlag = flag.Int("seeds", 300, "how many seeds to play")
)

func TestSimulation(t *testing.T) {
	total := map[string]int{}
	for seed := uint64(1); seed <= uint64(*seedsFlag); seed++ {
		if *seedFlag > 0 {
			seed = *seedFlag
		}
		r := Run(seed, Options{Trace: *seedFlag > 0})
		for k, n := range r.Counts {
			total[k] += n
		}
		total["events"] += r.Events
		if r.Err != nil {
			for _, l := range r.Trace {
				t.Log(l)
			}
			t.Fatalf("seed %d: %v", seed, r.Err)
		}
		if *seedFlag > 0 {
			break
		}
	}
	t.Log(total)
}
