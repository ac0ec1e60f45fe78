package rm

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

var (
	// ErrDecided means: the global transaction is decided already, so this branch
	// can no longer join it. Its local transaction was rolled back.
	ErrDecided = errors.New("the global transaction is already decided")
	// ErrOutcomeUnknown means: the reply to COMMIT was lost and the database could
	// not be asked in time. The coordinator finds out; do not run the work again.
	ErrOutcomeUnknown = errors.New("it is unknown whether the local transaction committed")
	// ErrTransactionControl means: SQL text tried to begin or end a transaction.
	ErrTransactionControl = errors.New("transaction control by SQL text is refused inside a global transaction")
	// ErrTransactionLost means: the local transaction ended without Commit or
	// Rollback of its Tx, by whatever was done with its raw connection.
	ErrTransactionLost = errors.New("the local transaction ended behind the back of its Tx")
	// ErrOtherTransaction means: the context of a statement carries another XID than
	// the local transaction it was to run in.
	ErrOtherTransaction = errors.New("the context belongs to another global transaction")
	// ErrDeadlock means: waiting for the holder of a row could not help, because
	// it waits, directly or through others, for this transaction. See
	// LockConflictError. Roll back the global transaction and run it anew.
	ErrDeadlock = errors.New("deadlock")
	// ErrMixedModes means: an XA branch met a row that an AT branch of the same
	// global transaction has changed. The guard takes it for a plain session, and
	// two local transactions could not change one row in two ways and still be
	// undone. Use one mode for what changes the same rows.
	ErrMixedModes = errors.New("an AT branch of the same global transaction has changed the row, so an XA branch can't")
	// ErrXADisabled means: the server has max_prepared_transactions = 0.
	ErrXADisabled = undolog.ErrXADisabled
	// ErrXASlots means: max_prepared_transactions is too small for what is prepared
	// at this moment. The local transaction was rolled back.
	ErrXASlots = undolog.ErrXASlots
	// ErrClosed means: the pool is closed.
	ErrClosed = errors.New("handfast: pool is closed")
)

// LockConflictError is a row, or a value that it owns, which an undecided
// global transaction holds.
type LockConflictError struct {
	Holder xid.ID // zero where the pool's role is not told it; see undolog.Grant
	Table  string
	Key    string
	// Deadlock says who waits for whom, where waiting for the holder could not
	// help. The error then Is ErrDeadlock.
	Deadlock string
	own      bool   // the holder is the own global transaction
	state    string // SQLSTATE
	err      error
}

// Error names the row and its holder, and why waiting ended early.
func (e *LockConflictError) Error() string {
	s := fmt.Sprintf("handfast: row %s of %s is held by ", e.Key, e.Table)
	if e.Holder.IsZero() {
		s += "an undecided transaction, which the role of this pool is not told (handfast pg install --grant ROLE)"
	} else {
		s += "undecided transaction " + e.Holder.String()
	}
	if e.own {
		return s + ", which is this one: " + ErrMixedModes.Error()
	}
	if e.Deadlock != "" {
		return s + ": deadlock: " + e.Deadlock
	}
	if early, ok := errors.AsType[*waitError](e.err); ok {
		return s + ": " + early.why.Error()
	}
	return s
}

// Is matches ErrDeadlock where it was one, and ErrMixedModes.
func (e *LockConflictError) Is(target error) bool {
	return target == ErrDeadlock && e.Deadlock != "" || target == ErrMixedModes && e.own
}

// with adds why the wait for the holder ended early; the arguments may be zero.
func (e *LockConflictError) with(deadlock string, why error) *LockConflictError {
	c := *e
	c.Deadlock = deadlock
	if why != nil {
		c.err = &waitError{conflict: e.err, why: why}
	}
	return &c
}

// waitError is a conflict in Postgres and why the wait ended early.
type waitError struct{ conflict, why error }

