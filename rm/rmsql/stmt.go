package rmsql

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"

	"github.com/jackc/pgx/v5/stdlib"
)

// stmt is a prepared statement. pgx finds it by its text, so it is run as if
// it were not prepared.
type stmt struct {
	driver.Stmt // stdlib's, for Close and NumInput
	c           *Conn
	query       string
}

var (
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

// stmt gives nil for what was not prepared.
func (c *Conn) stmt(s driver.Stmt, query string) driver.Stmt {
	if s == nil {
		return nil
	}
	return &stmt{Stmt: s, c: c, query: query}
}

// ExecContext implements driver.StmtExecContext.
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.query, args)
}

// QueryContext implements driver.StmtQueryContext.
func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.query, args)
}

// rows is a result under an XID. Closing it ends what was begun for it;
// database/sql closes at the end of the rows, and has Rows.Err tell of it.
type rows struct {
	*stdlib.Rows
	end  func(error) error
	done bool
	err  error
}

var (
	_ driver.Rows                           = (*rows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
)

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error { return r.next(r.Rows.Next(dest)) }

// NextRow takes the place of Next from Go 1.27 on, where stdlib's rows have it.
func (r *rows) NextRow() error {
	n, ok := any(r.Rows).(interface{ NextRow() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return r.next(n.NextRow())
}

// next gives an error in the middle of the rows its type, and rolls back what
// was begun for them.
func (r *rows) next(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	r.finish(err)
	return r.err
}

// Close implements driver.Rows.
func (r *rows) Close() error {
	r.finish(nil)
	return r.err
}

// finish ends the result, and what was begun for it. err is why it ends early.
func (r *rows) finish(err error) {
	if r.done {
		return
	}
	r.done = true
	if cerr := r.Rows.Close(); cerr != nil {
		err = cerr
	}
	r.err = r.end(err)
}
