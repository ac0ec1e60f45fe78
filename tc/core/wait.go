package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// waiter is a request that is answered when a transaction gets further.
type waiter struct {
	ref      Ref
	settled  bool           // wait until all resources are settled
	stalled  bool           // or until all that is left is to wait for the next attempt
	whole    bool           // the answer has branches and settlements
	resource xid.ResourceID // or until this one is; zero: decided is enough
	row      string         // what is waited for in the resource
	who      xid.ID         // on whose behalf; zero: nobody's
	since    time.Time      // its place in line
	until    time.Time      // answer at the latest; zero: no limit of its own
}

func (m *Machine) get(in Get) {
	if e := m.misfit(in.XID); e != nil && (!in.Operator || e.Kind != ErrQuarantined || !m.Known(in.XID)) {
		m.refuse(in.Ref, 0, e)
		return
	}
	tx := m.txs[in.XID]
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: m.snapshot(tx)})
}

func (m *Machine) wait(in Wait) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	if in.Since.IsZero() || in.Since.After(m.now) {
		in.Since = m.now
	}
	m.replyWhenDecided(tx, waiter{
		ref: in.Ref, resource: in.Resource, row: in.Row, who: in.Waiter, since: in.Since, until: in.Until,
		settled: in.Finished, stalled: in.OrStalled, whole: in.Finished,
	})
}

// replyWhenDecided answers now or puts the waiter in line.
func (m *Machine) replyWhenDecided(tx *txn, w waiter) {
	if m.satisfied(tx, w) || w.stalled && m.stalled(tx) || (!w.until.IsZero() && !m.now.Before(w.until)) {
		m.replyTo(tx, w, place{})
		return
	}
	if len(tx.waiters) >= maxWaiters {
		m.refuse(w.ref, tx.lsn, &Error{Kind: ErrLimit, XID: tx.t.XID, Message: fmt.Sprintf(
			"%d callers wait for %s already (limit)", maxWaiters, tx.t.XID)})
		return
	}
	if w.since.IsZero() {
		w.since = m.now
	}
	at := len(tx.waiters)
	for at > 0 && tx.waiters[at-1].since.After(w.since) {
		at--
	}
	tx.waiters = slices.Insert(tx.waiters, at, w)
	m.park(tx, w, false)
	if !w.until.IsZero() {
		m.schedule(tx)
	}
}

// park tells of a waiter that comes or goes.
func (m *Machine) park(tx *txn, w waiter, over bool) {
	if !w.who.IsZero() {
		m.out.Parked = append(m.out.Parked, Parked{Ref: w.ref, Waiter: w.who, Holder: tx.t.XID, Over: over})
	}
}

// maxWaiters bounds the callers that wait for one transaction.
const maxWaiters = 10_000

func (m *Machine) satisfied(tx *txn, w waiter) bool {
	switch {
	case tx.t.Outcome == Undecided:
		return false
	case w.settled:
		return tx.t.Phase == Finished
	default:
		return m.settledIn(tx, w.resource)
	}
}

// stalled tells whether all that is left is to wait: for the next attempt of what
// was tried, or for a resource manager to attach. A delay is no reason by itself:
// what it holds up was not tried.
func (m *Machine) stalled(tx *txn) bool {
	stalled := false
	for _, legs := range [][]*leg{tx.calls, tx.legs} {
		for _, l := range legs {
			if l == nil {
				continue
			}
			switch l.state {
			case legInFlight:
				return false
			case legReady:
				if m.reachable(l.lane()) {
					return false
				}
				stalled = true
			case legPausing:
				stalled = stalled || !l.delayed
			case legBlocked, legDone:
			}
		}
	}
	return stalled
}

// mayStall has a look taken, at the end of the step, whether tx is stalled: in the
// middle of it a call may have ended, and the next not have begun.
func (m *Machine) mayStall(tx *txn) {
	if !tx.mayStall && slices.ContainsFunc(tx.waiters, stallWaiter) {
		tx.mayStall = true
		m.mayHaveStalled = append(m.mayHaveStalled, tx)
	}
}

