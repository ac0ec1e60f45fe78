package tc_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

// The benchmarks run the coordinator over a real store on disk and real TCP on
// loopback, clients in the same process. The CPU time they report is that of
// the whole process: coordinator and clients.

const benchClients = 64

// measure runs tx in 64 callers, b.N times in all, over conns sessions.
func measure(b *testing.B, conns int, prepare func(*client.Client), tx func(context.Context, *client.Client) error) {
	b.Helper()
	st, err := pebblestore.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	r := start(b, "", func(c *tc.Config) { c.Store = st })
	clients := make([]*client.Client, conns)
	for i := range clients {
		clients[i] = r.dial(b)
		if prepare != nil {
			prepare(clients[i])
		}
	}
	ctx := context.Background()
	for _, c := range clients {
		if err := tx(ctx, c); err != nil {
			b.Fatal(err)
		}
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, benchClients)
	flushes, cpu := st.Flushes(), cpuTime()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range benchClients {
		wg.Go(func() {
			c := clients[i%conns]
			for left.Add(-1) >= 0 {
				began := time.Now()
				if err := tx(ctx, c); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	cpu = cpuTime() - cpu
	flushes = st.Flushes() - flushes
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return
	}
	n := float64(len(all))
	b.ReportMetric(n/b.Elapsed().Seconds(), "tx/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(cpu.Microseconds())/n, "cpu-us/tx")
	b.ReportMetric(float64(flushes)/n, "flushes/tx")
	b.ReportMetric(0, "ns/op")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// An empty transaction: begin and commit.
func BenchmarkEmpty(b *testing.B) {
	measure(b, 4, nil, emptyTx)
}

func emptyTx(ctx context.Context, c *client.Client) error {
	res, err := c.Begin(ctx, &pb.BeginRequest{})
	if err != nil {
		return err
	}
	_, err = c.Commit(ctx, &pb.CommitRequest{Xid: res.GetXid()})
	return err
}

// A transaction of two AT branches, with everything but Postgres: begin, two
// registrations, two votes, commit; a resource manager of each resource settles
// at once.
func BenchmarkTwoBranches(b *testing.B) {
	ms := []*manager{newManager(1), newManager(2)}
	first := true
	measure(b, 4, func(c *client.Client) {
		if first {
			first = false
			for _, m := range ms {
				m.forget = true
				m.attach(b, c)
			}
		}
	}, func(ctx context.Context, c *client.Client) error {
		res, err := c.Begin(ctx, &pb.BeginRequest{})
		if err != nil {
			return err
		}
		id := res.GetXid()
		for _, m := range ms {
			branch := newBranch()
			if _, err := c.RegisterBranch(ctx, &pb.RegisterBranchRequest{
				Xid: id, BranchId: branch, ResourceId: m.resource, Mode: pb.Mode_MODE_AT,
			}); err != nil {
				return err
			}
			if _, err := c.Vote(ctx, &pb.VoteRequest{Xid: id, BranchId: branch, Vote: pb.Vote_VOTE_YES}); err != nil {
				return err
			}
		}
		_, err = c.Commit(ctx, &pb.CommitRequest{Xid: id})
		return err
	})
}
