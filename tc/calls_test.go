package tc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

const (
	goodBranch   = "00000000000000000000000000000001"
	goodResource = "0d000000-0000-0000-0000-000000000001"
)

func mkRegister(id string) *pb.RegisterBranchRequest {
	return &pb.RegisterBranchRequest{Xid: id, BranchId: goodBranch, ResourceId: goodResource, Mode: pb.Mode_MODE_AT}
}

func mkVote(id string, v pb.Vote) *pb.VoteRequest {
	return &pb.VoteRequest{Xid: id, BranchId: goodBranch, Vote: v, Reason: "because"}
}

func TestABadFieldIsNamedInBothForms(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	meta := r.Engine().Meta()
	good := xid.New(xid.Parts{Begin: time.Now(), Incarnation: meta.Incarnation, Store: meta.Store, Counter: 1 << 39}).String()
	long := strings.Repeat("x", 10_240)
	with := func(m proto.Message, f func(*pb.RegisterBranchRequest)) proto.Message {
		f(m.(*pb.RegisterBranchRequest))
		return m
	}
	cases := []struct {
		name  string
		req   proto.Message
		field string
	}{
		{"begin with a name of 10 KB", &pb.BeginRequest{Name: long}, "name"},
		{"begin with a line end in the name", &pb.BeginRequest{Name: "a\nb"}, "name"},
		{"begin with a negative timeout", &pb.BeginRequest{Timeout: durationpb.New(-time.Second)}, "timeout"},
		{"begin without time", &pb.BeginRequest{Timeout: durationpb.New(0)}, "timeout"},
		{"begin for longer than 12 h", &pb.BeginRequest{Timeout: durationpb.New(12*time.Hour + 1)}, "timeout"},
		{"begin for ever", &pb.BeginRequest{Timeout: &durationpb.Duration{Seconds: 1 << 62}}, "timeout"},
		{"begin with impossible nanoseconds", &pb.BeginRequest{Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}, "timeout"},
		{"begin with a malformed parent", &pb.BeginRequest{ParentXid: "x"}, "parent_xid"},
		{"register without xid", &pb.RegisterBranchRequest{}, "xid"},
		{"register with an xid of 10 KB", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.Xid = long }), "xid"},
		{"register with a malformed xid", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.Xid = strings.Repeat("~", 56) }), "xid"},
		{"register without branch", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.BranchId = "" }), "branch_id"},
		{"register the zero branch", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.BranchId = strings.Repeat("0", 32) }), "branch_id"},
		{"register without resource", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.ResourceId = "" }), "resource_id"},
		{"register a malformed resource", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.ResourceId = long }), "resource_id"},
		{"register without mode", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.Mode = 0 }), "mode"},
		{"register a mode of later", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.Mode = pb.Mode_MODE_WORKFLOW + 1 }), "mode"},
		{"register a mode below all", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.Mode = -1 }), "mode"},
		{"register an unknown mode", with(mkRegister(good), func(r *pb.RegisterBranchRequest) { r.Mode = 77 }), "mode"},
		{"vote nothing", mkVote(good, pb.Vote_VOTE_UNSPECIFIED), "vote"},
		{"vote open", mkVote(good, pb.Vote_VOTE_OPEN), "vote"},
		{"vote something unknown", mkVote(good, 99), "vote"},
		{"vote without branch", &pb.VoteRequest{Xid: good, Vote: pb.Vote_VOTE_YES}, "branch_id"},
		{"commit without xid", &pb.CommitRequest{}, "xid"},
		{"roll back without xid", &pb.RollbackRequest{}, "xid"},
		{"get without xid", &pb.GetRequest{}, "xid"},
		{"wait without xid", &pb.WaitForRequest{}, "xid"},
		{"wait for a malformed resource", &pb.WaitForRequest{Xid: good, ResourceId: "x"}, "resource_id"},
		{"wait on behalf of nonsense", &pb.WaitForRequest{Xid: good, WaiterXid: "x"}, "waiter_xid"},
		{"wait for itself", &pb.WaitForRequest{Xid: good, WaiterXid: good}, "waiter_xid"},
		{"wait since the future", &pb.WaitForRequest{Xid: good, Waited: durationpb.New(-1)}, "waited"},
		{"wait for a negative time", &pb.WaitForRequest{Xid: good, Timeout: durationpb.New(-1)}, "timeout"},
		{"wait for too long", &pb.WaitForRequest{Xid: good, Timeout: durationpb.New(6 * time.Minute)}, "timeout"},
	}
	for form, c := range forms(t, r) {
		for _, tc := range cases {
			t.Run(form+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				_, err := c.do(limited(t), tc.req)
				name, field, _ := reason(err)
				if status.Code(err) != codes.InvalidArgument || name != "INVALID_FIELD" || field != tc.field {
					t.Fatalf("got %v, reason %q, field %q", err, name, field)
				}
				if !strings.Contains(status.Convert(err).Message(), tc.field) || len(err.Error()) > 600 {
					t.Fatalf("message %.700q", err.Error())
				}
			})
		}
	}
}

