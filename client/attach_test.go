package client

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

const (
	resourceA = "aaaaaaaa-0000-4000-8000-000000000001"
	resourceB = "bbbbbbbb-0000-4000-8000-000000000002"
)

// handler hands over what it gets; without functions it ignores it.
type handler struct {
	settle func(context.Context, *pb.Settle, func(*pb.SettleResult))
	ask    func(context.Context, *pb.AskVotes, func(*pb.AskVotesResult))
}

func (h *handler) Settle(ctx context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	if h.settle != nil {
		h.settle(ctx, cmd, answer)
	}
}

func (h *handler) AskVotes(ctx context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	if h.ask != nil {
		h.ask(ctx, cmd, answer)
	}
}

func attach(t *testing.T, c *Client, resource string, h Handler) func() {
	t.Helper()
	detach, err := c.Attach(&pb.AttachedResource{ResourceId: resource, Name: "db"}, h)
	if err != nil {
		t.Fatal(err)
	}
	return detach
}

func settle(resource string, xids ...string) *pb.ServerFrame {
	s := &pb.Settle{ResourceId: resource}
	for _, x := range xids {
		s.Items = append(s.Items, &pb.SettleItem{Xid: x, Outcome: pb.Outcome_OUTCOME_COMMITTED})
	}
	return &pb.ServerFrame{Kind: &pb.ServerFrame_Settle{Settle: s}}
}

func TestAttachRefusesBadInput(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	c := dial(t, s.Addr())
	for _, r := range []*pb.AttachedResource{
		nil, {}, {ResourceId: "junk"}, {ResourceId: resourceA, Name: "\xff"},
		{ResourceId: resourceA, Name: strings.Repeat("x", 4<<20)},
	} {
		if _, err := c.Attach(r, &handler{}); err == nil {
			t.Errorf("%.60v was accepted", r)
		}
	}
	if _, err := c.Attach(&pb.AttachedResource{ResourceId: resourceA}, nil); err == nil {
		t.Error("a nil handler was accepted")
	}
}

func TestResourceIsAttachedOnEverySession(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	attaches := make(chan *pb.Attach, 16)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if a := f.GetAttach(); a != nil {
			attaches <- a
		}
		return false
	})
	c := dial(t, s.Addr())
	w := &pb.Witness{StoreId: faketc.Store.String(), Incarnation: 1, Position: 7}
	if _, err := c.Attach(&pb.AttachedResource{ResourceId: resourceA, Name: "db", Witnesses: []*pb.Witness{w}}, &handler{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a := await(t, "Attach", attaches).GetResources()
		if len(a) != 1 || a[0].GetResourceId() != resourceA || a[0].GetName() != "db" || a[0].GetWitnesses()[0].GetPosition() != 7 {
			t.Fatalf("attached %v", a)
		}
		s.NextSession().Break(status.Error(codes.Unavailable, "broken by the test"))
	}
}

func TestRefusedAttachIsReportedAndTriedAgain(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	refusals := 3
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetAttach() == nil || refusals == 0 {
			return false
		}
		refusals--
		p := (&Error{Reason: pb.ErrorReason_ERROR_REASON_QUARANTINED, Code: codes.FailedPrecondition, Message: "restored"}).GRPCStatus().Proto()
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Error{Error: &pb.Error{Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails()}}})
		return true
	})
	reports := make(chan error, 16)
	c := dial(t, s.Addr(), WithAttachError(func(id string, err error) {
		if id != resourceA {
			t.Errorf("a report about %q", id)
		}
		reports <- err
	}))
	attach(t, c, resourceA, &handler{})
	for range 3 {
		if err := await(t, "a report", reports); ReasonOf(err) != pb.ErrorReason_ERROR_REASON_QUARANTINED {
			t.Fatalf("got %v", err)
		}
	}
	if err := await(t, "the good report", reports); err != nil {
		t.Fatalf("got %v", err)
	}
}

func TestCommandsReachTheirHandlerAndAnswersComeBack(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	settled, asked := make(chan *pb.SettleResult, 16), make(chan *pb.AskVotesResult, 16)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetSettleResult(); r != nil {
			settled <- r
		}
		if r := f.GetAskVotesResult(); r != nil {
			asked <- r
		}
		return false
	})
	c := dial(t, s.Addr())
	attach(t, c, resourceA, &handler{
		settle: func(_ context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
			for _, i := range cmd.GetItems() { // one by one, as they become known
				answer(&pb.SettleResult{ResourceId: cmd.GetResourceId(), Items: []*pb.SettleItemResult{
					{Xid: i.GetXid(), Outcome: i.GetOutcome(), Error: "bytes \xff"},
				}})
			}
		},
		ask: func(_ context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
			answer(&pb.AskVotesResult{ResourceId: cmd.GetResourceId(), Items: []*pb.AskItemResult{{Vote: pb.Vote_VOTE_OPEN}}})
		},
	})
	attach(t, c, resourceB, &handler{settle: func(context.Context, *pb.Settle, func(*pb.SettleResult)) {
		t.Error("a command went to the handler of another resource")
	}})
	n := s.NextSession()
	n.Send(settle(resourceA, "1", "2"),
		settle("cccccccc-0000-4000-8000-000000000003", "9"), // nobody's
		&pb.ServerFrame{Kind: &pb.ServerFrame_AskVotes{AskVotes: &pb.AskVotes{ResourceId: resourceA}}})
	for _, want := range []string{"1", "2"} {
		r := await(t, "an answer", settled)
		if r.GetResourceId() != resourceA || r.GetItems()[0].GetXid() != want || r.GetItems()[0].GetError() != "bytes ?" {
			t.Errorf("got %v, want item %s", r, want)
		}
	}
	if r := await(t, "votes", asked); r.GetItems()[0].GetVote() != pb.Vote_VOTE_OPEN {
		t.Errorf("got %v", r)
	}
}

