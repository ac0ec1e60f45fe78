package core

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// resource is what the machine knows of a database.
type resource struct {
	id       xid.ResourceID
	live     bool // an RM can be reached
	inFlight int
	// Every leg that is not done is in exactly one list: in ready when a
	// command may go out, in busy when one is out or a pause is running.
	ready, busy list.List
}

// legState is where one leg of phase two stands.
type legState uint8

const (
	legReady    legState = iota // in resource.ready
	legInFlight                 // in resource.busy: an RM has the command
	legPausing                  // in resource.busy: tried, waits for settlement.Next
	legDone                     // in no list
)

// leg drives one settlement of one transaction.
type leg struct {
	tx    *txn
	index int // in Settlements
	state legState
	elem  *list.Element
}

func (l *leg) settlement() *Settlement { return &l.tx.t.Settlements[l.index] }

func (m *Machine) resource(id xid.ResourceID) *resource {
	r := m.resources[id]
	if r == nil {
		r = &resource{id: id}
		m.resources[id] = r
	}
	return r
}

// startSettling makes every open settlement of a decided transaction due.
func (m *Machine) startSettling(tx *txn) {
	tx.legs = make([]leg, len(tx.t.Settlements))
	for i := range tx.legs {
		l := &tx.legs[i]
		l.tx, l.index = tx, i
		if s := l.settlement(); s.Done {
			l.state = legDone
			continue
		}
		r := m.resource(l.settlement().Resource)
		l.elem = r.ready.PushBack(l)
		m.pump(r)
	}
}

// pump sends commands while the window has room.
func (m *Machine) pump(r *resource) {
	var held *list.Element // first leg that quarantine holds back
	for r.live && r.inFlight < m.cfg.Window {
		e := r.ready.Front()
		if e == nil || e == held {
			return
		}
		l := e.Value.(*leg)
		if m.quarantined(l.tx.t.XID) {
			if held == nil {
				held = e
			}
			r.ready.MoveToBack(e)
			continue
		}
		m.command(r, l)
	}
}

// command sends Settle for one leg.
func (m *Machine) command(r *resource, l *leg) {
	r.ready.Remove(l.elem)
	l.elem = r.busy.PushBack(l)
	l.state = legInFlight
	r.inFlight++
	s := l.settlement()
	s.Attempts++
	s.Last, s.Next = m.now, m.now.Add(m.cfg.AnswerTimeout)
	var branches []Branch
	for i := range l.tx.t.Branches {
		if l.tx.t.Branches[i].Resource == r.id {
			branches = append(branches, l.tx.t.Branches[i])
		}
	}
	m.send(l.tx.lsn, Settle{XID: l.tx.t.XID, Resource: r.id, Outcome: l.tx.t.Outcome, Branches: branches})
	m.schedule(l.tx)
}

// release takes a leg out of whatever list it is in.
func (r *resource) release(l *leg) {
	switch l.state {
	case legReady:
		r.ready.Remove(l.elem)
	case legInFlight:
		r.inFlight--
		r.busy.Remove(l.elem)
	case legPausing:
		r.busy.Remove(l.elem)
	case legDone:
	}
	l.elem = nil
}

// makeReady moves a leg to the queue of those that may go out.
func (r *resource) makeReady(l *leg) {
	r.release(l)
	l.state = legReady
	l.settlement().Next = time.Time{}
	l.elem = r.ready.PushBack(l)
}

func (m *Machine) settled(in Settled) {
	tx := m.txs[in.XID]
	if tx == nil || tx.t.Outcome == Undecided || m.quarantined(in.XID) {
		return
	}
	l := tx.leg(in.Resource)
	if l == nil || l.state == legDone {
		return // doubled or late
	}
	r := m.resource(in.Resource)
	switch {
	case in.Outcome != tx.t.Outcome:
		// It speaks of the opposite of the decision, which nothing here ever
		// told anybody to do. That must be seen whatever the leg is at.
		l.settlement().Attention = true
		m.failed(r, l, fmt.Sprintf("answered for outcome %d, decided was %d", in.Outcome, tx.t.Outcome), true)
	case in.Done:
		r.release(l)
		l.state = legDone
		m.append(tx, Record{Kind: RecordDone, Resource: in.Resource})
		l.settlement().Next = time.Time{}
		m.answerWaiters(tx)
		if tx.t.Phase == Finished {
			m.finish(tx)
		}
	default:
		m.failed(r, l, in.Error, in.NeedsAttention)
	}
	m.schedule(tx)
	m.pump(r)
}

