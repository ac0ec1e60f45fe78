package rm

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/xid"
)

// On makes a Conn of a connection of the plain pool that the caller holds and
// gives back itself, as an adapter for another interface does. Releasing the
// Conn does nothing.
func (p *Pool) On(conn *pgx.Conn) *Conn {
	return &Conn{own: conn, executor: executor{
		p: p, plain: conn, last: &lastTx{},
		acquire: func(context.Context) (*pgx.Conn, func(), error) { return conn, nil, nil },
	}}
}

// Do lets a library that works on the connection itself run one statement as
// Query would: run has to send sql on the connection of c, and to return when its
// result has begun, or with its error. Under an XID run is called again after a
// lock conflict, and it finds a transaction begun and armed.
//
// Where err is nil the caller reads the result to its end and then calls end
// with the error of that. end commits what Do began; its error is the result's.
func (c *Conn) Do(ctx context.Context, sql string, run func(context.Context) error) (end func(error) error, err error) {
	if tx := c.inside(); tx != nil {
		return tx.after, tx.do(ctx, sql, run)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return func(err error) error { return err }, run(ctx)
	}
	if seemsToRead(sql, nil) {
		end, err := c.doRead(ctx, run)
		if !triedToWrite(err) {
			return end, err
		}
	}
	tx, err := c.begin(ctx, x, pgx.TxOptions{})
	if err != nil {
		return nil, err
	}
	if err := tx.do(ctx, sql, run); err != nil {
		return nil, tx.finish(ctx, err)
	}
	return func(err error) error { return tx.finish(ctx, tx.after(err)) }, nil
}

// do is Exec for Do. What goes before the statement needs a round trip of its own:
// only run knows what is sent.
func (tx *Tx) do(ctx context.Context, sql string, run func(context.Context) error) error {
	if err := tx.check(ctx, sql); err != nil {
		return err
	}
	if err := tx.unmark(ctx, sql); err != nil {
		return tx.after(err)
	}
	for a := tx.attempt(sql, nil); ; {
		if err := tx.prepare(ctx, a.next()); err != nil {
			return err
		}
		err := tx.after(run(ctx))
		if err == nil {
			return nil
		}
		if err = a.back(ctx, err); err != nil {
			return err
		}
	}
}

func (tx *Tx) prepare(ctx context.Context, h how) error {
	switch h {
	case beginning:
		return tx.open(ctx)
	case marking:
		if _, err := tx.conn.Exec(ctx, strings.Join(tx.markSQL(), "; ")); err != nil {
			return tx.after(err)
		}
		tx.marked = true
	case plainly:
	}
	return nil
}

// doRead is read for Do. Nothing can go in one flush with what run sends.
func (c *Conn) doRead(ctx context.Context, run func(context.Context) error) (end func(error) error, err error) {
	conn, _, err := c.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if conn.PgConn().TxStatus() != 'I' {
		return nil, errInTransaction
	}
	if _, err := conn.Exec(ctx, "begin read only"); err != nil {
		return nil, err
	}
	end = func(err error) error {
		how := "commit"
		if err != nil {
			how = "rollback"
		}
		if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
			return err
		}
		if _, eerr := conn.Exec(ctx, how); err == nil {
			err = eerr
		}
		if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = conn.Close(cctx) // the error above says more
		}
		return err
	}
	if err := run(ctx); err != nil {
		return nil, end(err)
	}
	return end, nil
}
