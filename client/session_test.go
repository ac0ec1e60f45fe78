package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

func refusal(id uint64, e *Error) *pb.ServerFrame {
	p := e.GRPCStatus().Proto()
	return &pb.ServerFrame{Id: id, Kind: &pb.ServerFrame_Error{Error: &pb.Error{Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails()}}}
}

func TestHelloCarriesTheHighestWitnessSeen(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	c := dial(t, s.Addr())
	if n := s.NextSession(); n.Hello.GetWitness() != nil {
		t.Errorf("the first Hello holds %v", n.Hello.GetWitness())
	} else {
		for _, w := range []*pb.Witness{
			{StoreId: "a", Incarnation: 1, Position: 90},
			{StoreId: "a", Incarnation: 2, Position: 10},
			{StoreId: "a", Incarnation: 2, Position: 30},
			{StoreId: "a", Incarnation: 2, Position: 20}, // late
			{StoreId: "a", Incarnation: 1, Position: 99}, // later still
			nil,
		} {
			c.observe(w)
		}
		n.Break(nil)
	}
	n := s.NextSession()
	if w := n.Hello.GetWitness(); w.GetIncarnation() != 2 || w.GetPosition() != 30 {
		t.Errorf("Hello holds %v", w)
	}
	if _, err := c.RegisterBranch(t.Context(), &pb.RegisterBranchRequest{}); err != nil {
		t.Fatal(err)
	}
	n.Break(nil)
	// Another store: what was seen of the old one says nothing about it.
	if w := s.NextSession().Hello.GetWitness(); w.GetStoreId() != faketc.Store.String() || w.GetPosition() == 0 {
		t.Errorf("Hello holds %v", w)
	}
}

func TestRefusedSessionFailsWhoWaitsAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	refuse := make(chan bool, 1)
	refuse <- true
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		r := <-refuse
		refuse <- r
		if f.GetHello() == nil || !r {
			return false
		}
		n.Send(refusal(f.GetId(), &Error{Reason: pb.ErrorReason_ERROR_REASON_QUARANTINED, Code: codes.FailedPrecondition, Message: "restored"}))
		return true
	})
	c := dial(t, s.Addr())
	_, err := c.Begin(t.Context(), &pb.BeginRequest{})
	i, ok := errors.AsType[*InterruptedError](err)
	if !ok || i.Sent || ReasonOf(err) != pb.ErrorReason_ERROR_REASON_QUARANTINED {
		t.Fatalf("got %v", err)
	}
	<-refuse
	refuse <- false
	for {
		if _, err = c.Begin(t.Context(), &pb.BeginRequest{}); err == nil {
			break
		}
		if ReasonOf(err) != pb.ErrorReason_ERROR_REASON_QUARANTINED {
			t.Fatalf("got %v", err)
		}
	}
}

func TestServerThatIsNoCoordinatorIsAClearError(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	c := dial(t, lis.Addr().String())
	_, err = c.Begin(t.Context(), &pb.BeginRequest{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
	_ = c.Close()
	srv.Stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUnreachableCoordinatorIsNamedInTheError(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	addr := s.Addr()
	s.Stop()
	c := dial(t, addr)
	awaitState(t, c, "a connection was refused", func() bool { return c.connErr != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Begin(ctx, &pb.BeginRequest{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	if _, _, err := c.Store(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Store: got %v", err)
	}
}

func TestDrainFinishesWhatIsInFlightAndSendsTheRestElsewhere(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr())
	get := func(x string) <-chan outcome[*pb.GetResponse] {
		return background(func() (*pb.GetResponse, error) { return c.Get(t.Context(), &pb.GetRequest{Xid: x}) })
	}
	old := get("old")
	first := await(t, "the old request", gets)
	first.n.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Drain{Drain: &pb.Drain{}}})
	awaitState(t, c, "draining", func() bool { return c.session != nil && c.session.draining })
	fresh := get("new")
	awaitState(t, c, "the new request is queued", func() bool { return len(c.queue) == 1 })
	select {
	case k := <-gets:
		t.Fatalf("%v was sent to a coordinator that drains", k.f)
	default:
	}
	first.answer(s)
	if r := await(t, "the old answer", old); r.err != nil || r.v.GetTransaction().GetXid() != "old" {
		t.Errorf("got %v, %v", r.v, r.err)
	}
	second := await(t, "the new request", gets)
	if second.n == first.n || second.f.GetGet().GetXid() != "new" {
		t.Errorf("got %v on the same session: %t", second.f, second.n == first.n)
	}
	second.answer(s)
	if r := await(t, "the new answer", fresh); r.err != nil {
		t.Error(r.err)
	}
}

func TestDrainDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr(), func(cfg *config) error { cfg.drain = 10 * time.Millisecond; return nil })
	done := background(func() (*pb.GetResponse, error) { return c.Get(t.Context(), &pb.GetRequest{}) })
	first := await(t, "the request", gets)
	first.n.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Drain{Drain: &pb.Drain{}}})
	second := await(t, "the request again", gets)
	if first.n == second.n {
		t.Error("it came on the same session")
	}
	second.answer(s)
	if r := await(t, "the answer", done); r.err != nil {
		t.Error(r.err)
	}
}

