package core

import (
	"time"

	"github.com/handfast/handfast/xid"
)

// Outcome is the decision about a transaction.
type Outcome uint8

// The outcomes. Undecided is the zero value: the absence of a record means
// that nothing was decided, never that it was rolled back.
const (
	Undecided Outcome = iota
	Committed
	RolledBack
)

// Phase is how far a transaction has come.
type Phase uint8

// The phases, in the order in which a transaction passes through them.
const (
	Active     Phase = iota // branches register and vote
	Collecting              // commit was asked for, votes are missing
	Settling                // decided, some resource is not settled
	Finished                // decided, every resource is settled
)

// Vote is how phase one of a branch ended.
type Vote uint8

// The votes. VoteOpen answers a question about a missing vote and is never recorded.
const (
	VoteNone Vote = iota
	VoteYes
	VoteNo
	VoteWithdrawn
	VoteOpen
)

// Mode is how a branch takes part.
type Mode uint8

// The modes. They are one machine: what differs is what an RM does for a branch,
// so every command carries the mode.
const (
	ModeAT Mode = iota + 1 // the local transaction is committed, its undo rows beside it
	ModeXA                 // the local transaction is prepared
)

// Known tells whether the machine knows the mode.
func (m Mode) Known() bool { return m == ModeAT || m == ModeXA }

// Reason says why the decision was to roll back.
type Reason uint8

// The reasons.
const (
	ReasonNone Reason = iota
	ReasonRequested
	ReasonTimeout
	ReasonVotedNo
	ReasonOperator
	ReasonDeadlock
)

// Transaction is the whole state of one global transaction. A value handed
// out by the machine is a copy that the receiver owns.
type Transaction struct {
	XID      xid.ID
	Name     string
	Parent   xid.ID
	Deadline time.Time

	Phase    Phase
	Outcome  Outcome
	Reason   Reason // why it was rolled back
	Cause    string // the same in words, from whoever asked
	Operator string // who decided by hand; empty otherwise

	Decided  time.Time // zero while undecided
	Finished time.Time // zero until every resource is settled

	// Records is how many records made this state; the Seq of the next one.
	Records uint32

	Branches    []Branch     // in the order of registration
	Settlements []Settlement // one per resource with a branch, once decided
}

// Attention tells whether a person should look at the transaction.
func (t *Transaction) Attention() bool {
	for i := range t.Settlements {
		if t.Settlements[i].Attention && !t.Settlements[i].Done {
			return true
		}
	}
	return false
}

// Branch is one local transaction that belongs to a global one.
type Branch struct {
	ID         xid.BranchID
	Resource   xid.ResourceID
	Mode       Mode
	Vote       Vote
	VoteReason string // why it voted no
	Registered time.Time
}

// Settlement is phase two in one resource. Only Done is durable; the rest
// starts afresh after a restart.
type Settlement struct {
	Resource  xid.ResourceID
	Done      bool
	Attempts  uint32
	LastError string
	Last      time.Time // of the last attempt
	Next      time.Time // of the next attempt
	Attention bool
}

// RecordKind is the kind of a persisted change.
type RecordKind uint8

// The record kinds.
const (
	RecordBegin    RecordKind = iota + 1 // XID, Name, Parent, Deadline
	RecordRegister                       // Branch, Resource, Mode
	RecordVote                           // Branch, Vote, Text (why no)
	RecordDecide                         // Outcome, Reason, Text (cause), Operator
	RecordDone                           // Resource
)

// Record is one change to one transaction. Folding the records of a
// transaction in the order of Seq gives its state; see Fold.
type Record struct {
	XID  xid.ID
	Seq  uint32 // 0 for the begin, then counting up without gaps
	Kind RecordKind
	Time time.Time // millisecond precision; never before that of the record before

	Name     string
	Parent   xid.ID
	Deadline time.Time // millisecond precision
	Branch   xid.BranchID
	Resource xid.ResourceID
	Mode     Mode
	Vote     Vote
	Outcome  Outcome
	Reason   Reason
	Text     string
	Operator string
}
