package pebblestore_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/handfast/handfast/tc/store/pebblestore"
)

// Wherever the power goes while a store is opened, and whichever names of the directory
// are on the disk that were not synced: it can be opened afterwards.
func TestAPowerLossWhileItOpensIsNoDamage(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	for _, what := range []string{"a new store", "one that is there"} {
		var mu sync.Mutex // Pebble removes files in a goroutine of its own
		clones := 0
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			clones++
			for seed := range uint64(8) {
				left := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, uint64(clones)))})
				s, err := pebblestore.Open("store", pebblestore.WithFS(left), pebblestore.WithMemTableSize(256<<10))
				if err != nil {
					t.Errorf("%s, call %d, %s, seed %d: %v", what, clones, op.Path, seed, err)
					continue
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			return nil
		}))
		s, err := pebblestore.Open("store", pebblestore.WithFS(fs))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if clones < 20 {
			t.Errorf("%s: only %d calls", what, clones)
		}
	}
}
