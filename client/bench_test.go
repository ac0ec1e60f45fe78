package client

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// BenchmarkInFlight is the cost of a request at the client and a server that
// only echoes, both in this process, over loopback.
func BenchmarkInFlight(b *testing.B) {
	for _, n := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := faketc.Start(b)
			c := dial(b, s.Addr())
			if _, err := c.Begin(b.Context(), &pb.BeginRequest{}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			m0, f0 := s.Counts()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					r := &pb.VoteRequest{Xid: "01hjugc3pa000001s0820c20a1o6500g0000002891grg6q3i4gghkg5", Vote: pb.Vote_VOTE_YES}
					for left.Add(-1) >= 0 {
						if _, err := c.Vote(b.Context(), r); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			m1, f1 := s.Counts()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			b.ReportMetric(float64(f1-f0)/float64(m1-m0), "frames/message")
		})
	}
}
