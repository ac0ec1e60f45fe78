package child

import (
	"os"
	"os/exec"
	"syscall"
)

func ownGroup(*exec.Cmd) {}

func killGroup(p *os.Process) { _ = p.Kill() }

// dieWithParent does nothing: a child has to notice by its closed input.
func dieWithParent(*exec.Cmd, syscall.Signal) {}

func watchOver(int, syscall.Signal) (release func(), err error) { return func() {}, nil }

func alive(int) bool { return true }
