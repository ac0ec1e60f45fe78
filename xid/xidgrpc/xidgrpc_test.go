package xidgrpc_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidgrpc"
)

// seen is what a handler found in its context.
type seen struct {
	id xid.ID
	ok bool
	md metadata.MD
}

// service is any gRPC service with a unary and a streaming method.
type service struct {
	grpc_health_v1.UnimplementedHealthServer
	mu   sync.Mutex
	seen []seen
}

func (s *service) note(ctx context.Context) {
	id, ok := xid.FromContext(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, seen{id, ok, md})
}

func (s *service) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	s.note(ctx)
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

func (s *service) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	s.note(stream.Context())
	return stream.Send(&grpc_health_v1.HealthCheckResponse{})
}

// last gives what the only call since the last time has found; none: nil.
func (s *service) last() *seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		return nil
	}
	v := s.seen[len(s.seen)-1]
	s.seen = nil
	return &v
}

// start serves over an in-memory connection.
func start(t *testing.T, server []grpc.ServerOption, dial []grpc.DialOption) (*service, *grpc.ClientConn) {
	t.Helper()
	svc := new(service)
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(server...)
	grpc_health_v1.RegisterHealthServer(srv, svc)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	cc, err := grpc.NewClient("passthrough:///buf", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
	}, dial...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return svc, cc
}

// calls are a unary call and a stream, which have to behave alike.
var calls = map[string]func(context.Context, *grpc.ClientConn) error{
	"unary": func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := grpc_health_v1.NewHealthClient(cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	},
	"stream": func(ctx context.Context, cc *grpc.ClientConn) error {
		s, err := grpc_health_v1.NewHealthClient(cc).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	},
}

func newID(n uint64) xid.ID {
	return xid.New(xid.Parts{Incarnation: 1, Store: xid.StoreID{1}, Counter: n})
}

func TestXIDTravelsWithTheCall(t *testing.T) {
	t.Parallel()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc, cc := start(t, xidgrpc.ServerOptions(), xidgrpc.DialOptions())
			want := newID(1)
			ctx := metadata.AppendToOutgoingContext(xid.NewContext(context.Background(), want), "trace", "a", "trace", "b")
			if err := call(ctx, cc); err != nil {
				t.Fatal(err)
			}
			got := svc.last()
			if !got.ok || got.id != want {
				t.Errorf("the handler saw %v, %v; want %v", got.id, got.ok, want)
			}
			if v := got.md.Get("trace"); !slices.Equal(v, []string{"a", "b"}) {
				t.Errorf("other metadata became %v", v)
			}
			if v := got.md.Get(xid.Header); len(v) != 1 {
				t.Errorf("the metadata holds %v, want one XID", v)
			}
			if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get(xid.Header)) != 0 {
				t.Error("the caller's own context was changed")
			}
		})
	}
}

func TestCallWithoutXIDIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc, cc := start(t, xidgrpc.ServerOptions(), xidgrpc.DialOptions())
			if err := call(context.Background(), cc); err != nil {
				t.Fatal(err)
			}
			if got := svc.last(); got.ok || len(got.md.Get(xid.Header)) != 0 {
				t.Errorf("the handler saw %+v", got)
			}
		})
	}
}

func TestXIDAlreadyInOutgoingMetadata(t *testing.T) {
	t.Parallel()
	a, b := newID(1), newID(2)
	for name, call := range calls {
		for _, tt := range []struct {
			name  string
			there []string
			want  codes.Code
		}{
			{"the same stays once", []string{a.String()}, codes.OK},
			{"another is refused", []string{b.String()}, codes.InvalidArgument},
			{"another behind the same is refused", []string{a.String(), b.String()}, codes.InvalidArgument},
			{"a malformed one is refused", []string{"junk"}, codes.InvalidArgument},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				svc, cc := start(t, xidgrpc.ServerOptions(), xidgrpc.DialOptions())
				ctx := xid.NewContext(context.Background(), a)
				for _, s := range tt.there {
					ctx = metadata.AppendToOutgoingContext(ctx, xid.Header, s)
				}
				err := call(ctx, cc)
				if status.Code(err) != tt.want {
					t.Fatalf("got %v, want %v", err, tt.want)
				}
				got := svc.last()
				if tt.want != codes.OK {
					if got != nil {
						t.Error("the call went out")
					}
					if !strings.Contains(err.Error(), xid.Header) {
						t.Errorf("the error does not name the key: %v", err)
					}
					return
				}
				if got.id != a || len(got.md.Get(xid.Header)) != 1 {
					t.Errorf("the handler saw %+v", got)
				}
			})
		}
	}
}

