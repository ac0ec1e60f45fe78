package core

import (
	"bytes"
	"container/heap"
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// Machine is the state of one shard. It is not safe for concurrent use.
type Machine struct {
	cfg   Config
	now   time.Time // never goes back
	start time.Time
	lsn   uint64
	watch bool

	txs       map[xid.ID]*txn
	resources map[xid.ResourceID]*resource
	slack     []*resource // that may be empty at the end of the step
	timers    timers
	open      int   // transactions that are not finished
	held      int64 // bytes that they hold; see Transaction.Held
	elsewhere int64 // bytes that those of other machines hold

	out     Output
	changed []*txn // for watchers
	// mayHaveStalled are those that somebody waits for until they stall.
	mayHaveStalled []*txn
	// restored are those that the first Step goes on with: before it nothing may
	// be said or recorded.
	restored []*txn
}

// txn is a transaction and what need not survive a restart.
type txn struct {
	t        Transaction
	lsn      uint64    // the log up to here holds everything t shows
	deadline time.Time // of this run: not before the grace after a restart
	ask      time.Time // when to ask for missing votes next; zero: not collecting
	asked    uint32
	waiters  []waiter
	waits    bool   // it waits for another: its decision is to be told
	legs     []*leg // phase two, one per settlement; nil while undecided
	calls    []*leg // Forward of each branch, once submitted; nil where there is none
	timer    timer
	held     int64 // its share of Machine.held
	noted    bool  // in Machine.changed
	mayStall bool  // in Machine.mayHaveStalled
}

// New makes an empty machine.
func New(cfg Config) *Machine {
	return &Machine{
		cfg:       cfg.withDefaults(),
		txs:       make(map[xid.ID]*txn),
		resources: make(map[xid.ResourceID]*resource),
	}
}

// LSN is the position of the newest record, counted from the machine's start.
func (m *Machine) LSN() uint64 { return m.lsn }

// Open counts the transactions that are not finished.
func (m *Machine) Open() int { return m.open }

// Held is how many bytes the open transactions hold.
func (m *Machine) Held() int64 { return m.held }

// SetElsewhere tells how many bytes the open transactions of other machines hold,
// which share Config.MaxHeld with this one.
func (m *Machine) SetElsewhere(bytes int64) { m.elsewhere = bytes }

// Known tells whether the machine holds the transaction. A finished one has to
// be looked up in the archive and given to Load before a step about it.
func (m *Machine) Known(id xid.ID) bool { return m.txs[id] != nil }

// Look gives a copy of a transaction that the machine holds, as it is now.
func (m *Machine) Look(id xid.ID) (tx Transaction, found bool) {
	if t := m.txs[id]; t != nil {
		return m.snapshot(t), true
	}
	return tx, false
}

// SetWatch switches Changed messages on and off.
func (m *Machine) SetWatch(on bool) { m.watch = on }

// Restore puts an unfinished transaction back at start, before the first Step.
func (m *Machine) Restore(now time.Time, t Transaction) {
	m.advance(now)
	if m.start.IsZero() {
		m.start = m.now
	}
	if t.Phase == Collecting && !t.Submitted {
		t.Phase = Active // its caller has to ask again
	}
	tx := &txn{t: t, deadline: t.Deadline}
	if !t.Deadline.IsZero() {
		tx.deadline = later(t.Deadline, m.start.Add(m.cfg.RestartGrace))
	}
	m.txs[t.XID] = tx
	m.open++
	m.hold(tx, t.Held())                // more than MaxHeld, maybe: it is there, and has to end
	m.restored = append(m.restored, tx) // first: nothing may leave before the first Step
	if t.Outcome != Undecided {
		m.startSettling(tx)
	}
	m.schedule(tx)
}

// Load brings a finished transaction back from the archive for a step.
func (m *Machine) Load(t Transaction) {
	m.txs[t.XID] = &txn{t: t, lsn: m.lsn}
}

// Evict forgets a finished transaction; it is in the archive. Unfinished and
// unknown ones are left alone.
func (m *Machine) Evict(id xid.ID) {
	if tx := m.txs[id]; tx != nil && tx.t.Phase == Finished {
		delete(m.txs, id)
	}
}

// Step takes one input at one moment. The slices of the output are valid until
// the next Step. Time that runs backwards is taken as standing still.
func (m *Machine) Step(now time.Time, in Input) Output {
	m.advance(now)
	m.out.Records = m.out.Records[:0]
	m.out.Finished = m.out.Finished[:0]
	m.out.Messages = m.out.Messages[:0]
	m.out.Parked = m.out.Parked[:0]
	m.goOn()
	switch in := in.(type) {
	case Begin:
		m.begin(in)
	case Register:
		m.register(in)
	case CastVote:
		m.castVote(in)
	case Submit:
		m.submit(in)
	case Called:
		m.called(in)
	case Commit:
		m.commit(in)
	case Rollback:
		m.rollback(in)
	case Get:
		m.get(in)
	case Wait:
		m.wait(in)
	case Cancel:
		m.cancel(in)
	case EndWait:
		m.endWait(in)
	case Waiting:
		m.waiting(in)
	case Break:
		m.breakCycle(in)
	case Settled:
		m.settled(in)
	case Answered:
		m.answered(in)
	case Attached:
		m.attached(in)
	case Detached:
		m.detached(in)
	case RetryNow:
		m.retryNow(in)
	case Abandon:
		m.abandon(in)
	case Horizon:
		m.cfg.Horizon = later(m.cfg.Horizon, in.Time)
	case Quarantine:
		m.quarantine(in)
	case Tick:
		m.tick()
	}
	m.answerStalled()
	m.noteChanges()
	m.dropEmpty()
	m.out.Wake = m.timers.next()
	return m.out
}

// goOn takes up what was restored.
func (m *Machine) goOn() {
	if m.restored == nil {
		return
	}
	all := m.restored
	m.restored = nil
	for _, tx := range all {
		if tx.t.Outcome != Undecided {
			continue
		}
		for i := range tx.t.Branches {
			if b := &tx.t.Branches[i]; b.Vote == VoteNo && tx.t.Outcome == Undecided {
				m.decideNo(tx, b) // the log ended between the vote and this
			}
		}
		m.collect(tx)
		m.schedule(tx)
	}
	for _, r := range m.resourcesInOrder() {
		m.pump(r)
	}
}

// Newest hands out copies of up to limit transactions that match, newest XID
// first, beginning below before; the zero ID: with the newest. match must not
// keep or change what it is given.
func (m *Machine) Newest(before xid.ID, limit int, match func(*Transaction) bool) []Transaction {
	var found newest
	if limit <= 0 {
		return nil
	}
	for id, tx := range m.txs {
		if !before.IsZero() && bytes.Compare(id[:], before[:]) >= 0 {
			continue
		}
		if len(found) == limit && bytes.Compare(id[:], found[0].t.XID[:]) <= 0 {
			continue
		}
		if s := m.visible(tx); match(&s) {
			heap.Push(&found, tx)
			if len(found) > limit {
				heap.Pop(&found)
			}
		}
	}
	out := make([]Transaction, len(found))
	for i := len(found) - 1; i >= 0; i-- {
		out[i] = m.snapshot(heap.Pop(&found).(*txn))
	}
	return out
}

// newest is a heap with the oldest XID on top.
type newest []*txn

func (h newest) Len() int           { return len(h) }
func (h newest) Less(i, j int) bool { return bytes.Compare(h[i].t.XID[:], h[j].t.XID[:]) < 0 }
func (h newest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *newest) Push(x any)        { *h = append(*h, x.(*txn)) }
func (h *newest) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func (m *Machine) advance(now time.Time) {
	m.now = later(m.now, now.Truncate(time.Millisecond))
	if m.start.IsZero() {
		m.start = m.now
	}
}

// append persists one change of tx and makes it.
func (m *Machine) append(tx *txn, r Record) {
	r.XID, r.Seq, r.Time = tx.t.XID, tx.t.Records, m.now
	before := tx.t.weightChangedBy(&r)
	if err := Fold(&tx.t, r); err != nil {
		// Every caller has checked what Fold checks. Going on with a state
		// that a restart would not reproduce is the one thing not to do.
		panic("core: " + err.Error())
	}
	m.hold(tx, tx.t.weightChangedBy(&r)-before)
	m.out.Records = append(m.out.Records, r)
	m.lsn++
	tx.lsn = m.lsn
	m.note(tx)
}

func (m *Machine) send(need uint64, b Body) {
	m.out.Messages = append(m.out.Messages, Message{Need: need, Body: b})
}

func (m *Machine) refuse(ref Ref, need uint64, e *Error) {
	m.send(need, Reply{Ref: ref, Err: e})
}

// note remembers that watchers should hear of tx at the end of the step.
func (m *Machine) note(tx *txn) {
	if m.watch && !tx.noted {
		tx.noted = true
		m.changed = append(m.changed, tx)
	}
}

func (m *Machine) noteChanges() {
	for _, tx := range m.changed {
		tx.noted = false
		m.send(tx.lsn, Changed{Tx: m.snapshot(tx)})
	}
	m.changed = m.changed[:0]
}

// summary is the state without branches and settlements; it costs nothing.
func (tx *txn) summary() Transaction {
	s := tx.t
	s.Branches, s.Settlements = nil, nil
	return s
}

// visible is the state for a look; its slices belong to the machine, so it
// must not be kept or changed.
func (m *Machine) visible(tx *txn) Transaction {
	s := tx.t
	if s.Outcome == Undecided {
		m.lookForwardOf(tx, &s)
		return s
	}
	if s.Phase != Settling {
		return s
	}
	s.Settlements = slices.Clone(s.Settlements)
	for i := range s.Settlements {
		if l := tx.legs[i]; l.state == legReady && !m.reachable(s.Settlements[i].Resource) {
			s.Settlements[i].LastError = noneAttached
			s.Settlements[i].Attention = s.Settlements[i].Attention || m.now.Sub(s.Decided) >= attachPatience
		}
	}
	return s
}

// attachPatience is how long a decided transaction may wait for a resource
// manager to come back before a person should look.
const attachPatience = time.Minute

// snapshot is a copy that the receiver owns.
func (m *Machine) snapshot(tx *txn) Transaction {
	s := m.visible(tx)
	s.Branches = slices.Clone(s.Branches)
	s.Settlements = slices.Clone(s.Settlements)
	return s
}

// lookForwardOf shows what an undecided transaction waits for that nobody counts
// attempts of: a group that is not attached, and votes that do not come.
func (m *Machine) lookForwardOf(tx *txn, s *Transaction) {
	own := false
	at := func(i int, why string) {
		if !own {
			s.Branches, own = slices.Clone(s.Branches), true
		}
		b := &s.Branches[i]
		b.Forward.LastError = why
		b.Forward.Attention = b.Forward.Attention || m.now.Sub(b.Registered) >= attachPatience
	}
	for _, l := range tx.calls {
		if l != nil && l.state == legReady && !m.reachable(l.lane()) {
			at(l.index, noneAttached)
		}
	}
	if s.Phase != Collecting {
		return
	}
	for i := range tx.t.Branches {
		switch b := &tx.t.Branches[i]; {
		case b.Vote != VoteNone:
		case onlyTold(b):
			at(i, "its vote is missing, which only its caller can give")
		case asked(*b):
			at(i, "its vote is missing, and was asked for")
		}
	}
}

const noneAttached = "no resource manager of this resource is attached"

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
