package explore

import (
	"slices"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// at is the model of a TM and of databases whose branches are settled by resource
// managers, as the rules of section 3 of the protocol say.
type at struct{ *explorer }

func atRules(e *explorer) rules { return &at{e} }

// Where a TM stands with one transaction.
const (
	tmIdle     uint8 = iota
	tmBegun          // it has the XID
	tmWaits          // it has asked for an end
	tmAskAgain       // its answer will not come
	tmOver           // it was answered
	tmDead
)

// Where the registration of a branch stands.
const (
	regNone uint8 = iota
	regSent
	regAgain // the answer will not come
	regAcked
	regRefused
)

// Where the local transaction of a branch stands, and its fence row: both are in one
// local transaction, so one value says both.
const (
	lNone      uint8 = iota // no fence
	lOpen                   // fence not committed
	lCommitted              // fence live, intents there
	lAborted                // its own ROLLBACK, no fence: may be withdrawn
	lDead                   // gone, nobody will say so; no fence
	lTomb                   // tombstone
	lKept                   // settled: commit
	lUndone                 // settled: rollback
)

func (r *at) acts(w *world) {
	for tx := range uint8(r.scene.txs) {
		if w.tm[tx] == tmIdle {
			if tx == 0 || w.tm[tx-1] != tmIdle { // they are alike
				r.to(act{k: aBegin, tx: tx}, w, func(n *world) {
					n.begun[tx], n.tm[tx] = n.inc, tmBegun
					r.input(n, inBegin, event{tx: tx})
				})
			}
			continue
		}
		r.manager(w, tx)
		r.repliesLost(w, tx)
		for br := range uint8(len(r.scene.branches)) {
			r.branch(w, tx, br)
		}
	}
}

// manager is the service that began, and others who may end it.
func (r *at) manager(w *world, tx uint8) {
	if s := w.tm[tx]; s == tmBegun || s == tmAskAgain {
		r.to(act{k: aCommit, tx: tx}, w, func(n *world) {
			n.tm[tx] = tmWaits
			r.input(n, inCommit, event{tx: tx})
		})
		r.to(act{k: aRollback, tx: tx}, w, func(n *world) {
			n.tm[tx] = tmWaits
			r.input(n, inRollback, event{tx: tx})
		})
		if w.left.deaths > 0 {
			r.fault(act{k: aDeath, tx: tx, br: maxBranches}, w, func(n *world) {
				n.left.deaths--
				n.tm[tx] = tmDead
			})
		}
	}
	if w.told[tx] != 0 {
		return // it would learn what is decided, and change nothing
	}
	if w.left.operators > 0 {
		r.fault(act{k: aOperator, tx: tx}, w, func(n *world) {
			n.left.operators--
			r.input(n, inOperator, event{tx: tx})
		})
	}
	if w.left.breaks > 0 {
		r.fault(act{k: aBreak, tx: tx}, w, func(n *world) {
			n.left.breaks--
			r.input(n, inBreak, event{tx: tx})
		})
	}
}

// branch is what the service of a branch may do.
func (r *at) branch(w *world, tx, br uint8) {
	alike := br > 0 && !r.scene.sameRow
	if s := w.reg[tx][br]; (s == regNone && (!alike || w.reg[tx][br-1] != regNone)) || s == regAgain {
		r.to(act{k: aRegister, tx: tx, br: br}, w, func(n *world) {
			n.reg[tx][br] = regSent
			r.input(n, inRegister, event{tx: tx, br: br})
		})
	}
	switch w.local[tx][br] {
	case lNone:
		if s := w.reg[tx][br]; s != regNone && s != regRefused && r.free(w, tx, br) {
			r.to(act{k: aOpen, tx: tx, br: br}, w, func(n *world) { n.local[tx][br] = lOpen })
		}
	case lOpen:
		r.open(w, tx, br)
	case lCommitted, lAborted, lKept, lUndone:
		r.vote(w, tx, br)
	}
	if w.local[tx][br] == lCommitted && w.left.janitors > 0 {
		r.fault(act{k: aJanitor, tx: tx, br: r.scene.branches[br].resource}, w, func(n *world) {
			n.left.janitors--
			r.input(n, inGet, event{tx: tx, br: r.scene.branches[br].resource})
		})
	}
}

// repliesLost: an answer did not come, so that its receiver asks again.
func (r *at) repliesLost(w *world, tx uint8) {
	if w.left.losses == 0 {
		return
	}
	if w.tm[tx] == tmOver {
		r.fault(act{k: aReplyLost, m: msg{k: toReply, who: whoTM, tx: tx, o: w.told[tx]}}, w, func(n *world) {
			n.left.losses--
			n.tm[tx] = tmAskAgain
		})
	}
	for br := range uint8(len(r.scene.branches)) {
		if w.reg[tx][br] == regAcked && w.local[tx][br] <= lOpen {
			r.fault(act{k: aReplyLost, m: msg{k: toReply, who: whoRM, tx: tx, br: br}}, w, func(n *world) {
				n.left.losses--
				n.reg[tx][br] = regAgain
			})
		}
	}
}

// free tells whether the guard and the row locks let a branch write: the row is not
// changed by another undecided transaction, nor locked by another local one.
func (r *at) free(w *world, tx, br uint8) bool {
	for t := range uint8(r.scene.txs) {
		for b := range uint8(len(r.scene.branches)) {
			if r.scene.branches[b].resource != r.scene.branches[br].resource || t == tx && b == br {
				continue
			}
			if l := w.local[t][b]; l == lOpen || l == lCommitted && t != tx {
				return false
			}
		}
	}
	return true
}

// open is what becomes of an open local transaction.
func (r *at) open(w *world, tx, br uint8) {
	if s := w.reg[tx][br]; s == regAcked || r.scene.planted == plantEarlyCommit {
		r.to(act{k: aLocalCommit, tx: tx, br: br}, w, func(n *world) {
			n.local[tx][br] = lCommitted
			if r.scene.sameRow {
				n.order[tx][br] = r.next(n, tx)
			}
		})
		if !w.voted[tx][br] && r.scene.planted == plantOpinion {
			r.castVote(w, tx, br, core.VoteYes)
		}
		if !w.voted[tx][br] && r.scene.planted == plantEarlyWithdrawal {
			r.castVote(w, tx, br, core.VoteWithdrawn)
		}
		if w.left.refusals > 0 && !w.voted[tx][br] {
			r.to(act{k: aLocalRefuse, tx: tx, br: br}, w, func(n *world) {
				n.left.refusals--
				n.local[tx][br], n.voted[tx][br] = lTomb, true
				r.input(n, inVote, event{tx: tx, br: br, a: uint8(core.VoteNo)})
			})
		}
		r.to(act{k: aLocalRollback, tx: tx, br: br}, w, func(n *world) { n.local[tx][br] = lAborted })
	}
	if w.left.deaths > 0 {
		r.fault(act{k: aDeath, tx: tx, br: br}, w, func(n *world) {
			n.left.deaths--
			n.local[tx][br] = lDead
		})
	}
}

func (r *at) next(w *world, tx uint8) (n uint8) {
	for _, o := range w.order[tx] {
		n = max(n, o)
	}
	return n + 1
}

func (r *at) vote(w *world, tx, br uint8) {
	if w.voted[tx][br] || w.reg[tx][br] != regAcked {
		return
	}
	v := core.VoteYes
	if w.local[tx][br] == lAborted {
		v = core.VoteWithdrawn
	}
	r.castVote(w, tx, br, v)
	if w.left.losses > 0 {
		r.fault(act{k: aVoteLost, tx: tx, br: br}, w, func(n *world) {
			n.left.losses--
			n.voted[tx][br] = true
		})
	}
}

func (r *at) castVote(w *world, tx, br uint8, v core.Vote) {
	r.to(act{k: aVote, tx: tx, br: br}, w, func(n *world) {
		n.voted[tx][br] = true
		r.input(n, inVote, event{tx: tx, br: br, a: uint8(v)})
	})
	if w.left.doubles > 0 {
		r.fault(act{k: aVote, tx: tx, br: br, doubled: true}, w, func(n *world) {
			n.left.doubles--
			r.input(n, inVote, event{tx: tx, br: br, a: uint8(v)})
		})
	}
}

func (r *at) deliver(w *world, m msg, doubled bool) {
	r.delivered(w, m, doubled, 0, func(n *world) {
		switch m.k { //nolint:exhaustive // the others go elsewhere
		case toSettle:
			ok := r.settle(n, m)
			if m.who == whoJanitor {
				return
			}
			n.put(msg{k: backSettled, tx: m.tx, br: m.br, o: m.o, yes: bit(ok)})
		case toAsk:
			if v := r.ask(n, m.tx, m.br); v != core.VoteOpen {
				n.put(msg{k: backAnswered, tx: m.tx, br: m.br, o: uint8(v)})
			}
		case backSettled:
			r.input(n, inSettled, event{tx: m.tx, br: m.br, a: m.o, b: m.yes})
		case backAnswered:
			r.input(n, inAnswered, event{tx: m.tx, br: m.br, a: m.o})
		}
	})
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func (r *at) replied(w *world, m msg) {
	switch m.who {
	case whoRM:
		if s := w.reg[m.tx][m.br]; s != regSent && s != regAgain {
			return
		}
		w.reg[m.tx][m.br] = regAcked
		if m.e != 0 {
			w.reg[m.tx][m.br] = regRefused
			if w.local[m.tx][m.br] == lOpen {
				w.local[m.tx][m.br] = lDead // its ROLLBACK is nobody's vote
			}
		}
	case whoTM:
		if s := w.tm[m.tx]; s == tmWaits || s == tmAskAgain {
			w.tm[m.tx] = tmOver
		}
	case whoJanitor:
		o := m.o
		if m.e == uint8(core.ErrUnknownXID) && r.scene.planted == plantUnknownUndoes ||
			m.o == 0 && r.scene.planted == plantUndecided {
			o, m.mask = uint8(core.RolledBack), 0xff
		}
		if o != 0 && m.mask != 0 {
			w.put(msg{k: toSettle, who: whoJanitor, tx: m.tx, br: m.br, o: o, mask: m.mask, yes: m.yes})
		}
	}
}

// ask answers for a branch whose vote is missing: rule "ask".
func (r *at) ask(w *world, tx, br uint8) core.Vote {
	switch w.local[tx][br] {
	case lOpen:
		return core.VoteOpen
	case lCommitted, lKept:
		return core.VoteYes
	case lUndone:
		return core.VoteNo
	default:
		w.local[tx][br] = lTomb
		return core.VoteNo
	}
}

// settle is rule "settle": all branches of the transaction in one database, in one local
// transaction. It tells whether it got through.
func (r *at) settle(w *world, m msg) bool {
	if r.scene.planted == plantEarlyDone {
		return true
	}
	local := &w.local[m.tx]
	for br := range uint8(len(r.scene.branches)) {
		if r.scene.branches[br].resource != m.br {
			continue
		}
		listed, yes := m.mask>>br&1 == 1, m.yes>>br&1 == 1
		if m.o == uint8(core.RolledBack) && listed && local[br] == lOpen && r.scene.planted != plantRollbackBeside {
			return false // lock_timeout; nothing is done
		}
		switch l := local[br]; {
		case !listed && (l == lCommitted || l == lKept || l == lUndone):
			w.fail("settling %s: the fence of %s is not in the list", txName(m.tx), brName(br))
		case m.o == uint8(core.Committed) && yes && l != lCommitted && l != lKept:
			w.fail("settling %s: %s voted yes, and has no fence", txName(m.tx), brName(br))
		case m.o == uint8(core.Committed) && l == lUndone, m.o == uint8(core.RolledBack) && l == lKept:
			w.fail("settling %s: %s is settled the other way", txName(m.tx), brName(br))
		}
	}
	if w.bad != "" {
		return false
	}
	for br := range uint8(len(r.scene.branches)) {
		if r.scene.branches[br].resource != m.br || m.mask>>br&1 == 0 {
			continue
		}
		switch l := &local[br]; {
		case *l == lCommitted && m.o == uint8(core.Committed):
			*l = lKept
		case *l == lCommitted:
			*l = lUndone
			if r.scene.sameRow && r.scene.planted == plantByBranch {
				r.fits(w, m.tx, br)
			}
		case (*l == lNone || *l == lAborted || *l == lDead) && m.o == uint8(core.RolledBack):
			*l = lTomb
		}
	}
	return true
}

// fits compares the row with what the branch left there: whoever wrote to it later has
// to be undone before. Settled together, they are undone backwards, which fits.
func (r *at) fits(w *world, tx, br uint8) {
	for b := range uint8(len(r.scene.branches)) {
		if w.local[tx][b] == lCommitted && w.order[tx][b] > w.order[tx][br] {
			w.fail("undo of %s does not fit: %s wrote after it", brName(br), brName(b))
		}
	}
}

// crashed: clients see their session end, and ask again.
func (r *at) crashed(w *world) {
	for tx := range uint8(r.scene.txs) {
		if w.tm[tx] == tmWaits {
			w.tm[tx] = tmAskAgain
		}
		for br := range w.reg[tx] {
			if w.reg[tx][br] == regSent {
				w.reg[tx][br] = regAgain
			}
		}
	}
}

// tidy leaves out differences that nothing can come of any more, so that the states on
// both sides of them are one. Each is a thing that would be done to no effect.
func (r *at) tidy(w *world) {
	for tx := range uint8(r.scene.txs) {
		t := r.durable(w, tx)
		for br := range uint8(len(r.scene.branches)) {
			if b := branch(t, branchID(br)); w.told[tx] != 0 || b != nil && b.Vote != core.VoteNone {
				w.voted[tx][br] = true // another vote changes nothing
			}
			l, g := &w.local[tx][br], &w.reg[tx][br]
			if w.told[tx] != 0 && *l == lNone && (*g == regNone || *g == regAgain) {
				*g = regRefused // as it would be
			}
			if *l == lAborted && w.voted[tx][br] {
				*l = lDead // it will not say more
			}
			if *l != lCommitted {
				w.order[tx][br] = 0
			}
		}
	}
	w.net = slices.DeleteFunc(w.net, func(m msg) bool { return r.idle(w, m) })
}

// idle tells whether the arrival of a message changes nothing, now and later.
func (r *at) idle(w *world, m msg) bool {
	t := r.durable(w, m.tx)
	switch m.k { //nolint:exhaustive // the others go elsewhere
	case backSettled:
		return t.Phase == core.Finished || settledIn(t, m.br)
	case backAnswered:
		return r.answered(t, m.br)
	case toAsk:
		l := w.local[m.tx][m.br]
		return r.answered(t, m.br) && (l == lTomb || l == lCommitted || l == lKept || l == lUndone)
	case toSettle:
		for br := range uint8(len(r.scene.branches)) {
			if l := w.local[m.tx][br]; m.mask>>br&1 == 1 && (l == lOpen || l == lCommitted || m.o == uint8(core.RolledBack) && l < lTomb) {
				return false
			}
		}
		return m.who == whoJanitor || settledIn(t, m.br)
	default:
		return false
	}
}

// answered tells whether no answer about the vote of a branch counts any more.
func (r *at) answered(t *core.Transaction, br uint8) bool {
	b := branch(t, branchID(br))
	return t.Outcome != core.Undecided || b != nil && b.Vote != core.VoteNone
}

func settledIn(t *core.Transaction, resource uint8) bool {
	for i := range t.Settlements {
		if s := &t.Settlements[i]; s.Resource == resourceID(resource) && s.Branch == (xid.BranchID{}) {
			return s.Done
		}
	}
	return false
}

func (r *at) check(w *world) {
	for tx := range uint8(r.scene.txs) {
		t := r.durable(w, tx)
		r.durably(w, tx)
		for br := range uint8(len(r.scene.branches)) {
			r.checkBranch(w, t, tx, br)
		}
	}
}

func (r *at) checkBranch(w *world, t *core.Transaction, tx, br uint8) {
	b, l := branch(t, branchID(br)), w.local[tx][br]
	if w.reg[tx][br] == regAcked && b == nil && len(w.tail) == 0 && r.scene.planted != plantUnknownUndoes {
		w.fail("the registration of %s was answered, and is lost", brName(br))
	}
	if l == lKept && w.told[tx] != uint8(core.Committed) {
		w.fail("%s is kept, but nobody was told that %s is committed", brName(br), txName(tx))
	}
	if l == lUndone && w.told[tx] != uint8(core.RolledBack) {
		w.fail("%s is undone, but nobody was told that %s is rolled back", brName(br), txName(tx))
	}
	if w.told[tx] != uint8(core.Committed) {
		return
	}
	switch {
	case l == lCommitted && b == nil:
		w.fail("%s committed locally, and is no branch of %s, which is committed", brName(br), txName(tx))
	case b != nil && b.Vote == core.VoteYes && l != lCommitted && l != lKept:
		w.fail("%s is committed, and %s, which voted yes, has not committed locally", txName(tx), brName(br))
	case b != nil && b.Vote != core.VoteYes && b.Vote != core.VoteWithdrawn:
		w.fail("%s is committed without the vote of %s", txName(tx), brName(br))
	case b != nil && b.Vote == core.VoteWithdrawn && l == lCommitted:
		w.fail("%s withdrew and has committed locally", brName(br))
	}
}

func (r *at) over(w *world) bool {
	logged := r.logged(w)
	for tx := range uint8(r.scene.txs) {
		if s := w.tm[tx]; s != tmOver && s != tmDead && s != tmIdle {
			return false
		}
		if t := r.ms.folds[logged].at(tx); !t.XID.IsZero() && t.Phase != core.Finished {
			return false
		}
		for _, l := range w.local[tx] {
			if l == lOpen || l == lCommitted {
				return false
			}
		}
	}
	return true
}
