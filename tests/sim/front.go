package sim

import (
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// front is tc/dtm: it gives DTM's clients what they ask for, under keys of theirs, and has
// no state but who works at which key. It runs in the process of the coordinator.
type front struct {
	c    *coordinator
	gids map[string]*gidLock
}

// gidLock is one of service.gids: requests about a new gid are one after another.
type gidLock struct {
	held    bool
	waiters []func()
}

// transType is what DTM calls a mode.
type transType string

const (
	dtmSaga     transType = "saga"
	dtmTCC      transType = "tcc"
	dtmMessage  transType = "msg"
	dtmWorkflow transType = "workflow"
)

// status is that of DTM.
type status int

const (
	dtmPrepared status = iota
	dtmSubmitted
	dtmAborting
	dtmSucceed
	dtmFailed
)

// refusal is what a client gets: FAILURE is for good, the rest is tried again.
type refusal struct {
	good bool
	text string
}

func (r *refusal) Error() string { return r.text }

func failure(text string) error { return &refusal{good: true, text: text + ". FAILURE"} }

// global is dtm.global.
type global struct{ core.Transaction }

func (g *global) typ() transType { return transType(g.Note[:indexByte(g.Note, '|')]) }

func indexByte(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return len(b)
}

// status is global.status.
func (g *global) status() status {
	switch {
	case g.Phase == core.Finished && g.Outcome == core.Committed:
		return dtmSucceed
	case g.Phase == core.Finished:
		return dtmFailed
	case g.Outcome == core.Committed:
		return dtmSubmitted
	case g.Outcome == core.RolledBack:
		return dtmAborting
	case g.typ() == dtmSaga:
		return dtmSubmitted
	default:
		return dtmPrepared
	}
}

// gidRequest is dtm.request.
type gidRequest struct {
	gid     string
	typ     transType
	content string // dtm.note.Sum
	timeout time.Duration
}

func (r *gidRequest) note() []byte { return []byte(string(r.typ) + "|" + r.content) }

// joins is global.joins.
func (g *global) joins(r *gidRequest) error {
	if string(g.Note) != string(r.note()) {
		return failure("gid is used already")
	}
	return nil
}

// zero is the branch that stands for the sender, or the workflow.
func zero(x xid.ID) xid.BranchID { return xid.BranchOf(x, "00") }

// submitPatience is dtm.submitPatience.
const submitPatience = time.Minute

// locked runs f while nobody else works at a new gid.
func (f *front) locked(p *proc, gid string, do func() error) error {
	l := f.gids[gid]
	if l == nil {
		l = &gidLock{}
		f.gids[gid] = l
	}
	for l.held {
		l.waiters = append(l.waiters, p.waker())
		p.park()
	}
	l.held = f.c.w.plant != plantGidUnlocked
	defer func() {
		l.held = false
		waiters := l.waiters
		l.waiters = nil
		for _, wake := range waiters {
			wake()
		}
	}()
	return do()
}

// ask is service.ask: a request of the core in the same process.
func (f *front) ask(p *proc, build func(core.Ref) core.Input) (core.Reply, error) {
	invoked := p.n.w.now
	var got *core.Reply
	wake := p.waker()
	ref := &request{reply: func(r core.Reply) { got = &r; wake() }}
	f.c.post(ref.of(build(ref)))
	for got == nil {
		p.park()
	}
	f.c.w.oracle.answers(invoked, *got)
	return *got, errorOf(*got, nil)
}

// find is service.find.
func (f *front) find(p *proc, gid string) (g global, found bool) {
	p.nap(time.Microsecond, 100*time.Microsecond) // the store is read
	id, found := f.c.disk.keys[gid]
	f.c.w.oracle.lookedUp(f.c, gid, id, found)
	if !found {
		return g, false
	}
	p.nap(5*time.Microsecond, 60*time.Microsecond) // Peek goes through the queue of the shard
	tx, found := f.c.shardOf(id).m.Look(id)
	if !found {
		var err error
		if tx, found, err = f.c.disk.lookUp(id); err != nil {
			f.c.w.fail("look up %s: %v", short(id), err)
		}
	}
	g.Transaction = tx
	return g, found
}

// told is service.told: what was only peeked at is durable before anybody hears of it.
func (f *front) told(p *proc, g *global, err error) error {
	if _, e := f.ask(p, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: g.XID} }); e != nil {
		return e
	}
	return err
}

// begin makes the begin of a request.
func (f *front) begin(p *proc, r *gidRequest, timeout time.Duration) core.Begin {
	id := f.c.newXID(p.rng.next())
	return core.Begin{XID: id, Name: "dtm " + string(r.typ), Key: r.gid, Note: r.note(), Deadline: f.c.Now().Add(timeout)}
}

// open is service.open.
func (f *front) open(p *proc, r *gidRequest) (g global, began bool, err error) {
	err = f.locked(p, r.gid, func() error {
		var found bool
		if g, found = f.find(p, r.gid); found {
			return nil
		}
		in := f.begin(p, r, r.timeout)
		a, err := f.ask(p, func(ref core.Ref) core.Input { in.Ref = ref; return in })
		g.Transaction, began = a.Tx, true
		return err
	})
	return g, began, err
}

// start is service.start.
func (f *front) start(p *proc, r *gidRequest, plan func(xid.ID) []core.Register, deadline time.Time) (g global, began bool, err error) {
	err = f.locked(p, r.gid, func() error {
		var found bool
		g, found = f.find(p, r.gid)
		if found && (g.Submitted || g.Outcome != core.Undecided || string(g.Note) != string(r.note())) {
			return nil // whoever asked looks at what it is
		}
		began = true
		if found {
			return f.submitBranches(p, g.XID, plan(g.XID), deadline)
		}
		in := f.begin(p, r, submitPatience)
		in.Ref = &request{reply: func(core.Reply) {}, about: in}
		g.XID, g.Key, g.Note = in.XID, r.gid, r.note()
		f.c.post(in)
		return f.submitBranches(p, g.XID, plan(g.XID), deadline)
	})
	return g, began, err
}

// submitBranches is service.submitBranches.
func (f *front) submitBranches(p *proc, x xid.ID, branches []core.Register, deadline time.Time) error {
	_, err := f.ask(p, func(ref core.Ref) core.Input {
		return core.Submit{Ref: ref, XID: x, Branches: branches, Deadline: deadline}
	})
	if kindOf(err) == core.ErrRolledBack {
		return failure("failed, cannot submit")
	}
	return err
}

// vote is service.vote.
func (f *front) vote(p *proc, x xid.ID, v core.CastVote) (core.Reply, error) {
	return f.ask(p, func(ref core.Ref) core.Input {
		v.Ref, v.XID, v.Branch = ref, x, zero(x)
		return v
	})
}

// kindOf is that of an error of the core; 0: it is none.
func kindOf(err error) core.ErrorKind {
	if e, ok := err.(*core.Error); ok { //nolint:errorlint // nobody wraps it here
		return e.Kind
	}
	return 0
}
