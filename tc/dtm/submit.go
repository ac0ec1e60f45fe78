package dtm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// prepare begins a transaction that is submitted or aborted later.
func (s *service) prepare(ctx context.Context, r *request) error {
	if err := r.check(); err != nil {
		return err
	}
	switch r.Type {
	case tcc, xa, msg:
	case saga, workflow:
		return wrong("trans_type", "a %s is not prepared", r.Type)
	}
	var g global
	var began bool
	var err error
	if r.Type == msg {
		g, began, err = s.start(ctx, r, s.prepared(r), time.Time{})
	} else {
		g, began, err = s.open(ctx, r)
	}
	if err != nil || began {
		return err // without a branch there is nothing to lose
	}
	if st := g.status(); st != prepared {
		err = refuse(failure, "current status '%s', cannot prepare. FAILURE", st)
	} else {
		err = g.joins(r)
	}
	return s.told(ctx, &g, err)
}

// prepared gives the branches of a message that waits for its submit.
func (s *service) prepared(r *request) func(xid.ID) ([]core.Register, error) {
	return func(id xid.ID) ([]core.Register, error) {
		p := newPlanner(id, r.Protocol, &r.Options)
		check, err := p.checkBack(r)
		if err != nil {
			return nil, err
		}
		out, err := p.deliveries(r, 0, s.topics.addresses)
		return append([]core.Register{check}, out...), err
	}
}

// submit asks for all of a transaction, or joins it where that was asked before.
func (s *service) submit(ctx context.Context, r *request) error {
	if r.Type == workflow {
		return s.submitWorkflow(ctx, r)
	}
	if err := r.check(); err != nil {
		return err
	}
	var g global
	var err error
	switch r.Type {
	case saga:
		g, err = s.submitSaga(ctx, r)
	case msg:
		g, err = s.submitMessage(ctx, r)
	case tcc, xa, workflow:
		g, err = s.submitPhases(ctx, r)
	}
	if err != nil || !r.Options.WaitResult {
		return err
	}
	return s.wait(ctx, g.XID, r)
}

// submittable tells whether a transaction that exists may still be submitted, or was.
func (g *global) submittable(r *request) error {
	if st := g.status(); st != prepared && st != submitted {
		return refuse(failure, "current status '%s', cannot sumbmit. FAILURE", st)
	}
	return g.joins(r)
}

// submitAgain is about a submit of what is there already: joined where that was submitted
// before, too.
func (s *service) submitAgain(ctx context.Context, g *global, r *request) (joined bool, err error) {
	err = g.submittable(r)
	joined = g.Submitted && g.status() == submitted
	if err != nil || joined {
		err = s.told(ctx, g, err)
	}
	return joined, err
}

func (s *service) submitSaga(ctx context.Context, r *request) (g global, err error) {
	plan := func(id xid.ID) ([]core.Register, error) { return newPlanner(id, r.Protocol, &r.Options).saga(r) }
	var deadline time.Time
	if t := r.Options.TimeoutToFail; t > 0 {
		deadline = s.eng.Now().Add(seconds(t))
	}
	g, began, err := s.start(ctx, r, plan, deadline)
	if err == nil && !began {
		_, err = s.submitAgain(ctx, &g, r)
	}
	return g, err
}

func (s *service) submitMessage(ctx context.Context, r *request) (g global, err error) {
	delay, err := r.delayOf()
	if err != nil {
		return g, err
	}
	plan := func(id xid.ID) ([]core.Register, error) {
		return newPlanner(id, r.Protocol, &r.Options).deliveries(r, delay, s.topics.addresses)
	}
	g, began, err := s.start(ctx, r, plan, time.Time{})
	if err != nil || began {
		return g, err
	}
	if joined, err := s.submitAgain(ctx, &g, r); err != nil || joined {
		return g, err
	}
	a, err := s.vote(ctx, g.XID, core.CastVote{Vote: core.VoteYes, Delay: delay})
	if err == nil && a.Tx.Outcome == core.RolledBack {
		err = refuse(failure, "current status '%s', cannot sumbmit. FAILURE", failed)
	}
	return g, err
}

