package client

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// dial connects with short pauses and closes with the test.
func dial(tb testing.TB, target string, opts ...Option) *Client {
	tb.Helper()
	opts = append([]Option{WithLogger(slog.New(slog.DiscardHandler)), func(c *config) error {
		c.backoffFirst, c.backoffMax = time.Millisecond, 20*time.Millisecond
		return nil
	}}, opts...)
	c, err := Dial(target, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// await takes the next value, or fails the test.
func await[T any](tb testing.TB, what string, ch <-chan T) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		tb.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// background runs a request and hands over how it ended.
func background[T any](f func() (T, error)) <-chan outcome[T] {
	ch := make(chan outcome[T], 1)
	go func() {
		v, err := f()
		ch <- outcome[T]{v, err}
	}()
	return ch
}

type outcome[T any] struct {
	v   T
	err error
}

// only catches frames of one kind and leaves the rest to the server.
func only[T any](s *faketc.Server, get func(*pb.ClientFrame) *T) <-chan caught {
	ch := make(chan caught, 1024)
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if get(f) == nil {
			return false
		}
		ch <- caught{n, f}
		return true
	})
	return ch
}

type caught struct {
	n *faketc.Session
	f *pb.ClientFrame
}

func (c caught) answer(s *faketc.Server) { c.n.Send(s.Answer(c.f)) }

func TestDialRefusesABadTarget(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "a:b:c", "host:1:2", "[::1", "host:port:", "\x00://x"} {
		if c, err := Dial(target); err == nil {
			t.Errorf("%q was accepted as %q", target, c.target)
			_ = c.Close()
		} else if !strings.HasPrefix(err.Error(), "handfast: the coordinator's address") {
			t.Errorf("%q: the error does not say what is wrong: %v", target, err)
		}
	}
}

func TestDialRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Option{
		"long name":      WithName(strings.Repeat("x", 257)),
		"name not UTF-8": WithName("\xff"),
		"no logger":      WithLogger(nil),
		"no credentials": WithTransportCredentials(nil),
		"nothing flies":  WithMaxInFlight(0),
		"no function":    WithAttachError(nil),
	} {
		if c, err := Dial("localhost", o); err == nil {
			t.Errorf("%s was accepted", name)
			_ = c.Close()
		}
	}
}

func TestTargetGetsTheDefaultPort(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"tc":                  "tc:4263",
		"tc:99":               "tc:99",
		"tc:":                 "tc:4263",
		":99":                 "localhost:99",
		"10.0.0.1":            "10.0.0.1:4263",
		"::1":                 "[::1]:4263",
		"[::1]":               "[::1]:4263",
		"[::1]:99":            "[::1]:99",
		"dns:///tc:99":        "dns:///tc:99",
		"unix:/tmp/sock":      "unix:/tmp/sock",
		"passthrough:///tc:9": "passthrough:///tc:9",
	} {
		if got, err := withPort(target); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", target, got, err, want)
		}
	}
}

