package caller_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
	"github.com/handfast/handfast/xid/xidgrpc"
)

const check = "/grpc.health.v1.Health/Check"

// health is a service whose answers are a function.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	check func(ctx context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error)
}

func (h health) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return h.check(ctx, r.GetService())
}

var serving = &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}

func serveGRPC(t *testing.T, f func(ctx context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error), opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(opts, xidgrpc.ServerOptions()...)...)
	grpc_health_v1.RegisterHealthServer(s, health{check: f})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func encoded(tb testing.TB, service string) []byte {
	tb.Helper()
	b, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestGRPCStatusIsTheVerdict(t *testing.T) {
	t.Parallel()
	host := serveGRPC(t, func(ctx context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error) {
		for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
			st := status.New(c, "why")
			switch service {
			case c.String():
				return nil, st.Err()
			case "ours " + c.String():
				st, _ = st.WithDetails(&errdetails.ErrorInfo{Domain: "handfast", Reason: "LOCK_CONFLICT"})
				return nil, st.Err()
			case "theirs " + c.String():
				st, _ = st.WithDetails(&errdetails.ErrorInfo{Domain: "shop.example", Reason: "SOLD_OUT"})
				return nil, st.Err()
			case "mute " + c.String():
				return nil, status.Error(c, "")
			}
		}
		return serving, nil
	})
	w := newWorld(t, caller.Config{})
	a := w.do(unary(host+check, encoded(t, "ok")))
	var answer grpc_health_v1.HealthCheckResponse
	if err := proto.Unmarshal(a.Result, &answer); a.Verdict != core.Done || err != nil || !proto.Equal(&answer, serving) {
		t.Errorf("got %+v, %v", a, err)
	}
	attention := map[codes.Code]bool{
		codes.InvalidArgument: true, codes.NotFound: true, codes.AlreadyExists: true, codes.PermissionDenied: true,
		codes.OutOfRange: true, codes.Unimplemented: true, codes.Unauthenticated: true, codes.DataLoss: true,
	}
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		want := map[codes.Code]core.Verdict{codes.Aborted: core.Failed, codes.FailedPrecondition: core.NotYet}[c]
		for _, kind := range []string{"", "mute ", "theirs "} {
			a := w.do(unary(host+check, encoded(t, kind+c.String())))
			if a.Verdict != want || a.NeedsAttention != attention[c] {
				t.Errorf("%s%s: got %+v", kind, c, a)
			}
			if want == core.Unsure && (!strings.Contains(a.Text, host) || !strings.Contains(a.Text, c.String())) || want != core.Unsure && kind == "" && a.Text != "why" {
				t.Errorf("%s%s: the text is %q", kind, c, a.Text)
			}
		}
		if a := w.do(unary(host+check, encoded(t, "ours "+c.String()))); a.Verdict != core.Unsure {
			t.Errorf("an error of Handfast, %s: got %+v", c, a)
		}
	}
	if a := w.do(unary(host+"/no.Such/Method", nil)); a.Verdict != core.Unsure || !a.NeedsAttention {
		t.Errorf("no such method: got %+v", a)
	}
	if a := w.do(unary(host+check, []byte{0xff})); a.Verdict == core.Done {
		t.Errorf("a request that is no message: got %+v", a)
	}
}

func TestWhatGRPCSends(t *testing.T) {
	t.Parallel()
	got := make(chan metadata.MD, 1)
	host := serveGRPC(t, func(ctx context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error) {
		if _, ok := xid.FromContext(ctx); ok {
			return nil, errors.New("the service joined the transaction")
		}
		md, _ := metadata.FromIncomingContext(ctx)
		got <- md
		return &grpc_health_v1.HealthCheckResponse{}, nil
	})
	w := newWorld(t, caller.Config{})
	c := unary("grpc://"+host+check, nil)
	c.Op, c.Attempt, c.Branch = core.OpCommit, 9, xid.NewBranchID()
	c.Action.Header = []core.Header{{Name: "X-Two", Value: "1"}, {Name: "x-two", Value: "2"}, {Name: "x-bin", Value: "\x00ä"}}
	if a := w.do(c); a.Verdict != core.Done || a.Result != nil {
		t.Fatalf("got %+v", a)
	}
	md := receive(t, got)
	for name, want := range map[string]string{
		"x-two": "1,2", "x-bin": "\x00ä", xid.Header: "",
		action.HeaderXID: testXID.String(), action.HeaderBranch: c.Branch.String(), action.HeaderAction: "commit",
		action.HeaderAttempt: "9", action.HeaderKey: action.Call{XID: testXID, Branch: c.Branch, Action: action.Commit}.Key(),
	} {
		if have := strings.Join(md.Get(name), ","); have != want {
			t.Errorf("metadata %s is %q, want %q", name, have, want)
		}
	}
}

func TestGRPCMistakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{})
	for _, address := range []string{
		"", "h", "h:1", "h:1/", "h:1/a.B", "h:1/a.B/", "h:1//C", "h:1/a.B/C/D", "h/a.B/C", ":1/a.B/C", "h:0/a.B/C", "h:x/a.B/C",
		"http://h:1/a.B/C", "u@h:1/a.B/C", "h:1/a.B/C d", "h:1/ä.B/C", "unix:///x/y",
	} {
		if a := w.do(unary(address, nil)); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.HasPrefix(a.Text, "grpc ") {
			t.Errorf("%s: got %+v", address, a)
		}
	}
	for _, h := range []core.Header{
		{Name: "handfast-xid", Value: "x"}, {Name: "grpc-timeout", Value: "1S"}, {Name: "content-type", Value: "x"},
		{Name: "te", Value: "x"}, {Name: "a!", Value: "x"}, {Name: "a", Value: "ä"}, {Name: ":path", Value: "x"},
	} {
		c := unary("127.0.0.1:1/a.B/C", nil)
		c.Action.Header = []core.Header{h}
		if a := w.do(c); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.HasPrefix(a.Text, "a header ") {
			t.Errorf("%s: got %+v", h.Name, a)
		}
	}
}

func TestGRPCAnswerThatIsTooLong(t *testing.T) {
	t.Parallel()
	long := make([]byte, 70<<10)
	host := serveGRPC(t, func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) {
		r := &grpc_health_v1.HealthCheckResponse{}
		r.ProtoReflect().SetUnknown(append([]byte{0x12, 0x80, 0xa0, 0x04}, long[:65536]...)) // field 2
		return r, nil
	})
	w := newWorld(t, caller.Config{})
	if a := w.do(unary(host+check, nil)); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "64 KiB") {
		t.Errorf("got %+v", a)
	}
}

func TestGRPCServersThatMisbehave(t *testing.T) {
	t.Parallel()
	stuck := serveGRPC(t, func(ctx context.Context, _ string) (*grpc_health_v1.HealthCheckResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	w := newWorld(t, caller.Config{})
	for name, host := range map[string]string{
		"stuck":        stuck,
		"mute":         raw(t, drain),
		"closes":       raw(t, func(net.Conn) {}),
		"no HTTP/2":    raw(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); drain(c) }),
		"noise":        raw(t, func(c net.Conn) { _, _ = c.Write([]byte(strings.Repeat("\xff", 1<<20))); drain(c) }),
		"settles only": raw(t, func(c net.Conn) { _, _ = c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}); drain(c) }),
	} {
		if a := w.do(within(short, unary(host+check, nil))); a.Verdict != core.Unsure || !strings.Contains(a.Text, host) {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func TestGRPCOverTLS(t *testing.T) {
	t.Parallel()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	t.Cleanup(cert.Close)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Certificate())
	host := serveGRPC(t, func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) { return serving, nil },
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: cert.TLS.Certificates, MinVersion: tls.VersionTLS12})))
	w := newWorld(t, caller.Config{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	if a := w.do(unary("grpcs://"+host+check, nil)); a.Verdict != core.Done {
		t.Errorf("got %+v", a)
	}
	if a := w.do(within(2*short, unary(host+check, nil))); a.Verdict != core.Unsure {
		t.Errorf("plain text: got %+v", a)
	}
	if a := newWorld(t, caller.Config{}).do(unary("grpcs://"+host+check, nil)); a.Verdict != core.Unsure || !strings.Contains(a.Text, "certificate") {
		t.Errorf("an unknown certificate: got %+v", a)
	}
}

// connections counts what a server sees.
type connections struct {
	began atomic.Int32
	ended chan struct{}
}

func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (c *connections) HandleRPC(context.Context, stats.RPCStats)                       {}
func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.began.Add(1)
	case *stats.ConnEnd:
		c.ended <- struct{}{}
	}
}

