package tc_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	calling "github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/xid"
)

// frames makes a conversation of bytes: most of what it says is right, and much of that
// at the wrong moment.
type frames struct {
	b     []byte
	xids  []string
	wrong []string
}

func (f *frames) next() int {
	if len(f.b) == 0 {
		return 0
	}
	n := f.b[0]
	f.b = f.b[1:]
	return int(n)
}

func pick[T any](f *frames, of []T) T { return of[f.next()%len(of)] }

func (f *frames) xid() string {
	if n := f.next(); n < 240 {
		return f.xids[n%len(f.xids)]
	}
	return pick(f, f.wrong)
}

func (f *frames) branch() string {
	return pick(f, []string{strings.Repeat("0a", 16), strings.Repeat("0b", 16), strings.Repeat("0c", 16), "", "x", strings.Repeat("0", 32)})
}

func (f *frames) resource() string {
	return pick(f, []string{goodResource, goodResource, "123e4567-e89b-12d3-a456-426614174001", "", "x"})
}

func (f *frames) duration() *durationpb.Duration {
	return pick(f, []*durationpb.Duration{nil, {Nanos: 1_000_000}, {Seconds: 1}, {Seconds: -1}, {Seconds: 1 << 60, Nanos: -5}, {Nanos: 2_000_000}})
}

func (f *frames) action() *pb.Action {
	return pick(f, []*pb.Action{
		nil, {}, {Url: "http://h.example/"}, {Grpc: "h.example:1/s/m"}, {Handler: "x", HandlerResource: goodResource},
		{Url: "http://h.example/${steps.a}", Payload: []byte(`"${own}"`)}, {Url: "http://h.example/", Dialect: pb.Dialect_DIALECT_DTM}, {Url: "x", Dialect: 99},
	})
}

func (f *frames) register() *pb.RegisterBranchRequest {
	r := &pb.RegisterBranchRequest{BranchId: f.branch(), Mode: pb.Mode(f.next() % 9), Name: pick(f, []string{"", "a", "b", "ü", "a b"}), Vote: pb.Vote(f.next() % 6)}
	if f.next()%2 == 0 {
		r.ResourceId = f.resource()
	}
	if f.next()%2 == 0 {
		r.Plan = &pb.Plan{Forward: f.action(), Commit: f.action(), Rollback: f.action()}
		for range f.next() % 3 {
			r.Plan.After = append(r.Plan.After, f.branch())
		}
	}
	return r
}

// frame makes one frame; asks tells whether it has an answer if the session goes on.
func (f *frames) frame() (frame *pb.ClientFrame, asks bool) {
	switch f.next() % 16 {
	case 0:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Begin{Begin: &pb.BeginRequest{Timeout: f.duration(), ParentXid: pick(f, append(f.wrong, f.xids...))}}}, true
	case 1, 2:
		r := f.register()
		r.Xid = f.xid()
		return &pb.ClientFrame{Kind: &pb.ClientFrame_RegisterBranch{RegisterBranch: r}}, true
	case 3, 4:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Vote{Vote: &pb.VoteRequest{Xid: f.xid(), BranchId: f.branch(), Vote: pb.Vote(f.next() % 6)}}}, true
	case 5:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Commit{Commit: &pb.CommitRequest{Xid: f.xid(), WaitSettled: f.next()%2 == 0}}}, true
	case 6:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Rollback{Rollback: &pb.RollbackRequest{Xid: f.xid(), WaitSettled: f.next()%2 == 0}}}, true
	case 7:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Get{Get: &pb.GetRequest{Xid: f.xid(), Waits: f.next()%2 == 0, Key: pick(f, []string{"", "", "k"})}}}, true
	case 8:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_WaitFor{WaitFor: &pb.WaitForRequest{
			Xid: f.xid(), ResourceId: f.resource(), WaiterXid: pick(f, append(f.wrong, f.xids...)), Timeout: f.duration(), Waited: f.duration(), Row: "r",
		}}}, true
	case 9:
		s := &pb.SubmitRequest{Xid: f.xid(), Timeout: f.duration()}
		for range f.next() % 4 {
			s.Branches = append(s.Branches, f.register())
		}
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Submit{Submit: s}}, true
	case 10:
		return attachFrame(&pb.AttachedResource{ResourceId: f.resource()}), true
	case 11:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_Detach{Detach: &pb.Detach{ResourceIds: []string{f.resource()}}}}, false
	case 12:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_SettleResult{SettleResult: &pb.SettleResult{ResourceId: f.resource(), Items: []*pb.SettleItemResult{
			{Xid: f.xid(), Outcome: pb.Outcome(f.next() % 4), Done: f.next()%2 == 0},
		}}}}, false
	case 13:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_AskVotesResult{AskVotesResult: &pb.AskVotesResult{ResourceId: f.resource(), Items: []*pb.AskItemResult{
			{Xid: f.xid(), BranchId: f.branch(), Vote: pb.Vote(f.next() % 6)},
		}}}}, false
	case 14:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_CallResult{CallResult: &pb.CallResult{
			Xid: f.xid(), BranchId: f.branch(), Op: pb.Op(f.next() % 5), Attempt: uint32(f.next() % 3), Verdict: pb.Verdict(f.next() % 6), Incarnation: 1,
		}}}, false
	default:
		return &pb.ClientFrame{Kind: &pb.ClientFrame_CancelWait{CancelWait: &pb.CancelWait{WaitId: uint64(f.next() % 20)}}}, false
	}
}

