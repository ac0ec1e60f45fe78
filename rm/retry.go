package rm

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/undolog"
)

// mark is the savepoint before a statement of an explicit transaction. There is
// at most one at a time, and it is always the innermost.
const mark = "handfast_stmt"

// how tells what is sent in the flush of a statement, before it.
type how uint8

const (
	plainly   how = iota // nothing: it can't be tried again
	beginning            // BEGIN and arming
	marking              // a savepoint
)

// part names the i-th of what goes before a statement, for people.
func (h how) part(i int) string {
	switch {
	case h == marking:
		return "setting a savepoint"
	case i == 0:
		return "beginning the local transaction"
	default:
		return "arming the local transaction"
	}
}

// how finds out what is to go before a statement.
func (tx *Tx) how(sql string, args []any) how {
	switch {
	case tx.state == txIdle:
		return beginning
	case tx.canMark() && marksBefore(sql, args):
		return marking
	default:
		return plainly
	}
}

// canMark tells whether a savepoint helps, and is surely the innermost one.
func (tx *Tx) canMark() bool {
	return tx.p.cfg.savepoints && !tx.raw && tx.state == txOpen && tx.conn.PgConn().TxStatus() == 'T' &&
		// Above READ COMMITTED only a new transaction sees what the holder left.
		(tx.options.IsoLevel == "" || tx.options.IsoLevel == pgx.ReadCommitted || tx.options.IsoLevel == pgx.ReadUncommitted)
}

// marksBefore tells whether a statement may meet a conflict, can be sent in a
// batch, and leaves savepoints alone.
func marksBefore(sql string, args []any) bool {
	if hasOptions(args) || sql == "" || (len(args) == 0 && isName(sql)) {
		return false
	}
	return !seemsToRead(sql, args) && !movesSavepoints(sql)
}

// markSQL are the statements that set the savepoint. The former one goes first,
// with the locks that it separated, or they would nest without end.
func (tx *Tx) markSQL() []string {
	if tx.marked {
		return []string{"release savepoint " + mark, "savepoint " + mark}
	}
	return []string{"savepoint " + mark}
}

// unmark takes the savepoint away before a statement that may move others.
func (tx *Tx) unmark(ctx context.Context, sql ...string) error {
	if !tx.marked {
		return nil
	}
	for _, s := range sql {
		if !movesSavepoints(s) {
			continue
		}
		tx.marked = false
		if tx.conn.PgConn().TxStatus() != 'T' {
			return nil // whatever works now goes back to an outer one
		}
		_, err := tx.conn.Exec(ctx, "release savepoint "+mark)
		return err
	}
	return nil
}

// attempt is one statement of an explicit transaction, tried until it meets no
// row of another global transaction.
type attempt struct {
	tx  *Tx
	how how // of the first time
	w   *waiter
}

func (tx *Tx) attempt(sql string, args []any) *attempt {
	return &attempt{tx: tx, how: tx.how(sql, args)}
}

// next is how to send it this time.
func (a *attempt) next() how {
	if a.how == marking && a.w != nil {
		return plainly // the savepoint is still there
	}
	return a.how
}

// back goes back to before the statement, waits, and returns nil when it is to
// be sent again; else the error to return. A first statement goes back to
// before BEGIN: it has no work behind it that would be kept, and a waiter
// without an open transaction holds up nobody. Its branch is used again, for a
// local transaction that was rolled back leaves no fence row.
func (a *attempt) back(ctx context.Context, err error) error {
	tx := a.tx
	c, ok := errors.AsType[*LockConflictError](err)
	if !ok || a.how == plainly || c.state != undolog.SQLStateConflict || ctx.Err() != nil ||
		tx.state != txOpen || tx.conn.IsClosed() || tx.conn.PgConn().TxStatus() != 'E' {
		return err
	}
	if a.w == nil {
		a.w = tx.p.newWaiter(tx.x)
		a.w.open = a.how == marking
	}
	if !a.w.canWait(c) {
		return err
	}
	undo := "rollback to savepoint " + mark
	if a.how == beginning {
		undo = "rollback"
	}
	if _, rerr := tx.conn.Exec(ctx, undo); rerr != nil {
		return errors.Join(err, rerr)
	}
	if a.how == beginning {
		tx.state = txIdle
	}
	werr := a.w.wait(ctx, c)
	if werr == nil || errors.Is(werr, errExpired) {
		// Expired: the last try leaves the transaction failed, as Postgres does
		// with an error, or gets the row after all.
		return nil
	}
	tx.kill(ctx, werr)
	return werr
}

