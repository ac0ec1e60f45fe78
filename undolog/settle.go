package undolog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/xid"
)

// BranchVote is a registered branch and whether it voted yes.
type BranchVote struct {
	ID  xid.BranchID
	Yes bool
	XA  bool // it is a prepared transaction, and not an AT branch
}

// Settlement is one decided transaction and all of its branches in this database.
type Settlement struct {
	XID      xid.ID
	Commit   bool
	Branches []BranchVote
}

// Result is what became of one Settlement. A nil Err means settled, now or
// earlier; else *BlockedError, *MisfitError, *AlarmError, or an error of
// the connection.
type Result struct {
	XID xid.ID
	Err error
}

// SettleOptions are for Settle.
type SettleOptions struct {
	// LockTimeout bounds each wait for a lock; 0: 500 ms.
	LockTimeout time.Duration
}

func (o SettleOptions) lockTimeout() time.Duration {
	if o.LockTimeout <= 0 {
		return 500 * time.Millisecond
	}
	return o.LockTimeout
}

// Settle carries out decisions, in results of the same order. Commits go
// together in one local transaction; a rollback has one of its own. Prepared
// transactions of XA branches come before either, see commitPrepared and rollbackPrepared. conn must
// be outside of a transaction, and is left so unless it is broken. It may be
// called for the same XID by several processes at once. Needs Grant.
func Settle(ctx context.Context, conn *pgx.Conn, batch []Settlement, o SettleOptions) []Result {
	results := make([]Result, len(batch))
	var commits []int
	for i, s := range batch {
		results[i].XID = s.XID
		if s.Commit {
			commits = append(commits, i)
		}
	}
	commits = commitPrepared(ctx, conn, batch, commits, results, o)
	settleCommits(ctx, conn, batch, commits, results, o)
	for i, s := range batch {
		switch {
		case s.Commit:
		case s.anyXA():
			results[i].Err = rollbackPrepared(ctx, conn, s, o)
		default:
			results[i].Err = rollback(ctx, conn, s, o)
		}
	}
	return results
}

// settleCommits settles all together; where that fails, one by one, so that
// none holds up the others.
func settleCommits(ctx context.Context, conn *pgx.Conn, batch []Settlement, which []int, results []Result, o SettleOptions) {
	if len(which) == 0 {
		return
	}
	bad, err := commitBatch(ctx, conn, batch, which, o)
	if err != nil && len(which) > 1 && ctx.Err() == nil && !conn.IsClosed() {
		for _, i := range which {
			settleCommits(ctx, conn, batch, []int{i}, results, o)
		}
		return
	}
	for _, i := range which {
		if err != nil {
			results[i].Err = classify(ctx, conn, batch[i].XID, err)
		} else if why := bad[batch[i].XID.String()]; len(why) > 0 {
			results[i].Err = &AlarmError{XID: batch[i].XID, Reason: strings.Join(why, "; ")}
		}
	}
}

func commitBatch(ctx context.Context, conn *pgx.Conn, batch []Settlement, which []int, o SettleOptions) (map[string][]string, error) {
	var ids []string
	var branches [][16]byte
	var yes []bool
	xa := false
	for _, i := range which {
		xa = xa || batch[i].anyXA()
		for _, b := range batch[i].Branches {
			ids, branches, yes = append(ids, batch[i].XID.String()), append(branches, b.ID), append(yes, b.Yes)
		}
	}
	bad := map[string][]string{}
	return bad, inTx(ctx, conn, o, "off", func(b *pgx.Batch) {
		b.Queue("SELECT bad, problem FROM handfast.commit_batch($1, $2, $3)", ids, branches, yes).
			Query(func(rows pgx.Rows) error {
				var id, problem string
				_, err := pgx.ForEachRow(rows, []any{&id, &problem}, func() error {
					bad[id] = append(bad[id], problem)
					return nil
				})
				return err
			})
		if xa {
			b.Queue("SELECT handfast.xa_done($1, $2)", ids, branches)
		}
	})
}

