package pebblestore_test

import (
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/tc/store/storetest"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		t.Helper()
		h := &harness{mem: vfs.NewCrashableMem()}
		h.open(t)
		return h
	})
}

// harness runs the store on a file system in memory that can lose power.
type harness struct {
	mem    *vfs.MemFS
	store  *pebblestore.Store
	broken *atomic.Bool
}

func (h *harness) open(t *testing.T) {
	t.Helper()
	broken := new(atomic.Bool)
	fs := errorfs.Wrap(h.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	}))
	s, err := pebblestore.Open("store", pebblestore.WithFS(fs))
	if err != nil {
		t.Fatal(err)
	}
	h.store, h.broken = s, broken
	t.Cleanup(func() {
		broken.Store(false)
		_ = s.Close() // the tests look at Close where it matters
	})
}

func (h *harness) Store() store.Store { return h.store }

func (h *harness) Reopen(t *testing.T) store.Store {
	t.Helper()
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	h.open(t)
	return h.store
}

func (h *harness) Crash(t *testing.T, kept int) store.Store {
	t.Helper()
	h.mem = h.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(1, uint64(kept)))})
	h.open(t)
	return h.store
}

func (h *harness) BreakWrites(t *testing.T) {
	t.Helper()
	h.broken.Store(true)
}