func TestGRPCConnectionsAreKeptAndClosed(t *testing.T) {
	t.Parallel()
	ok := func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) { return serving, nil }
	seen := &connections{ended: make(chan struct{}, 10)}
	host := serveGRPC(t, ok, grpc.StatsHandler(seen))
	w := newWorld(t, caller.Config{MaxIdle: 1})
	for range 10 {
		w.do(unary(host+check, nil))
	}
	if n := seen.began.Load(); n != 1 {
		t.Errorf("%d connections for calls one after another", n)
	}
	w.do(unary(serveGRPC(t, ok)+check, nil))
	receive(t, seen.ended) // one too many was idle
	w = newWorld(t, caller.Config{IdleTimeout: short})
	w.do(unary(host+check, nil))
	receive(t, seen.ended) // idle for too long
	if a := w.do(unary(host+check, nil)); a.Verdict != core.Done {
		t.Errorf("after that: got %+v", a)
	}
}

func TestDeadGRPCConnectionIsLeft(t *testing.T) {
	t.Parallel()
	host := serveGRPC(t, func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) { return serving, nil })
	// Lets connections through until it is told to swallow everything on those that are
	// there. Which is the caller's? Somebody who lost a server at this port may try it, too.
	var accepted, dead atomic.Int64
	front := raw(t, func(c net.Conn) {
		mine := accepted.Add(1)
		swallow := func() bool { return mine <= dead.Load() }
		back, err := net.Dial("tcp", host)
		if err != nil {
			return
		}
		done := make(chan struct{})
		go func() { defer close(done); pipe(c, back, swallow); _ = c.Close() }()
		pipe(back, c, swallow)
		_ = back.Close()
		<-done
	})
	w := newWorld(t, caller.Config{})
	if a := w.do(unary(front+check, nil)); a.Verdict != core.Done {
		t.Fatalf("got %+v", a)
	}
	dead.Store(accepted.Load())
	if a := w.do(within(short, unary(front+check, nil))); a.Verdict != core.Unsure {
		t.Fatalf("over a dead connection: got %+v", a)
	}
	if a := w.do(unary(front+check, nil)); a.Verdict != core.Done {
		t.Errorf("after that: got %+v", a)
	}
}

// pipe copies from b to a, and swallows what comes while it should.
func pipe(a, b net.Conn, swallow func() bool) {
	for buf := make([]byte, 4096); ; {
		n, err := b.Read(buf)
		if err != nil {
			return
		}
		if !swallow() {
			_, _ = a.Write(buf[:n])
		}
	}
}

func TestGRPCServerThatComesBack(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	_ = l.Close()
	w := newWorld(t, caller.Config{})
	for range 5 {
		if a := w.do(unary(host+check, nil)); a.Verdict != core.Unsure {
			t.Fatalf("got %+v", a)
		}
	}
	if l, err = net.Listen("tcp", host); err != nil {
		t.Skipf("somebody else has the port: %v", err)
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health{check: func(context.Context, string) (*grpc_health_v1.HealthCheckResponse, error) { return serving, nil }})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	if a := w.do(unary(host+check, nil)); a.Verdict != core.Done {
		t.Errorf("right after it came back: got %+v", a)
	}
}

// The message is valid JSON by chance: a line end is the tag of a name, and a blank its
// length.
func TestGRPCPayloadHasNoReferences(t *testing.T) {
	t.Parallel()
	payload := "\n " + `"${steps.nobody} ${own} $${own}"`
	if !json.Valid([]byte(payload)) || len(payload) != 2+' ' {
		t.Fatalf("%d bytes: %q", len(payload), payload)
	}
	got := make(chan string, 1)
	host := serveGRPC(t, func(_ context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error) {
		got <- service
		return serving, nil
	})
	w := newWorld(t, caller.Config{})
	if a := w.do(unary(host+check, []byte(payload))); a.Verdict != core.Done {
		t.Fatalf("got %+v", a)
	}
	if s := receive(t, got); s != payload[2:] {
		t.Errorf("sent %q, want %q", s, payload[2:])
	}
}