func TestRequestRefusedByADrainingOrFailingCoordinatorIsSentToTheNext(t *testing.T) {
	t.Parallel()
	for _, e := range []*Error{
		{Reason: pb.ErrorReason_ERROR_REASON_DRAINING, Code: codes.Unavailable},
		{Reason: pb.ErrorReason_ERROR_REASON_STORE_FAILED, Code: codes.Internal},
		{Code: codes.Unavailable},
	} {
		t.Run(fmt.Sprint(e.Reason, e.Code), func(t *testing.T) {
			t.Parallel()
			s := faketc.Start(t)
			commits := only(s, (*pb.ClientFrame).GetCommit)
			c := dial(t, s.Addr())
			done := background(func() (*pb.CommitResponse, error) { return c.Commit(t.Context(), &pb.CommitRequest{}) })
			first := await(t, "the commit", commits)
			first.n.Send(refusal(first.f.GetId(), e))
			second := await(t, "the commit again", commits)
			if first.n == second.n {
				t.Error("it came on the same session")
			}
			second.answer(s)
			if r := await(t, "the answer", done); r.err != nil {
				t.Error(r.err)
			}
		})
	}
}

func TestGivenUpRequestLetsADrainEnd(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr(), func(cfg *config) error { cfg.drain = time.Hour; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	done := background(func() (*pb.GetResponse, error) { return c.Get(ctx, &pb.GetRequest{}) })
	first := await(t, "the request", gets)
	first.n.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Drain{Drain: &pb.Drain{}}})
	awaitState(t, c, "draining", func() bool { return c.session != nil && c.session.draining })
	cancel()
	await(t, "its end", done)
	await(t, "the end of the session", first.n.Gone())
	s.NextSession()
	s.NextSession()
}

func TestAnswerFromTheFutureOfASessionIsIgnored(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	gets := only(s, (*pb.ClientFrame).GetGet)
	c := dial(t, s.Addr())
	n := s.NextSession()
	// The answer to this one is read after what is sent before it.
	earlier := background(func() (*pb.GetResponse, error) { return c.Get(t.Context(), &pb.GetRequest{Xid: "y"}) })
	first := await(t, "the earlier request", gets)
	// The ids are counted, so a broken coordinator could guess the next ones.
	for i := range uint64(10) {
		n.Send(&pb.ServerFrame{Id: first.f.GetId() + i + 1, Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{}}})
	}
	first.answer(s)
	await(t, "the earlier answer", earlier)
	done := background(func() (*pb.GetResponse, error) { return c.Get(t.Context(), &pb.GetRequest{Xid: "x"}) })
	await(t, "the request", gets).answer(s)
	if r := await(t, "the answer", done); r.err != nil || r.v.GetTransaction().GetXid() != "x" {
		t.Errorf("got %v, %v", r.v, r.err)
	}
}

