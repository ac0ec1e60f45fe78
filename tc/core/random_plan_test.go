package core_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// participant is the fenced effect of one branch.
type participant struct {
	done, undone, kept int
	blocked            bool
	fails              bool // answers Failed
	partly             bool // and does something all the same
	withdrawn          bool // its caller says that it had no effect
}

func (p *participant) call(c core.Call) core.Verdict {
	switch c.Op {
	case core.OpForward:
		switch {
		case p.blocked:
			return core.Failed
		case p.done == 0 && (!p.fails || p.partly):
			p.done++
		}
		if p.fails {
			return core.Failed
		}
	case core.OpCommit:
		if p.kept == 0 {
			p.kept++
		}
	case core.OpRollback:
		if p.done > 0 && p.undone == 0 {
			p.undone++
		}
		p.blocked = true
	}
	return core.Done
}

// planWorld is one transaction with a random graph of branches, over a network that
// loses, doubles and delays.
type planWorld struct {
	t         *testing.T
	rng       *rand.Rand
	seed      uint64
	s         *shell
	id        xid.ID
	plan      []core.Register
	parts     map[xid.BranchID]*participant
	notBefore time.Time
	database  bool         // there is a branch of a database, too
	settled   core.Outcome // what it was told

	net  []core.Body  // on their way to participants
	back []core.Input // on their way to the coordinator

	abandons  bool         // somebody has asked to give the calls up
	abandoned bool         // and was told that they are
	waits     map[int]bool // that are unanswered
	waited    int
	ops       map[string]int // what happened, over all runs
}

// What may happen to a random plan. Runs in which it does not happen would keep
// every promise.
var planEvents = []string{"last first", "refused and undone", "delayed", "abandoned", "abandoned and settled", "stalled", "database", "withdrawn"}

// Random graphs of steps over a network that loses, doubles and delays, with
// crashes that lose any part of what was not forced: in the end every effect is
// there exactly once, or not at all.
func TestRandomPlansEndAsDecided(t *testing.T) {
	t.Parallel()
	runs := 6000
	if testing.Short() {
		runs = 600
	}
	outcomes, ops := map[core.Outcome]int{}, map[string]int{}
	for seed := range uint64(runs) {
		w := newPlanWorld(t, seed, ops)
		outcomes[w.run()]++
		if t.Failed() {
			return
		}
	}
	if outcomes[core.Committed] < runs/10 || outcomes[core.RolledBack] < runs/10 {
		t.Errorf("outcomes %v", outcomes)
	}
	for _, e := range planEvents {
		if ops[e] < runs/100 {
			t.Errorf("%q came %d times in %d runs", e, ops[e], runs)
		}
	}
}

func newPlanWorld(t *testing.T, seed uint64, ops map[string]int) *planWorld {
	t.Helper()
	w := &planWorld{
		t: t, rng: rand.New(rand.NewPCG(seed, 11)), seed: seed, s: newShell(t, core.Config{Window: 2, RestartGrace: time.Second}),
		parts: map[xid.BranchID]*participant{}, waits: map[int]bool{}, ops: ops,
	}
	w.s.do(core.Attached{Resource: resourceID(1)})
	w.id, _ = w.s.beginAs([]string{"", "order"}[w.rng.IntN(2)], strings.Repeat("n", w.rng.IntN(50)))
	if w.database = w.rng.IntN(4) == 0; w.database {
		w.ops["database"]++
		w.s.register(w.id, 99, 1)
		w.s.vote(w.id, 99, core.VoteYes)
	}
	w.s.release = w.released
	lastFirst := w.rng.IntN(3) == 0
	var tries []core.Register
	for n := 1; n <= 1+w.rng.IntN(6); n++ {
		b := w.branch(n)
		if w.rng.IntN(8) > 0 {
			b.Plan.LastFirst = lastFirst // else in disorder
		} else {
			b.Plan.LastFirst = !lastFirst
		}
		w.plan = append(w.plan, b)
		if b.Mode != core.ModeTCC {
			continue
		}
		// Its Try is made by its caller, before the others are submitted.
		b.Ref, b.XID, b.Plan.After = "try", w.id, nil
		tries = append(tries, b)
	}
	for _, b := range tries {
		w.s.step(b)
		vote := core.VoteYes
		if p := w.parts[b.Branch]; w.rng.IntN(4) == 0 {
			vote, p.withdrawn = core.VoteWithdrawn, true // and yet it happened, in another copy of the request
		}
		w.s.step(core.CastVote{Ref: "try", XID: w.id, Branch: b.Branch, Vote: vote, Fresh: true, Delay: time.Duration(w.rng.IntN(5)) * time.Second})
	}
	w.s.flush()
	w.notBefore = w.s.reply(core.Get{Ref: "get", XID: w.id}).Tx.NotBefore
	w.s.step(core.Submit{Ref: "submit", XID: w.id, Branches: w.plan})
	w.s.flush()
	return w
}

