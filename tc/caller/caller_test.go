package caller_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/health/grpc_health_v1"
	"pgregory.net/rapid"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
)

// blocked is a service that answers when it is told, once for each value sent to let.
func blocked(t *testing.T) (url string, arrived, let chan struct{}) {
	t.Helper()
	arrived, let = make(chan struct{}, 10_000), make(chan struct{}, 10_000)
	return serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		select {
		case <-let:
		case <-r.Context().Done():
		}
	}), arrived, let
}

func TestOneHostThatHangsDelaysNoOther(t *testing.T) {
	t.Parallel()
	dead, arrived, _ := blocked(t)
	fine := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	fineGRPC := serveGRPC(t, func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) { return serving, nil })
	w := newWorld(t, caller.Config{CallsPerHost: 4, WaitingPerHost: 20})
	var flood []<-chan core.Called
	for range 100 {
		flood = append(flood, w.start(post(dead, "{}")))
	}
	for range 4 {
		receive(t, arrived)
	}
	for range 10 {
		if a := w.do(post(fine, "{}")); a.Verdict != core.Done {
			t.Fatalf("got %+v", a)
		}
		if a := w.do(unary(fineGRPC+check, nil)); a.Verdict != core.Done {
			t.Fatalf("got %+v", a)
		}
	}
	// 4 are under way and 20 wait; the others were answered at once.
	for _, ch := range flood[24:] {
		if a := w.wait(ch); a.Verdict != core.Unsure || a.NeedsAttention || !strings.Contains(a.Text, "too many calls to "+hostOf(dead)+" wait") {
			t.Errorf("got %+v", a)
		}
	}
	select {
	case <-arrived:
		t.Error("more calls are under way than allowed")
	default:
	}
	w.close()
	for _, ch := range flood[:24] {
		if a := w.wait(ch); a.Verdict != core.Unsure || !strings.Contains(a.Text, "shutting down") {
			t.Errorf("got %+v", a)
		}
	}
}

func TestManyHostsThatHangLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{Calls: 16, CallsPerHost: 4})
	for range 4 {
		url, arrived, _ := blocked(t)
		for range 10 {
			// The answers come with Close.
			ch := w.start(post(url, "{}"))
			t.Cleanup(func() { <-ch })
		}
		receive(t, arrived)
	}
	if a := w.do(post(serveHTTP(t, func(http.ResponseWriter, *http.Request) {}), "")); a.Verdict != core.Done {
		t.Errorf("got %+v", a)
	}
	w.close()
}

func TestCallsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	url, arrived, let := blocked(t)
	w := newWorld(t, caller.Config{CallsPerHost: 1})
	var all []<-chan core.Called
	for range 10 {
		all = append(all, w.start(post(url, "{}")))
	}
	late := w.wait(w.start(within(short, post(url, "{}"))))
	if late.Verdict != core.Unsure || !strings.Contains(late.Text, "not called") || !strings.Contains(late.Text, "1 calls to "+hostOf(url)) {
		t.Errorf("got %+v", late)
	}
	for i, ch := range all {
		receive(t, arrived)
		let <- struct{}{}
		if a := w.wait(ch); a.Verdict != core.Done {
			t.Errorf("%d: got %+v", i, a)
		}
	}
	select {
	case <-arrived:
		t.Error("what was given up was called after all")
	default:
	}
}

