package dtm

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/handfast/handfast/tests/dtm/server"
)

// callers is how many submit at a time.
const callers = 16

// bare are two branches that do nothing, over HTTP and gRPC, after a pause if there is one.
type bare struct {
	web, grpc string
	pause     atomic.Int64 // nanoseconds
	broken    atomic.Bool  // they fail
	calls     atomic.Int64
}

func serveBare(b *testing.B) *bare {
	b.Helper()
	s := &bare{}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if !s.do() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	b.Cleanup(web.Close)
	s.web = web.URL
	lis, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s.grpc = lis.Addr().String()
	g := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var in wrapperspb.StringValue
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		if !s.do() {
			return context.DeadlineExceeded
		}
		return stream.SendMsg(&wrapperspb.StringValue{})
	}))
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	b.Cleanup(func() {
		g.Stop()
		<-done //nolint:errcheck // it was stopped
	})
	return s
}

func (s *bare) do() bool {
	if d := s.pause.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	s.calls.Add(1)
	return !s.broken.Load()
}

// submit hands a saga of two branches over.
func (s *bare) submit(at *server.Server, p protocol, gid string, wait bool) error {
	if p == overGRPC {
		msg := wrapperspb.String("30")
		saga := dtmgrpc.NewSagaGrpc(at.GRPC, gid).
			Add(s.grpc+"/bank.Bank/Out", s.grpc+"/bank.Bank/OutRevert", msg).
			Add(s.grpc+"/bank.Bank/In", s.grpc+"/bank.Bank/InRevert", msg)
		saga.WaitResult = wait
		return saga.Submit()
	}
	body := map[string]int{"amount": 30}
	saga := dtmcli.NewSaga(at.HTTP, gid).
		Add(s.web+"/Out", s.web+"/OutRevert", body).
		Add(s.web+"/In", s.web+"/InRevert", body)
	saga.WaitResult = wait
	return saga.Submit()
}

// many calls f for 0 to n-1 from several callers.
func many(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
}

// cpu is the time that a process has had so far, from Linux's /proc.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skipf("the time of a process is read on Linux only: %v", err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	sum := time.Duration(0)
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}

// BenchmarkSaga runs sagas of two branches to their ends, from callers that wait for them.
func BenchmarkSaga(b *testing.B) {
	for _, p := range []protocol{overHTTP, overGRPC} {
		b.Run(string(p), func(b *testing.B) {
			at, s := server.Start(b), serveBare(b)
			run := func(name string, n int) {
				many(b, n, func(i int) error { return s.submit(at, p, fmt.Sprintf("%s-%d-%d", name, b.N, i), true) })
			}
			run("warm", 200)
			before := cpu(b, at.PID())
			b.ResetTimer()
			run("saga", b.N)
			b.StopTimer()
			used := cpu(b, at.PID()) - before
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sagas/s")
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "coordinator-ms/saga")
		})
	}
}

// BenchmarkRecovery kills a coordinator with b.N sagas in flight, whose branches take 50
// ms each from then on, and waits until all of them have ended.
func BenchmarkRecovery(b *testing.B) {
	at, s := server.Start(b), serveBare(b)
	s.broken.Store(true)
	many(b, b.N, func(i int) error { return s.submit(at, overHTTP, fmt.Sprintf("r-%d-%d", b.N, i), false) })
	at.Kill()
	s.broken.Store(false)
	s.pause.Store(int64(50 * time.Millisecond))
	s.calls.Store(0)
	b.ResetTimer()
	at.Restart()
	for s.calls.Load() < 2*int64(b.N) {
		time.Sleep(10 * time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sagas/s")
}