func (e *waitError) Error() string   { return fmt.Sprintf("%v: %v", e.conflict, e.why) }
func (e *waitError) Unwrap() []error { return []error{e.conflict, e.why} }

// Unwrap gives the error of Postgres.
func (e *LockConflictError) Unwrap() error { return e.err }

// LockConflict gives the fields to packages that do not import this one.
func (e *LockConflictError) LockConflict() (holder xid.ID, table, key string) {
	return e.Holder, e.Table, e.Key
}

// DeadlockCycle is Deadlock, for packages that do not import this one.
func (e *LockConflictError) DeadlockCycle() string { return e.Deadlock }

// GRPCStatus lets the conflict cross services when a gRPC handler returns an
// error that wraps it: ABORTED, with the reason LOCK_CONFLICT.
func (e *LockConflictError) GRPCStatus() *status.Status {
	meta := map[string]string{"holder": e.Holder.String(), "table": e.Table, "key": e.Key}
	if e.Deadlock != "" {
		meta["deadlock"] = e.Deadlock
	}
	return (&client.Error{
		Reason: pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT, Code: codes.Aborted, Message: e.Error(), Metadata: meta,
	}).GRPCStatus()
}

// RegisterError says that the coordinator did not take a branch, so that its
// local transaction was rolled back.
type RegisterError struct {
	XID    xid.ID
	Branch xid.BranchID
	Err    error // *client.Error, *client.InterruptedError, or why the wait ended
}

// Error gives the reason.
func (e *RegisterError) Error() string {
	return fmt.Sprintf("handfast: branch %s of transaction %s is not registered, so it was rolled back: %v", e.Branch, e.XID, e.Err)
}

// Unwrap gives the reason.
func (e *RegisterError) Unwrap() error { return e.Err }

// Is matches ErrDecided where that is why.
func (e *RegisterError) Is(target error) bool {
	if target != ErrDecided {
		return false
	}
	r := client.ReasonOf(e.Err)
	return r == pb.ErrorReason_ERROR_REASON_ROLLED_BACK || r == pb.ErrorReason_ERROR_REASON_COMMITTED
}

// decidedError is ErrDecided from the fence in the database.
type decidedError struct {
	id  xid.ID
	err error
}

func (e *decidedError) Error() string {
	return fmt.Sprintf("handfast: %v (%s): %v", ErrDecided, e.id, e.err)
}
func (e *decidedError) Is(target error) bool { return target == ErrDecided }
func (e *decidedError) Unwrap() error        { return e.err }

// GRPCStatus is ABORTED with an ErrorInfo of the domain "handfast": the same work
// may succeed in another transaction. Without it, whoever calls actions would take
// ABORTED for "failed for good".
func (e *decidedError) GRPCStatus() *status.Status {
	return (&client.Error{
		Reason: pb.ErrorReason_ERROR_REASON_WRONG_STATE, Code: codes.Aborted, Message: e.Error(), XID: e.id,
	}).GRPCStatus()
}

// mapError gives errors of our triggers their types.
func mapError(id xid.ID, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*LockConflictError](err); ok {
		return err
	}
	if c, ok := undolog.AsConflict(err); ok {
		return &LockConflictError{Holder: c.Holder, Table: c.Table, Key: c.Key, own: c.Holder == id, state: c.SQLState, err: err}
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == undolog.SQLStateDecided {
		return &decidedError{id: id, err: err}
	}
	return explainPooler(err)
}

// explainPooler says what to do where a prepared statement was lost, or found
// where nobody expected it, because a pooler gave another connection.
func explainPooler(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || (pg.Code != "26000" && pg.Code != "42P05") { // invalid_sql_statement_name, duplicate_prepared_statement
		return err
	}
	return fmt.Errorf("%w (behind PgBouncer in transaction mode prepared statements need its version 1.21 with max_prepared_statements set; "+
		"with any version default_query_exec_mode=cache_describe, exec or simple_protocol in the DSN works)", err)
}
