package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidgrpc"
)

const serviceCommand = "demo-service"

// serviceFlags are those of one service process.
type serviceFlags struct{ name, dsn, listen, server, stock, accounts string }

// ServiceCommand is the process of one service, started by the demo only.
func ServiceCommand() *cobra.Command {
	var f serviceFlags
	cmd := &cobra.Command{
		Use: serviceCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.name, "name", "", "orders, stock or accounts")
	cmd.Flags().StringVar(&f.dsn, "dsn", "", "database of the service")
	cmd.Flags().StringVar(&f.listen, "listen", "", "address")
	cmd.Flags().StringVar(&f.server, "server", "", "address of the coordinator")
	cmd.Flags().StringVar(&f.stock, "stock", "", "address of stock, for orders")
	cmd.Flags().StringVar(&f.accounts, "accounts", "", "address of accounts, for orders")
	return cmd
}

// serve runs a service until ctx ends or the demo, which holds the other end of
// standard input, is gone.
func serve(ctx context.Context, f serviceFlags) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	hf, err := client.Dial(f.server, client.WithName("demo/"+f.name))
	if err != nil {
		return err
	}
	defer hf.Close() //nolint:errcheck // the process ends
	pool, err := rm.Open(ctx, hf, f.dsn, rm.WithName(f.name))
	if err != nil {
		return err
	}
	defer pool.Close()
	// The interceptors take the XID from a call into its context.
	server := grpc.NewServer(xidgrpc.ServerOptions()...)
	switch f.name {
	case "orders":
		o, closeAll, err := newOrders(f, tm.New(hf), pool)
		if err != nil {
			return err
		}
		defer closeAll()
		shopv1.RegisterOrdersServer(server, o)
	case "stock":
		shopv1.RegisterStockServer(server, &stock{db: pool})
	case "accounts":
		shopv1.RegisterAccountsServer(server, &accounts{db: pool})
	default:
		return fmt.Errorf("--name: there is no service %q", f.name)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		server.Stop()
	}()
	fmt.Println("ready")
	err = server.Serve(l)
	cancel()
	<-stopped
	return err
}

// orders begins the global transaction and makes the first change.
type orders struct {
	shopv1.UnimplementedOrdersServer
	tm       *tm.Manager
	db       *rm.Pool
	stock    shopv1.StockClient
	accounts shopv1.AccountsClient
	held     chan string
	release  chan struct{}
}

func newOrders(f serviceFlags, m *tm.Manager, pool *rm.Pool) (*orders, func(), error) {
	// The interceptors send the XID of the context along.
	opts := append(xidgrpc.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	s, err := grpc.NewClient(f.stock, opts...)
	if err != nil {
		return nil, nil, err
	}
	a, err := grpc.NewClient(f.accounts, opts...)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	o := &orders{
		tm: m, db: pool, stock: shopv1.NewStockClient(s), accounts: shopv1.NewAccountsClient(a),
		held: make(chan string), release: make(chan struct{}),
	}
	return o, func() { _, _ = s.Close(), a.Close() }, nil
}

// Place makes an order in one global transaction over three databases.
func (o *orders) Place(ctx context.Context, r *shopv1.PlaceRequest) (*shopv1.PlaceResponse, error) {
	out := &shopv1.PlaceResponse{}
	err := o.tm.Do(ctx, func(ctx context.Context) error {
		id, _ := xid.FromContext(ctx)
		out.Xid = id.String()
		if _, err := o.db.Exec(ctx, "INSERT INTO orders (id, item, count, account, amount) VALUES ($1, $2, $3, $4, $5)",
			r.GetId(), r.GetItem(), r.GetCount(), r.GetAccount(), r.GetAmount()); err != nil {
			return err
		}
		if _, err := o.stock.Take(ctx, &shopv1.TakeRequest{Item: r.GetItem(), Count: r.GetCount()}); err != nil {
			return fmt.Errorf("stock: %w", err)
		}
		if _, err := o.accounts.Charge(ctx, &shopv1.ChargeRequest{Account: r.GetAccount(), Amount: r.GetAmount()}); err != nil {
			return fmt.Errorf("accounts: %w", err)
		}
		if r.GetHold() {
			return o.hold(ctx, out.GetXid())
		}
		return nil
	}, tm.WithName(fmt.Sprintf("order %d", r.GetId())))
	switch {
	case err == nil:
		out.Outcome = "committed"
		return out, nil
	case errors.Is(err, tm.ErrRolledBack):
		out.Outcome = "rolled back"
	default:
		out.Outcome = "unknown"
	}
	out.Error = err.Error()
	if c, ok := tm.FindLockConflict(err); ok {
		out.ConflictHolder = c.Holder.String()
	}
	return out, nil
}

func (o *orders) hold(ctx context.Context, id string) error {
	select {
	case o.held <- id:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-o.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AwaitHeld answers when an order has done everything but its commit.
func (o *orders) AwaitHeld(ctx context.Context, _ *shopv1.AwaitHeldRequest) (*shopv1.AwaitHeldResponse, error) {
	select {
	case id := <-o.held:
		return &shopv1.AwaitHeldResponse{Xid: id}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// Release lets the held order go on.
func (o *orders) Release(ctx context.Context, _ *shopv1.ReleaseRequest) (*shopv1.ReleaseResponse, error) {
	select {
	case o.release <- struct{}{}:
		return &shopv1.ReleaseResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

type stock struct {
	shopv1.UnimplementedStockServer
	db *rm.Pool
}

// Take takes items from stock in a local transaction, which is a branch because
// its context carries an XID.
func (s *stock) Take(ctx context.Context, r *shopv1.TakeRequest) (*shopv1.TakeResponse, error) {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // does nothing after the commit
	took, err := tx.Exec(ctx, "UPDATE stock SET count = count - $2 WHERE item = $1 AND count >= $2", r.GetItem(), r.GetCount())
	if err != nil {
		return nil, err
	}
	if took.RowsAffected() == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "not enough of %s", r.GetItem())
	}
	return &shopv1.TakeResponse{}, tx.Commit(ctx)
}

type accounts struct {
	shopv1.UnimplementedAccountsServer
	db *rm.Pool
}

// Charge takes money from an account, and refuses where it holds too little.
func (a *accounts) Charge(ctx context.Context, r *shopv1.ChargeRequest) (*shopv1.ChargeResponse, error) {
	paid, err := a.db.Exec(ctx, "UPDATE accounts SET balance = balance - $2 WHERE name = $1 AND balance >= $2", r.GetAccount(), r.GetAmount())
	if err != nil {
		return nil, err
	}
	if paid.RowsAffected() == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "account %s does not hold %d", r.GetAccount(), r.GetAmount())
	}
	return &shopv1.ChargeResponse{}, nil
}
