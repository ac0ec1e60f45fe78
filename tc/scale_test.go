package tc_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

// nobody delivers nothing.
type nobody struct{}

func (nobody) Settle(core.Settle)       {}
func (nobody) AskVote(core.AskVote)     {}
func (nobody) Call(core.Call)           {}
func (nobody) Changed(core.Transaction) {}

// BenchmarkRestart fills a store with open transactions of two branches, kills
// nothing but forgets everything, and measures how long an engine takes to be
// ready again and what each transaction costs in memory. Run it with
// -benchtime 1000000x for a million.
func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	st, err := pebblestore.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	fillOpen(b, st, b.N)
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
	before, cpu := heap(), cpuTime()
	b.ResetTimer()
	st, err = pebblestore.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(context.Background(), st, engine.Config{Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	e.Start(nobody{})
	b.StopTimer()
	cpu = cpuTime() - cpu
	if e.Open() != b.N {
		b.Fatalf("%d open, want %d", e.Open(), b.N)
	}
	b.ReportMetric(b.Elapsed().Seconds(), "s-to-ready")
	b.ReportMetric(cpu.Seconds(), "cpu-s")
	b.ReportMetric(float64(heap()-before)/float64(b.N), "B/open-tx")
	b.ReportMetric(0, "ns/op")
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fillOpen writes n transactions of two branches with their votes.
func fillOpen(b *testing.B, st store.Store, n int) {
	b.Helper()
	meta := st.Meta()
	now := time.Now().Truncate(time.Millisecond)
	var batch store.Batch
	for i := range n {
		random := xid.NewBranchID()
		id := xid.New(xid.Parts{
			Begin: now, Incarnation: meta.Incarnation, Store: meta.Store, Counter: uint64(i), Random: [12]byte(random[:12]),
		})
		rs := []core.Record{{Kind: core.RecordBegin, Name: "order/place", Deadline: now.Add(time.Hour)}}
		for r := range byte(2) {
			br := xid.NewBranchID()
			rs = append(rs,
				core.Record{Kind: core.RecordRegister, Branch: br, Resource: xid.ResourceID{0: 0xd, 15: r}, Mode: core.ModeAT},
				core.Record{Kind: core.RecordVote, Branch: br, Vote: core.VoteYes})
		}
		for seq := range rs {
			rs[seq].XID, rs[seq].Seq, rs[seq].Time = id, uint32(seq), now
		}
		batch.Records = append(batch.Records, rs...)
		if len(batch.Records) > 5000 || i == n-1 {
			if _, err := st.Apply(batch, i == n-1); err != nil {
				b.Fatal(err)
			}
			batch.Records = batch.Records[:0]
		}
	}
}
