package rm

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/xid"
)

// plainDB is what a pgxpool.Pool and a pgxpool.Conn have in common.
type plainDB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error)
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// executor runs statements on a pool, or on one connection of it.
type executor struct {
	p       *Pool
	plain   plainDB
	acquire func(ctx context.Context) (conn *pgx.Conn, release func(), err error)
	last    *lastTx // nil for a pool
}

// lastTx is the transaction begun last on a connection. While it is open,
// statements on the connection run inside of it, as with plain pgx.
type lastTx struct{ tx *Tx }

func (e executor) inside() *Tx {
	if e.last == nil || e.last.tx == nil || e.last.tx.state == txClosed {
		return nil
	}
	return e.last.tx
}

// Begin begins a local transaction.
func (e executor) Begin(ctx context.Context) (pgx.Tx, error) {
	return e.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx begins a local transaction. Where the context carries an XID it is a
// branch of that global transaction, and a *Tx; one that is to be read only is
// the plain pool's and no branch.
func (e executor) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	if e.inside() != nil {
		return nil, errInTransaction
	}
	x, ok := xid.FromContext(ctx)
	if !ok || (o.AccessMode == pgx.ReadOnly && o.BeginQuery == "") {
		return e.p.wrap(e.plain.BeginTx(ctx, o))
	}
	tx, err := e.begin(ctx, x, o)
	if err != nil {
		return nil, err
	}
	if e.last != nil {
		e.last.tx = tx
	}
	return tx, nil
}

func (e executor) begin(ctx context.Context, x xid.ID, o pgx.TxOptions) (*Tx, error) {
	conn, release, err := e.acquire(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := e.p.begin(ctx, x, o, conn, release)
	if err != nil && release != nil {
		release()
	}
	return tx, err
}

// Exec runs a statement. Under an XID it is a local transaction of its own; on
// a lock conflict it waits and runs again until the lock timeout.
func (e executor) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if tx := e.inside(); tx != nil {
		return tx.Exec(ctx, sql, args...)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return e.plain.Exec(ctx, sql, args...)
	}
	for w := e.p.newWaiter(x); ; {
		tag, err := e.execOnce(ctx, x, sql, args)
		if err == nil {
			return tag, nil
		}
		again, err := w.again(ctx, err)
		if !again {
			return tag, err
		}
	}
}

func (e executor) execOnce(ctx context.Context, x xid.ID, sql string, args []any) (pgconn.CommandTag, error) {
	tx, err := e.begin(ctx, x, pgx.TxOptions{})
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	// Not tx.Exec: while it waits, a statement of its own needs no connection.
	if err := tx.check(ctx, sql); err != nil {
		return pgconn.CommandTag{}, tx.finish(ctx, err)
	}
	tag, err := tx.exec(ctx, beginning, sql, args)
	return tag, tx.finish(ctx, err)
}

// finish commits, or rolls back after an error.
func (tx *Tx) finish(ctx context.Context, err error) error {
	if err == nil {
		return tx.Commit(ctx)
	}
	if rerr := tx.Rollback(ctx); errors.Is(rerr, ErrTransactionLost) {
		return errors.Join(err, rerr)
	}
	return err
}

// Query runs a query. Under an XID it is a local transaction of its own, which
// is committed when the rows are closed or read to their end; Rows.Err tells
// whether it was.
func (e executor) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if tx := e.inside(); tx != nil {
		return tx.Query(ctx, sql, args...)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return e.plain.Query(ctx, sql, args...)
	}
	return e.query(ctx, e.p.newWaiter(x), sql, args)
}

// QueryRow runs a query for its first row. Under an XID it is a local
// transaction of its own, which Scan commits.
func (e executor) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if tx := e.inside(); tx != nil {
		return tx.QueryRow(ctx, sql, args...)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return e.plain.QueryRow(ctx, sql, args...)
	}
	r, _ := e.query(ctx, e.p.newWaiter(x), sql, args) // Scan gives the error
	return row{r}
}

func (e executor) query(ctx context.Context, w *waiter, sql string, args []any) (pgx.Rows, error) {
	if !seemsToRead(sql, args) || e.p.mustPrepare(ctx, sql) {
		return e.queryBranch(ctx, w, sql, args)
	}
	r, err := e.read(ctx, sql, args)
	if triedToWrite(err) {
		return e.queryBranch(ctx, w, sql, args)
	}
	return &retryRows{Rows: r, again: func(err error) (pgx.Rows, bool) {
		if !triedToWrite(err) {
			return nil, false
		}
		r, _ := e.queryBranch(ctx, w, sql, args) // Err gives the error
		return r, false                          // it tries again by itself
	}}, err
}

func (e executor) queryBranch(ctx context.Context, w *waiter, sql string, args []any) (pgx.Rows, error) {
	for {
		r, err := e.queryOnce(ctx, w.x, sql, args)
		if err == nil {
			return &retryRows{Rows: r, again: func(err error) (pgx.Rows, bool) {
				again, err := w.again(ctx, err)
				if !again {
					return failedRows(err), false
				}
				r, _ := e.queryBranch(ctx, w, sql, args) // Err gives the error
				return r, false                          // it tries again by itself
			}}, nil
		}
		again, err := w.again(ctx, err)
		if !again {
			return failedRows(err), err
		}
	}
}

func (e executor) queryOnce(ctx context.Context, x xid.ID, sql string, args []any) (pgx.Rows, error) {
	tx, err := e.begin(ctx, x, pgx.TxOptions{})
	if err != nil {
		return failedRows(err), err
	}
	if err := tx.check(ctx, sql); err != nil {
		err = tx.finish(ctx, err)
		return failedRows(err), err
	}
	r, err := tx.query(ctx, beginning, sql, args)
	if err != nil {
		r.err = tx.finish(ctx, err)
		return r, r.err
	}
	r.finish = func(err error) error { return tx.finish(ctx, err) }
	return r, nil
}

// SendBatch sends a batch. Under an XID it is a local transaction of its own,
// which closing the results commits: the error of Close tells whether it was.
func (e executor) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if tx := e.inside(); tx != nil {
		return tx.SendBatch(ctx, b)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return e.plain.SendBatch(ctx, b)
	}
	tx, err := e.begin(ctx, x, pgx.TxOptions{})
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return &ownResults{BatchResults: tx.SendBatch(ctx, b), end: func(err error) error { return tx.finish(ctx, err) }}
}

// CopyFrom copies rows into a table. Under an XID it is a local transaction of
// its own.
func (e executor) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if tx := e.inside(); tx != nil {
		return tx.CopyFrom(ctx, table, columns, src)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return e.plain.CopyFrom(ctx, table, columns, src)
	}
	tx, err := e.begin(ctx, x, pgx.TxOptions{})
	if err != nil {
		return 0, err
	}
	n, err := tx.CopyFrom(ctx, table, columns, src)
	return n, tx.finish(ctx, err)
}

// ownResults are the results of a batch with a transaction of its own.
type ownResults struct {
	pgx.BatchResults
	end    func(error) error
	closed bool
	err    error
}

// Close implements pgx.BatchResults.
func (r *ownResults) Close() error {
	if !r.closed {
		r.closed = true
		r.err = r.end(r.BatchResults.Close())
	}
	return r.err
}
