package main

import (
	"bufio"
	"context"
	"encoding/json"
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
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/handfast")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return c, fmt.Errorf("go build: %w\n%s", err, out)
	}
	log, out, err := os.Pipe()
	if err != nil {
		return c, err
	}
	cmd := exec.Command(program, "dev", "--listen", "127.0.0.1:0", //nolint:noctx // its life is not that of a context
		"--dtm-http", "127.0.0.1:0", "--dtm-grpc", "127.0.0.1:0", "--log-format", "json", "--log-level", "info")
	cmd.Stderr = out
	c.proc, err = child.Start(cmd, syscall.SIGTERM)
	if err = errors.Join(err, out.Close()); err != nil {
		return c, errors.Join(err, log.Close())
	}
	return c, c.listening(ctx, log)
}

// listening reads the log until it tells both addresses, and has the rest read.
func (c *coordinator) listening(ctx context.Context, log io.ReadCloser) error {
	found := make(chan error, 1)
	go func() { // ends with the process, whose log ends then
		defer func() { _ = log.Close() }()
		var read strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			var line struct{ Msg, Address, HTTP string }
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				read.WriteString(lines.Text() + "\n")
				continue
			}
			switch line.Msg {
			case "serving":
				c.native = line.Address
			case "serving DTM's clients":
				c.dtm = "http://" + line.HTTP + "/api/dtmsvr"
			}
			if c.native != "" && c.dtm != "" {
				found <- nil
				_, _ = io.Copy(io.Discard, log)
				return
			}
		}
		found <- fmt.Errorf("handfast dev has ended: %s", read.String())
	}()
	select {
	case err := <-found:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
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
