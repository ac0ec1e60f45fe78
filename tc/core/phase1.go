package core

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/handfast/handfast/xid"
)

func (m *Machine) begin(in Begin) {
	if m.Known(in.XID) {
		m.refuse(in.Ref, 0, &Error{Kind: ErrWrongState, XID: in.XID, Message: fmt.Sprintf("XID %s was begun before", in.XID)})
		return
	}
	if !utf8.ValidString(in.Key) {
		// The log mends broken texts, and would find it by another key.
		m.refuse(in.Ref, 0, &Error{Kind: ErrWrongState, XID: in.XID, Message: fmt.Sprintf("the key %.100q is no UTF-8", in.Key)})
		return
	}
	if m.open >= m.cfg.MaxOpen {
		m.refuse(in.Ref, 0, &Error{Kind: ErrLimit, XID: in.XID, Message: fmt.Sprintf("too many open transactions (limit %d)", m.cfg.MaxOpen)})
		return
	}
	tx := &txn{t: Transaction{XID: in.XID}}
	if e := m.room(tx, in.weight()); e != nil {
		m.refuse(in.Ref, 0, e)
		return
	}
	m.append(tx, Record{
		Kind: RecordBegin, Name: in.Name, Parent: in.Parent, Deadline: in.Deadline.Truncate(time.Millisecond), Key: in.Key, Note: in.Note,
	})
	m.hold(tx, in.weight())
	m.txs[in.XID] = tx
	tx.deadline = tx.t.Deadline
	m.open++
	m.schedule(tx)
	// Not forced: a reply that is lost with the record leaves an XID under
	// which nothing can have been registered.
	m.send(0, Reply{Ref: in.Ref, Tx: tx.summary()})
}

func (m *Machine) register(in Register) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	if tx.t.Outcome != Undecided {
		m.refuse(in.Ref, tx.lsn, decidedError(tx))
		return
	}
	news, e := m.admit(tx, in)
	if e != nil {
		m.refuse(in.Ref, tx.lsn, e)
		return
	}
	if b := tx.t.branch(in.Branch); !news && in.Vote != VoteNone {
		if e := tx.otherVote(b, in.Vote, in.Result); e != nil {
			m.refuse(in.Ref, tx.lsn, e)
			return
		}
		m.takeVote(tx, b, Record{Vote: in.Vote, Result: in.Result})
	}
	if news {
		if e := m.roomFor(tx, in); e != nil {
			m.refuse(in.Ref, tx.lsn, e)
			return
		}
		m.add(tx, in)
		m.collect(tx)
		m.schedule(tx)
	}
	// Forced: a fence row in a database implies a registration that survives.
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary()})
}

// admit tells whether a branch is new, or why it may not be added.
func (m *Machine) admit(tx *txn, in Register) (news bool, e *Error) {
	fail := func(k ErrorKind, format string, args ...any) (bool, *Error) {
		return false, &Error{Kind: k, XID: tx.t.XID, Message: fmt.Sprintf(format, args...)}
	}
	if b := tx.t.branch(in.Branch); b != nil {
		if in.Fresh {
			return fail(ErrBranchConflict, "%s of %s is registered already", b.title(), tx.t.XID)
		}
		if b.Resource != in.Resource || b.Mode != in.Mode {
			return fail(ErrBranchConflict, "branch %s of %s is registered for resource %s in mode %d, not for %s in mode %d",
				in.Branch, tx.t.XID, b.Resource, b.Mode, in.Resource, in.Mode)
		}
		// The archive keeps no payloads: of what is over, names have to do.
		if tx.t.Phase != Finished && !reflect.DeepEqual(b.Plan, in.Plan) || b.Name != in.Name {
			return fail(ErrBranchConflict, "branch %s of %s is registered with other actions", in.Branch, tx.t.XID)
		}
		return false, nil
	}
	if len(tx.t.Branches) >= m.cfg.MaxBranches {
		return fail(ErrLimit, "transaction %s has %d branches already (limit)", tx.t.XID, m.cfg.MaxBranches)
	}
	if in.Plan == nil {
		return true, nil
	}
	planned := 0
	for i := range tx.t.Branches {
		if tx.t.Branches[i].Plan != nil {
			planned++
		}
	}
	if planned >= maxPlanned {
		return fail(ErrLimit, "transaction %s has %d branches with actions already (limit)", tx.t.XID, maxPlanned)
	}
	for _, id := range in.Plan.After {
		if tx.t.branch(id) == nil {
			return fail(ErrUnknownBranch, "branch %s of %s comes after branch %s, which is not registered before it", in.Branch, tx.t.XID, id)
		}
	}
	return true, nil
}

