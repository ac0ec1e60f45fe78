package tc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

func TestASecondServerOnTheSameDirectoryIsToldWhy(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = tc.NewServer(context.Background(), tc.Config{Listener: lis, StoreDir: r.dir, Log: quiet()})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), r.dir) {
		t.Fatalf("got %v", err)
	}
	if err := lis.(*net.TCPListener).SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("the listener was left open: %v", err)
	}
}

func TestARestartKeepsWhatWasRegistered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, dir)
	c := r.dial(t)
	ctx := limited(t)
	m := newManager(1)
	branch := newBranch()
	active := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{Name: "active"})).GetXid()
	reg := &pb.RegisterBranchRequest{Xid: active, BranchId: branch, ResourceId: m.resource, Mode: pb.Mode_MODE_AT}
	must[*pb.RegisterBranchResponse](t)(c.RegisterBranch(ctx, reg))
	decided := commitOne(ctx, t, c, m.resource)
	finished := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{})).GetXid()
	must[*pb.CommitResponse](t)(c.Commit(ctx, &pb.CommitRequest{Xid: finished}))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	r = start(t, dir)
	c = r.dial(t)
	m.attach(t, c)
	if o := m.await(t, decided); o != pb.Outcome_OUTCOME_COMMITTED {
		t.Fatalf("settled as %v", o)
	}
	for _, id := range []string{decided, finished} {
		if got := must[*pb.CommitResponse](t)(c.Commit(ctx, &pb.CommitRequest{Xid: id})); got.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED {
			t.Fatalf("commit again: %v", got)
		}
	}
	must[*pb.RegisterBranchResponse](t)(c.RegisterBranch(ctx, reg))
	must[*pb.VoteResponse](t)(c.Vote(ctx, &pb.VoteRequest{Xid: active, BranchId: branch, Vote: pb.Vote_VOTE_YES}))
	if got := must[*pb.CommitResponse](t)(c.Commit(ctx, &pb.CommitRequest{Xid: active, WaitSettled: true})); got.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED {
		t.Fatalf("commit: %v", got)
	}
}

// slowForce holds every forced write until it is let go.
type slowForce struct {
	store.Store
	holding atomic.Bool
	held    chan struct{} // gets one when a forced write has begun
	release chan struct{}
	fail    atomic.Bool
}

func (s *slowForce) Apply(b store.Batch, sync bool) (uint64, error) {
	if sync && s.holding.Load() {
		s.held <- struct{}{}
		<-s.release
	}
	if s.fail.Load() {
		return 0, errors.New("planted: input/output error")
	}
	return s.Store.Apply(b, sync)
}

