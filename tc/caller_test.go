package tc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// caller sends a request in one of the two forms that the wire has for it.
type caller interface {
	do(ctx context.Context, req proto.Message) (proto.Message, error)
}

// forms gives both forms.
func forms(t *testing.T, r *running) map[string]caller {
	t.Helper()
	cc := r.conn(t)
	return map[string]caller{
		"unary":   unaryCaller{pb.NewCoordinatorClient(cc)},
		"session": openSession(t, cc, &pb.Hello{ClientName: "forms"}),
	}
}

type unaryCaller struct{ c pb.CoordinatorClient }

func (u unaryCaller) do(ctx context.Context, req proto.Message) (proto.Message, error) {
	switch req := req.(type) {
	case *pb.BeginRequest:
		return u.c.Begin(ctx, req)
	case *pb.RegisterBranchRequest:
		return u.c.RegisterBranch(ctx, req)
	case *pb.SubmitRequest:
		return u.c.Submit(ctx, req)
	case *pb.VoteRequest:
		return u.c.Vote(ctx, req)
	case *pb.CommitRequest:
		return u.c.Commit(ctx, req)
	case *pb.RollbackRequest:
		return u.c.Rollback(ctx, req)
	case *pb.GetRequest:
		return u.c.Get(ctx, req)
	case *pb.WaitForRequest:
		return u.c.WaitFor(ctx, req)
	default:
		return nil, fmt.Errorf("no unary call takes %T", req)
	}
}

// rawSession speaks the stream frame by frame.
type rawSession struct {
	stream pb.Coordinator_SessionClient

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan *pb.ServerFrame
	ended   chan struct{}
	err     error // why it ended
	other   chan *pb.ServerFrame
}

func openSession(tb testing.TB, cc *grpc.ClientConn, hello *pb.Hello) *rawSession {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewCoordinatorClient(cc).Session(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	s := &rawSession{
		stream: stream, waiting: make(map[uint64]chan *pb.ServerFrame),
		ended: make(chan struct{}), other: make(chan *pb.ServerFrame, 10_000),
	}
	go s.read()
	tb.Cleanup(func() { cancel(); <-s.ended })
	if hello == nil {
		return s
	}
	if f, err := s.ask(limited(tb), &pb.ClientFrame{Kind: &pb.ClientFrame_Hello{Hello: hello}}); err != nil || f.GetHello().GetStoreId() == "" {
		tb.Fatalf("hello: %v, %v", f, err)
	}
	return s
}

func (s *rawSession) read() {
	defer close(s.ended)
	for {
		m, err := s.stream.Recv()
		if err != nil {
			s.err = err
			return
		}
		for _, f := range m.GetFrames() {
			s.mu.Lock()
			ch := s.waiting[f.GetId()]
			delete(s.waiting, f.GetId())
			s.mu.Unlock()
			if ch == nil {
				s.other <- f
				continue
			}
			ch <- f
		}
	}
}

// ask sends a frame with a fresh id and waits for its answer.
func (s *rawSession) ask(ctx context.Context, f *pb.ClientFrame) (*pb.ServerFrame, error) {
	ch := make(chan *pb.ServerFrame, 1)
	s.mu.Lock()
	s.nextID++
	f.Id = s.nextID
	s.waiting[f.Id] = ch
	err := s.stream.Send(&pb.ClientMessage{Frames: []*pb.ClientFrame{f}})
	s.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	select {
	case f := <-ch:
		if e := f.GetError(); e != nil {
			return nil, status.FromProto(&spb.Status{Code: e.GetCode(), Message: e.GetMessage(), Details: e.GetDetails()}).Err()
		}
		return f, nil
	case <-s.ended:
		return nil, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send sends frames as they are.
func (s *rawSession) send(tb testing.TB, frames ...*pb.ClientFrame) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stream.Send(&pb.ClientMessage{Frames: frames}); err != nil && !errors.Is(err, io.EOF) {
		tb.Fatal(err)
	}
}

func (s *rawSession) do(ctx context.Context, req proto.Message) (proto.Message, error) {
	f, get := toFrame(req)
	if f == nil {
		return nil, fmt.Errorf("no frame takes %T", req)
	}
	got, err := s.ask(ctx, f)
	if err != nil {
		return nil, err
	}
	return get(got), nil
}

func toFrame(req proto.Message) (*pb.ClientFrame, func(*pb.ServerFrame) proto.Message) {
	f := &pb.ClientFrame{}
	switch req := req.(type) {
	case *pb.BeginRequest:
		f.Kind = &pb.ClientFrame_Begin{Begin: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetBegin() }
	case *pb.RegisterBranchRequest:
		f.Kind = &pb.ClientFrame_RegisterBranch{RegisterBranch: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetRegisterBranch() }
	case *pb.SubmitRequest:
		f.Kind = &pb.ClientFrame_Submit{Submit: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetSubmit() }
	case *pb.VoteRequest:
		f.Kind = &pb.ClientFrame_Vote{Vote: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetVote() }
	case *pb.CommitRequest:
		f.Kind = &pb.ClientFrame_Commit{Commit: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetCommit() }
	case *pb.RollbackRequest:
		f.Kind = &pb.ClientFrame_Rollback{Rollback: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetRollback() }
	case *pb.GetRequest:
		f.Kind = &pb.ClientFrame_Get{Get: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetGet() }
	case *pb.WaitForRequest:
		f.Kind = &pb.ClientFrame_WaitFor{WaitFor: req}
		return f, func(f *pb.ServerFrame) proto.Message { return f.GetWaitFor() }
	default:
		return nil, nil
	}
}

// reason reads the machine-readable part of an error.
func reason(err error) (name, field string, meta map[string]string) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == "handfast" {
				name, meta = d.GetReason(), d.GetMetadata()
			}
		case *errdetails.BadRequest:
			field = d.GetFieldViolations()[0].GetField()
		}
	}
	return name, field, meta
}
