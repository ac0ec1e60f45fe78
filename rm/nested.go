package rm

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Begin implements pgx.Tx: it sets a savepoint. As the first thing in a
// transaction it travels with BEGIN, behind the arming.
func (tx *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := tx.check(ctx); err != nil {
		return nil, err
	}
	tx.savepoint++
	n := &nested{tx: tx, name: "handfast_sp_" + strconv.Itoa(tx.savepoint)}
	sql := "savepoint " + n.name
	if tx.marked {
		// It would lie inside of ours, and go with it.
		sql, tx.marked = "release savepoint "+mark+";"+sql, false
	}
	if _, err := tx.exec(ctx, tx.how(sql, nil), sql, nil); err != nil {
		return nil, err
	}
	return n, nil
}

// nested is a savepoint as a pgx.Tx.
type nested struct {
	tx     *Tx
	name   string
	closed bool
}

var _ pgx.Tx = (*nested)(nil)

func (n *nested) Begin(ctx context.Context) (pgx.Tx, error) {
	if n.closed {
		return nil, pgx.ErrTxClosed
	}
	return n.tx.Begin(ctx)
}

// Commit releases the savepoint.
func (n *nested) Commit(ctx context.Context) error { return n.end(ctx, "release savepoint ") }

// Rollback goes back to the savepoint.
func (n *nested) Rollback(ctx context.Context) error { return n.end(ctx, "rollback to savepoint ") }

func (n *nested) end(ctx context.Context, does string) error {
	if n.closed {
		return pgx.ErrTxClosed
	}
	if err := n.tx.check(ctx); err != nil {
		return err
	}
	n.tx.marked = false // ours lies inside of it
	_, err := n.tx.exec(ctx, plainly, does+n.name, nil)
	n.closed = true
	return err
}

func (n *nested) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if n.closed {
		return pgconn.CommandTag{}, pgx.ErrTxClosed
	}
	return n.tx.Exec(ctx, sql, args...)
}

func (n *nested) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if n.closed {
		return failedRows(pgx.ErrTxClosed), pgx.ErrTxClosed
	}
	return n.tx.Query(ctx, sql, args...)
}

func (n *nested) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if n.closed {
		return row{failedRows(pgx.ErrTxClosed)}
	}
	return n.tx.QueryRow(ctx, sql, args...)
}

func (n *nested) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if n.closed {
		return pgx.FailedBatchResults(b, pgx.ErrTxClosed)
	}
	return n.tx.SendBatch(ctx, b)
}

func (n *nested) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if n.closed {
		return 0, pgx.ErrTxClosed
	}
	return n.tx.CopyFrom(ctx, table, columns, src)
}

func (n *nested) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if n.closed {
		return nil, pgx.ErrTxClosed
	}
	return n.tx.Prepare(ctx, name, sql)
}

func (n *nested) LargeObjects() pgx.LargeObjects { return n.tx.LargeObjects() }
func (n *nested) Conn() *pgx.Conn                { return n.tx.Conn() }