func (w *planWorld) branch(n int) core.Register {
	var after []int
	for a := 1; a < n; a++ {
		if w.rng.IntN(3) == 0 {
			after = append(after, a)
		}
	}
	b := step(n, after...)
	p := &participant{}
	switch w.rng.IntN(8) {
	case 0, 1:
		b = delivery(n, after...)
		if w.rng.IntN(2) == 0 {
			b.Result = make([]byte, w.rng.IntN(500))
		}
	case 2:
		b = try(xid.ID{}, n)
		p.done = 1
	case 3, 4:
		b.Plan.Commit = action(n)
	}
	b.Plan.Retry = core.Retry{First: 10 * time.Millisecond, Max: time.Second, Poll: time.Duration(w.rng.IntN(2)) * time.Second}
	b.Plan.Forward.Payload, b.Plan.Rollback.Payload = make([]byte, w.rng.IntN(5000)), make([]byte, w.rng.IntN(50))
	b.Plan.Commit.Header = make([]core.Header, w.rng.IntN(3))
	p.fails = w.rng.IntN(12) == 0 && hasForward(b)
	p.partly = p.fails && w.rng.IntN(2) == 0
	w.parts[b.Branch] = p
	return b
}

func hasForward(b core.Register) bool { return b.Plan.Forward.Kind != core.TargetNone }

func hasCommit(b core.Register) bool { return b.Plan.Commit.Kind != core.TargetNone }

func (w *planWorld) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
}

// released sees everything that leaves the machine.
func (w *planWorld) released(b core.Body) {
	w.t.Helper()
	switch b := b.(type) {
	case core.Call:
		w.net = append(w.net, b)
		w.mayBeCalled(b)
	case core.Settle:
		w.net = append(w.net, b)
	case core.Reply:
		if b.Ref == "abandon" {
			w.abandoned = b.Err == nil
		}
		if n, ok := b.Ref.(int); ok {
			if !w.waits[n] {
				w.fail("a wait is answered twice")
			}
			delete(w.waits, n)
			if b.Tx.Phase != core.Finished {
				w.ops["stalled"]++
			}
		}
	}
}

// mayBeCalled checks the order of what is called.
func (w *planWorld) mayBeCalled(c core.Call) {
	w.t.Helper()
	if w.abandoned {
		w.fail("branch %d is called after the calls were given up", c.Branch[15])
	}
	b := w.plan[c.Branch[15]-1]
	commits := c.Op == core.OpCommit || !hasForward(b) && c.Op == core.OpForward
	if c.Op == core.OpForward && !commits {
		return
	}
	if w.database && w.settled == core.Undecided {
		w.fail("branch %d is called before the database is settled", b.Branch[15])
	}
	if w.abandons || !commits {
		return // of a crash in the midst of it, any part may be given up
	}
	if w.s.now.Before(w.notBefore) {
		w.fail("branch %d is committed %s too early", b.Branch[15], w.notBefore.Sub(w.s.now))
	}
	for _, o := range w.plan {
		p := w.parts[o.Branch]
		first := slices.Contains(b.Plan.After, o.Branch) && !b.Plan.LastFirst || slices.Contains(o.Plan.After, b.Branch) && o.Plan.LastFirst
		if !first || !hasCommit(o) || p.withdrawn {
			continue
		}
		if o.Plan.LastFirst {
			w.ops["last first"]++
		}
		if p.kept == 0 && (o.Mode != core.ModeMessage || p.done == 0) {
			w.fail("branch %d is committed before branch %d", b.Branch[15], o.Branch[15])
		}
	}
}

