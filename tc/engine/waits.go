package engine

import (
	"fmt"
	"sync"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/waits"
	"github.com/handfast/handfast/xid"
)

// waitGraph is who waits for whom over all shards.
//
//	shard of the holder          graph             shard of the waiter
//	Wait is parked  ──────────►  edge  ──────────►  Waiting: tell of its decision
//	                             cycle ──────────►  Break: roll the youngest back
//	                                                        │ forced
//	EndWait: refuse   ◄────────  its waits  ◄───── WaiterDone
//
// What it posts is bounded by the waits that were admitted: three events each.
type waitGraph struct {
	e *Engine

	mu      sync.Mutex
	g       *waits.Graph
	parents []xid.ID // of restored transactions, until start
}

func newWaitGraph(e *Engine, limit int) *waitGraph {
	return &waitGraph{e: e, g: waits.New(limit)}
}

// restore takes in a transaction that is read back at start.
func (w *waitGraph) restore(tx *core.Transaction) {
	if !tx.Parent.IsZero() && tx.Outcome == core.Undecided {
		w.g.Child(tx.Parent, tx.XID)
		w.parents = append(w.parents, tx.Parent)
	}
}

// start asks after the parents of what was restored.
func (w *waitGraph) start() {
	for _, id := range w.parents {
		w.e.Post(core.Waiting{XID: id})
	}
	w.parents = nil
}

// WaitsFor gives at most limit transactions that one waits for at this moment,
// directly and through others, the nearest first.
func (e *Engine) WaitsFor(id xid.ID, limit int) []xid.ID {
	e.waits.mu.Lock()
	defer e.waits.mu.Unlock()
	return e.waits.g.Reach(id, limit)
}

// collect takes in what a step says of waits. What is decided but not durable
// yet holds up nobody any more, which nobody can see from outside.
func (w *waitGraph) collect(out core.Output) {
	for i := range out.Records {
		if r := &out.Records[i]; r.Kind == core.RecordBegin && !r.Parent.IsZero() {
			w.mu.Lock()
			w.g.Child(r.Parent, r.XID)
			w.mu.Unlock()
			// The parent may be decided already, or not known here.
			w.e.Post(core.Waiting{XID: r.Parent})
		}
	}
	for i := range out.Messages {
		if d, ok := out.Messages[i].Body.(core.WaiterDone); ok {
			w.mu.Lock()
			w.g.Decided(d.XID)
			w.mu.Unlock()
		}
	}
	for _, p := range out.Parked {
		if p.Over {
			w.mu.Lock()
			w.g.End(p.Ref)
			w.mu.Unlock()
			continue
		}
		w.park(p)
	}
}

func (w *waitGraph) park(p core.Parked) {
	w.mu.Lock()
	if q, ok := p.Ref.(Quitter); ok && q.Quit() {
		w.mu.Unlock()
		return
	}
	cycles, err := w.g.Begin(waits.Wait{Token: p.Ref, Waiter: p.Waiter, Holder: p.Holder})
	n := w.g.Len()
	w.mu.Unlock()
	if err != nil {
		w.e.Post(core.EndWait{Ref: p.Ref, XID: p.Holder, Err: &core.Error{
			Kind: core.ErrLimit, XID: p.Waiter, Message: fmt.Sprintf("%d transactions wait already (limit)", n),
		}})
		return
	}
	// Always: the waiter may have been decided before it began to wait.
	w.e.Post(core.Waiting{XID: p.Waiter})
	for _, c := range cycles {
		w.e.log.Debug("a deadlock is broken", "victim", c.Victim, "cycle", c.String())
		w.e.Post(core.Break{XID: c.Victim, Cause: c.String()})
	}
}

// cancel forgets a wait before its shard does.
func (w *waitGraph) cancel(ref core.Ref) {
	w.mu.Lock()
	w.g.End(ref)
	w.mu.Unlock()
}

// end is called when it is durable that a transaction waits no longer.
func (w *waitGraph) end(d core.WaiterDone) {
	w.mu.Lock()
	ws := w.g.Of(d.XID)
	w.mu.Unlock()
	for _, o := range ws {
		w.e.Post(core.EndWait{Ref: o.Token, XID: o.Holder, Err: d.Err})
	}
}
