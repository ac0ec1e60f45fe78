package histories

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// api is what a client can call. *client.Client is one: everything over its stream.
type api interface {
	Begin(context.Context, *pb.BeginRequest) (*pb.BeginResponse, error)
	RegisterBranch(context.Context, *pb.RegisterBranchRequest) (*pb.RegisterBranchResponse, error)
	Vote(context.Context, *pb.VoteRequest) (*pb.VoteResponse, error)
	Commit(context.Context, *pb.CommitRequest) (*pb.CommitResponse, error)
	Rollback(context.Context, *pb.RollbackRequest) (*pb.RollbackResponse, error)
	Get(context.Context, *pb.GetRequest) (*pb.GetResponse, error)
	WaitFor(context.Context, *pb.WaitForRequest) (*pb.WaitForResponse, error)
}

// unary is any client without our SDK.
type unary struct{ c pb.CoordinatorClient }

func (u unary) Begin(ctx context.Context, r *pb.BeginRequest) (*pb.BeginResponse, error) {
	return u.c.Begin(ctx, r)
}

func (u unary) RegisterBranch(ctx context.Context, r *pb.RegisterBranchRequest) (*pb.RegisterBranchResponse, error) {
	return u.c.RegisterBranch(ctx, r)
}

func (u unary) Vote(ctx context.Context, r *pb.VoteRequest) (*pb.VoteResponse, error) {
	return u.c.Vote(ctx, r)
}

func (u unary) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	return u.c.Commit(ctx, r)
}

func (u unary) Rollback(ctx context.Context, r *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	return u.c.Rollback(ctx, r)
}

func (u unary) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	return u.c.Get(ctx, r)
}

func (u unary) WaitFor(ctx context.Context, r *pb.WaitForRequest) (*pb.WaitForResponse, error) {
	return u.c.WaitFor(ctx, r)
}

// managed is a service that uses package tm, and the client for its branches.
type managed struct {
	*client.Client
	m *tm.Manager
}

// Begin implements api.
func (m managed) Begin(ctx context.Context, r *pb.BeginRequest) (*pb.BeginResponse, error) {
	tx, err := m.m.Begin(ctx, tm.WithName(r.GetName()), tm.WithTimeout(r.GetTimeout().AsDuration()))
	return &pb.BeginResponse{Xid: tx.XID.String()}, err
}

// Commit implements api.
func (m managed) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	id, err := xid.Parse(r.GetXid())
	if err != nil {
		return nil, err
	}
	if err := m.m.Commit(ctx, tm.Tx{XID: id}); err != nil {
		return nil, err
	}
	return &pb.CommitResponse{Outcome: pb.Outcome_OUTCOME_COMMITTED}, nil
}

// Rollback implements api.
func (m managed) Rollback(ctx context.Context, r *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	id, err := xid.Parse(r.GetXid())
	if err != nil {
		return nil, err
	}
	if err := m.m.Rollback(ctx, tm.Tx{XID: id}, errors.New(r.GetCause())); err != nil {
		return nil, err
	}
	return &pb.RollbackResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK}, nil
}

// Get implements api.
func (m managed) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	id, err := xid.Parse(r.GetXid())
	if err != nil {
		return nil, err
	}
	t, err := m.m.Get(ctx, id)
	return &pb.GetResponse{Transaction: t}, err
}

// WaitFor implements api.
func (m managed) WaitFor(ctx context.Context, r *pb.WaitForRequest) (*pb.WaitForResponse, error) {
	id, err := xid.Parse(r.GetXid())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.GetTimeout().AsDuration())
	defer cancel()
	if err := m.m.Wait(ctx, id); err != nil {
		return nil, err
	}
	return &pb.WaitForResponse{Outcome: pb.Outcome_OUTCOME_COMMITTED}, nil
}

// errSilence is a call that got no answer.
var errSilence = errors.New("no answer")

