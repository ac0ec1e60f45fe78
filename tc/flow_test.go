package tc_test

import (
	"testing"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

func TestATransactionIsDecidedOnceAndSettledInEveryResource(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	c := r.dial(t)
	ctx := limited(t)
	ms := []*manager{newManager(1), newManager(2)}
	for _, m := range ms {
		m.attach(t, c)
	}
	for _, commit := range []bool{true, false} {
		id := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{Name: "flow"})).GetXid()
		for _, m := range ms {
			b := newBranch()
			reg := must[*pb.RegisterBranchResponse](t)(c.RegisterBranch(ctx, &pb.RegisterBranchRequest{
				Xid: id, BranchId: b, ResourceId: m.resource, Mode: pb.Mode_MODE_AT,
			}))
			if reg.GetWitness().GetPosition() == 0 || reg.GetWitness().GetIncarnation() != 1 {
				t.Fatalf("witness %v", reg.GetWitness())
			}
			must[*pb.VoteResponse](t)(c.Vote(ctx, &pb.VoteRequest{Xid: id, BranchId: b, Vote: pb.Vote_VOTE_YES}))
		}
		want := pb.Outcome_OUTCOME_ROLLED_BACK
		if commit {
			want = pb.Outcome_OUTCOME_COMMITTED
			if got := must[*pb.CommitResponse](t)(c.Commit(ctx, &pb.CommitRequest{Xid: id})); got.GetOutcome() != want {
				t.Fatalf("commit: %v", got)
			}
		} else if got := must[*pb.RollbackResponse](t)(c.Rollback(ctx, &pb.RollbackRequest{Xid: id, Cause: "no"})); got.GetOutcome() != want {
			t.Fatalf("rollback: %v", got)
		}
		for _, m := range ms {
			if got := m.await(t, id); got != want {
				t.Fatalf("settled as %v, want %v", got, want)
			}
			w := must[*pb.WaitForResponse](t)(c.WaitFor(ctx, &pb.WaitForRequest{Xid: id, ResourceId: m.resource}))
			if !w.GetSettled() || w.GetOutcome() != want {
				t.Fatalf("wait: %v", w)
			}
		}
		got := must[*pb.GetResponse](t)(c.Get(ctx, &pb.GetRequest{Xid: id})).GetTransaction()
		if got.GetOutcome() != want || len(got.GetBranches()) != 2 {
			t.Fatalf("get: %v", got)
		}
	}
}