// answerStalled answers those who wait for that, too.
func (m *Machine) answerStalled() {
	for i, tx := range m.mayHaveStalled {
		m.mayHaveStalled[i], tx.mayStall = nil, false
		if m.stalled(tx) {
			m.dropWaiters(tx, stallWaiter, func(w waiter) { m.replyTo(tx, w, place{}) })
			m.schedule(tx)
		}
	}
	m.mayHaveStalled = m.mayHaveStalled[:0]
}

func stallWaiter(w waiter) bool { return w.stalled }

// settledIn tells whether nothing is left to settle in the resource. The zero
// resource, and one without a branch, have nothing left once it is decided.
func (m *Machine) settledIn(tx *txn, r xid.ResourceID) bool {
	if tx.t.Outcome == Undecided {
		return false
	}
	s := tx.t.settlement(r)
	return s == nil || s.Done
}

func (m *Machine) replyTo(tx *txn, w waiter, p place) {
	state := tx.summary()
	if w.whole {
		state = m.snapshot(tx)
	}
	m.send(tx.lsn, Reply{
		Ref: w.ref, Tx: state, Settled: m.settledIn(tx, w.resource), Ahead: p.ahead, Count: p.count,
	})
}

// line is those who wait for one row.
type line struct {
	resource xid.ResourceID
	row      string
}

// place is a place in a line: who is next before it, and how many are.
type place struct {
	ahead xid.ID
	count int
}

// answerWaiters answers everybody who has waited for what is now true, in the
// order in which they began to wait.
func (m *Machine) answerWaiters(tx *txn) {
	var lines map[line]place
	m.dropWaiters(tx, func(w waiter) bool { return m.satisfied(tx, w) }, func(w waiter) {
		if w.row == "" || w.who.IsZero() {
			m.replyTo(tx, w, place{})
			return
		}
		if lines == nil {
			lines = make(map[line]place)
		}
		l := line{w.resource, w.row}
		p := lines[l]
		lines[l] = place{ahead: w.who, count: p.count + 1}
		if p.ahead == w.who {
			p = place{} // nobody waits for itself
		}
		m.replyTo(tx, w, p)
	})
}

// expireWaiters answers those whose time is up with what is known.
func (m *Machine) expireWaiters(tx *txn) {
	m.dropWaiters(tx, func(w waiter) bool { return !w.until.IsZero() && !m.now.Before(w.until) },
		func(w waiter) { m.replyTo(tx, w, place{}) })
}

func (m *Machine) cancel(in Cancel) {
	if tx := m.txs[in.XID]; tx != nil {
		m.dropWaiters(tx, func(w waiter) bool { return w.ref == in.Ref }, func(waiter) {})
		m.schedule(tx)
	}
}

// endWait answers with an error that is durable already.
func (m *Machine) endWait(in EndWait) {
	if tx := m.txs[in.XID]; tx != nil {
		m.dropWaiters(tx, func(w waiter) bool { return w.ref == in.Ref }, func(w waiter) { m.refuse(w.ref, 0, in.Err) })
		m.schedule(tx)
	}
}

// dropWaiters takes waiters out of the line, with a last word to each.
func (m *Machine) dropWaiters(tx *txn, which func(waiter) bool, last func(waiter)) {
	tx.waiters = slices.DeleteFunc(tx.waiters, func(w waiter) bool {
		if !which(w) {
			return false
		}
		m.park(tx, w, true)
		last(w)
		return true
	})
	if len(tx.waiters) == 0 {
		tx.waiters = nil
	}
}

// waiting answers with WaiterDone, now or when the transaction is decided.
func (m *Machine) waiting(in Waiting) {
	if e := m.misfit(in.XID); e != nil {
		m.send(0, WaiterDone{XID: in.XID, Err: e})
		return
	}
	tx := m.txs[in.XID]
	tx.waits = true
	if tx.t.Outcome != Undecided {
		m.send(tx.lsn, WaiterDone{XID: in.XID, Err: decidedError(tx)})
	}
}
