package undolog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/xid"
)

// Errors of XA branches, for errors.Is. Both messages go on with the setting to
// change.
var (
	ErrXADisabled = errors.New("prepared transactions are switched off")
	ErrXASlots    = errors.New("all places for prepared transactions are taken")
)

const gidPrefix = "handfast:"

// GID is the name of the prepared transaction of a branch, 98 bytes long;
// Postgres allows 199.
func GID(id xid.ID, b xid.BranchID) string { return gidPrefix + id.String() + ":" + b.String() }

// parseGID reads a name; not ok: it is none of ours.
func parseGID(gid string) (id xid.ID, b xid.BranchID, ok bool) {
	x, branch, found := strings.Cut(strings.TrimPrefix(gid, gidPrefix), ":")
	if !found || !strings.HasPrefix(gid, gidPrefix) {
		return id, b, false
	}
	id, err := xid.Parse(x)
	if err != nil {
		return xid.ID{}, b, false
	}
	if b, err = xid.ParseBranchID(branch); err != nil || GID(id, b) != gid {
		return xid.ID{}, xid.BranchID{}, false
	}
	return id, b, true
}

// BeginXA gives the statement that makes a local transaction an XA branch. It has
// to be the first one after BEGIN, before any savepoint.
func BeginXA(id xid.ID, b xid.BranchID, o ArmOptions) (sql string, args []any) {
	return "SELECT handfast.xa_begin($1, $2, $3, $4)",
		[]any{id.String(), [16]byte(b), id.Begin(), int32(o.LockTimeout.Milliseconds())}
}

// LookXA gives the query that has to come before PrepareXA. It returns whether
// there is anything to prepare, and the role that would own it.
func LookXA() string {
	return "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL, current_user::text"
}

// PrepareXA gives the text that ends phase one: the fence, then PREPARE
// TRANSACTION. It is to be sent as it is, as one simple query, and only when the
// coordinator has acknowledged the branch. See ExplainPrepare for its errors.
func PrepareXA(id xid.ID, b xid.BranchID, w Witness) string {
	return fmt.Sprintf("SELECT handfast.xa_fence(%s, %s, %s, %s, %d, %d); PREPARE TRANSACTION %s",
		literal(id.String()), literal(b.String()), literal(id.Begin().UTC().Format(time.RFC3339Nano)),
		literal(w.Store.String()), int64(w.Incarnation), int64(w.Position), literal(GID(id, b)))
}

// ExplainPrepare says what to do about an error of PREPARE TRANSACTION.
func ExplainPrepare(err error) error {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Routine != "MarkAsPreparing" {
		return err
	}
	switch pg.Code {
	case "55000": // object_not_in_prerequisite_state
		return fmt.Errorf("%w: %s: %w", ErrXADisabled, xaSetting("max_connections"), err)
	case "53200", "53400": // out_of_memory, configuration_limit_exceeded
		return fmt.Errorf("%w: %s: %w", ErrXASlots, xaSetting("max_connections"), err)
	default:
		return err
	}
}

func xaSetting(value string) string {
	return "raise max_prepared_transactions in postgresql.conf, at least to " + value +
		" (a prepared transaction needs no connection, so there may be more of them), and restart the server"
}

// XAInfo is what the server and the session say about prepared transactions.
type XAInfo struct {
	Role      string // the current role of the session
	Superuser bool   // it may finish those of any role
	Slots     int    // max_prepared_transactions
	Used      int    // in all databases of the server
	// Others are the roles, besides Role, with prepared XA branches in this
	// database: only they, and superusers, can finish those.
	Others []string
}

