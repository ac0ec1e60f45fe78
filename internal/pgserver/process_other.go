//go:build !linux

package pgserver

import "os/exec"

// dieWithParent does nothing where the kernel can't do it: after a kill -9 of
// this process the server is left to the next sweep of the operator.
func dieWithParent(*exec.Cmd) {}
