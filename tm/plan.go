package tm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// maxWaitFor is the longest that the coordinator lets one request wait.
const maxWaitFor = 5 * time.Minute

// Submit registers branches that the coordinator calls by itself, all or none, and
// asks to commit for good. From then on this process is not needed; Wait tells how it
// ends. Packages saga, message and workflow make the request; its XID is filled in.
//
// The same again is safe, and is how to go on after ErrOutcomeUnknown, which says that
// the answer was lost. ErrRolledBack: it was decided before, so nothing was
// submitted. Other errors are those of the client, and nothing was submitted either.
func (m *Manager) Submit(ctx context.Context, t Tx, r *pb.SubmitRequest) error {
	if t.XID.IsZero() {
		return invalid("xid", "empty")
	}
	r.Xid = t.XID.String()
	err := once(ctx, t.limit(), func(ctx context.Context) error {
		_, err := m.c.Submit(ctx, r)
		return err
	})
	return planned("submit", t.XID, err)
}

// Register adds one branch with a plan to a transaction that is not decided. It returns
// when the registration is durable. The same again is safe. ErrRolledBack: it is too
// late. For all other branches there is package rm.
func (m *Manager) Register(ctx context.Context, id xid.ID, r *pb.RegisterBranchRequest) error {
	r.Xid = id.String()
	return m.once(ctx, "register a branch of", id, func(ctx context.Context) error {
		_, err := m.c.RegisterBranch(ctx, r)
		return err
	})
}

// Vote says how phase one of a branch with a plan ended. The first vote counts, and a
// no rolls the transaction back. ErrRolledBack after a yes, ErrCommitted after a no: the
// decision was made before.
func (m *Manager) Vote(ctx context.Context, id xid.ID, r *pb.VoteRequest) error {
	r.Xid = id.String()
	return m.once(ctx, "vote in", id, func(ctx context.Context) error {
		a, err := m.c.Vote(ctx, r)
		switch {
		case err != nil:
			return err
		case a.GetOutcome() == pb.Outcome_OUTCOME_ROLLED_BACK && r.GetVote() == pb.Vote_VOTE_YES:
			return m.whyRolledBack(ctx, id)
		case a.GetOutcome() == pb.Outcome_OUTCOME_COMMITTED && r.GetVote() == pb.Vote_VOTE_NO:
			return &CommittedError{XID: id, Cause: errors.New(r.GetReason())}
		}
		return nil
	})
}

// Get tells all that the coordinator knows of a transaction, with the results of its
// branches and without their payloads.
func (m *Manager) Get(ctx context.Context, id xid.ID) (t *pb.Transaction, err error) {
	err = m.once(ctx, "get", id, func(ctx context.Context) error {
		resp, err := m.c.Get(ctx, &pb.GetRequest{Xid: id.String()})
		t = resp.GetTransaction()
		return err
	})
	return t, err
}

func (m *Manager) once(ctx context.Context, what string, id xid.ID, request func(context.Context) error) error {
	if id.IsZero() {
		return invalid("xid", "empty")
	}
	o, err := m.options(nil)
	if err != nil {
		return err
	}
	return planned(what, id, once(ctx, o.retryLimit, request))
}

// planned says of an error what it means for the transaction.
func planned(what string, id xid.ID, err error) error {
	if err == nil || errors.Is(err, ErrRolledBack) || errors.Is(err, ErrCommitted) {
		return err
	}
	if i, ok := errors.AsType[*client.InterruptedError](err); ok && i.Sent {
		return &OutcomeUnknownError{XID: id, Err: err}
	}
	if e, ok := errors.AsType[*client.Error](err); ok && e.Reason == pb.ErrorReason_ERROR_REASON_ROLLED_BACK {
		return &RolledBackError{XID: id, Reason: parseReason(e.Metadata["rollback_reason"]), Cause: err, Decision: e.Metadata["cause"]}
	}
	return fmt.Errorf("%s transaction %s: %w", what, id, err)
}

// Wait waits until a transaction is decided, whoever began it: nil for a commit,
// ErrRolledBack with the reason and the cause. It asks for no decision. With
// WithWaitSettled it also waits until the decision is carried out everywhere
// (ErrNotSettled where that could not be awaited). It ends with ctx, or when the
// coordinator was out of reach for the retry limit: ErrOutcomeUnknown.
func (m *Manager) Wait(ctx context.Context, id xid.ID, opts ...Option) error {
	if id.IsZero() {
		return invalid("xid", "empty")
	}
	o, err := m.options(opts)
	if err != nil {
		return err
	}
	outcome, err := m.decided(ctx, id, o.retryLimit)
	switch {
	case err != nil:
		return err
	case outcome == pb.Outcome_OUTCOME_ROLLED_BACK:
		err = m.whyRolledBack(ctx, id)
	}
	return m.settled(ctx, Tx{XID: id, waitSettled: o.waitSettled, retryLimit: o.retryLimit}, err)
}

// whyRolledBack asks for the reason of a decision that is known.
func (m *Manager) whyRolledBack(ctx context.Context, id xid.ID) error {
	t, err := m.Get(ctx, id)
	if err != nil {
		return &RolledBackError{XID: id, Cause: err}
	}
	return rolledBack(Tx{XID: id}, t.GetRollbackReason(), t.GetRollbackCause())
}

// decided asks as long as there is a session.
func (m *Manager) decided(ctx context.Context, id xid.ID, limit time.Duration) (outcome pb.Outcome, err error) {
	req := &pb.WaitForRequest{Xid: id.String(), Timeout: durationpb.New(min(maxWaitFor, max(limit/2, time.Millisecond)))}
	for {
		err = once(ctx, limit, func(ctx context.Context) error {
			resp, err := m.c.WaitFor(ctx, req)
			outcome = resp.GetOutcome()
			return err
		})
		i, interrupted := errors.AsType[*client.InterruptedError](err)
		switch {
		case err == nil && (outcome == pb.Outcome_OUTCOME_COMMITTED || outcome == pb.Outcome_OUTCOME_ROLLED_BACK):
			return outcome, nil
		case ctx.Err() != nil:
			if err == nil {
				err = context.Cause(ctx)
			}
			return outcome, &OutcomeUnknownError{XID: id, Err: err}
		case err == nil:
		case !interrupted:
			return outcome, fmt.Errorf("wait for transaction %s: %w", id, err)
		case i.Conn != nil || !errors.Is(i.Err, context.DeadlineExceeded):
			return outcome, &OutcomeUnknownError{XID: id, Err: err}
		}
	}
}
