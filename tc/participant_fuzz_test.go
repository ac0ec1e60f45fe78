package tc_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	calling "github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/xid"
)

// late is when a witness counts as held up. It commits in a few milliseconds; what is
// left is for a machine with other work.
const late = 10 * time.Second

// stage is a coordinator with a good participant on it, and a connection for a bad one.
type stage struct {
	*alarm
	bad     *grpc.ClientConn
	good    *client.Client
	manager *manager
	store   string
	ended   *pb.StatusResponse // what the coordinator knows of itself
}

func newStage(f *testing.F, change ...func(*tc.Config)) *stage {
	f.Helper()
	a := &alarm{}
	r := start(f, f.TempDir(), append(change, func(c *tc.Config) {
		c.Calls = calling.Config{Allow: func(string, netip.Addr) bool { return false }}
		c.Log = a.logger()
	})...)
	s := &stage{alarm: a, bad: r.conn(f), good: r.dial(f, client.WithName("witness")), manager: newManager(7)}
	s.manager.attach(f, s.good)
	awaitClients(f, r, 1)
	s.ended = must[*pb.StatusResponse](f)(pb.NewAdminClient(s.bad).Status(limited(f), &pb.StatusRequest{}))
	s.store = s.ended.GetStoreId()
	// A first transaction opens what is opened once.
	if err := s.witness(limited(f), func(string, string) {}); err != nil {
		f.Fatal(err)
	}
	return s
}

// witness is a transaction of the good participant. It is told to between before it
// votes, and has to be committed and settled in time.
func (s *stage) witness(ctx context.Context, between func(id, branch string)) error {
	begun := time.Now()
	b, err := s.good.Begin(ctx, &pb.BeginRequest{Name: "witness"})
	if err != nil {
		return err
	}
	branch := newBranch()
	if _, err := s.good.RegisterBranch(ctx, &pb.RegisterBranchRequest{Xid: b.GetXid(), BranchId: branch, ResourceId: s.manager.resource, Mode: pb.Mode_MODE_AT}); err != nil {
		return err
	}
	between(b.GetXid(), branch)
	if _, err := s.good.Vote(ctx, &pb.VoteRequest{Xid: b.GetXid(), BranchId: branch, Vote: pb.Vote_VOTE_YES}); err != nil {
		return err
	}
	got, err := s.good.Commit(ctx, &pb.CommitRequest{Xid: b.GetXid(), WaitSettled: true})
	s.manager.mu.Lock()
	settled := s.manager.settled[b.GetXid()]
	delete(s.manager.settled, b.GetXid())
	s.manager.mu.Unlock()
	switch {
	case err != nil:
		return err
	case got.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED || settled != pb.Outcome_OUTCOME_COMMITTED:
		return errors.New("the witness is decided as " + got.String() + ", and settled as " + settled.String())
	case time.Since(begun) > late:
		return errors.New("the witness was held up for " + time.Since(begun).String())
	}
	return nil
}

// gone waits until no session but that of the witness is left.
func (s *stage) gone(ctx context.Context, t *testing.T) {
	t.Helper()
	for {
		st, err := pb.NewAdminClient(s.bad).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			t.Fatalf("a session stays: %v", err)
		}
		if c := st.GetClients(); len(c) == 1 && c[0].GetName() == "witness" {
			if st.GetQuarantined() || st.GetStoreId() != s.store {
				t.Fatalf("the coordinator has become another: %v", st)
			}
			return
		}
	}
}

// Whatever a participant sends, in whatever order: each question has one answer, or the
// session ends; a refusal is one of those that are documented and names a field that
// there is; a good participant goes on meanwhile; and nothing of the session is left.
func FuzzParticipant(f *testing.F) {
	s := newStage(f)
	for _, seed := range []string{
		"", "\x00\x01\x00", // nothing, and a Hello of each kind
		"\x01\x01\x01\x00", "\x02\x01\x0d", "\x03", "\x04", "\x05", "\x06", "\x07",
		"\x00\x07\x07\x00\x00\x00\x05\x07\x07\x00\x00\x00\x05",                             // an id that is taken
		"\x00\x01\x03\x00\x00\x01",                                                         // a vote of a branch that is not there
		"\x00\x00\x01\x00\x00",                                                             // Hello twice
		"\x00\x01\x00\x01\x0a\x00\x01\x05\x01\x00\x01\x01\x01\x05\x01\x02\x01\x06",         // results of what was never asked
		"\x00\x01\x06\x01\x01\x01\x06\x01\x01\x02\x01\x06\x02\x01\x03",                     // fields that are huge, and empty
		"\x00\x01\x03\x05\x1a\x00\x01\x03\x04\x0a\x02\x08\x01\x01\x03\x03\xff\xff\xff",     // bytes
		"\x00\x01\x07\x01\x00\x01\x07\x02\x01\x07\x03\x01\x08\x01\x09\x01\x00\x01\x01\x01", // ids, messages, and the end of the client
		"\x00\x01\x05\x03\x01\x05\x04\x01\x05\x05\x01\x05\x06\x01\x05\x07\x01\x05\x08\x01\x05\x09",
	} {
		f.Add([]byte(seed))
	}
	for n := range uint64(64) { // so that go test alone has a wide choice, the same each time
		r := rand.New(rand.NewPCG(n, 0))
		b := make([]byte, 160)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := goleak.IgnoreCurrent()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		p := &rogue{frames: frames{b: b[:min(len(b), 400)]}, store: s.store, t: t}
		co := pb.NewCoordinatorClient(s.bad)
		for range 2 {
			resp, err := co.Begin(ctx, &pb.BeginRequest{Timeout: durationpb.New(50 * time.Millisecond)})
			if err != nil {
				t.Fatalf("begin: %v", err)
			}
			p.xids = append(p.xids, resp.GetXid())
		}
		p.wrong = []string{"", "x", strings.Repeat("0", xid.TextLen), xid.New(xid.Parts{Incarnation: 1, Begin: time.Now()}).String(), p.xids[0][1:], strings.ToUpper(p.xids[0])}
		p.open(ctx, s.bad)
		err := s.witness(ctx, func(id, branch string) {
			p.witness, p.witnessBranch = id, branch
			p.talk()
			p.judge(ctx)
		})
		if err != nil {
			t.Fatalf("the witness: %v", err)
		}
		p.close()
		s.gone(ctx, t)
		s.check(t)
		nothingLeft(t, before)
	})
}

