package rm

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows gives the errors of a result their types. Where something went before the
// statement it also reads the flush to its end before it is done.
type rows struct {
	pgx.Rows
	tx     *Tx
	flush  *flushResults     // nil where the query was sent alone
	finish func(error) error // ends a transaction made for these rows
	done   bool
	err    error
}

func failedRows(err error) *rows { return &rows{Rows: errRows{err}, done: true, err: err} }

// Close implements pgx.Rows.
func (r *rows) Close() {
	if r.done {
		return
	}
	r.done = true
	r.Rows.Close()
	err := r.Rows.Err()
	if r.flush != nil {
		if cerr := r.flush.Close(); err == nil {
			err = cerr
		}
		r.err = mapError(r.tx.x, err)
	} else {
		r.err = r.tx.after(err)
	}
	if r.finish != nil {
		r.err = r.finish(r.err)
	}
}

// Err implements pgx.Rows.
func (r *rows) Err() error {
	if r.done {
		return r.err
	}
	return mapError(r.tx.x, r.Rows.Err())
}

// Next implements pgx.Rows.
func (r *rows) Next() bool {
	if r.done {
		return false
	}
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Scan implements pgx.Rows. As with pgx an error closes the rows.
func (r *rows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// Values implements pgx.Rows.
func (r *rows) Values() ([]any, error) {
	v, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return v, err
}

// row is rows as a pgx.Row.
type row struct{ pgx.Rows }

// Scan implements pgx.Row.
func (r row) Scan(dest ...any) error {
	// A panic in a Scanner must not keep the connection.
	defer r.Close()
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return fmt.Errorf("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !r.Next() {
		if err := r.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.Rows.Scan(dest...); err != nil {
		return err
	}
	r.Close()
	return r.Err()
}

type errRows struct{ err error }

func (errRows) Close()                                       {}
func (e errRows) Err() error                                 { return e.err }
func (errRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (errRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (errRows) Next() bool                                   { return false }
func (e errRows) Scan(...any) error                          { return e.err }
func (e errRows) Values() ([]any, error)                     { return nil, e.err }
func (errRows) RawValues() [][]byte                          { return nil }
func (errRows) Conn() *pgx.Conn                              { return nil }
func (errRows) TypeMap() *pgtype.Map                         { return nil }

// flushResults are the results of a flush in which something went before what
// the user sent. It hides the results of that.
type flushResults struct {
	pgx.BatchResults
	tx     *Tx
	how    how  // what goes before
	hidden int  // of how many statements that is
	ready  bool // they are read
	err    error
	closed bool
}

// prepare reads the results that the user did not ask for.
func (r *flushResults) prepare() error {
	if r.ready {
		return r.err
	}
	r.ready = true
	for i := range r.hidden {
		if _, err := r.BatchResults.Exec(); err != nil {
			if _, early := errors.AsType[pgx.ErrPreprocessingBatch](err); !early {
				err = fmt.Errorf("handfast: %s: %w", r.how.part(i), err)
			}
			r.err = err
			return err
		}
	}
	return nil
}

// Exec implements pgx.BatchResults.
func (r *flushResults) Exec() (pgconn.CommandTag, error) {
	if err := r.prepare(); err != nil {
		return pgconn.CommandTag{}, mapError(r.tx.x, err)
	}
	tag, err := r.BatchResults.Exec()
	return tag, mapError(r.tx.x, err)
}

// Query implements pgx.BatchResults.
func (r *flushResults) Query() (pgx.Rows, error) {
	if err := r.prepare(); err != nil {
		err = mapError(r.tx.x, err)
		return errRows{err}, err
	}
	q, err := r.BatchResults.Query()
	return &batchRows{Rows: q, tx: r.tx}, mapError(r.tx.x, err)
}

// QueryRow implements pgx.BatchResults.
func (r *flushResults) QueryRow() pgx.Row {
	q, _ := r.Query() // Scan gives the error
	return row{q}
}

// Close implements pgx.BatchResults.
func (r *flushResults) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	err := r.prepare()
	if cerr := r.BatchResults.Close(); err == nil {
		err = cerr
	}
	if r.how == beginning {
		r.err = r.tx.first(err)
	} else {
		r.err = r.tx.after(err)
	}
	return r.err
}

// laterResults are those of a batch that was sent alone.
type laterResults struct {
	pgx.BatchResults
	tx     *Tx
	err    error
	closed bool
}

// Exec implements pgx.BatchResults.
func (r *laterResults) Exec() (pgconn.CommandTag, error) {
	tag, err := r.BatchResults.Exec()
	return tag, mapError(r.tx.x, err)
}

// Query implements pgx.BatchResults.
func (r *laterResults) Query() (pgx.Rows, error) {
	q, err := r.BatchResults.Query()
	return &batchRows{Rows: q, tx: r.tx}, mapError(r.tx.x, err)
}

// QueryRow implements pgx.BatchResults.
func (r *laterResults) QueryRow() pgx.Row {
	q, _ := r.Query() // Scan gives the error
	return row{q}
}

// Close implements pgx.BatchResults.
func (r *laterResults) Close() error {
	if r.closed {
		return r.err
	}
	r.closed = true
	r.err = r.tx.after(r.BatchResults.Close())
	return r.err
}

// batchRows is one result of a batch. Closing it does not end the batch.
type batchRows struct {
	pgx.Rows
	tx *Tx
}

// Err implements pgx.Rows.
func (r *batchRows) Err() error { return mapError(r.tx.x, r.Rows.Err()) }
