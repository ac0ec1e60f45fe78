package tm_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// refused is refuse for conditions.
func refused(n *faketc.Session, f *pb.ClientFrame, e *client.Error) bool {
	refuse(n, f, e)
	return true
}

var errTooLate = &client.Error{
	Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted, Message: "rolled back",
	Metadata: map[string]string{"rollback_reason": "TIMEOUT", "cause": "deadline passed"},
}

func TestSubmitSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		on   func(*faketc.Session, *pb.ClientFrame) bool
		want func(error) bool
	}{
		"submitted": {nil, func(err error) bool { return err == nil }},
		"too late": {func(n *faketc.Session, f *pb.ClientFrame) bool {
			return f.GetSubmit() != nil && refused(n, f, errTooLate)
		}, func(err error) bool { return errors.Is(err, tm.ErrTimedOut) && errors.Is(err, tm.ErrRolledBack) }},
		"another plan": {func(n *faketc.Session, f *pb.ClientFrame) bool {
			return f.GetSubmit() != nil && refused(n, f, &client.Error{
				Reason: pb.ErrorReason_ERROR_REASON_BRANCH_CONFLICT, Code: codes.AlreadyExists, Message: "other actions",
			})
		}, func(err error) bool {
			return client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_BRANCH_CONFLICT && strings.HasPrefix(err.Error(), "submit transaction ")
		}},
		"no answer": {func(_ *faketc.Session, f *pb.ClientFrame) bool { return f.GetSubmit() != nil },
			func(err error) bool { return errors.Is(err, tm.ErrOutcomeUnknown) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, c.on, tm.WithRetryLimit(brief))
			tx, err := b.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			b.next(t)
			req := &pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{{BranchId: "x"}}}
			if err := b.Submit(t.Context(), tx, req); !c.want(err) {
				t.Errorf("got %v", err)
			}
			if f := b.next(t).GetSubmit(); f.GetXid() != tx.XID.String() || len(f.GetBranches()) != 1 {
				t.Errorf("sent %v", f)
			}
		})
	}
}

func TestWaitAsksUntilItIsDecided(t *testing.T) {
	t.Parallel()
	asked := 0
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetWaitFor() == nil {
			return false
		}
		if asked++; asked < 3 {
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_WaitFor{WaitFor: &pb.WaitForResponse{Outcome: pb.Outcome_OUTCOME_UNDECIDED}}})
			return true
		}
		return false
	})
	if err := b.Wait(t.Context(), b.tc.NewXID()); err != nil || asked != 3 {
		t.Errorf("got %v after %d questions", err, asked)
	}
}

func TestWaitTellsWhyItWasRolledBack(t *testing.T) {
	t.Parallel()
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		switch k := f.GetKind().(type) {
		case *pb.ClientFrame_WaitFor:
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_WaitFor{WaitFor: &pb.WaitForResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK}}})
		case *pb.ClientFrame_Get:
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{Transaction: &pb.Transaction{
				Xid: k.Get.GetXid(), RollbackReason: pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, RollbackCause: "branch 0123456789abcdef0123456789abcdef (hotel) voted no: no room",
			}}}})
		default:
			return false
		}
		return true
	})
	err := b.Wait(t.Context(), b.tc.NewXID())
	if !errors.Is(err, tm.ErrRolledBack) || !strings.HasSuffix(err.Error(), ": rolled back (hotel voted no): no room") {
		t.Errorf("got %v", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	b := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetWaitFor() == nil {
			return false
		}
		if asked++; asked == 3 { // it goes on beyond the limit
			cancel()
		}
		return true
	}, tm.WithRetryLimit(brief))
	if err := b.Wait(ctx, b.tc.NewXID()); !errors.Is(err, tm.ErrOutcomeUnknown) || ctx.Err() == nil {
		t.Errorf("got %v", err)
	}
	b.tc.Stop()
	if err := b.Wait(t.Context(), b.tc.NewXID()); !errors.Is(err, tm.ErrOutcomeUnknown) {
		t.Errorf("without a coordinator: got %v", err)
	}
}

func TestWaitUntilSettled(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	if err := b.Wait(t.Context(), b.tc.NewXID(), tm.WithWaitSettled()); err != nil {
		t.Fatal(err)
	}
	if b.next(t).GetWaitFor() == nil || !b.next(t).GetCommit().GetWaitSettled() {
		t.Error("it did not ask until settled")
	}
}

func TestRegisterAndVote(t *testing.T) {
	t.Parallel()
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		switch {
		case f.GetRegisterBranch().GetName() == "late":
			return refused(n, f, errTooLate)
		case f.GetVote().GetReason() == "late":
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Vote{Vote: &pb.VoteResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK}}})
			return true
		}
		return false
	})
	id := b.tc.NewXID()
	for _, name := range []string{"", "late"} {
		if err := b.Register(t.Context(), id, &pb.RegisterBranchRequest{Name: name}); errors.Is(err, tm.ErrRolledBack) != (name != "") {
			t.Errorf("register %q: got %v", name, err)
		}
		if err := b.Vote(t.Context(), id, &pb.VoteRequest{Vote: pb.Vote_VOTE_YES, Reason: name}); errors.Is(err, tm.ErrRolledBack) != (name != "") {
			t.Errorf("vote %q: got %v", name, err)
		}
		if err := b.Vote(t.Context(), id, &pb.VoteRequest{Vote: pb.Vote_VOTE_NO, Reason: name}); err != nil {
			t.Errorf("no %q: got %v", name, err)
		}
	}
	if b.next(t).GetRegisterBranch().GetXid() != id.String() || b.next(t).GetVote().GetXid() != id.String() {
		t.Error("it was sent for another transaction")
	}
	for _, err := range []error{
		b.Register(t.Context(), xid.ID{}, &pb.RegisterBranchRequest{}), b.Vote(t.Context(), xid.ID{}, &pb.VoteRequest{}),
		b.Wait(t.Context(), xid.ID{}), b.Submit(t.Context(), tm.Tx{}, &pb.SubmitRequest{}),
	} {
		if client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_INVALID_FIELD {
			t.Errorf("without an XID: got %v", err)
		}
	}
}
