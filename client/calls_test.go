package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// callBench is a client that takes calls for resourceA.
type callBench struct {
	tc     *faketc.Server
	c      *Client
	n      *faketc.Session
	detach func()
}

func takeCalls(t *testing.T, h CallHandler, opts ...AttachOption) *callBench {
	t.Helper()
	b := &callBench{tc: faketc.Start(t)}
	b.c = dial(t, b.tc.Addr())
	detach, err := b.c.Attach(&pb.AttachedResource{ResourceId: resourceA, Name: "services"}, nil, append(opts, WithCalls(h))...)
	if err != nil {
		t.Fatal(err)
	}
	b.detach = detach
	b.n = b.tc.NextSession()
	return b
}

func (b *callBench) call(handler string) *pb.Call {
	return &pb.Call{
		Xid: b.tc.NewXID().String(), BranchId: xid.NewBranchID().String(), Op: pb.Op_OP_FORWARD, Attempt: 1,
		HandlerResource: resourceA, Handler: handler, Payload: []byte("{}"),
	}
}

func (b *callBench) send(calls ...*pb.Call) {
	for _, c := range calls {
		b.n.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Call{Call: c}})
	}
}

func done(result string) *pb.CallResult {
	return &pb.CallResult{Verdict: pb.Verdict_VERDICT_DONE, Result: []byte(result)}
}

func TestCallsAreAnsweredWhateverTheHandlerDoes(t *testing.T) {
	t.Parallel()
	handlers := map[string]CallHandler{
		"done": func(_ context.Context, c *pb.Call) *pb.CallResult { return done("got " + string(c.GetPayload())) },
		"failed": func(context.Context, *pb.Call) *pb.CallResult {
			return &pb.CallResult{Verdict: pb.Verdict_VERDICT_FAILED, Error: strings.Repeat("é", 1000) + "\xff", Result: []byte("x")}
		},
		"panic":  func(context.Context, *pb.Call) *pb.CallResult { panic(errors.New("a nil map")) },
		"goexit": func(context.Context, *pb.Call) *pb.CallResult { runtime.Goexit(); return nil },
		"nil":    func(context.Context, *pb.Call) *pb.CallResult { return nil },
		"wrong":  func(context.Context, *pb.Call) *pb.CallResult { return &pb.CallResult{Verdict: 77} },
		"largest": func(context.Context, *pb.Call) *pb.CallResult {
			return done(strings.Repeat("x", MaxResult))
		},
		"too large": func(context.Context, *pb.Call) *pb.CallResult {
			return done(strings.Repeat("x", MaxResult+1))
		},
		"another call": func(context.Context, *pb.Call) *pb.CallResult {
			return &pb.CallResult{Xid: "x", BranchId: "y", Op: pb.Op_OP_COMMIT, Attempt: 9, Verdict: pb.Verdict_VERDICT_NOT_YET}
		},
	}
	b := takeCalls(t, func(ctx context.Context, c *pb.Call) *pb.CallResult {
		if id, ok := xid.FromContext(ctx); ok {
			t.Errorf("the context carries %s", id)
		}
		return handlers[c.GetHandler()](ctx, c)
	})
	for name, want := range map[string]struct {
		verdict   pb.Verdict
		attention bool
		text      string
		result    int
	}{
		"done":         {verdict: pb.Verdict_VERDICT_DONE, result: 6},
		"failed":       {verdict: pb.Verdict_VERDICT_FAILED, text: "éé"},
		"panic":        {verdict: pb.Verdict_VERDICT_UNSURE, attention: true, text: "panicked or ended its goroutine: a nil map"},
		"goexit":       {verdict: pb.Verdict_VERDICT_UNSURE, attention: true, text: "ended its goroutine"},
		"nil":          {verdict: pb.Verdict_VERDICT_UNSURE, attention: true, text: "no verdict"},
		"wrong":        {verdict: pb.Verdict_VERDICT_UNSURE, attention: true, text: "the verdict 77"},
		"largest":      {verdict: pb.Verdict_VERDICT_DONE, result: MaxResult},
		"too large":    {verdict: pb.Verdict_VERDICT_UNSURE, attention: true, text: "65537 bytes long, want at most 65536"},
		"another call": {verdict: pb.Verdict_VERDICT_NOT_YET},
	} {
		call := b.call(name)
		call.Attempt, call.Incarnation = 3, 7
		r := b.tc.Call(b.n, call)
		if r.GetVerdict() != want.verdict || r.GetNeedsAttention() != want.attention || !strings.Contains(r.GetError(), want.text) ||
			len(r.GetResult()) != want.result || len(r.GetError()) > maxText {
			t.Errorf("%s: got %.300v", name, r)
		}
		if r.GetXid() != call.GetXid() || r.GetBranchId() != call.GetBranchId() || r.GetOp() != call.GetOp() || r.GetAttempt() != 3 || r.GetIncarnation() != 7 {
			t.Errorf("%s: the answer is to another call: %.300v", name, r)
		}
	}
}

