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

// resource is what the machine knows of a database, or of a host that it calls: a
// lane. It is dropped as soon as it says nothing that a new one would not say.
type resource struct {
	id       xid.ResourceID
	attached bool // an RM can be reached
	host     bool // its legs are calls to an address: nobody has to attach
	noted    bool // in Machine.slack
	inFlight int
	// Every leg that is not done is in exactly one list: in ready when a
	// command may go out, in busy when one is out or a pause is running.
	ready, busy list.List
}

// legState is where one leg of phase two stands.
type legState uint8

const (
	legReady    legState = iota // in resource.ready
	legInFlight                 // in resource.busy: the command is out
	legPausing                  // in resource.busy: waits for progress.Next
	legBlocked                  // in no list: something else goes before it
	legDone                     // in no list
)

// leg drives one settlement of one transaction, or the forward call of a branch.
type leg struct {
	tx      *txn
	forward bool
	index   int   // in Settlements, or in Branches
	plan    *Plan // of what phase two calls; nil where resource managers settle
	behind  int   // how many have to be done before; see legBlocked
	delayed bool  // with legPausing: it must not be called before progress.Next
	again   bool  // with legInFlight: without a pause, should this attempt fail
	state   legState
	elem    *list.Element
}

func (l *leg) settlement() *Settlement { return &l.tx.t.Settlements[l.index] }

func (l *leg) progress() *Progress {
	if l.forward {
		return &l.tx.t.Branches[l.index].Forward
	}
	return &l.settlement().Progress
}

// lane is the queue that the leg waits in.
func (l *leg) lane() xid.ResourceID {
	if l.forward {
		return l.tx.t.Branches[l.index].Plan.Forward.Lane
	}
	return l.settlement().Resource
}

// branch is that of a call; nil where resource managers settle.
func (l *leg) branch() *Branch {
	if l.forward {
		return &l.tx.t.Branches[l.index]
	}
	if id := l.settlement().Branch; id != (xid.BranchID{}) {
		return l.tx.t.branch(id)
	}
	return nil
}

func (l *leg) op() Op {
	if l.forward {
		return OpForward
	}
	return l.branch().opAfter(l.tx.t.Outcome)
}

// live tells whether commands can go out.
func (r *resource) live() bool { return r.attached || r.host }

// empty tells whether the lane has nothing to do and nobody to do it. How long to
// pause, and why, is known by the legs.
func (r *resource) empty() bool {
	return !r.attached && r.inFlight == 0 && r.ready.Len() == 0 && r.busy.Len() == 0
}

func (m *Machine) resource(id xid.ResourceID) *resource {
	r := m.resources[id]
	if r == nil {
		r = &resource{id: id}
		m.resources[id] = r
		m.slacken(r)
	}
	return r
}

// reachable tells whether commands to a lane can go out, without making one.
func (m *Machine) reachable(id xid.ResourceID) bool {
	r := m.resources[id]
	return r != nil && r.live()
}

// slacken notes a lane that may be empty at the end of the step. Until then
// whoever has it may still put something into it.
func (m *Machine) slacken(r *resource) {
	if !r.noted && r.empty() {
		r.noted = true
		m.slack = append(m.slack, r)
	}
}

// dropEmpty forgets the lanes that are of no use any more: hosts are as many as
// the callers think of.
func (m *Machine) dropEmpty() {
	for i, r := range m.slack {
		if r.noted = false; r.empty() {
			delete(m.resources, r.id)
		}
		m.slack[i] = nil
	}
	m.slack = m.slack[:0]
}

// startSettling makes every open settlement of a decided transaction due that
// nothing else goes before.
func (m *Machine) startSettling(tx *txn) {
	tx.legs = make([]*leg, len(tx.t.Settlements))
	for i := range tx.legs {
		l := &leg{tx: tx, index: i, state: legBlocked}
		if l.settlement().Done {
			l.state = legDone
		}
		if b := l.branch(); b != nil {
			l.plan = b.Plan
		}
		tx.legs[i] = l
	}
	for _, l := range tx.legs {
		if l.state == legDone || l.plan == nil {
			continue
		}
		for _, o := range tx.legs {
			if o != l && o.state != legDone && o.before(l) {
				l.behind++
			}
		}
	}
	for _, c := range tx.calls {
		if c == nil || c.state != legInFlight {
			continue
		}
		for _, o := range tx.behind(c.branch()) {
			o.behind++ // what undoes it has to come after it
		}
	}
	for _, l := range tx.legs {
		m.unblock(l)
	}
}

