package api

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// The enums of the wire and of the core have the same order; those of the core
// that begin with a value of their own at 0 are one lower. A test holds that.

func wireOutcome(o core.Outcome) pb.Outcome { return pb.Outcome(o) + 1 }
func wirePhase(p core.Phase) pb.Phase       { return pb.Phase(p) + 1 }
func wireVote(v core.Vote) pb.Vote          { return pb.Vote(v) }
func wireMode(m core.Mode) pb.Mode          { return pb.Mode(m) }
func wireReason(r core.Reason) pb.RollbackReason {
	return pb.RollbackReason(r)
}

func wireTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func wireTransaction(t *core.Transaction) *pb.Transaction {
	out := &pb.Transaction{
		Xid:            t.XID.String(),
		Name:           t.Name,
		Phase:          wirePhase(t.Phase),
		Outcome:        wireOutcome(t.Outcome),
		RollbackReason: wireReason(t.Reason),
		RollbackCause:  wireCause(t),
		BeginTime:      wireTime(t.XID.Begin()),
		Deadline:       wireTime(t.Deadline),
		DecisionTime:   wireTime(t.Decided),
		FinishTime:     wireTime(t.Finished),
		ParentXid:      t.Parent.String(),
		Attention:      t.Attention(),
		Submitted:      t.Submitted,
		Key:            t.Key,
	}
	for i := range t.Branches {
		b := &t.Branches[i]
		out.Branches = append(out.Branches, &pb.Branch{
			BranchId: b.ID.String(), ResourceId: wireResource(b.Resource), Mode: wireMode(b.Mode),
			Vote: wireVote(b.Vote), VoteReason: b.VoteReason, RegisterTime: wireTime(b.Registered),
			Name: b.Name, Plan: wirePlan(b.Plan), Result: b.Result, Forward: wireProgress(&b.Forward),
		})
	}
	for i := range t.Settlements {
		s := &t.Settlements[i]
		w := &pb.Settlement{
			ResourceId: wireResource(s.Resource), Done: s.Done, Attempts: s.Attempts, LastError: s.LastError,
			LastAttemptTime: wireTime(s.Last), NextAttemptTime: wireTime(s.Next), Attention: s.Attention, Abandoned: s.Abandoned,
		}
		if s.Branch != (xid.BranchID{}) {
			w.ResourceId, w.BranchId, w.Op = "", s.Branch.String(), pb.Op(t.Calls(s))
		}
		out.Settlements = append(out.Settlements, w)
	}
	return out
}

func wireResource(r xid.ResourceID) string {
	if r == (xid.ResourceID{}) {
		return ""
	}
	return r.String()
}

func wireDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// wireCause names the operator, for whom the wire has no field of its own.
func wireCause(t *core.Transaction) string {
	switch {
	case t.Operator == "" || t.Outcome != core.RolledBack:
		return t.Cause
	case t.Cause == "":
		return "operator " + t.Operator
	default:
		return "operator " + t.Operator + ": " + t.Cause
	}
}

func wireSettleItem(c *core.Settle) *pb.SettleItem {
	branches := make([]pb.SettleBranch, len(c.Branches))
	item := &pb.SettleItem{Xid: c.XID.String(), Outcome: wireOutcome(c.Outcome), Branches: make([]*pb.SettleBranch, len(branches))}
	for i := range c.Branches {
		branches[i].BranchId = c.Branches[i].ID.String()
		branches[i].Vote = wireVote(c.Branches[i].Vote)
		branches[i].Mode = wireMode(c.Branches[i].Mode)
		item.Branches[i] = &branches[i]
	}
	return item
}
