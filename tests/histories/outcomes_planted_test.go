package histories

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/hftest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
)

// sometimes is true in so many percent.
func sometimes(percent int) bool { return rand.IntN(100) < percent }

// stale answers from what it has heard before.
type stale struct {
	api
	mu    sync.Mutex
	heard map[string]*pb.GetResponse
}

func (s *stale) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	s.mu.Lock()
	old := s.heard[r.GetXid()]
	s.mu.Unlock()
	if old != nil && sometimes(30) {
		return old, nil
	}
	a, err := s.api.Get(ctx, r)
	if err == nil {
		s.mu.Lock()
		s.heard[r.GetXid()] = a
		s.mu.Unlock()
	}
	return a, err
}

// hasty tells a commit when it is asked for.
type hasty struct{ api }

func (h hasty) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	if _, err := h.api.Commit(ctx, r); err == nil || sometimes(50) {
		return &pb.CommitResponse{Outcome: pb.Outcome_OUTCOME_COMMITTED}, nil
	}
	return h.api.Commit(ctx, r)
}

// forgetful acknowledges branches that it does not register.
type forgetful struct{ api }

func (f forgetful) RegisterBranch(ctx context.Context, r *pb.RegisterBranchRequest) (*pb.RegisterBranchResponse, error) {
	if sometimes(20) {
		return &pb.RegisterBranchResponse{}, nil
	}
	return f.api.RegisterBranch(ctx, r)
}

// deaf takes votes and does not pass them on.
type deaf struct{ api }

func (d deaf) Vote(ctx context.Context, r *pb.VoteRequest) (*pb.VoteResponse, error) {
	if sometimes(50) {
		return &pb.VoteResponse{Outcome: pb.Outcome_OUTCOME_UNDECIDED}, nil
	}
	return d.api.Vote(ctx, r)
}

// obliging confirms a rollback of what is committed.
type obliging struct{ api }

func (o obliging) Rollback(ctx context.Context, r *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	a, err := o.api.Rollback(ctx, r)
	if client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_COMMITTED {
		return &pb.RollbackResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK}, nil
	}
	return a, err
}

// impatient rolls back before the deadline.
type impatient struct{ api }

func (i impatient) Begin(ctx context.Context, r *pb.BeginRequest) (*pb.BeginResponse, error) {
	return i.api.Begin(ctx, &pb.BeginRequest{Name: r.GetName(), Timeout: durationOf(max(r.GetTimeout().AsDuration()/3000, time.Millisecond))})
}

// amnesiac forgets what it has told.
type amnesiac struct{ api }

func (a amnesiac) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	answer, err := a.api.Get(ctx, r)
	if err == nil && sometimes(5) {
		return nil, &client.Error{Reason: pb.ErrorReason_ERROR_REASON_UNKNOWN_XID, Code: codes.NotFound, Message: "planted"}
	}
	return answer, err
}

// blaming names another rollback than the one that was first.
type blaming struct{ api }

func (b blaming) Rollback(ctx context.Context, r *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	a, err := b.api.Rollback(ctx, r)
	if err == nil {
		return &pb.RollbackResponse{Outcome: a.GetOutcome(), RollbackReason: pb.RollbackReason_ROLLBACK_REASON_REQUESTED, RollbackCause: r.GetCause()}, nil
	}
	return a, err
}

// Each of these coordinators is wrong in one way, and has to be found out.
func TestPlantedFaultsOfOutcomesAreFound(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]func(api) api{
		"answers from a stale cache":            func(a api) api { return &stale{api: a, heard: map[string]*pb.GetResponse{}} },
		"tells the commit before it is decided": func(a api) api { return hasty{a} },
		"acknowledges a branch it has not":      func(a api) api { return forgetful{a} },
		"acknowledges a vote it has not":        func(a api) api { return deaf{a} },
		"confirms the rollback of a commit":     func(a api) api { return obliging{a} },
		"rolls back before the deadline":        func(a api) api { return impatient{a} },
		"forgets a transaction that it told of": func(a api) api { return amnesiac{a} },
		"confuses who rolled back":              func(a api) api { return blaming{a} },
		"":                                      nil, // a disk that lies
	} {
		if wrong == nil { // which the coordinator itself may notice first, by what clients have seen of its log
			name = "acknowledges what is not on disk"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := &counts{}
			var w *world
			var c coordinator
			if wrong == nil {
				p := startPowered(t, true)
				c, w = p, newWorld(t, p.addr(), sum)
				w.crashes = true
			} else {
				w = newWorld(t, hftest.Coordinator(t, func(c *tc.Config) { c.Engine = settings().Engine }), sum)
				for i := range w.apis {
					w.apis[i] = wrong(w.apis[i])
				}
			}
			w.least = leastToFind
			w.play(t, c, 20*time.Second)
			if len(w.failed) == 0 {
				t.Fatalf("it is not found: %v", sum.all())
			}
			t.Logf("found after %d transactions", sum.get("transactions"))
			if testing.Verbose() {
				t.Logf("%s", w.failed[0])
			}
		})
	}
}
