package sim

import (
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// A relay reads rows of a protected table and hands on what they say, as one does that
// keeps its messages there. What it has seen it has told others: so it reads committed
// rows, as a view of undolog gives them, and nothing that may be undone.

const relayEvery = 400 * time.Millisecond

// relay looks at one row after another, for as long as the run is busy.
func (d *database) relay() {
	r := stream(d.w.seed, partRelay, uint64(d.node.id))
	var look func()
	look = func() {
		if d.w.calm {
			return
		}
		if d.up {
			key := r.below(accounts)
			seen := d.committed(key)
			if d.w.plant == plantRelayReadsAll {
				seen = d.rows[key]
			}
			d.w.oracle.relayed(d, key, seen)
		}
		d.w.after(r.during(0, relayEvery), look)
	}
	d.w.after(r.during(0, relayEvery), look)
}

// committed is a row of the view <table>_committed: what it was before the first change
// that is not settled.
func (d *database) committed(key int) row {
	if i := slices.IndexFunc(d.undo, func(u undoRow) bool { return u.key == key }); i >= 0 {
		return d.undo[i].before
	}
	return d.rows[key]
}

// relayed sees what a relay reads. A row that a transaction holds is as it was before
// that, or as the transaction has left it where it is committed.
func (o *oracle) relayed(d *database, key int, seen row) {
	b := o.booksOf(d)
	h := o.txs[b.owner[key]]
	if o.accident || h != nil && (h.lost || h.beyond()) {
		return
	}
	want := b.want[key]
	if seen == want && (h == nil || h.decided() == core.Committed) {
		return
	}
	if h != nil {
		o.w.count("rows read by relays that were undecided")
		for i := len(h.effects) - 1; i >= 0; i-- {
			if e := h.effects[i]; e.db == d && e.key == key && e.op == 0 && !h.isXA(e.by.b) && !h.isVouched(e.by) {
				want.n, want.tag = want.n-e.add, e.from
			}
		}
	}
	if seen != want {
		o.w.fail("a relay has read row %s/%d as %v, and it is %v for as long as nothing else is committed", d.name, key, seen, want)
	}
}
