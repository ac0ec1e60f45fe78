package sim

import (
	"reflect"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// prepareMessage is service.prepare for a message: its deliveries wait for its submit.
func (f *front) prepareMessage(p *proc, r *gidRequest, plan func(xid.ID) []core.Register) (xid.ID, error) {
	g, began, err := f.start(p, r, plan, time.Time{})
	return f.prepared(p, r, g, began, err)
}

// prepareTCC is service.prepare for what gets its branches one by one.
func (f *front) prepareTCC(p *proc, r *gidRequest) (xid.ID, error) {
	g, began, err := f.open(p, r)
	return f.prepared(p, r, g, began, err)
}

func (f *front) prepared(p *proc, r *gidRequest, g global, began bool, err error) (xid.ID, error) {
	if err != nil || began {
		return g.XID, err
	}
	if g.status() != dtmPrepared {
		err = failure("cannot prepare")
	} else {
		err = g.joins(r)
	}
	return g.XID, f.told(p, &g, err)
}

// submitAgain is service.submitAgain.
func (f *front) submitAgain(p *proc, g *global, r *gidRequest) (joined bool, err error) {
	if st := g.status(); st != dtmPrepared && st != dtmSubmitted {
		err = failure("cannot submit")
	} else {
		err = g.joins(r)
	}
	joined = g.Submitted && g.status() == dtmSubmitted
	if err != nil || joined {
		err = f.told(p, g, err)
	}
	return joined, err
}

// submitSaga is service.submitSaga.
func (f *front) submitSaga(p *proc, r *gidRequest, plan func(xid.ID) []core.Register) (xid.ID, error) {
	var deadline time.Time
	if r.timeout > 0 {
		deadline = f.c.Now().Add(r.timeout)
	}
	g, began, err := f.start(p, r, plan, deadline)
	if err == nil && !began {
		_, err = f.submitAgain(p, &g, r)
	}
	return g.XID, err
}

// submitMessage is service.submitMessage.
func (f *front) submitMessage(p *proc, r *gidRequest, delay time.Duration, plan func(xid.ID) []core.Register) (xid.ID, error) {
	g, began, err := f.start(p, r, plan, time.Time{})
	if err != nil || began {
		return g.XID, err
	}
	if joined, err := f.submitAgain(p, &g, r); err != nil || joined {
		return g.XID, err
	}
	a, err := f.vote(p, g.XID, core.CastVote{Vote: core.VoteYes, Delay: delay})
	if err == nil && a.Tx.Outcome == core.RolledBack {
		err = failure("failed, cannot submit")
	}
	return g.XID, err
}

// submitTCC is service.submitPhases.
func (f *front) submitTCC(p *proc, r *gidRequest) error {
	g, began, err := f.open(p, r)
	if err == nil && !began {
		_, err = f.submitAgain(p, &g, r)
	}
	if err != nil {
		return err
	}
	a, err := f.ask(p, func(ref core.Ref) core.Input { return core.Commit{Ref: ref, XID: g.XID} })
	if err == nil && a.Tx.Outcome == core.RolledBack {
		err = failure("aborting, cannot submit")
	}
	return err
}

// abort is service.abort, of a message or TCC.
func (f *front) abort(p *proc, gid string) error {
	g, found := f.find(p, gid)
	if !found {
		return failure("no such gid")
	}
	st := g.status()
	if g.typ() == dtmMessage && st == dtmPrepared && g.Submitted {
		a, err := f.vote(p, g.XID, core.CastVote{Vote: core.VoteNo, Reason: "aborted"})
		if err == nil && a.Tx.Outcome == core.Committed {
			err = failure("submitted, cannot abort")
		}
		return err
	}
	if g.typ() != dtmTCC && g.typ() != dtmMessage || st != dtmPrepared && st != dtmAborting {
		return f.told(p, &g, failure("cannot abort"))
	}
	_, err := f.ask(p, func(ref core.Ref) core.Input { return core.Rollback{Ref: ref, XID: g.XID, Cause: "aborted"} })
	if kindOf(err) == core.ErrCommitted {
		return failure("submitted, cannot abort")
	}
	return err
}

// registerBranch is service.registerBranch: a branch of TCC, or the result of a step of a
// workflow.
func (f *front) registerBranch(p *proc, gid string, make func(g *global) core.Register) error {
	late := failure("no such gid that is prepared")
	g, found := f.find(p, gid)
	switch {
	case !found:
		return late
	case g.status() != dtmPrepared:
		return f.told(p, &g, late)
	}
	b := make(&g)
	if b.Mode == core.ModeTCC {
		for i := range g.Branches {
			had := g.Branches[i].Plan
			if g.Branches[i].ID == b.Branch && reflect.DeepEqual(had.Commit, b.Plan.Commit) && reflect.DeepEqual(had.Rollback, b.Plan.Rollback) {
				return f.told(p, &g, nil)
			}
		}
	}
	_, err := f.ask(p, func(ref core.Ref) core.Input { b.Ref, b.XID = ref, g.XID; return b })
	switch kindOf(err) { //nolint:exhaustive // the others are as they are
	case core.ErrCommitted, core.ErrRolledBack:
		return late
	}
	return err
}

// prepareWorkflow is service.prepareWorkflow: what is known of it, durably.
func (f *front) prepareWorkflow(p *proc, r *gidRequest, plan func(xid.ID) []core.Register) (global, error) {
	g, began, err := f.start(p, r, plan, time.Time{})
	if err != nil || began {
		return g, err
	}
	a, err := f.ask(p, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: g.XID} })
	g.Transaction = a.Tx
	return g, err
}

// submitWorkflow is service.submitWorkflow.
func (f *front) submitWorkflow(p *proc, gid string, v core.Vote, reason string) error {
	gone := failure("no such workflow that is prepared")
	g, found := f.find(p, gid)
	switch {
	case !found:
		return gone
	case g.typ() != dtmWorkflow || g.status() != dtmPrepared:
		return f.told(p, &g, gone)
	}
	_, err := f.vote(p, g.XID, core.CastVote{Fresh: true, Vote: v, Reason: reason})
	if k := kindOf(err); k == core.ErrWrongState || k == core.ErrUnknownBranch {
		return gone
	}
	return err
}
