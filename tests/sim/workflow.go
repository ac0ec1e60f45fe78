package sim

import (
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// workflow is workflow.Start.
func (c *client) workflow(p *proc, r *rng, j job) {
	x, ok := c.begin(p, j.kind, xid.ID{}, j.timeout)
	if !ok {
		return
	}
	n := r.between(1, 3)
	changes := []change{{key: r.below(accounts)}} // one per step, in the service that runs it
	for i := range n {
		give := change{key: r.below(accounts) + reserved, add: 1 + r.below(5) + 6*i}
		changes = append(changes, give)
		changes[0].add -= give.add
	}
	a := c.w.serviceOf(r, c.tc).action(payload{kind: payloadWorkflow, changes: changes, refuses: r.below(4) == 0, goesOn: r.below(2) == 0})
	a.Timeout = 5 * time.Second
	again := retry
	again.Attempts = 8
	err := c.submit(p, core.Submit{XID: x, Branches: []core.Register{
		{Branch: xid.BranchOf(x, self), Mode: core.ModeWorkflow, Name: self, Plan: &core.Plan{Forward: a, Retry: again}},
	}})
	if err == nil {
		c.wait(p, x, r)
	}
}

const self = "workflow"

var (
	errUnsure    = errors.New("a step ended without anybody knowing whether it happened")
	errOvertaken = errors.New("it was decided while the call was on its way")
)

func errText(err error) string {
	if err == nil {
		return "done"
	}
	return err.Error()
}

// runWorkflow is workflow.run, and W.step for each step.
func (s *service) runWorkflow(p *proc, m core.Call) (string, error) {
	a := decodePayload(m.Action.Payload)
	t, err := p.ask(s.tc, 2*time.Second, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: m.XID} })
	if err = errorOf(t, err); err != nil {
		return "", err
	}
	if t.Tx.Outcome != core.Undecided {
		return "", errOvertaken
	}
	past := map[xid.BranchID]core.Branch{}
	for _, b := range t.Tx.Branches {
		if b.Mode == core.ModeWorkflow && b.ID != m.Branch {
			past[b.ID] = b
		}
	}
	if err := s.mood(p); err != nil {
		return "", err
	}
	run := &workflowRun{s: s, p: p, m: m, past: past}
	for i, ch := range a.changes {
		err := run.step(stepName(i), payload{changes: []change{ch}, refuses: a.refuses && i == len(a.changes)-1, wavers: a.goesOn})
		if errors.Is(err, errRefused) && a.goesOn {
			err = run.step(stepName(i)+"-else", payload{changes: []change{ch}})
		}
		if errors.Is(err, errRefused) {
			return "", errFailedForGood
		}
		if err != nil {
			return "", err
		}
	}
	return "through", nil
}

// errRefused is a step that is remembered as refused; the workflow may go on.
var errRefused = errors.New("the step was refused")

// workflowRun is workflow.W.
type workflowRun struct {
	s    *service
	p    *proc
	m    core.Call
	past map[xid.BranchID]core.Branch
	last xid.BranchID
}

func (w *workflowRun) ask(make func(ref core.Ref) core.Input) error {
	r, err := w.p.ask(w.s.tc, 2*time.Second, make)
	return errorOf(r, err)
}

// step is W.step.
func (w *workflowRun) step(name string, effect payload) error {
	x, id := w.m.XID, xid.BranchOf(w.m.XID, name)
	b, remembered := w.past[id]
	plan := &core.Plan{Rollback: w.s.action(payload{changes: opposite(effect.changes)}), Retry: retry}
	if w.last != (xid.BranchID{}) {
		plan.After = []xid.BranchID{w.last}
	}
	w.last = id
	switch {
	case remembered && b.Vote == core.VoteYes:
		return nil
	case remembered && b.Vote == core.VoteWithdrawn:
		return errRefused
	case !remembered:
		if err := w.ask(func(ref core.Ref) core.Input {
			return core.Register{Ref: ref, XID: x, Branch: id, Mode: core.ModeWorkflow, Name: name, Plan: plan}
		}); err != nil {
			return err
		}
	}
	result, err := w.s.fenced(w.p, branchKey{x, id}, core.OpForward, effect)
	w.s.note("took a step", x, id, errText(err))
	vote := core.CastVote{XID: x, Branch: id, Vote: core.VoteYes, Result: []byte(result)}
	refused := false
	switch {
	case errors.Is(err, errFailedForGood), errors.Is(err, errLate):
		refused = true
		vote.Vote, vote.Reason, vote.Result = core.VoteWithdrawn, err.Error(), nil
	case err != nil:
		return errUnsure
	}
	if err := w.ask(func(ref core.Ref) core.Input { vote.Ref = ref; return vote }); err != nil {
		w.s.note("step is not remembered", x, id, errText(err))
		return err
	}
	if refused {
		return errRefused
	}
	return nil
}
