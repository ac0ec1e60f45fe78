package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

func testIdentity(t *testing.T, h Harness) {
	t.Helper()
	first := h.Store().Meta()
	if first.Store == (xid.StoreID{}) || first.Incarnation != 1 || !first.Horizon.IsZero() || first.QuarantineBelow != 0 {
		t.Fatalf("new store: %+v", first)
	}
	pos := h.Store().Position()
	s := h.Reopen(t)
	if m := s.Meta(); m.Store != first.Store || m.Incarnation != 2 {
		t.Fatalf("reopened: %+v", m)
	}
	if end, ok := s.EndOf(1); !ok || end < pos {
		t.Fatalf("end of incarnation 1 is %d %t, want at least %d", end, ok, pos)
	}
	for _, never := range []uint32{0, 2, 3} {
		if _, ok := s.EndOf(never); ok {
			t.Errorf("incarnation %d has an end", never)
		}
	}
}

func testRecover(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	want := map[xid.ID]core.Transaction{}
	// One record at a time, and interleaved: order within a transaction counts.
	var queues [][]core.Record
	for n := 1; n < all; n++ {
		tx, records := sc.whole(n)
		want[tx.XID] = tx
		queues = append(queues, records)
	}
	for more := true; more; {
		more = false
		for i := range queues {
			if len(queues[i]) > 0 {
				apply(t, s, store.Batch{Records: queues[i][:1]}, false)
				queues[i] = queues[i][1:]
				more = true
			}
		}
	}
	got := recovered(t, h.Reopen(t))
	if len(got) != len(want) {
		t.Fatalf("%d recovered, want %d", len(got), len(want))
	}
	for id := range want {
		same(t, got[id], want[id])
	}
	stop := errors.New("stop")
	n := 0
	if err := h.Store().Recover(context.Background(), func(core.Transaction) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Fatalf("an error of fn has to end the recovery: %d %v", n, err)
	}
}

func testFinished(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	early, records := sc.whole(all)
	apply(t, s, store.Batch{Records: records[:all-1]}, false)
	apply(t, s, store.Batch{Records: records[all-1:], Finished: []core.Transaction{early}}, true)
	// Begun and finished in one batch.
	quick, records := sc.whole(all)
	apply(t, s, store.Batch{Records: records, Finished: []core.Transaction{quick}}, true)
	for range 2 {
		for _, tx := range []core.Transaction{early, quick} {
			got, ok, err := s.Finished(tx.XID)
			if err != nil || !ok {
				t.Fatalf("%t %v", ok, err)
			}
			same(t, got, tx)
		}
		if _, ok, err := s.Finished(xid.ID{9}); ok || err != nil {
			t.Fatalf("a transaction that never was: %t %v", ok, err)
		}
		s = h.Reopen(t)
		if got := recovered(t, s); len(got) != 0 {
			t.Fatalf("%d finished transactions recovered", len(got))
		}
	}
}

func finish(t *testing.T, s store.Store, sc *script, n int) []core.Transaction {
	t.Helper()
	var out []core.Transaction
	for range n {
		tx, records := sc.whole(all)
		apply(t, s, store.Batch{Records: records, Finished: []core.Transaction{tx}}, false)
		out = append(out, tx)
	}
	return out
}

func testList(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	txs := finish(t, s, newScript(s), 10)
	var before xid.ID
	var got []core.Transaction
	for {
		n := 0
		if err := s.ListFinished(context.Background(), before, func(tx core.Transaction) bool {
			got = append(got, tx)
			before = tx.XID
			n++
			return n < 3
		}); err != nil {
			t.Fatal(err)
		}
		if n < 3 {
			break
		}
	}
	if len(got) != len(txs) {
		t.Fatalf("%d listed, want %d", len(got), len(txs))
	}
	for i := range got {
		same(t, got[i], txs[len(txs)-1-i])
	}
}

func testExpire(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	txs := finish(t, s, newScript(s), 10)
	ctx := context.Background()
	cutoff := txs[4].Finished
	if n, err := s.Expire(ctx, cutoff, 100); err != nil || n != 4 {
		t.Fatalf("%d dropped, %v, want the 4 that finished before the cutoff", n, err)
	}
	if n, err := s.Expire(ctx, cutoff, 100); err != nil || n != 0 {
		t.Fatalf("again: %d, %v", n, err)
	}
	for range 2 {
		if got := s.Meta().Horizon; !got.Equal(txs[3].XID.Begin()) {
			t.Fatalf("horizon %s, want %s", got, txs[3].XID.Begin())
		}
		for i, tx := range txs {
			if _, ok, err := s.Finished(tx.XID); err != nil || ok != (i >= 4) {
				t.Fatalf("transaction %d: found %t, %v", i, ok, err)
			}
		}
		s = h.Reopen(t)
	}
}

func testExpireLimit(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	txs := finish(t, s, newScript(s), 5)
	ctx := context.Background()
	for _, want := range []int{2, 2, 1, 0} {
		if n, err := s.Expire(ctx, txs[4].Finished.Add(time.Second), 2); err != nil || n != want {
			t.Fatalf("%d dropped, %v, want %d", n, err, want)
		}
	}
}

func testQuarantine(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	if err := s.Quarantine(1, "a witness saw more"); err != nil {
		t.Fatal(err)
	}
	s = h.Crash(t, 0)
	if m := s.Meta(); m.QuarantineBelow != 1 || m.QuarantineReason != "a witness saw more" {
		t.Fatalf("%+v", m)
	}
	if err := s.Quarantine(0, ""); err != nil {
		t.Fatal(err)
	}
	if m := h.Crash(t, 0).Meta(); m.QuarantineBelow != 0 || m.QuarantineReason != "" {
		t.Fatalf("%+v", m)
	}
}

