package pgserver

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel send a fast shutdown when this process ends,
// however that happens.
func dieWithParent(cmd *exec.Cmd) { attributes(cmd).Pdeathsig = syscall.SIGINT }
