package fence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
)

const (
	// MaxResult is the largest result that is remembered, in bytes.
	MaxResult = 64 << 10
	// LockTimeout is how long a call waits for another call of the same branch where
	// the session has no lock_timeout of its own. It does not hold for the statements
	// of the action.
	LockTimeout = 5 * time.Second

	// cleanupTimeout bounds what is done after the caller's context may have ended.
	cleanupTimeout = 5 * time.Second
)

// Outcome is what became of a call that succeeded.
type Outcome struct {
	// Result is what the action returned when it ran: now, or the first time. An
	// empty result is nil.
	Result []byte
	// Repeated says that the action had run before, and did not now.
	Repeated bool
	// Empty says that this is a rollback with nothing to undo, because the forward
	// action had not happened. It did not run; the forward action can't happen any more.
	Empty bool
}

// Do runs fn in the local transaction tx, unless the call was answered before or must
// not be. Everything that fn does in tx, and the memory that it was done, are
// committed together or not at all; the effect is exactly-once for what is in tx, and
// for nothing else that fn does.
//
// tx belongs to the caller, at any isolation level. After success, Repeated and Empty
// included, it has to be committed before the call is answered; after an error it has
// to be rolled back, and where fn had begun it can't be committed any more. tx may be
// a savepoint of a larger transaction. It may fence several calls, one after the other.
//
// Another call of the same branch in progress is waited for, for as long as the
// session's lock_timeout, or LockTimeout. fn returns the result that is remembered,
// at most MaxResult bytes.
//
// Errors, for errors.Is: that of fn; ErrLate, ErrNoForward, ErrContradicted,
// ErrForgotten (for good); ErrBusy; ErrArmed; ErrResultTooLarge; ErrMalformed;
// undolog.ErrNotInstalled. Those of the driver can be found with errors.As. At
// REPEATABLE READ and SERIALIZABLE there is 40001 as well, where calls of one branch
// met: a new transaction sees what it could not.
func Do(ctx context.Context, tx pgx.Tx, call Call, fn func(context.Context) ([]byte, error)) (Outcome, error) {
	return guarded(ctx, pgxTx{tx}, call, fn)
}

// SQLTx is a transaction of database/sql: *sql.Tx, or what an ORM makes of it. It is
// not a *sql.DB, which would fence in one transaction and act in another.
type SQLTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	Commit() error
	Rollback() error
}

// DoSQL is Do for database/sql. It uses neither Commit nor Rollback.
func DoSQL(ctx context.Context, tx SQLTx, call Call, fn func(context.Context) ([]byte, error)) (Outcome, error) {
	return guarded(ctx, sqlTx{tx}, call, fn)
}

// Beginner begins transactions: *pgxpool.Pool, *pgx.Conn, *rm.Pool. Under a context
// with an XID, *rm.Pool begins branches in AT mode, and these are refused.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Run is Do in a transaction of its own, which it commits, or rolls back where fn
// fails or panics. It uses the isolation level that the session has.
//
// Errors are those of Do, of beginning and of committing. Where the answer to COMMIT
// was lost the error does not say whether the action happened; the same call, made
// again, does.
func Run(ctx context.Context, db Beginner, call Call, fn func(context.Context, pgx.Tx) ([]byte, error)) (out Outcome, err error) {
	if err := check(call); err != nil {
		return Outcome{}, err
	}
	tx, err := db.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return Outcome{}, fmt.Errorf("%s: begin: %w", call, err)
	}
	defer func() {
		// The caller's context may have ended; after Commit it does nothing.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	out, err = fenced(ctx, pgxTx{tx}, call, func(ctx context.Context) ([]byte, error) { return fn(ctx, tx) })
	if err != nil {
		return Outcome{}, err
	}
	if err := tx.Commit(ctx); err != nil {
		return Outcome{}, fmt.Errorf("%s: commit: %w", call, armed(err))
	}
	return out, nil
}

