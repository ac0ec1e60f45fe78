package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// DTM's clients name a transaction by a gid of their own, and say the same again where
// they heard nothing, from wherever they are: these do, from two places at once, and some
// of them long after the outcome was forgotten.

// dtmJob is what a gid stands for: wherever it is asked for, it is the same.
type dtmJob struct {
	gid     string
	typ     transType
	content uint64 // seed of what it is made of
	timeout time.Duration
}

var dtmTypes = map[kind]transType{kindDTMSaga: dtmSaga, kindDTMTCC: dtmTCC, kindDTMMessage: dtmMessage, kindDTMWorkflow: dtmWorkflow}

// dtm does one job of DTM's clients, from one place or two, and maybe again later.
func (c *client) dtm(p *proc, r *rng, j job) {
	d := dtmJob{gid: fmt.Sprintf("gid-%d", j.n), typ: dtmTypes[j.kind], content: r.next(), timeout: j.timeout}
	second, later, other := r.below(3) == 0, r.below(6) == 0, r.below(8) == 0
	o := c.w.clients[r.below(len(c.w.clients))]
	after, again, seed := r.during(0, 2*time.Second), r.during(40*time.Second, 90*time.Second), r.next()
	if r.below(2) == 0 {
		after = r.during(0, 300*time.Microsecond)
	}
	twin := d
	if other && d.typ != dtmWorkflow { // nobody compares what a workflow is made of
		twin.content++
	}
	if second && o.tc == c.tc {
		c.w.count("gids used from two places")
		c.w.after(after, func() {
			if o.up {
				o.spawnWith(seed, func(q *proc) { o.dtmOnce(q, twin, fateCommit) })
			}
		})
	}
	// A gid that stood for something else, and was forgotten, is taken for the same by
	// barriers: nobody promises anything then.
	if later && !other && c.w.retention < again {
		c.w.jobsLeft++
		c.w.after(again, func() {
			c.w.jobsLeft--
			c.w.count("gids used again later")
			c.spawnWith(seed+1, func(q *proc) { c.dtmOnce(q, d, fateCommit) })
		})
	}
	c.dtmOnce(p, d, fateOf(r))
}

func (c *client) dtmOnce(p *proc, d dtmJob, end fate) {
	var err error
	switch d.typ {
	case dtmSaga:
		err = c.dtmSaga(p, d)
	case dtmTCC:
		err = c.dtmTCC(p, d, end)
	case dtmMessage:
		err = c.dtmMessage(p, d, end)
	case dtmWorkflow:
		err = dtmWorkflowRun(p, c.tc, d.gid, d.content)
	}
	c.note("gid ends", d.gid, errText(err))
}

// request makes one request of the front, again for as long as there is no answer.
func (p *proc) request(tc *coordinator, do func(q *proc, f *front) error) error {
	until := p.n.w.now + retryLimit
	for {
		err := p.betweenFor(tc.node, 2*time.Second, func(q *proc) error { return do(q, tc.front) })
		var no *refusal
		if err == nil || errors.As(err, &no) || p.n.w.now > until {
			return err
		}
		p.nap(50*time.Millisecond, time.Second)
		p.n.w.count("requests of a gid repeated")
	}
}

func (d dtmJob) request() *gidRequest {
	return &gidRequest{gid: d.gid, typ: d.typ, content: fmt.Sprint(d.content), timeout: d.timeout}
}

var dtmRetry = core.Retry{First: 50 * time.Millisecond, Max: time.Second, Poll: 300 * time.Millisecond}

// dtmSaga is dtmcli.Saga: one submit, and sometimes a wait for the result.
func (c *client) dtmSaga(p *proc, d dtmJob) error {
	r := stream(d.content)
	n := r.between(1, 4)
	refuses, concurrent, retry := -1, r.below(3) == 0, dtmRetry
	if r.below(3) == 0 {
		refuses = r.below(n)
	}
	if r.below(4) == 0 {
		retry.Attempts = 3
	}
	req := d.request()
	if r.below(3) > 0 {
		req.timeout = 0
	}
	waits := p.rng.below(3) == 0
	sum, seed := 0, r.next()
	plan := func(x xid.ID) (out []core.Register) {
		g := stream(seed)
		sum = 0
		for i := range n {
			give := 1 + g.below(5) + 6*i
			sum += give
			a := payload{changes: []change{{key: g.below(accounts) + reserved, add: give}}, refuses: i == refuses}
			if i == n-1 {
				a.changes = append(a.changes, change{key: g.below(accounts), add: -sum})
			}
			s := c.w.serviceOf(g, c.tc)
			b := core.Register{Branch: xid.BranchOf(x, stepName(i)), Mode: core.ModeSaga, Name: stepName(i), Plan: &core.Plan{
				Forward: s.webAction(a), Rollback: s.webAction(payload{changes: opposite(a.changes)}), Retry: retry,
			}}
			if i > 0 && !concurrent {
				b.Plan.After = []xid.BranchID{out[i-1].Branch}
			}
			out = append(out, b)
		}
		return out
	}
	return p.request(c.tc, func(q *proc, f *front) error {
		x, err := f.submitSaga(q, req, plan)
		if err == nil {
			c.w.oracle.keyTold(c.tc, d.gid, x)
		}
		if err == nil && waits {
			_, err = f.ask(q, func(ref core.Ref) core.Input {
				return core.Wait{Ref: ref, XID: x, Until: c.tc.Now().Add(time.Second), Finished: true, OrStalled: true}
			})
		}
		return err
	})
}