// InspectXA tells whether XA branches can be prepared and finished by a session
// like this one. Where the server allows none it fails with ErrXADisabled, and
// where the schema is of before XA, with ErrNotInstalled.
func InspectXA(ctx context.Context, db DB) (XAInfo, error) {
	var i XAInfo
	var connections string
	var there bool
	err := db.QueryRow(ctx, `SELECT current_user::text, coalesce((SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), false),
		current_setting('max_prepared_transactions')::int, current_setting('max_connections'),
		(SELECT count(*)::int FROM pg_catalog.pg_prepared_xacts),
		ARRAY(SELECT DISTINCT p.owner::text FROM pg_catalog.pg_prepared_xacts p
		  WHERE p.database = current_database() AND p.gid LIKE 'handfast:%' AND p.owner <> current_user ORDER BY 1),
		to_regproc('handfast.xa_fence') IS NOT NULL`).
		Scan(&i.Role, &i.Superuser, &i.Slots, &connections, &i.Used, &i.Others, &there)
	switch {
	case err != nil:
		return i, explain("look for prepared transactions", err)
	case !there:
		return i, fmt.Errorf("XA branches: %w", ErrNotInstalled)
	case i.Slots == 0:
		return i, fmt.Errorf("XA branches: %w: max_prepared_transactions is 0; %s", ErrXADisabled, xaSetting(connections+", which is max_connections"))
	}
	return i, nil
}

// Prepared is an XA branch that is neither committed nor rolled back.
type Prepared struct {
	GID string
	// XID and Branch are zero where the name only begins like one of ours.
	XID    xid.ID
	Branch xid.BranchID
	Since  time.Time
	Owner  string // who can finish it, besides superusers
}

