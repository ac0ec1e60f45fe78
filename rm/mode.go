package rm

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
)

// Mode is how a local transaction takes part in a global one. Branches of both
// modes mix in one global transaction.
type Mode uint8

// The modes.
const (
	// AT commits the local transaction at once, with undo rows beside the data. Its
	// row locks end there; what it changed is kept from others by the guard of
	// protected tables until the decision.
	AT Mode = iota + 1
	// XA prepares the local transaction (PREPARE TRANSACTION). It keeps its row
	// locks, and nobody sees what it changed, until the decision. It needs no
	// protected tables, so it may do what AT refuses: DDL, TRUNCATE, tables without
	// a key. The server needs max_prepared_transactions.
	XA
)

// String gives "AT" or "XA".
func (m Mode) String() string {
	switch m {
	case AT:
		return "AT"
	case XA:
		return "XA"
	default:
		return fmt.Sprintf("Mode(%d)", uint8(m))
	}
}

func (m Mode) known() bool { return m == AT || m == XA }

func (m Mode) wire() pb.Mode {
	if m == XA {
		return pb.Mode_MODE_XA
	}
	return pb.Mode_MODE_AT
}

// modeOf reads the mode of a command. One that this program does not know is
// refused: what it would do for it is surely wrong.
func modeOf(m pb.Mode) (Mode, error) {
	switch m { //nolint:exhaustive // all others are refused
	case pb.Mode_MODE_UNSPECIFIED, pb.Mode_MODE_AT:
		return AT, nil
	case pb.Mode_MODE_XA:
		return XA, nil
	default:
		return 0, fmt.Errorf("branches of mode %s are not known to this resource manager; it is too old", m)
	}
}

type modeKey struct{}

// ContextWithMode sets how local transactions begun with the context take part,
// whatever the pool's own mode is. It is for those that begin them without a
// Pool's BeginXA: single statements, and database/sql.
//
//	tx, err := db.BeginTx(rm.ContextWithMode(ctx, rm.XA), nil)
func ContextWithMode(ctx context.Context, m Mode) context.Context {
	return context.WithValue(ctx, modeKey{}, m)
}

// BeginXA begins a local transaction whose mode is XA: Commit prepares it. Where
// the context carries no XID it is an ordinary transaction, as with BeginTx.
func (e executor) BeginXA(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	return e.BeginTx(ContextWithMode(ctx, XA), o)
}

// modeIn is the mode of a local transaction that begins with the context.
func (p *Pool) modeIn(ctx context.Context) Mode {
	if m, ok := ctx.Value(modeKey{}).(Mode); ok {
		return m
	}
	return p.cfg.mode
}

// checkMode finds out in which mode a local transaction is to begin, and whether
// it can.
func (p *Pool) checkMode(ctx context.Context, o pgx.TxOptions) (Mode, error) {
	m := p.modeIn(ctx)
	switch {
	case !m.known():
		return 0, fmt.Errorf("handfast: ContextWithMode: %s, want AT or XA", m)
	case m == AT:
		return m, nil
	case o.CommitQuery != "":
		return 0, fmt.Errorf("handfast: TxOptions.CommitQuery %q: an XA transaction ends with PREPARE TRANSACTION", o.CommitQuery)
	}
	_, err := p.inspectXA(ctx)
	if err != nil {
		err = fmt.Errorf("handfast: %w", explainPooler(err))
	}
	return m, err
}

// inspectXA looks once whether XA can work, on a connection that settles: that one
// has to finish what others prepare.
func (p *Pool) inspectXA(ctx context.Context) (*undolog.XAInfo, error) {
	if i := p.xa.Load(); i != nil {
		return i, nil
	}
	var i undolog.XAInfo
	err := p.agent.do(ctx, func(ctx context.Context, s *settler) error {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		i, err = undolog.InspectXA(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !p.xa.CompareAndSwap(nil, &i) {
		return p.xa.Load(), nil
	}
	if free, want := i.Slots-i.Used, int(p.plain.Config().MaxConns); free < want {
		p.log.Warn("few places for prepared transactions: raise max_prepared_transactions and restart the server",
			"resource", p.resource, "max_prepared_transactions", i.Slots, "free", free, "connections_of_this_pool", want)
	}
	if len(i.Others) > 0 && !i.Superuser {
		p.log.Warn("transactions are prepared that this role can't finish: only the role that prepared one, or a superuser, can. "+
			"Let all services of a database use one role", "resource", p.resource, "role", i.Role, "owners", i.Others)
	}
	return &i, nil
}
