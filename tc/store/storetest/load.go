package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// written is what one writer knows of its batches, in the order of their Apply.
type written struct {
	id       xid.ID
	position uint64
	told     bool // it was synced, and Apply had returned before the power was lost
}

// load lets several goroutines write until it is stopped.
type load struct {
	store store.Store
	stop  atomic.Bool
	mu    sync.Mutex
	sc    *script
	each  [][]written
	syncs int // batches that were synced and told
	wg    sync.WaitGroup
	woken chan struct{} // receives after each told batch
}

func startLoad(t *testing.T, s store.Store, writers int) *load {
	t.Helper()
	l := &load{store: s, sc: newScript(s), each: make([][]written, writers), woken: make(chan struct{}, 1)}
	for w := range writers {
		l.wg.Go(func() {
			for n := 0; !l.stop.Load(); n++ {
				if err := l.write(w, n%3 == w%3); err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
			}
		})
	}
	return l
}

// write is one batch of a begin and a registration.
func (l *load) write(writer int, sync bool) error {
	l.mu.Lock()
	tx, records := l.sc.whole(2)
	l.mu.Unlock()
	pos, err := l.store.Apply(store.Batch{Records: records}, sync)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.each[writer] = append(l.each[writer], written{tx.XID, pos, sync})
	if sync {
		l.syncs++
		select {
		case l.woken <- struct{}{}:
		default:
		}
	}
	return nil
}

// told gives what every writer knows at this moment, after n synced batches.
func (l *load) told(n int) [][]written {
	for range l.woken {
		l.mu.Lock()
		if l.syncs >= n {
			break
		}
		l.mu.Unlock()
	}
	defer l.mu.Unlock()
	out := make([][]written, len(l.each))
	for i := range l.each {
		out[i] = append(out[i], l.each[i]...)
	}
	return out
}

func testPowerLossUnderLoad(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	for _, kept := range []int{0, 10, 30, 50, 70, 90, 100} {
		before := map[xid.ID]bool{}
		for id := range recovered(t, s) {
			before[id] = true
		}
		l := startLoad(t, s, 6)
		told := l.told(40)
		s = h.Crash(t, kept) // while they write
		l.stop.Store(true)
		l.wg.Wait()
		got := recovered(t, s)
		for id := range before {
			if _, ok := got[id]; !ok {
				t.Fatalf("%d %% kept: the recovery before had %s", kept, id)
			}
		}
		checkSurvivors(t, kept, got, told, l.each, s.Position())
	}
}

func checkSurvivors(t *testing.T, kept int, got map[xid.ID]core.Transaction, told, all [][]written, now uint64) {
	t.Helper()
	var highest uint64 // position of anything that survived
	for _, w := range all {
		for _, b := range w {
			tx, ok := got[b.id]
			if ok && tx.Records != 2 {
				t.Fatalf("%d %% kept: %d of the 2 records of a batch", kept, tx.Records)
			}
			if ok {
				highest = max(highest, b.position)
			}
		}
	}
	for _, w := range told {
		for _, b := range w {
			_, ok := got[b.id]
			if b.told && !ok {
				t.Fatalf("%d %% kept: a batch that was told is lost", kept)
			}
			if b.told && b.position >= now {
				t.Fatalf("%d %% kept: position %d was told, and the store is at %d", kept, b.position, now)
			}
		}
	}
	for _, w := range all {
		for _, b := range w {
			if _, ok := got[b.id]; !ok && b.position < highest {
				t.Fatalf("%d %% kept: position %d is lost, %d is not", kept, b.position, highest)
			}
		}
	}
}

func testHorizonFirst(t *testing.T, h Harness) {
	t.Helper()
	for _, kept := range []int{0, 50, 100} {
		s := h.Store()
		txs := finish(t, s, &script{meta: s.Meta(), counter: uint64(kept)}, 5)
		apply(t, s, store.Batch{}, true)
		if n, err := s.Expire(context.Background(), txs[4].Finished.Add(time.Second), 100); err != nil || n < 5 {
			t.Fatalf("%d dropped, %v", n, err)
		}
		s = h.Crash(t, kept)
		if got := s.Meta().Horizon; got.Before(txs[4].XID.Begin()) {
			t.Fatalf("%d %% kept: horizon %s, want %s or later", kept, got, txs[4].XID.Begin())
		}
	}
}

