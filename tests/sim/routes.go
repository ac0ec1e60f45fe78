package sim

import (
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// routes is api.hub: which processes serve which resource. A session is alive as long
// as something is heard of its process.
type routes struct {
	c        *coordinator
	sessions []*session
	seen     map[int]*session // by node
	turn     int
}

// session is one connection of a service.
type session struct {
	s     *service
	life  uint32
	heard time.Duration
	calls []core.Call // under way
}

// underWay is a call that a coordinator made and waits for.
type underWay struct {
	at      time.Time
	life    uint32 // of the coordinator: a later one knows nothing of the call
	session *session
}

const (
	pingEvery   = time.Second
	sessionEnds = 3 * time.Second // after the last sign of life
	routeSweep  = 500 * time.Millisecond
)

// hello is hub.attach, and a sign of life afterwards. It tells whether the session is
// known.
func (r *routes) hello(s *service, life uint32) {
	ses := r.seen[s.id]
	if ses != nil && ses.life != life {
		r.remove(ses)
		ses = nil
	}
	if ses == nil {
		ses = &session{s: s, life: life}
		r.seen[s.id] = ses
		r.sessions = append(r.sessions, ses)
		r.c.note("attached", s.name)
		r.c.post(core.Attached{Resource: s.db.id})
		r.c.post(core.Attached{Resource: s.group})
	}
	ses.heard = r.c.w.now
}

// remove is hub.remove and hub.drop.
func (r *routes) remove(ses *session) {
	delete(r.seen, ses.s.id)
	r.sessions = slices.DeleteFunc(r.sessions, func(o *session) bool { return o == ses })
	r.c.note("detached", ses.s.name)
	for _, id := range []xid.ResourceID{ses.s.db.id, ses.s.group} {
		others := slices.ContainsFunc(r.sessions, func(o *session) bool { return o.s.db.id == id || o.s.group == id })
		r.c.post(core.Detached{Resource: id, Others: others})
	}
	for _, call := range ses.calls {
		r.c.post(core.Called{
			XID: call.XID, Branch: call.Branch, Op: call.Op, Attempt: call.Attempt, Verdict: core.Unsure, Text: "the process that was called has gone",
		})
	}
}

func (r *routes) sweep() {
	for _, ses := range slices.Clone(r.sessions) {
		if r.c.w.now-ses.heard > sessionEnds {
			r.remove(ses)
		}
	}
	r.c.after(routeSweep, r.sweep)
}

// pick gives the next session of a resource.
func (r *routes) pick(id xid.ResourceID) *session {
	for range r.sessions {
		r.turn++
		ses := r.sessions[r.turn%len(r.sessions)]
		if ses.s.db.id == id || ses.s.group == id {
			return ses
		}
	}
	return nil
}

func (r *routes) settle(m core.Settle) {
	if ses := r.pick(m.Resource); ses != nil {
		g := r.c.about(m.XID)
		seed := g.next()
		r.c.w.net.carryOn(g, r.c.node, ses.s.node, func() {
			seed++ // a copy does not do the same
			ses.s.settleCommand(m, seed)
		})
	}
}

func (r *routes) askVote(m core.AskVote) {
	if ses := r.pick(m.Resource); ses != nil {
		g := r.c.about(m.XID)
		seed := g.next()
		r.c.w.net.carryOn(g, r.c.node, ses.s.node, func() {
			seed++
			ses.s.askCommand(m, seed)
		})
	}
}

// call is hub.call and session.call.
func (r *routes) call(m core.Call) {
	if m.Action.Kind == core.TargetHTTP {
		r.c.web(m)
		return
	}
	ses := r.pick(m.Action.Lane)
	if ses == nil {
		return
	}
	action := *m.Action // it belongs to the machine
	m.Action = &action
	ses.calls = append(ses.calls, m)
	life, first, at := r.c.life, true, r.c.Now()
	g := r.c.about(m.XID)
	seed := g.next()
	r.c.w.net.carryOn(g, r.c.node, ses.s.node, func() {
		if first && r.c.life == life && r.seen[ses.s.id] == ses {
			ses.s.since[callKey{branchKey{m.XID, m.Branch}, m.Op}] = underWay{at: at, life: life, session: ses}
		}
		first = false
		seed++
		ses.s.callCommand(m, life, seed)
	})
}

// called is the answer to a call of one life of the coordinator: session.calledBack.
func (r *routes) called(from *service, in core.Called, life uint32) {
	if life != r.c.life && r.c.w.plant != plantStaleAttempt {
		in.Attempt = 0
	}
	if ses := r.seen[from.id]; ses != nil {
		ses.calls = slices.DeleteFunc(ses.calls, func(c core.Call) bool {
			return c.XID == in.XID && c.Branch == in.Branch && c.Op == in.Op && c.Attempt <= in.Attempt
		})
	}
	r.c.post(in)
}
