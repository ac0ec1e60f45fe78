package tm

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// The outcomes that are not success, for errors.Is.
var (
	// ErrRolledBack: the decision was to roll back. See RolledBackError.
	ErrRolledBack = errors.New("rolled back")
	// ErrTimedOut: rolled back because the deadline passed.
	ErrTimedOut = errors.New("timed out")
	// ErrRollbackPending: fn failed, and the coordinator could not be told. See
	// RollbackPendingError.
	ErrRollbackPending = errors.New("rollback could not be delivered")
	// ErrOutcomeUnknown: Commit was sent and its answer was lost. See
	// OutcomeUnknownError.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrLockConflict: a row was held by another transaction. See
	// LockConflictError.
	ErrLockConflict = errors.New("lock conflict")
	// ErrDeadlock: transactions waited for each other, and this one was rolled
	// back to let the others go on. The error names them. Running fn again, in
	// a new transaction, is the way to go on.
	ErrDeadlock = errors.New("deadlock")
	// ErrNotSettled: decided, but phase two was not awaited to its end, as
	// WithWaitSettled asks for. See NotSettledError, which has the decision.
	ErrNotSettled = errors.New("not settled yet")
	// ErrCommitted: fn failed, but the decision had been to commit. See
	// CommittedError.
	ErrCommitted = errors.New("committed")
)

// RolledBackError is a transaction that was rolled back. It Is ErrRolledBack,
// and ErrTimedOut or ErrDeadlock where that was the reason.
type RolledBackError struct {
	XID    xid.ID
	Reason pb.RollbackReason
	// Cause is the error of fn; where fn had none, what the coordinator said.
	Cause error
	// Decision is what the coordinator recorded as the cause, where the
	// decision was not made because fn failed. For a deadlock it names the cycle.
	Decision string
	// Conflict is the lock conflict in Cause, nil where there is none.
	Conflict *LockConflictError
	// NotSettled is why the rollback was not awaited to its end; nil where it was,
	// and where WithWaitSettled did not ask for that.
	NotSettled *NotSettledError
}

// Error names the transaction, the reason and the cause, each once.
func (e *RolledBackError) Error() string {
	why, decision, cause := reasonName(e.Reason), e.Decision, suffix(e.Cause)
	if told, ok := e.toldBy(); ok {
		decision, cause = told, ""
	}
	if who, reason, ok := votedNo(decision); ok {
		why, decision = who+" voted no", reason
	}
	switch {
	case decision == "" || strings.Contains(cause, decision):
	case cause == "":
		cause = ": " + decision
	default:
		why += ": " + decision
	}
	text := fmt.Sprintf("transaction %s: rolled back (%s)%s", e.XID, why, cause)
	if e.NotSettled != nil {
		text += "; not settled everywhere yet" + suffix(e.NotSettled.Err)
	}
	return text
}

// toldBy gives what the coordinator recorded, where Cause is nothing but its word
// that it rolled back.
func (e *RolledBackError) toldBy() (decision string, ok bool) {
	c, ok := e.Cause.(*client.Error) //nolint:errorlint // an error that has it inside says more
	if !ok || c.Reason != pb.ErrorReason_ERROR_REASON_ROLLED_BACK {
		return "", false
	}
	decision = c.Metadata["cause"]
	return decision, decision != "" || c.Message == reasonName(e.Reason)
}

// votedNoForm is how the coordinator records the no of a branch that has a name: with
// its id, which says nothing to people who know the name.
var votedNoForm = regexp.MustCompile(`(?s)^branch [0-9a-f]{32} \(([A-Za-z0-9_-]+)\) voted no: (.*)$`)

