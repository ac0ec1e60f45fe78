package rm

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// seemsToRead tells whether a single query is worth trying in a read-only
// transaction, which needs no branch. It may be wrong: Postgres refuses to write
// in one, with readOnlyState, and the query is then run as a branch.
func seemsToRead(sql string, args []any) bool {
	if hasOptions(args) || strings.Contains(sql, ";") {
		return false
	}
	s := scanner{sql: sql, single: true}
	words, _ := s.statement()
	if len(words) == 0 {
		return false
	}
	switch words[0] {
	case "select", "table", "values", "show":
	default:
		return false
	}
	// A locking clause only costs a round trip where this overlooks it.
	low := strings.ToLower(sql)
	return !strings.Contains(low, "for update") && !strings.Contains(low, "for no key update") &&
		!strings.Contains(low, "for share") && !strings.Contains(low, "for key share")
}

const readOnlyState = "25006" // read_only_sql_transaction

func triedToWrite(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == readOnlyState
}

// read runs a query in a read-only transaction, all in one flush.
func (e executor) read(ctx context.Context, sql string, args []any) (*readRows, error) {
	conn, release, err := e.acquire(ctx)
	if err != nil {
		return &readRows{Rows: errRows{err}, done: true, err: err}, err
	}
	if release == nil {
		release = func() {}
	}
	if conn.PgConn().TxStatus() != 'I' {
		release()
		return &readRows{Rows: errRows{errInTransaction}, done: true, err: errInTransaction}, errInTransaction
	}
	b := &pgx.Batch{}
	b.Queue("begin read only")
	b.Queue(sql, args...)
	b.Queue("commit")
	r := &readRows{ctx: ctx, conn: conn, release: release, br: conn.SendBatch(ctx, b)}
	if _, err := r.br.Exec(); err != nil {
		r.Rows = errRows{err}
		r.Close()
		return r, r.err
	}
	q, err := r.br.Query()
	r.Rows = q
	if err != nil {
		r.Close()
		return r, r.err
	}
	return r, nil
}

// readRows are the rows of read.
type readRows struct {
	pgx.Rows
	ctx     context.Context
	conn    *pgx.Conn
	release func()
	br      pgx.BatchResults
	done    bool
	err     error
}

// Close implements pgx.Rows.
func (r *readRows) Close() {
	if r.done {
		return
	}
	r.done = true
	r.Rows.Close()
	r.err = r.Rows.Err()
	if err := r.br.Close(); r.err == nil {
		r.err = err
	}
	if !r.conn.IsClosed() && r.conn.PgConn().TxStatus() != 'I' {
		if _, err := r.conn.Exec(r.ctx, "rollback"); err != nil && !r.conn.IsClosed() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), time.Second)
			_ = r.conn.Close(ctx) // the query's error says more
			cancel()
		}
	}
	r.release()
}

// Err implements pgx.Rows.
func (r *readRows) Err() error {
	if r.done {
		return r.err
	}
	return r.Rows.Err()
}

// Next implements pgx.Rows.
func (r *readRows) Next() bool {
	if r.done {
		return false
	}
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Scan implements pgx.Rows.
func (r *readRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// Values implements pgx.Rows.
func (r *readRows) Values() ([]any, error) {
	v, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return v, err
}
