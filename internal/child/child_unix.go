//go:build unix

package child

import (
	"os"
	"os/exec"
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
