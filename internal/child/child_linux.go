package child

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel send sig when this process ends, however that happens.
func dieWithParent(cmd *exec.Cmd, sig syscall.Signal) { attributes(cmd).Pdeathsig = sig }
