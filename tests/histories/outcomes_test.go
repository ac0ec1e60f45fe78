package histories

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/hftest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tm"
)

// patience bounds what only a coordinator that hangs does not do.
const patience = 2 * time.Minute

// world is a coordinator with its clients.
type world struct {
	crashes bool // the coordinator dies
	// alive ends when the coordinator can't be started again.
	alive   context.Context //nolint:containedctx // of all calls
	giveUp  context.CancelFunc
	apis    []api
	part    *participant
	counts  *counts
	proxies []*proxy

	lives  int64 // how many calls the coordinator lives
	least  int64 // how many transactions there are, however long that takes
	calls  atomic.Int64
	judged atomic.Int64
	died   atomic.Int64
	cuts   chan struct{} // every so many calls
	deaths chan struct{}

	mu     sync.Mutex
	xids   map[string]bool
	failed []string
}

// Every so many calls a connection is cut, or the coordinator dies.
const (
	callsPerCut   = 150
	callsPerDeath = 250
)

// called counts a call, and lets things happen in the course of time.
func (w *world) called(answered bool) {
	n := w.calls.Add(1)
	w.counts.add("calls", 1)
	if !answered {
		w.counts.add("calls without an answer", 1)
	}
	for ch, every := range map[chan struct{}]int64{w.cuts: callsPerCut, w.deaths: w.lives} {
		if n%every == 0 {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// goesOn tells whether another transaction is to begin. On a slow machine it takes longer
// until there were enough, and the coordinator has died a few times.
func (w *world) goesOn(until time.Time) bool {
	return w.alive.Err() == nil &&
		(time.Now().Before(until) || w.calls.Load() < 3*w.lives || w.judged.Load() < w.least || w.crashes && w.died.Load() == 0)
}

func (w *world) unique(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.xids[id] {
		return false
	}
	w.xids[id] = true
	return true
}

// newWorld connects three kinds of clients, several of each, each through a proxy of its own.
func newWorld(t *testing.T, at string, sum *counts) *world {
	t.Helper()
	w := &world{
		part: &participant{facts: map[string]pb.Vote{}, all: map[string]*history{}}, counts: sum,
		cuts: make(chan struct{}, 1), deaths: make(chan struct{}, 1), xids: map[string]bool{}, lives: callsPerDeath, least: leastTransactions,
	}
	quick := grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: 5 * time.Second,
	})
	for i := range 6 {
		p := newProxy(t, at)
		w.proxies = append(w.proxies, p)
		if i%3 == 0 {
			cc, err := grpc.NewClient("passthrough:///"+p.addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), quick)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cc.Close() })
			w.apis = append(w.apis, unary{pb.NewCoordinatorClient(cc)})
			continue
		}
		c, err := client.Dial(p.addr(), client.WithLogger(quiet()), client.WithDialOptions(quick))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Attach(&pb.AttachedResource{ResourceId: resource, Name: "facts"}, w.part); err != nil {
			t.Fatal(err)
		}
		if i%3 == 1 {
			w.apis = append(w.apis, c)
		} else {
			w.apis = append(w.apis, managed{c, tm.New(c, tm.WithRetryLimit(2*time.Second))})
		}
	}
	return w
}

// disturb cuts connections and kills the coordinator until ctx ends.
func (w *world) disturb(ctx context.Context, c coordinator) {
	r := newRand(1 << 40)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.alive.Done():
			return
		case <-w.cuts:
			w.proxies[r.IntN(len(w.proxies))].cut()
			w.counts.add("connections cut", 1)
		case <-w.deaths:
			if c == nil {
				continue
			}
			err := c.crash(func() {
				for _, p := range w.proxies {
					p.hold()
				}
			}, func(addr string) {
				for _, p := range w.proxies {
					p.release(addr)
				}
			})
			if err != nil {
				w.part.complain("it does not start again: %v", err)
				w.giveUp()
				return
			}
			w.counts.add("crashes", 1)
			w.died.Add(1)
		}
	}
}

