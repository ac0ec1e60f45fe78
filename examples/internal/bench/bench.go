package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/internal/pgserver"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// Quiet logs nothing: what the example says is all that is to be read.
var Quiet = slog.New(slog.DiscardHandler)

const (
	dirPrefix = "handfast-example-"
	patience  = 20 * time.Second // for what only ends
)

// Bench is a running Postgres and a running coordinator.
type Bench struct {
	Postgres    *pgserver.Server
	Coordinator *client.Client // of the example; Dial makes more
	Tx          *tm.Manager    // on Coordinator
	Address     string         // of the coordinator

	mu        sync.Mutex // of out
	out       io.Writer
	databases []*Database
	clean     []func() error
}

// Stage is what an example does on a bench.
type Stage func(ctx context.Context, b *Bench) error

// Main is the main function of an example.
func Main(name string, stage Stage) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := Run(ctx, os.Stdout, stage)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Run starts a bench, runs the stage on it, and stops the bench.
func Run(ctx context.Context, out io.Writer, stage Stage) (err error) {
	b := &Bench{out: out}
	defer func() { err = errors.Join(err, b.stop()) }()
	_, _ = fmt.Fprintln(out, "Starting Postgres and a coordinator ...")
	if err := b.start(ctx); err != nil {
		return err
	}
	return stage(ctx, b)
}

func (b *Bench) start(ctx context.Context) (err error) {
	if b.Postgres, err = pgserver.Start(ctx, pgserver.Options{Settings: map[string]string{
		"max_prepared_transactions": "50", // the default is 0: XA needs a place for each prepared transaction
	}}); err != nil {
		return err
	}
	b.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return b.Postgres.Stop(ctx)
	})
	if err := b.coordinate(ctx); err != nil {
		return err
	}
	b.Coordinator, err = b.Dial("example")
	b.Tx = tm.New(b.Coordinator)
	return err
}

func (b *Bench) stop() (err error) {
	for i := len(b.clean) - 1; i >= 0; i-- {
		err = errors.Join(err, b.clean[i]())
	}
	return err
}

// Cleanup has something called when the bench stops, the last first.
func (b *Bench) Cleanup(f func() error) { b.clean = append(b.clean, f) }

// coordinate runs a coordinator, as "handfast server" does.
func (b *Bench) coordinate(ctx context.Context) error {
	child.Sweep(os.TempDir(), dirPrefix)
	dir, err := child.MakeDir("", dirPrefix)
	if err != nil {
		return err
	}
	b.Cleanup(func() error { return os.RemoveAll(dir) })
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server, err := tc.NewServer(ctx, tc.Config{Listener: lis, StoreDir: dir, DrainTimeout: time.Second, Log: Quiet})
	if err != nil {
		return err
	}
	serving, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving) }()
	b.Cleanup(func() error { cancel(); return <-served })
	b.Address = lis.Addr().String()
	return nil
}

// Dial makes a connection to the coordinator, as another process would. It is closed
// with the bench, or before.
func (b *Bench) Dial(name string) (*client.Client, error) {
	c, err := client.Dial(b.Address, client.WithName(name), client.WithLogger(Quiet))
	if err != nil {
		return nil, err
	}
	b.Cleanup(c.Close)
	return c, nil
}

// Serve runs an HTTP service and gives its URL.
func (b *Bench) Serve(ctx context.Context, h http.Handler) (string, error) {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	b.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := errors.Join(server.Shutdown(ctx), server.Close())
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	})
	return "http://" + lis.Addr().String(), nil
}

// Nobody gets an answer that gets lost.
func Nobody() http.ResponseWriter { return nobody{} }

type nobody struct{}

func (nobody) Header() http.Header         { return http.Header{} }
func (nobody) Write(b []byte) (int, error) { return len(b), nil }
func (nobody) WriteHeader(int)             {}

// Undone expects a transaction that was rolled back, and waits until the rollback is
// carried out everywhere. It gives the error of the function that was run. A service
// need not wait: rows that are not settled yet make others wait.
func (b *Bench) Undone(ctx context.Context, err error) (cause, unexpected error) {
	rolledBack, ok := errors.AsType[*tm.RolledBackError](err)
	if !ok {
		return nil, fmt.Errorf("want it rolled back, got: %w", err)
	}
	_, err = b.Coordinator.Rollback(ctx, &pb.RollbackRequest{Xid: rolledBack.XID.String(), WaitSettled: true})
	return rolledBack.Cause, err
}

// Settled waits until all transactions that there are, whoever began them, are decided
// and carried out. It asks as an operator does ("handfast tx list").
func (b *Bench) Settled(ctx context.Context) error {
	conn, err := grpc.NewClient(b.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	list, err := pb.NewAdminClient(conn).List(ctx, &pb.ListRequest{PageSize: 1000})
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	for _, t := range list.GetTransactions() {
		id, err := xid.Parse(t.GetXid())
		if err != nil {
			return err
		}
		if err = b.Tx.Wait(ctx, id, tm.WithWaitSettled()); errors.Is(err, tm.ErrRolledBack) {
			_, err = b.Undone(ctx, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Title begins a scene.
func (b *Bench) Title(format string, args ...any) { b.print("\n"+format+"\n", args...) }

// Say prints a line. It may be called by services, concurrently.
func (b *Bench) Say(format string, args ...any) { b.print("  "+format+"\n", args...) }

func (b *Bench) print(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = fmt.Fprintf(b.out, format, args...)
}
