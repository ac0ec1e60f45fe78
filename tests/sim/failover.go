package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// replica is what an asynchronous replica of a database has at a moment: what was
// committed and prepared there. The newest is missing when it takes over.
type replica struct {
	fails    int // how often the server had failed over before
	at       time.Duration
	rows     map[int]row
	tags     map[string]int
	undo     []undoRow
	gate     map[gateKey]xid.ID
	fence    map[branchKey]fence
	actions  map[branchKey]action
	prepared []local

	books   books
	effects map[*history][]effect
	settled map[*history]bool
}

func (d *database) replicate() *replica {
	r := &replica{
		fails: d.fails, at: d.w.now, rows: maps.Clone(d.rows), tags: maps.Clone(d.tags), undo: slices.Clone(d.undo), gate: maps.Clone(d.gate),
		fence: maps.Clone(d.fence), actions: maps.Clone(d.actions), effects: map[*history][]effect{}, settled: map[*history]bool{},
	}
	for _, l := range d.prepared {
		r.prepared = append(r.prepared, *l)
	}
	b := d.w.oracle.booksOf(d)
	r.books = books{d: d, want: maps.Clone(b.want), owner: maps.Clone(b.owner), tags: maps.Clone(b.tags), done: maps.Clone(b.done)}
	for _, h := range d.w.oracle.order {
		r.settled[h] = h.settled[d]
		for _, e := range h.effects {
			if e.db == d {
				r.effects[h] = append(r.effects[h], e)
			}
		}
	}
	return r
}

// failOver has the replica take the place of the server.
func (d *database) failOver(r *replica) {
	if d.fails != r.fails {
		return // it is one of a server that there is no more
	}
	d.fails++
	d.note("fails over", d.w.now-r.at)
	d.w.count("databases failed over")
	for _, l := range slices.Clone(d.open) {
		l.abort()
	}
	for _, l := range slices.Clone(d.prepared) {
		l.ended = true
		l.unlock(0)
	}
	d.unsynced, d.prepared = nil, nil
	d.stop()
	d.w.oracle.failedOver(d, r)
	d.rows, d.tags, d.undo, d.gate, d.fence, d.actions = r.rows, r.tags, r.undo, r.gate, r.fence, r.actions
	for i := range r.prepared {
		l := &r.prepared[i]
		held := l.held
		l.held, l.ended = nil, false
		d.prepared = append(d.prepared, l)
		for _, k := range held {
			l.lock(nil, k, 0)
		}
	}
}

// failedOver puts the books back to what the replica has.
func (o *oracle) failedOver(d *database, r *replica) {
	*o.booksOf(d) = r.books
	for _, h := range o.order {
		last, touched := d.touched[h.id]
		if !touched || last < r.at {
			continue
		}
		h.failed = true
		// What was settled before and is not any more: its coordinator is through with it.
		h.settledLost = h.settledLost || h.settled[d] && !r.settled[h]
		h.settled[d] = r.settled[h]
		h.effects = slices.DeleteFunc(h.effects, func(e effect) bool { return e.db == d })
		h.effects = append(h.effects, r.effects[h]...)
		o.w.count("transactions of which a replica lacks something")
	}
}

// touch notes that something of a transaction changed in the database.
func (d *database) touch(ids ...xid.ID) {
	for _, x := range ids {
		d.touched[x] = d.w.now
	}
}
