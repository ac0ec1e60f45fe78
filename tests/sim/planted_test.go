package sim

import (
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var allFlag = flag.Bool("sim.all", false, "search for planted faults until they are found; most show within a few seeds, and some take a minute together")

const (
	// mostSeeds is how many seeds may be needed to find a planted fault.
	mostSeeds = 3000
	// fewSeeds find most of them.
	fewSeeds = 50
)

// search gives how many seeds it takes to find a planted fault, and what is found;
// 0: it is not found.
func search(o Options, most int) (seeds int, err error) {
	for seed := 1; seed <= most; seed++ {
		if r := Run(uint64(seed), o); r.Err != nil {
			return seed, r.Err
		}
	}
	return 0, nil
}

// The simulation is worth something only if it can fail.
func TestPlantedFaultsAreFound(t *testing.T) {
	t.Parallel()
	begun, count := time.Now(), finds{}
	all, most := Planted(), fewSeeds
	if *allFlag {
		most = mostSeeds
	}
	took, errs := make([]int, len(all)), make([]error, len(all))
	var next atomic.Int64
	var searches sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		searches.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				took[i], errs[i] = search(Options{Planted: all[i].Name}, most)
			}
		})
	}
	searches.Wait()
	missed := 0
	for i, p := range all {
		switch count.add(took[i]); {
		case took[i] > 0:
			t.Logf("%-26s after %4d seeds: %v", p.Name, took[i], errs[i])
		case *allFlag:
			t.Errorf("%s: %s: not found in %d seeds", p.Name, p.Text, most)
		default:
			missed++
		}
	}
	if missed > len(all)/4 {
		t.Errorf("%d of %d are not found in %d seeds", missed, len(all), most)
	}
	if *allFlag {
		count.keep(t, begun, "sim-planted", "go test ./tests/sim -run Planted -sim.all -v")
	}
}
