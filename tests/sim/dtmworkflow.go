package sim

import (
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// dtmWorkflowRun is workflow.Execute of DTM's client, in whatever process: it asks for the
// progress, takes the steps that are left, and says how it ended. The results of steps
// are branches, and the first one counts.
func dtmWorkflowRun(p *proc, tc *coordinator, gid string, content uint64) error {
	r := stream(content)
	n := r.between(1, 3)
	refuses := -1
	if r.below(3) == 0 {
		refuses = r.below(n)
	}
	every := r.during(300*time.Millisecond, 2*time.Second)
	w := &dtmFlow{p: p, tc: tc, gid: gid}
	sum := 0
	for i := range n {
		give := change{key: r.below(accounts) + reserved, add: 1 + r.below(5) + 6*i}
		sum += give.add
		st := dtmStep{name: stepName(i), s: tc.w.serviceOf(r, tc), changes: []change{give}, refuses: i == refuses}
		if i == n-1 {
			st.changes = append(st.changes, change{key: r.below(accounts), add: -sum})
		}
		w.steps = append(w.steps, st)
	}
	back := w.steps[0].s.webAction(payload{kind: payloadGidWorkflow, seed: content})
	back.Verb, back.Delay, back.Timeout = "workflow", every, 5*time.Second
	plan := func(x xid.ID) []core.Register {
		return []core.Register{{Branch: zero(x), Mode: core.ModeWorkflow, Name: "00", Plan: &core.Plan{
			Forward: back, Retry: core.Retry{First: every, Max: 4 * every, Poll: every},
		}}}
	}
	req := &gidRequest{gid: gid, typ: dtmWorkflow, content: "any"}
	var g global
	err := p.request(tc, func(q *proc, f *front) error {
		got, err := f.prepareWorkflow(q, req, plan)
		if err == nil {
			g = got
			tc.w.oracle.keyTold(tc, gid, g.XID)
		}
		return err
	})
	if err != nil || g.typ() != dtmWorkflow || g.status() != dtmPrepared {
		return err
	}
	w.x, w.past = g.XID, map[string]byte{}
	for i := range g.Branches {
		if b := &g.Branches[i]; len(b.Result) > 0 {
			w.past[b.Name] = b.Result[0]
		}
	}
	return w.run()
}

// dtmFlow is workflow.Workflow of DTM's client.
type dtmFlow struct {
	p     *proc
	tc    *coordinator
	gid   string
	x     xid.ID
	past  map[string]byte // results that are known
	steps []dtmStep
}

type dtmStep struct {
	name    string
	s       *service
	changes []change
	refuses bool
}

func (w *dtmFlow) run() error {
	failed := -1
	for i, st := range w.steps {
		err := w.take(st, core.OpForward)
		if errors.Is(err, errFailedForGood) {
			failed = i
			break
		}
		if err != nil {
			return err // whoever calls back goes on
		}
	}
	for i := failed; i >= 0; i-- { // the last one may have happened, too
		if err := w.take(w.steps[i], core.OpRollback); err != nil {
			return err
		}
	}
	return w.p.request(w.tc, func(q *proc, f *front) error {
		if failed >= 0 {
			return f.submitWorkflow(q, w.gid, core.VoteNo, "a step failed")
		}
		return f.submitWorkflow(q, w.gid, core.VoteYes, "")
	})
}

// take does one step, or undoes it, and has its result remembered.
func (w *dtmFlow) take(st dtmStep, op core.Op) error {
	name := st.name + "-" + opNames[op]
	switch w.past[name] {
	case 's':
		return nil
	case 'f':
		return errFailedForGood
	}
	a := payload{changes: st.changes, refuses: st.refuses}
	if op == core.OpRollback {
		a = payload{changes: opposite(st.changes)}
	}
	id := branchKey{w.x, xid.BranchOf(w.x, st.name)}
	err := w.p.between(st.s.node, func(q *proc) error {
		if err := st.s.mood(q); err != nil {
			return err
		}
		_, err := st.s.barrier(q, w.gid, st.name, id, op, a)
		return err
	})
	result := byte('s')
	switch {
	case errors.Is(err, errFailedForGood):
		result = 'f'
	case err != nil:
		return err
	}
	told := w.p.request(w.tc, func(q *proc, f *front) error {
		return f.registerBranch(q, w.gid, func(g *global) core.Register {
			return core.Register{Branch: xid.BranchOf(g.XID, name), Mode: core.ModeWorkflow, Name: name, Vote: core.VoteYes, Fresh: true, Plan: &core.Plan{}, Result: []byte{result}}
		})
	})
	if told != nil {
		return told
	}
	return err
}
