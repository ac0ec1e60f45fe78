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
	a := c.w.serviceOf(r, c.tc).action(payload{kind: payloadWorkflow, changes: changes, refuses: r.below(4) == 0})
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
	var last xid.BranchID
	for i, ch := range a.changes {
		id := xid.BranchOf(m.XID, stepName(i))
		b, remembered := past[id]
		plan := &core.Plan{Rollback: s.action(payload{changes: opposite([]change{ch})}), Retry: retry}
		if last != (xid.BranchID{}) {
			plan.After = []xid.BranchID{last}
		}
		last = id
		if remembered && b.Vote == core.VoteYes {
			continue
		}
		if remembered && b.Vote == core.VoteWithdrawn {
			return "", errFailedForGood
		}
		if !remembered {
			r, err := p.ask(s.tc, 2*time.Second, func(ref core.Ref) core.Input {
				return core.Register{Ref: ref, XID: m.XID, Branch: id, Mode: core.ModeWorkflow, Name: stepName(i), Plan: plan}
			})
			if err = errorOf(r, err); err != nil {
				return "", err
			}
		}
		result, err := s.fenced(p, branchKey{m.XID, id}, core.OpForward, payload{
			changes: []change{ch}, refuses: a.refuses && i == len(a.changes)-1, steady: !s.w.o.Strict, // see docs/simulation.md
		})
		s.note("took a step", m.XID, id, errText(err))
		vote := core.CastVote{XID: m.XID, Branch: id, Vote: core.VoteYes, Result: []byte(result)}
		switch {
		case errors.Is(err, errFailedForGood) && remembered, errors.Is(err, errLate):
			return "", errFailedForGood // it has to be undone
		case errors.Is(err, errFailedForGood):
			vote.Vote, vote.Reason, vote.Result = core.VoteWithdrawn, err.Error(), nil
		case err != nil:
			return "", errUnsure
		}
		r, verr := p.ask(s.tc, 2*time.Second, func(ref core.Ref) core.Input { vote.Ref = ref; return vote })
		if verr = errorOf(r, verr); verr != nil {
			s.note("step is not remembered", m.XID, id, errText(verr))
			return "", verr
		}
		if err != nil {
			return "", err
		}
	}
	return "through", nil
}