func TestPauseDoublesWithJitterUpToItsBound(t *testing.T) {
	t.Parallel()
	b := backoffTimer{first: 10 * time.Millisecond, max: 75 * time.Millisecond}
	for round := range 2 {
		for i, want := range []time.Duration{10, 20, 40, 75, 75} {
			want *= time.Millisecond
			if d := b.next(); d < want/2 || d > want {
				t.Errorf("round %d, pause %d is %v, want %v to %v", round, i, d, want/2, want)
			}
		}
		b.reset()
	}
	b.failures = 1 << 40 // no overflow after years
	if d := b.next(); d < 37*time.Millisecond || d > 75*time.Millisecond {
		t.Errorf("got %v", d)
	}
}

// In the bubble the clock runs when everybody waits, so the silence of the
// peer costs no time.
func TestPeerThatFellSilentIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := faketc.New(t)
		lis := newPipes()
		s.Serve(lis)
		c, err := Dial("passthrough:///pipe", WithDialOptions(grpc.WithContextDialer(lis.dial)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
			t.Fatal(err)
		}
		lis.silence()
		start := time.Now()
		if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < time.Second || d > 20*time.Second {
			t.Errorf("it took %v to notice", d)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
	})
}

func TestHandshakeThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := faketc.New(t)
		lis := newPipes()
		s.Serve(lis)
		hellos := 0
		s.On(func(_ *faketc.Session, f *pb.ClientFrame) bool {
			if f.GetHello() == nil {
				return false
			}
			hellos++
			return hellos == 1
		})
		c, err := Dial("passthrough:///pipe", WithDialOptions(grpc.WithContextDialer(lis.dial)))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Begin(t.Context(), &pb.BeginRequest{}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("it took %v", d)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
	})
}

func TestMessagesHoldManyFramesWithinTheirBounds(t *testing.T) {
	t.Parallel()
	cfg := defaults()
	cfg.maxFrames, cfg.maxBytes = 8, 1000
	s := &session{epoch: 1, ctx: t.Context(), end: func(error) {}}
	c := &Client{config: cfg, session: s, calls: map[uint64]*call{}, wake: make(chan struct{}, 1)}
	for i := range 20 {
		size := 10
		if i >= 10 {
			size = 400
		}
		k := &call{body: mustEncode(t, c, strings.Repeat("x", size))}
		if err := c.enqueue(k); err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			c.giveUp(k, context.Canceled)
		}
	}
	for range 20 {
		c.results = append(c.results, mustEncode(t, c, "result"))
	}
	next := uint64(0)
	results := 0
	for {
		m, ok := c.take(s)
		if !ok {
			break
		}
		var got pb.ClientMessage
		b := *m.buf
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		calls, bytes := 0, 0
		for _, f := range got.GetFrames() {
			if f.GetId() == 0 {
				results++
				continue
			}
			calls++
			bytes += proto.Size(f)
			if next++; next == 4 {
				next++ // given up
			}
			if f.GetId() != next {
				t.Fatalf("frame %d came where %d was due", f.GetId(), next)
			}
		}
		if len(got.GetFrames()) > 12 || calls > 8 || bytes > 1100 {
			t.Errorf("a message holds %d frames, %d requests of %d bytes", len(got.GetFrames()), calls, bytes)
		}
	}
	if next != 20 || results != 20 || s.unanswered != 19 || c.dead != 0 {
		t.Errorf("sent up to %d and %d results, %d unanswered, %d dead", next, results, s.unanswered, c.dead)
	}
}

