package sim

import (
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// client is a process that begins transactions: it stands for packages tm, tcc, saga,
// message and workflow.
type client struct {
	*node
	tc *coordinator
}

const (
	retryLimit  = 12 * time.Second // tm.WithRetryLimit
	callTimeout = 6 * time.Second  // of one call of a service
)

// run does one job.
func (c *client) run(p *proc, j job) {
	r := stream(j.seed)
	c.note("job", j.n, kindNames[j.kind])
	switch j.kind {
	case kindTransfer:
		c.global(p, r, j, xid.ID{}, 0)
	case kindNested:
		c.global(p, r, j, xid.ID{}, 1)
	case kindTCC:
		c.tcc(p, r, j)
	case kindSaga:
		c.saga(p, r, j)
	case kindPublish:
		c.publish(p, r)
	case kindMessage:
		c.message(p, r, j)
	case kindCheckBack:
		c.checkBack(p, r, j)
	case kindWorkflow:
		c.workflow(p, r, j)
	case kindPlain:
		c.plain(p, r)
	case kindDTMSaga, kindDTMTCC, kindDTMMessage, kindDTMWorkflow:
		c.dtm(p, r, j)
	case kinds:
	}
	c.note("job ends", j.n)
}

// begin is Manager.Begin.
func (c *client) begin(p *proc, k kind, parent xid.ID, timeout time.Duration) (xid.ID, bool) {
	a, err := p.begin(c.tc, retryLimit, core.Begin{Name: kindNames[k], Parent: parent}, timeout)
	if err != nil || a.Err != nil {
		return xid.ID{}, false
	}
	c.note("began", a.Tx.XID)
	h := c.w.oracle.of(c.tc, a.Tx.XID)
	h.kind = kindNames[k]
	return a.Tx.XID, true
}

// fateOf draws how the client's code ends.
func fateOf(r *rng) fate {
	switch n := r.below(100); {
	case n < 76:
		return fateCommit
	case n < 85:
		return fateRollback
	case n < 90:
		return fateError
	case n < 94:
		return fatePanic
	case n < 97:
		return fateLeave
	default:
		return fateHang
	}
}

// global is Manager.Do: it begins, calls services, and ends as its code does.
func (c *client) global(p *proc, r *rng, j job, parent xid.ID, nested int) {
	x, ok := c.begin(p, j.kind, parent, j.timeout)
	if !ok {
		return
	}
	end := fateOf(r)
	legs := c.w.legs(r, c, r.between(2, 4))
	inside := -1
	if nested > 0 {
		inside = r.below(len(legs))
	}
	var err error
	for i, l := range legs {
		if end == fateError && i == len(legs)-1 {
			err = errUser
			break
		}
		if i == inside {
			c.global(p, r, j, x, nested-1)
		}
		if err = c.callLeg(p, x, l); err != nil {
			break
		}
	}
	c.end(p, r, x, j, end, err)
}

// callLeg calls a service, which works in a branch of the transaction.
func (c *client) callLeg(p *proc, x xid.ID, l leg) error {
	return p.between(l.service.node, func(q *proc) error {
		for {
			err := l.service.work(q, x, l)
			if !errors.Is(err, errRerun) {
				return err
			}
		}
	})
}

// work is user code in a service: one local transaction through rm.Pool.
func (s *service) work(p *proc, x xid.ID, l leg) error {
	t := s.newTx(p, x, l.mode)
	t.above = l.above
	for i, c := range l.changes {
		if p.rng.chance(s.w.moods / 4) {
			s.w.count("user code that failed")
			t.rollback()
			return errUser
		}
		if p.rng.chance(s.w.moods / 4) {
			s.w.count("user code that hung")
			p.nap(100*time.Millisecond, 10*time.Second)
		}
		if s.w.families {
			p.nap(0, slowCode)
		}
		err := t.statement(c)
		if errors.Is(err, errUnique) || errors.Is(err, errInsufficient) {
			t.rollback()
			return err
		}
		if errors.Is(err, errForeign) {
			s.w.count("foreign key violations")
			continue // its code goes back to a savepoint, and on
		}
		if err == nil && i == 0 && l.lock >= 0 {
			err = t.forUpdate(l.lock)
		}
		if err != nil {
			t.rollback()
			return err
		}
	}
	if s.w.plant == plantVoteIsOpinion && t.branch != nil {
		t.branch.vote(core.VoteYes)
		p.nap(0, 20*time.Millisecond)
		if p.rng.below(3) == 0 {
			t.rollback()
			return nil // and so its caller has heard
		}
	}
	return t.commit()
}

// end is the end of Manager.Do.
func (c *client) end(p *proc, r *rng, x xid.ID, j job, f fate, err error) {
	switch f {
	case fateLeave:
		return
	case fateHang:
		p.sleep(j.timeout + r.during(0, 2*time.Second))
	case fateRollback, fatePanic, fateError:
		err = errUser
	case fateCommit:
	}
	if err != nil {
		c.rollback(p, x)
		return
	}
	c.commit(p, x, r.below(8) == 0)
}

// commit is Manager.Commit: where the answer is lost it asks again.
func (c *client) commit(p *proc, x xid.ID, waitSettled bool) {
	a, err := p.ask(c.tc, retryLimit, func(ref core.Ref) core.Input {
		return core.Commit{Ref: ref, XID: x, WaitSettled: waitSettled}
	})
	c.heard(x, a, err)
}

func (c *client) rollback(p *proc, x xid.ID) {
	a, err := p.ask(c.tc, retryLimit, func(ref core.Ref) core.Input {
		return core.Rollback{Ref: ref, XID: x, Cause: "the code failed"}
	})
	c.heard(x, a, err)
}

func (c *client) heard(x xid.ID, a core.Reply, err error) {
	switch {
	case err != nil:
		c.note("heard nothing of", x)
	case a.Err != nil:
		c.note("heard an error of", x, int(a.Err.Kind))
	default:
		c.note("heard of", x, a.Tx.Outcome)
	}
}

// register is Manager.Register, and vote Manager.Vote.
func (c *client) register(p *proc, in core.Register) error {
	a, err := p.ask(c.tc, retryLimit, func(ref core.Ref) core.Input { in.Ref = ref; return in })
	return errorOf(a, err)
}

func (c *client) vote(p *proc, in core.CastVote) error {
	a, err := p.ask(c.tc, retryLimit, func(ref core.Ref) core.Input { in.Ref = ref; return in })
	return errorOf(a, err)
}

func (c *client) submit(p *proc, in core.Submit) error {
	a, err := p.ask(c.tc, retryLimit, func(ref core.Ref) core.Input { in.Ref = ref; return in })
	return errorOf(a, err)
}

// wait is Manager.Wait: until it is over, or stalled, or for a while.
func (c *client) wait(p *proc, x xid.ID, r *rng) {
	if r.below(3) > 0 {
		return
	}
	until := c.tc.Now().Add(5 * time.Second)
	stalled := r.below(2) == 0
	a, err := p.ask(c.tc, 8*time.Second, func(ref core.Ref) core.Input {
		return core.Wait{Ref: ref, XID: x, Finished: true, OrStalled: stalled, Until: until}
	})
	c.heard(x, a, err)
}

// tcc is tcc.Call for each branch, inside of Manager.Do.
func (c *client) tcc(p *proc, r *rng, j job) {
	x, ok := c.begin(p, j.kind, xid.ID{}, j.timeout)
	if !ok {
		return
	}
	end := fateOf(r)
	var err error
	n := 1 + r.below(6)
	from, to := r.below(accounts), r.below(accounts)
	// One side puts aside, and the other gets.
	err = c.try(p, x, c.w.serviceOf(r, c.tc), r,
		[]change{{key: from, add: -n}, {key: from + reserved, add: n}},
		[]change{{key: from + reserved, add: -n}},
		[]change{{key: from + reserved, add: -n}, {key: from, add: n}})
	if err == nil {
		err = c.try(p, x, c.w.serviceOf(r, c.tc), r, nil, []change{{key: to, add: n}}, nil)
	}
	if err == nil && r.below(3) == 0 {
		for _, l := range c.w.legs(r, c, 2) {
			if err = c.callLeg(p, x, l); err != nil {
				break
			}
		}
	}
	if end == fateError {
		err = errUser
	}
	c.end(p, r, x, j, end, err)
}

// try is tcc.Call.
func (c *client) try(p *proc, x xid.ID, s *service, r *rng, try, confirm, cancel []change) error {
	b := p.newBranchID()
	plan := &core.Plan{Commit: s.action(payload{changes: confirm}), Rollback: s.action(payload{changes: cancel}), Retry: retry}
	if err := c.register(p, core.Register{XID: x, Branch: b, Mode: core.ModeTCC, Name: "try", Plan: plan}); err != nil {
		return err
	}
	var result string
	refuses := r.below(10) == 0
	if s.up && r.chance(c.w.weather.double) {
		c.w.count("tries doubled")
		s.spawnWith(p.rng.next(), func(q *proc) { // a copy of the request, whose answer nobody reads
			q.nap(0, 3*time.Second)
			_, _ = s.fenced(q, branchKey{x, b}, core.OpForward, payload{changes: try, refuses: refuses})
		})
	}
	err := p.between(s.node, func(q *proc) error {
		if err := s.mood(q); err != nil {
			return err
		}
		out, err := s.fenced(q, branchKey{x, b}, core.OpForward, payload{changes: try, refuses: refuses})
		result = out
		return err
	})
	switch {
	case errors.Is(err, errFailedForGood), errors.Is(err, errLate):
		_ = c.vote(p, core.CastVote{XID: x, Branch: b, Vote: core.VoteNo, Reason: err.Error()})
		return err
	case err != nil:
		return err // no vote: it may have happened
	}
	return c.vote(p, core.CastVote{XID: x, Branch: b, Vote: core.VoteYes, Result: []byte(result)})
}

// saga is saga.Run.
func (c *client) saga(p *proc, r *rng, j job) {
	x, ok := c.begin(p, j.kind, xid.ID{}, j.timeout)
	if !ok {
		return
	}
	in := core.Submit{XID: x, Branches: c.w.sagaOf(r, c, x)}
	if r.below(4) == 0 {
		in.Deadline = c.tc.Now().Add(r.during(time.Second, 20*time.Second))
	}
	if err := c.submit(p, in); err == nil {
		c.wait(p, x, r)
	}
}

// message is Publish inside of a global transaction.
func (c *client) message(p *proc, r *rng, j job) {
	x, ok := c.begin(p, j.kind, xid.ID{}, j.timeout)
	if !ok {
		return
	}
	end := fateOf(r)
	n := 1 + r.below(5)
	l := leg{service: c.w.serviceOf(r, c.tc), mode: core.ModeAT, lock: -1, changes: []change{{key: r.below(accounts), add: -n}}}
	err := c.callLeg(p, x, l)
	if err == nil {
		err = c.register(p, core.Register{
			XID: x, Branch: p.newBranchID(), Mode: core.ModeMessage, Vote: core.VoteYes,
			Plan: &core.Plan{Commit: c.w.serviceOf(r, c.tc).action(payload{changes: []change{{key: r.below(accounts), add: n}}}), Retry: retry},
		})
	}
	c.end(p, r, x, j, end, err)
}

// publish is rm.Publish in a plain local transaction of a service.
func (c *client) publish(p *proc, r *rng) {
	s := c.w.serviceOf(r, c.tc)
	n := 1 + r.below(5)
	from, to := r.below(accounts), r.below(accounts)
	receiver := c.w.serviceOf(r, c.tc)
	end := fateOf(r)
	_ = p.between(s.node, func(q *proc) error {
		return s.publish(q, change{key: from, add: -n}, receiver.action(payload{changes: []change{{key: to, add: n}}}), end)
	})
}

// publish is plainTx.publish, and the statements around it.
func (s *service) publish(p *proc, c change, delivery core.Action, end fate) error {
	l := s.db.begin(s.node)
	defer l.abort()
	if !s.trip(p, l) {
		return errBroken
	}
	if err := l.update(p, c); err != nil {
		return err
	}
	a, err := p.begin(s.tc, retryLimit, core.Begin{Name: "publish"}, 30*time.Second)
	if err = errorOf(a, err); err != nil {
		return err
	}
	x := a.Tx.XID
	h := s.w.oracle.of(s.tc, x)
	h.kind = "publish"
	k := branchKey{x, p.newBranchID()}
	if !s.trip(p, l) {
		return errBroken
	}
	if err := l.insertFenceOf(p, k); err != nil { // handfast.vouch
		return err
	}
	l.acting = k
	a, err = p.ask(s.tc, retryLimit, func(ref core.Ref) core.Input {
		return core.Submit{Ref: ref, XID: x, Branches: []core.Register{
			{Branch: k.b, Resource: s.db.id, Mode: core.ModeAT},
			{Branch: xid.BranchOf(x, "delivery"), Mode: core.ModeMessage, Vote: core.VoteYes, Plan: &core.Plan{Commit: delivery, Retry: retry}},
		}}
	})
	if err = errorOf(a, err); err != nil {
		return err
	}
	if end != fateCommit {
		return errUser
	}
	if p.rng.chance(s.w.moods) {
		p.nap(100*time.Millisecond, 5*time.Second)
	}
	if l.ended || !s.trip(p, l) {
		return errBroken
	}
	l.commit(true)
	s.tellVouched(k, p.rng.next())
	return nil
}

// tellVouched is Pool.tell: the vote is looked up, and sent off the caller's path.
func (s *service) tellVouched(k branchKey, seed uint64) {
	s.spawnWith(seed, func(p *proc) {
		p.nap(0, 2*time.Millisecond)
		if !s.db.up {
			return
		}
		v := s.db.ask(p, k, false)
		if v == core.VoteOpen {
			return
		}
		_, _ = p.ask(s.tc, voteTimeout, func(ref core.Ref) core.Input {
			return core.CastVote{Ref: ref, XID: k.x, Branch: k.b, Vote: v, Reason: "rolled back"}
		})
	})
}

// checkBack submits a message whose sender is asked whether its local transaction has
// committed. That one is fenced as the forward action of a branch, so that the question
// can keep it out.
func (c *client) checkBack(p *proc, r *rng, j job) {
	x, ok := c.begin(p, j.kind, xid.ID{}, j.timeout)
	if !ok {
		return
	}
	s, n := c.w.serviceOf(r, c.tc), 1+r.below(5)
	ask := s.action(payload{kind: payloadCheckBack})
	ask.Delay = r.during(0, 200*time.Millisecond)
	in := core.Submit{XID: x, Branches: []core.Register{
		{Branch: xid.BranchOf(x, "ask"), Mode: core.ModeMessage, Name: "ask", Plan: &core.Plan{Forward: ask, Retry: retry}},
		{Branch: xid.BranchOf(x, "delivery"), Mode: core.ModeMessage, Name: "delivery", Vote: core.VoteYes, Plan: &core.Plan{
			Commit: c.w.serviceOf(r, c.tc).action(payload{changes: []change{{key: r.below(accounts), add: n}}}), Retry: retry,
		}},
	}}
	if err := c.submit(p, in); err != nil {
		return
	}
	_ = p.between(s.node, func(q *proc) error {
		q.nap(0, 100*time.Millisecond)
		_, err := s.fenced(q, branchKey{x, xid.BranchOf(x, "local")}, core.OpForward, payload{
			changes: []change{{key: r.below(accounts), add: -n}}, refuses: r.below(5) == 0,
		})
		return err
	})
	c.wait(p, x, r)
}

// plain is a session without an XID: it moves something inside of one database.
func (c *client) plain(p *proc, r *rng) {
	s, n := c.w.serviceOf(r, c.tc), 1+r.below(9)
	changes := []change{{key: r.below(accounts), add: -n}, {key: r.below(accounts), add: n}}
	if r.below(4) == 0 {
		changes = append(changes, change{key: r.below(accounts), tag: c.w.tag(r)})
	}
	changes = c.w.withFamily(r, changes)
	above := r.below(3) == 0
	if above && r.below(2) == 0 {
		changes = append(changes, change{key: r.below(accounts), tag: c.w.tag(r)})
	}
	_ = p.between(s.node, func(q *proc) error {
		l := s.db.begin(s.node)
		l.above = above
		defer l.abort()
		if c.w.plant == plantStaleSession {
			l.x, l.b = s.stale.x, s.stale.b
		}
		for _, ch := range changes {
			if !s.trip(q, l) {
				return errBroken
			}
			if err := l.update(q, ch); err != nil {
				return err
			}
			if c.w.families {
				q.nap(0, slowCode)
			}
			if above {
				q.nap(0, time.Second) // its snapshot gets old
			}
		}
		if l.ended || !s.trip(q, l) {
			return errBroken
		}
		l.commit(true)
		c.w.count("plain sessions committed")
		return nil
	})
}
