package core

import (
	"fmt"
	"time"
)

func (m *Machine) begin(in Begin) {
	if m.Known(in.XID) {
		m.refuse(in.Ref, 0, &Error{Kind: ErrWrongState, XID: in.XID, Message: fmt.Sprintf("XID %s was begun before", in.XID)})
		return
	}
	if m.open >= m.cfg.MaxOpen {
		m.refuse(in.Ref, 0, &Error{Kind: ErrLimit, XID: in.XID, Message: fmt.Sprintf("too many open transactions (limit %d)", m.cfg.MaxOpen)})
		return
	}
	tx := &txn{t: Transaction{XID: in.XID}}
	m.append(tx, Record{Kind: RecordBegin, Name: in.Name, Parent: in.Parent, Deadline: in.Deadline.Truncate(time.Millisecond)})
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
	if b := tx.t.branch(in.Branch); b != nil {
		if b.Resource != in.Resource || b.Mode != in.Mode {
			m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrBranchConflict, XID: in.XID, Message: fmt.Sprintf(
				"branch %s of %s is registered for resource %s in mode %d, not for %s in mode %d",
				in.Branch, in.XID, b.Resource, b.Mode, in.Resource, in.Mode)})
			return
		}
		m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary()})
		return
	}
	if len(tx.t.Branches) >= m.cfg.MaxBranches {
		m.refuse(in.Ref, tx.lsn, &Error{Kind: ErrLimit, XID: in.XID, Message: fmt.Sprintf(
			"transaction %s has %d branches already (limit)", in.XID, m.cfg.MaxBranches)})
		return
	}
	m.append(tx, Record{Kind: RecordRegister, Branch: in.Branch, Resource: in.Resource, Mode: in.Mode})
	// Forced: a fence row in a database implies a registration that survives.
	m.send(tx.lsn, Reply{Ref: in.Ref, Tx: tx.summary()})
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
	m.takeVote(tx, b, in.Vote, in.Reason)
	need := tx.lsn
	if tx.t.Outcome == Undecided {
		// Not forced: a lost vote is asked for again and answered from the database.
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
		m.takeVote(tx, b, in.Vote, in.Reason)
	}
}

// takeVote counts the first vote of a branch; later ones change nothing.
func (m *Machine) takeVote(tx *txn, b *Branch, v Vote, reason string) {
	if b.Vote != VoteNone || tx.t.Outcome != Undecided {
		return
	}
	m.append(tx, Record{Kind: RecordVote, Branch: b.ID, Vote: v, Text: reason})
	switch {
	case v == VoteNo:
		m.decide(tx, RolledBack, ReasonVotedNo, fmt.Sprintf("branch %s on resource %s voted no: %s", b.ID, b.Resource, reason), "")
	case tx.t.Phase == Collecting && tx.t.allIn():
		// Operator stays empty: whoever asked first only asked.
		m.decide(tx, Committed, ReasonNone, "", "")
	}
}

func (m *Machine) commit(in Commit) {
	tx := m.find(in.Ref, in.XID)
	if tx == nil {
		return
	}
	if tx.t.Outcome == Undecided {
		switch {
		case !m.now.Before(tx.deadline):
			m.decideTimeout(tx)
		case tx.t.allIn():
			m.decide(tx, Committed, ReasonNone, "", in.Operator)
		case tx.t.Phase == Active:
			tx.t.Phase = Collecting
			tx.ask = m.now.Add(m.cfg.CollectGrace)
			m.note(tx)
			m.schedule(tx)
		}
	}
	m.replyWhenDecided(tx, waiter{ref: in.Ref, settled: in.WaitSettled})
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
	m.append(tx, Record{Kind: RecordDecide, Outcome: o, Reason: why, Text: cause, Operator: operator})
	tx.ask = time.Time{}
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
	m.out.Finished = append(m.out.Finished, m.snapshot(tx))
	m.timers.remove(tx)
}

// askVotes asks for every missing vote of a collecting transaction.
func (m *Machine) askVotes(tx *txn) {
	for i := range tx.t.Branches {
		if b := &tx.t.Branches[i]; b.Vote == VoteNone {
			m.send(tx.lsn, AskVote{XID: tx.t.XID, Resource: b.Resource, Branch: b.ID, Mode: b.Mode})
		}
	}
	tx.asked++
	tx.ask = m.now.Add(min(m.cfg.CollectGrace<<min(tx.asked, 10), askMax))
}

// askMax is the longest pause between two questions for a missing vote.
const askMax = 5 * time.Second
