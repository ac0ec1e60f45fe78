package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidgrpc"
)

// orders begins the global transaction, in whichever mode, and writes the order.
type orders struct {
	shopv1.UnimplementedOrdersServer
	tm       *tm.Manager
	db       *rm.Pool
	gate     *gate
	at       serviceFlags // the addresses
	stock    shopv1.StockClient
	accounts shopv1.AccountsClient
}

func newOrders(f serviceFlags, hf *client.Client, pool *rm.Pool, g *gate) (*orders, func(), error) {
	s, err := dial(f.stock, xidgrpc.DialOptions()...)
	if err != nil {
		return nil, nil, err
	}
	a, err := dial(f.accounts, xidgrpc.DialOptions()...)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	o := &orders{
		tm: tm.New(hf), db: pool, gate: g, at: f,
		stock: shopv1.NewStockClient(s), accounts: shopv1.NewAccountsClient(a),
	}
	group := handlers.New(ordersGroup)
	workflow.Register(group, o.tm, placing, o.flow)
	detach, err := group.Attach(hf)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close(), a.Close())
	}
	return o, func() { detach(); _, _ = s.Close(), a.Close() }, nil
}

// dial connects to a service that may be dead for a while: calls wait for it, and
// it is found soon after its start. Options for the XID: xidgrpc.DialOptions, which
// send that of the context along.
func dial(addr string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	b := backoff.DefaultConfig
	b.BaseDelay, b.MaxDelay = 20*time.Millisecond, 200*time.Millisecond
	return grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: b, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))...)
}

// Place makes an order over three databases.
func (o *orders) Place(ctx context.Context, r *shopv1.PlaceRequest) (*shopv1.PlaceResponse, error) {
	place, ok := map[shopv1.Mode]func(context.Context, *shopv1.PlaceRequest, *shopv1.PlaceResponse) error{
		shopv1.Mode_MODE_AT: o.branches, shopv1.Mode_MODE_XA: o.branches, shopv1.Mode_MODE_TCC: o.reserved,
		shopv1.Mode_MODE_SAGA: o.saga, shopv1.Mode_MODE_MESSAGE: o.published, shopv1.Mode_MODE_WORKFLOW: o.remembered,
		shopv1.Mode_MODE_MIXED: o.mixed,
	}[r.GetMode()]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "mode: %s is none that an order can be made in", r.GetMode())
	}
	out := &shopv1.PlaceResponse{Outcome: committed}
	err := place(ctx, r, out)
	if err == nil {
		return out, nil
	}
	out.Error, out.Outcome = err.Error(), "unknown"
	if errors.Is(err, tm.ErrRolledBack) || errors.Is(err, errNotCommitted) {
		out.Outcome = rolledBack
	}
	if c, ok := tm.FindLockConflict(err); ok {
		out.ConflictHolder = c.Holder.String()
	}
	return out, nil
}

func orderName(r *shopv1.PlaceRequest) string { return fmt.Sprintf("order %d", r.GetId()) }

// insert writes the order. It is called with a pool and with a local transaction.
func insert(ctx context.Context, db interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}, r *shopv1.PlaceRequest,
) error {
	_, err := db.Exec(ctx, "INSERT INTO orders (id, item, count, account, amount) VALUES ($1, $2, $3, $4, $5)",
		r.GetId(), r.GetItem(), r.GetCount(), r.GetAccount(), r.GetAmount())
	return err
}

// Write adds the row alone: a step of a saga, so it is fenced.
func (o *orders) Write(ctx context.Context, r *shopv1.PlaceRequest) (*shopv1.WriteResponse, error) {
	call, err := fence.FromGRPC(ctx)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &shopv1.WriteResponse{}, o.write(ctx, call, r)
}

func (o *orders) write(ctx context.Context, call fence.Call, r *shopv1.PlaceRequest) error {
	_, err := fence.Run(ctx, o.db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		return nil, insert(ctx, tx, r)
	})
	return err
}

// within runs the parts of an order in one global transaction, up to its commit.
func (o *orders) within(ctx context.Context, r *shopv1.PlaceRequest, out *shopv1.PlaceResponse, parts func(context.Context) error) error {
	return o.tm.Do(ctx, func(ctx context.Context) error {
		id, _ := xid.FromContext(ctx)
		out.Xid = id.String()
		if err := parts(ctx); err != nil {
			return err
		}
		return o.gate.at(ctx, beforeCommit, out.GetXid())
	}, tm.WithName(orderName(r)))
}

// branches makes the order in AT or XA mode: each service writes plain SQL.
func (o *orders) branches(ctx context.Context, r *shopv1.PlaceRequest, out *shopv1.PlaceResponse) error {
	prepare := r.GetMode() == shopv1.Mode_MODE_XA
	return o.within(ctx, r, out, func(ctx context.Context) error {
		own := ctx
		if prepare {
			own = rm.ContextWithMode(ctx, rm.XA)
		}
		if err := insert(own, o.db, r); err != nil {
			return err
		}
		if _, err := o.stock.Take(ctx, &shopv1.TakeRequest{Item: r.GetItem(), Count: r.GetCount(), Prepare: prepare}); err != nil {
			return fmt.Errorf("stock: %w", err)
		}
		if _, err := o.accounts.Charge(ctx, &shopv1.ChargeRequest{Account: r.GetAccount(), Amount: r.GetAmount(), Prepare: prepare}); err != nil {
			return fmt.Errorf("accounts: %w", err)
		}
		return nil
	})
}