// step is one request of a story and what has to come of it.
type step struct {
	name   string
	req    func(id string) proto.Message
	reason string // of the error; empty: success
	code   codes.Code
	check  func(proto.Message) bool
}

func TestEveryCallInEveryStateInBothForms(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	outcome := func(want pb.Outcome) func(proto.Message) bool {
		return func(m proto.Message) bool { return m.(interface{ GetOutcome() pb.Outcome }).GetOutcome() == want }
	}
	begun := func(string) proto.Message { return nil }
	reg := func(id string) proto.Message { return mkRegister(id) }
	other := func(id string) proto.Message {
		m := mkRegister(id)
		m.ResourceId = "0d000000-0000-0000-0000-000000000002"
		return m
	}
	late := func(id string) proto.Message {
		m := mkRegister(id)
		m.BranchId = "00000000000000000000000000000002"
		return m
	}
	yes := func(id string) proto.Message { return mkVote(id, pb.Vote_VOTE_YES) }
	no := func(id string) proto.Message { return mkVote(id, pb.Vote_VOTE_NO) }
	withdraw := func(id string) proto.Message { return mkVote(id, pb.Vote_VOTE_WITHDRAWN) }
	commit := func(id string) proto.Message { return &pb.CommitRequest{Xid: id} }
	rollback := func(id string) proto.Message { return &pb.RollbackRequest{Xid: id, Cause: "the cause"} }
	get := func(id string) proto.Message { return &pb.GetRequest{Xid: id} }
	wait := func(id string) proto.Message {
		return &pb.WaitForRequest{Xid: id, Timeout: durationpb.New(10 * time.Millisecond)}
	}
	foreign := func(string) proto.Message {
		return &pb.CommitRequest{Xid: xid.New(xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{9}}).String()}
	}
	invented := func(string) proto.Message {
		m := r.Engine().Meta()
		return &pb.CommitRequest{Xid: xid.New(xid.Parts{Begin: time.Now(), Incarnation: m.Incarnation, Store: m.Store}).String()}
	}
	future := func(string) proto.Message {
		m := r.Engine().Meta()
		return &pb.CommitRequest{Xid: xid.New(xid.Parts{Begin: time.Now(), Incarnation: m.Incarnation + 1, Store: m.Store}).String()}
	}
	undecided, committed, rolledBack := outcome(pb.Outcome_OUTCOME_UNDECIDED), outcome(pb.Outcome_OUTCOME_COMMITTED), outcome(pb.Outcome_OUTCOME_ROLLED_BACK)
	phase := func(want pb.Phase) func(proto.Message) bool {
		return func(m proto.Message) bool { return m.(*pb.GetResponse).GetTransaction().GetPhase() == want }
	}
	stories := map[string][]step{
		"commit": {
			{"begin", begun, "", 0, nil},
			{"wait before the decision", wait, "", 0, undecided},
			{"get an active one", get, "", 0, phase(pb.Phase_PHASE_ACTIVE)},
			{"vote before registering", yes, "UNKNOWN_BRANCH", codes.NotFound, nil},
			{"register", reg, "", 0, nil},
			{"register again", reg, "", 0, nil},
			{"register the branch for another database", other, "BRANCH_CONFLICT", codes.AlreadyExists, nil},
			{"vote", yes, "", 0, undecided},
			{"vote again", no, "", 0, undecided},
			{"commit", commit, "", 0, committed},
			{"commit again", commit, "", 0, committed},
			{"roll back", rollback, "COMMITTED", codes.FailedPrecondition, nil},
			{"register late", late, "COMMITTED", codes.FailedPrecondition, nil},
			{"wait after the decision", wait, "", 0, committed},
			{"get a decided one", get, "", 0, phase(pb.Phase_PHASE_SETTLING)},
		},
		"rollback": {
			{"begin", begun, "", 0, nil},
			{"register", reg, "", 0, nil},
			{"roll back", rollback, "", 0, rolledBack},
			{"roll back again", rollback, "", 0, rolledBack},
			{"commit", commit, "", 0, func(m proto.Message) bool {
				c := m.(*pb.CommitResponse)
				return c.GetOutcome() == pb.Outcome_OUTCOME_ROLLED_BACK && c.GetRollbackCause() == "the cause" &&
					c.GetRollbackReason() == pb.RollbackReason_ROLLBACK_REASON_REQUESTED
			}},
			{"vote", yes, "", 0, rolledBack},
			{"register late", late, "ROLLED_BACK", codes.Aborted, nil},
		},
		"a branch votes no": {
			{"begin", begun, "", 0, nil},
			{"register", reg, "", 0, nil},
			{"vote", no, "", 0, rolledBack},
			{"commit", commit, "", 0, func(m proto.Message) bool {
				return m.(*pb.CommitResponse).GetRollbackReason() == pb.RollbackReason_ROLLBACK_REASON_VOTED_NO
			}},
		},
		"nothing to settle": {
			{"begin", begun, "", 0, nil},
			{"register", reg, "", 0, nil},
			{"withdraw", withdraw, "", 0, undecided},
			{"commit", commit, "", 0, committed},
			{"get a finished one", get, "", 0, phase(pb.Phase_PHASE_FINISHED)},
			{"commit again", commit, "", 0, committed},
		},
		"XIDs of others": {
			{"of another store", foreign, "FOREIGN_STORE", codes.FailedPrecondition, nil},
			{"never issued", invented, "UNKNOWN_XID", codes.NotFound, nil},
			{"of a later incarnation", future, "QUARANTINED", codes.FailedPrecondition, nil},
		},
	}
	for form, c := range forms(t, r) {
		for name, steps := range stories {
			t.Run(form+"/"+name, func(t *testing.T) {
				t.Parallel()
				tell(t, c, steps)
			})
		}
	}
}

