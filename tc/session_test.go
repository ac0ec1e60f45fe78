package tc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/xid"
)

func helloFrame() *pb.ClientFrame {
	return &pb.ClientFrame{Id: 1 << 40, Kind: &pb.ClientFrame_Hello{Hello: &pb.Hello{}}}
}

func attachFrame(resources ...*pb.AttachedResource) *pb.ClientFrame {
	return &pb.ClientFrame{Kind: &pb.ClientFrame_Attach{Attach: &pb.Attach{Resources: resources}}}
}

func TestASessionThatBreaksTheRulesEndsWithTheReason(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	cc := r.conn(t)
	begin := &pb.ClientFrame{Id: 5, Kind: &pb.ClientFrame_Begin{Begin: &pb.BeginRequest{}}}
	hello := func(h *pb.Hello) *pb.ClientFrame {
		return &pb.ClientFrame{Id: 3, Kind: &pb.ClientFrame_Hello{Hello: h}}
	}
	settle := func(m *pb.SettleResult) *pb.ClientFrame {
		return &pb.ClientFrame{Kind: &pb.ClientFrame_SettleResult{SettleResult: m}}
	}
	many := make([]*pb.ClientFrame, 1025)
	for i := range many {
		many[i] = begin
	}
	for _, tc := range []struct {
		name   string
		frames []*pb.ClientFrame
		field  string
		code   codes.Code
	}{
		{"no Hello", []*pb.ClientFrame{begin}, "hello", codes.InvalidArgument},
		{"Hello twice", []*pb.ClientFrame{helloFrame(), helloFrame()}, "hello", codes.InvalidArgument},
		{"Hello with a name of 10 KB", []*pb.ClientFrame{hello(&pb.Hello{ClientName: strings.Repeat("x", 10_240)})}, "hello.client_name", codes.InvalidArgument},
		{"Hello with a malformed witness", []*pb.ClientFrame{hello(&pb.Hello{Witness: &pb.Witness{StoreId: "zz"}})}, "hello.witness.store_id", codes.InvalidArgument},
		{"too many frames", many, "frames", codes.InvalidArgument},
		{"a message of more than 4 MiB", []*pb.ClientFrame{{Id: 1, Kind: &pb.ClientFrame_Begin{Begin: &pb.BeginRequest{Name: strings.Repeat("x", 5<<20)}}}}, "", codes.ResourceExhausted},
		{"a request without id", []*pb.ClientFrame{helloFrame(), {Kind: begin.Kind}}, "id", codes.InvalidArgument},
		{"an empty frame without id", []*pb.ClientFrame{helloFrame(), {}}, "id", codes.InvalidArgument},
		{"a result of a malformed resource", []*pb.ClientFrame{helloFrame(), settle(&pb.SettleResult{ResourceId: "x"})}, "settle_result.resource_id", codes.InvalidArgument},
		{"a result of a malformed XID", []*pb.ClientFrame{helloFrame(), settle(&pb.SettleResult{ResourceId: goodResource, Items: []*pb.SettleItemResult{{Xid: "x"}}})}, "settle_result.items.xid", codes.InvalidArgument},
		{"an answer without its call's incarnation", []*pb.ClientFrame{helloFrame(), {Kind: &pb.ClientFrame_CallResult{CallResult: &pb.CallResult{
			Xid: xid.New(xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{9}}).String(), BranchId: mkBranch(1), Op: pb.Op_OP_FORWARD, Attempt: 1, Verdict: pb.Verdict_VERDICT_FAILED,
		}}}}, "call_result.incarnation", codes.InvalidArgument},
		{"a detach of a malformed resource", []*pb.ClientFrame{helloFrame(), {Kind: &pb.ClientFrame_Detach{Detach: &pb.Detach{ResourceIds: []string{"x"}}}}}, "resource_ids", codes.InvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := openSession(t, cc, nil)
			s.send(t, tc.frames...)
			select {
			case <-s.ended:
			case <-time.After(patience):
				t.Fatal("the session goes on")
			}
			if _, field, _ := reason(s.err); status.Code(s.err) != tc.code || field != tc.field {
				t.Fatalf("ended with %.500v, field %q", s.err, field)
			}
		})
	}
}

