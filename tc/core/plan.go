package core

import (
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// Plan is what the coordinator itself calls for a branch, where no resource
// manager settles it. It is what makes the modes differ:
//
//	            Forward          Commit        Rollback
//	TCC         Try, or none     Confirm       Cancel
//	saga        the step         -             its compensation
//	message     -                delivery      -
//	check-back  ask the sender   -             -
//	workflow    run it           -             -
//	XA of DTM   -                commit        rollback
//
// A machine calls Forward once commit was asked for, and takes the answer as the
// branch's vote.
type Plan struct {
	Forward  Action
	Commit   Action
	Rollback Action
	// After are branches, registered before, that have to be through before:
	// Forward waits for their votes, Commit for theirs to be done, and Rollback for
	// that of all branches that name this one.
	After []xid.BranchID
	// LastFirst: Commit comes before those of After instead, as Rollback does.
	LastFirst bool
	Retry     Retry
}

// Action is one call. The zero Action is none: nothing has to be done.
type Action struct {
	Kind    Target
	Address string // URL, host:port/package.Service/Method, or the name of a handler
	// Lane is the queue that it waits in: the resource whose resource managers
	// have the handler, or what stands for the host.
	Lane    xid.ResourceID
	Group   string // what Lane is made of, where it is a group of services; for people
	Payload []byte
	Header  []Header
	Delay   time.Duration // before the first call, from the moment that it may be made
	Timeout time.Duration // of one call; 0: Config.AnswerTimeout
	Dialect Dialect
	Verb    string // what a dialect calls it, where that is not clear from mode and op
}

// Dialect is how whoever is called is told what for, and how its answer is read.
type Dialect uint8

// The dialects.
const (
	DialectHandfast Dialect = iota
	DialectDTM              // as DTM calls branches, over HTTP or gRPC
	DialectDTMRPC           // as DTM calls them over JSON-RPC
)

// Header goes along with a call.
type Header struct{ Name, Value string }

// Target is the kind of place that an action is called at.
type Target uint8

// The targets.
const (
	TargetNone    Target = iota
	TargetHandler        // a function that a client has attached
	TargetHTTP
	TargetGRPC
)

// Retry says how an action is tried again. Zero fields are the Config's.
type Retry struct {
	First     time.Duration // pause after the first failure
	Max       time.Duration // the longest
	Poll      time.Duration // pause after "not yet"; 0: it grows as after failures
	Percent   uint32        // each pause in percent of the one before; 0: 200
	Attempts  uint32        // of Forward, then it is rolled back; 0: no limit
	Attention uint32        // failed attempts until a person should look
}

// Op is which action of a plan is called.
type Op uint8

// The actions.
const (
	OpForward Op = iota + 1
	OpCommit
	OpRollback
)

// action gives the action for an op; the zero Action where there is none.
func (b *Branch) action(op Op) *Action {
	var none Action
	if b.Plan == nil {
		return &none
	}
	switch op {
	case OpForward:
		return &b.Plan.Forward
	case OpCommit:
		return &b.Plan.Commit
	case OpRollback:
		return &b.Plan.Rollback
	}
	return &none
}

// told is what whoever is called is told to do. A delivery, and a step after the
// pivot, are called after the decision, and are all that is ever called for the
// branch: it is their doing, and not the confirmation of something done before.
func (b *Branch) told(op Op) Op {
	if op == OpCommit && (b.Mode == ModeMessage || b.Mode == ModeSaga) && b.action(OpForward).Kind == TargetNone {
		return OpForward
	}
	return op
}

// opAfter is what an outcome asks of a branch. What withdrew is undone whatever the
// outcome: that it had no effect is what one answer said, and another copy of the
// request, or another run of a workflow, may have had it, or have it yet.
func (b *Branch) opAfter(o Outcome) Op {
	if o == Committed && b.Vote != VoteWithdrawn {
		return OpCommit
	}
	return OpRollback
}

// Calls is which action a settlement is the call of; only of one with a Branch.
func (t *Transaction) Calls(s *Settlement) Op {
	if b := t.branch(s.Branch); b != nil {
		return b.opAfter(t.Outcome)
	}
	return 0
}

// owes tells whether an outcome leaves something to be called for the branch. Of what
// may have begun, only what was never called surely had no effect: because nothing was
// submitted, or because what it comes after was not through. A refusal is no proof; see
// opAfter.
func (t *Transaction) owes(b *Branch, o Outcome) bool {
	op := b.opAfter(o)
	switch {
	case b.action(op).Kind == TargetNone:
		return false
	case op == OpCommit, b.Vote != VoteNone, b.Plan.Forward.Kind == TargetNone:
		return true
	default:
		return t.Submitted && t.callable(b)
	}
}

// callable tells whether everything that a branch comes after is through.
func (t *Transaction) callable(b *Branch) bool {
	for _, id := range b.Plan.After {
		if a := t.branch(id); a == nil || (a.Vote != VoteYes && a.Vote != VoteWithdrawn) {
			return false
		}
	}
	return true
}

// before tells whether leg a of phase two has to be done before b is called. What
// resource managers settle goes before every call: a call may well write to rows
// that the transaction itself still holds.
func (a *leg) before(b *leg) bool {
	switch {
	case a.plan == nil:
		return true
	case b.plan == nil, a.op() != b.op():
		return false
	// Only of the two that names the other says how: were the other asked, each
	// could have to wait for the other.
	case slices.Contains(a.plan.After, b.settlement().Branch):
		return a.op() == OpRollback || a.plan.LastFirst
	default:
		return a.op() == OpCommit && !b.plan.LastFirst && slices.Contains(b.plan.After, a.settlement().Branch)
	}
}
