package pgserver

import "os/exec"

// account is a user that the server runs under.
type account struct{ uid, gid int }

func unprivileged() (*account, error) { return nil, nil } //nolint:nilnil // nil is the own user

func (*account) apply(*exec.Cmd) {}

func alive(int) bool { return true }
