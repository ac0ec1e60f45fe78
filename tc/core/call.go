package core

import (
	"fmt"
	"time"

	"github.com/handfast/handfast/xid"
)

// callMargin is how much longer than its timeout a call is waited for: whoever
// makes it should be the first to give up, and say why.
const callMargin = time.Second

// call sends Call for a leg.
func (m *Machine) call(l *leg, b *Branch) {
	a := b.action(l.op())
	p := l.progress()
	p.Next = m.now.Add(orElse(a.Timeout, m.cfg.AnswerTimeout) + callMargin)
	c := Call{
		XID: l.tx.t.XID, Key: l.tx.t.Key, Branch: b.ID, Name: b.Name, Mode: b.Mode,
		Op: b.told(l.op()), Attempt: p.Attempts, Action: a, Own: b.Result,
	}
	for _, id := range b.Plan.After {
		if before := l.tx.t.branch(id); before.Result != nil {
			c.Before = append(c.Before, Result{Name: before.Name, Value: before.Result})
		}
	}
	m.send(l.tx.lsn, c)
}

// startCalls lets go every forward call that can be made now.
func (m *Machine) startCalls(tx *txn) {
	for i := len(tx.calls); i < len(tx.t.Branches); i++ {
		var l *leg
		if tx.t.Branches[i].action(OpForward).Kind != TargetNone {
			l = &leg{tx: tx, forward: true, index: i, state: legBlocked}
		}
		tx.calls = append(tx.calls, l)
	}
	for _, l := range tx.calls {
		if l == nil {
			continue
		}
		switch b := l.branch(); {
		case b.Vote != VoteNone && l.state != legInFlight:
			m.release(l)
			l.state = legDone
		case l.state == legBlocked && tx.t.callable(b):
			m.unblock(l)
		}
	}
}

// endCalls takes back, once decided, what was not called yet. What is under way
// is waited for: its undoing comes after it.
func (m *Machine) endCalls(tx *txn) {
	for _, l := range tx.calls {
		if l != nil && l.state != legInFlight {
			m.release(l)
			l.state = legDone
		}
	}
}

// dropCalls forgets every call of a transaction that is over.
func (m *Machine) dropCalls(tx *txn) {
	for _, l := range tx.calls {
		if l != nil && l.state != legDone {
			r := m.resource(l.lane())
			m.release(l)
			l.state = legDone
			l.progress().Next = time.Time{}
			m.pump(r)
		}
	}
	tx.calls = nil
}

// endCall ends a forward call of a decided transaction, and lets go what waited
// for that.
func (m *Machine) endCall(l *leg) {
	m.release(l)
	l.state = legDone
	l.progress().Next = time.Time{}
	for _, o := range l.tx.behind(l.branch()) {
		if o.state == legBlocked {
			o.behind--
			m.unblock(o)
		}
	}
}

// behind are the calls owed that a forward call under way has to come before: what
// undoes it, or else what undoes the steps that it comes after.
func (tx *txn) behind(b *Branch) (out []*leg) {
	if o := tx.debt(b.ID); o != nil {
		return []*leg{o}
	}
	for _, id := range b.Plan.After {
		if o := tx.debt(id); o != nil {
			out = append(out, o)
		}
	}
	return out
}

// giveUp decides to roll back after too many attempts. The branch has no vote:
// nobody knows whether the last attempt did something, so it is undone, too.
func (m *Machine) giveUp(l *leg, why string) {
	b := l.branch()
	m.release(l)
	l.state = legDone
	l.progress().Next = time.Time{}
	m.decide(l.tx, RolledBack, ReasonVotedNo, fmt.Sprintf("%s failed %d times: %s", b.title(), b.Forward.Failures, why), "")
}

func (m *Machine) called(in Called) {
	tx := m.txs[in.XID]
	if tx == nil || m.quarantined(in.XID) {
		return
	}
	var l *leg
	switch {
	case in.Op == OpForward:
		l = tx.call(in.Branch)
	case tx.t.Outcome == Undecided:
		return
	}
	if l == nil && tx.t.Outcome != Undecided {
		if l = tx.debt(in.Branch); l != nil && l.branch().told(l.op()) != in.Op {
			return
		}
	}
	if l == nil || l.state == legDone || l.state == legBlocked {
		return // doubled or late
	}
	r := m.resource(l.lane())
	current := l.state == legInFlight && l.progress().Attempts == in.Attempt
	switch {
	case in.Verdict != Done && !current, l.forward && tx.t.Outcome != Undecided && !current:
		return // of an attempt that was given up: the one under way may do it yet
	case l.forward:
		m.calledForward(r, l, in)
	default:
		m.calledToSettle(r, l, in)
	}
	m.schedule(tx)
	m.pump(r)
}

func (m *Machine) calledForward(r *resource, l *leg, in Called) {
	tx, b := l.tx, l.branch()
	switch {
	case tx.t.Outcome != Undecided:
		m.endCall(l)
	case in.Verdict == Done, in.Verdict == Failed:
		m.release(l)
		l.state = legDone
		p := l.progress()
		p.Next, p.Attention, p.NotYet = time.Time{}, false, false
		rec := Record{Vote: VoteYes, Text: in.Text, Result: in.Result}
		if in.Verdict == Failed {
			rec.Vote = VoteNo
		}
		m.takeVote(tx, b, rec)
	case in.Verdict == NotYet:
		m.notYet(r, l, in)
	default:
		m.failed(r, l, in.Text, in.NeedsAttention)
	}
}

func (m *Machine) calledToSettle(r *resource, l *leg, in Called) {
	switch in.Verdict {
	case Done:
		rec := Record{Kind: RecordDone, Branch: in.Branch}
		if l.branch().Result == nil && l.op() == OpCommit {
			rec.Result = in.Result
		}
		m.done(l, rec)
	case Failed:
		// The decision stands; whoever refuses it needs a person.
		m.failed(r, l, "refused: "+in.Text, true)
	case NotYet:
		m.notYet(r, l, in)
	case Unsure:
		m.failed(r, l, in.Text, in.NeedsAttention)
	}
}

// notYet asks again later, which is no failed attempt.
func (m *Machine) notYet(r *resource, l *leg, in Called) {
	p := l.progress()
	p.LastError, p.NotYet = "not yet: "+in.Text, true
	since := l.tx.t.Decided
	if l.forward {
		since = l.branch().Registered
	}
	p.Attention = p.Attention || m.now.Sub(since) >= notYetPatience
	retry := l.branch().Plan.Retry
	pause := retry.Poll
	if pause == 0 {
		pause = m.backoff(in.XID, max(p.Attempts-min(p.Failures, p.Attempts), 1), retry)
	}
	m.pause(r, l, pause)
}

// notYetPatience is how long somebody may answer "not yet" before a person should
// look.
const notYetPatience = time.Hour

// call is the forward call of a branch; nil where there is none.
func (tx *txn) call(id xid.BranchID) *leg {
	for _, l := range tx.calls {
		if l != nil && l.tx.t.Branches[l.index].ID == id {
			return l
		}
	}
	return nil
}

// debt is the call that phase two owes a branch; nil where it owes none.
func (tx *txn) debt(id xid.BranchID) *leg {
	for _, l := range tx.legs {
		if l.settlement().Branch == id {
			return l
		}
	}
	return nil
}
