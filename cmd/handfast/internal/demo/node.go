package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/handfast/handfast/internal/child"
)

// node is one process, and how to start it again.
type node struct {
	name string
	addr string
	args []string
	log  output

	proc  *child.Process
	stdin io.WriteCloser
}

// startLimit bounds how long a process may take until it listens.
const startLimit = 30 * time.Second

// start runs the process and waits until it listens.
func (n *node) start(ctx context.Context, env ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, n.args...) //nolint:noctx // its life is not that of a context
	cmd.Stdout, cmd.Stderr = &n.log, &n.log
	// Settings of the person's shell are not for these processes.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, env...)
	if n.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if n.proc, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", n.addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-n.proc.Done():
			return fmt.Errorf("%s ended at once: %w\n%s", n.name, n.proc.Err(), n.log.String())
		case <-ctx.Done():
			n.kill()
			return fmt.Errorf("%s does not listen: %w\n%s", n.name, ctx.Err(), n.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (n *node) pid() int { return n.proc.PID() }

// kill is kill -9.
func (n *node) kill() {
	if n.proc != nil {
		n.proc.Kill()
		_ = n.stdin.Close()
		n.proc = nil
	}
}

// awaitEnd waits until the process has ended by itself.
func (n *node) awaitEnd(ctx context.Context) error {
	select {
	case <-n.proc.Done():
		_ = n.stdin.Close()
		n.proc = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s is still running: %w", n.name, ctx.Err())
	}
}

// output keeps the last part of what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > 64<<10 {
		o.buf.Reset()
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
