package rm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// openTimeout bounds a BEGIN that has to be sent by a method without a context.
const openTimeout = 5 * time.Second

type txState int

const (
	txIdle   txState = iota // BEGIN is not sent yet; it goes with the first statement
	txOpen                  // begun and armed, or failed and waiting for its ROLLBACK
	txDead                  // its first statement failed before BEGIN took effect, or it was rolled back
	txLost                  // it ended behind our back
	txClosed                // committed or rolled back
)

// Tx is a local transaction that is a branch of a global one. It implements
// pgx.Tx. Like any pgx.Tx it must not be used concurrently.
//
// BEGIN is sent together with the first statement, so an error of BEGIN, or of
// joining the global transaction, appears there.
type Tx struct {
	p       *Pool
	x       xid.ID
	conn    *pgx.Conn
	release func()
	options pgx.TxOptions
	mode    Mode
	began   context.Context // of BeginTx, for the methods that have none

	branch    *branch // nil while idle
	state     txState
	cause     error // why it is dead
	savepoint int   // of those of the user, the number
	marked    bool  // our own savepoint is there, innermost
	raw       bool  // the connection was given out, so nobody knows
	notifies  bool  // of XA: it may have done what only PREPARE sees
}

var _ pgx.Tx = (*Tx)(nil)

// begin makes a Tx on a connection that is not in a transaction. It sends nothing.
func (p *Pool) begin(ctx context.Context, x xid.ID, o pgx.TxOptions, conn *pgx.Conn, release func()) (*Tx, error) {
	if err := checkCommitQuery(o); err != nil {
		return nil, err
	}
	if conn.PgConn().TxStatus() != 'I' {
		return nil, errInTransaction
	}
	mode, err := p.checkMode(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Tx{p: p, x: x, conn: conn, release: release, options: o, mode: mode, began: ctx}, nil
}

// Mode is how the local transaction takes part.
func (tx *Tx) Mode() Mode { return tx.mode }

// XID is the global transaction that the local one belongs to.
func (tx *Tx) XID() xid.ID { return tx.x }

// check is done before each statement of the user.
func (tx *Tx) check(ctx context.Context, sql ...string) error {
	switch tx.state {
	case txClosed:
		return pgx.ErrTxClosed
	case txDead:
		return fmt.Errorf("handfast: %w (an earlier statement failed: %w)", errAborted, tx.cause)
	case txLost:
		return ErrTransactionLost
	case txIdle, txOpen:
	}
	if x, ok := xid.FromContext(ctx); ok && x != tx.x {
		return fmt.Errorf("%w: %s, the local transaction belongs to %s", ErrOtherTransaction, x, tx.x)
	}
	for _, s := range sql {
		if c := control(s); c != "" {
			return fmt.Errorf("handfast: %w: %s; use the methods of the pool and of the transaction", ErrTransactionControl, c)
		}
		tx.notifies = tx.notifies || tx.mode == XA && mayNotify(s)
	}
	return nil
}

var errInTransaction = errors.New("handfast: the connection is in a transaction already")

// errAborted is what Postgres says to any statement of a failed transaction.
var errAborted error = &pgconn.PgError{
	Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "25P02",
	Message: "current transaction is aborted, commands ignored until end of transaction block",
}

// prologue is what goes before the first statement, and starts the registration.
func (tx *Tx) prologue() (begin, arm string, args []any, err error) {
	b := &pgx.Batch{}
	b.BeginTx(tx.options) // only pgx knows the text
	if tx.branch == nil {
		if tx.branch, err = tx.p.startBranch(tx.x, tx.mode); err != nil {
			return "", "", nil, err
		}
	}
	o := undolog.ArmOptions{LockTimeout: tx.p.cfg.lockTimeout}
	if tx.mode == XA {
		arm, args = undolog.BeginXA(tx.x, tx.branch.id, o)
	} else {
		arm, args = undolog.Arm(tx.x, tx.branch.id, o)
	}
	for i, a := range args {
		// Modes that do not ask the server for types can't encode raw bytes.
		if id, ok := a.([16]byte); ok {
			args[i] = xid.BranchID(id).String()
		}
	}
	tx.state = txOpen
	return b.QueuedQueries[0].SQL, arm, args, nil
}

// first is called with the result of the flush that held BEGIN, once all of it
// is read.
func (tx *Tx) first(err error) error {
	if tx.conn.IsClosed() || tx.conn.PgConn().TxStatus() != 'I' {
		return tx.after(err)
	}
	if err == nil {
		tx.state = txLost
		return ErrTransactionLost
	}
	// With plain pgx BEGIN would have worked and the statement have failed.
	tx.state, tx.cause = txDead, err
	return mapError(tx.x, err)
}

// after is called with the result of every other statement.
func (tx *Tx) after(err error) error {
	if !tx.conn.IsClosed() && tx.conn.PgConn().TxStatus() == 'I' && tx.state == txOpen {
		tx.state = txLost
		if err == nil {
			return ErrTransactionLost
		}
		return errors.Join(ErrTransactionLost, err)
	}
	return mapError(tx.x, err)
}

// send sends queries in one flush, behind what is to go before them. The results
// of that are read when the first of the others is asked for.
func (tx *Tx) send(ctx context.Context, h how, queries ...*pgx.QueuedQuery) (*flushResults, error) {
	b := &pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 2+len(queries))}
	r := &flushResults{tx: tx, how: h}
	if h == beginning {
		begin, arm, args, err := tx.prologue()
		if err != nil {
			return nil, err
		}
		b.Queue(begin)
		b.Queue(arm, args...)
	} else {
		for _, sql := range tx.markSQL() {
			b.Queue(sql)
		}
		tx.marked = true
	}
	r.hidden = b.Len()
	b.QueuedQueries = append(b.QueuedQueries, queries...)
	r.BatchResults = tx.conn.SendBatch(ctx, b)
	return r, nil
}

