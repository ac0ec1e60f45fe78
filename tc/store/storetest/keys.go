package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// keyed is whole for a transaction with a key and a note.
func (s *script) keyed(key string, n int) (core.Transaction, []core.Record) {
	_, records := s.whole(n)
	records[0].Key, records[0].Note = key, []byte("note of "+key)
	var tx core.Transaction
	for _, r := range records {
		fold(&tx, r)
	}
	return tx, records
}

// wantKey tells whether a key stands for a transaction; the zero XID: for none.
func wantKey(t *testing.T, s store.Store, key string, want xid.ID) {
	t.Helper()
	id, ok, err := s.Lookup(key)
	if err != nil || ok == want.IsZero() || id != want {
		t.Fatalf("key %.40q stands for %s (%t, %v), want %s", key, id, ok, err, want)
	}
}

func testLookup(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	open, records := sc.keyed("open", 3)
	apply(t, s, store.Batch{Records: records}, false)
	ended, records := sc.keyed("ended", all)
	apply(t, s, store.Batch{Records: records[:all-1]}, false)
	wantKey(t, s, "ended", ended.XID)
	apply(t, s, store.Batch{Records: records[all-1:], Finished: []core.Transaction{ended}}, false)
	quick, records := sc.keyed("quick", all)
	apply(t, s, store.Batch{Records: records, Finished: []core.Transaction{quick}}, true)
	finish(t, s, sc, 2) // without keys
	for range 2 {
		for key, want := range map[string]xid.ID{"open": open.XID, "ended": ended.XID, "quick": quick.XID, "other": {}, "": {}} {
			wantKey(t, s, key, want)
		}
		for _, tx := range []core.Transaction{ended, quick} {
			got, ok, err := s.Finished(tx.XID)
			if err != nil || !ok {
				t.Fatalf("%t %v", ok, err)
			}
			same(t, got, tx)
		}
		s = h.Reopen(t)
		same(t, recovered(t, s)[open.XID], open)
	}
}

func testLookupExactly(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	want := map[string]xid.ID{}
	for _, key := range []string{"a", "aa", "ab", "a\x00", "a\x00b", "\x00", "ä", "k", "ka", "kk", strings.Repeat("a", 1000)} {
		tx, records := sc.keyed(key, 2)
		apply(t, s, store.Batch{Records: records}, false)
		want[key] = tx.XID
	}
	for range 2 {
		for key, id := range want {
			wantKey(t, s, key, id)
		}
		for _, key := range []string{"", "b", "A", "aaa", "a\x00\x00", "a\x00bc", strings.Repeat("a", 999), "m", "o", "f", "x", "v"} {
			wantKey(t, s, key, xid.ID{})
		}
		s = h.Reopen(t)
	}
}

func testLookupAfterPowerLoss(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	for kept := 0; kept <= 100; kept += 10 {
		sc := newScript(s)
		key := func(n int) string { return fmt.Sprintf("key %d of %d", n, kept) }
		synced, records := sc.keyed(key(-1), 2)
		apply(t, s, store.Batch{Records: records}, true)
		// Large enough that a crash may keep a part of what was written.
		var lost []core.Transaction
		for n := range 200 {
			tx, records := sc.keyed(key(n), 2)
			apply(t, s, store.Batch{Records: records}, false)
			wantKey(t, s, key(n), tx.XID)
			lost = append(lost, tx)
		}
		s = h.Crash(t, kept)
		wantKey(t, s, key(-1), synced.XID)
		got := recovered(t, s)
		for n := range lost {
			// The key and its transaction come and go together.
			want := xid.ID{}
			if tx, ok := got[lost[n].XID]; ok {
				want = tx.XID
				same(t, tx, lost[n])
			}
			wantKey(t, s, key(n), want)
			if kept == 0 && !want.IsZero() {
				t.Fatal("the test loses nothing")
			}
		}
	}
}

