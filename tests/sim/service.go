package sim

import (
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// service is a process that uses one database through package rm, and offers handlers
// to its coordinator. It stands for rm.Pool.
type service struct {
	*node
	db     *database
	tc     *coordinator
	group  xid.ResourceID  // of its handlers
	web    xid.ResourceID  // of its URLs
	queued map[xid.ID]bool // agent.queued
	calls  map[callKey]*asked
	since  map[callKey]underWay

	stale branchKey // what a connection was armed for; of a planted fault only
}

type callKey struct {
	k  branchKey
	op core.Op
}

const (
	registerTimeout = 10 * time.Second
	voteTimeout     = 30 * time.Second
)

func (w *world) newService(i int, d *database, c *coordinator) *service {
	return &service{node: w.newNode("rm", i), db: d, tc: c, group: xid.ResourceID{0xe, 14: c.disk.id[0], 15: d.id[15]},
		web: xid.ResourceID{0xf, 14: c.disk.id[0], 15: d.id[15]}}
}

// boot is rm.New: attach, settlers and the janitor.
func (s *service) boot() {
	s.start()
	s.note("starts")
	s.queued = map[xid.ID]bool{}
	s.calls = map[callKey]*asked{}
	s.since = map[callKey]underWay{}
	s.ping()
	s.spawn(s.janitor)
}

func (s *service) crash() {
	if !s.up {
		return
	}
	s.note("crashes")
	life := s.life
	s.stop()
	// The server finds out when the connection breaks.
	s.w.after(s.rng.during(0, 200*time.Millisecond), func() { s.db.sessionsOf(s.node, life) })
}

func (s *service) restart() {
	if !s.up {
		s.boot()
	}
}

// ping keeps the session alive, and attaches where the coordinator does not know it.
func (s *service) ping() {
	life := s.life
	s.w.net.send(s.node, s.tc.node, func() { s.tc.routes.hello(s, life) })
	s.after(pingEvery, s.ping)
}

// tell sends something that has no answer to the coordinator.
func (p *proc) tell(c *coordinator, in core.Input) {
	p.send(c.node, func() { c.post(in) })
}

// branch is rm.branch: one local transaction as the coordinator knows it.
type branch struct {
	s    *service
	x    xid.ID
	id   xid.BranchID
	mode core.Mode

	registered bool
	err        error // of the registration
	waiting    func()
	verdict    core.Vote // VoteNone: nothing to say yet
	silent     bool      // say nothing; the coordinator asks
	voting     func()
}

// startBranch is Pool.startBranch: it begins to register.
func (s *service) startBranch(p *proc, x xid.ID, mode core.Mode) *branch {
	b := &branch{s: s, x: x, id: p.newBranchID(), mode: mode}
	s.spawnWith(p.rng.next(), b.run)
	return b
}

func (b *branch) run(p *proc) {
	r, err := p.ask(b.s.tc, registerTimeout, func(ref core.Ref) core.Input {
		return core.Register{Ref: ref, XID: b.x, Branch: b.id, Resource: b.s.db.id, Mode: b.mode}
	})
	b.registered, b.err = true, errorOf(r, err)
	if b.waiting != nil {
		b.waiting()
	}
	for b.verdict == core.VoteNone && !b.silent {
		b.voting = p.waker()
		p.park()
	}
	var refused *core.Error
	if b.silent || errors.As(b.err, &refused) && b.s.w.plant != plantLateBranch {
		return
	}
	_, _ = p.ask(b.s.tc, voteTimeout, func(ref core.Ref) core.Input {
		return core.CastVote{Ref: ref, XID: b.x, Branch: b.id, Vote: b.verdict, Reason: "it failed"}
	}) // what is not delivered is asked for
}

// wait is branch.wait: until the registration is durable.
func (b *branch) wait(p *proc) error {
	for !b.registered {
		b.waiting = p.waker()
		p.park()
	}
	return b.err
}

// vote is branch.vote.
func (b *branch) vote(v core.Vote) {
	if b.verdict != core.VoteNone || b.silent {
		return
	}
	b.verdict, b.silent = v, v == core.VoteNone
	if b.voting != nil {
		b.voting()
	}
}

// errorOf is what a client makes of a reply.
func errorOf(r core.Reply, err error) error {
	if err != nil {
		return err
	}
	if r.Err != nil {
		return r.Err
	}
	return nil
}
