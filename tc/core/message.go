package core

import (
	"time"

	"github.com/handfast/handfast/xid"
)

// Ref names whoever waits for a reply. The machine hands it back and never
// looks into it; it must be comparable.
type Ref any

// Input is a command or an event; the types below are all there are.
type Input interface{ input() }

// The inputs.
type (
	// Begin makes a new transaction. The caller made the XID, with the
	// machine's store and incarnation, and never used it before; nor is there
	// another transaction with the same Key, if it has one. A Key is UTF-8.
	Begin struct {
		Ref      Ref
		XID      xid.ID
		Name     string
		Parent   xid.ID
		Deadline time.Time
		Key      string
		Note     []byte // must not be changed afterwards
	}
	// Register adds a branch: Resource, or Plan, or both. Vote may be VoteYes
	// where phase one is over already, or there is none. With Fresh it is refused
	// where there is such a branch already.
	Register struct {
		Ref      Ref
		XID      xid.ID
		Branch   xid.BranchID
		Resource xid.ResourceID
		Mode     Mode
		Name     string
		Plan     *Plan // must not be changed afterwards
		Vote     Vote
		Result   []byte
		Fresh    bool
	}
	// Submit adds branches, all or none, and asks to commit for good: it is
	// answered when that is durable, and nobody needs to ask again. Without a
	// Deadline the transaction has none any more. Repeated with the same
	// branches it changes nothing; with others it is refused.
	Submit struct {
		Ref      Ref
		XID      xid.ID
		Deadline time.Time
		Branches []Register // Ref and XID are not looked at
	}
	// CastVote reports the end of phase one of a branch. With Fresh it is refused
	// where the branch has voted, or the transaction is decided.
	CastVote struct {
		Ref    Ref
		XID    xid.ID
		Branch xid.BranchID
		Vote   Vote
		Reason string
		Result []byte
		Delay  time.Duration // with VoteYes: nothing is committed by a call before; the longest counts
		Fresh  bool
	}
	// Commit asks for the decision to commit.
	Commit struct {
		Ref         Ref
		XID         xid.ID
		WaitSettled bool
		Operator    string // empty: the service that began the transaction
	}
	// Rollback asks for the decision to roll back.
	Rollback struct {
		Ref         Ref
		XID         xid.ID
		Cause       string
		WaitSettled bool
		Operator    string
	}
	// Abandon gives up the calls that are left: they are not made any more, and what
	// those under way answer changes nothing. An undecided transaction is rolled
	// back. What resource managers settle is settled all the same.
	Abandon struct {
		Ref      Ref
		XID      xid.ID
		Cause    string
		Operator string
	}
	// Get asks for the state. An operator may look into a quarantined store;
	// anybody else is refused, for what it says must not be acted on.
	Get struct {
		Ref      Ref
		XID      xid.ID
		Operator bool
	}
	// Wait asks to be told when the transaction is decided and, if Resource is
	// not zero, settled there, or, with Finished, everywhere; at Until at the latest.
	// OrStalled answers also when all there is to do is to wait: for the next attempt
	// of what was tried, or for a resource manager to attach. Those who wait are told
	// in the order of Since.
	Wait struct {
		Ref      Ref
		XID      xid.ID
		Resource xid.ResourceID
		Row      string // what is waited for there; empty: nothing in particular
		Waiter   xid.ID // on whose behalf; zero: nobody's
		Since    time.Time
		Until    time.Time

		Finished  bool
		OrStalled bool
	}
	// EndWait refuses a Wait that is still unanswered.
	EndWait struct {
		Ref Ref
		XID xid.ID
		Err *Error
	}
	// Waiting tells that the transaction waits for another, in whatever shard,
	// so that WaiterDone has to follow its decision.
	Waiting struct{ XID xid.ID }
	// Break decides to roll back a transaction that waits in a cycle.
	Break struct {
		XID   xid.ID
		Cause string
	}
	// Cancel takes back every request of this Ref that is still unanswered.
	// There will be no reply to it.
	Cancel struct {
		Ref Ref
		XID xid.ID
	}
	// Settled is an RM's answer to Settle.
	Settled struct {
		XID      xid.ID
		Resource xid.ResourceID
		Outcome  Outcome
		Done     bool
		Error    string
		// NeedsAttention: trying again will not help by itself.
		NeedsAttention bool
	}
	// Called is the answer to Call.
	Called struct {
		XID     xid.ID
		Branch  xid.BranchID
		Op      Op
		Attempt uint32
		Verdict Verdict
		Text    string // why not, in words
		Result  []byte // of Done
		// NeedsAttention: trying again will not help by itself.
		NeedsAttention bool
	}
	// Answered is an RM's answer to AskVote.
	Answered struct {
		XID    xid.ID
		Branch xid.BranchID
		Vote   Vote
		Reason string
	}
	// Attached tells that at least one RM of the resource can be reached. It
	// may come again, then it makes everything that waits due at once.
	Attached struct{ Resource xid.ResourceID }
	// Detached tells that no RM of the resource can be reached any more; or, with
	// Others, that one of several has gone, and may have taken what it was told to
	// settle along. Its calls are answered by whoever made them.
	Detached struct {
		Resource xid.ResourceID
		Others   bool
	}
	// RetryNow makes every unsettled resource of the transaction due at once; with
	// Delayed also what is to wait before its first call.
	RetryNow struct {
		Ref     Ref
		XID     xid.ID
		Delayed bool
	}
	// Horizon raises Config.Horizon.
	Horizon struct{ Time time.Time }
	// Quarantine changes Config.QuarantineBelow.
	Quarantine struct{ Below uint32 }
	// Tick lets time pass: deadlines, retries, waits.
	Tick struct{}
)

