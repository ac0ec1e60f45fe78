package fence

import (
	"errors"
	"fmt"

	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
)

// Action is what a call asks for.
type Action = action.Action

// The actions.
const (
	Forward  = action.Forward  // Try of TCC, a step of a saga, the delivery of a message
	Commit   = action.Commit   // Confirm of TCC
	Rollback = action.Rollback // Cancel of TCC, the compensation of a saga's step
)

// Call is the identity of one action that the coordinator, or somebody in its
// place, calls: the target.Identity of a handler, of a step of a workflow and of a Try.
// Calls with the same XID, Branch and Action are the same call: its effect is made
// once, however often it arrives.
type Call = action.Call

// check tells what is missing of the identity.
func check(c Call) error {
	switch {
	case c.XID.IsZero():
		return fmt.Errorf("%w: it has no XID", ErrMalformed)
	case c.Branch == xid.BranchID{}:
		return fmt.Errorf("%w: it has no branch", ErrMalformed)
	case c.Action < Forward || c.Action > Rollback:
		return fmt.Errorf("%w: it has no action; want Forward, Commit or Rollback", ErrMalformed)
	}
	return nil
}

// Errors for errors.Is. With the first four the action did not run and nothing was
// changed, and trying again does not help; the last three of these are a
// target.ErrAttention, too.
var (
	// ErrLate is a forward action whose branch was rolled back before. It is a
	// target.ErrFailed: answer it with 409 or codes.Aborted.
	ErrLate = fmt.Errorf("the branch was rolled back before, so its forward action must not happen any more: %w", target.ErrFailed)
	// ErrNoForward is a commit whose forward action did not commit in this database: it was
	// not fenced, or happened in another database, or the database lost it.
	ErrNoForward = fmt.Errorf("there is nothing to commit: this database knows of no forward action of the branch: %w", target.ErrAttention)
	// ErrContradicted is a rollback after a commit, or a commit after a rollback. A
	// coordinator never asks for both.
	ErrContradicted = fmt.Errorf("the branch has already ended the other way: %w", target.ErrAttention)
	// ErrForgotten is a call of a transaction so old that the database no longer keeps what
	// happened to it: whether the call is the first can't be told. A person has to look.
	ErrForgotten = fmt.Errorf("the transaction is older than what this database remembers, so nobody knows whether the action has happened: %w", target.ErrAttention)

	// ErrBusy is another call of the same branch that went on for longer than the lock
	// timeout. Trying again helps.
	ErrBusy = errors.New("another call of the same branch is under way")
	// ErrArmed is a local transaction that is a branch of a global transaction in AT mode.
	// It would be undone and compensated.
	ErrArmed = errors.New("a local transaction is either armed for AT or fenced, never both")
	// ErrResultTooLarge is a result of more than MaxResult bytes. The action failed.
	ErrResultTooLarge = errors.New("the result is too large to be remembered")
	// ErrMalformed is a Call without an identity, or headers that give none.
	ErrMalformed = errors.New("malformed call")
	// ErrNoCall is a request without any header of a call: nobody called it as an action.
	ErrNoCall = errors.New("the request is no call of an action")
)
