package pgserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/handfast/handfast/internal/child"
)

// startServer runs a program of PostgreSQL that gets a fast shutdown when this
// process ends.
func startServer(u *account, dir string, out io.Writer, name string, args ...string) (*child.Process, error) {
	cmd := exec.Command(name, args...) //nolint:noctx // its life is not that of a context
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), "PGDATA=", "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second // a backend that outlives the server holds the output open
	u.apply(cmd)
	return child.Start(cmd, syscall.SIGINT)
}

const dirPrefix = "handfast-pg-"

// memoryDir is where files lie in memory, on Linux.
const memoryDir = "/dev/shm"

// bases are where makeDir makes directories.
func bases() []string { return []string{os.TempDir(), "/tmp", memoryDir} }

// makeDir makes a directory whose name tells whose it is.
func makeDir(u *account, scratch bool) (string, error) {
	base := os.TempDir()
	if u != nil {
		base = "/tmp" // TMPDIR may be closed to the other user
	}
	if scratch && roomInMemory() {
		base = memoryDir
	}
	dir, err := child.MakeDir(base, dirPrefix)
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
