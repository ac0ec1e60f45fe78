package tc_test

import (
	"context"
	"errors"
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
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/xid"
)

// Whoever watches with whatever request is refused, with the field, or sees changes of what
// was asked for alone, in their order, and is told how many came too fast; whatever
// else is done meanwhile, and whether the watcher reads or not, holds up nobody.
func FuzzWatch(f *testing.F) {
	s := newStage(f, func(c *tc.Config) { c.API.WatchBuffer = 1 })
	own := strings.Repeat("x", xid.TextLen) // stands for a transaction of the store
	for _, seed := range []struct {
		xid, script string
	}{
		{"", ""}, {"", "\x00\x01\x02\x03\x04\x05\x06\x07"}, {own, "\x01\x02\x03\x02\x04\x01\x05"}, {own, "\x05\x05"}, {"", strings.Repeat("\x00", 60)},
		{own, "\x07"}, {"", "\x80\x80\x80\x80\x80\x80"}, {own, "\x80\x05"}, {"x", ""}, {strings.Repeat("0", xid.TextLen), ""}, {strings.Repeat("x", 5000), ""}, {"", strings.Repeat("\x00\x06", 20) + "\x07"},
		{xid.New(xid.Parts{Incarnation: 1, Counter: 9}).String(), "\x00\x06"},
	} {
		b, err := proto.Marshal(&pb.WatchRequest{Xid: seed.xid})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte(seed.script))
	}
	f.Add([]byte("\x0a\x00\x12\x03abc\x18\xff\xff\xff\xff\x0f"), []byte("\x00"))
	f.Add([]byte("\x0a\x02\xff\xff"), []byte("\x00"))
	for range 260 { // more than may watch at a time: each of them leaves
		f.Add([]byte{}, []byte("\x05\x07"))
	}
	f.Fuzz(func(t *testing.T, request, script []byte) {
		before := goleak.IgnoreCurrent()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w := &watching{stage: s, t: t, begun: make(map[string]bool)}
		w.begin(ctx)
		request = []byte(strings.ReplaceAll(string(request), own, w.last))
		if w.open(ctx, request) {
			w.play(ctx, script[:min(len(script), 64)])
		}
		if err := s.witness(ctx, func(string, string) {}); err != nil {
			t.Fatalf("the witness: %v", err)
		}
		w.end(ctx)
		s.check(t)
		nothingLeft(t, before)
	})
}

// watching is one Watch call, and what is done while it lasts.
type watching struct {
	*stage
	t      *testing.T
	only   string // the transaction that is watched; empty: all
	last   string // begun last
	begun  map[string]bool
	opened bool
	cancel context.CancelFunc

	events chan *pb.WatchEvent
	ended  chan error
	silent bool // the watcher does not read

	seen   map[string]*pb.Transaction
	missed uint64
}

// open sends the request; false: it was refused, as it should be.
func (w *watching) open(ctx context.Context, request []byte) bool {
	w.t.Helper()
	ctx, w.cancel = context.WithCancel(ctx)
	in := new(pb.WatchRequest)
	wrong := proto.Unmarshal(request, in) != nil
	raw := new(emptypb.Empty)
	raw.ProtoReflect().SetUnknown(request) // goes over the wire as it is
	stream, err := w.bad.NewStream(ctx, &pb.Admin_ServiceDesc.Streams[0], pb.Admin_Watch_FullMethodName)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := stream.SendMsg(raw); err != nil {
		w.t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		w.t.Fatal(err)
	}
	w.only = in.GetXid()
	if _, err := stream.Header(); err != nil {
		w.t.Fatal(err)
	}
	w.events, w.ended, w.seen = make(chan *pb.WatchEvent), make(chan error, 1), make(map[string]*pb.Transaction)
	_, malformed := xid.Parse(w.only)
	if !wrong && (w.only == "" || malformed == nil) {
		w.opened = true
		go w.read(ctx, stream)
		return true
	}
	err = stream.RecvMsg(new(pb.WatchEvent))
	switch {
	case wrong && status.Code(err) == codes.Internal && strings.Contains(err.Error(), "unmarshal"):
	case wrong || status.Code(err) != codes.InvalidArgument:
		w.t.Fatalf("%q: %v", request, err)
	default:
		judgeRefusal(w.t, err, new(pb.WatchRequest))
	}
	return false
}

func (w *watching) read(ctx context.Context, stream grpc.ClientStream) {
	for {
		ev := new(pb.WatchEvent)
		if err := stream.RecvMsg(ev); err != nil {
			w.ended <- err
			return
		}
		select {
		case w.events <- ev:
		case <-ctx.Done():
			w.ended <- ctx.Err()
			return
		}
	}
}