func testManyRecords(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	tx, r := newScript(s).begin()
	batch := store.Batch{Records: []core.Record{r}}
	for n := range 600 {
		r := core.Record{
			XID: tx.XID, Seq: tx.Records, Time: r.Time, Kind: core.RecordRegister,
			Branch: xid.BranchID{1, byte(n), byte(n >> 8)}, Resource: xid.ResourceID{1}, Mode: core.ModeAT,
		}
		fold(&tx, r)
		batch.Records = append(batch.Records, r)
	}
	apply(t, s, batch, true)
	same(t, recovered(t, h.Reopen(t))[tx.XID], tx)
}

// A batch can be seen before its Apply has returned. Whoever then asks for the
// position must not get an older one, or it tells what is not durable.
func testSeenHasPosition(t *testing.T, h Harness) {
	t.Helper()
	const n = 500
	s := h.Store()
	sc := newScript(s)
	txs, batches := make([]core.Transaction, n), make([]store.Batch, n)
	for i := range n {
		tx, records := sc.whole(all)
		txs[i], batches[i] = tx, store.Batch{Records: records, Finished: []core.Transaction{tx}}
	}
	positions := make([]uint64, n)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			pos, err := s.Apply(batches[i], false)
			if err != nil {
				t.Errorf("Apply: %v", err)
				return
			}
			positions[i] = pos
		}
	})
	seen := make([]uint64, n)
	deadline := time.Now().Add(time.Minute)
	for i := range n {
		for ok := false; !ok; {
			var err error
			if _, ok, err = s.Finished(txs[i].XID); err != nil || time.Now().After(deadline) {
				t.Fatalf("transaction %d can't be seen: %v", i, err)
			}
		}
		seen[i] = s.Position()
	}
	wg.Wait()
	for i := range n {
		if seen[i] < positions[i] {
			t.Fatalf("transaction %d was seen at position %d, its batch is at %d", i, seen[i], positions[i])
		}
	}
}

func testEndedContext(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	finish(t, s, sc, 2)
	_, records := sc.whole(1)
	apply(t, s, store.Batch{Records: records}, false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Recover(ctx, func(core.Transaction) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Recover: %v", err)
	}
	if err := s.ListFinished(ctx, xid.ID{}, func(core.Transaction) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("ListFinished: %v", err)
	}
	setValue(t, s, "space", "name", []byte{1})
	if err := s.ListValues(ctx, "space", "", func(string, []byte) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("ListValues: %v", err)
	}
	if _, err := s.Expire(ctx, base.Add(time.Hour), 10); !errors.Is(err, context.Canceled) {
		t.Errorf("Expire: %v", err)
	}
}

func testNestedUse(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	txs := finish(t, s, newScript(s), 3)
	closed := make(chan error, 1)
	n := 0
	err := s.ListFinished(context.Background(), xid.ID{}, func(tx core.Transaction) bool {
		if n == 0 {
			go func() { closed <- s.Close() }()
		}
		n++
		// Found, or closed, but never stuck behind Close.
		got, ok, err := s.Finished(tx.XID)
		if err == nil && (!ok || got.XID != tx.XID) {
			t.Errorf("%t %v", ok, err)
		}
		return true
	})
	if err != nil || n != len(txs) {
		t.Errorf("%d listed, %v", n, err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

func testFailureReachesAll(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	var mu sync.Mutex
	var wg sync.WaitGroup
	started := make(chan struct{}, 8)
	for w := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				mu.Lock()
				_, records := sc.whole(3)
				mu.Unlock()
				if _, err := s.Apply(store.Batch{Records: records}, w%2 == 0); err != nil {
					if !errors.Is(err, store.ErrFailed) {
						t.Errorf("%v", err)
					}
					return
				}
				if n == 10 {
					started <- struct{}{}
				}
			}
		})
	}
	for range 8 {
		<-started
	}
	h.BreakWrites(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("somebody still waits for a store that has failed")
	}
}
