//go:build unix

package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// account is a user that the server runs under.
type account struct{ uid, gid int }

// unprivileged picks a user where this process is root; nil: the own user will do.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil is the own user
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &account{uid: uid, gid: gid}, nil
	}
	return nil, errors.New("postgres refuses to run as root, and there is neither a user postgres nor nobody")
}

// apply makes the command run under the account.
func (a *account) apply(cmd *exec.Cmd) {
	if a != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	}
}

// watch is what the watchdog runs. A line on its input means that the server was
// stopped in order; the end of the input alone, that the parent died.
const watch = `read -r x && exit
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
	kill -INT "$pid"
	n=0
	while kill -0 "$pid" && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
	kill -KILL "$pid"
fi
rm -rf -- "$1"`

// guard starts a watchdog that stops the server in dir and removes dir when this
// process dies, however that happens. release ends the watchdog.
func guard(u *account, dir string) (release func() error, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("watchdog of postgres: %w", err)
	}
	cmd := exec.Command("/bin/sh", "-c", watch, "sh", dir) //nolint:noctx // it has to outlive this process
	cmd.Stdin, cmd.Dir = r, "/"
	u.apply(cmd)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // the terminal's Ctrl-C is not for it
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watchdog of postgres: %w", err), w.Close())
	}
	return sync.OnceValue(func() error {
		_, err := w.WriteString("stopped\n")
		return errors.Join(err, w.Close(), cmd.Wait())
	}), nil
}

// killFamily ends a server and its backends with SIGKILL. Each backend leads a
// process group of its own, so a signal to the server's group would miss them.
func killFamily(pid int) {
	_ = syscall.Kill(pid, syscall.SIGSTOP) // no new backends meanwhile
	for _, c := range children(pid) {
		_ = syscall.Kill(c, syscall.SIGKILL)
	}
}

func children(pid int) []int {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output() //nolint:noctx // it takes milliseconds
	if err != nil {
		return nil // they notice by themselves that the server is gone
	}
	var all []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 || f[1] != strconv.Itoa(pid) {
			continue
		}
		if c, err := strconv.Atoi(f[0]); err == nil {
			all = append(all, c)
		}
	}
	return all
}