// maxPlanned bounds the branches with a plan: what waits for what among them is
// looked at again whenever one gets further.
const maxPlanned = 256

func (m *Machine) add(tx *txn, in Register) {
	m.append(tx, Record{
		Kind: RecordRegister, Branch: in.Branch, Resource: in.Resource, Mode: in.Mode,
		Name: in.Name, Plan: in.Plan, Vote: in.Vote, Result: in.Result,
	})
}

func (m *Machine) submit(in Submit) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	if tx.t.Outcome != Undecided && !tx.t.Submitted {
		m.refuse(in.Ref, tx.lsn, decidedError(tx))
		return
	}
	for i := range tx.t.Branches {
		// A submission has no deadline: what is missing now would be missing for ever.
		if b := &tx.t.Branches[i]; !tx.t.Submitted && b.Vote == VoteNone && onlyTold(b) {
			m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrWrongState, XID: in.XID, Message: fmt.Sprintf(
				"transaction %s can't be submitted before the vote of %s", in.XID, b.title())})
			return
		}
	}
	var news []Register
	for i, b := range in.Branches {
		isNew, e := m.admitIn(tx, in.Branches[:i], b)
		switch {
		case e != nil:
			m.refuse(in.Ref, tx.lsn, e)
			return
		case isNew && tx.t.Submitted:
			m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrBranchConflict, XID: in.XID, Message: fmt.Sprintf(
				"transaction %s was submitted before, without branch %s", in.XID, b.Branch)})
			return
		case isNew && b.Vote == VoteNone && onlyTold(&Branch{Resource: b.Resource, Plan: b.Plan}):
			m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrWrongState, XID: in.XID, Message: fmt.Sprintf(
				"transaction %s can't be submitted with branch %s, whose vote is missing: nobody can be asked for it", in.XID, b.Branch)})
			return
		case isNew:
			news = append(news, b)
		}
	}
	if e := m.roomFor(tx, news...); e != nil {
		m.refuse(in.Ref, tx.lsn, e)
		return
	}
	if !tx.t.Submitted {
		for _, b := range news {
			m.add(tx, b)
		}
		m.append(tx, Record{Kind: RecordSubmit, Deadline: in.Deadline.Truncate(time.Millisecond)})
		tx.deadline = tx.t.Deadline
		m.collect(tx)
		m.schedule(tx)
	}
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary()})
}

// admitIn is admit for one of several branches that come together.
func (m *Machine) admitIn(tx *txn, earlier []Register, in Register) (bool, *Error) {
	with := txn{t: tx.t}
	with.t.Branches = slices.Clip(tx.t.Branches)
	for _, b := range earlier {
		if with.t.branch(b.Branch) == nil {
			with.t.Branches = append(with.t.Branches, Branch{ID: b.Branch, Resource: b.Resource, Mode: b.Mode, Name: b.Name, Plan: b.Plan})
		}
	}
	isNew, e := m.admit(&with, in)
	return isNew && e == nil, e
}

func (m *Machine) castVote(in CastVote) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	b := tx.t.branch(in.Branch)
	switch {
	case b == nil:
		m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrUnknownBranch, XID: in.XID, Message: fmt.Sprintf("transaction %s has no branch %s", in.XID, in.Branch)})
		return
	case in.Vote != VoteYes && in.Vote != VoteNo && in.Vote != VoteWithdrawn:
		m.refuse(in.Ref, 0, &Error{Kind: ErrWrongState, XID: in.XID, Message: "a vote is yes, no or withdrawn"})
		return
	}
	if in.Fresh && (b.Vote != VoteNone || tx.t.Outcome != Undecided) {
		m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrWrongState, XID: in.XID, Message: fmt.Sprintf("%s of %s has voted, or it is decided without it", b.title(), in.XID)})
		return
	}
	if e := tx.otherVote(b, in.Vote, in.Result); e != nil {
		m.refuse(in.Ref, tx.lsn, e)
		return
	}
	vote := Record{Vote: in.Vote, Text: in.Reason, Result: in.Result}
	if in.Delay > 0 && in.Vote == VoteYes {
		vote.NotBefore = m.now.Add(in.Delay).Truncate(time.Millisecond)
	}
	m.takeVote(tx, b, vote)
	need := tx.lsn
	if tx.t.Outcome == Undecided && !onlyTold(b) && vote.NotBefore.IsZero() {
		// Not forced: a lost vote is asked for again and answered from the database,
		// which knows of no delay.
		need = 0
	}
	m.send(need, Reply{Ref: in.Ref, Tx: tx.summary()})
}

