package core

import "github.com/handfast/handfast/xid"

// ErrorKind is why the machine refused a request.
type ErrorKind uint8

// The kinds.
const (
	ErrUnknownXID     ErrorKind = iota + 1 // never issued here, or lost before it had a branch
	ErrExpiredXID                          // finished longer ago than outcomes are kept
	ErrForeignStore                        // issued by another store
	ErrQuarantined                         // the store was restored; an operator has to adopt it
	ErrRolledBack                          // decided to roll back
	ErrCommitted                           // decided to commit
	ErrBranchConflict                      // the branch is registered with other values
	ErrUnknownBranch                       // the branch is not registered
	ErrLimit                               // a limit of the coordinator
	ErrWrongState                          // the request does not fit the state
)

// Error is a refused request. It changes nothing.
type Error struct {
	Kind    ErrorKind
	XID     xid.ID
	Message string
	// Reason and Cause say why it was rolled back, for ErrRolledBack.
	Reason Reason
	Cause  string
}

// Error gives the message, which names the XID.
func (e *Error) Error() string { return e.Message }