// Whatever a client says on a session, every question is answered or the session ends,
// with a reason; and the coordinator goes on.
func FuzzFrames(f *testing.F) {
	r := start(f, f.TempDir(), func(c *tc.Config) {
		c.Calls = calling.Config{Allow: func(string, netip.Addr) bool { return false }}
	})
	cc := r.conn(f)
	for _, seed := range []string{
		"", "\x00\x00\x00", "\x01\x00\x00\x01\x00\x01\x00\x00\x01\x03\x00\x00\x01\x05\x00\x01", // register, vote, commit
		"\x0a\x00\x01\x00\x00\x01\x00\x00\x00\x00\x01\x05\x00\x00\x0c\x00\x00\x01\x01",     // attach, register, commit, settled
		"\x09\x00\x00\x02\x00\x04\x01\x01\x01\x00\x02\x00\x02\x00\x08\x00\x00\x01\x01\x01", // submit, wait
		"\x08\x00\x00\x01\x02\x01\x08\x01\x00\x02\x02\x01\x06\x00\x00\x07\x00\x00\x00\xff", // two that wait for each other
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) { converse(t, cc, b[:min(len(b), 400)]) })
}

func converse(t *testing.T, cc *grpc.ClientConn, b []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	co := pb.NewCoordinatorClient(cc)
	in := &frames{b: b, wrong: []string{"", "x", strings.Repeat("0", xid.TextLen), xid.New(xid.Parts{Incarnation: 1, Begin: time.Now()}).String()}}
	for range 3 {
		resp, err := co.Begin(ctx, &pb.BeginRequest{Timeout: durationpb.New(time.Second)})
		if err != nil {
			t.Fatalf("begin: %v", err)
		}
		in.xids = append(in.xids, resp.GetXid())
	}
	s := openSession(t, cc, &pb.Hello{})
	var asked []chan *pb.ServerFrame
	for len(in.b) > 0 {
		frame, asks := in.frame()
		if asks {
			ch := make(chan *pb.ServerFrame, 1)
			s.mu.Lock()
			s.nextID++
			frame.Id = s.nextID
			s.waiting[frame.Id] = ch
			s.mu.Unlock()
			if frame.GetWaitFor() == nil && frame.GetCommit() == nil && !frame.GetRollback().GetWaitSettled() { // they wait for others
				asked = append(asked, ch)
			}
		}
		s.send(t, frame)
	}
	last := make(chan *pb.ServerFrame, 1)
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	s.waiting[id] = last
	s.mu.Unlock()
	s.send(t, &pb.ClientFrame{Id: id, Kind: &pb.ClientFrame_Get{Get: &pb.GetRequest{Xid: in.xids[0]}}})
	for _, ch := range append(asked, last) {
		if !isAnswered(ctx, t, s, ch) {
			return
		}
	}
}

// isAnswered waits for one answer; false: the session has ended.
func isAnswered(ctx context.Context, t *testing.T, s *rawSession, ch chan *pb.ServerFrame) bool {
	t.Helper()
	for {
		select {
		case <-ch:
			return true
		case <-s.ended:
			if name, _, _ := reason(s.err); name == "" {
				t.Fatalf("the session ended without a reason: %v", s.err)
			}
			return false
		case <-s.other: // a command
		case <-ctx.Done():
			t.Fatal("a question has no answer")
		}
	}
}