// rollback restores what one transaction changed. A row that does not fit may
// be one that another settler has just restored, so it is looked at once more.
func rollback(ctx context.Context, conn *pgx.Conn, s Settlement, o SettleOptions) error {
	var branches [][16]byte
	for _, b := range s.Branches {
		branches = append(branches, b.ID)
	}
	slices.SortFunc(branches, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	var err error
	for range 2 {
		err = inTx(ctx, conn, o, "on", func(b *pgx.Batch) {
			b.Queue(markSettling, s.XID.String())
			b.Queue("SELECT handfast.rollback_lock($1, $2)", s.XID.String(), branches)
			b.Queue("SELECT handfast.rollback_undo($1, $2)", s.XID.String(), branches)
		})
		err = classify(ctx, conn, s.XID, err)
		if _, misfit := errors.AsType[*MisfitError](err); !misfit {
			return err
		}
	}
	return err
}

// inTx runs statements in one flush, in a transaction of its own at READ
// COMMITTED, whatever the role's default is. synchronous is its
// synchronous_commit: a settled commit need not be forced, for a crash of the
// server only brings the intents back, and the janitor finds them and the
// recorded decision. An answer to Ask is told as a fact, so it is.
func inTx(ctx context.Context, conn *pgx.Conn, o SettleOptions, synchronous string, queue func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	// The role's own limits are for its application; behind PgBouncer they can't
	// be overridden when the connection begins.
	b.Queue("SELECT set_config('lock_timeout', $1, true), set_config('synchronous_commit', $2, true), set_config('statement_timeout', '0', true)",
		fmt.Sprint(o.lockTimeout().Milliseconds()), synchronous)
	queue(b)
	b.Queue("COMMIT")
	err := conn.SendBatch(ctx, b).Close()
	if err != nil && !conn.IsClosed() {
		if _, rerr := conn.Exec(ctx, "ROLLBACK"); rerr != nil {
			return errors.Join(err, rerr)
		}
	}
	return err
}

func classify(ctx context.Context, conn *pgx.Conn, id xid.ID, err error) error {
	if err == nil {
		return nil
	}
	if _, d, ok := detailOf(err, "misfit"); ok {
		return &MisfitError{XID: id, Table: d.Table, Key: d.Key, What: d.What, Err: err}
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("settle %s: %w", id, err)
	}
	switch pg.Code {
	case SQLStateContradicted:
		return &AlarmError{XID: id, Reason: pg.Message}
	case "55P03", "40P01": // lock_not_available, deadlock_detected
		blocked := &BlockedError{XID: id, Err: err}
		// Only for people: where it fails, the list stays empty.
		_ = conn.QueryRow(ctx, "SELECT handfast.blockers($1)", id.String()).Scan(&blocked.PIDs)
		return blocked
	case "42501":
		return fmt.Errorf("settle %s: %w: %w", id, ErrPrivilege, err)
	default:
		return fmt.Errorf("settle %s: %w", id, err)
	}
}

// Answer is what a database says of a branch.
type Answer uint8

// The answers.
const (
	AnswerOpen Answer = iota // the local transaction is still open
	AnswerYes                // it committed
	AnswerNo                 // it did not, and never can
)

// Ask finds out how phase one of a branch ended. Where it has not committed it
// puts a tombstone in its place, so that no is as final as yes. It waits for an
// open local transaction up to lockTimeout; 0: 200 ms. conn must be outside of
// a transaction. Needs Grant.
func Ask(ctx context.Context, conn *pgx.Conn, id xid.ID, b xid.BranchID, lockTimeout time.Duration) (Answer, error) {
	return ask(ctx, conn, id, b, lockTimeout, false)
}

func ask(ctx context.Context, conn *pgx.Conn, id xid.ID, b xid.BranchID, lockTimeout time.Duration, xa bool) (Answer, error) {
	if lockTimeout <= 0 {
		lockTimeout = 200 * time.Millisecond
	}
	var state rune
	err := inTx(ctx, conn, SettleOptions{LockTimeout: lockTimeout}, "on", func(q *pgx.Batch) {
		if xa {
			q.Queue("SELECT handfast.xa_closed($1, $2)", id.String(), [16]byte(b))
		}
		q.Queue("SELECT handfast.ask_lock($1, $2)", id.String(), [16]byte(b))
		// A statement of its own: it sees what was committed while that waited.
		q.Queue("SELECT handfast.ask_read($1, $2)", id.String(), [16]byte(b)).QueryRow(func(row pgx.Row) error {
			return row.Scan(&state)
		})
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "55P03" {
		return AnswerOpen, nil
	}
	if err != nil {
		return AnswerOpen, fmt.Errorf("ask for branch %s of %s: %w", b, id, err)
	}
	switch state {
	case 'L', 'C':
		return AnswerYes, nil
	case 'T', 'R':
		return AnswerNo, nil
	default:
		return AnswerOpen, fmt.Errorf("ask for branch %s of %s: fence in state %q", b, id, state)
	}
}
