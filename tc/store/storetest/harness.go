package storetest

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// Harness is one store under test.
type Harness interface {
	// Store is the open store.
	Store() store.Store
	// Reopen closes the store and opens it again.
	Reopen(t *testing.T) store.Store
	// Crash loses power, keeps this percentage of what was not synced, and
	// opens the store again. The old store is not closed.
	Crash(t *testing.T, keptPercent int) store.Store
	// BreakWrites makes every later write to disk fail.
	BreakWrites(t *testing.T)
}

// Run runs the suite. open makes an empty store; it registers its own cleanup.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	tests := []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"identity is kept and each opening has its incarnation", testIdentity},
		{"recovery gives the fold of the records", testRecover},
		{"finished transactions are found and not recovered", testFinished},
		{"finished transactions are listed newest first in pages", testList},
		{"expiry raises the horizon and drops the oldest", testExpire},
		{"expiry comes in limited steps", testExpireLimit},
		{"quarantine is durable", testQuarantine},
		{"positions grow across goroutines and openings", testPositions},
		{"what was synced survives a power loss", testSyncedSurvives},
		{"a sync covers every batch before it", testSyncCoversEarlier},
		{"a batch is there whole or not at all", testAtomic},
		{"an incarnation survives a power loss", testIncarnationForced},
		{"what was told survives a power loss under load, and what survives is a prefix", testPowerLossUnderLoad},
		{"the horizon is durable before anything is dropped", testHorizonFirst},
		{"records keep their order beyond one byte of numbers", testManyRecords},
		{"whoever has seen a batch finds its position", testSeenHasPosition},
		{"a context that has ended ends a scan", testEndedContext},
		{"a listing may look things up, and close waits for it", testNestedUse},
		{"a failed write is the end", testFailedWrite},
		{"a failed write reaches everybody who writes", testFailureReachesAll},
		{"a closed store gives errors", testClosed},
		{"an empty batch can carry a sync", testEmptyBatch},
		{"a key finds its transaction as long as that is kept", testLookup},
		{"a key is found exactly, whatever is in it", testLookupExactly},
		{"a key is lost with its begin, and only then", testLookupAfterPowerLoss},
		{"a key is forgotten with its transaction and can be used again", testLookupAfterExpiry},
		{"what was given up is kept with the transaction", testAbandoned},
		{"values are set, replaced and dropped", testValues},
		{"values are listed in order within their space", testListValues},
		{"a value is durable when it is set", testValuesSurvive},
		{"a space without a name is refused", testSpaces},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, open(t))
		})
	}
}

var base = time.UnixMilli(1_700_000_000_000)

// script makes transactions with their records.
type script struct {
	meta    store.Meta
	counter uint64
}

func (s *script) begin() (core.Transaction, core.Record) {
	s.counter++
	at := base.Add(time.Duration(s.counter) * time.Second)
	id := xid.New(xid.Parts{Begin: at, Store: s.meta.Store, Incarnation: s.meta.Incarnation, Counter: s.counter})
	var tx core.Transaction
	r := core.Record{XID: id, Kind: core.RecordBegin, Time: at, Name: "order", Parent: xid.ID{1}, Deadline: at.Add(time.Minute)}
	fold(&tx, r)
	return tx, r
}

// whole is the life of a transaction with two branches, up to n records.
func (s *script) whole(n int) (core.Transaction, []core.Record) {
	tx, r := s.begin()
	records := []core.Record{r}
	for _, r := range []core.Record{
		{Kind: core.RecordRegister, Branch: xid.BranchID{1}, Resource: xid.ResourceID{1}, Mode: core.ModeAT},
		{Kind: core.RecordRegister, Branch: xid.BranchID{2}, Resource: xid.ResourceID{2}, Mode: core.ModeAT},
		{Kind: core.RecordVote, Branch: xid.BranchID{1}, Vote: core.VoteYes},
		{Kind: core.RecordVote, Branch: xid.BranchID{2}, Vote: core.VoteNo, Text: "sold out"},
		{Kind: core.RecordDecide, Outcome: core.RolledBack, Reason: core.ReasonVotedNo, Text: "a vote", Operator: "ann"},
		{Kind: core.RecordDone, Resource: xid.ResourceID{1}},
		{Kind: core.RecordDone, Resource: xid.ResourceID{2}},
	} {
		if len(records) == n {
			break
		}
		r.XID, r.Seq = tx.XID, tx.Records
		r.Time = records[len(records)-1].Time.Add(time.Millisecond)
		fold(&tx, r)
		records = append(records, r)
	}
	return tx, records
}

const all = 8 // records of a finished transaction

func fold(tx *core.Transaction, r core.Record) {
	if err := core.Fold(tx, r); err != nil {
		panic(err) // the script is wrong
	}
}

func newScript(s store.Store) *script { return &script{meta: s.Meta()} }

func apply(t *testing.T, s store.Store, b store.Batch, sync bool) uint64 {
	t.Helper()
	pos, err := s.Apply(b, sync)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return pos
}

func recovered(t *testing.T, s store.Store) map[xid.ID]core.Transaction {
	t.Helper()
	got := map[xid.ID]core.Transaction{}
	if err := s.Recover(context.Background(), func(tx core.Transaction) error {
		if _, twice := got[tx.XID]; twice {
			t.Errorf("%s recovered twice", tx.XID)
		}
		got[tx.XID] = tx
		return nil
	}); err != nil {
		t.Fatalf("Recover: %v", err)
	}
	return got
}

func same(t *testing.T, got, want core.Transaction) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got\n%+v\nwant\n%+v", got, want)
	}
}
