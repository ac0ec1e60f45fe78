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
		return tx.after, tx.doAgain(ctx, sql, run)
	}
	x, ok := xid.FromContext(ctx)
	if !ok {
		return func(err error) error { return err }, run(ctx)
	}
	if seemsToRead(sql, nil) && !c.p.mustPrepare(ctx, sql) {
		end, err := c.doRead(ctx, run)
		if !triedToWrite(err) {
			return end, err
		}
	}
	for w := c.p.newWaiter(x); ; {
		tx, err := c.begin(ctx, x, pgx.TxOptions{})
		if err != nil {
			return nil, err
		}
		if err = tx.check(ctx, sql); err == nil {
			// Not doAgain: while it waits, a statement of its own needs no connection.
			err = tx.do(ctx, beginning, run)
		}
		if err == nil {
			return func(err error) error { return tx.finish(ctx, tx.after(err)) }, nil
		}
		again, err := w.again(ctx, tx.finish(ctx, err))
		if !again {
			return nil, err
		}
	}
}

// doAgain is Exec for Do.
func (tx *Tx) doAgain(ctx context.Context, sql string, run func(context.Context) error) error {
	if err := tx.check(ctx, sql); err != nil {
		return err
	}
	if err := tx.unmark(ctx, sql); err != nil {
		return tx.after(err)
	}
	for a := tx.attempt(sql, nil); ; {
		err := tx.do(ctx, a.next(), run)
		if err == nil {
			return nil
		}
		if err = a.back(ctx, err); err != nil {
			return err
		}
	}
}

// do runs something once. What goes before it can't go in one flush with it.
func (tx *Tx) do(ctx context.Context, h how, run func(context.Context) error) error {
	switch h {
	case beginning:
		if err := tx.open(ctx); err != nil {
			return err
		}
	case marking:
		sql := strings.Join(tx.markSQL(), ";")
		tx.marked = true
		if _, err := tx.conn.Exec(ctx, sql); err != nil {
			return tx.after(err)
		}
	case plainly:
	}
	return tx.after(run(ctx))
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
