package rm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
)

// askTimeout bounds the search for the outcome of a COMMIT whose reply was lost.
const askTimeout = 5 * time.Second

// checkCommitQuery refuses what would begin a transaction that is not armed.
func checkCommitQuery(o pgx.TxOptions) error {
	if strings.Contains(strings.ToLower(o.CommitQuery), "chain") {
		return fmt.Errorf("handfast: %w: COMMIT AND CHAIN begins a transaction that is not part of the global one", ErrTransactionControl)
	}
	return nil
}

// Commit implements pgx.Tx. It waits until the coordinator has acknowledged the
// branch, then commits locally, or prepares where the mode is XA, and sends the
// vote; the global outcome is the business of whoever began the global transaction.
//
// After *RegisterError and after every error that Is pgx.ErrTxCommitRollback
// nothing was committed. After one that Is ErrOutcomeUnknown nobody knows yet.
func (tx *Tx) Commit(ctx context.Context) error {
	switch tx.state {
	case txClosed:
		return pgx.ErrTxClosed
	case txIdle:
		tx.end(pb.Vote_VOTE_UNSPECIFIED)
		return nil
	case txDead:
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return fmt.Errorf("%w: %w", pgx.ErrTxCommitRollback, tx.cause)
	case txLost:
		return tx.lost()
	case txOpen:
	}
	switch s := tx.conn.PgConn().TxStatus(); {
	case tx.conn.IsClosed():
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return fmt.Errorf("handfast: the connection broke before COMMIT: %w", pgx.ErrTxCommitRollback)
	case s == 'I':
		return tx.lost()
	case s == 'E':
		_ = tx.undo(ctx) // a second error would only hide the first
		return pgx.ErrTxCommitRollback
	}
	if tx.mode == XA {
		return tx.prepare(ctx)
	}
	if err := tx.acknowledged(ctx); err != nil {
		return err
	}
	return tx.sealAndCommit(ctx)
}

// acknowledged waits until the registration is durable, or rolls back.
func (tx *Tx) acknowledged(ctx context.Context) error {
	err := tx.branch.wait(ctx)
	if err == nil {
		return nil
	}
	_ = tx.undo(ctx) // a second error would only hide the first
	return &RegisterError{XID: tx.x, Branch: tx.branch.id, Err: err}
}

// lost ends a Tx whose transaction somebody else has ended. It says nothing to
// the coordinator, which asks the database.
func (tx *Tx) lost() error {
	tx.end(pb.Vote_VOTE_UNSPECIFIED)
	return ErrTransactionLost
}

// sealAndCommit sends both in one flush and finds out what became of it.
func (tx *Tx) sealAndCommit(ctx context.Context) error {
	b := &pgx.Batch{}
	// What deferred constraint triggers write at COMMIT has to be written before
	// the seal looks whether anything was.
	b.Queue("set constraints all immediate")
	seal, args := undolog.Seal(tx.branch.witness)
	b.Queue(seal, args...)
	commit := tx.options.CommitQuery
	if commit == "" {
		commit = "commit"
	}
	b.Queue(commit)
	br := tx.conn.SendBatch(ctx, b)
	var wrote bool
	var tag pgconn.CommandTag
	_, err := br.Exec()
	if err == nil {
		err = br.QueryRow().Scan(&wrote)
	}
	sealed := err == nil
	if sealed {
		tag, err = br.Exec()
	}
	if cerr := br.Close(); err == nil {
		err = cerr
	}
	switch {
	case err == nil && tag.String() == "ROLLBACK":
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return pgx.ErrTxCommitRollback
	case err == nil && !wrote:
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return nil
	case err == nil:
		tx.end(pb.Vote_VOTE_YES)
		return nil
	case !tx.conn.IsClosed() && tx.conn.PgConn().TxStatus() != 'I':
		// The seal failed, or nothing was sent: COMMIT was not executed.
		_ = tx.undo(ctx) // a second error would only hide the first
		return mapError(tx.x, err)
	case !tx.conn.IsClosed() && isPgError(err):
		// COMMIT itself failed, for example a deferred constraint.
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return mapError(tx.x, err)
	case sealed && !wrote:
		// Whatever became of COMMIT, there was nothing to commit.
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return err
	}
	return tx.commitUnknown(ctx, err)
}

func isPgError(err error) bool {
	_, ok := errors.AsType[*pgconn.PgError](err)
	return ok
}

// commitUnknown finds out from the database what became of a COMMIT, or of a
// PREPARE TRANSACTION, without a reply. It never runs anything again: the work may
// be there.
func (tx *Tx) commitUnknown(ctx context.Context, cause error) error {
	_ = tx.conn.Close(ctx) // broken already, but its backend may live and hold locks
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	answer, err := tx.p.agent.ask(ctx, tx.x, tx.branch.id, tx.mode)
	switch {
	case err != nil:
		cause = errors.Join(cause, err)
	case answer == undolog.AnswerYes:
		tx.end(pb.Vote_VOTE_YES)
		return nil
	case answer == undolog.AnswerNo:
		tx.end(pb.Vote_VOTE_NO)
		return fmt.Errorf("%w: %w", pgx.ErrTxCommitRollback, cause)
	}
	tx.end(pb.Vote_VOTE_UNSPECIFIED)
	return fmt.Errorf("handfast: %w: branch %s of transaction %s: %w", ErrOutcomeUnknown, tx.branch.id, tx.x, cause)
}

// Rollback implements pgx.Tx.
func (tx *Tx) Rollback(ctx context.Context) error {
	switch tx.state {
	case txClosed:
		return pgx.ErrTxClosed
	case txIdle:
		tx.end(pb.Vote_VOTE_UNSPECIFIED)
		return nil
	case txDead:
		tx.end(pb.Vote_VOTE_WITHDRAWN)
		return nil
	case txLost:
		return tx.lost()
	case txOpen:
	}
	if !tx.conn.IsClosed() && tx.conn.PgConn().TxStatus() == 'I' {
		return tx.lost()
	}
	return tx.undo(ctx)
}

// undo rolls back. COMMIT was never sent, so even where ROLLBACK fails the local
// transaction can only end with its connection, which is closed then.
func (tx *Tx) undo(ctx context.Context) error {
	_, err := tx.conn.Exec(ctx, "rollback")
	if err != nil && !tx.conn.IsClosed() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = tx.conn.Close(cctx) // the error above says more
	}
	tx.end(pb.Vote_VOTE_WITHDRAWN)
	return err
}
