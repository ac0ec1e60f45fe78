package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/tm"
)

// workerEnv has this program be a desk in a process of its own.
const workerEnv = "HANDFAST_EXAMPLE_WORKER"

// place is what a desk has to know.
type place struct{ Coordinator, Database, Bank string }

// hire starts a desk in a process of its own.
func hire(b *bench.Bench, name string, at place) (*child.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	settings, err := json.Marshal(at)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self) //nolint:noctx // it is ended by Kill
	cmd.Env = append(os.Environ(), workerEnv+"="+string(settings))
	cmd.Stdout, cmd.Stderr = b.Lines(name), b.Lines(name)
	p, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	b.Cleanup(func() error {
		select {
		case <-p.Done():
		default:
			p.Kill()
		}
		return nil
	})
	return p, nil
}

// work is the process.
func work(settings string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var at place
	if err := json.Unmarshal([]byte(settings), &at); err != nil {
		return err
	}
	coordinator, err := client.Dial(at.Coordinator, client.WithLogger(bench.Quiet))
	if err != nil {
		return err
	}
	defer func() { _ = coordinator.Close() }()
	db, err := pgxpool.New(ctx, at.Database)
	if err != nil {
		return err
	}
	defer db.Close()
	d := &desk{tx: tm.New(coordinator), db: db, bank: at.Bank, log: bench.LogTo(os.Stdout)}
	detach, err := d.offers().Attach(coordinator)
	if err != nil {
		return err
	}
	defer detach()
	<-ctx.Done()
	return nil
}
