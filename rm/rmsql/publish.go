package rmsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

// Execer is a local transaction: a *sql.Tx of a DB of this package, a *sql.Conn on which
// one was begun, or what is made of these and has their method, such as a *sqlx.Tx, a
// bun.Tx, or the ConnPool of a GORM statement.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Publish is rm.Publish for a local transaction of database/sql: messages are delivered
// exactly if it commits or, where it belongs to a global transaction, if that does. What
// is published after a SAVEPOINT goes with it. Results of tx have to be closed before.
//
// Errors are those of rm.Publish; rm.ErrForeignTx is also for a tx that is no transaction,
// rm.ErrOtherTransaction for a context with an XID that tx was begun without.
func Publish(ctx context.Context, tx Execer, messages ...target.Target) error {
	return through(ctx, tx, func(ctx context.Context, tx pgx.Tx) error { return rm.Publish(ctx, tx, messages...) })
}

// PublishMessage is rm.PublishMessage for a local transaction of database/sql. Errors are
// those of rm.PublishMessage and of Publish.
func PublishMessage(ctx context.Context, tx Execer, m *message.Message) (id xid.ID, err error) {
	err = through(ctx, tx, func(ctx context.Context, tx pgx.Tx) (err error) {
		id, err = rm.PublishMessage(ctx, tx, m)
		return err
	})
	return id, err
}

// carrier is what Publish executes. A driver that is not of this package, to which its
// argument means nothing, can prepare it and then refuses the argument, so that the
// transaction goes on.
const carrier = "SELECT $1::text /* handfast: publish */"

// errand takes a function to the connection of a transaction, which database/sql shows to
// nobody: it is the argument of a statement.
type errand struct {
	run     func(ctx context.Context, tx pgx.Tx) error
	foreign bool // another driver has looked at it
}

func through(ctx context.Context, tx Execer, run func(context.Context, pgx.Tx) error) error {
	e := &errand{run: run}
	_, err := tx.ExecContext(ctx, carrier, e)
	if e.foreign {
		return fmt.Errorf("handfast: publish: %w: it is a %T of another driver", rm.ErrForeignTx, tx)
	}
	return err
}

// Value implements driver.Valuer, for drivers that are not of this package.
func (e *errand) Value() (driver.Value, error) {
	e.foreign = true
	return nil, rm.ErrForeignTx
}

// errandIn finds the function that a statement carries.
func errandIn(args []driver.NamedValue) *errand {
	if len(args) != 1 {
		return nil
	}
	e, _ := args[0].Value.(*errand)
	return e
}

// do runs the function in the transaction of the connection.
func (c *Conn) do(ctx context.Context, e *errand) (driver.Result, error) {
	if c.tx == nil {
		return nil, fmt.Errorf("handfast: publish: %w: there is none; begin one", rm.ErrForeignTx)
	}
	if _, err := c.route(ctx); err != nil {
		return nil, err
	}
	return driver.RowsAffected(0), e.run(ctx, c.tx.tx)
}
