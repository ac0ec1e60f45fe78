package dtm

import (
	"context"
	"errors"
	"reflect"
	"strings"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// registerBranch adds a branch of TCC or XA, or the result of a step of a workflow.
func (s *service) registerBranch(ctx context.Context, gid string, t transType, d map[string]string, payload []byte) error {
	if err := checkGid(gid); err != nil {
		return err
	}
	if err := checkWord("branch_id", d["branch_id"]); err != nil {
		return err
	}
	switch t {
	case tcc, xa:
	case workflow:
		if err := checkStep(d); err != nil {
			return err
		}
	case saga, msg:
		return wrong("trans_type", "a %s has the branches that it was submitted with", t)
	default:
		return refuse(other, "unknow trans type: %.40s", string(t))
	}
	late := refuse(failure, "no trans with gid: %s status: %s found FAILURE", gid, prepared)
	g, found, err := s.find(ctx, gid)
	switch {
	case err != nil:
		return err
	case !found:
		return late
	case g.status() != prepared:
		return s.told(ctx, &g, late)
	case g.note.Type != t:
		return s.told(ctx, &g, refuse(failure, "gid %s is that of a %s, not of a %s. FAILURE", gid, g.note.Type, t))
	case len(g.Branches) >= maxSteps:
		return s.told(ctx, &g, refuse(failure, "gid %s has %d branches already, which is the limit. FAILURE", gid, maxSteps))
	}
	p := newPlanner(g.XID, g.note.Protocol, &g.note.Options)
	var b core.Register
	if len(payload) == 0 {
		payload = nil // as it is read back
	}
	switch t { //nolint:exhaustive // the others were refused
	case tcc:
		b, err = p.confirm(d, payload, g.last())
	case xa:
		b, err = p.second(d)
	case workflow:
		b = p.progress(d, payload)
	}
	if err != nil {
		return err
	}
	if before := g.named(b.Name); t != workflow && before != nil && reflect.DeepEqual(before.Plan.Commit, b.Plan.Commit) &&
		reflect.DeepEqual(before.Plan.Rollback, b.Plan.Rollback) {
		return s.told(ctx, &g, nil) // clients send again what broke off before the answer
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input { b.Ref, b.XID = ref, g.XID; return b })
	var e *core.Error
	if errors.As(err, &e) {
		switch e.Kind { //nolint:exhaustive // the others are as they are
		case core.ErrCommitted, core.ErrRolledBack:
			return late
		case core.ErrBranchConflict:
			return refuse(other, "branch_id: %s of gid %s is registered already", b.Name, gid)
		}
	}
	return err
}

func checkStep(d map[string]string) error {
	if err := checkWord("op", d["op"]); err != nil {
		return err
	}
	if strings.Contains(d["op"], "-") {
		return wrong("op", "%.100q holds a \"-\"", d["op"])
	}
	if st := d["status"]; st != string(succeed) && st != string(failed) {
		return wrong("status", "%.40q; want succeed or failed", st)
	}
	return nil
}

// last is the branch that was registered last; none where there is none.
func (g *global) last() []xid.BranchID {
	if n := len(g.Branches); n > 0 {
		return []xid.BranchID{g.Branches[n-1].ID}
	}
	return nil
}
