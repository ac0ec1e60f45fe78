package tm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// coordinator is a real one in this process, on loopback, with a store on disk.
type coordinator struct {
	tb   testing.TB
	dir  string
	addr string
	stop func() // in order
	cut  func() // whatever is in flight is lost
}

func startCoordinator(tb testing.TB) *coordinator {
	tb.Helper()
	c := &coordinator{tb: tb, dir: tb.TempDir(), addr: "127.0.0.1:0"}
	c.start()
	tb.Cleanup(func() { c.stop() })
	return c
}

func (c *coordinator) start() {
	c.tb.Helper()
	lis := c.listen()
	s, err := tc.NewServer(context.Background(), tc.Config{
		Listener: lis, StoreDir: c.dir, DrainTimeout: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	c.addr = s.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	var once sync.Once
	end := func(order func()) func() {
		return func() {
			once.Do(func() {
				order()
				if err := <-done; err != nil {
					c.tb.Error(err)
				}
			})
		}
	}
	c.stop = end(cancel)
	c.cut = end(func() {
		defer cancel()
		now, over := context.WithCancel(ctx)
		over()
		_ = s.Shutdown(now) // Serve returns the same error
	})
}

// listen takes the same port as before, which the system may hold a little.
func (c *coordinator) listen() net.Listener {
	c.tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		lis, err := new(net.ListenConfig).Listen(context.Background(), "tcp", c.addr)
		if err == nil {
			return lis
		}
		if time.Now().After(deadline) {
			c.tb.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func connect(tb testing.TB, c *coordinator) *client.Client {
	tb.Helper()
	cl, err := client.Dial(c.addr, client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := cl.Close(); err != nil {
			tb.Error(err)
		}
	})
	return cl
}

const resource = "aaaaaaaa-0000-4000-8000-000000000001"

// participant stands for a database: it takes part, and settles what it is told.
type participant struct {
	c       *client.Client
	mu      sync.Mutex
	settled map[string]pb.Outcome
	release chan struct{} // closed: settle
}

func takePart(t *testing.T, c *client.Client) *participant {
	t.Helper()
	p := &participant{c: c, settled: make(map[string]pb.Outcome), release: make(chan struct{})}
	if _, err := c.Attach(&pb.AttachedResource{ResourceId: resource, Name: "stock"}, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *participant) Settle(ctx context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	select {
	case <-p.release:
	case <-ctx.Done():
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &pb.SettleResult{ResourceId: cmd.GetResourceId()}
	for _, i := range cmd.GetItems() {
		p.settled[i.GetXid()] = i.GetOutcome()
		r.Items = append(r.Items, &pb.SettleItemResult{Xid: i.GetXid(), Outcome: i.GetOutcome(), Done: true})
	}
	answer(r)
}

func (p *participant) AskVotes(_ context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	r := &pb.AskVotesResult{ResourceId: cmd.GetResourceId()}
	for _, i := range cmd.GetItems() {
		r.Items = append(r.Items, &pb.AskItemResult{Xid: i.GetXid(), BranchId: i.GetBranchId(), Vote: pb.Vote_VOTE_OPEN})
	}
	answer(r)
}

// branch registers a branch under the XID of ctx, and votes unless that is 0.
func (p *participant) branch(ctx context.Context, v pb.Vote) error {
	id, _ := xid.FromContext(ctx)
	b := xid.NewBranchID().String()
	if _, err := p.c.RegisterBranch(ctx, &pb.RegisterBranchRequest{
		Xid: id.String(), BranchId: b, ResourceId: resource, Mode: pb.Mode_MODE_AT,
	}); err != nil {
		return err
	}
	if v == pb.Vote_VOTE_UNSPECIFIED {
		return nil
	}
	_, err := p.c.Vote(ctx, &pb.VoteRequest{Xid: id.String(), BranchId: b, Vote: v, Reason: "because"})
	return err
}

func (p *participant) outcome(id xid.ID) pb.Outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settled[id.String()]
}

func TestRealCoordinatorCommitsAndSettles(t *testing.T) {
	t.Parallel()
	tc := startCoordinator(t)
	c := connect(t, tc)
	m, p := tm.New(c), takePart(t, c)
	close(p.release)
	var id xid.ID
	if err := m.Do(t.Context(), func(ctx context.Context) error {
		id, _ = xid.FromContext(ctx)
		return errors.Join(p.branch(ctx, pb.Vote_VOTE_YES), p.branch(ctx, pb.Vote_VOTE_YES))
	}, tm.WithWaitSettled(), tm.WithName("order")); err != nil {
		t.Fatal(err)
	}
	if o := p.outcome(id); o != pb.Outcome_OUTCOME_COMMITTED {
		t.Errorf("settled as %v when Do returned", o)
	}
	if o, err := m.Outcome(t.Context(), id); err != nil || o != pb.Outcome_OUTCOME_COMMITTED {
		t.Errorf("outcome %v, %v", o, err)
	}
	// Again is the same, and the opposite is refused.
	if err := m.Commit(t.Context(), tm.Tx{XID: id}); err != nil {
		t.Errorf("Commit again: %v", err)
	}
	if err := m.Rollback(t.Context(), tm.Tx{XID: id}, errUser); client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_COMMITTED {
		t.Errorf("Rollback of what is committed: %v", err)
	}
}

func TestRealCoordinatorRollsBack(t *testing.T) {
	t.Parallel()
	tc := startCoordinator(t)
	c := connect(t, tc)
	m, p := tm.New(c), takePart(t, c)
	close(p.release)
	for name, tt := range map[string]struct {
		vote   pb.Vote
		fnErr  error
		opts   []tm.Option
		reason pb.RollbackReason
	}{
		"because fn failed":      {pb.Vote_VOTE_YES, errUser, nil, pb.RollbackReason_ROLLBACK_REASON_REQUESTED},
		"because a vote was no":  {pb.Vote_VOTE_NO, nil, nil, pb.RollbackReason_ROLLBACK_REASON_VOTED_NO},
		"because a vote is open": {pb.Vote_VOTE_UNSPECIFIED, nil, []tm.Option{tm.WithTimeout(3 * brief)}, pb.RollbackReason_ROLLBACK_REASON_TIMEOUT},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var id xid.ID
			err := m.Do(t.Context(), func(ctx context.Context) error {
				id, _ = xid.FromContext(ctx)
				if err := p.branch(ctx, tt.vote); err != nil {
					t.Error(err)
				}
				return tt.fnErr
			}, tt.opts...)
			r, ok := errors.AsType[*tm.RolledBackError](err)
			if !ok || r.XID != id || r.Reason != tt.reason || (tt.fnErr != nil && !errors.Is(err, tt.fnErr)) {
				t.Fatalf("got %v", err)
			}
			if errors.Is(err, tm.ErrTimedOut) != (tt.reason == pb.RollbackReason_ROLLBACK_REASON_TIMEOUT) {
				t.Errorf("got %v", err)
			}
			if o, err := m.Outcome(t.Context(), id); err != nil || o != pb.Outcome_OUTCOME_ROLLED_BACK {
				t.Errorf("outcome %v, %v", o, err)
			}
			if err := m.Commit(t.Context(), tm.Tx{XID: id}); !errors.Is(err, tm.ErrRolledBack) {
				t.Errorf("Commit afterwards: %v", err)
			}
			ctx := xid.NewContext(t.Context(), id)
			if err := p.branch(ctx, pb.Vote_VOTE_YES); client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_ROLLED_BACK {
				t.Errorf("a branch afterwards: %v", err)
			}
		})
	}
}

func TestCommitDoesNotWaitForPhaseTwoUnlessAsked(t *testing.T) {
	t.Parallel()
	tc := startCoordinator(t)
	c := connect(t, tc)
	m, p := tm.New(c), takePart(t, c)
	work := func(ctx context.Context) error { return p.branch(ctx, pb.Vote_VOTE_YES) }
	if err := m.Do(t.Context(), work); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*brief)
	defer cancel()
	if err := m.Do(ctx, work, tm.WithWaitSettled()); !errors.Is(err, tm.ErrNotSettled) {
		t.Errorf("got %v", err)
	}
	close(p.release)
	if err := m.Do(t.Context(), work, tm.WithWaitSettled()); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestARollbackIsAwaitedIfAsked(t *testing.T) {
	t.Parallel()
	tc := startCoordinator(t)
	c := connect(t, tc)
	m, p := tm.New(c), takePart(t, c)
	var id xid.ID
	work := func(ctx context.Context) error {
		id, _ = xid.FromContext(ctx)
		return errors.Join(p.branch(ctx, pb.Vote_VOTE_YES), errUser)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*brief)
	defer cancel()
	if err := m.Do(ctx, work, tm.WithWaitSettled()); !errors.Is(err, tm.ErrRolledBack) || !errors.Is(err, tm.ErrNotSettled) || !errors.Is(err, errUser) {
		t.Errorf("got %v", err)
	}
	close(p.release)
	if err := m.Do(t.Context(), work, tm.WithWaitSettled()); !errors.Is(err, tm.ErrRolledBack) || errors.Is(err, tm.ErrNotSettled) {
		t.Errorf("got %v", err)
	}
	if o := p.outcome(id); o != pb.Outcome_OUTCOME_ROLLED_BACK {
		t.Errorf("settled as %v when Do returned", o)
	}
	tx, err := m.Begin(t.Context(), tm.WithWaitSettled())
	if err == nil {
		err = p.branch(tx.Context(t.Context()), pb.Vote_VOTE_YES)
	}
	if err = errors.Join(err, m.Rollback(t.Context(), tx, nil)); err != nil || p.outcome(tx.XID) != pb.Outcome_OUTCOME_ROLLED_BACK {
		t.Errorf("by hand: got %v, settled as %v", err, p.outcome(tx.XID))
	}
}

func TestTransactionSurvivesARestartOfTheCoordinator(t *testing.T) {
	t.Parallel()
	tc := startCoordinator(t)
	c := connect(t, tc)
	m, p := tm.New(c), takePart(t, c)
	close(p.release)
	var id xid.ID
	err := m.Do(t.Context(), func(ctx context.Context) error {
		id, _ = xid.FromContext(ctx)
		if err := p.branch(ctx, pb.Vote_VOTE_YES); err != nil {
			return err
		}
		tc.stop()
		tc.start()
		return p.branch(ctx, pb.Vote_VOTE_YES)
	}, tm.WithWaitSettled())
	if err != nil {
		t.Fatal(err)
	}
	if o := p.outcome(id); o != pb.Outcome_OUTCOME_COMMITTED {
		t.Errorf("settled as %v", o)
	}
}

// Every transaction that Do calls committed is, and every other one is not,
// while the coordinator goes away and comes back again and again.
func TestNoOutcomeIsMisreportedWhileTheCoordinatorRestarts(t *testing.T) {
	t.Parallel()
	tc := startCoordinator(t)
	c := connect(t, tc)
	m, p := tm.New(c, tm.WithTimeout(30*time.Second)), takePart(t, c)
	close(p.release)
	type told struct {
		id  xid.ID
		err error
	}
	var mu sync.Mutex
	var all []told
	var enough atomic.Bool
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; !enough.Load(); i++ {
				var v told
				v.err = m.Do(t.Context(), func(ctx context.Context) error {
					v.id, _ = xid.FromContext(ctx)
					if err := p.branch(ctx, pb.Vote_VOTE_YES); err != nil {
						return err
					}
					if (i+w)%3 == 0 {
						return errUser
					}
					return nil
				})
				mu.Lock()
				all = append(all, v)
				mu.Unlock()
			}
		})
	}
	for round := range 6 {
		mu.Lock()
		n := len(all)
		mu.Unlock()
		deadline := time.Now().Add(patience)
		for {
			mu.Lock()
			more := len(all) > n+50
			mu.Unlock()
			if more {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no progress")
			}
			time.Sleep(time.Millisecond)
		}
		if round%2 == 0 {
			tc.cut()
		} else {
			tc.stop()
		}
		tc.start()
	}
	enough.Store(true)
	wg.Wait()
	counts := map[bool]int{}
	for _, v := range all {
		if v.id.IsZero() {
			continue // Begin failed
		}
		o, err := m.Outcome(t.Context(), v.id)
		if err != nil {
			t.Fatalf("%v: %v", v.id, err)
		}
		switch {
		case v.err == nil && o != pb.Outcome_OUTCOME_COMMITTED,
			errors.Is(v.err, tm.ErrRolledBack) && o != pb.Outcome_OUTCOME_ROLLED_BACK,
			errors.Is(v.err, tm.ErrOutcomeUnknown):
			t.Errorf("%v: told %v, is %v", v.id, v.err, o)
		}
		counts[v.err == nil]++
	}
	if counts[true] < 50 || counts[false] < 50 {
		t.Errorf("too few to mean anything: %v", counts)
	}
}

// BenchmarkDo is an empty transaction over loopback to a coordinator with a
// durable store in this process.
func BenchmarkDo(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := tm.New(connect(b, startCoordinator(b)))
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range n {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := m.Do(b.Context(), func(context.Context) error { return nil }); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
		})
	}
}