func TestServerJudgesTheXIDsOfACall(t *testing.T) {
	t.Parallel()
	a, b := newID(1), newID(2)
	for name, call := range calls {
		for _, tt := range []struct {
			name string
			sent []string
			want codes.Code
		}{
			{"one", []string{a.String()}, codes.OK},
			{"the same twice", []string{a.String(), a.String()}, codes.OK},
			{"two different", []string{a.String(), b.String()}, codes.InvalidArgument},
			{"malformed", []string{"junk"}, codes.InvalidArgument},
			{"malformed behind a good one", []string{a.String(), "junk"}, codes.InvalidArgument},
			{"empty", []string{""}, codes.InvalidArgument},
			{"ten kilobytes", []string{strings.Repeat("0", 10<<10)}, codes.InvalidArgument},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				svc, cc := start(t, xidgrpc.ServerOptions(), nil)
				ctx := context.Background()
				for _, s := range tt.sent {
					ctx = metadata.AppendToOutgoingContext(ctx, xid.Header, s)
				}
				err := call(ctx, cc)
				if status.Code(err) != tt.want {
					t.Fatalf("got %v, want %v", err, tt.want)
				}
				got := svc.last()
				if tt.want != codes.OK {
					if got != nil {
						t.Error("the handler ran")
					}
					if !strings.Contains(err.Error(), xid.Header) {
						t.Errorf("the error does not name the key: %v", err)
					}
					return
				}
				if !got.ok || got.id != a {
					t.Errorf("the handler saw %+v, want %v", got, a)
				}
			})
		}
	}
}

// An XID that an earlier interceptor or the process put into the context is
// not what the caller sent, so the handler must not work under it.
func TestXIDFromElsewhereDoesNotLeakIntoTheHandler(t *testing.T) {
	t.Parallel()
	a, b := newID(1), newID(2)
	leak := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return h(xid.NewContext(ctx, a), req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(srv, leaky{ss, xid.NewContext(ss.Context(), a)})
		}),
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc, cc := start(t, append(slices.Clone(leak), xidgrpc.ServerOptions()...), nil)
			if err := call(context.Background(), cc); err != nil {
				t.Fatal(err)
			}
			if got := svc.last(); got.ok {
				t.Errorf("a call without an XID ran under %v", got.id)
			}
			if err := call(metadata.AppendToOutgoingContext(context.Background(), xid.Header, b.String()), cc); err != nil {
				t.Fatal(err)
			}
			if got := svc.last(); got.id != b {
				t.Errorf("the handler saw %v, want %v", got.id, b)
			}
		})
	}
}

type leaky struct {
	grpc.ServerStream
	ctx context.Context
}

func (l leaky) Context() context.Context { return l.ctx }

func TestOtherInterceptorsStillRun(t *testing.T) {
	t.Parallel()
	var order []string
	client := func(name string) grpc.DialOption {
		return grpc.WithChainUnaryInterceptor(func(ctx context.Context, m string, req, reply any, cc *grpc.ClientConn, inv grpc.UnaryInvoker, o ...grpc.CallOption) error {
			order = append(order, name)
			return inv(ctx, m, req, reply, cc, o...)
		})
	}
	dial := append([]grpc.DialOption{client("before")}, xidgrpc.DialOptions()...)
	svc, cc := start(t, xidgrpc.ServerOptions(), append(dial, client("after")))
	if err := calls["unary"](xid.NewContext(context.Background(), newID(1)), cc); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(order, []string{"before", "after"}) {
		t.Errorf("interceptors ran as %v", order)
	}
	if got := svc.last(); got.id != newID(1) {
		t.Errorf("the handler saw %v", got.id)
	}
}