func (m *Machine) answered(in Answered) {
	tx := m.txs[in.XID]
	if tx == nil || m.quarantined(in.XID) {
		return
	}
	if b := tx.t.branch(in.Branch); b != nil && (in.Vote == VoteYes || in.Vote == VoteNo) {
		m.takeVote(tx, b, Record{Vote: in.Vote, Text: in.Reason})
	}
}

// otherVote refuses a vote that says something else than the one that counts, where
// whoever cast it would go on with what nobody remembers: two runs of a step.
func (tx *txn) otherVote(b *Branch, v Vote, result []byte) *Error {
	if !onlyTold(b) || b.Vote == VoteNone || b.Vote == v && bytes.Equal(b.Result, result) {
		return nil
	}
	return &Error{Kind: ErrBranchConflict, XID: tx.t.XID, Message: fmt.Sprintf("%s has voted before, with another vote or result", b.title())}
}

// takeVote counts the first vote of a branch; later ones change nothing.
func (m *Machine) takeVote(tx *txn, b *Branch, vote Record) {
	if b.Vote != VoteNone || tx.t.Outcome != Undecided {
		return
	}
	vote.Kind, vote.Branch = RecordVote, b.ID
	m.append(tx, vote)
	if vote.Vote == VoteNo {
		m.decideNo(tx, b)
		return
	}
	m.collect(tx)
	m.schedule(tx)
}

func (m *Machine) decideNo(tx *txn, b *Branch) {
	m.decide(tx, RolledBack, ReasonVotedNo, fmt.Sprintf("%s voted no: %s", b.title(), b.VoteReason), "")
}

// title is what a person calls a branch.
func (b *Branch) title() string {
	if b.Name != "" {
		return fmt.Sprintf("branch %s (%s)", b.ID, b.Name)
	}
	if b.Plan != nil {
		return fmt.Sprintf("branch %s", b.ID)
	}
	return fmt.Sprintf("branch %s on resource %s", b.ID, b.Resource)
}

func (m *Machine) commit(in Commit) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	if tx.t.Outcome == Undecided {
		switch {
		case m.expired(tx):
			m.decideTimeout(tx)
		case tx.t.allIn():
			m.decide(tx, Committed, ReasonNone, "", in.Operator)
		case tx.t.Phase == Active:
			tx.t.Phase = Collecting
			m.note(tx)
			m.collect(tx)
			m.schedule(tx)
		}
	}
	m.replyWhenDecided(tx, waiter{ref: in.Ref, settled: in.WaitSettled})
}

// expired tells whether the deadline, if there is one, has passed.
func (m *Machine) expired(tx *txn) bool {
	return !tx.deadline.IsZero() && !m.now.Before(tx.deadline)
}

func needsSubmit(tx *txn) bool {
	return !tx.t.Submitted && slices.ContainsFunc(tx.t.Branches, func(b Branch) bool {
		return b.Vote == VoteNone && b.action(OpForward).Kind != TargetNone
	})
}

// collect goes on with what gathers votes: it decides once all are in, and calls
// what can be called now.
func (m *Machine) collect(tx *txn) {
	if tx.t.Phase != Collecting || tx.t.Outcome != Undecided {
		return
	}
	if tx.t.allIn() {
		// Operator stays empty: whoever asked first only asked.
		m.decide(tx, Committed, ReasonNone, "", "")
		return
	}
	if needsSubmit(tx) {
		// Calls are made from here on: a restart has to go on with them.
		m.append(tx, Record{Kind: RecordSubmit, Deadline: tx.t.Deadline})
	}
	if tx.ask.IsZero() && slices.ContainsFunc(tx.t.Branches, asked) {
		tx.ask = m.now.Add(m.cfg.CollectGrace)
	}
	m.startCalls(tx)
}

// asked tells whether a resource manager can tell the missing vote of a branch.
func asked(b Branch) bool {
	return b.Vote == VoteNone && b.Resource != (xid.ResourceID{}) && b.action(OpForward).Kind == TargetNone
}

// onlyTold tells whether nobody can be asked for the vote of a branch: it has no
// database, and nobody is called for it, as in a Try of TCC or a step of a workflow.
// Whoever has told it must be able to rely on it.
func onlyTold(b *Branch) bool {
	return b.Resource == (xid.ResourceID{}) && b.action(OpForward).Kind == TargetNone
}

