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
// so every command carries the mode, or what the branch's plan says.
const (
	ModeAT  Mode = iota + 1 // the local transaction is committed, its undo rows beside it
	ModeXA                  // the local transaction is prepared
	ModeTCC                 // with a plan, as are those below
	ModeSaga
	ModeMessage
	ModeWorkflow
)

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
	// Key is what whoever began it calls it; empty: nothing. At most one transaction
	// that is kept has it. Note is what that one has to remember; never changed.
	Key  string
	Note []byte

	Phase    Phase
	Outcome  Outcome
	Reason   Reason // why it was rolled back
	Cause    string // the same in words, from whoever asked
	Operator string // who decided by hand; empty otherwise

	Decided  time.Time // zero while undecided
	Finished time.Time // zero until every resource is settled

	// Submitted: commit was asked for, durably. Whoever asked may be gone.
	Submitted bool
	// NotBefore: no Commit action is called before; zero: no limit.
	NotBefore time.Time

	// Records is how many records made this state; the Seq of the next one.
	Records uint32

	Branches    []Branch     // in the order of registration
	Settlements []Settlement // once decided: one per resource, and one per call that is owed
}

// Attention tells whether a person should look at the transaction.
func (t *Transaction) Attention() bool {
	for i := range t.Settlements {
		if t.Settlements[i].Attention && !t.Settlements[i].Done {
			return true
		}
	}
	for i := range t.Branches {
		if t.Outcome == Undecided && t.Branches[i].Forward.Attention && t.Branches[i].Vote == VoteNone {
			return true
		}
	}
	return false
}

// Branch is a part of a global transaction: one local transaction in a database,
// or what its plan says.
type Branch struct {
	ID         xid.BranchID
	Resource   xid.ResourceID // zero where only its plan is called
	Mode       Mode
	Name       string // for people, and for steps that use its result
	Vote       Vote
	VoteReason string // why it voted no
	Registered time.Time
	Plan       *Plan  // nil: resource managers settle it; never changed
	Result     []byte // what Forward, or else Commit, answered; never changed
	Forward    Progress
}

// Progress is how far the attempts at one thing have come. None of it is
// durable: after a restart it starts afresh.
type Progress struct {
	Attempts  uint32
	Failures  uint32 // attempts that failed; to be told "not yet" is no failure
	LastError string
	NotYet    bool      // the last answer was "not yet"
	Last      time.Time // of the last attempt
	Next      time.Time // of the next attempt
	Attention bool
}

// Settlement is phase two in one resource or, where Branch is set, the call that
// is owed to one branch. Only Done and Abandoned are durable.
type Settlement struct {
	Resource  xid.ResourceID // or the lane of the call
	Branch    xid.BranchID
	Done      bool
	Abandoned bool // with Done: an operator gave the call up
	Progress
}

// RecordKind is the kind of a persisted change.
type RecordKind uint8

// The record kinds.
const (
	RecordBegin    RecordKind = iota + 1 // XID, Name, Parent, Deadline, Key, Note
	RecordRegister                       // Branch, Resource, Mode, Name, Plan, Vote (none or yes), Result
	RecordVote                           // Branch, Vote, Text (why no), Result, NotBefore
	RecordDecide                         // Outcome, Reason, Text (cause), Operator, Abandoned
	RecordDone                           // Resource, or Branch and Result, or Abandoned
	RecordSubmit                         // Deadline (zero: none any more)
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
	Plan     *Plan
	Vote     Vote
	Result   []byte
	Outcome  Outcome
	Reason   Reason
	Text     string
	Operator string

	Key       string
	Note      []byte
	NotBefore time.Time // millisecond precision
	Abandoned bool      // of Decide: every call that is owed; of Done: this one
}