// RunSQL is Run for database/sql.
func RunSQL(ctx context.Context, db *sql.DB, call Call, fn func(context.Context, *sql.Tx) ([]byte, error)) (out Outcome, err error) {
	if err := check(call); err != nil {
		return Outcome{}, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return Outcome{}, fmt.Errorf("%s: begin: %w", call, err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	out, err = fenced(ctx, sqlTx{tx}, call, func(ctx context.Context) ([]byte, error) { return fn(ctx, tx) })
	if err != nil {
		return Outcome{}, err
	}
	if err := tx.Commit(); err != nil {
		return Outcome{}, fmt.Errorf("%s: commit: %w", call, armed(err))
	}
	return out, nil
}

// conn is what a driver's transaction does for us.
type conn interface {
	enter(ctx context.Context, c Call) (verdict string, result []byte, err error)
	exec(ctx context.Context, sql string, args ...any) error
}

const enterSQL = "SELECT verdict, result FROM handfast.action_enter($1, $2, $3, $4)"

func enterArgs(c Call) []any {
	return []any{c.XID.String(), c.Branch.String(), c.Action.String(), int32(LockTimeout.Milliseconds())}
}

type pgxTx struct{ tx pgx.Tx }

func (t pgxTx) enter(ctx context.Context, c Call) (verdict string, result []byte, err error) {
	err = t.tx.QueryRow(ctx, enterSQL, enterArgs(c)...).Scan(&verdict, &result)
	return verdict, result, err
}

func (t pgxTx) exec(ctx context.Context, sql string, args ...any) error {
	_, err := t.tx.Exec(ctx, sql, args...)
	return err
}

type sqlTx struct{ tx SQLTx }

func (t sqlTx) enter(ctx context.Context, c Call) (verdict string, result []byte, err error) {
	err = t.tx.QueryRowContext(ctx, enterSQL, enterArgs(c)...).Scan(&verdict, &result)
	return verdict, result, err
}

func (t sqlTx) exec(ctx context.Context, sql string, args ...any) error {
	_, err := t.tx.ExecContext(ctx, sql, args...)
	return err
}

// guarded is fenced in a transaction that somebody else commits.
func guarded(ctx context.Context, t conn, call Call, fn func(context.Context) ([]byte, error)) (Outcome, error) {
	began, ended := false, false
	defer func() {
		if !began || ended {
			return
		}
		// An error that is overlooked, or a panic that is caught, must not let half an
		// effect be committed together with the row that says it is done.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = t.exec(ctx, "SELECT handfast.action_failed()") // it fails, and so the transaction
	}()
	out, err := fenced(ctx, t, call, func(ctx context.Context) ([]byte, error) {
		began = true
		return fn(ctx)
	})
	ended = err == nil
	return out, err
}

func fenced(ctx context.Context, t conn, call Call, fn func(context.Context) ([]byte, error)) (Outcome, error) {
	if err := check(call); err != nil {
		return Outcome{}, err
	}
	verdict, result, err := t.enter(ctx, call)
	if err != nil {
		return Outcome{}, fmt.Errorf("%s: %w", call, explain(err))
	}
	switch verdict {
	case "run":
	case "done":
		return Outcome{Result: result, Repeated: true}, nil
	case "empty":
		return Outcome{Empty: true}, nil
	case "late":
		return Outcome{}, fmt.Errorf("%s: %w", call, ErrLate)
	case "missing":
		return Outcome{}, fmt.Errorf("%s: %w", call, ErrNoForward)
	case "contradicted":
		return Outcome{}, fmt.Errorf("%s: %w", call, ErrContradicted)
	case "forgotten":
		return Outcome{}, fmt.Errorf("%s: %w", call, ErrForgotten)
	default:
		return Outcome{}, fmt.Errorf("%s: %w: its answer is %.40q", call, undolog.ErrSchemaVersion, verdict)
	}
	result, err = fn(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if len(result) == 0 {
		return Outcome{}, nil
	}
	if len(result) > MaxResult {
		return Outcome{}, fmt.Errorf("%s: %w: %d bytes, at most %d", call, ErrResultTooLarge, len(result), MaxResult)
	}
	if err := t.exec(ctx, "SELECT handfast.action_leave($1, $2, $3, $4)", call.XID.String(), call.Branch.String(), call.Action.String(), result); err != nil {
		return Outcome{}, fmt.Errorf("%s: keep the result: %w", call, explain(err))
	}
	return Outcome{Result: result}, nil
}

// state is what the errors of drivers have in common.
type state interface {
	error
	SQLState() string
}

// explain finds our errors in those of our statements, whatever the driver is.
func explain(err error) error {
	var pg state
	if errors.As(err, &pg) {
		switch pg.SQLState() {
		case "55P03":
			return fmt.Errorf("%w: %w", ErrBusy, err)
		case "3F000", "42883", "42P01":
			return fmt.Errorf("%w: %w", undolog.ErrNotInstalled, err)
		}
	}
	return armed(err)
}

// armed finds the one of our errors that COMMIT may give, too. The guard of AT mode
// has its SQLSTATE for other statements as well.
func armed(err error) error {
	var pg state
	if errors.As(err, &pg) && pg.SQLState() == undolog.SQLStateRefused && strings.Contains(pg.Error(), ErrArmed.Error()) {
		return fmt.Errorf("%w: %w", ErrArmed, err)
	}
	return err
}