func (m *Machine) rollback(in Rollback) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	if tx.t.Outcome == Undecided {
		reason := ReasonRequested
		if in.Operator != "" {
			reason = ReasonOperator
		}
		m.decide(tx, RolledBack, reason, in.Cause, in.Operator)
	}
	if tx.t.Outcome == Committed {
		m.refuse(in.Ref, tx.lsn, decidedError(tx))
		return
	}
	m.replyWhenDecided(tx, waiter{ref: in.Ref, settled: in.WaitSettled})
}

// abandon gives up every call that is left.
func (m *Machine) abandon(in Abandon) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	before := tx.t.abandoned()
	switch {
	case tx.t.Outcome == Undecided:
		m.decideAs(tx, Record{Outcome: RolledBack, Reason: ReasonOperator, Text: in.Cause, Operator: in.Operator, Abandoned: true})
	case tx.t.Phase == Settling:
		m.abandonLegs(tx)
	}
	if tx.t.Phase == Settling {
		m.dropCalls(tx) // nothing comes after their answers any more
		m.schedule(tx)
	}
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary(), Count: tx.t.abandoned() - before})
}

func (t *Transaction) abandoned() (n int) {
	for i := range t.Settlements {
		if t.Settlements[i].Abandoned {
			n++
		}
	}
	return n
}

// abandonLegs ends all calls of phase two first, and then lets others go in their
// place: no call of this transaction is let go by the end of another.
func (m *Machine) abandonLegs(tx *txn) {
	var lanes []xid.ResourceID
	for _, l := range tx.legs {
		b := l.branch()
		if b == nil || l.state == legDone {
			continue
		}
		if l.elem != nil {
			lanes = append(lanes, l.lane())
		}
		m.release(l)
		l.state = legDone
		m.append(tx, Record{Kind: RecordDone, Branch: b.ID, Abandoned: true})
		l.settlement().Next = time.Time{}
	}
	m.answerWaiters(tx)
	if tx.t.Phase == Finished {
		m.finish(tx)
	} else {
		m.schedule(tx)
	}
	for _, id := range lanes {
		m.pump(m.resource(id))
	}
}

// breakCycle rolls a waiting transaction back, unless it got away meanwhile.
func (m *Machine) breakCycle(in Break) {
	tx := m.txs[in.XID]
	if tx != nil && tx.t.Outcome == Undecided && !m.quarantined(in.XID) {
		m.decide(tx, RolledBack, ReasonDeadlock, in.Cause, "")
	}
}

func (m *Machine) decideTimeout(tx *txn) {
	m.decide(tx, RolledBack, ReasonTimeout, fmt.Sprintf("deadline %s passed", tx.t.Deadline.UTC().Format(time.RFC3339Nano)), "")
}

// decide makes the one decision. Whatever it releases waits until the decision
// is durable, rollback too: the absence of a record means "undecided".
func (m *Machine) decide(tx *txn, o Outcome, why Reason, cause, operator string) {
	m.decideAs(tx, Record{Outcome: o, Reason: why, Text: cause, Operator: operator})
}

func (m *Machine) decideAs(tx *txn, decision Record) {
	decision.Kind = RecordDecide
	m.append(tx, decision)
	tx.ask = time.Time{}
	m.endCalls(tx)
	if tx.waits || !tx.t.Parent.IsZero() {
		m.send(tx.lsn, WaiterDone{XID: tx.t.XID, Err: decidedError(tx)})
	}
	m.answerWaiters(tx)
	if tx.t.Phase == Finished {
		m.finish(tx)
	} else {
		m.startSettling(tx)
	}
	m.schedule(tx)
}

// finish hands the final state to the archive.
func (m *Machine) finish(tx *txn) {
	m.open--
	m.hold(tx, -tx.held)
	m.dropCalls(tx)
	m.out.Finished = append(m.out.Finished, m.snapshot(tx))
	m.timers.remove(tx)
}

// askVotes asks for every vote that is missing and that a resource manager can
// tell.
func (m *Machine) askVotes(tx *txn) {
	missing := false
	for i := range tx.t.Branches {
		if b := &tx.t.Branches[i]; asked(*b) {
			m.send(tx.lsn, AskVote{XID: tx.t.XID, Resource: b.Resource, Branch: b.ID, Mode: b.Mode})
			missing = true
		}
	}
	if !missing {
		tx.ask = time.Time{} // collect sets it anew where one is registered later
		return
	}
	tx.asked++
	tx.ask = m.now.Add(min(m.cfg.CollectGrace<<min(tx.asked, 10), askMax))
}

// askMax is the longest pause between two questions for a missing vote.
const askMax = 5 * time.Second