func tell(t *testing.T, c caller, steps []step) {
	t.Helper()
	var id string
	for _, s := range steps {
		req := s.req(id)
		if req == nil {
			req = &pb.BeginRequest{Name: "story"}
		}
		got, err := c.do(limited(t), req)
		if name, _, meta := reason(err); name != s.reason || status.Code(err) != s.code {
			t.Fatalf("%s: %v (reason %q)", s.name, err, name)
		} else if s.reason != "" && meta["xid"] == "" {
			t.Fatalf("%s: the error names no XID: %v", s.name, meta)
		}
		if err != nil {
			continue
		}
		if b, ok := got.(*pb.BeginResponse); ok {
			id = b.GetXid()
		}
		if s.check != nil && !s.check(got) {
			t.Fatalf("%s: %v", s.name, got)
		}
	}
}

// Commit before every vote is in asks the resource manager for what is missing.
func TestAMissingVoteIsAskedFor(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	c := r.dial(t)
	m := newManager(1)
	m.attach(t, c)
	ctx := limited(t)
	for _, want := range []pb.Outcome{pb.Outcome_OUTCOME_COMMITTED, pb.Outcome_OUTCOME_ROLLED_BACK} {
		m.mu.Lock()
		m.votes = func(*pb.AskItem) pb.Vote {
			if want == pb.Outcome_OUTCOME_COMMITTED {
				return pb.Vote_VOTE_YES
			}
			return pb.Vote_VOTE_NO
		}
		m.mu.Unlock()
		id := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{})).GetXid()
		must[*pb.RegisterBranchResponse](t)(c.RegisterBranch(ctx, &pb.RegisterBranchRequest{
			Xid: id, BranchId: newBranch(), ResourceId: m.resource, Mode: pb.Mode_MODE_AT,
		}))
		got := must[*pb.CommitResponse](t)(c.Commit(ctx, &pb.CommitRequest{Xid: id, WaitSettled: true}))
		if got.GetOutcome() != want {
			t.Fatalf("outcome %v, want %v", got, want)
		}
		if o := m.await(t, id); o != want {
			t.Fatalf("settled as %v", o)
		}
	}
}

func TestACallerThatGoesAwayIsForgotten(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	for form, c := range forms(t, r) {
		id := must[proto.Message](t)(c.do(limited(t), &pb.BeginRequest{})).(*pb.BeginResponse).GetXid()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		_, err := c.do(ctx, &pb.WaitForRequest{Xid: id, Timeout: durationpb.New(time.Minute)})
		cancel()
		if err == nil {
			t.Fatalf("%s: the wait ended well", form)
		}
		// The coordinator still answers everything else.
		if _, err := c.do(limited(t), &pb.CommitRequest{Xid: id}); err != nil {
			t.Fatalf("%s: %v", form, err)
		}
	}
}
