package rm

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
)

// prepare ends phase one of an XA branch:
//
//	look     did it write? who would own it?   ---flush-->  (the registration is under way)
//	wait for the acknowledgement
//	fence, PREPARE TRANSACTION                 ---flush-->
//	prepared ---------------------------------> Vote yes
func (tx *Tx) prepare(ctx context.Context) error {
	wrote, err := tx.lookXA(ctx)
	if err != nil {
		_ = tx.undo(ctx) // a second error would only hide the first
		return err
	}
	if !wrote && !tx.notifies {
		return tx.commitRead(ctx)
	}
	if err := tx.acknowledged(ctx); err != nil {
		return err
	}
	tag, err := tx.conn.Exec(ctx, undolog.PrepareXA(tx.x, tx.branch.id, tx.branch.witness))
	switch {
	case err == nil && tag.String() == "ROLLBACK":
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return pgx.ErrTxCommitRollback
	case err == nil:
		tx.end(pb.Vote_VOTE_YES)
		return nil
	case !tx.conn.IsClosed() && tx.conn.PgConn().TxStatus() != 'I':
		// The fence failed, or nothing was sent: PREPARE was not executed.
		_ = tx.undo(ctx) // a second error would only hide the first
		return mapError(tx.x, err)
	case !tx.conn.IsClosed() && isPgError(err):
		// PREPARE itself failed, and rolled back: what can't be prepared, a deferred
		// constraint, no place left.
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return mapError(tx.x, undolog.ExplainPrepare(err))
	}
	return tx.commitUnknown(ctx, err)
}

// lookXA tells whether there is anything to prepare. It fails where nobody could
// finish it.
func (tx *Tx) lookXA(ctx context.Context) (wrote bool, err error) {
	var role string
	if err := tx.conn.QueryRow(ctx, undolog.LookXA()).Scan(&wrote, &role); err != nil {
		return false, mapError(tx.x, err)
	}
	i, err := tx.p.inspectXA(ctx)
	if err != nil {
		return false, err
	}
	if role != i.Role && !i.Superuser {
		return false, fmt.Errorf("handfast: the current role is %s, and this pool settles as %s, which could not finish what another role has prepared: "+
			"end SET ROLE before Commit", role, i.Role)
	}
	return wrote, nil
}

// commitRead ends a local transaction that changed nothing.
func (tx *Tx) commitRead(ctx context.Context) error {
	_, err := tx.conn.Exec(ctx, "commit")
	if err != nil && !tx.conn.IsClosed() && tx.conn.PgConn().TxStatus() != 'I' {
		_ = tx.undo(ctx) // a second error would only hide the first
		return mapError(tx.x, err)
	}
	tx.end(pb.Vote_VOTE_WITHDRAWN)
	return mapError(tx.x, err)
}

// mustPrepare tells whether a single query is a branch though it only reads.
func (p *Pool) mustPrepare(ctx context.Context, sql string) bool {
	return p.modeIn(ctx) == XA && mayNotify(sql)
}

// mayNotify tells whether a statement may do what has to be prepared though it
// writes nothing, so that Postgres refuses it.
func mayNotify(sql string) bool { return strings.Contains(strings.ToLower(sql), "notify") }