// kill rolls back at once what can't go on, so that its row locks hold up
// nobody. To the user it is a failed transaction.
func (tx *Tx) kill(ctx context.Context, cause error) {
	if tx.state == txOpen && !tx.conn.IsClosed() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
		defer cancel()
		if _, err := tx.conn.Exec(ctx, "rollback"); err != nil && !tx.conn.IsClosed() {
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = tx.conn.Close(cctx) // ends the transaction as well
		}
	}
	tx.state, tx.cause, tx.marked = txDead, cause, false
}

// Exec implements pgx.Tx.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := tx.check(ctx, sql); err != nil {
		return pgconn.CommandTag{}, err
	}
	if err := tx.unmark(ctx, sql); err != nil {
		return pgconn.CommandTag{}, tx.after(err)
	}
	for a := tx.attempt(sql, args); ; {
		tag, err := tx.exec(ctx, a.next(), sql, args)
		if err == nil {
			return tag, nil
		}
		if err = a.back(ctx, err); err != nil {
			return tag, err
		}
	}
}

// Query implements pgx.Tx.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := tx.check(ctx, sql); err != nil {
		return failedRows(err), err
	}
	if err := tx.unmark(ctx, sql); err != nil {
		err = tx.after(err)
		return failedRows(err), err
	}
	a := tx.attempt(sql, args)
	if a.how == plainly {
		return tx.query(ctx, plainly, sql, args)
	}
	return a.query(ctx, sql, args)
}

func (a *attempt) query(ctx context.Context, sql string, args []any) (pgx.Rows, error) {
	for {
		r, err := a.tx.query(ctx, a.next(), sql, args)
		if err == nil {
			return &retryRows{Rows: r, again: func(err error) (pgx.Rows, bool) {
				if err = a.back(ctx, err); err != nil {
					return failedRows(err), false
				}
				r, _ := a.query(ctx, sql, args) // Err gives the error
				return r, false                 // it tries again by itself
			}}, nil
		}
		if err = a.back(ctx, err); err != nil {
			return failedRows(err), err
		}
	}
}

// QueryRow implements pgx.Tx.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r, _ := tx.Query(ctx, sql, args...) // Scan gives the error
	return row{r}
}

// SendBatch implements pgx.Tx. After a conflict it is sent again as a whole, as
// long as no result was given out; one with callbacks is not.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	a := &attempt{tx: tx}
	for _, q := range b.QueuedQueries {
		if err := tx.check(ctx, q.SQL); err != nil {
			return pgx.FailedBatchResults(b, err)
		}
	}
	if err := tx.check(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	plain, callbacks := true, false
	for _, q := range b.QueuedQueries {
		if err := tx.unmark(ctx, q.SQL); err != nil {
			return pgx.FailedBatchResults(b, tx.after(err))
		}
		callbacks = callbacks || q.Fn != nil
		plain = plain && seemsToRead(q.SQL, q.Arguments)
		if movesSavepoints(q.SQL) {
			callbacks = true // nor can one that moves savepoints
		}
	}
	switch {
	case tx.state == txIdle:
		a.how = beginning
	case !plain && !callbacks && tx.canMark():
		a.how = marking
	}
	br := tx.sendBatch(ctx, a.next(), b)
	if callbacks || a.how == plainly {
		return br
	}
	return &retryResults{BatchResults: br, again: func(err error) (pgx.BatchResults, error) {
		if err = a.back(ctx, err); err != nil {
			return nil, err
		}
		fresh := &pgx.Batch{} // pgx keeps in a batch what it prepared for it
		for _, q := range b.QueuedQueries {
			fresh.Queue(q.SQL, q.Arguments...)
		}
		return tx.sendBatch(ctx, a.next(), fresh), nil
	}}
}