// Message is something that leaves the machine. It must not leave before the
// log is durable up to Need; 0 means it may leave at once.
type Message struct {
	Need uint64
	Body Body
}

// Body is the content of a message; the types below are all there are.
type Body interface{ body() }

// The messages.
type (
	// Reply answers the request that carried Ref: with Err, or with the
	// transaction's state; Branches and Settlements are there for Get, and for Wait
	// with Finished, only. For
	// Wait, Settled tells that the resource asked for is settled, Ahead who
	// was let go for the same row just before, and Count how many were. For
	// RetryNow, Count tells how many were made due, and for Abandon, how many calls
	// were given up.
	Reply struct {
		Ref     Ref
		Tx      Transaction
		Err     *Error
		Settled bool
		Ahead   xid.ID
		Count   int
	}
	// Settle commands an RM of the resource to settle the transaction there.
	Settle struct {
		XID      xid.ID
		Resource xid.ResourceID
		Outcome  Outcome
		Branches []Branch // all of the resource, whatever their vote
	}
	// Call asks for one action of a branch. Before are the results of the
	// branches that it comes after, or of its own Forward in phase two.
	Call struct {
		XID     xid.ID
		Key     string // of the transaction
		Branch  xid.BranchID
		Name    string
		Mode    Mode
		Op      Op
		Attempt uint32
		Action  *Action // belongs to the machine; it never changes
		Before  []Result
		Own     []byte // the branch's own result so far
	}
	// AskVote asks an RM of the resource for a missing vote.
	AskVote struct {
		XID      xid.ID
		Resource xid.ResourceID
		Branch   xid.BranchID
		Mode     Mode
	}
	// WaiterDone tells that a transaction of Waiting can wait no longer, because
	// of Err: it is decided, or not known.
	WaiterDone struct {
		XID xid.ID
		Err *Error
	}
	// Changed tells watchers about a new state. Only sent while Watch is on.
	Changed struct{ Tx Transaction }
)

// Output is what one step asks of its caller: append Records in order and
// archive Finished, in one atomic batch; then release the messages, each when
// the log is durable far enough. Wake is when Step wants a Tick at the
// latest; the zero time: never.
type Output struct {
	Records  []Record
	Finished []Transaction
	Messages []Message
	Parked   []Parked
	Wake     time.Time
}

// Result is what a branch answered.
type Result struct {
	Name  string
	Value []byte
}

// Verdict is how a call ended.
type Verdict uint8

// The verdicts.
const (
	Unsure Verdict = iota // try again: it may have happened, or not
	Done
	NotYet // ask again later; this is no failure
	Failed // for good, and nothing was done
)

// Parked tells of a Wait on behalf of somebody that began to wait or, if Over,
// does not wait any more. It reveals nothing: a caller that keeps account of
// who waits for whom may use it at once.
type Parked struct {
	Ref    Ref
	Waiter xid.ID
	Holder xid.ID
	Over   bool
}

func (Begin) input()      {}
func (Register) input()   {}
func (Submit) input()     {}
func (Called) input()     {}
func (CastVote) input()   {}
func (Commit) input()     {}
func (Rollback) input()   {}
func (Get) input()        {}
func (Wait) input()       {}
func (Cancel) input()     {}
func (EndWait) input()    {}
func (Waiting) input()    {}
func (Break) input()      {}
func (Settled) input()    {}
func (Answered) input()   {}
func (Attached) input()   {}
func (Detached) input()   {}
func (RetryNow) input()   {}
func (Abandon) input()    {}
func (Horizon) input()    {}
func (Quarantine) input() {}
func (Tick) input()       {}

func (Reply) body()      {}
func (Settle) body()     {}
func (AskVote) body()    {}
func (Call) body()       {}
func (WaiterDone) body() {}
func (Changed) body()    {}
