package pgserver

import (
	"os"
	"os/exec"
)

// account is a user that the server runs under.
type account struct{ uid, gid int }

func unprivileged() (*account, error) { return nil, nil } //nolint:nilnil // nil is the own user

func (*account) apply(*exec.Cmd) {}

func killGroup(p *os.Process) { _ = p.Kill() }

func alive(int) bool { return true }