func (w *watching) begin(ctx context.Context) {
	w.t.Helper()
	resp, err := pb.NewCoordinatorClient(w.bad).Begin(ctx, &pb.BeginRequest{Timeout: durationpb.New(time.Second), Name: "w"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.last = resp.GetXid()
	if w.opened {
		w.begun[w.last] = true
	}
}

// burst begins many transactions at once, so that some are told too fast.
func (w *watching) burst(ctx context.Context) {
	w.t.Helper()
	begun := make(chan string, 32)
	var wg sync.WaitGroup
	for range cap(begun) {
		wg.Go(func() {
			resp, err := pb.NewCoordinatorClient(w.bad).Begin(ctx, &pb.BeginRequest{Timeout: durationpb.New(time.Second)})
			if err != nil {
				w.t.Error(err)
			}
			begun <- resp.GetXid()
		})
	}
	wg.Wait()
	close(begun)
	for id := range begun {
		w.begun[id] = true
	}
}

// play does what the script says.
func (w *watching) play(ctx context.Context, script []byte) {
	w.t.Helper()
	co, branch := pb.NewCoordinatorClient(w.bad), newBranch()
	for _, b := range script {
		switch b % 8 {
		case 0:
			if b >= 128 {
				w.burst(ctx)
			}
			w.begin(ctx)
		case 1:
			_, _ = co.RegisterBranch(ctx, &pb.RegisterBranchRequest{Xid: w.last, BranchId: branch, ResourceId: goodResource, Mode: pb.Mode_MODE_AT})
		case 2:
			_, _ = co.Vote(ctx, &pb.VoteRequest{Xid: w.last, BranchId: branch, Vote: pb.Vote(b / 8 % 4)})
		case 3:
			short, cancel := context.WithTimeout(ctx, 10*time.Millisecond) // votes may be missing
			_, _ = co.Commit(short, &pb.CommitRequest{Xid: w.last})
			cancel()
		case 4:
			_, _ = co.Rollback(ctx, &pb.RollbackRequest{Xid: w.last})
		case 5:
			w.silent = b >= 128
		case 6:
			select {
			case ev := <-w.events:
				w.look(ev)
			default:
			}
		case 7: // it goes away and comes no more
			w.cancel()
			return
		}
		for !w.silent {
			select {
			case ev := <-w.events:
				w.look(ev)
				continue
			default:
			}
			break
		}
	}
}

// look checks one event against those before it.
func (w *watching) look(ev *pb.WatchEvent) {
	w.t.Helper()
	tx := ev.GetTransaction()
	id := tx.GetXid()
	if _, err := xid.Parse(id); err != nil || ev.GetTime().CheckValid() != nil || w.only != "" && !strings.EqualFold(id, w.only) {
		w.t.Fatalf("who watches %q sees %v", w.only, ev)
	}
	w.missed += ev.GetMissed()
	if was := w.seen[id]; was != nil {
		decided := was.GetOutcome() > pb.Outcome_OUTCOME_UNDECIDED
		if was.GetPhase() > tx.GetPhase() || decided && was.GetOutcome() != tx.GetOutcome() || len(was.GetBranches()) > len(tx.GetBranches()) {
			w.t.Fatalf("%v came after %v", tx, was)
		}
	}
	w.seen[id] = tx
}

// end has the watcher see something once more, and go away.
func (w *watching) end(ctx context.Context) {
	w.t.Helper()
	if !w.opened {
		w.cancel()
		return
	}
	if w.only == "" && w.hears(ctx) && w.missed == 0 {
		for id := range w.begun {
			if w.seen[id] == nil {
				w.t.Fatalf("nobody told of %s, and nothing was missed", id)
			}
		}
	}
	w.cancel()
	for {
		select {
		case ev := <-w.events:
			w.look(ev)
		case err := <-w.ended:
			if status.Code(err) != codes.Canceled && !errors.Is(err, context.Canceled) {
				w.t.Fatalf("the watch ended with %v", err)
			}
			return
		}
	}
}

// hears begins a transaction and reads until it is seen, and another one whenever nothing
// comes: the last event may have been missed. false: the watch is over.
func (w *watching) hears(ctx context.Context) bool {
	w.t.Helper()
	w.begin(ctx)
	for w.seen[w.last] == nil {
		select {
		case ev := <-w.events:
			w.look(ev)
		case err := <-w.ended:
			w.ended <- err
			return false
		case <-time.After(100 * time.Millisecond):
			w.begin(ctx) // fails in the end
		}
	}
	return true
}
