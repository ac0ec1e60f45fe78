package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/handfast/handfast/internal/child"
)

const dirPrefix = "handfast-example-"

// coordinator is "handfast dev" as a process. It can't run in this one: its messages of
// DTM's protocol, and those of DTM's client, have the same names.
type coordinator struct {
	dtm    string // URL for DTM's client
	native string // address for Handfast's own

	proc *child.Process
	dir  string // of the program
}

// startCoordinator builds the program from the sources around this directory, and runs
// it on free ports.
func startCoordinator(ctx context.Context) (c *coordinator, err error) {
	child.Sweep("", dirPrefix)
	c = &coordinator{}
	if c.dir, err = child.MakeDir("", dirPrefix); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	program := filepath.Join(c.dir, "handfast")
	build := exec.CommandContext(ctx, "go", "build", "-o", c.dir+string(filepath.Separator), "./cmd/handfast")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return c, fmt.Errorf("go build: %w\n%s", err, out)
	}
	said, out, err := os.Pipe()
	if err != nil {
		return c, err
	}
	cmd := exec.Command(program, "dev", "--listen", "127.0.0.1:0", "--dtm-http", "127.0.0.1:0", "--dtm-grpc", "127.0.0.1:0") //nolint:noctx // its life is not that of a context
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	c.proc, err = child.Start(cmd, syscall.SIGTERM)
	if err = errors.Join(err, out.Close()); err != nil {
		return c, errors.Join(err, said.Close())
	}
	listens := make(chan error, 1)
	go func() { // ends with the process
		listens <- c.addresses(said)
		_, _ = io.Copy(io.Discard, said) // or it can't write any more
		_ = said.Close()
	}()
	select {
	case err := <-listens:
		return c, err
	case <-ctx.Done():
		return c, ctx.Err()
	}
}

// addresses reads what the program says until it has told both.
func (c *coordinator) addresses(said io.Reader) error {
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if addr, ok := strings.CutPrefix(lines.Text(), "Coordinator at "); ok {
			c.native, _, _ = strings.Cut(addr, ";")
		}
		if addr, ok := strings.CutPrefix(lines.Text(), "DTM's clients: "); ok {
			c.dtm, _, _ = strings.Cut(addr, " ")
			return nil
		}
	}
	return errors.New("handfast dev has ended")
}

// stop ends the process, which removes its store.
func (c *coordinator) stop() error {
	if c.proc != nil {
		c.proc.Interrupt()
		select {
		case <-c.proc.Done():
		case <-time.After(patience):
			c.proc.Kill()
		}
	}
	return os.RemoveAll(c.dir)
}
