package rmsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/xid"
)

// rollbackTimeout bounds a ROLLBACK, which is sent also when the context of its
// transaction has ended, so that the connection can be used again.
const rollbackTimeout = 5 * time.Second

// Conn is a connection as database/sql sees it. sql.Conn.Raw gives it to those
// who want more than database/sql offers. It must not be used concurrently.
type Conn struct {
	std *stdlib.Conn
	rm  *rm.Conn
	tx  *tx // nil outside of a transaction
}

var (
	_ driver.Conn               = (*Conn)(nil)
	_ driver.ConnBeginTx        = (*Conn)(nil)
	_ driver.ConnPrepareContext = (*Conn)(nil)
	_ driver.ExecerContext      = (*Conn)(nil)
	_ driver.QueryerContext     = (*Conn)(nil)
	_ driver.NamedValueChecker  = (*Conn)(nil)
	_ driver.Pinger             = (*Conn)(nil)
	_ driver.SessionResetter    = (*Conn)(nil)
	_ driver.Validator          = (*Conn)(nil)
)

// Conn is the connection underneath, like that of a *stdlib.Conn. What is done
// with it is part of a global transaction only inside of one that was begun by
// BeginTx.
func (c *Conn) Conn() *pgx.Conn {
	if c.tx != nil {
		if b, ok := c.tx.tx.(*rm.Tx); ok {
			return b.Conn()
		}
	}
	return c.std.Conn()
}

// route tells who runs a statement: rm, or stdlib alone.
func (c *Conn) route(ctx context.Context) (byRM bool, err error) {
	x, under := xid.FromContext(ctx)
	switch {
	case c.tx == nil:
		return under, nil
	case c.tx.branch:
		return true, nil
	case under && !c.tx.readOnly:
		return false, fmt.Errorf("handfast: %w (%s): its local transaction was begun without it; give the context to BeginTx",
			rm.ErrOtherTransaction, x)
	}
	return false, nil
}

// broken tells whether database/sql may be told to take another connection:
// nothing was sent, and no branch is lost with this one.
func (c *Conn) broken() bool { return c.std.Conn().IsClosed() && (c.tx == nil || !c.tx.branch) }

// Begin implements driver.Conn.
func (c *Conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx implements driver.ConnBeginTx.
func (c *Conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.broken() {
		return nil, driver.ErrBadConn
	}
	_, under := xid.FromContext(ctx)
	if c.tx != nil && (under || c.tx.branch) {
		return nil, errors.New("handfast: the connection is in a transaction already")
	}
	var po pgx.TxOptions
	if o.ReadOnly {
		po.AccessMode = pgx.ReadOnly
	}
	switch sql.IsolationLevel(o.Isolation) {
	case sql.LevelDefault:
	case sql.LevelReadUncommitted:
		po.IsoLevel = pgx.ReadUncommitted
	case sql.LevelReadCommitted:
		po.IsoLevel = pgx.ReadCommitted
	case sql.LevelRepeatableRead, sql.LevelSnapshot:
		po.IsoLevel = pgx.RepeatableRead
	case sql.LevelSerializable:
		po.IsoLevel = pgx.Serializable
	case sql.LevelWriteCommitted, sql.LevelLinearizable:
		fallthrough
	default:
		return nil, fmt.Errorf("unsupported isolation: %v", o.Isolation) // stdlib's words
	}
	t, err := c.rm.BeginTx(ctx, po)
	if err != nil {
		return nil, err
	}
	if !under || o.ReadOnly {
		c.tx = &tx{Tx: plain{ctx, t}, c: c, readOnly: o.ReadOnly, tx: t}
	} else {
		c.tx = &tx{Tx: branch{ctx, t}, c: c, branch: true, tx: t}
	}
	return c.tx, nil
}

// tx ends a transaction of either kind.
type tx struct {
	driver.Tx
	c        *Conn
	branch   bool
	readOnly bool
	tx       pgx.Tx // of package rm
}

// Commit implements driver.Tx.
func (t *tx) Commit() error {
	t.c.tx = nil
	return t.Tx.Commit()
}

// Rollback implements driver.Tx.
func (t *tx) Rollback() error {
	t.c.tx = nil
	return t.Tx.Rollback()
}

// plain is a transaction without a branch, with the context that began it. It ends as
// that of stdlib does.
type plain struct {
	ctx context.Context
	tx  pgx.Tx
}

// Commit implements driver.Tx.
func (p plain) Commit() error { return p.tx.Commit(p.ctx) }

// Rollback implements driver.Tx.
func (p plain) Rollback() error { return p.tx.Rollback(p.ctx) }

// branch is a transaction of package rm with the context that began it.
type branch struct {
	ctx context.Context
	tx  pgx.Tx
}

// Commit implements driver.Tx.
func (b branch) Commit() error { return b.tx.Commit(b.ctx) }

// Rollback implements driver.Tx.
func (b branch) Rollback() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), rollbackTimeout)
	defer cancel()
	return b.tx.Rollback(ctx)
}