func testPositions(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	var last uint64
	for round := range 3 {
		sc := newScript(s)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				var own uint64
				for range 50 {
					mu.Lock()
					_, r := sc.begin()
					mu.Unlock()
					pos, err := s.Apply(store.Batch{Records: []core.Record{r}}, false)
					if err != nil || pos <= own || pos <= last {
						t.Errorf("position %d after %d and %d: %v", pos, own, last, err)
						return
					}
					own = pos
				}
			})
		}
		wg.Wait()
		// Synced, so that it may be told; nothing later may have its position.
		_, r := sc.begin()
		last = apply(t, s, store.Batch{Records: []core.Record{r}}, true)
		if p := s.Position(); p < last {
			t.Fatalf("Position %d is below that of the last batch, %d", p, last)
		}
		if round == 0 {
			s = h.Crash(t, 0)
		} else {
			s = h.Reopen(t)
		}
	}
}

func testSyncedSurvives(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	want := map[xid.ID]bool{}
	for _, kept := range []int{0, 50, 100} {
		tx, records := sc.whole(5)
		apply(t, s, store.Batch{Records: records}, true)
		want[tx.XID] = true
		_, records = sc.whole(1)
		apply(t, s, store.Batch{Records: records}, false)
		s = h.Crash(t, kept)
		got := recovered(t, s)
		for id := range want {
			if _, ok := got[id]; !ok {
				t.Fatalf("%d %% kept: a synced transaction is lost", kept)
			}
		}
		if kept == 0 && len(got) != len(want) {
			t.Fatalf("%d recovered, want %d: the test loses nothing", len(got), len(want))
		}
	}
}

func testSyncCoversEarlier(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	for range 20 {
		_, records := sc.whole(1)
		apply(t, s, store.Batch{Records: records}, false)
	}
	_, records := sc.whole(1)
	apply(t, s, store.Batch{Records: records}, true)
	if got := recovered(t, h.Crash(t, 0)); len(got) != 21 {
		t.Fatalf("%d recovered, want all 21", len(got))
	}
}

func testAtomic(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	for kept := 0; kept <= 100; kept += 10 {
		// Large enough that a crash may keep a part of what was written.
		var b store.Batch
		ids := map[xid.ID]bool{}
		for range 200 {
			tx, records := sc.whole(4)
			b.Records = append(b.Records, records...)
			ids[tx.XID] = true
		}
		apply(t, s, b, false)
		s = h.Crash(t, kept)
		n := 0
		for id, tx := range recovered(t, s) {
			if ids[id] {
				n++
			}
			if tx.Records != 4 {
				t.Fatalf("%d %% kept: a transaction has %d of its 4 records", kept, tx.Records)
			}
		}
		if n != 0 && n != len(ids) {
			t.Fatalf("%d %% kept: %d of %d transactions of one batch", kept, n, len(ids))
		}
	}
}

func testIncarnationForced(t *testing.T, h Harness) {
	t.Helper()
	for want := uint32(2); want < 6; want++ {
		if m := h.Crash(t, 0).Meta(); m.Incarnation != want {
			t.Fatalf("incarnation %d, want %d", m.Incarnation, want)
		}
	}
}

func testFailedWrite(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	kept, records := sc.whole(3)
	apply(t, s, store.Batch{Records: records}, true)
	h.BreakWrites(t)
	for range 3 {
		_, records := sc.whole(3)
		if _, err := s.Apply(store.Batch{Records: records}, true); !errors.Is(err, store.ErrFailed) {
			t.Fatalf("a write that failed was acknowledged: %v", err)
		}
	}
	if err := s.SetValue("space", "name", []byte{1}); !errors.Is(err, store.ErrFailed) {
		t.Fatalf("SetValue: %v", err)
	}
	if err := s.Quarantine(1, "x"); !errors.Is(err, store.ErrFailed) {
		t.Fatalf("Quarantine: %v", err)
	}
	if _, ok := recovered(t, h.Crash(t, 0))[kept.XID]; !ok {
		t.Fatal("what was synced before the failure is lost")
	}
}

func testClosed(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, records := newScript(s).whole(1)
	if _, err := s.Apply(store.Batch{Records: records}, true); err == nil {
		t.Error("Apply after Close")
	}
	if _, _, err := s.Finished(xid.ID{1}); err == nil {
		t.Error("Finished after Close")
	}
	if err := s.Recover(context.Background(), func(core.Transaction) error { return nil }); err == nil {
		t.Error("Recover after Close")
	}
	if err := s.ListFinished(context.Background(), xid.ID{}, func(core.Transaction) bool { return true }); err == nil {
		t.Error("ListFinished after Close")
	}
	if _, err := s.Expire(context.Background(), base, 1); err == nil {
		t.Error("Expire after Close")
	}
	if _, _, err := s.Lookup("key"); err == nil {
		t.Error("Lookup after Close")
	}
	if _, err := s.Value("space", "name"); err == nil {
		t.Error("Value after Close")
	}
	if err := s.SetValue("space", "name", []byte{1}); err == nil {
		t.Error("SetValue after Close")
	}
	if err := s.ListValues(context.Background(), "space", "", func(string, []byte) bool { return true }); err == nil {
		t.Error("ListValues after Close")
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func testEmptyBatch(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	_, records := newScript(s).whole(1)
	apply(t, s, store.Batch{Records: records}, false)
	apply(t, s, store.Batch{}, true)
	if got := recovered(t, h.Crash(t, 0)); len(got) != 1 {
		t.Fatal("the sync of an empty batch did not cover what was applied before")
	}
}
