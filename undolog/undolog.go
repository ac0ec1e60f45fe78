package undolog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/xid"
)

// SchemaVersion is the version of the schema that this package installs.
const SchemaVersion = 1

// minServer is the oldest PostgreSQL that works: GRANT SET ON PARAMETER and
// NULLS NOT DISTINCT came with it.
const minServer = 150000

// The SQLSTATEs of the schema.
const (
	SQLStateConflict     = "HF001"
	SQLStateDecided      = "HF002"
	SQLStateMisfit       = "HF003"
	SQLStateRefused      = "HF004"
	SQLStateNotArmed     = "HF005"
	SQLStateContradicted = "HF006"
	SQLStateBadChoice    = "HF007"
)

// DB runs statements; *pgx.Conn, pgx.Tx and *pgxpool.Pool are one.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Info is what a database says of itself.
type Info struct {
	Resource      xid.ResourceID
	SchemaVersion int
	ServerVersion int // as server_version_num, such as 150008
	Database      string
}

// Inspect reads the identity of the database. Errors, for errors.Is:
// ErrServerTooOld, ErrNotInstalled, ErrSchemaVersion.
func Inspect(ctx context.Context, db DB) (Info, error) {
	var i Info
	if err := db.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, current_database()").
		Scan(&i.ServerVersion, &i.Database); err != nil {
		return i, fmt.Errorf("inspect database: %w", err)
	}
	if err := checkServer(i.ServerVersion); err != nil {
		return i, err
	}
	var resource [16]byte
	err := db.QueryRow(ctx, "SELECT resource, version FROM handfast.info()").Scan(&resource, &i.SchemaVersion)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "3F000" || pg.Code == "42883" || pg.Code == "42P01") {
		return i, fmt.Errorf("database %s: %w", i.Database, ErrNotInstalled)
	}
	if err != nil {
		return i, fmt.Errorf("inspect database %s: %w", i.Database, err)
	}
	i.Resource = resource
	if i.SchemaVersion != SchemaVersion {
		return i, fmt.Errorf("database %s: %w: it has %d, this program needs %d", i.Database, ErrSchemaVersion, i.SchemaVersion, SchemaVersion)
	}
	return i, nil
}

func checkServer(version int) error {
	if version < minServer {
		return fmt.Errorf("%w: it is %d.%d, want 15 or later", ErrServerTooOld, version/10000, version%10000)
	}
	return nil
}

// Witness is the point of a coordinator's log that a fence row has seen.
type Witness struct {
	Store       xid.StoreID
	Incarnation uint32
	Position    uint64
}

// Witnesses gives the highest point seen of each store. Needs Grant.
func Witnesses(ctx context.Context, db DB) ([]Witness, error) {
	rows, err := db.Query(ctx, "SELECT w.* FROM handfast.witnesses() w")
	if err != nil {
		return nil, fmt.Errorf("read witnesses: %w", err)
	}
	ws, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Witness, error) {
		var w Witness
		var store string
		var inc, pos int64
		if err := row.Scan(&store, &inc, &pos); err != nil {
			return w, err
		}
		w.Incarnation, w.Position = uint32(inc), uint64(pos)
		w.Store, err = xid.ParseStoreID(store)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("read witnesses: %w", err)
	}
	return ws, nil
}

// ArmOptions are for Arm.
type ArmOptions struct {
	// LockTimeout bounds each wait for a row lock, where the session has no
	// lock_timeout of its own. Millisecond precision; 0: no bound.
	LockTimeout time.Duration
}

// Arm gives the statement that makes a local transaction a branch. It has to be
// the first one after BEGIN, before any savepoint.
func Arm(id xid.ID, b xid.BranchID, o ArmOptions) (sql string, args []any) {
	return "SELECT handfast.arm($1, $2, $3, $4)",
		[]any{id.String(), [16]byte(b), id.Begin(), int32(o.LockTimeout.Milliseconds())}
}

// Seal gives the statement that has to come right before COMMIT. It returns one
// boolean, whether the transaction wrote anything captured, and fails where the
// arming was lost (SQLSTATE HF005) or a table without capture was written (HF004).
func Seal(w Witness) (sql string, args []any) {
	return "SELECT handfast.seal($1, $2, $3, true)",
		[]any{w.Store.String(), int64(w.Incarnation), int64(w.Position)}
}

// PendingXID is a transaction with live fences in this database.
type PendingXID struct {
	XID      xid.ID
	Branches []xid.BranchID
	Since    time.Time
	Intents  int64    // undo rows
	Tables   []string // with intents
}

// maxPending bounds one answer of Pending.
const maxPending = 1000

// Pending lists transactions that are not settled here, oldest first, at most
// 1,000. They are no fault by themselves: the outcome decides. Needs Grant.
func Pending(ctx context.Context, db DB, olderThan time.Duration) ([]PendingXID, error) {
	rows, err := db.Query(ctx, "SELECT xid, branches, since, intents, coalesce(tables, '{}') FROM handfast.pending($1, $2)", olderThan, maxPending)
	if err != nil {
		return nil, fmt.Errorf("list pending transactions: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (PendingXID, error) {
		var p PendingXID
		var id string
		var branches [][16]byte
		if err := row.Scan(&id, &branches, &p.Since, &p.Intents, &p.Tables); err != nil {
			return p, err
		}
		for _, b := range branches {
			p.Branches = append(p.Branches, b)
		}
		p.XID, err = xid.Parse(id)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list pending transactions: %w", err)
	}
	return out, nil
}

// GC drops fence rows of settled transactions that are older than twice the age
// at which an XID may still join (24 h by default), and what package fence remembers
// of actions for longer than it has to (30 days by default), at most limit of
// each. It tells how many it dropped. Needs Grant.
func GC(ctx context.Context, db DB, limit int) (int64, error) {
	var n int64
	if err := db.QueryRow(ctx, "SELECT handfast.gc($1) + handfast.action_gc($1)", limit).Scan(&n); err != nil {
		return 0, fmt.Errorf("drop old fences: %w", err)
	}
	return n, nil
}
