package engine_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

// step is a registration with a plan whose payload has so many bytes.
func step(id xid.ID, n byte, bytes int, w *waiter) core.Register {
	return core.Register{Ref: w, XID: id, Branch: xid.BranchID{n}, Mode: core.ModeTCC, Plan: &core.Plan{
		Commit: core.Action{Kind: core.TargetHTTP, Address: "http://127.0.0.1/", Lane: resource, Payload: make([]byte, bytes)},
	}}
}

func wantHeld(t *testing.T, e *engine.Engine, want int64) {
	t.Helper()
	if got, _ := e.Held(); got != want {
		t.Fatalf("%d bytes on account, want %d", got, want)
	}
}

func TestAllShardsShareTheRoomForActions(t *testing.T) {
	t.Parallel()
	const limit, each, many = 1 << 20, 10_000, 400
	st := newMemory()
	bound := func(c *engine.Config) { c.Shards, c.Core.MaxHeld = 4, limit }
	e, _ := run(t, st, bound)
	weight := core.Weight(step(xid.ID{}, 1, each, nil))

	// All at once, so that shards ask for the last room at the same time.
	ids := make([]xid.ID, many)
	taken := make([]bool, many)
	for i := range ids {
		ids[i] = begin(t, e)
	}
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			w := newWaiter()
			if err := e.Submit(step(ids[i], 1, each, w)); err != nil {
				t.Error(err)
				return
			}
			r := w.wait(t)
			if taken[i] = r.Err == nil; !taken[i] && r.Err.Kind != core.ErrLimit {
				t.Error(r.Err)
			}
		})
	}
	all.Wait()
	n := int64(0)
	for _, ok := range taken {
		if ok {
			n++
		}
	}
	wantHeld(t, e, n*weight)
	// Newcomers may have seven eighths. Who asks at the same time may be refused the
	// last of it, but never be given more; with a quarter each, shards would fill up
	// one by one.
	if most := int64(limit * 7 / 8); n*weight > most || n*weight < most-5*weight {
		t.Errorf("%d transactions hold %d bytes, want about %d", n, n*weight, most)
	}

	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	st.meta.Incarnation++
	st.ends[2] = st.position
	again, _ := run(t, st, bound, func(c *engine.Config) { c.Shards, c.Core.MaxHeld = 3, limit/2 })
	wantHeld(t, again, n*weight)
	w := newWaiter()
	submit(t, again, step(begin(t, again), 1, each, w))
	if r := w.wait(t); r.Err == nil || r.Err.Kind != core.ErrLimit {
		t.Errorf("more than there is room for after a restart, and one more: %+v", r)
	}
	wantHeld(t, again, n*weight)
	for i, ok := range taken {
		if !ok {
			continue
		}
		w := newWaiter()
		submit(t, again, core.Rollback{Ref: w, XID: ids[i]})
		if r := w.wait(t); r.Err != nil || r.Tx.Outcome != core.RolledBack {
			t.Fatalf("%+v", r)
		}
	}
	wantHeld(t, again, 0)
}

func TestAQueueIsFullOfAFewLongRequests(t *testing.T) {
	t.Parallel()
	long := make([]byte, 2000)
	for name, in := range map[string]func(xid.ID, *waiter) core.Input{
		"registration": func(id xid.ID, w *waiter) core.Input { return step(id, 1, len(long), w) },
		"submission": func(id xid.ID, w *waiter) core.Input {
			return core.Submit{Ref: w, XID: id, Branches: []core.Register{step(id, 1, len(long), nil)}}
		},
		"vote":   func(id xid.ID, w *waiter) core.Input { return core.CastVote{Ref: w, XID: id, Result: long} },
		"answer": func(id xid.ID, _ *waiter) core.Input { return core.Called{XID: id, Result: long} },
	} {
		e, err := engine.New(t.Context(), newMemory(), engine.Config{Shards: 1, QueueBytes: 3200})
		if err != nil {
			t.Fatal(err)
		}
		// Nothing is taken before Start.
		id, now := e.NewXID()
		if err := errors.Join(e.Submit(in(id, newWaiter())), e.Submit(in(id, newWaiter()))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := e.Submit(in(id, newWaiter())); !errors.Is(err, engine.ErrFull) {
			t.Fatalf("%s: a full queue gives %v", name, err)
		}
		w := newWaiter()
		done := make(chan error, 1)
		go func() {
			done <- e.SubmitWait(context.Background(), core.Begin{Ref: w, XID: id, Deadline: now.Add(time.Hour)})
		}()
		e.Start(newSink())
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if r := w.wait(t); r.Err != nil {
			t.Errorf("%s: with room again: %v", name, r.Err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoomForActionsFollowsTheMemoryLimit(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int64]int64{math.MaxInt64: 1 << 30, 8 << 30: 2 << 30, 10 << 20: 16 << 20} {
		if got := engine.DefaultHeld(limit); got != want {
			t.Errorf("with a memory limit of %d: %d, want %d", limit, got, want)
		}
	}
	e, err := engine.New(t.Context(), newMemory(), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, limit := e.Held(); limit < 16<<20 {
		t.Errorf("the default is %d bytes", limit)
	}
}