func TestEveryRequestGetsItsOwnKindOfAnswer(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	c := dial(t, s.Addr(), WithName("stock/1"))
	ctx := t.Context()
	begin, err := c.Begin(ctx, &pb.BeginRequest{Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := xid.Parse(begin.GetXid()); err != nil {
		t.Error(err)
	}
	if r, err := c.RegisterBranch(ctx, &pb.RegisterBranchRequest{Xid: begin.GetXid()}); err != nil || r.GetWitness() == nil {
		t.Errorf("RegisterBranch: %v, %v", r, err)
	}
	if r, err := c.Vote(ctx, &pb.VoteRequest{}); err != nil || r.GetOutcome() != pb.Outcome_OUTCOME_UNDECIDED {
		t.Errorf("Vote: %v, %v", r, err)
	}
	if r, err := c.Commit(ctx, &pb.CommitRequest{}); err != nil || r.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED {
		t.Errorf("Commit: %v, %v", r, err)
	}
	if r, err := c.Rollback(ctx, &pb.RollbackRequest{}); err != nil || r.GetOutcome() != pb.Outcome_OUTCOME_ROLLED_BACK {
		t.Errorf("Rollback: %v, %v", r, err)
	}
	if r, err := c.Get(ctx, &pb.GetRequest{Xid: begin.GetXid()}); err != nil || r.GetTransaction().GetXid() != begin.GetXid() {
		t.Errorf("Get: %v, %v", r, err)
	}
	if r, err := c.WaitFor(ctx, &pb.WaitForRequest{}); err != nil || !r.GetSettled() {
		t.Errorf("WaitFor: %v, %v", r, err)
	}
	if store, inc, err := c.Store(ctx); err != nil || store != faketc.Store || inc != 1 {
		t.Errorf("Store: %v, %d, %v", store, inc, err)
	}
	if h := s.NextSession().Hello; h.GetClientName() != "stock/1" {
		t.Errorf("Hello: %v", h)
	}
}

func TestAnswersMayComeInAnyOrderTwiceAndLate(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr())
	const n = 50
	var results []<-chan outcome[*pb.GetResponse]
	var frames []caught
	for i := range n {
		want := strings.Repeat("x", i+1)
		results = append(results, background(func() (*pb.GetResponse, error) {
			return c.Get(t.Context(), &pb.GetRequest{Xid: want})
		}))
		frames = append(frames, await(t, "a request", gets))
	}
	for i := n - 1; i >= 0; i-- {
		frames[i].answer(s)
		frames[i].answer(s) // nobody waits any more
		frames[i].n.Send(&pb.ServerFrame{Id: 1 << 40, Kind: &pb.ServerFrame_Vote{}}, &pb.ServerFrame{}, &pb.ServerFrame{Id: 0, Kind: &pb.ServerFrame_Get{}})
	}
	for i, r := range results {
		got := await(t, "an answer", r)
		if got.err != nil || len(got.v.GetTransaction().GetXid()) != i+1 {
			t.Fatalf("request %d got %v, %v", i, got.v, got.err)
		}
	}
}

func TestRequestsGoOutAgainInOrderAfterABrokenStream(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr())
	const n = 20
	var results []<-chan outcome[*pb.GetResponse]
	want := make([]string, n)
	for i := range n {
		want[i] = strings.Repeat("x", i+1)
		results = append(results, background(func() (*pb.GetResponse, error) {
			return c.Get(t.Context(), &pb.GetRequest{Xid: want[i]})
		}))
		await(t, "a request", gets)
	}
	for range 3 {
		s.NextSession().Break(status.Error(codes.Internal, "broken by the test"))
		for i := range n {
			k := await(t, "a request again", gets)
			if k.f.GetGet().GetXid() != want[i] {
				t.Fatalf("request %d came as %q", i, k.f.GetGet().GetXid())
			}
		}
	}
	// A crash of the whole coordinator is no different.
	s.Stop()
	s.On(nil)
	s.Restart()
	for i, r := range results {
		got := await(t, "an answer", r)
		if got.err != nil || got.v.GetTransaction().GetXid() != want[i] {
			t.Fatalf("request %d got %v, %v", i, got.v, got.err)
		}
	}
}

func TestCallerCanTellNotSentFromUnknown(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	commits := only(s, (*pb.ClientFrame).GetCommit)
	c := dial(t, s.Addr())
	cause := errors.New("the caller left")

	ctx, cancel := context.WithCancelCause(t.Context())
	sent := background(func() (*pb.CommitResponse, error) { return c.Commit(ctx, &pb.CommitRequest{Xid: "sent"}) })
	await(t, "the commit", commits)
	cancel(cause)
	err := await(t, "its end", sent).err
	i, ok := errors.AsType[*InterruptedError](err)
	if !ok || !i.Sent || !errors.Is(err, cause) || i.Op != "Commit" {
		t.Errorf("in flight: got %#v", err)
	}

	s.Stop()
	awaitState(t, c, "no session", func() bool { return c.session == nil && c.connErr != nil })
	ctx, cancel = context.WithCancelCause(t.Context())
	unsent := background(func() (*pb.CommitResponse, error) { return c.Commit(ctx, &pb.CommitRequest{Xid: "unsent"}) })
	awaitState(t, c, "queued", func() bool { return len(c.calls) == 1 })
	cancel(cause)
	err = await(t, "its end", unsent).err
	if i, ok := errors.AsType[*InterruptedError](err); !ok || i.Sent || !errors.Is(err, cause) || i.Conn == nil {
		t.Errorf("without a session: got %#v", err)
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("as a status it is %v", status.Code(err))
	}

	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(cause)
	_, err = c.Commit(ctx, &pb.CommitRequest{})
	if i, ok := errors.AsType[*InterruptedError](err); !ok || i.Sent || !errors.Is(err, cause) {
		t.Errorf("with a context that had ended: got %#v", err)
	}

	// What was given up must not go out later.
	s.On(nil)
	s.Restart()
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	if n := len(commits); n != 0 {
		t.Errorf("%d commits went out after they were given up", n)
	}
}

