package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a coordinator that remembers branches, and a process with a workflow.
type bench struct {
	t  *testing.T
	tc *faketc.Server
	m  *tm.Manager
	n  *faketc.Session
	f  workflow.Func
	id xid.ID

	mu       sync.Mutex
	branches []*pb.Branch
	log      []string // what arrived
	outcome  pb.Outcome
	lose     string // frames of this kind and name get no answer
}

func newBench(t *testing.T, opts ...tm.Option) *bench {
	t.Helper()
	b := &bench{t: t, tc: faketc.Start(t)}
	b.tc.On(b.on)
	c, err := client.Dial(b.tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	b.m = tm.New(c, opts...)
	g := handlers.New("trips")
	workflow.Register(g, b.m, "book", func(ctx context.Context, w *workflow.W, input []byte) ([]byte, error) {
		return b.f(ctx, w, input)
	})
	if _, err := g.Attach(c); err != nil {
		t.Fatal(err)
	}
	b.n = b.tc.NextSession()
	if b.id, err = workflow.Start(t.Context(), b.m, "trips", "book", map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) on(n *faketc.Session, f *pb.ClientFrame) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	what := ""
	switch k := f.GetKind().(type) {
	case *pb.ClientFrame_Submit:
		for _, r := range k.Submit.GetBranches() {
			b.add(r)
		}
	case *pb.ClientFrame_RegisterBranch:
		what = "register " + k.RegisterBranch.GetName()
		b.add(k.RegisterBranch)
	case *pb.ClientFrame_Vote:
		for _, x := range b.branches {
			if x.GetBranchId() == k.Vote.GetBranchId() {
				x.Vote, x.VoteReason, x.Result = k.Vote.GetVote(), k.Vote.GetReason(), k.Vote.GetResult()
				what = "vote " + x.GetName()
			}
		}
	case *pb.ClientFrame_Get:
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{Transaction: &pb.Transaction{Xid: k.Get.GetXid(), Outcome: b.outcome, Branches: b.branches}}}})
		return true
	}
	if what != "" {
		b.log = append(b.log, what)
	}
	return what != "" && what == b.lose
}

func (b *bench) add(r *pb.RegisterBranchRequest) {
	for _, x := range b.branches {
		if x.GetBranchId() == r.GetBranchId() {
			return
		}
	}
	b.branches = append(b.branches, &pb.Branch{
		BranchId: r.GetBranchId(), Mode: r.GetMode(), Name: r.GetName(), Plan: r.GetPlan(), Vote: r.GetVote(), Result: r.GetResult(),
	})
}

// run calls the workflow as the coordinator does.
func (b *bench) run(f workflow.Func) *pb.CallResult {
	b.t.Helper()
	b.mu.Lock()
	b.f, b.log = f, nil
	w := b.branches[0]
	b.mu.Unlock()
	a := w.GetPlan().GetForward()
	return b.tc.Call(b.n, &pb.Call{
		Xid: b.id.String(), BranchId: w.GetBranchId(), Op: pb.Op_OP_FORWARD, Attempt: 1, Mode: w.GetMode(), Name: w.GetName(),
		Handler: a.GetHandler(), HandlerResource: a.GetHandlerResource(), Payload: a.GetPayload(), Timeout: a.GetTimeout(),
	})
}

func (b *bench) seen() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.log, ", ")
}

var undo = workflow.Compensate(target.HTTP("http://h/undo", target.Payload("${own}")))

// trip takes three steps; effects counts what is really done.
func trip(effects *[]string, fail map[string]error) workflow.Func {
	do := func(name string) func(context.Context, workflow.StepCall) (string, error) {
		return func(ctx context.Context, c workflow.StepCall) (string, error) {
			if _, ok := xid.FromContext(ctx); ok || c.Action != target.Forward || c.Branch != xid.BranchOf(c.XID, name) {
				return "", fmt.Errorf("called as %v", c)
			}
			*effects = append(*effects, name)
			return name + "!", fail[name]
		}
	}
	return func(ctx context.Context, w *workflow.W, input []byte) ([]byte, error) {
		if string(input) != `{"n":1}` {
			return nil, fmt.Errorf("the input is %s", input)
		}
		hotel, err := workflow.Step(ctx, w, "hotel", do("hotel"), undo)
		if err != nil {
			return nil, err
		}
		read, err := workflow.Step(ctx, w, "read", do("read"))
		if err != nil && !errors.Is(err, target.ErrFailed) {
			return nil, err
		}
		flight, err := workflow.Step(ctx, w, "flight", do("flight"), undo)
		return []byte(hotel + read + flight), err
	}
}

func TestStepsAreRememberedAndRunOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var effects []string
	again := fmt.Errorf("busy: %w", workflow.ErrRetry)
	r := b.run(trip(&effects, map[string]error{"flight": again}))
	if r.GetVerdict() != pb.Verdict_VERDICT_UNSURE || r.GetNeedsAttention() || !strings.Contains(r.GetError(), `step "flight": busy`) {
		t.Fatalf("got %v", r)
	}
	// What can be undone is known before it is done; what can't is told with its result.
	if got := b.seen(); got != "register hotel, vote hotel, register read, register flight" {
		t.Errorf("sent %s", got)
	}
	r = b.run(trip(&effects, nil))
	if r.GetVerdict() != pb.Verdict_VERDICT_DONE || string(r.GetResult()) != "hotel!read!flight!" {
		t.Errorf("got %v", r)
	}
	if got := b.seen(); got != "vote flight" {
		t.Errorf("sent %s", got)
	}
	if got := strings.Join(effects, " "); got != "hotel read flight flight" {
		t.Errorf("done %s", got)
	}
	// The flight is undone before the hotel, although a step without undoing is between.
	last := b.branches[3]
	if after := last.GetPlan().GetAfter(); len(after) != 1 || after[0] != xid.BranchOf(b.id, "hotel").String() {
		t.Errorf("after %v", after)
	}
}

// The attempts are those of runs: a compensation is called until it succeeds.
func TestCompensationsWithoutAPolicyHaveThatOfTheWorkflow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.branches[0].Plan.Retry = target.RetryPolicy{First: time.Second, Attempts: 3}.Proto()
	b.run(func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
		for name, opts := range map[string][]workflow.StepOption{
			"plain": {undo}, "own": {undo, workflow.CompensateRetry(target.RetryPolicy{Max: time.Hour})}, "none": nil,
		} {
			if _, err := workflow.Step(ctx, w, name, func(context.Context, workflow.StepCall) (int, error) { return 0, nil }, opts...); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	want := map[string]target.RetryPolicy{"plain": {First: time.Second}, "own": {Max: time.Hour}, "none": {}}
	for _, x := range b.branches[1:] {
		if w := want[x.GetName()].Proto(); x.GetPlan().GetRetry().String() != w.String() {
			t.Errorf("%s: got %v, want %v", x.GetName(), x.GetPlan().GetRetry(), w)
		}
	}
	if len(b.branches) != 4 {
		t.Errorf("there are %d branches", len(b.branches))
	}
}

func TestWhatAStepReturnsDecidesHowTheWorkflowEnds(t *testing.T) {
	t.Parallel()
	odd := errors.New("connection reset")
	failed := fmt.Errorf("no room: %w", target.ErrFailed)
	for name, c := range map[string]struct {
		fail    map[string]error
		lose    string
		verdict pb.Verdict
		text    string
		result  string
		votes   string
	}{
		"unsure, fails":          {fail: map[string]error{"hotel": odd}, verdict: pb.Verdict_VERDICT_FAILED, text: `step "hotel": connection reset`},
		"failed for good, fails": {fail: map[string]error{"hotel": failed}, verdict: pb.Verdict_VERDICT_FAILED, text: `step "hotel": no room: failed for good`, votes: "hotel WITHDRAWN"},
		"another way":            {fail: map[string]error{"read": failed}, verdict: pb.Verdict_VERDICT_DONE, result: "hotel!flight!", votes: "hotel YES, read WITHDRAWN, flight YES"},
		"not yet":                {fail: map[string]error{"hotel": target.ErrNotYet}, verdict: pb.Verdict_VERDICT_NOT_YET, text: "not yet"},
		"not registered":         {lose: "register hotel", verdict: pb.Verdict_VERDICT_UNSURE, text: "outcome unknown"},
		"not remembered":         {lose: "vote hotel", verdict: pb.Verdict_VERDICT_UNSURE, text: "outcome unknown", votes: "hotel YES"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opts []tm.Option
			if c.lose != "" { // nothing else has to wait until the limit
				opts = append(opts, tm.WithRetryLimit(3*time.Second))
			}
			b := newBench(t, opts...)
			b.lose = c.lose
			var effects []string
			r := b.run(trip(&effects, c.fail))
			if r.GetVerdict() != c.verdict || !strings.Contains(r.GetError(), c.text) || string(r.GetResult()) != c.result {
				t.Errorf("got %v", r)
			}
			if c.verdict == pb.Verdict_VERDICT_FAILED && r.GetError() != c.text {
				t.Errorf("the reason is %q, want %q", r.GetError(), c.text)
			}
			if strings.HasPrefix(c.lose, "register") && len(effects) > 0 {
				t.Errorf("%v happened, and nobody would undo it", effects)
			}
			var votes []string
			for _, x := range b.branches[1:] {
				if x.GetVote() != 0 {
					votes = append(votes, x.GetName()+" "+strings.TrimPrefix(x.GetVote().String(), "VOTE_"))
				}
			}
			if got := strings.Join(votes, ", "); got != c.votes {
				t.Errorf("votes %s", got)
			}
		})
	}
}