// atOnce is how many transactions are under way.
const atOnce = 16

// A run has so many transactions at least. One in which a fault is planted has more, unless
// it is found before: most show in the first dozen, and the slowest after a hundred.
const (
	leastTransactions = 40
	leastToFind       = 3000
)

// play makes histories for some time, or until one is found that nothing explains. run makes
// the one of a number, or nil; judged is told of each, and says whether it is explained.
func play[H any](ctx context.Context, w *world, c coordinator, d time.Duration, run func(context.Context, uint64) *H, judged func(*H) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	until := time.Now().Add(d)
	w.alive, w.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	defer w.giveUp()
	var load, hands sync.WaitGroup
	hands.Go(func() { w.disturb(ctx, c) })
	done := make(chan *H, 64)
	var n atomic.Uint64
	for range atOnce {
		load.Go(func() {
			for w.goesOn(until) {
				if h := run(w.alive, n.Add(1)); h != nil {
					done <- h
				}
			}
		})
	}
	go func() { load.Wait(); close(done) }()
	for h := range done {
		w.judged.Add(1)
		if !judged(h) {
			w.giveUp() // one is enough
		}
	}
	cancel()
	hands.Wait()
	w.failed = append(w.failed, w.part.complaints()...)
}

func (w *world) play(t *testing.T, c coordinator, d time.Duration) {
	t.Helper()
	play(t.Context(), w, c, d, w.run, func(h *history) bool {
		w.part.forget(h)
		return len(w.failed) > 0 || w.check(h)
	})
}

// checkLimit bounds the check of one history. A few dozen operations need a millisecond; a
// dozen without an answer, under the race detector and beside other work, can need half a minute.
const checkLimit = 3 * time.Minute

func (w *world) check(h *history) bool {
	w.counts.add("transactions", 1)
	h.mu.Lock()
	w.counts.add("operations", len(h.ops))
	ops := &history{id: h.id, begun: h.begun, branches: h.branches, ops: h.ops}
	h.mu.Unlock()
	switch ops.check(checkLimit) {
	case porcupine.Ok:
		last := ops.ops[len(ops.ops)-1].Output.(output)
		last.reason = untold
		w.counts.add("transactions that end as "+last.String(), 1)
		return true
	case porcupine.Unknown:
		w.failed = append(w.failed, fmt.Sprintf("not checked within %s: %s", checkLimit, ops))
	case porcupine.Illegal:
		w.failed = append(w.failed, fmt.Sprintf("nothing explains this:\n%s\nthe whole history:\n%s", ops.short(), ops))
	}
	return false
}

func TestOutcomesAreLinearizable(t *testing.T) {
	t.Parallel()
	since := time.Now()
	sum := &counts{}
	var failures []string
	for _, kind := range []struct { //nolint:paralleltest // each has the machine for itself
		name  string
		start func(*testing.T) (at string, c coordinator)
	}{
		{"nobody dies", func(t *testing.T) (string, coordinator) {
			t.Helper()
			return hftest.Coordinator(t, func(c *tc.Config) { c.Engine = settings().Engine }), nil
		}},
		{"kill -9", func(t *testing.T) (string, coordinator) { t.Helper(); m := startMortal(t); return m.addr(), m }},
		{"power loss", func(t *testing.T) (string, coordinator) { t.Helper(); p := startPowered(t, false); return p.addr(), p }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			at, c := kind.start(t)
			w := newWorld(t, at, sum)
			w.crashes = c != nil
			w.play(t, c, lasts(4500*time.Millisecond)/3)
			for _, f := range w.failed {
				t.Error(f)
			}
			failures = append(failures, w.failed...)
		})
	}
	sum.report(t, "histories-outcomes", "go test ./tests/histories -run Outcomes -histories.for "+longFlag.String()+" -timeout 2h", since, failures)
	if sum.get("transactions") < 100 || sum.get("crashes") < 2 {
		t.Errorf("too little happened to mean anything: %v", sum.all())
	}
}
