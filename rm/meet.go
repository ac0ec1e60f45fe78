package rm

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// settleDecided asks the coordinator for a transaction and settles it in this
// database if it is decided, whoever it belongs to. It acts on a recorded decision
// and on nothing else. Where it did not settle, why says so for people; "" where
// there is nothing to say: it is undecided, being settled at this moment, or
// nobody could be asked.
func (a *agent) settleDecided(ctx context.Context, id xid.ID) (settled bool, why string) {
	answer, err := a.p.client.Get(ctx, &pb.GetRequest{Xid: id.String()})
	if err != nil {
		if e, ok := client.AsError(err); ok {
			return false, fmt.Sprintf("the coordinator refuses to tell (%s): %s", e.Reason, e.Message)
		}
		return false, "" // no coordinator at present
	}
	t := answer.GetTransaction()
	cmd := &pb.SettleItem{Xid: id.String(), Outcome: t.GetOutcome()}
	if t.GetXid() != cmd.GetXid() {
		return false, fmt.Sprintf("the coordinator answered for %q", t.GetXid())
	}
	if cmd.GetOutcome() == pb.Outcome_OUTCOME_UNDECIDED {
		return false, ""
	}
	for _, b := range t.GetBranches() {
		if b.GetResourceId() == a.p.resource {
			cmd.Branches = append(cmd.Branches, &pb.SettleBranch{BranchId: b.GetBranchId(), Vote: b.GetVote(), Mode: b.GetMode()})
		}
	}
	s, err := settlement(cmd)
	if err != nil {
		return false, err.Error()
	}
	if len(s.Branches) == 0 {
		return false, "the coordinator knows no branch of it in this database"
	}
	done := make(chan error, 1)
	if queued, err := a.enqueue(&item{Settlement: s, done: func(err error) { done <- err }}); err != nil || !queued {
		return false, "" // too much to do already, or being settled at this moment
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		return false, ""
	}
	if err != nil {
		return false, "settling failed: " + err.Error()
	}
	return true, ""
}
