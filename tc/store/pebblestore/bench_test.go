package pebblestore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

// BenchmarkApply writes one record at a time, each forced, from many goroutines.
func BenchmarkApply(b *testing.B) {
	for _, writers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := pebblestore.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			flushes := s.Flushes()
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						if _, err := s.Apply(store.Batch{Records: []core.Record{begin(s, uint64(n))}}, true); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(s.Flushes()-flushes)/float64(b.N), "flushes/record")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRecover opens a store and folds b.N open transactions of two
// branches out of it. Run it with -benchtime 1000000x for a million.
func BenchmarkRecover(b *testing.B) {
	dir := b.TempDir()
	s, err := pebblestore.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	var batch store.Batch
	for i := range b.N {
		batch.Records = append(batch.Records, openTransaction(s, uint64(i+1))...)
		if len(batch.Records) > 5000 || i == b.N-1 {
			if _, err := s.Apply(batch, i == b.N-1); err != nil {
				b.Fatal(err)
			}
			batch.Records = batch.Records[:0]
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	if s, err = pebblestore.Open(dir); err != nil {
		b.Fatal(err)
	}
	n := 0
	if err := s.Recover(b.Context(), func(core.Transaction) error { n++; return nil }); err != nil || n != b.N {
		b.Fatal(n, err)
	}
	b.StopTimer()
	b.ReportMetric(b.Elapsed().Seconds(), "s")
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// openTransaction is a transaction of two branches that have voted.
func openTransaction(s store.Store, n uint64) []core.Record {
	r := begin(s, n)
	r.Name = "order/place"
	rs := []core.Record{r}
	for branch := range byte(2) {
		id := xid.NewBranchID()
		rs = append(rs,
			core.Record{Kind: core.RecordRegister, Branch: id, Resource: xid.ResourceID{1, branch}, Mode: core.ModeAT},
			core.Record{Kind: core.RecordVote, Branch: id, Vote: core.VoteYes})
	}
	for i := range rs {
		rs[i].XID, rs[i].Seq, rs[i].Time = r.XID, uint32(i), r.Time.Add(time.Duration(i)*time.Millisecond)
	}
	return rs
}