func TestABadFrameIsAnsweredAndTheSessionGoesOn(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	cc := r.conn(t)
	s := openSession(t, cc, &pb.Hello{})
	ctx := limited(t)
	resource := &pb.AttachedResource{ResourceId: goodResource}
	for _, tc := range []struct {
		name  string
		f     *pb.ClientFrame
		field string
	}{
		{"attach nothing", attachFrame(), "resources"},
		{"attach too much", attachFrame(make([]*pb.AttachedResource, 1025)...), "resources"},
		{"attach a malformed resource", attachFrame(resource, &pb.AttachedResource{ResourceId: "x"}), "resources.resource_id"},
		{"attach with a name of 10 KB", attachFrame(&pb.AttachedResource{ResourceId: goodResource, Name: strings.Repeat("x", 10_240)}), "resources.name"},
		{"attach with a malformed witness", attachFrame(&pb.AttachedResource{ResourceId: goodResource, Witnesses: []*pb.Witness{{StoreId: "x"}}}), "resources.witnesses.store_id"},
		{"attach with too many witnesses", attachFrame(&pb.AttachedResource{ResourceId: goodResource, Witnesses: make([]*pb.Witness, 65)}), "resources.witnesses"},
	} {
		_, err := s.ask(ctx, tc.f)
		if name, field, _ := reason(err); name != "INVALID_FIELD" || field != tc.field {
			t.Errorf("%s: %v, field %q", tc.name, err, field)
		}
	}
	_, err := s.ask(ctx, &pb.ClientFrame{})
	if name, field, _ := reason(err); status.Code(err) != codes.Unimplemented || name != "INVALID_FIELD" || field != "kind" {
		t.Errorf("an unknown frame: %v, field %q", err, field)
	}
	if _, err := s.ask(ctx, attachFrame(resource)); err != nil {
		t.Errorf("a good attach: %v", err)
	}
	// The id of a request in flight can't be used again.
	id := must[*pb.BeginResponse](t)(pb.NewCoordinatorClient(cc).Begin(ctx, &pb.BeginRequest{})).GetXid()
	wait := &pb.ClientFrame{Id: 1 << 30, Kind: &pb.ClientFrame_WaitFor{WaitFor: &pb.WaitForRequest{Xid: id}}}
	s.send(t, wait, wait)
	select {
	case f := <-s.other:
		if f.GetId() != 1<<30 || f.GetError().GetCode() != int32(codes.InvalidArgument) {
			t.Errorf("the doubled id: %v", f)
		}
	case <-ctx.Done():
		t.Error("the doubled id was not answered")
	}
}

// What is attached is known to the coordinator for as long as the session lasts.
func TestASessionIsAttachedToABoundedNumberOfResources(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), func(c *tc.Config) { c.API.MaxResources = 3 })
	stream := must[pb.Coordinator_SessionClient](t)(pb.NewCoordinatorClient(r.conn(t)).Session(limited(t)))
	frames := []*pb.ClientFrame{helloFrame()}
	attach := func(id uint64, resources ...int) {
		var rs []*pb.AttachedResource
		for _, n := range resources {
			rs = append(rs, &pb.AttachedResource{ResourceId: xid.ResourceID{15: byte(n)}.String()})
		}
		f := attachFrame(rs...)
		f.Id = id
		frames = append(frames, f)
	}
	attach(1, 1, 2)
	attach(2, 3, 4) // all or none
	attach(3, 1, 2, 3)
	attach(4, 4)
	frames = append(frames, &pb.ClientFrame{Id: 5, Kind: &pb.ClientFrame_Detach{Detach: &pb.Detach{ResourceIds: []string{xid.ResourceID{15: 1}.String()}}}})
	attach(6, 4)
	if err := stream.Send(&pb.ClientMessage{Frames: frames}); err != nil {
		t.Fatal(err)
	}
	want := map[uint64]bool{1: true, 2: false, 3: true, 4: false, 6: true}
	for len(want) > 0 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m.GetFrames() {
			fits, asked := want[f.GetId()]
			if !asked {
				continue
			}
			delete(want, f.GetId())
			if ok := f.GetError() == nil; ok != fits {
				t.Errorf("attach %d: %v", f.GetId(), f)
			}
			if e := f.GetError(); e != nil && codes.Code(e.GetCode()) != codes.ResourceExhausted {
				t.Errorf("attach %d: %v", f.GetId(), e)
			}
		}
	}
}

