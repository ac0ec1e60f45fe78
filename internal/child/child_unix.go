//go:build unix

package child

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

func attributes(cmd *exec.Cmd) *syscall.SysProcAttr {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	return cmd.SysProcAttr
}

// ownGroup keeps the terminal's Ctrl-C from the child: its parent ends it.
func ownGroup(cmd *exec.Cmd) { attributes(cmd).Setpgid = true }

// killGroup kills a child and what it started.
func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// watch reads a line when the child has ended, and nothing but the end of its
// input when the parent has.
const watch = `read -r x || kill -"$2" "$1"`

// guard starts a shell that sends sig to the process pid when this process ends,
// however that happens. release ends the shell.
func guard(pid int, sig syscall.Signal) (release func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	cmd := exec.Command("/bin/sh", "-c", watch, "sh", strconv.Itoa(pid), strconv.Itoa(int(sig))) //nolint:noctx // it has to outlive this process
	cmd.Stdin, cmd.Dir = r, "/"
	ownGroup(cmd)
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watchdog: %w", err), w.Close())
	}
	return func() {
		_, _ = w.WriteString("ended\n")
		_ = w.Close()
		_ = cmd.Wait()
	}, nil
}