// answer reads what a call was told: its outcome, or its refusal. It is errSilence where
// nobody knows what became of it, and another error where nobody should be told that.
func (h *history) answer(err error, o pb.Outcome, why pb.RollbackReason, cause string) (*output, error) {
	if err == nil && o == pb.Outcome_OUTCOME_UNSPECIFIED {
		return nil, fmt.Errorf("transaction %s: an answer without an outcome", h.id)
	}
	if err == nil {
		out := h.decided(o, why, cause)
		return &out, nil
	}
	if e, ok := client.AsError(err); ok {
		switch e.Reason { //nolint:exhaustive // the others are not for clients that do no wrong
		case pb.ErrorReason_ERROR_REASON_ROLLED_BACK:
			name := e.Metadata["rollback_reason"]
			v, ok := pb.RollbackReason_value[name]
			if !ok {
				v = pb.RollbackReason_value["ROLLBACK_REASON_"+name]
			}
			out := h.decided(pb.Outcome_OUTCOME_ROLLED_BACK, pb.RollbackReason(v), e.Metadata["cause"])
			return &out, nil
		case pb.ErrorReason_ERROR_REASON_COMMITTED:
			return &output{outcome: pb.Outcome_OUTCOME_COMMITTED, reason: untold, cause: untold}, nil
		case pb.ErrorReason_ERROR_REASON_UNKNOWN_XID:
			return &output{outcome: unknownXID, reason: untold, cause: untold}, nil
		case pb.ErrorReason_ERROR_REASON_UNKNOWN_BRANCH:
			return &output{outcome: unknownBranch, reason: untold, cause: untold}, nil
		case pb.ErrorReason_ERROR_REASON_DRAINING, pb.ErrorReason_ERROR_REASON_UNSPECIFIED:
			return nil, errSilence
		}
		return nil, fmt.Errorf("transaction %s: it is told %w", h.id, err)
	}
	if errors.Is(err, tm.ErrOutcomeUnknown) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil, errSilence
	}
	if _, ok := errors.AsType[*client.InterruptedError](err); ok {
		return nil, errSilence
	}
	switch status.Code(err) { //nolint:exhaustive // what gRPC says of connections that end
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown:
		return nil, errSilence
	}
	return nil, fmt.Errorf("transaction %s: it is told %w", h.id, err)
}

// caller is one client of one transaction, whose calls are all noted.
type caller struct {
	h   *history
	who int
	a   api
}

// done notes a call, and gives what it was told; nil: nothing.
func (c caller) done(since int64, do, told *input, out *output, err error) (*output, error) {
	if err != nil && !errors.Is(err, errSilence) {
		return nil, err
	}
	c.h.call(c.who, since, do, told, out)
	return out, nil
}

func (c caller) register(ctx context.Context, b int) (*output, error) {
	since := clock()
	_, err := c.a.RegisterBranch(ctx, &pb.RegisterBranchRequest{
		Xid: c.h.id, BranchId: c.h.branches[b], ResourceId: resource, Mode: pb.Mode_MODE_AT,
	})
	out, err := c.h.answer(err, pb.Outcome_OUTCOME_UNDECIDED, 0, "")
	return c.done(since, &input{do: doRegister, branch: b}, &input{do: toldRegistered, branch: b}, out, err)
}

// vote tells a fact that has been noted since.
func (c caller) vote(ctx context.Context, b int, v pb.Vote, since int64) (*output, error) {
	r, err := c.a.Vote(ctx, &pb.VoteRequest{Xid: c.h.id, BranchId: c.h.branches[b], Vote: v})
	out, err := c.h.answer(err, r.GetOutcome(), 0, "")
	return c.done(since, nil, &input{do: toldVote, branch: b}, out, err)
}

func (c caller) commit(ctx context.Context) (*output, error) {
	since := clock()
	r, err := c.a.Commit(ctx, &pb.CommitRequest{Xid: c.h.id})
	out, err := c.h.answer(err, r.GetOutcome(), r.GetRollbackReason(), r.GetRollbackCause())
	return c.done(since, &input{do: doCommit}, &input{do: toldOutcome}, out, err)
}

func (c caller) rollback(ctx context.Context, cause int) (*output, error) {
	since := clock()
	r, err := c.a.Rollback(ctx, &pb.RollbackRequest{Xid: c.h.id, Cause: fmt.Sprintf("cause-%d", cause)})
	out, err := c.h.answer(err, r.GetOutcome(), r.GetRollbackReason(), r.GetRollbackCause())
	return c.done(since, &input{do: doRollback, cause: cause}, &input{do: toldOutcome}, out, err)
}

func (c caller) get(ctx context.Context) (*output, error) {
	since := clock()
	r, err := c.a.Get(ctx, &pb.GetRequest{Xid: c.h.id})
	t := r.GetTransaction()
	out, err := c.h.answer(err, t.GetOutcome(), t.GetRollbackReason(), t.GetRollbackCause())
	told := &input{do: toldAll}
	if out != nil && out.outcome <= 0 {
		told.do = toldOutcome
	}
	for _, b := range t.GetBranches() {
		if i := c.h.branchOf(b.GetBranchId()); i >= 0 && out != nil {
			out.branches[i] = shown{true, b.GetVote()}
		}
	}
	return c.done(since, nil, told, out, err)
}

func (c caller) wait(ctx context.Context, d time.Duration) (*output, error) {
	since := clock()
	r, err := c.a.WaitFor(ctx, &pb.WaitForRequest{Xid: c.h.id, Timeout: durationOf(d)})
	out, err := c.h.answer(err, r.GetOutcome(), 0, "")
	return c.done(since, nil, &input{do: toldOutcome}, out, err)
}
