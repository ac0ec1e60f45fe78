package tc_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/xid"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// running is a server in this process.
type running struct {
	*tc.Server
	dir    string
	cancel context.CancelFunc
	served chan error
	once   sync.Once
	err    error
}

// start starts a server on loopback over a directory; it stops with the test.
func start(tb testing.TB, dir string, change ...func(*tc.Config)) *running {
	tb.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	cfg := tc.Config{Listener: lis, StoreDir: dir, DrainTimeout: patience, Log: quiet()}
	for _, c := range change {
		c(&cfg)
	}
	s, err := tc.NewServer(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: s, dir: dir, cancel: cancel, served: make(chan error, 1)}
	go func() { r.served <- s.Serve(ctx) }()
	tb.Cleanup(func() { _ = r.stop() })
	return r
}

// stop shuts the server down in order.
func (r *running) stop() error {
	r.once.Do(func() {
		r.cancel()
		r.err = <-r.served
	})
	return r.err
}

func (r *running) address() string { return r.Addr().String() }

// conn opens a plain gRPC connection.
func (r *running) conn(tb testing.TB) *grpc.ClientConn {
	tb.Helper()
	cc, err := grpc.NewClient(r.address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cc.Close() })
	return cc
}

// dial opens a client with its session.
func (r *running) dial(tb testing.TB, opts ...client.Option) *client.Client {
	tb.Helper()
	c, err := client.Dial(r.address(), append([]client.Option{client.WithLogger(quiet())}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// limited gives a context that ends when a test has waited long enough.
func limited(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// manager is a resource manager that settles whatever it is told to.
type manager struct {
	resource string
	// hold, if set, is asked before an item is answered; false: no answer.
	hold func(*pb.SettleItem) bool
	// votes answers AskVotes; unset: yes.
	votes func(*pb.AskItem) pb.Vote
	// forget keeps nothing of what was settled.
	forget bool

	mu      sync.Mutex
	settled map[string]pb.Outcome
	changed chan struct{}
}

func newManager(n byte) *manager {
	return &manager{
		resource: xid.ResourceID{0: 0xd, 15: n}.String(),
		settled:  make(map[string]pb.Outcome), changed: make(chan struct{}),
	}
}

func (m *manager) Settle(_ context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	res := &pb.SettleResult{ResourceId: cmd.GetResourceId()}
	m.mu.Lock()
	for _, i := range cmd.GetItems() {
		if m.hold != nil && !m.hold(i) {
			continue
		}
		if !m.forget {
			m.settled[i.GetXid()] = i.GetOutcome()
		}
		res.Items = append(res.Items, &pb.SettleItemResult{Xid: i.GetXid(), Outcome: i.GetOutcome(), Done: true})
	}
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	answer(res)
}

func (m *manager) AskVotes(_ context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	m.mu.Lock()
	votes := m.votes
	m.mu.Unlock()
	res := &pb.AskVotesResult{ResourceId: cmd.GetResourceId()}
	for _, i := range cmd.GetItems() {
		v := pb.Vote_VOTE_YES
		if votes != nil {
			v = votes(i)
		}
		res.Items = append(res.Items, &pb.AskItemResult{Xid: i.GetXid(), BranchId: i.GetBranchId(), Vote: v, Reason: "asked"})
	}
	answer(res)
}

// await waits until the transaction is settled here.
func (m *manager) await(tb testing.TB, id string) pb.Outcome {
	tb.Helper()
	late := time.After(patience)
	for {
		m.mu.Lock()
		o, ok := m.settled[id]
		changed := m.changed
		m.mu.Unlock()
		if ok {
			return o
		}
		select {
		case <-changed:
		case <-late:
			tb.Fatalf("%s was not settled at %s", id, m.resource)
		}
	}
}

func (m *manager) attach(tb testing.TB, c *client.Client) {
	tb.Helper()
	detach, err := c.Attach(&pb.AttachedResource{ResourceId: m.resource, Name: "test"}, m)
	if err != nil {
		tb.Fatal(err)
	}
	_ = detach
}

func newBranch() string { return xid.NewBranchID().String() }

func must[T any](tb testing.TB) func(v T, err error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
