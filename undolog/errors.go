package undolog

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/xid"
)

// Errors for errors.Is.
var (
	ErrServerTooOld  = errors.New("PostgreSQL is too old")
	ErrNotInstalled  = errors.New("the handfast schema is not installed; run: handfast pg install")
	ErrSchemaVersion = errors.New("the handfast schema has another version; run: handfast pg install")
	ErrPrivilege     = errors.New("the role lacks a privilege")
)

// Errors for errors.Is: why a choice was refused. See ChoiceError.
var (
	// ErrNothingToUndo means: the transaction changed nothing here, or is settled.
	ErrNothingToUndo = errors.New("nothing to roll back here")
	// ErrUnknownRow means: the transaction did not change such a row or table.
	ErrUnknownRow = errors.New("no such row in the transaction")
	// ErrBadChoice means: there is no such choice, it does not go with what was
	// given, or a value does not fit its column.
	ErrBadChoice = errors.New("the choice does not fit")
	// ErrRowChanged means: the row is not what the caller has seen.
	ErrRowChanged = errors.New("the row has changed")
)

// ConflictError is a row, a key or a unique value that an undecided global
// transaction holds.
type ConflictError struct {
	Holder   xid.ID // zero where the role may not settle, and so is not told it; see Grant
	Table    string
	Key      string
	SQLState string // HF001, or 40001 above READ COMMITTED
	Err      *pgconn.PgError
}

// Error names the row and its holder.
func (e *ConflictError) Error() string { return e.Err.Message }

// Unwrap gives the error of Postgres.
func (e *ConflictError) Unwrap() error { return e.Err }

// detail is what the schema's functions put into DETAIL.
type detail struct {
	Handfast string `json:"handfast"`
	Holder   string `json:"holder"`
	Table    string `json:"table"`
	Key      string `json:"key"`
	What     string `json:"what"`
	Kind     string `json:"kind"`
}

func detailOf(err error, kind string) (*pgconn.PgError, detail, bool) {
	var d detail
	pg, ok := errors.AsType[*pgconn.PgError](err)
	ok = ok && json.Unmarshal([]byte(pg.Detail), &d) == nil && d.Handfast == kind
	return pg, d, ok
}

// AsConflict finds a conflict in an error of Postgres.
func AsConflict(err error) (*ConflictError, bool) {
	if c, ok := errors.AsType[*ConflictError](err); ok {
		return c, true
	}
	pg, d, ok := detailOf(err, "conflict")
	if !ok {
		return nil, false
	}
	holder, _ := xid.Parse(d.Holder) // what can't be read stays zero
	return &ConflictError{Holder: holder, Table: d.Table, Key: d.Key, SQLState: pg.Code, Err: pg}, true
}

// NoTableError is a table that is not there, or a pattern or schema without any
// table that could be meant.
type NoTableError struct {
	Table   string
	Pattern bool // Table is a pattern or a schema
	Keyless int  // how many tables it found that have no primary key
}

// Error names the table.
func (e *NoTableError) Error() string {
	switch {
	case !e.Pattern:
		return fmt.Sprintf("table %q does not exist", e.Table)
	case e.Keyless > 0:
		return fmt.Sprintf("none of the %d tables that %q stands for has a primary key", e.Keyless, e.Table)
	}
	return fmt.Sprintf("%q stands for no table", e.Table)
}

// NoKeyError is a table that can't be protected because its rows have no usable identity.
type NoKeyError struct{ Table, Reason string }

// Error names the table and what is missing.
func (e *NoKeyError) Error() string { return fmt.Sprintf("table %s %s", e.Table, e.Reason) }

// NotProtectableError is a table that can't be protected for another reason.
type NotProtectableError struct{ Table, Reason string }

// Error names the table and the reason.
func (e *NotProtectableError) Error() string { return fmt.Sprintf("table %s %s", e.Table, e.Reason) }

// BlockedError is a settle that had to wait too long for a lock. Trying again helps.
type BlockedError struct {
	XID  xid.ID
	PIDs []int32 // backends with an open local transaction of the XID
	Err  error
}

// Error names the XID and the backends.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("settle %s: waiting for a lock (backends with an open local transaction of it: %v): %v", e.XID, e.PIDs, e.Err)
}

// Unwrap gives the error of Postgres.
func (e *BlockedError) Unwrap() error { return e.Err }

// MisfitError is a row that is not what the transaction left there, so that it
// can't be restored. Nothing was changed; a person has to look.
type MisfitError struct {
	XID              xid.ID
	Table, Key, What string
	Err              error
}

// Error names the row and what does not fit.
func (e *MisfitError) Error() string {
	return fmt.Sprintf("settle %s: row %s %s can't be restored: %s", e.XID, e.Table, e.Key, e.What)
}

// Unwrap gives the error of Postgres.
func (e *MisfitError) Unwrap() error { return e.Err }

// AlarmError is a database that contradicts the decision: a fence that is
// missing, was never registered, or says the opposite. Nothing was changed.
type AlarmError struct {
	XID    xid.ID
	Reason string
}

// Error names the XID and the contradiction.
func (e *AlarmError) Error() string { return fmt.Sprintf("settle %s: %s", e.XID, e.Reason) }

// ChoiceError is a choice that was refused. Nothing was recorded.
type ChoiceError struct {
	XID        xid.ID
	Table, Key string // as far as known
	// Field is what is wrong: xid, table, key, row, choice, column, value, who,
	// why or seen.
	Field string
	What  string
	Err   error // one of ErrNothingToUndo, ErrUnknownRow, ErrBadChoice, ErrRowChanged
}

// Error says what is wrong.
func (e *ChoiceError) Error() string { return e.What }

// Unwrap gives the kind of refusal.
func (e *ChoiceError) Unwrap() error { return e.Err }
