package engine_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
)

// An edge of the graph of waits never outlives a transaction that is given up,
// whichever side of it that is, and whatever shards they belong to.
func TestAbandonEndsTheWaitsOfBothSides(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory(), func(c *engine.Config) { c.Shards = 4 })
	abandon := func(w *waiter, in core.Abandon) {
		t.Helper()
		in.Ref, in.Operator = w, "ann"
		submit(t, e, in)
		if r := w.wait(t); r.Err != nil || r.Tx.Outcome != core.RolledBack || r.Tx.Reason != core.ReasonOperator {
			t.Fatalf("%+v", r)
		}
	}
	for range 20 {
		waits, holds := begin(t, e), begin(t, e)
		register(t, e, waits, 1)
		register(t, e, holds, 1)
		first := newWaiter()
		submit(t, e, core.Wait{Ref: first, XID: holds, Resource: resource, Waiter: waits, Until: e.Now().Add(time.Hour)})
		for len(e.WaitsFor(waits, 10)) == 0 {
			time.Sleep(time.Millisecond)
		}
		// Who waits is given up: its wait is refused.
		abandon(newWaiter(), core.Abandon{XID: waits})
		if r := first.wait(t); r.Err == nil || r.Err.Kind != core.ErrRolledBack || r.Err.XID != waits {
			t.Fatalf("%+v", r)
		}
		if left := e.WaitsFor(waits, 10); len(left) != 0 {
			t.Fatalf("it still waits for %v", left)
		}
		// Who holds is given up: whoever waits until it is decided goes on. What the
		// database has to settle is not over.
		decided, settled := newWaiter(), newWaiter()
		other := begin(t, e)
		submit(t, e, core.Wait{Ref: decided, XID: holds, Waiter: other, Until: e.Now().Add(time.Hour)})
		submit(t, e, core.Wait{Ref: settled, XID: holds, Finished: true, Until: e.Now().Add(time.Hour)})
		abandon(newWaiter(), core.Abandon{XID: holds})
		if r := decided.wait(t); r.Err != nil || r.Tx.Outcome != core.RolledBack {
			t.Fatalf("%+v", r)
		}
		settled.none(t)
		e.Post(core.Settled{XID: holds, Resource: resource, Outcome: core.RolledBack, Done: true})
		if r := settled.wait(t); r.Err != nil || r.Tx.Phase != core.Finished || len(r.Tx.Settlements) != 1 {
			t.Fatalf("%+v", r)
		}
		if left := e.WaitsFor(other, 10); len(left) != 0 {
			t.Fatalf("it still waits for %v", left)
		}
	}
}

func TestWhatWasGivenUpIsFoundInTheArchive(t *testing.T) {
	t.Parallel()
	e, _ := run(t, newMemory())
	id, now := e.NewXID()
	w := newWaiter()
	submit(t, e, core.Begin{Ref: w, XID: id, Deadline: now.Add(time.Hour), Key: "key", Note: []byte("note")})
	w.wait(t)
	wantHeld(t, e, 7)
	submit(t, e, step(id, 1, 10, w))
	w.wait(t)
	for range 2 {
		submit(t, e, core.Abandon{Ref: w, XID: id})
		if r := w.wait(t); r.Err != nil || r.Tx.Phase != core.Finished || r.Tx.Outcome != core.RolledBack || r.Tx.Key != "key" {
			t.Fatalf("%+v", r)
		}
		wantHeld(t, e, 0)
	}
	submit(t, e, core.Wait{Ref: w, XID: id, Finished: true, OrStalled: true})
	if r := w.wait(t); r.Err != nil || r.Tx.Phase != core.Finished || len(r.Tx.Branches) != 1 || string(r.Tx.Note) != "note" {
		t.Fatalf("%+v", r)
	}
}