func withSlowForce(t *testing.T) (*slowForce, func(*tc.Config)) {
	t.Helper()
	st, err := pebblestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowForce{Store: st, held: make(chan struct{}, 100), release: make(chan struct{})}
	return slow, func(c *tc.Config) { c.Store = slow }
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	slow, with := withSlowForce(t)
	r := start(t, "", with)
	cc := r.conn(t)
	ctx := limited(t)
	co, hc := pb.NewCoordinatorClient(cc), healthpb.NewHealthClient(cc)
	ids := [2]string{}
	for i := range ids {
		ids[i] = must[*pb.BeginResponse](t)(co.Begin(ctx, &pb.BeginRequest{})).GetXid()
	}
	watch, err := hc.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if h := must[*healthpb.HealthCheckResponse](t)(watch.Recv()); h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health before: %v", h)
	}
	s := openSession(t, cc, &pb.Hello{})
	waiting := must[*pb.BeginResponse](t)(co.Begin(ctx, &pb.BeginRequest{})).GetXid()
	s.send(t, &pb.ClientFrame{Id: 1 << 33, Kind: &pb.ClientFrame_WaitFor{WaitFor: &pb.WaitForRequest{Xid: waiting, Timeout: durationpb.New(4 * time.Minute)}}})
	slow.holding.Store(true)
	results := make(chan error, 2)
	go func() {
		_, err := co.Commit(ctx, &pb.CommitRequest{Xid: ids[0]})
		results <- err
	}()
	go func() {
		_, err := s.do(ctx, &pb.CommitRequest{Xid: ids[1]})
		results <- err
	}()
	<-slow.held
	// Both requests are with the engine once both transactions are decided in
	// memory; the first shutdown step then finds them in flight.
	for r.Engine().Open() > 1 {
		time.Sleep(time.Millisecond) // the engine has no signal for it
	}
	r.cancel()
	for {
		f := <-s.other
		if f.GetDrain() != nil {
			break
		}
	}
	_, err = s.do(ctx, &pb.BeginRequest{})
	if name, _, _ := reason(err); name != "DRAINING" || status.Code(err) != codes.Unavailable {
		t.Fatalf("begin while draining: %v", err)
	}
	slow.holding.Store(false)
	close(slow.release)
	for range 2 {
		if err := <-results; err != nil {
			t.Fatalf("a request in flight: %v", err)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	if name, _, _ := reason(s.err); name != "DRAINING" {
		t.Fatalf("the session ended with %v", s.err)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), func(c *tc.Config) { c.DrainTimeout = 100 * time.Millisecond })
	co := pb.NewCoordinatorClient(r.conn(t))
	ctx := limited(t)
	id := must[*pb.BeginResponse](t)(co.Begin(ctx, &pb.BeginRequest{})).GetXid()
	ended := make(chan error, 1)
	go func() {
		_, err := co.WaitFor(ctx, &pb.WaitForRequest{Xid: id, Timeout: durationpb.New(5 * time.Minute)})
		ended <- err
	}()
	s := openSession(t, r.conn(t), &pb.Hello{})
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Fatalf("it took %s", d)
	}
	if err := <-ended; err == nil {
		t.Fatal("the wait ended well")
	}
	<-s.ended
}

func TestAFailedForceStopsTheServerAndTellsEverybody(t *testing.T) {
	t.Parallel()
	slow, with := withSlowForce(t)
	r := start(t, "", with)
	ctx := limited(t)
	for form, c := range forms(t, r) {
		id := must[*pb.BeginResponse](t)(pb.NewCoordinatorClient(r.conn(t)).Begin(ctx, &pb.BeginRequest{})).GetXid()
		slow.fail.Store(true)
		_, err := c.do(ctx, &pb.CommitRequest{Xid: id})
		if name, _, _ := reason(err); name != "STORE_FAILED" {
			t.Fatalf("%s: %v", form, err)
		}
		break // the first one has stopped it
	}
	if err := <-r.served; !errors.Is(err, engine.ErrFailed) {
		t.Fatalf("Serve returns %v", err)
	}
	r.served <- nil
}