func TestFailureIsRemembered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var effects []string
	fail := map[string]error{"read": fmt.Errorf("no such file: %w", target.ErrFailed), "flight": workflow.ErrRetry}
	b.run(trip(&effects, fail))
	delete(fail, "flight")
	delete(fail, "read") // it would succeed now, but it was decided on
	if r := b.run(trip(&effects, fail)); string(r.GetResult()) != "hotel!flight!" {
		t.Errorf("got %v", r)
	}
}

// A function may decide on an error that was remembered, and show its text.
func TestARememberedFailureReadsLikeTheFirstOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var texts []string
	for range 2 {
		b.run(func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "read", func(context.Context, workflow.StepCall) (int, error) {
				return 0, fmt.Errorf("no such file: %w", target.ErrFailed)
			})
			if !errors.Is(err, target.ErrFailed) {
				t.Errorf("got %v", err)
			}
			texts = append(texts, err.Error())
			return nil, workflow.ErrRetry
		})
	}
	if want := `step "read": no such file: failed for good`; len(texts) != 2 || texts[0] != want || texts[1] != want {
		t.Errorf("got %q", texts)
	}
}

func TestNoStepIsTakenAfterOneWithoutAnEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.run(func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
		if w.XID() != b.id {
			t.Errorf("it is %v", w.XID())
		}
		_, _ = workflow.Step(ctx, w, "a", func(context.Context, workflow.StepCall) (int, error) { return 0, errors.New("odd") }, undo)
		_, err := workflow.Step(ctx, w, "b", func(context.Context, workflow.StepCall) (int, error) { t.Error("it was taken"); return 0, nil })
		if !errors.Is(err, workflow.ErrUnsure) {
			t.Errorf("got %v", err)
		}
		return []byte("fine"), nil
	})
	if r.GetVerdict() != pb.Verdict_VERDICT_FAILED || !strings.Contains(r.GetError(), `step "a": odd`) {
		t.Errorf("got %v", r)
	}
}

func TestOtherStepsThanBeforeAreNoticed(t *testing.T) {
	t.Parallel()
	fine := func(context.Context, workflow.StepCall) (int, error) { return 7, nil }
	for want, second := range map[string]workflow.Func{
		`step "other": the workflow does not take the steps that it took before: it was "a" before`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "other", fine, undo)
			return nil, err
		},
		`its compensation was http://h/undo , and is none`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, _ = workflow.Step(ctx, w, "a", fine)
			return []byte("ignored"), nil
		},
		`it has taken 0 of 1 remembered steps, and not "a"`: func(context.Context, *workflow.W, []byte) ([]byte, error) {
			return []byte("ignored"), nil
		},
		`its remembered result: json: cannot unmarshal number`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", func(context.Context, workflow.StepCall) (string, error) { return "", nil }, undo)
			return nil, err
		},
	} {
		b := newBench(t)
		b.run(func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			if v, err := workflow.Step(ctx, w, "a", fine, undo); v != 7 || err != nil {
				t.Errorf("got %v, %v", v, err)
			}
			return nil, workflow.ErrRetry
		})
		if r := b.run(second); r.GetVerdict() != pb.Verdict_VERDICT_UNSURE || !r.GetNeedsAttention() || !strings.Contains(r.GetError(), want) {
			t.Errorf("got  %v\nwant %s", r, want)
		}
	}
}

func TestStepTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	fine := func(context.Context, workflow.StepCall) (string, error) { return "", nil }
	b := newBench(t)
	for want, f := range map[string]workflow.Func{
		`step "a b": the name "a b"; want letters`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a b", fine)
			return nil, err
		},
		`step "workflow": the name is that of the workflow itself`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "workflow", fine)
			return nil, err
		},
		`step "a": compensate: http: "h"; want a URL`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", fine, workflow.Compensate(target.HTTP("h")))
			return nil, err
		},
		`step "a": compensate: a workflow's steps are not called as DTM would`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", fine, workflow.Compensate(target.HTTP("http://h/", target.DTM())))
			return nil, err
		},
		`step "a": compensate: it refers to results of steps`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", fine, workflow.Compensate(target.HTTP("http://h/${steps.b}")))
			return nil, err
		},
		`step "a": retry: percent is 1`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", fine, workflow.CompensateRetry(target.RetryPolicy{Percent: 1}))
			return nil, err
		},
		`step "a": json: unsupported type`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", func(context.Context, workflow.StepCall) (func(), error) { return func() {}, nil })
			return nil, err
		},
		`the result is 65538 bytes long; want at most 65536`: func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
			_, err := workflow.Step(ctx, w, "a", func(context.Context, workflow.StepCall) (string, error) { return strings.Repeat("x", 65536), nil })
			return nil, err
		},
		`the result is 65537 bytes long; want at most 65536`: func(context.Context, *workflow.W, []byte) ([]byte, error) {
			return make([]byte, 65537), nil
		},
	} {
		if r := b.run(f); r.GetVerdict() != pb.Verdict_VERDICT_FAILED || !strings.Contains(r.GetError(), want) {
			t.Errorf("got  %v\nwant %s", r, want)
		}
	}
	r := b.run(func(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
		_, err := workflow.Step(ctx, w, "twice", fine)
		if err == nil {
			_, err = workflow.Step(ctx, w, "twice", fine)
		}
		return nil, err
	})
	if !strings.Contains(r.GetError(), `step "twice": the workflow has taken a step of this name already`) {
		t.Errorf("got %v", r)
	}
}

