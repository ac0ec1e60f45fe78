//go:build unix && !linux

package child

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing where the kernel can't do it.
func dieWithParent(*exec.Cmd, syscall.Signal) {}

// watchOver has a shell do what the kernel does on Linux.
func watchOver(pid int, sig syscall.Signal) (release func(), err error) { return guard(pid, sig) }
