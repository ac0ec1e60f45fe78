//go:build !linux

package child

import (
	"os/exec"
	"syscall"
)

// dieWithParent does nothing where the kernel can't do it: what outlives a kill
// -9 of this process has to notice by itself, such as by its closed input.
func dieWithParent(*exec.Cmd, syscall.Signal) {}