func testLookupAfterExpiry(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	var txs []core.Transaction
	for _, key := range []string{"a", "ab", "abc"} {
		tx, records := sc.keyed(key, all)
		apply(t, s, store.Batch{Records: records, Finished: []core.Transaction{tx}}, true)
		txs = append(txs, tx)
	}
	open, records := sc.keyed("open", 2)
	apply(t, s, store.Batch{Records: records}, true)
	ctx := context.Background()
	if n, err := s.Expire(ctx, txs[2].Finished, 100); err != nil || n != 2 {
		t.Fatalf("%d dropped, %v", n, err)
	}
	for range 2 {
		wantKey(t, s, "a", xid.ID{})
		wantKey(t, s, "ab", xid.ID{})
		wantKey(t, s, "abc", txs[2].XID)
		wantKey(t, s, "open", open.XID)
		s = h.Reopen(t)
	}
	sc = &script{meta: s.Meta(), counter: 50}
	again, records := sc.keyed("a", all)
	apply(t, s, store.Batch{Records: records, Finished: []core.Transaction{again}}, true)
	wantKey(t, s, "a", again.XID)
	if n, err := s.Expire(ctx, txs[2].Finished.Add(time.Second), 100); err != nil || n != 1 {
		t.Fatalf("%d dropped, %v", n, err)
	}
	wantKey(t, s, "a", again.XID)
	wantKey(t, s, "abc", xid.ID{})
}

func testAbandoned(t *testing.T, h Harness) {
	t.Helper()
	s := h.Store()
	sc := newScript(s)
	tx, first := sc.begin()
	records := []core.Record{first}
	plan := func() *core.Plan {
		return &core.Plan{
			Rollback:  core.Action{Kind: core.TargetHTTP, Address: "http://a/", Lane: xid.ResourceID{7}, Dialect: core.DialectDTMRPC, Verb: "cancel"},
			LastFirst: true,
			Retry:     core.Retry{Poll: time.Second},
		}
	}
	for _, r := range []core.Record{
		{Kind: core.RecordRegister, Branch: xid.BranchID{1}, Resource: xid.ResourceID{1}, Mode: core.ModeAT},
		{Kind: core.RecordRegister, Branch: xid.BranchID{2}, Mode: core.ModeXA, Plan: plan()},
		{Kind: core.RecordRegister, Branch: xid.BranchID{3}, Mode: core.ModeTCC, Plan: plan()},
		{Kind: core.RecordVote, Branch: xid.BranchID{2}, Vote: core.VoteYes, NotBefore: base.Add(time.Hour)},
		{Kind: core.RecordVote, Branch: xid.BranchID{3}, Vote: core.VoteYes},
		{Kind: core.RecordDecide, Outcome: core.RolledBack, Reason: core.ReasonOperator},
		{Kind: core.RecordDone, Branch: xid.BranchID{2}},
		{Kind: core.RecordDone, Branch: xid.BranchID{3}, Abandoned: true},
	} {
		r.XID, r.Seq, r.Time = tx.XID, tx.Records, first.Time
		fold(&tx, r)
		records = append(records, r)
	}
	apply(t, s, store.Batch{Records: records}, true)
	s = h.Crash(t, 0)
	same(t, recovered(t, s)[tx.XID], tx)
	last := core.Record{Kind: core.RecordDone, Resource: xid.ResourceID{1}, XID: tx.XID, Seq: tx.Records, Time: first.Time}
	fold(&tx, last)
	apply(t, s, store.Batch{Records: []core.Record{last}, Finished: []core.Transaction{tx}}, true)
	s = h.Crash(t, 0)
	got, ok, err := s.Finished(tx.XID)
	if err != nil || !ok {
		t.Fatalf("%t %v", ok, err)
	}
	// The archive does not keep the lanes of what is over.
	for i := range tx.Settlements {
		if s := &tx.Settlements[i]; s.Branch != (xid.BranchID{}) {
			s.Resource = xid.ResourceID{}
		}
	}
	same(t, got, tx)
}
