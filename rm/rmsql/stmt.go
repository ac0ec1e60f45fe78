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

// rows is a result under an XID. It ends what was begun for it: at its end, so
// that database/sql's Rows.Err tells of it, or when it is closed.
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
func (r *rows) Next(dest []driver.Value) error {
	if r.done {
		return r.after()
	}
	return r.next(r.Rows.Next(dest))
}

// NextRow takes the place of Next from Go 1.27 on, where stdlib's rows have it.
func (r *rows) NextRow() error {
	if r.done {
		return r.after()
	}
	n, ok := any(r.Rows).(interface{ NextRow() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return r.next(n.NextRow())
}

// next looks at how going to the next row went.
func (r *rows) next(err error) error {
	if err == nil {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		r.finish(err)
		return r.err
	}
	r.finish(nil)
	return r.after()
}

// finish ends the result, and what was begun for it; err is why it ends early.
func (r *rows) finish(err error) {
	r.done = true
	if cerr := r.Rows.Close(); cerr != nil {
		err = cerr
	}
	r.err = r.end(err)
}

func (r *rows) after() error {
	if r.err != nil {
		return r.err
	}
	return io.EOF
}

// Close implements driver.Rows.
func (r *rows) Close() error {
	if !r.done {
		r.finish(nil)
	}
	return r.err
}