// awaitState polls the state of the client under its lock.
func awaitState(t *testing.T, c *Client, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c.mu.Lock()
		done := ok()
		c.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestGivenUpRequestsDoNotPileUp(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	addr := s.Addr()
	s.Stop()
	c := dial(t, addr)
	for range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		done := background(func() (*pb.GetResponse, error) { return c.Get(ctx, &pb.GetRequest{}) })
		awaitState(t, c, "the request is queued", func() bool { return len(c.calls) == 1 })
		cancel()
		await(t, "its end", done)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 200 || len(c.calls) != 0 {
		t.Errorf("%d entries queued, %d calls kept", len(c.queue), len(c.calls))
	}
}

func TestErrorsOfTheCoordinatorAreTyped(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	id := s.NewXID()
	want := &Error{
		Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted, XID: id, Message: "too late",
		Metadata: map[string]string{"rollback_reason": "TIMEOUT", "cause": "c"},
	}
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetHello() != nil {
			return false
		}
		p := want.GRPCStatus().Proto()
		if f.GetGet() != nil {
			p = (&Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Code: codes.InvalidArgument, Message: "bad", Field: "xid"}).GRPCStatus().Proto()
		}
		if f.GetBegin() != nil {
			p = &spb.Status{Code: int32(codes.ResourceExhausted), Message: "bare"}
		}
		if f.GetWaitFor() != nil {
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Vote{Vote: &pb.VoteResponse{}}})
			return true
		}
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Error{Error: &pb.Error{Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails()}}})
		return true
	})
	c := dial(t, s.Addr())
	_, err := c.Commit(t.Context(), &pb.CommitRequest{Xid: id.String()})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Reason != want.Reason || e.Code != want.Code || e.XID != id || e.Message != want.Message ||
		e.Metadata["rollback_reason"] != "TIMEOUT" || len(e.Metadata) != 2 {
		t.Errorf("Commit: got %#v", err)
	}
	if ReasonOf(err) != want.Reason || status.Code(err) != codes.Aborted {
		t.Errorf("Commit: reason %v, code %v", ReasonOf(err), status.Code(err))
	}
	_, err = c.Get(t.Context(), &pb.GetRequest{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Field != "xid" || e.Reason != pb.ErrorReason_ERROR_REASON_INVALID_FIELD {
		t.Errorf("Get: got %#v", err)
	}
	_, err = c.Begin(t.Context(), &pb.BeginRequest{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != 0 || e.Code != codes.ResourceExhausted {
		t.Errorf("Begin: got %#v", err)
	}
	_, err = c.WaitFor(t.Context(), &pb.WaitForRequest{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != codes.Internal {
		t.Errorf("an answer of another kind: got %#v", err)
	}
}

func TestErrorIsFoundInTheStatusOfAnotherService(t *testing.T) {
	t.Parallel()
	id := xid.New(xid.Parts{Incarnation: 1})
	there := &Error{
		Reason: pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT, Code: codes.Aborted, Message: "m", XID: id,
		Metadata: map[string]string{"table": "t"},
	}
	err := errors.Join(errors.New("stock"), status.FromProto(there.GRPCStatus().Proto()).Err())
	e, ok := AsError(err)
	if !ok || e.Reason != there.Reason || e.Metadata["table"] != "t" || e.XID != id {
		t.Errorf("got %#v, %v", e, ok)
	}
	for _, other := range []error{nil, errors.New("x"), status.Error(codes.Aborted, "x")} {
		if e, ok := AsError(other); ok || ReasonOf(other) != 0 {
			t.Errorf("%v: got %#v", other, e)
		}
	}
}

func TestOneBadRequestDoesNotDisturbTheOthers(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	c := dial(t, s.Addr())
	_, err := c.Begin(t.Context(), &pb.BeginRequest{Name: "\xff"})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != codes.InvalidArgument {
		t.Errorf("not UTF-8: got %v", err)
	}
	_, err = c.Begin(t.Context(), &pb.BeginRequest{Name: strings.Repeat("x", 4<<20)})
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != pb.ErrorReason_ERROR_REASON_LIMIT {
		t.Errorf("4 MB: got %v", err)
	}
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Error(err)
	}
	s.NextSession()
	if n := len(c.slots); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != 1 {
		t.Errorf("%d sessions were needed", c.epoch)
	}
}

func TestTextsAreMadeFitToBeSent(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	rollbacks := only(s, (*pb.ClientFrame).GetRollback)
	c := dial(t, s.Addr())
	mine := &pb.RollbackRequest{Cause: "\xff" + strings.Repeat("é", 4000)}
	done := background(func() (*pb.RollbackResponse, error) { return c.Rollback(t.Context(), mine) })
	k := await(t, "the rollback", rollbacks)
	k.answer(s)
	if got := await(t, "its end", done); got.err != nil {
		t.Fatal(got.err)
	}
	text := k.f.GetRollback().GetCause()
	if len(text) > maxText || len(text) < maxText-4 || !strings.HasPrefix(text, "?éé") || strings.ToValidUTF8(text, "") != text {
		t.Errorf("%d bytes were sent: %.20q", len(text), text)
	}
	if len(mine.GetCause()) != 8001 {
		t.Error("the caller's request was changed")
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr(), WithMaxInFlight(2))
	var results []<-chan outcome[*pb.GetResponse]
	var frames []caught
	for range 2 {
		results = append(results, background(func() (*pb.GetResponse, error) { return c.Get(t.Context(), &pb.GetRequest{}) }))
		frames = append(frames, await(t, "a request", gets))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Get(ctx, &pb.GetRequest{})
	if i, ok := errors.AsType[*InterruptedError](err); !ok || i.Sent {
		t.Errorf("the third request: got %v", err)
	}
	frames[0].answer(s)
	await(t, "the first answer", results[0])
	results = append(results, background(func() (*pb.GetResponse, error) { return c.Get(t.Context(), &pb.GetRequest{}) }))
	await(t, "the next request", gets).answer(s)
	await(t, "its answer", results[2])
	frames[1].answer(s)
	await(t, "the second answer", results[1])
}

func TestCloseEndsWhatIsInFlight(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	commits := only(s, (*pb.ClientFrame).GetCommit)
	c := dial(t, s.Addr())
	done := background(func() (*pb.CommitResponse, error) { return c.Commit(context.Background(), &pb.CommitRequest{}) })
	await(t, "the commit", commits)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	err := await(t, "its end", done).err
	if i, ok := errors.AsType[*InterruptedError](err); !ok || !i.Sent || !errors.Is(err, ErrClosed) {
		t.Errorf("in flight: got %v", err)
	}
	_, err = c.Begin(context.Background(), &pb.BeginRequest{})
	if i, ok := errors.AsType[*InterruptedError](err); !ok || i.Sent || !errors.Is(err, ErrClosed) {
		t.Errorf("afterwards: got %v", err)
	}
	if _, _, err := c.Store(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Store afterwards: got %v", err)
	}
	if _, err := c.Attach(&pb.AttachedResource{ResourceId: resourceA}, &handler{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Attach afterwards: got %v", err)
	}
}