func TestAdminSeesAndActs(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	c := r.dial(t)
	ad := pb.NewAdminClient(r.conn(t))
	ctx := limited(t)
	stuck := commitOne(ctx, t, c, goodResource) // nobody serves the resource
	open := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{Name: "open"})).GetXid()
	done := must[*pb.BeginResponse](t)(c.Begin(ctx, &pb.BeginRequest{Name: "done"})).GetXid()
	must[*pb.CommitResponse](t)(c.Commit(ctx, &pb.CommitRequest{Xid: done}))
	for name, tc := range map[string]struct {
		req  *pb.ListRequest
		want []string // newest first
	}{
		"everything":  {&pb.ListRequest{}, []string{done, open, stuck}},
		"by phase":    {&pb.ListRequest{Phases: []pb.Phase{pb.Phase_PHASE_SETTLING, pb.Phase_PHASE_FINISHED}}, []string{done, stuck}},
		"by outcome":  {&pb.ListRequest{Outcome: pb.Outcome_OUTCOME_UNDECIDED}, []string{open}},
		"by resource": {&pb.ListRequest{ResourceId: goodResource}, []string{stuck}},
		"by name":     {&pb.ListRequest{NamePrefix: "do"}, []string{done}},
		"in need":     {&pb.ListRequest{Attention: true}, nil},
	} {
		var got []string
		for _, tx := range must[*pb.ListResponse](t)(ad.List(ctx, tc.req)).GetTransactions() {
			got = append(got, tx.GetXid())
		}
		if strings.Join(got, " ") != strings.Join(tc.want, " ") {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	var paged []string
	req := &pb.ListRequest{PageSize: 1}
	for {
		resp := must[*pb.ListResponse](t)(ad.List(ctx, req))
		for _, tx := range resp.GetTransactions() {
			paged = append(paged, tx.GetXid())
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if strings.Join(paged, " ") != strings.Join([]string{done, open, stuck}, " ") {
		t.Errorf("paged: %v", paged)
	}
	if n := must[*pb.RetryNowResponse](t)(ad.RetryNow(ctx, &pb.RetryNowRequest{Xid: stuck})).GetResources(); n != 1 {
		t.Errorf("%d resources were made due", n)
	}
	must[*pb.RollbackResponse](t)(ad.Rollback(ctx, &pb.AdminRollbackRequest{Xid: open, Operator: "ann", Cause: "stale"}))
	tx := must[*pb.GetResponse](t)(ad.Show(ctx, &pb.GetRequest{Xid: open})).GetTransaction()
	if tx.GetRollbackReason() != pb.RollbackReason_ROLLBACK_REASON_OPERATOR || !strings.Contains(tx.GetRollbackCause(), "ann") {
		t.Errorf("after an operator's rollback: %v", tx)
	}
	if st := must[*pb.StatusResponse](t)(ad.Status(ctx, &pb.StatusRequest{})); st.GetOpenTransactions() != 1 || len(st.GetClients()) != 1 {
		t.Errorf("status: %v", st)
	}
}

func TestAdminNamesTheBadField(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir())
	ad := pb.NewAdminClient(r.conn(t))
	ctx := limited(t)
	list := func(r *pb.ListRequest) func() error {
		return func() error { _, err := ad.List(ctx, r); return err }
	}
	for _, tc := range []struct {
		field string
		call  func() error
	}{
		{"page_size", list(&pb.ListRequest{PageSize: 1001})},
		{"page_size", list(&pb.ListRequest{PageSize: -1})},
		{"page_token", list(&pb.ListRequest{PageToken: "x"})},
		{"phases", list(&pb.ListRequest{Phases: []pb.Phase{99}})},
		{"phases", list(&pb.ListRequest{Phases: []pb.Phase{-1}})},
		{"outcome", list(&pb.ListRequest{Outcome: 99})},
		{"resource_id", list(&pb.ListRequest{ResourceId: "x"})},
		{"name_prefix", list(&pb.ListRequest{NamePrefix: strings.Repeat("x", 10_240)})},
		{"operator", func() error { _, err := ad.Adopt(ctx, &pb.AdoptRequest{}); return err }},
		{"xid", func() error { _, err := ad.Show(ctx, &pb.GetRequest{Xid: "x"}); return err }},
		{"xid", func() error { _, err := ad.RetryNow(ctx, &pb.RetryNowRequest{}); return err }},
		{"xid", func() error { _, err := ad.Commit(ctx, &pb.AdminCommitRequest{Operator: "x"}); return err }},
		{"xid", func() error { _, err := ad.Rollback(ctx, &pb.AdminRollbackRequest{Operator: "x"}); return err }},
	} {
		err := tc.call()
		if _, field, _ := reason(err); status.Code(err) != codes.InvalidArgument || field != tc.field {
			t.Errorf("%s: %v, field %q", tc.field, err, field)
		}
	}
}

// Whatever bytes arrive on a session, the coordinator goes on.
func FuzzSession(f *testing.F) {
	r := start(f, f.TempDir())
	cc := r.conn(f)
	f.Add([]byte("\x0a\x04\x08\x01\x12\x00"))
	f.Add([]byte("\x0a\x02\x12\x00\x0a\x02\x08\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := openSession(t, cc, nil)
		s.send(t, helloFrame())
		m := new(pb.ClientMessage)
		m.ProtoReflect().SetUnknown(b) // goes over the wire as it is
		s.mu.Lock()
		_ = s.stream.Send(m)
		_ = s.stream.CloseSend()
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		got, err := pb.NewCoordinatorClient(cc).Begin(ctx, &pb.BeginRequest{})
		if err != nil || got.GetXid() == "" {
			t.Fatalf("begin: %v", err)
		}
	})
}