func TestAWitnessOfALaterStoreQuarantinesIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, dir)
	ctx := limited(t)
	id := must[*pb.BeginResponse](t)(r.dial(t).Begin(ctx, &pb.BeginRequest{})).GetXid()
	branch := newBranch()
	cc := r.conn(t)
	w := must[*pb.RegisterBranchResponse](t)(pb.NewCoordinatorClient(cc).RegisterBranch(ctx, &pb.RegisterBranchRequest{
		Xid: id, BranchId: branch, ResourceId: goodResource, Mode: pb.Mode_MODE_AT,
	})).GetWitness()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	cc = r.conn(t)
	co, ad := pb.NewCoordinatorClient(cc), pb.NewAdminClient(cc)
	s := openSession(t, cc, &pb.Hello{Witness: w})
	own := attachFrame(&pb.AttachedResource{ResourceId: goodResource, Witnesses: []*pb.Witness{w, {StoreId: "00000000000000aa", Incarnation: 9}}})
	if _, err := s.ask(ctx, own); err != nil {
		t.Fatalf("a true witness and a foreign one: %v", err)
	}
	later := &pb.Witness{StoreId: w.GetStoreId(), Incarnation: w.GetIncarnation(), Position: w.GetPosition() + 1_000_000}
	_, err := s.ask(ctx, attachFrame(&pb.AttachedResource{ResourceId: goodResource, Witnesses: []*pb.Witness{later}}))
	if name, _, _ := reason(err); name != "QUARANTINED" {
		t.Fatalf("a witness from the future: %v", err)
	}
	_, err = co.Commit(ctx, &pb.CommitRequest{Xid: id})
	if name, _, _ := reason(err); name != "QUARANTINED" {
		t.Fatalf("commit of an old transaction: %v", err)
	}
	if st := must[*pb.StatusResponse](t)(ad.Status(ctx, &pb.StatusRequest{})); !st.GetQuarantined() || st.GetQuarantineReason() == "" {
		t.Fatalf("status: %v", st)
	}
	must[*pb.GetResponse](t)(ad.Show(ctx, &pb.GetRequest{Xid: id}))
	must[*pb.BeginResponse](t)(co.Begin(ctx, &pb.BeginRequest{}))
	must[*pb.AdoptResponse](t)(ad.Adopt(ctx, &pb.AdoptRequest{Operator: "me"}))
	must[*pb.RollbackResponse](t)(co.Rollback(ctx, &pb.RollbackRequest{Xid: id}))
}

// Whatever was sent to a manager that dies goes to another one at once, not
// only when its time to answer is up.
func TestAnotherManagerTakesOverWhenOneDies(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), func(c *tc.Config) { c.Engine.Core.AnswerTimeout = time.Hour })
	ctx := limited(t)
	dead, live := newManager(1), newManager(1)
	got := make(chan string, 100)
	dead.hold = func(i *pb.SettleItem) bool { got <- i.GetXid(); return false }
	first := r.dial(t)
	dead.attach(t, first)
	awaitClients(t, r, 1)
	c := r.dial(t)
	id := commitOne(ctx, t, c, dead.resource)
	if x := <-got; x != id {
		t.Fatalf("got %s, want %s", x, id)
	}
	live.attach(t, c)
	awaitClients(t, r, 2)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if o := live.await(t, id); o != pb.Outcome_OUTCOME_COMMITTED {
		t.Fatalf("settled as %v", o)
	}
}

// commitOne commits a transaction with one branch in the resource.
func commitOne(ctx context.Context, tb testing.TB, c *client.Client, resource string) string {
	tb.Helper()
	id := must[*pb.BeginResponse](tb)(c.Begin(ctx, &pb.BeginRequest{Name: "one"})).GetXid()
	b := newBranch()
	must[*pb.RegisterBranchResponse](tb)(c.RegisterBranch(ctx, &pb.RegisterBranchRequest{Xid: id, BranchId: b, ResourceId: resource, Mode: pb.Mode_MODE_AT}))
	must[*pb.VoteResponse](tb)(c.Vote(ctx, &pb.VoteRequest{Xid: id, BranchId: b, Vote: pb.Vote_VOTE_YES}))
	must[*pb.CommitResponse](tb)(c.Commit(ctx, &pb.CommitRequest{Xid: id}))
	return id
}

