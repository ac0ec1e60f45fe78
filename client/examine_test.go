package client

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// examiner is a handler that looks at rows.
type examiner struct {
	handler
	examine func(context.Context, *pb.Examine) *pb.ExamineResult
}

func (e *examiner) Examine(ctx context.Context, cmd *pb.Examine) *pb.ExamineResult {
	return e.examine(ctx, cmd)
}

func examine(id uint64, resource string) *pb.ServerFrame {
	return &pb.ServerFrame{Kind: &pb.ServerFrame_Examine{Examine: &pb.Examine{Id: id, ResourceId: resource, Xid: "x"}}}
}

func examined(s *faketc.Server) <-chan *pb.ExamineResult {
	results := make(chan *pb.ExamineResult, 64)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetExamineResult(); r != nil {
			results <- r
		}
		return false
	})
	return results
}

func TestExamineIsAnsweredWithItsId(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	results := examined(s)
	c := dial(t, s.Addr())
	attach(t, c, resourceA, &examiner{examine: func(_ context.Context, cmd *pb.Examine) *pb.ExamineResult {
		if cmd.GetId() == 8 { // more than a frame may hold
			return &pb.ExamineResult{Rows: &pb.RowsToSettle{Error: strings.Repeat("x", 4<<20)}}
		}
		return &pb.ExamineResult{Rows: &pb.RowsToSettle{Total: 3}}
	}})
	attach(t, c, resourceB, &handler{})
	session := s.NextSession()
	session.Send(examine(7, resourceA))
	if r := await(t, "the answer", results); r.GetId() != 7 || r.GetRows().GetTotal() != 3 || r.GetRows().GetResourceId() != resourceA {
		t.Errorf("got %v", r)
	}
	session.Send(examine(8, resourceA))
	if r := await(t, "the answer", results); r.GetId() != 8 || r.GetError().GetCode() == 0 {
		t.Errorf("too large an answer: %.200v", r)
	}
	session.Send(examine(9, resourceB))
	if r := await(t, "the answer", results); r.GetId() != 9 || codes.Code(r.GetError().GetCode()) != codes.Unimplemented {
		t.Errorf("of a handler that can't: %v", r)
	}
}

// An operator's question neither holds up settling, nor piles up.
func TestExamineDelaysNobodyAndIsBounded(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	results := examined(s)
	c := dial(t, s.Addr())
	begun, settled := make(chan struct{}, 64), make(chan struct{}, 64)
	free := make(chan struct{})
	attach(t, c, resourceA, &examiner{
		handler: handler{settle: func(context.Context, *pb.Settle, func(*pb.SettleResult)) { settled <- struct{}{} }},
		examine: func(context.Context, *pb.Examine) *pb.ExamineResult {
			begun <- struct{}{}
			<-free
			return &pb.ExamineResult{}
		},
	})
	session := s.NextSession()
	session.Send(examine(1, resourceA))
	await(t, "the question", begun)
	session.Send(settle(resourceA, "x"))
	await(t, "the settle", settled)
	for id := uint64(2); id <= 2+maxExamines; id++ {
		session.Send(examine(id, resourceA))
	}
	if r := await(t, "the refusal", results); r.GetId() != 2+maxExamines || codes.Code(r.GetError().GetCode()) != codes.ResourceExhausted {
		t.Errorf("got %v", r)
	}
	close(free)
	for range 1 + maxExamines {
		if r := await(t, "an answer", results); r.GetError() != nil {
			t.Errorf("got %v", r)
		}
	}
}
