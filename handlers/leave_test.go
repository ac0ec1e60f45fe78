package handlers_test

import (
	"context"
	"testing"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
)

// worker is one of several processes of a group. It holds a call that says so, until
// its process goes.
type worker struct {
	c    *client.Client
	held chan uint32 // attempts
}

func newWorker(t *testing.T, addr string) *worker {
	t.Helper()
	w := &worker{c: hftest.Dial(t, addr), held: make(chan uint32, 10)}
	g := handlers.New("workers").Handle("work", func(ctx context.Context, c handlers.Call) ([]byte, error) {
		if string(c.Payload) != `"hold"` {
			return nil, nil
		}
		w.held <- c.Attempt
		if c.Attempt > 1 {
			return nil, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if _, err := g.Attach(w.c, client.WithCallGrace(0)); err != nil {
		t.Fatal(err)
	}
	return w
}

func work(what string) *saga.Definition {
	return saga.New(what).Step("a", target.Handler("workers", "work", target.Payload(what), target.Timeout(time.Minute)), saga.NoCompensation())
}

// A process that leaves takes its own calls along, and nobody else's.
func TestCallsOfOthersGoOnWhenAProcessLeaves(t *testing.T) {
	t.Parallel()
	addr := hftest.Coordinator(t)
	m := tm.New(hftest.Dial(t, addr))
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	busy := newWorker(t, addr)
	id, err := work("hold").Submit(t.Context(), m)
	check(err)
	if n := <-busy.held; n != 1 {
		t.Errorf("attempt %d", n)
	}
	idle, next := newWorker(t, addr), newWorker(t, addr)
	for range 9 { // in turn: they are all attached
		_, err = work("go").Run(t.Context(), m)
		check(err)
	}
	check(idle.c.Close())
	for range 9 { // and now two are
		_, err = work("go").Run(t.Context(), m)
		check(err)
	}
	if len(busy.held)+len(idle.held)+len(next.held) > 0 {
		t.Error("a call was made again because somebody else left")
	}
	check(busy.c.Close())
	if n := <-next.held; n != 2 {
		t.Errorf("attempt %d", n)
	}
	check(m.Wait(t.Context(), id))
}
