package dtm_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handfast/handfast/proto/dtmgimp"
)

type transMethod = func(context.Context, *dtmgimp.DtmRequest, ...grpc.CallOption) (*emptypb.Empty, error)

// rpcBranches is a service over gRPC. The name of a method says how it answers: the name
// of a code, and a message behind "_".
type rpcBranches struct {
	host  string
	mu    sync.Mutex
	calls []rpcCall
}

type rpcCall struct {
	method string
	body   []byte
	md     metadata.MD
}

func newRPCBranches(t *testing.T) *rpcBranches {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &rpcBranches{host: lis.Addr().String()}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(b.serve))
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *rpcBranches) at(method string) string { return b.host + "/busi.Busi/" + method }

func (b *rpcBranches) serve(_ any, s grpc.ServerStream) error {
	var in []byte
	if err := s.RecvMsg(&in); err != nil {
		return err
	}
	full, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	b.mu.Lock()
	b.calls = append(b.calls, rpcCall{full, in, md})
	b.mu.Unlock()
	name, message, _ := strings.Cut(full[strings.LastIndexByte(full, '/')+1:], "_")
	for c := codes.OK + 1; c <= codes.Unauthenticated; c++ {
		if c.String() == name {
			return status.Error(c, message)
		}
	}
	return s.SendMsg(&[]byte{})
}

func (b *rpcBranches) of(gid string) (out []rpcCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		if strings.Join(c.md.Get("dtm-gid"), ",") == gid {
			out = append(out, c)
		}
	}
	return out
}

// rawCodec takes messages as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