func votedNo(decision string) (who, reason string, ok bool) {
	m := votedNoForm.FindStringSubmatch(decision)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// Is matches ErrRolledBack, ErrTimedOut where the deadline passed, and
// ErrDeadlock where it was rolled back to break one.
func (e *RolledBackError) Is(target error) bool {
	return target == ErrRolledBack ||
		(target == ErrTimedOut && e.Reason == pb.RollbackReason_ROLLBACK_REASON_TIMEOUT) ||
		(target == ErrDeadlock && e.Reason == pb.RollbackReason_ROLLBACK_REASON_DEADLOCK)
}

// Unwrap gives Cause, Conflict and NotSettled.
func (e *RolledBackError) Unwrap() []error {
	errs := []error{e.Cause}
	if e.Conflict != nil {
		errs = append(errs, e.Conflict)
	}
	if e.NotSettled != nil {
		errs = append(errs, e.NotSettled)
	}
	return errs
}

// RollbackPendingError is a transaction whose fn failed while the coordinator
// could not be reached. Nobody will commit it but an operator; its deadline
// rolls it back. It Is ErrRollbackPending.
type RollbackPendingError struct {
	XID      xid.ID
	Cause    error              // of fn
	Conflict *LockConflictError // in Cause, nil where there is none
	Err      error              // why the rollback could not be delivered
}

// Error names the transaction, the cause, and why the rollback was not delivered.
func (e *RollbackPendingError) Error() string {
	return fmt.Sprintf("transaction %s: failed%s; the rollback could not be delivered, its deadline rolls it back: %v",
		e.XID, suffix(e.Cause), e.Err)
}

// Is matches ErrRollbackPending.
func (e *RollbackPendingError) Is(target error) bool { return target == ErrRollbackPending }

// Unwrap gives Cause, Conflict and Err.
func (e *RollbackPendingError) Unwrap() []error {
	if e.Conflict == nil {
		return []error{e.Cause, e.Err}
	}
	return []error{e.Cause, e.Conflict, e.Err}
}

// OutcomeUnknownError is a transaction that may have been committed or not. The
// coordinator knows, or will: ask with Manager.Outcome. It Is ErrOutcomeUnknown.
type OutcomeUnknownError struct {
	XID xid.ID
	Err error // why no answer came
}

// Error names the transaction and why no answer came.
func (e *OutcomeUnknownError) Error() string {
	return fmt.Sprintf("transaction %s: outcome unknown%s", e.XID, suffix(e.Err))
}

// Is matches ErrOutcomeUnknown.
func (e *OutcomeUnknownError) Is(target error) bool { return target == ErrOutcomeUnknown }

// Unwrap gives Err.
func (e *OutcomeUnknownError) Unwrap() error { return e.Err }

// NotSettledError is a transaction that is decided, whose phase two was still
// going on when the wait for it ended. It Is ErrNotSettled. After a commit it is
// the whole error, and after Manager.Rollback, too; otherwise a rollback is told by
// a RolledBackError that has it.
type NotSettledError struct {
	XID     xid.ID
	Outcome pb.Outcome // the decision: committed or rolled back
	Err     error      // why the wait ended
}

// Error names the transaction, the decision, and why the wait ended.
func (e *NotSettledError) Error() string {
	decided := "committed"
	if e.Outcome == pb.Outcome_OUTCOME_ROLLED_BACK {
		decided = "rolled back"
	}
	return fmt.Sprintf("transaction %s: %s, not settled everywhere yet%s", e.XID, decided, suffix(e.Err))
}

// Is matches ErrNotSettled.
func (e *NotSettledError) Is(target error) bool { return target == ErrNotSettled }

// Unwrap gives Err.
func (e *NotSettledError) Unwrap() error { return e.Err }

// CommittedError is a transaction that was to be rolled back and had been
// committed before, which only an operator can have done. It Is ErrCommitted.
type CommittedError struct {
	XID   xid.ID
	Cause error // of fn
}

// Error names the transaction and the error of fn.
func (e *CommittedError) Error() string {
	return fmt.Sprintf("transaction %s: committed by somebody else, although it failed here%s", e.XID, suffix(e.Cause))
}

// Is matches ErrCommitted.
func (e *CommittedError) Is(target error) bool { return target == ErrCommitted }

// Unwrap gives Cause.
func (e *CommittedError) Unwrap() error { return e.Cause }

// LockConflictError is a row that an undecided transaction holds. It Is
// ErrLockConflict, and crosses gRPC services as a status.
type LockConflictError struct {
	Holder xid.ID // the transaction that holds the row
	Table  string
	Key    string
	// Deadlock says who waited for whom, where waiting could not have helped.
	Deadlock string
}

// Error names the row and its holder, and the deadlock if there was one.
func (e *LockConflictError) Error() string {
	s := fmt.Sprintf("lock conflict: %s %s is held by transaction %s", e.Table, e.Key, e.Holder)
	if e.Deadlock != "" {
		s += ": deadlock: " + e.Deadlock
	}
	return s
}

// Is matches ErrLockConflict, and ErrDeadlock where it was one.
func (e *LockConflictError) Is(target error) bool {
	return target == ErrLockConflict || (target == ErrDeadlock && e.Deadlock != "")
}

// LockConflict gives the fields; errors of other packages have this method, too.
func (e *LockConflictError) LockConflict() (holder xid.ID, table, key string) {
	return e.Holder, e.Table, e.Key
}

// GRPCStatus is ABORTED with an ErrorInfo of the domain "handfast".
func (e *LockConflictError) GRPCStatus() *status.Status {
	meta := map[string]string{"holder": e.Holder.String(), "table": e.Table, "key": e.Key}
	if e.Deadlock != "" {
		meta["deadlock"] = e.Deadlock
	}
	return (&client.Error{
		Reason: pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT, Code: codes.Aborted, Message: e.Error(), Metadata: meta,
	}).GRPCStatus()
}

// FindLockConflict finds a lock conflict in an error: any error in its tree with
// a method LockConflict() (holder xid.ID, table, key string), as that of package
// rm, or the gRPC status of a service that met one. A method DeadlockCycle()
// string beside it tells of a deadlock.
func FindLockConflict(err error) (*LockConflictError, bool) {
	if c, ok := errors.AsType[*LockConflictError](err); ok {
		return c, true
	}
	if c, ok := errors.AsType[interface {
		error
		LockConflict() (holder xid.ID, table, key string)
	}](err); ok {
		holder, table, key := c.LockConflict()
		found := &LockConflictError{Holder: holder, Table: table, Key: key}
		if d, ok := c.(interface{ DeadlockCycle() string }); ok {
			found.Deadlock = d.DeadlockCycle()
		}
		return found, true
	}
	e, ok := client.AsError(err)
	if !ok || e.Reason != pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT {
		return nil, false
	}
	// A holder that can't be read stays zero: the conflict itself is certain.
	holder, _ := xid.Parse(e.Metadata["holder"])
	return &LockConflictError{
		Holder: holder, Table: e.Metadata["table"], Key: e.Metadata["key"], Deadlock: e.Metadata["deadlock"],
	}, true
}

func reasonName(r pb.RollbackReason) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(r.String(), "ROLLBACK_REASON_"), "_", " "))
}

func suffix(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}
