package core_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

var (
	testStore = xid.StoreID{1, 2, 3}
	epoch     = time.UnixMilli(1_700_000_000_000)
)

// shell plays the caller of a machine: a log with a durable part and a tail, an
// archive, and messages that wait for the log.
type shell struct {
	t       fataler
	cfg     core.Config
	m       *core.Machine
	now     time.Time
	wake    time.Time
	counter uint64

	log     []core.Record // everything appended since the first start
	ends    []finishedAt  // what was archived, and after which record
	durable int           // length of the durable prefix of log
	base    int           // length of log when m started
	outbox  []core.Message
	// release is called for each message that leaves.
	release func(core.Body)
	// parked is called for each wait that begins or ends.
	parked func(core.Parked)
	// naive releases everything at once: the fault that the tests have to find.
	naive bool
}

type finishedAt struct {
	at int
	tx core.Transaction
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func newShell(t fataler, cfg core.Config) *shell {
	cfg.Store = testStore
	s := &shell{t: t, cfg: cfg, now: epoch, release: func(core.Body) {}, parked: func(core.Parked) {}}
	s.restart(0)
	return s
}

// restart starts a new incarnation from the durable log and keepTail records of
// the tail, as after a crash that lost the rest.
func (s *shell) restart(keepTail int) {
	s.t.Helper()
	keep := min(s.durable+keepTail, len(s.log))
	s.log = s.log[:keep]
	s.durable, s.base = keep, keep
	s.outbox = nil
	s.cfg.Incarnation++
	s.m = core.New(s.cfg)
	var order []xid.ID
	open := map[xid.ID]*core.Transaction{}
	for _, r := range s.log {
		if open[r.XID] == nil {
			open[r.XID] = &core.Transaction{}
			order = append(order, r.XID)
		}
		if err := core.Fold(open[r.XID], r); err != nil {
			s.t.Fatalf("reading the log back: %v", err)
		}
	}
	kept := s.ends[:0]
	for _, e := range s.ends {
		if e.at <= keep {
			kept = append(kept, e)
		}
	}
	s.ends = kept
	for _, id := range order {
		if tx := open[id]; tx.Phase != core.Finished {
			s.m.Restore(s.now, *tx)
		}
	}
	s.step(core.Tick{})
}

func (s *shell) archived(id xid.ID) (core.Transaction, bool) {
	for _, e := range s.ends {
		if e.tx.XID == id {
			return e.tx, true
		}
	}
	return core.Transaction{}, false
}

// step hands one input to the machine and appends what it says.
func (s *shell) step(in core.Input) {
	s.t.Helper()
	if id, ok := target(in); ok && !s.m.Known(id) {
		if tx, ok := s.archived(id); ok {
			s.m.Load(tx)
			defer s.m.Evict(id)
		}
	}
	out := s.m.Step(s.now, in)
	s.log = append(s.log, out.Records...)
	for _, tx := range out.Finished {
		s.ends = append(s.ends, finishedAt{at: len(s.log), tx: tx})
		s.m.Evict(tx.XID)
	}
	for _, p := range out.Parked {
		s.parked(p)
	}
	s.outbox = append(s.outbox, out.Messages...)
	s.wake = out.Wake
	s.letGo()
}

// flush makes the whole log durable.
func (s *shell) flush() {
	s.durable = len(s.log)
	s.letGo()
}

func (s *shell) letGo() {
	var left, go_ []core.Message
	for _, msg := range s.outbox {
		if s.naive || int(msg.Need) <= s.durable-s.base {
			go_ = append(go_, msg)
		} else {
			left = append(left, msg)
		}
	}
	s.outbox = left
	for _, msg := range go_ {
		s.release(msg.Body)
	}
}

// do steps, flushes and returns everything that left meanwhile.
func (s *shell) do(in core.Input) []core.Body {
	s.t.Helper()
	var got []core.Body
	old := s.release
	s.release = func(b core.Body) { got = append(got, b) }
	s.step(in)
	s.flush()
	s.release = old
	return got
}

// reply is do for a request with exactly one message, its reply.
func (s *shell) reply(in core.Input) core.Reply {
	s.t.Helper()
	for _, b := range s.do(in) {
		if r, ok := b.(core.Reply); ok {
			return r
		}
	}
	s.t.Fatalf("%T: no reply", in)
	return core.Reply{}
}

func (s *shell) begin() xid.ID {
	s.t.Helper()
	return s.beginFor(time.Minute)
}

func (s *shell) beginFor(timeout time.Duration) xid.ID {
	s.t.Helper()
	s.counter++
	id := xid.New(xid.Parts{Begin: s.now, Incarnation: s.cfg.Incarnation, Store: testStore, Counter: s.counter})
	if r := s.reply(core.Begin{Ref: "begin", XID: id, Deadline: s.now.Add(timeout)}); r.Err != nil {
		s.t.Fatalf("begin: %v", r.Err)
	}
	return id
}

// pass lets time go by, tick by tick, and returns what left.
func (s *shell) pass(d time.Duration) []core.Body {
	var got []core.Body
	end := s.now.Add(d)
	for !s.wake.IsZero() && !s.wake.After(end) {
		s.now = later(s.now, s.wake)
		got = append(got, s.do(core.Tick{})...)
	}
	s.now = end
	return append(got, s.do(core.Tick{})...)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func target(in core.Input) (xid.ID, bool) {
	switch in := in.(type) {
	case core.Register:
		return in.XID, true
	case core.CastVote:
		return in.XID, true
	case core.Commit:
		return in.XID, true
	case core.Rollback:
		return in.XID, true
	case core.Get:
		return in.XID, true
	case core.Wait:
		return in.XID, true
	case core.RetryNow:
		return in.XID, true
	case core.Waiting:
		return in.XID, true
	case core.Submit:
		return in.XID, true
	case core.Abandon:
		return in.XID, true
	default:
		return xid.ID{}, false
	}
}

// eachCrash hands out the shell as it would be after a crash that left the first n
// records, for each n that is not before the given one, with what left at the start.
func (s *shell) eachCrash(from int, f func(n int, c *shell, out []core.Body)) {
	s.t.Helper()
	for n := max(from, 1); n <= len(s.log); n++ {
		c := *s
		c.log, c.ends = slices.Clone(s.log[:n]), slices.Clone(s.ends)
		c.durable = n
		c.parked = func(core.Parked) {}
		var out []core.Body
		c.release = func(b core.Body) { out = append(out, b) }
		c.restart(0)
		c.release = func(core.Body) {}
		f(n, &c, out)
	}
}

// drive answers everything that is asked with yes until nothing is open, and gives
// the calls that were made, including those in out.
func (s *shell) drive(out []core.Body) (made []core.Call) {
	s.t.Helper()
	out = append(out, s.do(core.Attached{Resource: resourceID(1)})...)
	for range 300 {
		for len(out) > 0 {
			b := out[0]
			out = out[1:]
			switch b := b.(type) {
			case core.Call:
				made = append(made, b)
				out = append(out, s.do(answer(b, core.Done, ""))...)
			case core.Settle:
				out = append(out, s.do(core.Settled{XID: b.XID, Resource: b.Resource, Outcome: b.Outcome, Done: true})...)
			case core.AskVote:
				out = append(out, s.do(core.Answered{XID: b.XID, Branch: b.Branch, Vote: core.VoteYes})...)
			}
		}
		if s.m.Open() == 0 {
			return made
		}
		if s.wake.IsZero() {
			break
		}
		out = s.pass(s.wake.Sub(s.now))
	}
	s.t.Fatalf("%d transactions are left open", s.m.Open())
	return nil
}

func branchID(n int) xid.BranchID { return xid.BranchID{0: 0xb, 15: byte(n)} }

func resourceID(n int) xid.ResourceID { return xid.ResourceID{0: 0xd, 15: byte(n)} }

// settles picks the Settle commands.
func settles(bodies []core.Body) []core.Settle {
	var out []core.Settle
	for _, b := range bodies {
		if s, ok := b.(core.Settle); ok {
			out = append(out, s)
		}
	}
	return out
}

func replies(bodies []core.Body) []core.Reply {
	var out []core.Reply
	for _, b := range bodies {
		if r, ok := b.(core.Reply); ok {
			out = append(out, r)
		}
	}
	return out
}

func asks(bodies []core.Body) int {
	n := 0
	for _, b := range bodies {
		if _, ok := b.(core.AskVote); ok {
			n++
		}
	}
	return n
}

func wantKind(t *testing.T, r core.Reply, want core.ErrorKind) {
	t.Helper()
	if r.Err == nil || r.Err.Kind != want {
		t.Fatalf("error %+v, want kind %d", r.Err, want)
	}
}

func (s *shell) register(id xid.ID, branch, resource int) core.Reply {
	s.t.Helper()
	return s.reply(core.Register{Ref: fmt.Sprint("register ", branch), XID: id, Branch: branchID(branch), Resource: resourceID(resource), Mode: core.ModeAT})
}

func (s *shell) vote(id xid.ID, branch int, v core.Vote) core.Reply {
	s.t.Helper()
	return s.reply(core.CastVote{Ref: fmt.Sprint("vote ", branch), XID: id, Branch: branchID(branch), Vote: v})
}
