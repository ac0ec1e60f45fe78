package core

import (
	"container/heap"
	"time"
)

// maxDue bounds the work of one Tick; what is left is due at once.
const maxDue = 4096

// timer is the place of a transaction in the heap of wake-ups.
type timer struct {
	at    time.Time
	index int // in the heap, plus 1; 0: not in it
}

// timers orders transactions by when they want to be looked at.
type timers []*txn

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].timer.at.Before(h[j].timer.at) }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer.index, h[j].timer.index = i+1, j+1
}

// Push and Pop implement heap.Interface.
func (h *timers) Push(x any) {
	tx := x.(*txn)
	*h = append(*h, tx)
	tx.timer.index = len(*h)
}

func (h *timers) Pop() any {
	old := *h
	tx := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	tx.timer.index = 0
	return tx
}

func (h timers) next() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].timer.at
}

func (h *timers) remove(tx *txn) {
	if tx.timer.index > 0 {
		heap.Remove(h, tx.timer.index-1)
	}
}

// schedule sets the moment at which tx has to be looked at next. It is called
// whenever one of its legs got further.
func (m *Machine) schedule(tx *txn) {
	m.mayStall(tx)
	at := m.wakeOf(tx)
	// The machine's clock stands on whole milliseconds: a wake-up between two
	// of them would come too early for ever.
	if t := at.Truncate(time.Millisecond); t.Before(at) {
		at = t.Add(time.Millisecond)
	}
	switch {
	case at.IsZero():
		m.timers.remove(tx)
	case tx.timer.index == 0:
		tx.timer.at = at
		heap.Push(&m.timers, tx)
	case !tx.timer.at.Equal(at):
		tx.timer.at = at
		heap.Fix(&m.timers, tx.timer.index-1)
	}
}

func (m *Machine) wakeOf(tx *txn) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range tx.waiters {
		sooner(tx.waiters[i].until)
	}
	if m.quarantined(tx.t.XID) {
		return at
	}
	for _, l := range tx.calls {
		if l != nil && l.state != legDone {
			sooner(l.progress().Next)
		}
	}
	if tx.t.Outcome == Undecided {
		sooner(tx.deadline)
		sooner(tx.ask)
		return at
	}
	for i := range tx.t.Settlements {
		if s := &tx.t.Settlements[i]; !s.Done {
			sooner(s.Next)
		}
	}
	return at
}

func (m *Machine) tick() {
	for range maxDue {
		if len(m.timers) == 0 || m.timers[0].timer.at.After(m.now) {
			return
		}
		m.due(m.timers[0])
	}
}

// due does what its time has come for; it always moves the timer on.
func (m *Machine) due(tx *txn) {
	m.expireWaiters(tx)
	switch {
	case m.quarantined(tx.t.XID):
	case tx.t.Outcome != Undecided:
		m.dueLegs(tx)
	case m.expired(tx):
		m.decideTimeout(tx)
	default:
		m.dueLegs(tx)
		if tx.t.Outcome == Undecided && !tx.ask.IsZero() && !m.now.Before(tx.ask) {
			m.askVotes(tx)
		}
	}
	if tx.t.Phase != Finished {
		m.schedule(tx)
	}
}
