package sim

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// web is caller.Caller in DTM's dialect: one HTTP request per attempt, to any process of
// the service. It has an end at its timeout at the latest.
func (c *coordinator) web(m core.Call) {
	action := *m.Action // it belongs to the machine
	m.Action = &action
	answered := false
	answer := func(v core.Verdict, text, result string) {
		if !answered {
			answered = true
			c.post(core.Called{XID: m.XID, Branch: m.Branch, Op: m.Op, Attempt: m.Attempt, Verdict: v, Text: text, Result: []byte(result)})
		}
	}
	c.after(actionTimeout, func() { answer(core.Unsure, "timeout", "") })
	g := c.about(m.XID)
	seed := g.next()
	s := c.w.behind(g, m.Action.Lane)
	c.w.net.carryOn(g, c.node, s.node, func() {
		seed++ // a copy does not do the same
		s.webCall(c, m, seed, answer)
	})
}

// behind is what a load balancer picks.
func (w *world) behind(r *rng, lane xid.ResourceID) *service {
	for n := r.below(len(w.services)); ; n++ {
		if s := w.services[n%len(w.services)]; s.web == lane {
			return s
		}
	}
}

// webCall is a handler of a service of DTM's, and what caller makes of its answer.
func (s *service) webCall(c *coordinator, m core.Call, seed uint64, answer func(core.Verdict, string, string)) {
	life := c.life
	s.spawnWith(seed, func(p *proc) {
		result, err := s.webHandle(p, m)
		v, text := core.Done, ""
		switch {
		case errors.Is(err, errFailedForGood):
			v = core.Failed
		case errors.Is(err, errNotYet), err == nil && m.Mode == core.ModeWorkflow:
			v = core.NotYet
		case err != nil:
			v = core.Unsure
		}
		if err != nil {
			text = err.Error()
		}
		s.note("answers", m.XID, m.Branch, m.Op, v)
		p.send(c.node, func() {
			if c.life == life {
				answer(v, text, result)
			}
		})
	})
}

func (s *service) webHandle(p *proc, m core.Call) (string, error) {
	a := decodePayload(m.Action.Payload)
	if err := s.mood(p); err != nil {
		return "", err
	}
	switch a.kind {
	case payloadGidWorkflow:
		return "", dtmWorkflowRun(p, s.tc, m.Key, a.seed)
	case payloadCheckBack:
		return s.hasCommitted(p, m.XID, barrierKey(m.Key, "local"))
	case payloadEffect, payloadWorkflow:
	}
	out, err := s.barrier(p, m.Key, m.Name, branchKey{m.XID, m.Branch}, m.Op, a)
	if err == nil && p.rng.chance(s.w.moods) {
		s.w.count("user code that was late")
		p.nap(100*time.Millisecond, 4*time.Second)
	}
	return out, err
}

// gidStore marks the XIDs that stand for a gid in the table of barriers.
const gidStore = 0xba

// barrierKey is where DTM's barrier remembers a branch: it knows gids, and no XIDs.
func barrierKey(gid, name string) branchKey {
	h := fnv.New64a()
	_, _ = h.Write([]byte(gid)) // never fails
	x := xid.New(xid.Parts{Begin: epoch, Store: xid.StoreID{gidStore}, Counter: h.Sum64()})
	return branchKey{x, xid.BranchOf(x, name)}
}

// barrier is BranchBarrier.Call of DTM's client: what was done before, or came too late,
// is done, and has no effect.
func (s *service) barrier(p *proc, gid, name string, by branchKey, op core.Op, a payload) (string, error) {
	out, err := s.fencedAs(p, barrierKey(gid, name), by, op, a)
	if errors.Is(err, errLate) || errors.Is(err, errContradicted) {
		return "SUCCESS", nil
	}
	return out, err
}

// webAction makes a URL of a service, as the coordinator calls it.
func (s *service) webAction(a payload) core.Action {
	return core.Action{Kind: core.TargetHTTP, Address: "http://" + s.name, Lane: s.web, Payload: a.encode(), Timeout: actionTimeout, Dialect: core.DialectDTM}
}

func appendSeed(b []byte, seed uint64) []byte { return binary.BigEndian.AppendUint64(b, seed) }
