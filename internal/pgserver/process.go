package pgserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// process is a child that dies with this process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	stop sync.Once
	free chan struct{} // closed to give up the thread that holds it
}

// startProcess runs a program in a process group of its own. Where the system
// can do it, the child gets a signal when the thread that started it ends; so
// that thread is kept for it, for as long as it runs.
func startProcess(u *account, dir string, out io.Writer, name string, args ...string) (*process, error) {
	p := &process{done: make(chan struct{}), free: make(chan struct{})}
	started := make(chan error, 1)
	go func() { // ends after release, or when the start failed
		runtime.LockOSThread()
		p.cmd = exec.Command(name, args...) //nolint:noctx // its life is not that of a context
		p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
		p.cmd.Env = append(os.Environ(), "PGDATA=", "LC_ALL=C")
		u.apply(p.cmd)
		dieWithParent(p.cmd)
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		go func() {
			_ = p.cmd.Wait()
			close(p.done)
		}()
		select {
		case <-p.free:
		case <-p.done:
		}
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) release() { p.stop.Do(func() { close(p.free) }) }

// interrupt asks PostgreSQL for a fast shutdown.
func (p *process) interrupt() { _ = p.cmd.Process.Signal(os.Interrupt) }

func (p *process) kill() {
	killGroup(p.cmd.Process)
	<-p.done
}

const dirPrefix = "handfast-pg-"

// makeDir makes a directory whose name tells whose it is.
func makeDir(u *account) (string, error) {
	base := os.TempDir()
	if u != nil {
		// TMPDIR may be closed to the other user.
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", fmt.Errorf("directory for postgres: %w", err)
	}
	if u != nil {
		if err := os.Chown(dir, u.uid, u.gid); err != nil {
			return "", errors.Join(fmt.Errorf("directory for postgres: %w", err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// sweep removes what processes left that were killed.
func sweep() {
	for _, base := range []string{os.TempDir(), "/tmp"} {
		dirs, err := filepath.Glob(filepath.Join(base, dirPrefix+"*"))
		if err != nil {
			continue
		}
		for _, d := range dirs {
			pid, _, ok := strings.Cut(strings.TrimPrefix(filepath.Base(d), dirPrefix), "-")
			if n, err := strconv.Atoi(pid); ok && err == nil && !alive(n) {
				_ = os.RemoveAll(d)
			}
		}
	}
}