func TestBusyHandlerHoldsUpNobodyAndLosesOnlyWhatItCannotTake(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	c := dial(t, s.Addr(), func(cfg *config) error { cfg.maxCommands = 4; return nil })
	started, release := make(chan struct{}, 64), make(chan struct{})
	attach(t, c, resourceA, &handler{settle: func(context.Context, *pb.Settle, func(*pb.SettleResult)) {
		started <- struct{}{}
		<-release
	}})
	other := make(chan struct{}, 1)
	attach(t, c, resourceB, &handler{settle: func(context.Context, *pb.Settle, func(*pb.SettleResult)) { other <- struct{}{} }})
	n := s.NextSession()
	n.Send(settle(resourceA, "0"))
	await(t, "the handler at work", started)
	for range 20 {
		n.Send(settle(resourceA, "more"))
	}
	n.Send(settle(resourceB, "1"))
	await(t, "the other handler", other)
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	close(release)
	for range 4 {
		await(t, "a command that had waited", started)
	}
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	if extra := len(started); extra != 0 {
		t.Errorf("%d commands more than the queue holds were kept", extra)
	}
}

func TestAnswersAreBoundedWhileThereIsNoSession(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	settled := make(chan *pb.SettleResult, 1024)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetSettleResult(); r != nil {
			settled <- r
		}
		return false
	})
	c := dial(t, s.Addr(), func(cfg *config) error { cfg.maxResults = 8; return nil })
	answers := make(chan func(*pb.SettleResult), 1)
	attach(t, c, resourceA, &handler{settle: func(_ context.Context, _ *pb.Settle, answer func(*pb.SettleResult)) { answers <- answer }})
	s.NextSession().Send(settle(resourceA, "1"))
	answer := await(t, "the command", answers)
	s.Stop()
	awaitState(t, c, "no session", func() bool { return c.session == nil })
	for range 100 {
		answer(&pb.SettleResult{})
	}
	answer(&pb.SettleResult{Items: []*pb.SettleItemResult{{Xid: strings.Repeat("x", 4<<20)}}}) // can't be sent at all
	s.Restart()
	s.NextSession()
	for range 8 {
		if r := await(t, "an answer that was kept", settled); r.GetResourceId() != resourceA {
			t.Errorf("an answer for the resource %q", r.GetResourceId())
		}
	}
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	if n := len(settled); n != 0 {
		t.Errorf("%d answers more than the bound were kept", n)
	}
}

func TestDetachWithdrawsTheResource(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	detached := make(chan *pb.Detach, 4)
	attaches := make(chan *pb.Attach, 16)
	s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if d := f.GetDetach(); d != nil {
			detached <- d
		}
		if a := f.GetAttach(); a != nil {
			attaches <- a
		}
		return false
	})
	c := dial(t, s.Addr())
	running := make(chan struct{}, 2)
	ended := make(chan error, 2)
	h := &handler{settle: func(ctx context.Context, _ *pb.Settle, _ func(*pb.SettleResult)) {
		running <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
	}}
	first, second := attach(t, c, resourceA, h), attach(t, c, strings.ToUpper(resourceA), h)
	await(t, "Attach", attaches)
	await(t, "Attach", attaches)
	n := s.NextSession()
	n.Send(settle(resourceA, "1"), settle(resourceA, "2"))
	await(t, "one handler", running) // they take turns
	await(t, "the other handler", running)
	first()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	default:
		t.Error("detach did not wait for the handler")
	}
	// A Detach would go out before this request.
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(detached) != 0 || len(ended) != 0 {
		t.Error("the first detach ended the second attachment")
	}
	second()
	second() // again is nothing
	if d := await(t, "Detach", detached); len(d.GetResourceIds()) != 1 || d.GetResourceIds()[0] != resourceA {
		t.Errorf("got %v", d)
	}
	n.Break(nil)
	s.NextSession()
	if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
		t.Fatal(err)
	}
	if len(attaches) != 0 {
		t.Error("a detached resource was attached again")
	}
}
