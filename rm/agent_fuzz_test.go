package rm

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// Whatever a coordinator commands, what is settled is what it said: for an XID, with an
// explicit decision, once; everything else is answered with an error, and never as done.
func FuzzCommands(f *testing.F) {
	resource := xid.ResourceID{15: 1}.String()
	id := xid.New(xid.Parts{Incarnation: 1, Counter: 1}).String()
	item := func(o pb.Outcome, mode pb.Mode) *pb.SettleItem {
		return &pb.SettleItem{Xid: id, Outcome: o, Branches: []*pb.SettleBranch{{BranchId: xid.BranchID{1}.String(), Vote: pb.Vote_VOTE_YES, Mode: mode}}}
	}
	for _, m := range []*pb.Settle{
		{}, {ResourceId: resource, Items: []*pb.SettleItem{item(pb.Outcome_OUTCOME_COMMITTED, pb.Mode_MODE_AT), item(pb.Outcome_OUTCOME_COMMITTED, pb.Mode_MODE_XA)}},
		{ResourceId: resource, Items: []*pb.SettleItem{item(pb.Outcome_OUTCOME_ROLLED_BACK, 0), item(pb.Outcome_OUTCOME_UNDECIDED, 0), item(9, 0), item(pb.Outcome_OUTCOME_COMMITTED, pb.Mode_MODE_TCC), {}}},
		{ResourceId: resource, Items: []*pb.SettleItem{item(pb.Outcome_OUTCOME_UNDECIDED, 0)}}, {ResourceId: resource, Items: []*pb.SettleItem{item(7, 0)}},
		{ResourceId: "x", Items: []*pb.SettleItem{item(pb.Outcome_OUTCOME_COMMITTED, 0)}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd := new(pb.Settle)
		if proto.Unmarshal(b, cmd) != nil {
			return
		}
		cfg := defaults()
		cfg.settleQueue = 4
		a := newAgent(&Pool{resource: resource, cfg: cfg, log: slog.New(slog.DiscardHandler)})
		refused := 0
		a.Settle(context.Background(), cmd, func(r *pb.SettleResult) {
			refused += len(r.GetItems())
			for _, i := range r.GetItems() {
				if i.GetDone() || i.GetError() == "" || r.GetResourceId() != cmd.GetResourceId() {
					t.Fatalf("%v is answered as %v", cmd, r)
				}
			}
		})
		queued := make(map[xid.ID]bool)
		for len(a.items) > 0 {
			i := <-a.items
			if queued[i.XID] || cmd.GetResourceId() != resource || !commanded(cmd, &i.Settlement) {
				t.Fatalf("%v: %+v is to be settled", cmd, i.Settlement)
			}
			queued[i.XID] = true
		}
		if n := len(queued) + refused; n > len(cmd.GetItems()) || n == 0 && len(cmd.GetItems()) > 0 {
			t.Fatalf("%v: %d are settled, %d refused", cmd, len(queued), refused)
		}
	})
}

// commanded tells whether an item says exactly that.
func commanded(cmd *pb.Settle, s *undolog.Settlement) bool {
	for _, i := range cmd.GetItems() {
		outcome := pb.Outcome_OUTCOME_ROLLED_BACK
		if s.Commit {
			outcome = pb.Outcome_OUTCOME_COMMITTED
		}
		if x, err := xid.Parse(i.GetXid()); err != nil || x != s.XID || i.GetOutcome() != outcome || len(i.GetBranches()) != len(s.Branches) {
			continue
		}
		same := true
		for n, b := range i.GetBranches() {
			id, err := xid.ParseBranchID(b.GetBranchId())
			same = same && err == nil && s.Branches[n] == undolog.BranchVote{ID: id, Yes: b.GetVote() == pb.Vote_VOTE_YES, XA: b.GetMode() == pb.Mode_MODE_XA}
		}
		if same {
			return true
		}
	}
	return false
}
