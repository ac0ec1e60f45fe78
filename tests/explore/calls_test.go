package explore

import (
	"slices"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// calls is the model of a sender and of participants whose actions the coordinator
// calls: sagas, TCC and messages. A participant has a fence, which remembers what was
// done under it, and answers a repetition with that.
type calls struct{ *explorer }

func callRules(e *explorer) rules { return &calls{e} }

// What a participant has done.
const (
	eNone   uint8 = iota
	eDone         // forward
	eKept         // confirmed, or delivered
	eUndone       // forward, and then its rollback
	eTomb         // a rollback came first
)

// The sender of a message.
const (
	senderOpen uint8 = iota
	senderCommitted
	senderAborted
)

func action(n byte) core.Action {
	return core.Action{Kind: core.TargetHTTP, Address: "http://participant/", Lane: resourceID(100 + n)}
}

func (s *scene) is(m core.Mode) bool { return s.branches[0].mode == m }

func (r *calls) acts(w *world) {
	switch w.tm[0] {
	case tmIdle:
		r.to(act{k: aBegin}, w, func(n *world) {
			n.begun[0], n.tm[0] = n.inc, tmBegun
			r.input(n, inBegin, event{})
		})
		return
	case tmBegun, tmAskAgain:
		r.manager(w)
		if w.left.deaths > 0 {
			r.fault(act{k: aDeath, br: maxBranches}, w, func(n *world) {
				n.left.deaths--
				n.tm[0] = tmDead
			})
		}
	}
	if w.tm[0] == tmOver && w.left.losses > 0 {
		r.fault(act{k: aReplyLost, m: msg{k: toReply, who: whoSubmit}}, w, func(n *world) {
			n.left.losses--
			n.tm[0] = tmAskAgain
		})
	}
	if w.told[0] == 0 && w.left.operators > 0 {
		r.fault(act{k: aOperator}, w, func(n *world) {
			n.left.operators--
			r.input(n, inOperator, event{})
		})
	}
	if r.scene.is(core.ModeMessage) {
		r.senderActs(w)
	}
}

func (r *calls) manager(w *world) {
	if !r.scene.is(core.ModeTCC) {
		r.to(act{k: aSubmit}, w, func(n *world) {
			n.tm[0] = tmWaits
			r.input(n, inSubmit, event{})
		})
		return
	}
	all := true
	for br := range uint8(len(r.scene.branches)) {
		all = all && w.reg[0][br] == regAcked && w.order[0][br] == 1
		r.try(w, br)
	}
	if all {
		r.to(act{k: aCommit}, w, func(n *world) {
			n.tm[0] = tmWaits
			r.input(n, inCommit, event{})
		})
	}
	if w.tm[0] == tmBegun || w.tm[0] == tmAskAgain {
		r.to(act{k: aRollback}, w, func(n *world) {
			n.tm[0] = tmWaits
			r.input(n, inRollback, event{})
		})
	}
}

// try is what a TM does for a branch of TCC: register, Try, vote, each answered before
// the next. order is whether the vote was.
func (r *calls) try(w *world, br uint8) {
	switch s := w.reg[0][br]; {
	case s == regNone && (br == 0 || w.reg[0][br-1] != regNone), s == regAgain:
		r.to(act{k: aRegister, br: br}, w, func(n *world) {
			n.reg[0][br] = regSent
			r.input(n, inRegister, event{br: br})
		})
	case s == regAcked && (w.effect[br] == eDone || r.scene.planted == plantOpinion) && !w.voted[0][br]:
		r.to(act{k: aVote, br: br}, w, func(n *world) {
			n.voted[0][br] = true
			r.input(n, inVote, event{br: br, a: uint8(core.VoteYes)})
		})
	}
	r.tryArrives(w, br)
}

// tryArrives is the Try itself; it may come as late as it likes.
func (r *calls) tryArrives(w *world, br uint8) {
	if w.reg[0][br] == regAcked && w.effect[br] == eNone {
		r.to(act{k: aTry, br: br}, w, func(n *world) { n.effect[br] = eDone })
	}
}

func (r *calls) senderActs(w *world) {
	if w.sender != senderOpen {
		if !w.voted[0][0] && w.tm[0] == tmOver {
			v := core.VoteYes
			if w.sender == senderAborted {
				v = core.VoteNo
			}
			r.to(act{k: aVote}, w, func(n *world) {
				n.voted[0][0] = true
				r.input(n, inVote, event{a: uint8(v)})
			})
		}
		return
	}
	if w.tm[0] == tmOver && w.reg[0][0] == regAcked { // it has the answer to Prepare
		r.to(act{k: aSenderCommit}, w, func(n *world) { n.sender = senderCommitted })
	}
	r.to(act{k: aSenderAbort}, w, func(n *world) { n.sender = senderAborted })
}

func (r *calls) replied(w *world, m msg) {
	switch m.who {
	case whoSubmit:
		w.tm[0], w.reg[0][0] = tmOver, regAcked
		if m.e != 0 {
			w.reg[0][0] = regRefused
		}
	case whoTM:
		if s := w.tm[0]; s == tmWaits || s == tmAskAgain {
			w.tm[0] = tmOver
		}
	case whoRM:
		w.reg[0][m.br] = regAcked
		if m.e != 0 {
			w.reg[0][m.br] = regRefused
		}
	case whoVote:
		if m.e == 0 && m.o == 0 {
			w.order[0][m.br] = 1
		}
	}
}

func (r *calls) deliver(w *world, m msg, doubled bool) {
	switch {
	case m.k == backCalled:
		r.delivered(w, m, doubled, 0, func(n *world) {
			r.input(n, inCalled, event{br: m.br, a: m.e, b: m.o, c: m.age})
		})
	case m.k == toCall && core.Op(m.e) == core.OpForward:
		r.forward(w, m)
	case m.k == toCall:
		r.delivered(w, m, doubled, 0, func(n *world) {
			r.end(n, m)
			r.answer(n, m, core.Done)
		})
	}
}

// forward is a forward action, or the one action of a branch that has no other.
func (r *calls) forward(w *world, m msg) {
	b := &r.scene.branches[m.br]
	switch {
	case r.scene.is(core.ModeMessage) && m.br == 0:
		r.delivered(w, m, false, 0, func(n *world) { r.answer(n, m, r.checkBack(n)) })
		return
	case b.plan.Forward.Kind == core.TargetNone: // a delivery
		r.delivered(w, m, false, 0, func(n *world) {
			n.effect[m.br] = eKept
			r.answer(n, m, core.Done)
		})
		return
	}
	r.delivered(w, m, false, 0, func(n *world) {
		switch e := &n.effect[m.br]; {
		case *e == eNone, r.scene.planted == plantNoFence && *e != eDone:
			r.order(n, m.br)
			*e = eDone
			r.answer(n, m, core.Done)
		case *e == eDone:
			r.answer(n, m, core.Done)
		default:
			r.answer(n, m, core.Failed)
		}
	})
	if w.effect[m.br] == eNone && w.left.refusals > 0 {
		r.delivered(w, m, false, 1, func(n *world) {
			n.left.refusals--
			r.answer(n, m, core.Failed)
		})
	}
}

// order checks that what a step comes after is done.
func (r *calls) order(w *world, br uint8) {
	for _, id := range r.scene.branches[br].plan.After {
		if w.effect[branchOf(id)] != eDone {
			w.fail("%s is done, and %s, which it comes after, is not", brName(br), brName(branchOf(id)))
		}
	}
}

// checkBack answers what became of the sender's local transaction.
func (r *calls) checkBack(w *world) core.Verdict {
	switch {
	case w.sender == senderCommitted:
		return core.Done
	case w.sender == senderAborted:
		return core.Failed
	case w.tm[0] == tmOver && w.reg[0][0] == regAcked:
		if r.scene.planted == plantSilentSender {
			return core.Failed
		}
		return core.NotYet
	default: // Prepare was never answered, so its fence keeps it from committing
		w.sender = senderAborted
		return core.Failed
	}
}

// end is a commit or rollback action.
func (r *calls) end(w *world, m msg) {
	e := &w.effect[m.br]
	if core.Op(m.e) == core.OpCommit {
		if *e != eDone && *e != eKept {
			w.fail("%s is confirmed, and was not tried", brName(m.br))
		}
		*e = eKept
		return
	}
	switch *e {
	case eKept:
		w.fail("%s is rolled back after it was confirmed", brName(m.br))
	case eDone:
		for later := range uint8(len(r.scene.branches)) {
			if p := r.scene.branches[later].plan; slices.Contains(p.After, branchID(m.br)) && w.effect[later] == eDone {
				w.fail("%s is undone before %s, which came after it", brName(m.br), brName(later))
			}
		}
		*e = eUndone
	case eNone:
		if r.scene.planted != plantNoFence {
			*e = eTomb
		}
	}
}

// answer goes back to whoever called, if that one is still there.
func (r *calls) answer(w *world, m msg, v core.Verdict) {
	if m.age != stale {
		w.put(msg{k: backCalled, br: m.br, o: uint8(v), e: m.e, age: m.age})
	}
}

func (r *calls) crashed(w *world) {
	if w.tm[0] == tmWaits {
		w.tm[0] = tmAskAgain
	}
	for br := range w.reg[0] {
		if w.reg[0][br] == regSent {
			w.reg[0][br] = regAgain
		}
		if r.scene.is(core.ModeTCC) && w.order[0][br] == 0 {
			w.voted[0][br] = false // its answer will not come
		}
	}
}

func (r *calls) tidy(w *world) {
	if w.told[0] != 0 {
		for br := range w.voted[0] {
			w.voted[0][br] = true // another vote changes nothing
		}
	}
	w.net = slices.DeleteFunc(w.net, func(m msg) bool { return r.idle(w, m) })
}

// idle tells whether the arrival of a message changes nothing, now and later.
func (r *calls) idle(w *world, m msg) bool {
	t := r.durable(w, 0)
	over := t.Phase == core.Finished || m.age == stale
	if b := branch(t, branchID(m.br)); b != nil {
		for i := range t.Settlements {
			if s := &t.Settlements[i]; s.Branch == b.ID {
				over = over || s.Done
			}
		}
		if op := core.Op(m.e); op == core.OpForward && b.Plan.Forward.Kind != core.TargetNone {
			over = over || b.Vote != core.VoteNone
		}
	}
	if m.k == backCalled {
		return over || m.age > 0 && core.Verdict(m.o) != core.Done
	}
	if m.k != toCall || !over {
		return false
	}
	e := w.effect[m.br]
	switch {
	case core.Op(m.e) != core.OpForward:
		return e != eNone && e != eDone
	case r.scene.is(core.ModeMessage):
		return m.br == 1 || w.sender != senderOpen
	default:
		return e != eNone && r.scene.planted != plantNoFence
	}
}

func (r *calls) check(w *world) {
	t := r.durable(w, 0)
	r.durably(w, 0)
	if tm := w.tm[0]; len(w.tail) == 0 && tm == tmOver && w.reg[0][0] == regAcked && !t.Submitted && !r.scene.is(core.ModeTCC) {
		w.fail("the submission was answered, and is lost")
	}
	if w.sender == senderCommitted && t.Outcome == core.RolledBack {
		w.fail("the sender has committed, and its message is dropped")
	}
	if t.Outcome == core.Committed && r.scene.is(core.ModeMessage) && w.sender != senderCommitted {
		w.fail("the message goes out, and its sender has not committed")
	}
	for br := range uint8(len(r.scene.branches)) {
		b, e := branch(t, branchID(br)), w.effect[br]
		switch {
		case len(w.tail) == 0 && w.order[0][br] == 1 && (b == nil || b.Vote != core.VoteYes):
			w.fail("the vote of %s was answered, and is lost", brName(br))
		case t.Outcome == core.Committed && (e == eUndone || e == eTomb):
			w.fail("committed, and %s is undone", brName(br))
		case t.Outcome != core.Committed && e == eKept, t.Outcome != core.RolledBack && (e == eUndone || e == eTomb):
			w.fail("%s is ended, and nothing is decided for that", brName(br))
		case t.Phase == core.Finished && t.Outcome == core.RolledBack && e == eDone:
			w.fail("rolled back to the end, and the effect of %s is there", brName(br))
		case t.Phase == core.Finished && t.Outcome == core.Committed && e != r.kept(br):
			w.fail("committed to the end, and the effect of %s is not there", brName(br))
		}
	}
}

// kept is what a committed branch ends as.
func (r *calls) kept(br uint8) uint8 {
	switch p := r.scene.branches[br].plan; {
	case p.Commit.Kind != core.TargetNone:
		return eKept
	case r.scene.is(core.ModeMessage):
		return eNone // the check-back
	default:
		return eDone
	}
}

func (r *calls) over(w *world) bool {
	if s := w.tm[0]; s != tmOver && s != tmDead && s != tmIdle {
		return false
	}
	t := r.ms.folds[r.logged(w)].at(0)
	return t.XID.IsZero() || t.Phase == core.Finished
}

// The plans.
var (
	sagaOfTwo = []branchDef{
		{mode: core.ModeSaga, plan: &core.Plan{Forward: action(1), Rollback: action(2)}},
		{mode: core.ModeSaga, plan: &core.Plan{Forward: action(3), Rollback: action(4), After: []xid.BranchID{branchID(0)}}},
	}
	tccOfTwo = []branchDef{
		{mode: core.ModeTCC, plan: &core.Plan{Commit: action(1), Rollback: action(2)}},
		{mode: core.ModeTCC, plan: &core.Plan{Commit: action(3), Rollback: action(4)}},
	}
	messageWithCheck = []branchDef{
		{mode: core.ModeMessage, plan: &core.Plan{Forward: action(1)}},
		{mode: core.ModeMessage, vote: core.VoteYes, plan: &core.Plan{Commit: action(2)}},
	}
)