func mustEncode(t *testing.T, c *Client, name string) []byte {
	t.Helper()
	b, err := c.encode("Begin", &pb.ClientFrame{Kind: &pb.ClientFrame_Begin{Begin: &pb.BeginRequest{Name: name}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzFrameIsEncodedAsProtobufWould(f *testing.F) {
	f.Add(uint64(0), "")
	f.Add(uint64(1), "n")
	f.Add(uint64(1<<63), strings.Repeat("x", 300))
	f.Fuzz(func(t *testing.T, id uint64, name string) {
		name = strings.ToValidUTF8(name, "")
		frame := &pb.ClientFrame{Kind: &pb.ClientFrame_Begin{Begin: &pb.BeginRequest{Name: name}}}
		body, err := proto.Marshal(frame)
		if err != nil {
			t.Fatal(err)
		}
		b := appendFrame(appendFrame(nil, id, body), 7, body)
		var got pb.ClientMessage
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		want := &pb.ClientMessage{Frames: []*pb.ClientFrame{
			{Id: id, Kind: frame.Kind}, {Id: 7, Kind: frame.Kind},
		}}
		if !proto.Equal(&got, want) {
			t.Fatalf("got %v, want %v", &got, want)
		}
	})
}

// Whatever a coordinator sends, the client goes on, and an error stays one.
func FuzzReceive(f *testing.F) {
	for _, m := range []*pb.ServerMessage{
		{},
		{Frames: []*pb.ServerFrame{{}, {Id: 1}, {Id: 2, Kind: &pb.ServerFrame_Error{Error: &pb.Error{}}}}},
		{Frames: []*pb.ServerFrame{refusal(1, &Error{Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Code: codes.InvalidArgument, Field: "x"})}},
		{Frames: []*pb.ServerFrame{refusal(1, &Error{Reason: pb.ErrorReason_ERROR_REASON_DRAINING, Code: codes.Unavailable})}},
		{Frames: []*pb.ServerFrame{settle(resourceA, "1"), {Kind: &pb.ServerFrame_AskVotes{}}, {Kind: &pb.ServerFrame_Drain{}}}},
		{Frames: []*pb.ServerFrame{{Kind: &pb.ServerFrame_Examine{Examine: &pb.Examine{Id: 1, ResourceId: resourceA}}}}},
		{Frames: []*pb.ServerFrame{{Id: 1, Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{}}}, {Id: 1, Kind: &pb.ServerFrame_Get{}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.ServerMessage
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		ctx, end := context.WithCancelCause(t.Context())
		defer end(nil)
		s := &session{epoch: 1, ctx: ctx, end: end}
		c := &Client{config: defaults(), session: s, calls: map[uint64]*call{}, attached: map[string][]*attachment{}, wake: make(chan struct{}, 1)}
		a := &attachment{c: c, settles: make(chan *pb.Settle, 2), asks: make(chan *pb.AskVotes, 2)}
		c.attached[resourceA] = []*attachment{a}
		calls := make([]*call, 4)
		for i := range calls {
			calls[i] = &call{done: make(chan reply, 1)}
			if err := c.enqueue(calls[i]); err != nil {
				t.Fatal(err)
			}
		}
		c.take(s)
		c.receive(s, &m)
		c.receive(s, &m)
		waiting := 0
		for _, k := range calls {
			select {
			case r := <-k.done:
				if _, err := answer("Get", r.frame, r.err, (*pb.ServerFrame).GetGet); err != nil && status.Code(err) == codes.OK {
					t.Errorf("%v looks like success", err)
				}
			default:
				waiting++
			}
		}
		if waiting != len(c.calls) || s.unanswered < 0 || s.unanswered > waiting {
			t.Errorf("%d calls wait, %d in the table, %d counted", waiting, len(c.calls), s.unanswered)
		}
	})
}

func TestStoreThatChangesIsTheOneOfTheSession(t *testing.T) {
	t.Parallel()
	s := faketc.Start(t)
	other := xid.StoreID{1}
	hellos := 0
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetHello() == nil {
			return false
		}
		if hellos++; hellos == 1 {
			return false
		}
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Hello{Hello: &pb.HelloResponse{StoreId: other.String(), Incarnation: 9}}})
		return true
	})
	c := dial(t, s.Addr())
	if id, _, err := c.Store(t.Context()); err != nil || id != faketc.Store {
		t.Fatalf("got %v, %v", id, err)
	}
	s.NextSession().Break(status.Error(codes.Internal, "broken by the test"))
	s.NextSession()
	awaitState(t, c, "the second session", func() bool { return c.session != nil && c.epoch == 2 })
	if id, inc, err := c.Store(t.Context()); err != nil || id != other || inc != 9 {
		t.Errorf("got %v, %d, %v", id, inc, err)
	}
}
