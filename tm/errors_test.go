package tm_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func TestARolledBackErrorSaysEverythingOnce(t *testing.T) {
	t.Parallel()
	const (
		no       = pb.RollbackReason_ROLLBACK_REASON_VOTED_NO
		pay      = "branch 0123456789abcdef0123456789abcdef (pay) voted no: no money"
		database = "branch 0123456789abcdef0123456789abcdef on resource aaaaaaaa-0000-4000-8000-000000000001 voted no: x"
	)
	for name, c := range map[string]struct {
		fn     error // nil: Do asks for the commit
		reason pb.RollbackReason
		cause  string // as the coordinator has it
		want   string
	}{
		"a step failed":                {nil, no, pay, "(pay voted no): no money"},
		"of several lines":             {nil, no, pay + "\nat all", "(pay voted no): no money\nat all"},
		"a branch without a name":      {nil, no, database, "(voted no): " + database},
		"no cause":                     {nil, no, "", "(voted no)"},
		"the deadline":                 {nil, pb.RollbackReason_ROLLBACK_REASON_TIMEOUT, "deadline d passed", "(timeout): deadline d passed"},
		"fn failed":                    {errUser, pb.RollbackReason_ROLLBACK_REASON_REQUESTED, errUser.Error(), "(requested): the account is empty"},
		"a Try failed, and so did fn":  {fmt.Errorf("order: %w", errors.New("no money")), no, pay, "(pay voted no): order: no money"},
		"the step before fn":           {errUser, no, pay, "(pay voted no: no money): the account is empty"},
		"a deadlock":                   {errUser, pb.RollbackReason_ROLLBACK_REASON_DEADLOCK, "a waits for b", "(deadlock: a waits for b): the account is empty"},
		"a name that no branch can be": {nil, no, "branch 0123456789abcdef0123456789abcdef (a b) voted no: x", "(voted no): branch 0123456789abcdef0123456789abcdef (a b) voted no: x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
				switch {
				case f.GetCommit() != nil:
					committed(n, f, &pb.CommitResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, RollbackReason: c.reason, RollbackCause: c.cause})
				case f.GetRollback() != nil:
					n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Rollback{Rollback: &pb.RollbackResponse{
						Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, RollbackReason: c.reason, RollbackCause: c.cause,
					}}})
				default:
					return false
				}
				return true
			})
			var id xid.ID
			err := b.Do(t.Context(), func(ctx context.Context) error {
				id, _ = xid.FromContext(ctx)
				return c.fn
			})
			if want := "transaction " + id.String() + ": rolled back " + c.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if !errors.Is(err, tm.ErrRolledBack) || (c.fn != nil && !errors.Is(err, c.fn)) {
				t.Errorf("got %v", err)
			}
			// What the coordinator said can still be read as it said it.
			if e, ok := client.AsError(err); c.fn == nil && (!ok || e.Metadata["cause"] != c.cause) {
				t.Errorf("got %+v", e)
			}
		})
	}
}
