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
	resource xid.ResourceID // or until this one is; zero: decided is enough
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
	m.replyWhenDecided(tx, waiter{ref: in.Ref, resource: in.Resource, until: in.Until})
}

// replyWhenDecided answers now or puts the waiter in line.
func (m *Machine) replyWhenDecided(tx *txn, w waiter) {
	if m.satisfied(tx, w) || (!w.until.IsZero() && !m.now.Before(w.until)) {
		m.replyTo(tx, w)
		return
	}
	if len(tx.waiters) >= maxWaiters {
		m.refuse(w.ref, tx.lsn, &Error{Kind: ErrLimit, XID: tx.t.XID, Message: fmt.Sprintf(
			"%d callers wait for %s already (limit)", maxWaiters, tx.t.XID)})
		return
	}
	tx.waiters = append(tx.waiters, w)
	if !w.until.IsZero() {
		m.schedule(tx)
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

// settledIn tells whether nothing is left to settle in the resource. The zero
// resource, and one without a branch, have nothing left once it is decided.
func (m *Machine) settledIn(tx *txn, r xid.ResourceID) bool {
	if tx.t.Outcome == Undecided {
		return false
	}
	s := tx.t.settlement(r)
	return s == nil || s.Done
}

func (m *Machine) replyTo(tx *txn, w waiter) {
	m.send(tx.lsn, Reply{Ref: w.ref, Tx: tx.summary(), Settled: m.settledIn(tx, w.resource)})
}

// answerWaiters answers everybody who has waited for what is now true.
func (m *Machine) answerWaiters(tx *txn) {
	tx.waiters = slices.DeleteFunc(tx.waiters, func(w waiter) bool {
		if !m.satisfied(tx, w) {
			return false
		}
		m.replyTo(tx, w)
		return true
	})
	if len(tx.waiters) == 0 {
		tx.waiters = nil
	}
}

// expireWaiters answers those whose time is up with what is known.
func (m *Machine) expireWaiters(tx *txn) {
	tx.waiters = slices.DeleteFunc(tx.waiters, func(w waiter) bool {
		if w.until.IsZero() || m.now.Before(w.until) {
			return false
		}
		m.replyTo(tx, w)
		return true
	})
}

func (m *Machine) cancel(in Cancel) {
	if tx := m.txs[in.XID]; tx != nil {
		tx.waiters = slices.DeleteFunc(tx.waiters, func(w waiter) bool { return w.ref == in.Ref })
		m.schedule(tx)
	}
}
