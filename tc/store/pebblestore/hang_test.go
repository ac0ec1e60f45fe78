package pebblestore_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

// within fails the test when f hangs.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// switchable fails the writes it is told to once it is switched on.
func switchable(fs vfs.FS, on *atomic.Bool, fault error, which func(errorfs.Op) bool) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && which(op) {
			return fault
		}
		return nil
	}))
}

func anyWrite(errorfs.Op) bool { return true }

func tableWrite(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".sst") }

func newLog(op errorfs.Op) bool {
	return strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite)
}

// A disk that is still full when the coordinator starts again: Pebble tries for
// ever to write down what it read from the log.
func TestOpenOnAFullDiskSaysSo(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	s, err := pebblestore.Open("store", pebblestore.WithFS(mem))
	if err != nil {
		t.Fatal(err)
	}
	writeBatch(t, s, 0, 100)
	for name, which := range map[string]func(errorfs.Op) bool{"every write": anyWrite, "tables": tableWrite} {
		crashed := mem.CrashClone(vfs.CrashCloneCfg{})
		full := new(atomic.Bool)
		full.Store(true)
		within(t, name, func() {
			_, err := pebblestore.Open("store", pebblestore.WithFS(switchable(crashed, full, syscall.ENOSPC, which)))
			if !errors.Is(err, store.ErrFull) {
				t.Errorf("%s: %v, want %v", name, err, store.ErrFull)
			}
		})
		again, err := pebblestore.Open("store", pebblestore.WithFS(crashed))
		if err != nil {
			t.Fatalf("%s: with room again: %v", name, err)
		}
		if n := count(t, again); n != 100 {
			t.Fatalf("%s: %d records, want 100", name, n)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// When a write fails, everybody who is just writing gets the error.
func TestAFailureReachesEveryWriter(t *testing.T) {
	t.Parallel()
	for name, which := range map[string]func(errorfs.Op) bool{
		"every write": anyWrite, "tables": tableWrite, "a new log": newLog,
	} {
		for _, sync := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				failUnderLoad(t, which, sync)
			})
		}
	}
}

func failUnderLoad(t *testing.T, which func(errorfs.Op) bool, sync_ bool) {
	t.Helper()
	full, fatal := new(atomic.Bool), make(chan error, 100)
	s, err := pebblestore.Open("store", pebblestore.WithMemTableSize(64<<10),
		pebblestore.WithFS(switchable(vfs.NewCrashableMem(), full, syscall.ENOSPC, which)),
		pebblestore.WithFatal(func(err error) { fatal <- err }))
	if err != nil {
		t.Fatal(err)
	}
	var counter, written atomic.Uint64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				var b store.Batch
				for range 10 {
					r := begin(s, counter.Add(1))
					r.Name = strings.Repeat("n", 100)
					b.Records = append(b.Records, r)
				}
				if _, err := s.Apply(b, sync_); err != nil {
					if !errors.Is(err, store.ErrFailed) || !errors.Is(err, store.ErrFull) {
						t.Errorf("%v", err)
					}
					return
				}
				if written.Add(1) == 100 {
					full.Store(true)
				}
			}
		})
	}
	within(t, "Apply", wg.Wait)
	within(t, "fatal", func() {
		if err := <-fatal; !errors.Is(err, store.ErrFull) {
			t.Errorf("fatal was told %v", err)
		}
	})
	within(t, "reading", func() {
		if err := s.Recover(t.Context(), func(core.Transaction) error { return nil }); err != nil {
			t.Errorf("Recover: %v", err)
		}
	})
	within(t, "Close", func() { _ = s.Close() })
	if n := len(fatal); n != 0 {
		t.Errorf("fatal was called %d times more", n)
	}
}