// retryRows run their query again after a lock conflict, as long as no row was
// given out.
type retryRows struct {
	pgx.Rows
	again func(error) (next pgx.Rows, more bool) // nil next: no other try
	given bool
}

// Next implements pgx.Rows.
func (r *retryRows) Next() bool {
	for !r.Rows.Next() {
		if !r.retry() {
			return false
		}
	}
	r.given = true
	return true
}

// Close implements pgx.Rows.
func (r *retryRows) Close() {
	r.Rows.Close()
	for r.retry() {
		r.Rows.Close()
	}
}

func (r *retryRows) retry() bool {
	if r.given || r.again == nil {
		return false
	}
	err := r.Err()
	if err == nil {
		return false
	}
	next, more := r.again(err)
	if !more {
		r.again = nil
	}
	if next == nil {
		return false
	}
	r.Rows = next
	return true
}

// retryResults send their batch again after a lock conflict, as long as no
// result was given out.
type retryResults struct {
	pgx.BatchResults
	again  func(error) (pgx.BatchResults, error)
	given  bool
	closed bool
	err    error // why it was not sent again
}

// retry sends the batch again.
func (r *retryResults) retry(err error) bool {
	_ = r.BatchResults.Close() // the same error
	next, err := r.again(err)
	if err != nil {
		r.err = err
		return false
	}
	r.BatchResults = next
	return true
}

// Exec implements pgx.BatchResults.
func (r *retryResults) Exec() (pgconn.CommandTag, error) {
	for {
		if r.err != nil {
			return pgconn.CommandTag{}, r.err
		}
		tag, err := r.BatchResults.Exec()
		if err == nil || r.given {
			r.given = true
			return tag, err
		}
		if !r.retry(err) {
			return tag, r.err
		}
	}
}

// Query implements pgx.BatchResults.
func (r *retryResults) Query() (pgx.Rows, error) {
	for {
		if r.err != nil {
			return failedRows(r.err), r.err
		}
		q, err := r.BatchResults.Query()
		switch {
		case r.given:
			return q, err
		case err == nil:
			r.given = true
			return &retryRows{Rows: q, again: func(err error) (pgx.Rows, bool) {
				if !r.retry(err) {
					return failedRows(r.err), false
				}
				q, _ := r.BatchResults.Query() // Err gives the error
				return q, true
			}}, nil
		case !r.retry(err):
			return failedRows(r.err), r.err
		}
	}
}

// QueryRow implements pgx.BatchResults.
func (r *retryResults) QueryRow() pgx.Row {
	q, _ := r.Query() // Scan gives the error
	return row{q}
}

// Close implements pgx.BatchResults.
func (r *retryResults) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	for r.err == nil {
		err := r.BatchResults.Close()
		if err == nil {
			return nil
		}
		if r.given {
			r.err = err
			break
		}
		if !r.retry(err) {
			break
		}
	}
	return r.err
}

// movesSavepoints tells whether a text of SQL sets, releases or goes back to a
// savepoint.
func movesSavepoints(sql string) bool {
	if !mayControl(sql) {
		return false
	}
	for s := (scanner{sql: sql, single: !strings.Contains(sql, ";")}); ; {
		words, more := s.statement()
		if len(words) > 0 {
			switch words[0] {
			case "savepoint", "release", "rollback":
				return true
			}
		}
		if !more {
			return false
		}
	}
}