func TestCallEndsWithItsTime(t *testing.T) {
	t.Parallel()
	b := takeCalls(t, func(ctx context.Context, _ *pb.Call) *pb.CallResult {
		<-ctx.Done()
		return &pb.CallResult{Verdict: pb.Verdict_VERDICT_UNSURE, Error: context.Cause(ctx).Error()}
	})
	call := b.call("slow")
	call.Timeout = durationpb.New(time.Millisecond)
	if r := b.tc.Call(b.n, call); r.GetError() != ErrCallTimeout.Error() {
		t.Errorf("got %v", r)
	}
}

func TestOneCallTooManyIsAnsweredBusy(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var most, now atomic.Int32
	b := takeCalls(t, func(context.Context, *pb.Call) *pb.CallResult {
		most.Store(max(most.Load(), now.Add(1)))
		<-release
		now.Add(-1)
		return done("")
	}, WithMaxCalls(2))
	first, second := b.call("a"), b.call("b")
	answers := []<-chan *pb.CallResult{b.tc.Expect(first), b.tc.Expect(second)}
	b.send(first, second)
	for range 5 {
		if r := b.tc.Call(b.n, b.call("c")); r.GetVerdict() != pb.Verdict_VERDICT_UNSURE || !strings.HasPrefix(r.GetError(), "busy: 2 calls") || r.GetNeedsAttention() {
			t.Errorf("got %v", r)
		}
	}
	close(release)
	for _, a := range answers {
		if r := await(t, "an answer", a); r.GetVerdict() != pb.Verdict_VERDICT_DONE {
			t.Errorf("got %v", r)
		}
	}
	if r := b.tc.Call(b.n, b.call("d")); r.GetVerdict() != pb.Verdict_VERDICT_DONE {
		t.Errorf("there is no place again: %v", r)
	}
	if most.Load() > 2 {
		t.Errorf("%d calls ran at once", most.Load())
	}
}

func TestCallThatComesAgainIsJoined(t *testing.T) {
	t.Parallel()
	started, release := make(chan struct{}, 8), make(chan struct{})
	b := takeCalls(t, func(context.Context, *pb.Call) *pb.CallResult {
		started <- struct{}{}
		<-release
		return done("once")
	})
	call := b.call("slow")
	answers := b.tc.Expect(call)
	b.send(call)
	await(t, "the handler", started)
	// The stream breaks, and the call comes again on the next one.
	b.n.Break(nil)
	b.n = b.tc.NextSession()
	call.Attempt, call.Incarnation = 2, 5
	b.send(call)
	if _, err := b.c.Begin(t.Context(), &pb.BeginRequest{}); err != nil { // it has arrived
		t.Fatal(err)
	}
	close(release)
	if r := await(t, "the answer", answers); r.GetAttempt() != 2 || r.GetIncarnation() != 5 || string(r.GetResult()) != "once" {
		t.Errorf("got %v", r)
	}
	if _, err := b.c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(started)+len(answers) != 0 {
		t.Errorf("%d runs and %d answers more than one", len(started), len(answers))
	}
}

func TestDetachLetsCallsFinish(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"detach", "close"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			started, release := make(chan struct{}), make(chan struct{})
			var b *callBench
			b = takeCalls(t, func(ctx context.Context, _ *pb.Call) *pb.CallResult {
				close(started)
				<-release
				// A call that is let finish can still use the coordinator.
				if _, err := b.c.Begin(ctx, &pb.BeginRequest{}); err != nil {
					t.Error(err)
				}
				return done("in time")
			}, WithCallGrace(patience))
			call := b.call("slow")
			answers := b.tc.Expect(call)
			b.send(call)
			await(t, "the handler", started)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if how == "detach" {
					b.detach()
				} else if err := b.c.Close(); err != nil {
					t.Error(err)
				}
			}()
			awaitState(t, b.c, "no new calls", func() bool { return b.c.closing || len(b.c.attached) == 0 })
			if r := b.tc.Call(b.n, b.call("late")); r.GetVerdict() != pb.Verdict_VERDICT_NOT_YET {
				t.Errorf("a late call got %v", r)
			}
			close(release)
			await(t, "the end", ended)
			if r := await(t, "the answer", answers); string(r.GetResult()) != "in time" {
				t.Errorf("got %v", r)
			}
		})
	}
}