// open sends BEGIN and arm alone.
func (tx *Tx) open(ctx context.Context) error {
	br, err := tx.send(ctx, beginning)
	if err != nil {
		return err
	}
	return br.Close()
}

// exec sends a statement once.
func (tx *Tx) exec(ctx context.Context, h how, sql string, args []any) (pgconn.CommandTag, error) {
	switch {
	case h == plainly:
		tag, err := tx.conn.Exec(ctx, sql, args...)
		return tag, tx.after(err)
	case len(args) == 0 && !isName(sql):
		return tx.execText(ctx, h, sql)
	case hasOptions(args):
		if err := tx.open(ctx); err != nil {
			return pgconn.CommandTag{}, err
		}
		return tx.exec(ctx, plainly, sql, args)
	}
	br, err := tx.send(ctx, h, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := br.Exec()
	if cerr := br.Close(); err == nil {
		err = cerr
	}
	return tag, mapError(tx.x, err)
}

// execText sends a statement without arguments. pgx sends such a one as plain
// text, which may hold several statements; what goes before becomes part of it.
func (tx *Tx) execText(ctx context.Context, h how, sql string) (pgconn.CommandTag, error) {
	if h == marking {
		before := strings.Join(tx.markSQL(), ";") + ";\n"
		tx.marked = true
		tag, err := tx.conn.Exec(ctx, before+sql)
		return tag, tx.after(shifted(err, len(before)))
	}
	begin, arm, args, err := tx.prologue()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	arm, err = inline(arm, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	before := begin + "\n;" + arm + ";\n"
	tag, err := tx.conn.Exec(ctx, before+sql)
	return tag, tx.first(shifted(err, len(before)))
}

// shifted makes the position in an error that of the user's own text.
func shifted(err error, before int) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && int(pg.Position) > before {
		pg.Position -= int32(before)
	}
	return err
}

// hasOptions tells whether arguments begin with what a pgx.Batch can't carry.
func hasOptions(args []any) bool {
	for _, a := range args {
		switch a.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return true
		case pgx.QueryRewriter:
		default:
			return false
		}
	}
	return false
}

// query sends a query once. It never returns a nil *rows.
func (tx *Tx) query(ctx context.Context, h how, sql string, args []any) (*rows, error) {
	if h == beginning && (hasOptions(args) || sql == "") {
		if err := tx.open(ctx); err != nil {
			return failedRows(err), err
		}
		h = plainly
	}
	if h == plainly {
		r, err := tx.conn.Query(ctx, sql, args...)
		if err != nil {
			err = tx.after(err)
		}
		return &rows{Rows: r, tx: tx, err: err, done: err != nil}, err
	}
	br, err := tx.send(ctx, h, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return failedRows(err), err
	}
	r, err := br.Query()
	if err != nil {
		_ = br.Close() // the same error
		err = mapError(tx.x, err)
		return &rows{Rows: r, tx: tx, err: err, done: true}, err
	}
	return &rows{Rows: r, tx: tx, flush: br}, nil
}

// sendBatch sends a batch once.
func (tx *Tx) sendBatch(ctx context.Context, h how, b *pgx.Batch) pgx.BatchResults {
	if h == plainly {
		return &laterResults{BatchResults: tx.conn.SendBatch(ctx, b), tx: tx}
	}
	br, err := tx.send(ctx, h, b.QueuedQueries...)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return br
}

// CopyFrom implements pgx.Tx. As a first statement it costs a round trip more:
// COPY can't follow another statement in one flush. It is never tried again
// after a conflict: its source can't be read twice.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if err := tx.check(ctx); err != nil {
		return 0, err
	}
	if tx.state == txIdle {
		if err := tx.open(ctx); err != nil {
			return 0, err
		}
	}
	n, err := tx.conn.CopyFrom(ctx, table, columns, src)
	return n, tx.after(err)
}

// Prepare implements pgx.Tx.
func (tx *Tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := tx.check(ctx, sql); err != nil {
		return nil, err
	}
	if tx.state == txIdle {
		if err := tx.open(ctx); err != nil {
			return nil, err
		}
	}
	d, err := tx.conn.Prepare(ctx, name, sql)
	return d, tx.after(err)
}

// LargeObjects implements pgx.Tx. Changes to large objects can't be captured,
// so every method of the result fails with pgx.ErrTxClosed.
func (tx *Tx) LargeObjects() pgx.LargeObjects {
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(b, pgx.ErrTxClosed).Tx().LargeObjects()
}

// Conn implements pgx.Tx. The connection is in the armed transaction; when that
// can't be begun it is closed. What ends the transaction through it makes
// Commit and Rollback fail with ErrTransactionLost. From then on no statement is
// tried again after a conflict, for nobody knows which savepoints there are.
func (tx *Tx) Conn() *pgx.Conn {
	tx.raw = true
	if tx.state != txIdle {
		return tx.conn
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.began), openTimeout)
	defer cancel()
	if err := tx.open(ctx); err != nil {
		tx.p.log.Warn("a transaction could not be begun; its connection is closed", "xid", tx.x, "error", err)
		_ = tx.conn.Close(ctx) // it is unusable, which is what matters
	}
	return tx.conn
}

// end gives the connection back and tells the branch's goroutine.
func (tx *Tx) end(v pb.Vote) {
	tx.state = txClosed
	if tx.branch != nil {
		tx.branch.vote(v)
	}
	if tx.release != nil {
		tx.release()
	}
}