// submitPhases commits what has its branches already. DTM lets a submit begin it, too.
func (s *service) submitPhases(ctx context.Context, r *request) (g global, err error) {
	g, began, err := s.open(ctx, r)
	if err == nil && !began {
		_, err = s.submitAgain(ctx, &g, r)
	}
	if err != nil {
		return g, err
	}
	a, err := s.ask(ctx, func(ref core.Ref) core.Input { return core.Commit{Ref: ref, XID: g.XID} })
	if err == nil && a.Tx.Outcome == core.RolledBack {
		err = refuse(failure, "current status '%s', cannot sumbmit. FAILURE", aborting)
	}
	return g, err
}

// abort rolls back what was prepared.
func (s *service) abort(ctx context.Context, r *request) error {
	g, err := s.known(ctx, r.Gid)
	if err != nil {
		return err
	}
	no := func(st status) error {
		return s.told(ctx, &g, refuse(failure, "trans type: '%s' current status '%s', cannot abort. FAILURE", g.note.Type, st))
	}
	st := g.status()
	switch {
	case r.Type != "" && r.Type != g.note.Type: // who asks was refused that gid
		return s.told(ctx, &g, g.joins(r))
	case g.note.Type == msg && st == prepared && g.Submitted:
		a, err := s.vote(ctx, g.XID, core.CastVote{Vote: core.VoteNo, Reason: cut(r.RollbackReason)})
		if err == nil && a.Tx.Outcome == core.Committed {
			return no(submitted)
		}
		return err
	case g.note.Type != tcc && g.note.Type != xa && g.note.Type != msg, st != prepared && st != aborting:
		return no(st)
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Rollback{Ref: ref, XID: g.XID, Cause: cut(r.RollbackReason)}
	})
	var e *core.Error
	if errors.As(err, &e) && e.Kind == core.ErrCommitted {
		return no(submitted)
	}
	if err != nil || !r.Options.WaitResult && !g.note.Options.WaitResult {
		return err
	}
	return s.wait(ctx, g.XID, nil)
}

// maxReason bounds the reason of a client, in bytes.
const maxReason = 64 << 10

func cut(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}

// wait waits for the end, or until all that is left is to try again later, or for a
// little longer than a call may take. r is that of a submit; nil: of an abort.
func (s *service) wait(ctx context.Context, id xid.ID, r *request) error {
	until := s.eng.Now().Add(defaultRequest + 2*time.Second)
	if r != nil {
		until = s.eng.Now().Add(r.Options.request() + 2*time.Second)
	}
	a, err := s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Wait{Ref: ref, XID: id, Until: until, Finished: true, OrStalled: true}
	})
	if err != nil {
		return err
	}
	g := global{Transaction: a.Tx}
	if err := g.readNote(); err != nil {
		return err
	}
	switch st := g.status(); {
	case st == succeed, r == nil && st == failed:
		return nil
	case r != nil && (st == failed || st == aborting):
		reason := g.reason()
		if !strings.Contains(reason, "FAILURE") {
			reason = strings.TrimSpace(reason + " FAILURE")
		}
		return refuse(failure, "%s", reason)
	default:
		return refuse(ongoing, "%s. ONGOING", g.unfinished())
	}
}

// unfinished says in words what a transaction waits for.
func (g *global) unfinished() string {
	text := fmt.Sprintf("gid %s is not finished yet", g.Key)
	for i := range g.Branches {
		if why := g.Branches[i].Forward.LastError; why != "" && g.Outcome == core.Undecided {
			return fmt.Sprintf("%s; branch %s: %s", text, g.Branches[i].Name, why)
		}
	}
	for i := range g.Settlements {
		if t := &g.Settlements[i]; !t.Done && t.LastError != "" {
			return fmt.Sprintf("%s; %s", text, t.LastError)
		}
	}
	return text
}
