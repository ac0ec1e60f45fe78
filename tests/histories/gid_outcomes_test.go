package histories

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/dtm"
)

// gidWorld is a coordinator with DTM's clients, and the branches that it calls.
type gidWorld struct {
	*world
	doors    []gidDoor
	branches *gidBranches
	late     int // how many of a hundred gids are left until their timeout
}

// newGidWorld connects some clients, each through a proxy of its own.
func newGidWorld(t *testing.T, at string, sum *counts) *gidWorld {
	t.Helper()
	w := &gidWorld{branches: newGidBranches(t), late: 6, world: &world{
		part: &participant{}, counts: sum, cuts: make(chan struct{}, 1), deaths: make(chan struct{}, 1), xids: map[string]bool{}, lives: callsPerDeath / 2, least: leastTransactions / 2,
	}}
	for range 4 {
		p := newProxy(t, at)
		w.proxies = append(w.proxies, p)
		transport := &http.Transport{MaxIdleConnsPerHost: atOnce}
		t.Cleanup(transport.CloseIdleConnections)
		w.doors = append(w.doors, overHTTP{"http://" + p.addr(), &http.Client{Transport: transport}})
	}
	return w
}

// newDyingGidWorld is one whose coordinator dies.
func newDyingGidWorld(t *testing.T, c coordinator, sum *counts) (*gidWorld, coordinator) {
	t.Helper()
	w := newGidWorld(t, c.dtmAddr(), sum)
	w.crashes = true
	return w, ofDTM{c, w.branches}
}

// ofDTM is a coordinator whose other address is looked at, and which calls branches.
type ofDTM struct {
	coordinator
	b *gidBranches
}

func (c ofDTM) crash(freeze func(), thaw func(string)) error {
	return c.coordinator.crash(func() {
		freeze()
		c.b.next()
	}, func(string) {
		c.b.next()
		thaw(c.dtmAddr())
	})
}

// play makes histories for some time, or until one is found that nothing explains.
func (w *gidWorld) play(t *testing.T, c coordinator, d time.Duration) {
	t.Helper()
	even := func(ctx context.Context, n uint64) *gidHistory { return w.run(ctx, n<<1) }
	play(t.Context(), w.world, c, d, even, func(h *gidHistory) bool {
		w.branches.forget(h)
		return len(w.failed) > 0 || w.check(h)
	})
}

func (w *gidWorld) check(h *gidHistory) bool {
	result, ops := h.check(checkLimit)
	w.counts.add("gids", 1)
	w.counts.add("operations on gids", len(ops))
	switch result {
	case porcupine.Ok:
		w.counts.add(fmt.Sprintf("gids of a %s", h.mode), 1)
		for _, op := range ops {
			in, out := op.Input.(gidInput), op.Output.(gidOutput)
			if in.do == toldStatus && (out.status == "succeed" || out.status == "failed") {
				w.counts.add("gids seen to their end", 1)
				break
			}
		}
		for _, op := range ops {
			if in := op.Input.(gidInput); in.do == foundCalled && in.op == opAsk {
				w.counts.add("senders asked", 1)
				break
			}
		}
		return true
	case porcupine.Unknown:
		w.failed = append(w.failed, fmt.Sprintf("not checked within %s: %s", checkLimit, h.tell(ops)))
	case porcupine.Illegal:
		w.failed = append(w.failed, fmt.Sprintf("nothing explains this:\n%s\nthe whole history:\n%s", h.tell(shortest(ops)), h.tell(ops)))
	}
	return false
}

// shortest leaves out what was told, as long as the rest still contradicts itself.
func shortest(ops []porcupine.Operation) []porcupine.Operation {
	ops = slices.Clone(ops)
	until := time.Now().Add(5 * time.Second)
	for i := len(ops) - 1; i >= 0; i-- {
		if ops[i].Input.(gidInput).do < gidHappens || time.Now().After(until) {
			continue // without what was done, anything contradicts itself
		}
		rest := slices.Delete(slices.Clone(ops), i, i+1)
		if porcupine.CheckOperationsTimeout(gidModel, rest, time.Second/2) == porcupine.Illegal {
			ops = rest
		}
	}
	return ops
}

// undying is a coordinator for DTM's clients that nobody kills. It gives their address.
func undying(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hftest.Coordinator(t, func(c *tc.Config) {
		c.Engine = settings().Engine
		c.DTM = &dtm.Config{Listener: lis, GRPC: "127.0.0.1:0"}
	})
	return lis.Addr().String()
}

func TestGidsAreLinearizable(t *testing.T) {
	t.Parallel()
	since := time.Now()
	sum := &counts{}
	var failures []string
	for _, kind := range []struct { //nolint:paralleltest // each has the machine for itself
		name  string
		start func(*testing.T) coordinator // nil: one that nobody kills
	}{
		{"nobody dies", nil},
		{"kill -9", func(t *testing.T) coordinator { t.Helper(); return startMortal(t) }},
		{"power loss", func(t *testing.T) coordinator { t.Helper(); return startPowered(t, false) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			var w *gidWorld
			var c coordinator
			if kind.start == nil {
				w = newGidWorld(t, undying(t), sum)
			} else {
				w, c = newDyingGidWorld(t, kind.start(t), sum)
			}
			w.play(t, c, lasts(3*time.Second)/3)
			for _, f := range w.failed {
				t.Error(f)
			}
			failures = append(failures, w.failed...)
		})
	}
	sum.report(t, "histories-gids", "go test ./tests/histories -run Gids -histories.planted -histories.for "+longFlag.String()+" -timeout 2h", since, failures)
	if sum.get("gids") < 30 || sum.get("crashes") < 1 {
		t.Errorf("too little happened to mean anything: %v", sum.all())
	}
}