func (w *planWorld) run() core.Outcome {
	w.t.Helper()
	rollBack, abandon := w.rng.IntN(6) == 0, w.rng.IntN(8) == 0
	for range 4000 {
		w.s.wantHeld(w.t, "meanwhile")
		if tx, ok := w.s.archived(w.id); ok && w.s.durable == len(w.s.log) {
			w.check(tx)
			return tx.Outcome
		}
		if w.t.Failed() {
			return core.Undecided
		}
		switch w.rng.IntN(10) {
		case 0, 1:
			w.arrive()
		case 2, 3:
			if len(w.back) > 0 {
				i := w.rng.IntN(len(w.back))
				w.s.step(w.back[i])
				if w.rng.IntN(4) > 0 {
					w.back = append(w.back[:i], w.back[i+1:]...)
				}
			}
		case 4, 5:
			w.s.flush()
		case 6:
			w.s.now = w.s.now.Add(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
			w.s.step(core.Tick{})
		case 7:
			if w.rng.IntN(6) == 0 {
				clear(w.waits)
				w.s.restart(w.rng.IntN(3))
				w.s.step(core.Attached{Resource: resourceID(1)})
			}
		case 8:
			if rollBack && w.rng.IntN(8) == 0 {
				w.s.step(core.Rollback{Ref: "tm", XID: w.id})
			}
			if abandon && w.rng.IntN(16) == 0 {
				w.abandons = true
				w.s.step(core.Abandon{Ref: "abandon", XID: w.id})
			}
		case 9:
			if len(w.waits) < 3 {
				w.waited++
				w.waits[w.waited] = true
				w.s.step(core.Wait{Ref: w.waited, XID: w.id, Finished: true, OrStalled: w.rng.IntN(4) > 0})
			}
		}
	}
	w.fail("it never ends: %+v\nnet %d back %d wake %v now %v", w.s.reply(core.Get{Ref: "get", XID: w.id}).Tx,
		len(w.net), len(w.back), w.s.wake.Sub(epoch), w.s.now.Sub(epoch))
	return core.Undecided
}

// arrive lets something reach a participant, which answers.
func (w *planWorld) arrive() {
	if len(w.net) == 0 {
		return
	}
	i := w.rng.IntN(len(w.net))
	b := w.net[i]
	if w.rng.IntN(4) > 0 {
		w.net = append(w.net[:i], w.net[i+1:]...) // else it comes again
	}
	if w.rng.IntN(5) == 0 {
		return
	}
	switch b := b.(type) {
	case core.Call:
		if w.rng.IntN(8) == 0 && b.Op != core.OpRollback {
			w.back = append(w.back, answer(b, core.NotYet, "later"))
			return
		}
		a := answer(b, w.parts[b.Branch].call(b), strings.Repeat("r", w.rng.IntN(300)))
		if w.rng.IntN(8) == 0 {
			a.Verdict = core.Unsure // it did it, and could not say so
		}
		w.back = append(w.back, a)
	case core.Settle:
		if w.settled != core.Undecided && w.settled != b.Outcome {
			w.fail("the database is told %d and then %d", w.settled, b.Outcome)
		}
		w.settled = b.Outcome
		w.back = append(w.back, core.Settled{XID: b.XID, Resource: b.Resource, Outcome: b.Outcome, Done: true})
	}
}

// check compares effects and state in the end.
func (w *planWorld) check(tx core.Transaction) {
	w.t.Helper()
	if w.database && w.settled != tx.Outcome {
		w.fail("the database is settled as %d, decided was %d", w.settled, tx.Outcome)
	}
	given := abandonedOf(tx)
	if given != "" && !w.abandons {
		w.fail("branches %s were given up by nobody", given)
	}
	if given != "" {
		w.ops["abandoned"]++
		if w.database {
			w.ops["abandoned and settled"]++
		}
	}
	for _, b := range w.plan {
		p := w.parts[b.Branch]
		keeps := 0
		if hasCommit(b) && b.Mode != core.ModeMessage {
			keeps = 1
		}
		switch {
		case p.undone > 0 && tx.Outcome == core.Committed && !p.withdrawn, p.kept > 0 && tx.Outcome == core.RolledBack:
			w.fail("outcome %d, branch %d: %+v", tx.Outcome, b.Branch[15], *p)
		case contains(given, b.Branch):
		case p.withdrawn && (p.done != p.undone || p.kept > 0):
			w.fail("outcome %d, branch %d, which withdrew: %+v", tx.Outcome, b.Branch[15], *p)
		case p.withdrawn:
			w.ops["withdrawn"]++
		case tx.Outcome == core.Committed && (p.done != 1 || p.kept != keeps):
			w.fail("committed, branch %d: %+v", b.Branch[15], *p)
		case tx.Outcome == core.RolledBack && p.done != p.undone:
			w.fail("rolled back, branch %d: %+v", b.Branch[15], *p)
		}
		if p.partly && p.undone > 0 {
			w.ops["refused and undone"]++
		}
	}
	if !w.notBefore.IsZero() {
		w.ops["delayed"]++
	}
	if len(w.waits) > 0 {
		w.fail("%d waits are unanswered at the end", len(w.waits))
	}
	w.s.release = func(core.Body) {}
	w.s.ended(w.t)
}
