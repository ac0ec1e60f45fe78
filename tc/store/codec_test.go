package store_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

var someXID = xid.ID{1, 2, 3}

func someRecord() core.Record {
	return core.Record{
		XID: someXID, Seq: 4, Kind: core.RecordDecide, Time: time.UnixMilli(5), Name: "n", Parent: xid.ID{9}, Deadline: time.UnixMilli(6),
		Branch: xid.BranchID{1}, Resource: xid.ResourceID{2}, Mode: core.ModeAT, Vote: core.VoteNo, Outcome: core.RolledBack,
		Reason: core.ReasonOperator, Text: "t", Operator: "o",
	}
}

func TestRecordSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	for _, r := range []core.Record{someRecord(), {XID: someXID, Seq: 4, Kind: core.RecordBegin}} {
		b, err := store.AppendRecord(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := store.DecodeRecord(r.XID, r.Seq, b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v %v, want %+v", got, err, r)
		}
	}
}

// No bytes make the decoders panic, and whatever they accept they would write
// again in the same way.
func FuzzDecodeRecord(f *testing.F) {
	b, err := store.AppendRecord(nil, someRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{8, 99})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := store.DecodeRecord(someXID, 4, b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := store.AppendRecord(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := store.DecodeRecord(someXID, 4, again); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v %v, want %+v", got, err, r)
		}
	})
}

func FuzzDecodeFinished(f *testing.F) {
	tx := core.Transaction{
		XID: someXID, Phase: core.Finished, Outcome: core.Committed, Decided: time.UnixMilli(3), Finished: time.UnixMilli(4),
		Branches:    []core.Branch{{ID: xid.BranchID{1}, Resource: xid.ResourceID{2}, Mode: core.ModeAT, Vote: core.VoteYes, Registered: time.UnixMilli(1)}},
		Settlements: []core.Settlement{{Resource: xid.ResourceID{2}, Done: true}},
	}
	b, err := store.AppendFinished(nil, tx)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x20})
	f.Fuzz(func(t *testing.T, b []byte) {
		tx, err := store.DecodeFinished(someXID, b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := store.AppendFinished(nil, tx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := store.DecodeFinished(someXID, again); err != nil || !reflect.DeepEqual(got, tx) {
			t.Fatalf("%+v %v, want %+v", got, err, tx)
		}
	})
}