func TestStartAndWait(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	opts := []workflow.StartOption{
		workflow.Timeout(time.Hour), workflow.Within(24 * time.Hour), workflow.Retry(target.RetryPolicy{Attempts: 3}), workflow.Options(tm.WithName("x")),
	}
	submits := make(chan *pb.SubmitRequest, 2)
	b.tc.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetBegin() != nil && f.GetBegin().GetName() != "x" {
			t.Errorf("began %v", f)
		}
		if f.GetSubmit() != nil {
			submits <- f.GetSubmit()
		}
		return b.on(n, f)
	})
	b.branches = nil
	id, err := workflow.Start(t.Context(), b.m, "trips", "book", nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := workflow.StartAs(t.Context(), b.m, tm.Tx{XID: id}, "trips", "book", nil, opts...); err != nil {
		t.Fatal(err)
	}
	first, again := <-submits, <-submits
	p := first.GetBranches()[0].GetPlan()
	if first.String() != again.String() || first.GetTimeout().AsDuration() != 24*time.Hour || p.GetRetry().GetAttempts() != 3 ||
		p.GetForward().GetTimeout().AsDuration() != time.Hour || p.GetForward().GetHandler() != "workflow/book" {
		t.Errorf("%v, then %v", first, again)
	}
	b.branches[0].Result = []byte("r")
	if got, err := workflow.Wait(t.Context(), b.m, id); err != nil || string(got) != "r" {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := workflow.Wait(t.Context(), b.m, b.tc.NewXID()); err == nil || !strings.HasSuffix(err.Error(), "is no workflow") {
		t.Errorf("got %v", err)
	}
	for want, f := range map[string]func() error{
		"timeout: 2h0m0s; want": func() error {
			_, err := workflow.Start(t.Context(), b.m, "g", "n", nil, workflow.Timeout(2*time.Hour))
			return err
		},
		"within: -1ns; want": func() error {
			_, err := workflow.Start(t.Context(), b.m, "g", "n", nil, workflow.Within(-1))
			return err
		},
		"retry: percent is 1": func() error {
			_, err := workflow.Start(t.Context(), b.m, "g", "n", nil, workflow.Retry(target.RetryPolicy{Percent: 1}))
			return err
		},
		"input: func() as JSON": func() error { _, err := workflow.Start(t.Context(), b.m, "g", "n", func() {}); return err },
		"input: it refers to":   func() error { _, err := workflow.Start(t.Context(), b.m, "g", "n", "${steps.a}"); return err },
		"group: empty":          func() error { return workflow.StartAs(t.Context(), b.m, tm.Tx{}, "", "n", nil) },
	} {
		if err := f(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What an earlier run has begun may have happened, whatever a later one says.
// An earlier run may have had the effect. That is undone in the end, whatever becomes of
// the workflow, so it may go on another way.
func TestAStepThatFailsAfterAnEarlierTryIsWithdrawn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var effects []string
	b.run(trip(&effects, map[string]error{"hotel": fmt.Errorf("no answer: %w", workflow.ErrRetry)}))
	r := b.run(trip(&effects, map[string]error{"hotel": fmt.Errorf("sold out: %w", target.ErrFailed)}))
	if r.GetVerdict() != pb.Verdict_VERDICT_FAILED {
		t.Errorf("got %v", r)
	}
	if got := b.seen(); got != "vote hotel" || b.branches[len(b.branches)-1].GetVote() != pb.Vote_VOTE_WITHDRAWN {
		t.Errorf("sent %s, %v", got, b.branches)
	}
}

func TestNoStepIsTakenOnceItIsDecided(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mu.Lock()
	b.outcome = pb.Outcome_OUTCOME_ROLLED_BACK
	b.mu.Unlock()
	var effects []string
	if r := b.run(trip(&effects, nil)); r.GetVerdict() != pb.Verdict_VERDICT_UNSURE || len(effects) > 0 {
		t.Errorf("got %v, done %v", r, effects)
	}
}