// failed notes a failed attempt and starts a pause.
func (m *Machine) failed(r *resource, l *leg, why string, attention bool) {
	if l.state != legInFlight {
		return // an answer to an attempt that was given up
	}
	s := l.settlement()
	s.LastError = why
	s.Attention = s.Attention || attention || s.Attempts >= m.cfg.AttentionAfter
	pause := m.backoff(l.tx.t.XID, s.Attempts)
	if attention {
		pause = m.cfg.RetryMax
	}
	r.release(l)
	l.state = legPausing
	l.elem = r.busy.PushBack(l)
	s.Next = m.now.Add(pause)
	m.note(l.tx)
}

// backoff doubles from RetryFirst to RetryMax and takes between half and all
// of that. The jitter comes from the XID, so a machine stays deterministic.
func (m *Machine) backoff(id xid.ID, attempt uint32) time.Duration {
	d := m.cfg.RetryMax
	if shift := attempt - 1; attempt > 0 && shift < 32 {
		if w := m.cfg.RetryFirst << shift; w > 0 && w < d {
			d = w
		}
	}
	h := fnv.New64a()
	h.Write(id[:])
	h.Write(binary.BigEndian.AppendUint32(nil, attempt))
	half := d / 2
	return (half + time.Duration(h.Sum64()%uint64(half+1))).Truncate(time.Millisecond)
}

// dueLegs gives up on late answers and ends pauses.
func (m *Machine) dueLegs(tx *txn) {
	for i := range tx.legs {
		l := &tx.legs[i]
		s := l.settlement()
		if s.Done || s.Next.IsZero() || m.now.Before(s.Next) {
			continue
		}
		r := m.resource(s.Resource)
		switch l.state {
		case legInFlight:
			m.failed(r, l, fmt.Sprintf("no answer within %s", m.cfg.AnswerTimeout), false)
		case legPausing:
			r.makeReady(l)
		case legReady, legDone:
		}
		m.pump(r)
	}
}

func (m *Machine) attached(in Attached) {
	r := m.resource(in.Resource)
	r.live = true
	m.readyAll(r, legPausing)
	m.pump(r)
}

func (m *Machine) detached(in Detached) {
	r := m.resource(in.Resource)
	r.live = false
	m.readyAll(r, legInFlight)
	m.readyAll(r, legPausing)
}

// readyAll makes every leg in the given state ready.
func (m *Machine) readyAll(r *resource, state legState) {
	for e := r.busy.Front(); e != nil; {
		next := e.Next()
		if l := e.Value.(*leg); l.state == state {
			r.makeReady(l)
			m.schedule(l.tx)
		}
		e = next
	}
}

func (m *Machine) retryNow(in RetryNow) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	count := 0
	for i := range tx.legs {
		l := &tx.legs[i]
		if l.state == legDone {
			continue
		}
		count++
		r := m.resource(l.settlement().Resource)
		if l.state == legPausing {
			r.makeReady(l)
		}
		m.pump(r)
	}
	m.schedule(tx)
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary(), Count: count})
}

func (tx *txn) leg(id xid.ResourceID) *leg {
	for i := range tx.legs {
		if tx.legs[i].settlement().Resource == id {
			return &tx.legs[i]
		}
	}
	return nil
}

// byAge and resourcesInOrder give a fixed order to what maps hold, so that the
// same inputs always give the same outputs.
func (m *Machine) byAge() []*txn {
	all := make([]*txn, 0, len(m.txs))
	for _, tx := range m.txs {
		all = append(all, tx)
	}
	slices.SortFunc(all, func(a, b *txn) int { return bytes.Compare(a.t.XID[:], b.t.XID[:]) })
	return all
}

func (m *Machine) resourcesInOrder() []*resource {
	all := make([]*resource, 0, len(m.resources))
	for _, r := range m.resources {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *resource) int { return bytes.Compare(a.id[:], b.id[:]) })
	return all
}