// dtmTCC is dtmcli.TccGlobalTransaction: prepare, register and try each branch, submit.
func (c *client) dtmTCC(p *proc, d dtmJob, end fate) error {
	r, req := stream(d.content), d.request()
	err := p.request(c.tc, func(q *proc, f *front) error {
		_, err := f.prepareTCC(q, req)
		return err
	})
	if err != nil {
		return err
	}
	n, from, to := 1+r.below(6), r.below(accounts), r.below(accounts)
	err = c.dtmTry(p, d, "01", c.w.serviceOf(r, c.tc), [3][]change{
		{{key: from, add: -n}, {key: from + reserved, add: n}}, {{key: from + reserved, add: -n}}, {{key: from + reserved, add: -n}, {key: from, add: n}},
	})
	if err == nil {
		err = c.dtmTry(p, d, "02", c.w.serviceOf(r, c.tc), [3][]change{nil, {{key: to, add: n}}, nil})
	}
	switch {
	case end == fateLeave:
		return nil
	case end == fateHang:
		p.sleep(d.timeout + time.Second)
	case err != nil, end != fateCommit:
		_ = p.request(c.tc, func(q *proc, f *front) error { return f.abort(q, d.gid) })
		return errUser
	}
	if err != nil {
		return err
	}
	return p.request(c.tc, func(q *proc, f *front) error { return f.submitTCC(q, req) })
}

// dtmTry is Tcc.CallBranch: the branch counts as voted once it is registered, and is
// confirmed last first.
func (c *client) dtmTry(p *proc, d dtmJob, name string, s *service, do [3][]change) error {
	var x xid.ID
	err := p.request(c.tc, func(q *proc, f *front) error {
		return f.registerBranch(q, d.gid, func(g *global) core.Register {
			x = g.XID
			b := core.Register{Branch: xid.BranchOf(g.XID, name), Mode: core.ModeTCC, Name: name, Vote: core.VoteYes, Fresh: true, Plan: &core.Plan{
				Commit: s.webAction(payload{changes: do[1]}), Rollback: s.webAction(payload{changes: do[2]}), LastFirst: true, Retry: dtmRetry,
			}}
			if n := len(g.Branches); n > 0 {
				b.Plan.After = []xid.BranchID{g.Branches[n-1].ID}
			}
			return b
		})
	})
	if err != nil {
		return err
	}
	return p.between(s.node, func(q *proc) error {
		if err := s.mood(q); err != nil {
			return err
		}
		_, err := s.barrier(q, d.gid, name, branchKey{x, xid.BranchOf(x, name)}, core.OpForward, payload{changes: do[0]})
		return err
	})
}

// dtmMessage is dtmcli.Msg.DoAndSubmit: prepare, the local transaction, submit. Without
// knowing what became of that it leaves the rest to whoever asks back.
func (c *client) dtmMessage(p *proc, d dtmJob, end fate) error {
	r, req := stream(d.content), d.request()
	s, from := c.w.serviceOf(r, c.tc), r.below(accounts)
	amounts := []int{1 + r.below(5), 6 + r.below(5)}[:1+r.below(2)]
	refuses, delay, concurrent := r.below(5) == 0, r.during(0, 500*time.Millisecond), r.below(2) == 0
	patience, seed := r.during(200*time.Millisecond, 3*time.Second), r.next()
	sum := 0
	for _, n := range amounts {
		sum += n
	}
	deliveries := func(x xid.ID) (out []core.Register) {
		g := stream(seed)
		for i, n := range amounts {
			a := payload{changes: []change{{key: g.below(accounts) + reserved, add: n}}}
			b := core.Register{Branch: xid.BranchOf(x, stepName(i)), Mode: core.ModeMessage, Name: stepName(i), Vote: core.VoteYes, Plan: &core.Plan{
				Commit: c.w.serviceOf(g, c.tc).webAction(a), Retry: dtmRetry,
			}}
			if i > 0 && !concurrent {
				b.Plan.After = []xid.BranchID{out[i-1].Branch}
			}
			out = append(out, b)
		}
		return out
	}
	prepared := func(x xid.ID) []core.Register {
		ask := s.webAction(payload{kind: payloadCheckBack})
		ask.Verb, ask.Delay = "msg", patience
		check := core.Register{Branch: zero(x), Mode: core.ModeMessage, Name: "00", Plan: &core.Plan{Forward: ask, Retry: dtmRetry}}
		return append([]core.Register{check}, deliveries(x)...)
	}
	var x xid.ID
	err := p.request(c.tc, func(q *proc, f *front) error {
		id, err := f.prepareMessage(q, req, prepared)
		if err == nil {
			x = id
			c.w.oracle.keyTold(c.tc, d.gid, x)
		}
		return err
	})
	if err != nil || end == fateLeave {
		return err
	}
	err = p.between(s.node, func(q *proc) error {
		q.nap(0, 100*time.Millisecond)
		_, err := s.fencedAs(q, barrierKey(d.gid, "local"), branchKey{x, xid.BranchOf(x, "local")}, core.OpForward, payload{changes: []change{{key: from, add: -sum}}, refuses: refuses})
		return err
	})
	if err != nil { // DoAndSubmit asks itself before it aborts
		err = p.between(s.node, func(q *proc) error {
			_, err := s.hasCommitted(q, x, barrierKey(d.gid, "local"))
			return err
		})
	}
	switch {
	case errors.Is(err, errFailedForGood):
		return p.request(c.tc, func(q *proc, f *front) error { return f.abort(q, d.gid) })
	case err != nil, end == fateHang:
		return err
	}
	return p.request(c.tc, func(q *proc, f *front) error {
		_, err := f.submitMessage(q, req, delay, deliveries)
		return err
	})
}