// nothingLeft fails if there are goroutines that were not there before.
func nothingLeft(t *testing.T, before goleak.Option) {
	t.Helper()
	// Pebble begins a new file of its log now and then.
	err := goleak.Find(before, goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2/record.(*LogWriter).flushLoop"))
	if err != nil {
		t.Fatal(err)
	}
}

// rogue is the bad one: it makes its messages of bytes.
type rogue struct {
	frames
	t                      *testing.T
	store                  string
	witness, witnessBranch string

	stream pb.Coordinator_SessionClient
	cancel context.CancelFunc
	over   chan struct{} // closed when the stream has ended
	err    error         // why, then

	mu      sync.Mutex
	answers map[uint64][]*pb.ServerFrame
	news    chan struct{} // holds one: there are more answers

	nextID  uint64
	pending []*pb.ClientFrame
	asked   map[uint64][]*pb.ClientFrame // requests, by their ids
	greeted bool
	doomed  string // why the session has to end
	noProto bool   // what is no message was sent
	closed  bool   // the client has half-closed the stream
	huge    int
	// What may keep an answer back for longer than this takes.
	submitted, cancelled bool
}

func (p *rogue) open(ctx context.Context, cc *grpc.ClientConn) {
	p.t.Helper()
	ctx, p.cancel = context.WithCancel(ctx)
	var err error
	if p.stream, err = pb.NewCoordinatorClient(cc).Session(ctx); err != nil {
		p.t.Fatal(err)
	}
	p.over, p.news = make(chan struct{}), make(chan struct{}, 1)
	p.answers, p.asked = make(map[uint64][]*pb.ServerFrame), make(map[uint64][]*pb.ClientFrame)
	go p.read()
}

func (p *rogue) read() {
	defer close(p.over)
	for {
		m, err := p.stream.Recv()
		if err != nil {
			p.err = err
			return
		}
		p.mu.Lock()
		for _, f := range m.GetFrames() {
			p.answers[f.GetId()] = append(p.answers[f.GetId()], f)
		}
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
}

func (p *rogue) close() {
	p.cancel()
	<-p.over
}

// talk sends what the bytes say.
func (p *rogue) talk() {
	p.hello(p.next() % 8)
	for len(p.b) > 0 && !p.closed {
		switch p.next() % 10 {
		case 0:
			if n := p.next(); n < 64 { // it ends the session
				p.hello(n % 8)
			}
		case 3:
			p.raw()
		case 4:
			p.flush()
		case 5:
			p.add(p.unasked())
		case 6:
			f, _ := p.frame()
			p.spoil(f)
			p.ask(f)
		case 7:
			p.badID()
		case 8:
			p.flush()
			p.send(&pb.ClientMessage{})
		case 9:
			p.closed = p.next()%4 == 0
		default:
			f, _ := p.frame()
			p.ask(f)
		}
		if len(p.pending) > 8 {
			p.flush()
		}
	}
	p.flush()
}

// ask gives a frame an id that is free.
func (p *rogue) ask(f *pb.ClientFrame) {
	p.nextID++
	f.Id = p.nextID
	p.add(f)
}

// add puts a frame behind those that wait, and notes what has to come of it.
func (p *rogue) add(f *pb.ClientFrame) {
	p.shorten(f)
	switch {
	case p.doomed != "":
	case !p.greeted && f.GetHello() == nil:
		p.doomed = "hello"
	case p.greeted && f.GetHello() != nil:
		p.doomed = "hello"
	case asks(f) && f.GetId() == 0:
		p.doomed = "id"
	}
	p.greeted = p.greeted || f.GetHello() != nil
	p.submitted = p.submitted || f.GetSubmit() != nil
	p.cancelled = p.cancelled || f.GetCancelWait() != nil
	if f.GetId() != 0 {
		p.asked[f.GetId()] = append(p.asked[f.GetId()], proto.CloneOf(f))
	}
	p.pending = append(p.pending, f)
}

// asks tells whether the contract has an answer for a frame.
func asks(f *pb.ClientFrame) bool {
	switch f.GetKind().(type) {
	case *pb.ClientFrame_Detach, *pb.ClientFrame_SettleResult, *pb.ClientFrame_AskVotesResult, *pb.ClientFrame_CallResult, *pb.ClientFrame_ExamineResult, *pb.ClientFrame_CancelWait, *pb.ClientFrame_Hello:
		return false
	}
	return true
}

// shorten bounds what the coordinator is asked to wait for.
func (p *rogue) shorten(f *pb.ClientFrame) {
	if w := f.GetWaitFor(); w != nil && (w.Timeout == nil || w.Timeout.CheckValid() == nil && w.Timeout.AsDuration() > 5*time.Millisecond) {
		w.Timeout = durationpb.New(5 * time.Millisecond)
	}
}

func (p *rogue) flush() {
	if len(p.pending) > 0 {
		p.send(&pb.ClientMessage{Frames: p.pending})
		p.pending = nil
	}
}

func (p *rogue) send(m *pb.ClientMessage) {
	if err := p.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		p.t.Fatalf("send: %v", err)
	}
}

// judge waits for the answers and looks at each of them.
func (p *rogue) judge(ctx context.Context) {
	p.t.Helper()
	last := &pb.ClientFrame{Id: 1 << 50, Kind: &pb.ClientFrame_Get{Get: &pb.GetRequest{Xid: p.xids[0]}}}
	p.add(last) // with its answer, all before it is through
	p.flush()
	if p.closed {
		_ = p.stream.CloseSend()
	}
	for !p.answered() {
		select {
		case <-p.news:
			continue
		case <-p.over:
		case <-ctx.Done():
			p.t.Fatalf("questions have no answer: %v", p.missing())
		}
		break
	}
	select {
	case <-p.over:
		p.judgeEnd()
	default:
		if p.doomed != "" {
			<-p.over // it ends, or the test does
			p.judgeEnd()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, got := range p.answers {
		for _, f := range got {
			p.judgeAnswer(id, f)
		}
		if id != 0 && len(got) > len(p.asked[id]) {
			p.t.Fatalf("%d answers to %v: %v", len(got), p.asked[id], got)
		}
	}
}

// waits tells whether a request may be answered after everything here is over.
func (p *rogue) waits(f *pb.ClientFrame) bool {
	return !asks(f) || f.GetRollback().GetWaitSettled() || f.GetCommit() != nil && (f.GetCommit().GetWaitSettled() || p.submitted) || f.GetWaitFor() != nil && p.cancelled
}

// missing gives the requests that have to be answered by now and are not.
func (p *rogue) missing() (open []*pb.ClientFrame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, of := range p.asked {
		must := 0
		for _, f := range of {
			if !p.waits(f) {
				must++
			}
		}
		if len(p.answers[id]) < must {
			open = append(open, of...)
		}
	}
	return open
}

func (p *rogue) answered() bool { return p.doomed == "" && !p.noProto && len(p.missing()) == 0 }

// judgeEnd looks at why the session has ended.
func (p *rogue) judgeEnd() {
	p.t.Helper()
	name, field, _ := reason(p.err)
	switch {
	case errors.Is(p.err, io.EOF):
		if !p.closed || p.doomed != "" || p.noProto {
			p.t.Fatalf("the session ended well: doomed %q, closed %v", p.doomed, p.closed)
		}
	case p.noProto && status.Code(p.err) == codes.Internal && strings.Contains(p.err.Error(), "unmarshal"):
	case p.doomed != "" && name == "INVALID_FIELD" && field == p.doomed:
	default:
		judgeRefusal(p.t, p.err, new(pb.ClientFrame), new(pb.ClientMessage), new(pb.Detach))
	}
}

func (p *rogue) judgeAnswer(id uint64, f *pb.ServerFrame) {
	p.t.Helper()
	if id == 0 {
		switch f.GetKind().(type) {
		case *pb.ServerFrame_Settle, *pb.ServerFrame_AskVotes, *pb.ServerFrame_Call:
		case *pb.ServerFrame_Hello: // its Hello had no id
		default:
			p.t.Fatalf("nobody has asked for %v", f)
		}
		return
	}
	e := f.GetError()
	if e == nil {
		return
	}
	of := []proto.Message{new(pb.ClientFrame)}
	for _, q := range p.asked[id] {
		if m := content(q); m != nil {
			of = append(of, m)
		}
	}
	judgeRefusal(p.t, wireError(e), of...)
}
