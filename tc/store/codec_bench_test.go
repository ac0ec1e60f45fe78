package store_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

func BenchmarkRecord(b *testing.B) {
	r := core.Record{
		XID: someXID, Seq: 1, Kind: core.RecordRegister, Time: time.UnixMilli(1_700_000_000_000),
		Branch: xid.NewBranchID(), Resource: xid.ResourceID{2}, Mode: core.ModeAT,
	}
	buf, err := store.AppendRecord(nil, r)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if buf, err = store.AppendRecord(buf[:0], r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := store.DecodeRecord(r.XID, r.Seq, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