// ExecContext implements driver.ExecerContext.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.broken() {
		return nil, driver.ErrBadConn
	}
	if e := errandIn(args); e != nil {
		return c.do(ctx, e)
	}
	byRM, err := c.route(ctx)
	if err != nil {
		return nil, err
	}
	if !byRM {
		return c.std.ExecContext(ctx, query, args)
	}
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a.Value
	}
	tag, err := c.rm.Exec(ctx, query, values...)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

// QueryContext implements driver.QueryerContext.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.broken() {
		return nil, driver.ErrBadConn
	}
	byRM, err := c.route(ctx)
	if err != nil {
		return nil, err
	}
	if !byRM {
		return c.std.QueryContext(ctx, query, args)
	}
	var std *stdlib.Rows
	end, err := c.rm.Do(ctx, query, func(ctx context.Context) error {
		r, err := c.std.QueryContext(ctx, query, args)
		if err != nil {
			return notBad(ctx, err)
		}
		std, err = stdRows(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &rows{Rows: std, end: end}, nil
}

func stdRows(r driver.Rows) (*stdlib.Rows, error) {
	s, ok := r.(*stdlib.Rows)
	if !ok {
		_ = r.Close() // nobody can read it
		return nil, fmt.Errorf("handfast: pgx gave rows of type %T", r)
	}
	return s, nil
}

// notBad keeps database/sql from running something again under an XID. stdlib
// says ErrBadConn where its own statement was not sent; but ours were.
func notBad(ctx context.Context, err error) error {
	if !errors.Is(err, driver.ErrBadConn) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errors.New("handfast: the connection broke before the statement could be sent")
}

// PrepareContext implements driver.ConnPrepareContext. What is prepared is run
// under the XID of the context of each run.
func (c *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.broken() {
		return nil, driver.ErrBadConn
	}
	var s driver.Stmt
	prepare := func(ctx context.Context) (err error) {
		s, err = c.std.PrepareContext(ctx, query)
		return err
	}
	if c.tx == nil || !c.tx.branch {
		err := prepare(ctx) // it changes nothing, so it needs no branch
		return c.stmt(s, query), err
	}
	_, err := c.rm.Do(ctx, query, func(ctx context.Context) error { return notBad(ctx, prepare(ctx)) })
	return c.stmt(s, query), err
}

// Prepare implements driver.Conn.
func (c *Conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *Conn) CheckNamedValue(v *driver.NamedValue) error { return c.std.CheckNamedValue(v) }

// Ping implements driver.Pinger.
func (c *Conn) Ping(ctx context.Context) error {
	err := c.std.Ping(ctx)
	if c.tx != nil && c.tx.branch {
		return notBad(ctx, err)
	}
	return err
}

// ResetSession implements driver.SessionResetter.
func (c *Conn) ResetSession(ctx context.Context) error {
	if c.tx != nil {
		return driver.ErrBadConn
	}
	return c.std.ResetSession(ctx)
}

// IsValid implements driver.Validator: only a connection that is outside of any
// transaction goes to somebody else.
func (c *Conn) IsValid() bool {
	conn := c.std.Conn()
	return c.tx == nil && !conn.IsClosed() && conn.PgConn().TxStatus() == 'I'
}

// Close implements driver.Conn. A transaction that is still open is rolled back.
func (c *Conn) Close() error {
	if c.tx != nil {
		_ = c.tx.Rollback() // the pool closes what is still in a transaction
	}
	return c.std.Close()
}