// unblock lets a leg go once nothing goes before it any more.
func (m *Machine) unblock(l *leg) {
	if l.state != legBlocked || l.behind > 0 {
		return
	}
	r := m.resource(l.lane())
	if b := l.branch(); b != nil {
		a := b.action(l.op())
		r.host = r.host || a.Kind != TargetHandler
		from := m.now
		switch {
		case !l.forward:
			from = l.tx.t.Decided
		case len(b.Plan.After) == 0:
			from = b.Registered // a restart does not begin it anew
		}
		at := from.Add(a.Delay)
		if l.op() == OpCommit {
			at = later(at, l.tx.t.NotBefore)
		}
		if m.now.Before(at) {
			l.state, l.delayed = legPausing, true
			l.progress().Next = at
			l.elem = r.busy.PushBack(l)
			return
		}
	}
	l.state = legReady
	l.elem = r.ready.PushBack(l)
	m.pump(r)
}

// pump sends commands while the window has room.
func (m *Machine) pump(r *resource) {
	if m.restored != nil {
		return // before the first step
	}
	var held *list.Element // first leg that quarantine holds back
	for r.live() && r.inFlight < m.cfg.Window {
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

// command sends what one leg is about.
func (m *Machine) command(r *resource, l *leg) {
	r.ready.Remove(l.elem)
	l.elem = r.busy.PushBack(l)
	l.state = legInFlight
	r.inFlight++
	p := l.progress()
	p.Attempts++
	p.Last, p.Next = m.now, m.now.Add(m.cfg.AnswerTimeout)
	if b := l.branch(); b != nil {
		m.call(l, b)
	} else {
		m.send(l.tx.lsn, Settle{XID: l.tx.t.XID, Resource: r.id, Outcome: l.tx.t.Outcome, Branches: l.tx.t.settledBy(r.id)})
	}
	m.schedule(l.tx)
}

// settledBy gives the branches that resource managers of the resource settle.
func (t *Transaction) settledBy(r xid.ResourceID) (branches []Branch) {
	for i := range t.Branches {
		if b := &t.Branches[i]; b.Resource == r && b.Plan == nil {
			branches = append(branches, *b)
		}
	}
	return branches
}

// release takes a leg out of whatever list it is in.
func (m *Machine) release(l *leg) {
	if l.elem == nil {
		return // it is in none, so there may be no lane
	}
	r := m.resource(l.lane())
	switch l.state {
	case legReady:
		r.ready.Remove(l.elem)
	case legInFlight:
		r.inFlight--
		r.busy.Remove(l.elem)
	case legPausing:
		r.busy.Remove(l.elem)
	case legBlocked, legDone:
	}
	l.elem = nil
	m.slacken(r)
}

// makeReady moves a leg to the queue of those that may go out.
func (m *Machine) makeReady(r *resource, l *leg) {
	m.release(l)
	l.state, l.delayed, l.again = legReady, false, false
	l.progress().Next = time.Time{}
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
		m.done(l, Record{Kind: RecordDone, Resource: in.Resource})
	default:
		m.failed(r, l, in.Error, in.NeedsAttention)
	}
	m.schedule(tx)
	m.pump(r)
}

// done notes that a leg of phase two is through, and lets go what waited for it.
func (m *Machine) done(l *leg, rec Record) {
	tx := l.tx
	m.release(l)
	l.state = legDone
	m.append(tx, rec)
	l.settlement().Next = time.Time{}
	m.answerWaiters(tx)
	if tx.t.Phase == Finished {
		m.finish(tx)
		return
	}
	for _, o := range tx.legs {
		if o.state == legBlocked && l.before(o) {
			o.behind--
			m.unblock(o)
		}
	}
}

// failed notes a failed attempt and starts a pause.
func (m *Machine) failed(r *resource, l *leg, why string, attention bool) {
	if l.state != legInFlight {
		return // an answer to an attempt that was given up
	}
	var retry Retry
	if b := l.branch(); b != nil {
		retry = b.Plan.Retry
	}
	p := l.progress()
	p.LastError, p.NotYet = why, false
	p.Failures++
	p.Attention = p.Attention || attention || p.Failures >= orElse(retry.Attention, m.cfg.AttentionAfter)
	if l.forward && retry.Attempts > 0 && p.Failures >= retry.Attempts {
		m.giveUp(l, why)
		return
	}
	pause := m.backoff(l.tx.t.XID, p.Failures, retry)
	if attention {
		pause = orElse(retry.Max, m.cfg.RetryMax)
	}
	m.pause(r, l, pause)
}

func (m *Machine) pause(r *resource, l *leg, d time.Duration) {
	m.note(l.tx)
	if l.again {
		// Somebody asked for a new attempt after this one had begun.
		l.again = false
		m.makeReady(r, l)
		m.pump(r)
		return
	}
	m.release(l)
	l.state = legPausing
	l.elem = r.busy.PushBack(l)
	l.progress().Next = m.now.Add(d)
}

func orElse[T uint32 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// backoff grows from the first pause to the longest, and takes between half and
// all of that. The jitter comes from the XID, so a machine stays deterministic.
func (m *Machine) backoff(id xid.ID, attempt uint32, retry Retry) time.Duration {
	d, limit := orElse(retry.First, m.cfg.RetryFirst), orElse(retry.Max, m.cfg.RetryMax)
	percent := time.Duration(orElse(retry.Percent, 200))
	for n := uint32(1); n < attempt && d < limit && percent > 100; n++ {
		d += d * (percent - 100) / 100
	}
	d = min(d, limit)
	h := fnv.New64a()
	h.Write(id[:])
	h.Write(binary.BigEndian.AppendUint32(nil, attempt))
	half := d / 2
	return (half + time.Duration(h.Sum64()%uint64(half+1))).Truncate(time.Millisecond)
}

// dueLegs gives up on late answers and ends pauses.
func (m *Machine) dueLegs(tx *txn) {
	for _, legs := range [][]*leg{tx.calls, tx.legs} {
		for _, l := range legs {
			if l == nil || l.state != legInFlight && l.state != legPausing || m.now.Before(l.progress().Next) {
				continue
			}
			r := m.resource(l.lane())
			switch {
			case l.state == legPausing:
				m.makeReady(r, l)
			case l.forward && tx.t.Outcome != Undecided:
				m.endCall(l) // nobody asks for its answer any more
			default:
				m.failed(r, l, fmt.Sprintf("no answer within %s", l.progress().Next.Sub(l.progress().Last)), false)
			}
			m.pump(r)
		}
	}
}

func (m *Machine) attached(in Attached) {
	r := m.resource(in.Resource)
	r.attached = true
	m.readyAll(r, legPausing)
	m.pump(r)
}

func (m *Machine) detached(in Detached) {
	r := m.resource(in.Resource)
	if in.Others {
		m.settleAgain(r)
		return
	}
	r.attached = false
	m.slacken(r)
	if r.live() {
		return // its calls went to an address, which is still there
	}
	m.readyAll(r, legInFlight)
	m.readyAll(r, legPausing)
	for e := r.ready.Front(); e != nil; e = e.Next() {
		m.mayStall(e.Value.(*leg).tx)
	}
}

// settleAgain sends again what is under way to resource managers, which is no
// trouble to whoever has it already. A call is: it would be made by two at a time.
func (m *Machine) settleAgain(r *resource) {
	for e := r.busy.Front(); e != nil; {
		next := e.Next()
		if l := e.Value.(*leg); l.state == legInFlight && l.branch() == nil {
			m.makeReady(r, l)
			m.schedule(l.tx)
		}
		e = next
	}
	m.pump(r)
}

// readyAll makes every leg in the given state ready, but for delays; and ends forward
// calls of what is decided, since they must not be made any more.
func (m *Machine) readyAll(r *resource, state legState) {
	for e := r.busy.Front(); e != nil; {
		next := e.Next()
		switch l := e.Value.(*leg); {
		case l.state != state || l.delayed:
		case l.forward && l.tx.t.Outcome != Undecided:
			m.endCall(l)
			m.schedule(l.tx)
		default:
			m.makeReady(r, l)
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
	for _, l := range slices.Concat(tx.calls, tx.legs) {
		if l == nil || l.state == legDone || l.state == legBlocked {
			continue
		}
		count++
		r := m.resource(l.lane())
		switch {
		case l.state == legInFlight:
			l.again = true
		case l.state == legPausing && (!l.delayed || in.Delayed):
			m.makeReady(r, l)
		}
		m.pump(r)
	}
	m.schedule(tx)
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary(), Count: count})
}

func (tx *txn) leg(id xid.ResourceID) *leg {
	for _, l := range tx.legs {
		if s := l.settlement(); s.Resource == id && s.Branch == (xid.BranchID{}) {
			return l
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
