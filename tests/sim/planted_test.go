package sim

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mostSeeds is how many seeds may be needed to find a planted fault.
const mostSeeds = 3000

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
	all := Planted()
	took, errs := make([]int, len(all)), make([]error, len(all))
	var next atomic.Int64
	var searches sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		searches.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				took[i], errs[i] = search(Options{Planted: all[i].Name}, mostSeeds)
			}
		})
	}
	searches.Wait()
	for i, p := range all {
		if count.add(took[i]); took[i] == 0 {
			t.Errorf("%s: %s: not found in %d seeds", p.Name, p.Text, mostSeeds)
		} else {
			t.Logf("%-26s after %4d seeds: %v", p.Name, took[i], errs[i])
		}
	}
	count.keep(t, begun, "sim-planted", "go test ./tests/sim -run Planted -v")
}
