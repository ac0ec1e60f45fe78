package explore

import (
	"fmt"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// inKind is a kind of input of the core.
type inKind uint8

const (
	inBegin inKind = iota
	inRegister
	inSubmit
	inVote
	inCommit
	inRollback
	inOperator
	inBreak
	inGet
	inSettled
	inAnswered
	inCalled
	inAttached
	inDetached
	inShortWait
	inDeadline
	inFlushed // these two are no inputs
	inBoot
)

// asks tells whether the caller of the machine looks into the archive first, as the
// engine does.
func (k inKind) asks() bool {
	switch k { //nolint:exhaustive // the default is for the others
	case inRegister, inSubmit, inVote, inCommit, inRollback, inOperator, inGet:
		return true
	default:
		return false
	}
}

// event is an input, in a form that does not depend on the machine that takes it.
type event struct {
	in          inKind
	tx, inc     uint8 // the transaction, and the incarnation that it was begun in
	br, a, b, c uint8
}

func (e event) xid() xid.ID { return xidOf(e.tx, e.inc) }

// ref is who has asked for what.
type ref struct{ who, tx, br uint8 }

const (
	whoRM uint8 = iota + 1
	whoVote
	whoTM
	whoOperator
	whoJanitor
	whoSubmit
)

func branchID(br uint8) xid.BranchID { return xid.BranchID{0: 0xb, 15: br + 1} }

func resourceID(r uint8) xid.ResourceID { return xid.ResourceID{0: 0xd, 15: r + 1} }

func branchOf(b xid.BranchID) uint8 { return b[15] - 1 }

func resourceOf(r xid.ResourceID) uint8 { return r[15] - 1 }

// input makes the input that an event stands for.
func (s *scene) input(m *core.Machine, now time.Time, e event) core.Input {
	x := e.xid()
	switch e.in { //nolint:exhaustive // the default is for the others
	case inBegin:
		deadline := time.Time{}
		if !s.noDeadline {
			deadline = now.Add(time.Duration(e.tx+1) * unit)
		}
		return core.Begin{Ref: ref{whoTM, e.tx, 0}, XID: x, Deadline: deadline}
	case inRegister:
		r := s.branches[e.br].register(e.br)
		r.Ref, r.XID = ref{whoRM, e.tx, e.br}, x
		return r
	case inSubmit:
		sub := core.Submit{Ref: ref{whoSubmit, e.tx, 0}, XID: x}
		for i := range s.branches {
			sub.Branches = append(sub.Branches, s.branches[i].register(uint8(i)))
		}
		return sub
	case inVote:
		return core.CastVote{Ref: ref{whoVote, e.tx, e.br}, XID: x, Branch: branchID(e.br), Vote: core.Vote(e.a)}
	case inCommit:
		return core.Commit{Ref: ref{whoTM, e.tx, 0}, XID: x, WaitSettled: s.waitSettled}
	case inRollback:
		return core.Rollback{Ref: ref{whoTM, e.tx, 0}, XID: x, WaitSettled: s.waitSettled}
	case inOperator:
		return core.Rollback{Ref: ref{whoOperator, e.tx, 0}, XID: x, Operator: "somebody"}
	case inBreak:
		return core.Break{XID: x, Cause: "a cycle"}
	case inGet:
		return core.Get{Ref: ref{whoJanitor, e.tx, e.br}, XID: x}
	case inSettled:
		return core.Settled{XID: x, Resource: resourceID(e.br), Outcome: core.Outcome(e.a), Done: e.b == 1}
	case inAnswered:
		return core.Answered{XID: x, Branch: branchID(e.br), Vote: core.Vote(e.a)}
	case inCalled:
		return core.Called{
			XID: x, Branch: branchID(e.br), Op: core.Op(e.a), Verdict: core.Verdict(e.b),
			Attempt: attempts(m, x, e.br, core.Op(e.a)) - uint32(e.c),
		}
	case inAttached:
		return core.Attached{Resource: resourceID(e.br)}
	case inDetached:
		return core.Detached{Resource: resourceID(e.br)}
	case inShortWait, inDeadline:
		return core.Tick{}
	default:
		panic(fmt.Sprint("no input: ", e.in))
	}
}

// attempts is how often an action was called in this run.
func attempts(m *core.Machine, x xid.ID, br uint8, op core.Op) uint32 {
	tx, ok := m.Look(x)
	if !ok {
		return 1
	}
	for i := range tx.Branches {
		if b := &tx.Branches[i]; b.ID == branchID(br) && op == core.OpForward && b.Plan.Forward.Kind != core.TargetNone {
			return b.Forward.Attempts
		}
	}
	for i := range tx.Settlements {
		if tx.Settlements[i].Branch == branchID(br) {
			return tx.Settlements[i].Attempts
		}
	}
	return 1
}

// msgKind is a kind of message on the network.
type msgKind uint8

const (
	toReply msgKind = iota
	toTell          // only reveals the outcome
	toSettle
	toAsk
	toCall
	backSettled // those that go back to the coordinator
	backAnswered
	backCalled
)

// msg is a message on the network. The fields that a kind has no use for are zero.
type msg struct {
	k         msgKind
	who       uint8 // of a reply: who has asked
	tx, br    uint8 // br is the resource of Settle and Settled
	o         uint8 // outcome, of Called the verdict, of Answered the vote
	mask, yes uint8 // branches that are listed, and those of them that voted yes
	e         uint8 // error kind of a reply, op of a call
	age       uint8 // of a call: 0 is the newest attempt of its run
}

// message gives what leaves a machine the form that a world keeps. What nobody looks
// at is left out.
func (s *scene) message(b core.Body) (m msg, ok bool, bad string) {
	switch b := b.(type) {
	case core.Reply:
		return s.reply(b)
	case core.Settle:
		m = msg{k: toSettle, tx: txOf(b.XID), br: resourceOf(b.Resource), o: uint8(b.Outcome)}
		m.mask, m.yes = masks(b.Branches, b.Resource)
	case core.AskVote:
		m = msg{k: toAsk, tx: txOf(b.XID), br: branchOf(b.Branch)}
	case core.Call:
		m = msg{k: toCall, tx: txOf(b.XID), br: branchOf(b.Branch), e: uint8(b.Op)}
	case core.WaiterDone:
		m = msg{k: toTell, tx: txOf(b.XID), o: uint8(toldBy(b.Err))}
	default:
		return m, false, fmt.Sprintf("unexpected message %T", b)
	}
	return m, true, ""
}

func (s *scene) reply(b core.Reply) (m msg, ok bool, bad string) {
	r := b.Ref.(ref)
	m = msg{k: toReply, who: r.who, tx: r.tx, br: r.br}
	if b.Err != nil {
		m.e, m.o = uint8(b.Err.Kind), uint8(toldBy(b.Err))
	} else {
		m.o = uint8(b.Tx.Outcome)
	}
	switch r.who {
	case whoJanitor:
		m.mask, m.yes = masks(b.Tx.Branches, resourceID(r.br))
	case whoOperator: // nobody does anything on it
		m = msg{k: toTell, tx: r.tx, o: m.o}
	case whoVote:
		if !s.votesAnswered {
			m = msg{k: toTell, tx: r.tx, o: m.o}
		}
	}
	return m, true, ""
}

func toldBy(e *core.Error) core.Outcome {
	switch {
	case e != nil && e.Kind == core.ErrCommitted:
		return core.Committed
	case e != nil && e.Kind == core.ErrRolledBack:
		return core.RolledBack
	default:
		return core.Undecided
	}
}

func masks(branches []core.Branch, r xid.ResourceID) (mask, yes uint8) {
	for i := range branches {
		if b := &branches[i]; b.Resource == r {
			bit := uint8(1) << branchOf(b.ID)
			mask |= bit
			if b.Vote == core.VoteYes {
				yes |= bit
			}
		}
	}
	return mask, yes
}
