// Command transfer-xa moves money between two banks in XA mode: each bank's local
// transaction is prepared (PREPARE TRANSACTION), and the coordinator decides. It
// brings everything along that it needs: run it with
//
//	go run ./examples/transfer-xa
//
// The interesting part is transfer.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/undolog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "transfer-xa:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing to do any more
	}
}

// bench is what the example runs on.
type bench struct {
	banks
	pg    *pgserver.Server
	dsn   map[string]string
	clean []func() error
}

func run(ctx context.Context, out io.Writer) (err error) {
	_, _ = fmt.Fprintln(out, "Starting Postgres and a coordinator ...")
	b, err := start(ctx)
	defer func() { err = errors.Join(err, b.stop()) }()
	if err != nil {
		return err
	}
	for _, step := range []struct {
		title string
		run   func(context.Context, io.Writer) error
	}{
		{"A transfer of 30", b.commits},
		{"A transfer of 500, which the account does not hold", b.rollsBack},
		{"A transfer of 20, and Postgres crashes before the decision", b.survives},
	} {
		_, _ = fmt.Fprintf(out, "\n%s\n", step.title)
		if err := step.run(ctx, out); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		if err := b.show(ctx, out, "  afterwards"); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) commits(ctx context.Context, out io.Writer) error {
	return b.transfer(ctx, 30, func(ctx context.Context) error { return b.show(ctx, out, "  both prepared") })
}

func (b *bench) rollsBack(ctx context.Context, out io.Writer) error {
	err := b.transfer(ctx, 500, nil)
	if !errors.Is(err, tm.ErrRolledBack) {
		return fmt.Errorf("got %w, want it rolled back", err)
	}
	_, _ = fmt.Fprintln(out, "  rolled back: the balance may not be negative")
	return nil
}

func (b *bench) survives(ctx context.Context, out io.Writer) error {
	return b.transfer(ctx, 20, func(ctx context.Context) error {
		b.pg.Kill()
		if err := b.pg.Restart(ctx); err != nil {
			return err
		}
		b.north.Reset()
		b.south.Reset()
		return b.show(ctx, out, "  after the restart")
	})
}

// show prints what a plain session sees.
func (b *bench) show(ctx context.Context, out io.Writer, when string) error {
	var line string
	for _, bank := range []string{"north", "south"} {
		conn, err := pgx.Connect(ctx, b.dsn[bank])
		if err != nil {
			return err
		}
		var balance, prepared int
		err = conn.QueryRow(ctx, `SELECT (SELECT sum(balance) FROM account),
			(SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())`).Scan(&balance, &prepared)
		if err = errors.Join(err, conn.Close(ctx)); err != nil {
			return err
		}
		line += fmt.Sprintf("   %s: %3d, prepared: %d", bank, balance, prepared)
	}
	_, err := fmt.Fprintf(out, "%-20s%s\n", when, line)
	return err
}

// start always gives a bench, to be stopped.
func start(ctx context.Context) (b *bench, err error) {
	b = &bench{dsn: map[string]string{}}
	if b.pg, err = pgserver.Start(ctx, pgserver.Options{Settings: map[string]string{
		"max_prepared_transactions": "50", // the default is 0: XA needs a place for each prepared transaction
	}}); err != nil {
		return b, err
	}
	b.clean = append(b.clean, func() error { return b.pg.Stop(context.Background()) })
	coordinator, err := b.coordinator(ctx)
	if err != nil {
		return b, err
	}
	b.tx = tm.New(coordinator)
	if b.north, err = b.bank(ctx, coordinator, "north", `INSERT INTO account VALUES ('anna', 100)`); err != nil {
		return b, err
	}
	b.south, err = b.bank(ctx, coordinator, "south", `INSERT INTO account VALUES ('bert', 0)`)
	return b, err
}

func (b *bench) stop() (err error) {
	for i := len(b.clean) - 1; i >= 0; i-- {
		err = errors.Join(err, b.clean[i]())
	}
	return err
}

// coordinator runs one in this process, as "handfast server" does, and dials it.
func (b *bench) coordinator(ctx context.Context) (*client.Client, error) {
	dir, err := os.MkdirTemp("", "handfast-transfer-")
	if err != nil {
		return nil, err
	}
	b.clean = append(b.clean, func() error { return os.RemoveAll(dir) })
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server, err := tc.NewServer(ctx, tc.Config{Listener: lis, StoreDir: dir, DrainTimeout: time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	serving, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving) }()
	b.clean = append(b.clean, func() error { cancel(); return <-served })
	c, err := client.Dial(lis.Addr().String())
	if err == nil {
		b.clean = append(b.clean, c.Close)
	}
	return c, err
}

// bank makes a database with the schema handfast, as "handfast pg install" does. No
// table needs protection.
func (b *bench) bank(ctx context.Context, c *client.Client, name, accounts string) (*rm.Pool, error) {
	dsn, err := b.pg.CreateDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	b.dsn[name] = dsn
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	err = undolog.Install(ctx, conn)
	if err == nil {
		_, err = conn.Exec(ctx, `CREATE TABLE account (owner text PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));
			CREATE TABLE journal (at timestamptz, what text); `+accounts)
	}
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, err
	}
	p, err := rm.Open(ctx, c, dsn, rm.WithMode(rm.XA), rm.WithLogger(slog.New(slog.DiscardHandler)))
	if err == nil {
		b.clean = append(b.clean, func() error { p.Close(); return nil })
	}
	return p, err
}