// awaitClients waits until n sessions have attached something.
func awaitClients(tb testing.TB, r *running, n int) {
	tb.Helper()
	ad := pb.NewAdminClient(r.conn(tb))
	ctx := limited(tb)
	for {
		st := must[*pb.StatusResponse](tb)(ad.Status(ctx, &pb.StatusRequest{}))
		with := 0
		for _, c := range st.GetClients() {
			if len(c.GetResources()) > 0 {
				with++
			}
		}
		if with == n {
			return
		}
	}
}

// A session whose client reads nothing is ended, and holds up nobody.
func TestAStuckSessionEndsAndDelaysNobody(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), func(c *tc.Config) {
		c.API.StuckAfter = 300 * time.Millisecond
		c.API.MaxInFlight = 1 << 20 // the answers must not end it before
	})
	ctx := limited(t)
	stream, err := pb.NewCoordinatorClient(r.conn(t)).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.ClientMessage{Frames: []*pb.ClientFrame{helloFrame()}}); err != nil {
		t.Fatal(err)
	}
	c := r.dial(t, client.WithName("other"))
	ad := pb.NewAdminClient(r.conn(t))
	there := func() (yes bool) {
		t.Helper()
		for _, cl := range must[*pb.StatusResponse](t)(ad.Status(ctx, &pb.StatusRequest{})).GetClients() {
			yes = yes || cl.GetName() != "other"
		}
		return yes
	}
	for !there() { // before it is stuck: it may be ended at any time then
		continue
	}
	var frames []*pb.ClientFrame
	for i := range 1000 {
		frames = append(frames, &pb.ClientFrame{Id: uint64(i + 1), Kind: &pb.ClientFrame_Get{Get: &pb.GetRequest{}}})
	}
	go func() { // nobody reads the answers: they fill every buffer on the way
		for stream.Send(&pb.ClientMessage{Frames: frames}) == nil {
			continue
		}
	}()
	var worst time.Duration
	for there() {
		began := time.Now()
		commitOne(ctx, t, c, goodResource)
		worst = max(worst, time.Since(began))
	}
	// The reason lies behind the answers that were not read.
	if n, err := drainStream(stream); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("after %d answers the session ended with %v", n, err)
	}
	if worst > patience/2 {
		t.Fatalf("another client waited %s", worst)
	}
}

func drainStream(s pb.Coordinator_SessionClient) (n int, err error) {
	for {
		m, err := s.Recv()
		if err != nil {
			return n, err
		}
		n += len(m.GetFrames())
	}
}

func TestASlowWatcherMissesEventsAndDelaysNobody(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), func(c *tc.Config) { c.API.WatchBuffer = 2 })
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience) // it does some thousand things
	defer cancel()
	ad := pb.NewAdminClient(r.conn(t))
	slow, err := ad.Watch(ctx, &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Header(); err != nil {
		t.Fatal(err)
	}
	c := r.dial(t)
	name := strings.Repeat("n", 256)
	var missed, seen uint64
	for i := 0; missed == 0; i++ {
		for range 2000 { // more than all buffers on the way hold, in a few rounds
			must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{Name: name}))
		}
		if i < 1 {
			continue
		}
		for {
			ev, err := slow.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if seen++; ev.GetMissed() > 0 {
				missed = ev.GetMissed()
				break
			}
			if seen%1500 == 0 {
				break
			}
		}
	}
	// One who watches a single transaction hears of that one alone.
	id := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{})).GetXid()
	one, err := ad.Watch(ctx, &pb.WatchRequest{Xid: id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Header(); err != nil {
		t.Fatal(err)
	}
	must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{}))
	must[*pb.RollbackResponse](t)(c.Rollback(ctx, &pb.RollbackRequest{Xid: id}))
	for {
		ev, err := one.Recv()
		if err != nil || ev.GetTransaction().GetXid() != id {
			t.Fatalf("event %v, %v", ev, err)
		}
		if ev.GetTransaction().GetOutcome() == pb.Outcome_OUTCOME_ROLLED_BACK {
			return
		}
	}
}

func TestALongWaitEndsInTime(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	c := r.dial(t)
	ctx := limited(t)
	id := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{})).GetXid()
	began := time.Now()
	w := must[*pb.WaitForResponse](t)(c.WaitFor(ctx, &pb.WaitForRequest{Xid: id, Timeout: durationpb.New(50 * time.Millisecond)}))
	if w.GetOutcome() != pb.Outcome_OUTCOME_UNDECIDED || time.Since(began) < 40*time.Millisecond {
		t.Fatalf("%v after %s", w, time.Since(began))
	}
}
