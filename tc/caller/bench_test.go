package caller_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// serveVariable makes this test binary the server of the benchmark, so that the CPU that
// the benchmark reports is that of the Caller alone.
const serveVariable = "HANDFAST_CALLER_BENCH_SERVER"

// serveBenchmark tells two addresses, and serves until its input ends.
func serveBenchmark() {
	h, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	g, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	answer := []byte(`{"room": 12}`)
	go func() {
		panic(http.Serve(h, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(answer)
		})))
	}()
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health{check: func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) { return serving, nil }})
	go func() { panic(s.Serve(g)) }()
	fmt.Println(h.Addr(), g.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func startServer(b *testing.B) (httpHost, grpcHost string) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	httpHost, grpcHost, _ = strings.Cut(strings.TrimSpace(line), " ")
	return httpHost, grpcHost
}

func BenchmarkCall(b *testing.B) {
	httpHost, grpcHost := startServer(b)
	payload := `{"order": 4711, "customer": {"name": "Ada"}, "amount": 12.50}`
	for _, bm := range []struct {
		name   string
		action core.Action
	}{
		{"http", core.Action{Kind: core.TargetHTTP, Address: "http://" + httpHost + "/steps/book", Payload: []byte(payload)}},
		{"http-refs", core.Action{
			Kind: core.TargetHTTP, Address: "http://" + httpHost + "/steps/${steps.hotel.room}",
			Payload: []byte(strings.Replace(payload, "4711", `"${steps.hotel.room}"`, 1)),
		}},
		{"grpc", core.Action{Kind: core.TargetGRPC, Address: grpcHost + check, Payload: encoded(b, "booking")}},
	} {
		for _, inFlight := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", bm.name, inFlight), func(b *testing.B) {
				room := make(chan struct{}, inFlight)
				c := caller.New(caller.Config{}, func(a core.Called) {
					if a.Verdict != core.Done {
						b.Error(a.Text)
					}
					<-room
				})
				call := core.Call{
					XID: testXID, Branch: xid.NewBranchID(), Op: core.OpForward, Attempt: 1, Action: &bm.action,
					Before: []core.Result{{Name: "hotel", Value: []byte(`{"room": 12}`)}},
				}
				b.ReportAllocs()
				before := cpu()
				for b.Loop() {
					room <- struct{}{}
					c.Call(call)
				}
				for range inFlight {
					room <- struct{}{}
				}
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
				if err := c.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