func TestDetachEndsCallsThatTakeTooLong(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	b := takeCalls(t, func(ctx context.Context, _ *pb.Call) *pb.CallResult {
		close(started)
		<-ctx.Done()
		return &pb.CallResult{Verdict: pb.Verdict_VERDICT_UNSURE, Error: ctx.Err().Error()}
	}, WithCallGrace(0))
	call := b.call("slow")
	answers := b.tc.Expect(call)
	b.send(call)
	await(t, "the handler", started)
	b.detach()
	if r := await(t, "the answer", answers); r.GetError() != context.Canceled.Error() {
		t.Errorf("got %v", r)
	}
}

func TestCallOptionsAreChecked(t *testing.T) {
	t.Parallel()
	c := dial(t, faketc.Start(t).Addr())
	for _, o := range []AttachOption{WithCalls(nil), WithMaxCalls(0), WithCallGrace(-1)} {
		if _, err := c.Attach(&pb.AttachedResource{ResourceId: resourceA}, &handler{}, o); err == nil {
			t.Error("a wrong option was accepted")
		}
	}
}

func TestCommandsGoToThoseThatTakeThem(t *testing.T) {
	t.Parallel()
	settled := make(chan struct{}, 16)
	b := takeCalls(t, func(context.Context, *pb.Call) *pb.CallResult { return done("") })
	attach(t, b.c, resourceA, &handler{settle: func(context.Context, *pb.Settle, func(*pb.SettleResult)) { settled <- struct{}{} }})
	for range 8 {
		if r := b.tc.Call(b.n, b.call("x")); r.GetVerdict() != pb.Verdict_VERDICT_DONE {
			t.Fatalf("got %v", r)
		}
		b.n.Send(settle(resourceA, "1"))
		await(t, "Settle", settled)
	}
}

func TestResultsAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	// Nobody listens there, so nothing is taken from the queue.
	c := dial(t, "127.0.0.1:1", func(cfg *config) error { cfg.maxResultBytes = 1 << 20; return nil })
	for range 64 {
		c.answerCall(callKey{xid: "x"}, asked{}, &pb.CallResult{Result: bytes.Repeat([]byte("x"), MaxResult)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resultBytes > 1<<20 || len(c.results) != 15 {
		t.Errorf("%d answers of %d bytes wait", len(c.results), c.resultBytes)
	}
}

func TestSubmitIsSentAgainAfterABrokenSession(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	submits := make(chan *pb.SubmitRequest, 16)
	first := true
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		r := f.GetSubmit()
		if r == nil {
			return false
		}
		submits <- r
		if first {
			first = false
			n.Break(nil)
			return true
		}
		return false
	})
	c := dial(t, s.Addr())
	r, err := c.Submit(t.Context(), &pb.SubmitRequest{Xid: "x", Branches: []*pb.RegisterBranchRequest{{BranchId: "b", Mode: pb.Mode_MODE_SAGA}}})
	if err != nil || r.GetOutcome() != pb.Outcome_OUTCOME_UNDECIDED {
		t.Fatalf("got %v, %v", r, err)
	}
	a, b := await(t, "Submit", submits), await(t, "Submit again", submits)
	if a.String() != b.String() || a.GetXid() != "x" {
		t.Errorf("%v, then %v", a, b)
	}
}

func TestRefusedSubmitIsAnError(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetSubmit() == nil {
			return false
		}
		n.Send(refusal(f.GetId(), &Error{Reason: pb.ErrorReason_ERROR_REASON_BRANCH_CONFLICT, Code: codes.AlreadyExists, Message: "another plan"}))
		return true
	})
	c := dial(t, s.Addr())
	if _, err := c.Submit(t.Context(), &pb.SubmitRequest{}); ReasonOf(err) != pb.ErrorReason_ERROR_REASON_BRANCH_CONFLICT {
		t.Errorf("got %v", err)
	}
	_, err := c.Submit(t.Context(), &pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{{Result: make([]byte, 3<<20)}}})
	if ReasonOf(err) != pb.ErrorReason_ERROR_REASON_LIMIT || !strings.Contains(fmt.Sprint(err), "at most 2097152") {
		t.Errorf("got %v", err)
	}
}