// PreparedBranches lists the XA branches of this database that are prepared,
// oldest first, at most 1,000. They are no fault by themselves: the outcome
// decides. Any role may ask.
func PreparedBranches(ctx context.Context, db DB, olderThan time.Duration) ([]Prepared, error) {
	rows, err := db.Query(ctx, `SELECT gid, prepared, owner::text FROM pg_catalog.pg_prepared_xacts
		WHERE database = current_database() AND gid LIKE 'handfast:%' AND prepared <= clock_timestamp() - $1::interval
		ORDER BY prepared, gid LIMIT $2`, olderThan, maxPending)
	if err != nil {
		return nil, fmt.Errorf("list prepared transactions: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Prepared, err error) {
		err = row.Scan(&p.GID, &p.Since, &p.Owner)
		p.XID, p.Branch, _ = parseGID(p.GID)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list prepared transactions: %w", err)
	}
	return out, nil
}

// AskPrepared is Ask for an XA branch: yes is that it is prepared, or committed
// already. Its tombstone keeps a late PREPARE out.
func AskPrepared(ctx context.Context, conn *pgx.Conn, id xid.ID, b xid.BranchID, lockTimeout time.Duration) (Answer, error) {
	gid := []string{GID(id, b)}
	for asked := false; ; asked = true {
		there, err := stillPrepared(ctx, conn, gid)
		switch {
		case err != nil:
			return AnswerOpen, fmt.Errorf("ask for branch %s of %s: %w", b, id, err)
		case len(there) > 0:
			return AnswerYes, nil
		case asked:
			return AnswerOpen, nil
		}
		// What this waits for is an open local transaction; or it was prepared
		// since, so that is looked for again.
		if a, err := ask(ctx, conn, id, b, lockTimeout, true); err != nil || a != AnswerOpen {
			return a, err
		}
	}
}

// stillPrepared gives those of the names that are prepared in this database.
// What is not listed has ended, and what it did is visible from now on.
func stillPrepared(ctx context.Context, conn *pgx.Conn, gids []string) (map[string]bool, error) {
	rows, err := conn.Query(ctx, "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() AND gid = ANY ($1)", gids)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	m := make(map[string]bool, len(found))
	for _, gid := range found {
		m[gid] = true
	}
	return m, nil
}

func (s *Settlement) anyXA() bool {
	for _, b := range s.Branches {
		if b.XA {
			return true
		}
	}
	return false
}

func (s *Settlement) gids() (gids []string) {
	for _, b := range s.Branches {
		if b.XA {
			gids = append(gids, GID(s.XID, b.ID))
		}
	}
	return gids
}

// commitPrepared commits the prepared transactions of committed XIDs. It gives
// those of which is left to go on with, and sets the results of the others. What
// is not prepared any more is no success: the fence, which commit_batch asks
// for, tells what became of it.
//
// It comes before the intents of AT branches are forgotten: where a fence turns
// out to be missing, nothing is given up that a person may need.
func commitPrepared(ctx context.Context, conn *pgx.Conn, batch []Settlement, which []int, results []Result, o SettleOptions) []int {
	var gids []string
	for _, i := range which {
		gids = append(gids, batch[i].gids()...)
	}
	if len(gids) == 0 {
		return which
	}
	there, err := stillPrepared(ctx, conn, gids)
	rest := make([]int, 0, len(which))
	for _, i := range which {
		s := &batch[i]
		switch {
		case !s.anyXA():
		case err != nil:
			results[i].Err = fmt.Errorf("settle %s: %w", s.XID, err)
			continue
		default:
			if results[i].Err = commitEach(ctx, conn, s, there, o); results[i].Err != nil {
				continue
			}
		}
		rest = append(rest, i)
	}
	return rest
}

func commitEach(ctx context.Context, conn *pgx.Conn, s *Settlement, there map[string]bool, o SettleOptions) error {
	for _, b := range s.Branches {
		gid := GID(s.XID, b.ID)
		if b.XA && !b.Yes && there[gid] {
			return &AlarmError{XID: s.XID, Reason: fmt.Sprintf("branch %s is prepared and was not to commit", b.ID)}
		}
	}
	for _, gid := range s.gids() {
		if !there[gid] {
			continue
		}
		if err := finish(ctx, conn, "COMMIT PREPARED ", s.XID, gid, o); err != nil {
			return err
		}
	}
	return nil
}

// preparedRounds is how often a rollback goes after prepared transactions that
// come while it puts tombstones in. Each branch can come once.
const preparedRounds = 4

// rollbackPrepared rolls back a transaction with XA branches, until their
// tombstones are in and none of them is prepared.
//
// They come before the AT branches of the same XID: a prepared transaction keeps
// its row locks, and the undo of an AT branch may need one of those rows, as
// after SELECT FOR UPDATE or an insert that refers to it. The other way round
// nothing waits: ROLLBACK PREPARED needs no lock, and what AT changed the
// guard keeps from XA.
func rollbackPrepared(ctx context.Context, conn *pgx.Conn, s Settlement, o SettleOptions) error {
	gids := s.gids()
	var last error
	for range preparedRounds {
		there, err := stillPrepared(ctx, conn, gids)
		if err != nil {
			return fmt.Errorf("settle %s: %w", s.XID, err)
		}
		for _, gid := range gids {
			if !there[gid] {
				continue
			}
			if err := finish(ctx, conn, "ROLLBACK PREPARED ", s.XID, gid, o); err != nil {
				return err
			}
		}
		if last = rollback(ctx, conn, s, o); last != nil {
			if _, blocked := errors.AsType[*BlockedError](last); !blocked {
				return last
			}
		}
		// A tombstone waits for what is being prepared at this moment, and meets it
		// prepared at the end of its patience.
		if there, err = stillPrepared(ctx, conn, gids); err != nil {
			return fmt.Errorf("settle %s: %w", s.XID, err)
		}
		if len(there) == 0 {
			return last
		}
	}
	if last == nil {
		last = &AlarmError{XID: s.XID, Reason: "a branch is prepared again and again, beside its tombstone"}
	}
	return last
}

// finish commits or rolls back one prepared transaction. That it does not exist
// is no error here, and says nothing about what became of it.
func finish(ctx context.Context, conn *pgx.Conn, command string, id xid.ID, gid string, o SettleOptions) error {
	for patience := time.Now().Add(o.lockTimeout()); ; {
		_, err := conn.Exec(ctx, command+literal(gid))
		pg, ok := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil || ok && pg.Code == "42704": // undefined_object
			return nil
		case ok && pg.Code == "55000": // object_not_in_prerequisite_state: somebody else finishes it
			if time.Now().After(patience) {
				return &BlockedError{XID: id, Err: err}
			}
		case ok && pg.Code == "42501": // insufficient_privilege
			return fmt.Errorf("settle %s: %w: %w (use one role for all services of a database, or a superuser)", id, ErrPrivilege, err)
		default:
			return fmt.Errorf("settle %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("settle %s: %w", id, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}
