package crash

import (
	"context"
	"net/http"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/handfast/handfast/client"
)

// points counts the messages of a process, and ends it at one of them. Each message
// is two: before it is sent and after that, or when it has come and when it is
// answered. Nothing is counted before arm.
type points struct {
	at, seen atomic.Int64
}

func (p *points) arm(at int64) {
	p.seen.Store(0)
	p.at.Store(at)
}

func (p *points) pass() {
	if at := p.at.Load(); at > 0 && p.seen.Add(1) == at {
		kill()
	}
}

// dial counts what goes over gRPC, both ways.
func (p *points) dial(addr string) (*client.Client, error) {
	return client.Dial(addr, client.WithLogger(quiet()), client.WithDialOptions(
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			p.pass()
			defer p.pass()
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, cc, method, opts...)
			return countedStream{s, p}, err
		})))
}

type countedStream struct {
	grpc.ClientStream
	p *points
}

func (s countedStream) SendMsg(m any) error {
	s.p.pass()
	defer s.p.pass()
	return s.ClientStream.SendMsg(m)
}

func (s countedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.p.pass()
	}
	return err
}

// RoundTrip counts requests to participants.
func (p *points) RoundTrip(r *http.Request) (*http.Response, error) {
	p.pass()
	defer p.pass()
	return http.DefaultTransport.RoundTrip(r)
}

// serve counts requests that come, and their answers.
func (p *points) serve(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.pass()
		h.ServeHTTP(w, r)
		p.pass() // what is answered may not have left yet
		_ = http.NewResponseController(w).Flush()
		p.pass()
	})
}