func TestCloseWaitsOnlyForAsLongAsItMay(t *testing.T) {
	t.Parallel()
	release, answered := make(chan struct{}), make(chan core.Called, 1)
	url, arrived, _ := blocked(t)
	c := caller.New(caller.Config{}, func(a core.Called) { <-release; answered <- a })
	c.Call(post(url, "{}"))
	receive(t, arrived)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Close(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	if a := receive(t, answered); a.Verdict != core.Unsure {
		t.Errorf("got %+v", a)
	}
	if err := c.Close(context.Background()); err != nil {
		t.Errorf("got %v", err)
	}
	c.Call(post(url, "{}"))
	if a := receive(t, answered); a.Verdict != core.Unsure || !strings.Contains(a.Text, "shutting down") {
		t.Errorf("after Close: got %+v", a)
	}
}

// Exactly one answer for each call, whatever happens: newWorld checks it.
func TestEachCallHasOneAnswer(t *testing.T) {
	t.Parallel()
	url := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/conflict":
			w.WriteHeader(http.StatusConflict)
		}
	})
	mute := raw(t, drain)
	grpcHost := serveGRPC(t, func(ctx context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error) {
		if service == "hang" {
			<-ctx.Done()
		}
		return serving, nil
	})
	const nobody = "127.0.0.1:1" // no test can be given this port
	hang := encoded(t, "hang")
	kinds := []func() core.Call{
		func() core.Call { return post(url, "{}") },
		func() core.Call { return within(short/3, post(url+"/hang", "{}")) },
		func() core.Call { return post(url+"/hang", "{}") },
		func() core.Call { return post(url+"/abort", "{}") },
		func() core.Call { return post(url+"/conflict", "{}") },
		func() core.Call { return post("http://"+nobody, "{}") },
		func() core.Call { return post("http://"+mute, "{}") },
		func() core.Call { return post(url, `"${own}"`) },
		func() core.Call { return post("nowhere", "") },
		func() core.Call { return unary(grpcHost+check, nil) },
		func() core.Call { return within(short/3, unary(grpcHost+check, hang)) },
		func() core.Call { return unary(grpcHost+check, hang) },
		func() core.Call { return unary(mute+check, nil) },
		func() core.Call { return unary(nobody+check, nil) },
		func() core.Call { return unary("nowhere", nil) },
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, caller.Config{
			Calls:          rapid.IntRange(1, 20).Draw(rt, "calls"),
			CallsPerHost:   rapid.IntRange(1, 8).Draw(rt, "per host"),
			WaitingPerHost: rapid.IntRange(1, 20).Draw(rt, "waiting"),
		})
		picks := rapid.SliceOfN(rapid.IntRange(0, len(kinds)-1), 1, 80).Draw(rt, "kinds")
		after := rapid.IntRange(0, len(picks)).Draw(rt, "close after")
		var answers []<-chan core.Called
		var closing sync.WaitGroup
		for i, k := range picks {
			if i == after {
				closing.Go(w.close)
			}
			answers = append(answers, w.start(kinds[k]()))
		}
		closing.Wait()
		w.close()
		for i, ch := range answers {
			select {
			case <-ch:
			default:
				rt.Fatalf("call %d has no answer after Close", i)
			}
		}
	})
}

func ExampleCaller() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	// The service. Package fence would make its effect happen once.
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		order, _ := io.ReadAll(r.Body)
		fmt.Printf("%s: %s\n", r.Header.Get("Handfast-Action"), order)
		_, _ = io.WriteString(w, `{"charge": "c-1"}`)
	})}
	go func() { _ = srv.Serve(l) }()
	defer func() { _ = srv.Close() }()

	answered := make(chan core.Called)
	c := caller.New(caller.Config{}, func(a core.Called) { answered <- a }) // or engine.Post
	c.Call(core.Call{
		XID: testXID, Op: core.OpForward, Attempt: 1,
		Action: &core.Action{
			Kind: core.TargetHTTP, Address: "http://" + l.Addr().String() + "/charge",
			Payload: []byte(`{"room": "${steps.hotel.room}"}`),
		},
		Before: []core.Result{{Name: "hotel", Value: []byte(`{"room": 12}`)}},
	})
	a := <-answered
	fmt.Println(a.Verdict == core.Done, string(a.Result))
	if err := c.Close(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// forward: {"room": 12}
	// true {"charge": "c-1"}
}

func ExampleAllowList() {
	allow, err := caller.AllowList("*.shop.example", "10.0.0.0/8")
	if err != nil {
		fmt.Println(err)
		return
	}
	answered := make(chan core.Called)
	c := caller.New(caller.Config{Allow: allow}, func(a core.Called) { answered <- a })
	go c.Call(core.Call{Op: core.OpForward, Action: &core.Action{Kind: core.TargetHTTP, Address: "http://127.0.0.1:9/"}})
	fmt.Println((<-answered).Text)
	if err := c.Close(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: 127.0.0.1:9: dial tcp 127.0.0.1:9: not allowed: the configuration does not name it
}
