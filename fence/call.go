package fence

import (
	"errors"
	"fmt"

	"github.com/handfast/handfast/xid"
)

// Action is what a call asks for. The zero Action is none.
type Action uint8

// The actions.
const (
	Forward  Action = iota + 1 // Try of TCC, a step of a saga, the delivery of a message
	Commit                     // Confirm of TCC
	Rollback                   // Cancel of TCC, the compensation of a saga's step
)

// String gives the text form: "forward", "commit" or "rollback"; "" for the zero Action.
func (a Action) String() string {
	switch a {
	case Forward:
		return "forward"
	case Commit:
		return "commit"
	case Rollback:
		return "rollback"
	default:
		return ""
	}
}

// ParseAction reads the text form.
func ParseAction(s string) (Action, error) {
	for a := Forward; a <= Rollback; a++ {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("action %.40q: want forward, commit or rollback", s)
}

// Call is the identity of one action that the coordinator, or somebody in its
// place, calls. Calls with the same XID, Branch and Action are the same call: its
// effect is made once, however often it arrives. The values are comparable.
type Call struct {
	XID    xid.ID
	Branch xid.BranchID
	Action Action
	// Attempt counts the times that the call was sent, from 1; 0 where that was not
	// told. It is for logs and is no part of the identity.
	Attempt uint32
}

// Key is the identity as one text, the same for every attempt: 96 to 98 letters,
// digits and hyphens. The header Handfast-Idempotency-Key carries it, for
// participants that keep records of their own.
func (c Call) Key() string {
	return c.XID.String() + "-" + c.Branch.String() + "-" + c.Action.String()
}

// String names the call for logs and errors.
func (c Call) String() string {
	return fmt.Sprintf("%s of branch %s of %s", c.Action, c.Branch, c.XID)
}

// check tells what is missing of the identity.
func (c Call) check() error {
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
// changed, and trying again does not help.
var (
	// ErrLate is a forward action whose branch was rolled back before. Answer it as
	// failed for good, for example with 409 or codes.Aborted.
	ErrLate = errors.New("the branch was rolled back before, so its forward action must not happen any more")
	// ErrNoForward is a commit whose forward action did not commit in this database: it was
	// not fenced, or happened in another database, or the database lost it.
	ErrNoForward = errors.New("there is nothing to commit: this database knows of no forward action of the branch")
	// ErrContradicted is a rollback after a commit, or a commit after a rollback. A
	// coordinator never asks for both.
	ErrContradicted = errors.New("the branch has already ended the other way")
	// ErrForgotten is a call of a transaction so old that the database no longer keeps what
	// happened to it: whether the call is the first can't be told. A person has to look.
	ErrForgotten = errors.New("the transaction is older than what this database remembers, so nobody knows whether the action has happened")

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
