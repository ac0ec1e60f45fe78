package tc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/tm"
)

// BenchmarkSaga runs sagas of two HTTP steps, one after the other, for 64 callers, until
// each is told that its saga is committed. The coordinator is a process of its own with
// a durable store, and its CPU time is that of this process. Callers and participants
// share another one, on the same machine.
func BenchmarkSaga(b *testing.B) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	file, err := lis.(*net.TCPListener).File()
	if err = errors.Join(err, lis.Close()); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asCoordinator+"="+b.TempDir())
	cmd.ExtraFiles, cmd.Stderr = []*os.File{file}, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	services := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"id": 7}`)
	}))
	defer services.Close()
	var ms []*tm.Manager
	for range 4 {
		c, err := client.Dial(lis.Addr().String(), client.WithLogger(quiet()))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		ms = append(ms, tm.New(c))
	}
	def := twoSteps(services.URL)
	ctx := context.Background()
	if _, err := def.Run(ctx, ms[0]); err != nil {
		b.Fatal(err)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, benchClients)
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range benchClients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				began := time.Now()
				if _, err := def.Run(ctx, ms[i%len(ms)]); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	// What it used is known when it has ended. Its start is in there: 50 ms or so.
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) == 0 {
		return
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "tx/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(cpu.Microseconds())/float64(len(all)), "coordinator-cpu-us/tx")
	b.ReportMetric(0, "ns/op")
}
