package api

import (
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func TestTheEnumsOfWireAndCoreMatch(t *testing.T) {
	t.Parallel()
	for c, w := range map[core.Outcome]pb.Outcome{
		core.Undecided: pb.Outcome_OUTCOME_UNDECIDED, core.Committed: pb.Outcome_OUTCOME_COMMITTED,
		core.RolledBack: pb.Outcome_OUTCOME_ROLLED_BACK,
	} {
		if wireOutcome(c) != w {
			t.Errorf("outcome %d is %s", c, wireOutcome(c))
		}
	}
	for c, w := range map[core.Phase]pb.Phase{
		core.Active: pb.Phase_PHASE_ACTIVE, core.Collecting: pb.Phase_PHASE_COLLECTING,
		core.Settling: pb.Phase_PHASE_SETTLING, core.Finished: pb.Phase_PHASE_FINISHED,
	} {
		if wirePhase(c) != w {
			t.Errorf("phase %d is %s", c, wirePhase(c))
		}
	}
	for c, w := range map[core.Vote]pb.Vote{
		core.VoteNone: pb.Vote_VOTE_UNSPECIFIED, core.VoteYes: pb.Vote_VOTE_YES, core.VoteNo: pb.Vote_VOTE_NO,
		core.VoteWithdrawn: pb.Vote_VOTE_WITHDRAWN, core.VoteOpen: pb.Vote_VOTE_OPEN,
	} {
		if wireVote(c) != w {
			t.Errorf("vote %d is %s", c, wireVote(c))
		}
	}
	for c, w := range map[core.Reason]pb.RollbackReason{
		core.ReasonNone:      pb.RollbackReason_ROLLBACK_REASON_UNSPECIFIED,
		core.ReasonRequested: pb.RollbackReason_ROLLBACK_REASON_REQUESTED,
		core.ReasonTimeout:   pb.RollbackReason_ROLLBACK_REASON_TIMEOUT,
		core.ReasonVotedNo:   pb.RollbackReason_ROLLBACK_REASON_VOTED_NO,
		core.ReasonOperator:  pb.RollbackReason_ROLLBACK_REASON_OPERATOR,
		core.ReasonDeadlock:  pb.RollbackReason_ROLLBACK_REASON_DEADLOCK,
	} {
		if wireReason(c) != w {
			t.Errorf("reason %d is %s", c, wireReason(c))
		}
	}
	if wireMode(core.ModeAT) != pb.Mode_MODE_AT || wireMode(core.ModeXA) != pb.Mode_MODE_XA {
		t.Error("modes")
	}
}

// What withdrew is undone also where the rest is committed, and has to be shown as that.
func TestSettlementsNameTheActionThatIsCalled(t *testing.T) {
	t.Parallel()
	tx := core.Transaction{Outcome: core.Committed, Branches: []core.Branch{
		{ID: xid.BranchID{1}, Vote: core.VoteYes, Plan: &core.Plan{}}, {ID: xid.BranchID{2}, Vote: core.VoteWithdrawn, Plan: &core.Plan{}},
	}, Settlements: []core.Settlement{{Branch: xid.BranchID{1}}, {Branch: xid.BranchID{2}}, {Resource: xid.ResourceID{3}}}}
	for o, want := range map[core.Outcome][]pb.Op{
		core.Committed:  {pb.Op_OP_COMMIT, pb.Op_OP_ROLLBACK, pb.Op_OP_UNSPECIFIED},
		core.RolledBack: {pb.Op_OP_ROLLBACK, pb.Op_OP_ROLLBACK, pb.Op_OP_UNSPECIFIED},
	} {
		tx.Outcome = o
		for i, s := range wireTransaction(&tx).GetSettlements() {
			if s.GetOp() != want[i] {
				t.Errorf("outcome %d, settlement %d: %s, want %s", o, i, s.GetOp(), want[i])
			}
		}
	}
}

func TestLongTextsAreCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "short", strings.Repeat("x", 2000), strings.Repeat("ä", 1000), "x" + strings.Repeat("ä", 1000)} {
		got := cut(s)
		if len(got) > maxText || !utf8.ValidString(got) || !strings.HasPrefix(s, got) || (len(s) > maxText && len(got) < maxText-3) {
			t.Errorf("%d bytes became %d: %.20q", len(s), len(got), got)
		}
	}
}

// Every kind has a reason of its own on the wire.
func TestEveryRefusalHasItsOwnReason(t *testing.T) {
	t.Parallel()
	seen := map[string]core.ErrorKind{}
	for k := core.ErrUnknownXID; k <= core.ErrWrongState; k++ {
		f := frameError(1, coreError(&core.Error{Kind: k, Message: "m"})).GetError()
		if len(f.GetDetails()) != 1 || f.GetMessage() != "m" {
			t.Fatalf("kind %d: %v", k, f)
		}
		info := new(errdetails.ErrorInfo)
		if err := f.GetDetails()[0].UnmarshalTo(info); err != nil {
			t.Fatal(err)
		}
		key := info.GetReason()
		if other, dup := seen[key]; dup || pb.ErrorReason_value["ERROR_REASON_"+key] == 0 || info.GetDomain() != "handfast" {
			t.Errorf("kind %d has the reason %q; kind %d has it, too", k, key, other)
		}
		seen[key] = k
	}
}
