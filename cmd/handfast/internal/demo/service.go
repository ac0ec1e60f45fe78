package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/rm"
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
	g := newGate(os.Getenv(holdEnv))
	// The interceptors take the XID from a call into its context.
	server := grpc.NewServer(xidgrpc.ServerOptions()...)
	shopv1.RegisterControlServer(server, g)
	plain := http.NotFoundHandler()
	switch f.name {
	case "orders":
		o, closeAll, err := newOrders(f, hf, pool, g)
		if err != nil {
			return err
		}
		defer closeAll()
		shopv1.RegisterOrdersServer(server, o)
	case "stock":
		s := newStock(pool, g)
		plain = s.routes()
		shopv1.RegisterStockServer(server, s)
	case "accounts":
		a := newAccounts(pool, g)
		plain = a.routes()
		shopv1.RegisterAccountsServer(server, a)
	default:
		return fmt.Errorf("--name: there is no service %q", f.name)
	}
	return listen(ctx, f.listen, server, plain)
}

// listen serves gRPC and plain HTTP on one port until ctx ends.
func listen(ctx context.Context, addr string, g *grpc.Server, plain http.Handler) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				g.ServeHTTP(w, r)
				return
			}
			plain.ServeHTTP(w, r)
		}),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	closed := make(chan error, 1)
	go func() {
		<-ctx.Done()
		closed <- server.Close()
	}()
	fmt.Println("ready")
	err = server.Serve(l)
	cancel()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-closed)
}
