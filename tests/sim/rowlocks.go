package sim

import (
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// A local transaction that waits for a holder keeps its other row locks, and those may
// hold up the holder's undo. Postgres sees one half of that circle and the coordinator the
// other. Two bounds end it: settling waits for each lock for a moment only, and says who
// is in its way; and who waits looks whether its own locks are, and gives way.

// mostHeldUp is for how long, in all, the locks of one waiter may hold up settling before
// it gives way. It looks at growing pauses of up to a second, and what it holds up comes and
// goes: who settles waits for half a second, and pauses.
const mostHeldUp = 3 * time.Second

const heldUpEvery = 25 * time.Millisecond

// settlingTook sees an attempt to settle end, which has asked for so many locks.
func (o *oracle) settlingTook(d *database, x xid.ID, took time.Duration, locks int) {
	if most := time.Duration(locks) * settleLockTimeout; took > most+50*time.Millisecond {
		o.w.rule("%s: settling in %s waited for locks for %s, and %d of them may take %s", short(x), d.name, took, locks, most)
	}
}

// watchWaiter sees a local transaction begin to wait for a holder, and adds up for how
// long its locks hold up the settling of that one. over ends it.
func (o *oracle) watchWaiter(l *local, holder xid.ID) (over func()) {
	if l == nil {
		return func() {}
	}
	held, ended := time.Duration(0), false
	var look func()
	look = func() {
		if ended || l.ended {
			return
		}
		if l.blocksSettling(holder) {
			held += heldUpEvery
		}
		if held > mostHeldUp {
			o.w.rule("%s waits for %s, whose settling in %s waits for a row that it has locked, and it does not give way", short(l.x), short(holder), l.d.name)
			return
		}
		o.w.after(heldUpEvery, look)
	}
	o.w.after(heldUpEvery, look)
	return func() { ended = true }
}

// blocksSettling tells whether a lock of l keeps the settling of a transaction waiting.
func (l *local) blocksSettling(x xid.ID) bool {
	return slices.ContainsFunc(l.held, func(k lockKey) bool {
		return slices.ContainsFunc(l.d.locks[k].waiters, func(o waiting) bool { return o.l.x == x && o.l.settles })
	})
}
