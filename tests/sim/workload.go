package sim

import (
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// kind is what a client does.
type kind int

const (
	kindTransfer  kind = iota // AT and XA, mixed
	kindNested                // the same, with a transaction begun inside
	kindTCC                   // Try, Confirm, Cancel; maybe with an AT branch beside
	kindSaga                  // submitted steps with an order, and a pivot
	kindPublish               // messages of a plain local transaction, with check-back
	kindMessage               // messages of a global transaction
	kindCheckBack             // a submission whose sender is asked
	kindWorkflow              // a function whose steps are remembered
	kindPlain                 // a plain session that knows nothing of all this
	kindDTMSaga               // the same of DTM's clients, under a gid
	kindDTMTCC
	kindDTMMessage
	kindDTMWorkflow
	kinds
)

var kindNames = [kinds]string{"transfer", "nested", "tcc", "saga", "publish", "message", "checkback", "workflow", "plain", "dtm saga", "dtm tcc", "dtm msg", "dtm workflow"}

// fate is how the client's own code ends.
type fate int

const (
	fateCommit fate = iota
	fateRollback
	fateError // a step fails
	fatePanic
	fateLeave // it never asks for anything
	fateHang  // it asks after the deadline
)

// job is one thing that a client does. What it is made of is drawn from its own
// stream, so that leaving out another job does not change it.
type job struct {
	n       int
	at      time.Duration
	kind    kind
	client  int
	seed    uint64
	timeout time.Duration
}

// leg is a part of a job: changes of rows by one service.
type leg struct {
	service *service
	mode    core.Mode
	changes []change
	above   bool // READ COMMITTED
	lock    int  // a row that is locked first, without a change; -1: none
}

const (
	accounts = 6   // rows of a database
	start    = 100 // what is in each
	reserved = 100 // added to the key of an account: what is put aside there
)

func (w *world) plan(seed uint64) []job {
	r := stream(seed, partJobs)
	most := mostJobs * w.o.Jobs * w.o.Busy
	n := r.between(most/2, most)
	all := make([]job, 0, n)
	only := kinds // all of them
	if r.below(4) == 0 {
		only = kind(r.below(int(kinds)))
	}
	for i := range n {
		j := job{n: i, at: r.during(0, w.busy), kind: kind(r.below(int(kinds))), client: r.below(len(w.clients)), seed: r.next()}
		if only != kinds && r.below(2) == 0 {
			j.kind = only
		}
		if w.families && r.below(2) == 0 { // those that change rows in local transactions
			j.kind = []kind{kindTransfer, kindNested, kindPlain}[r.below(3)]
		}
		j.timeout = r.during(2*time.Second, 8*time.Second)
		all = append(all, j)
	}
	return all
}

// legs draws transfers: what one row loses another gets, and no part of them adds up to
// nothing by itself.
func (w *world) legs(r *rng, c *client, n int) []leg {
	legs := make([]leg, n)
	sum := 0
	for i := range legs {
		l := leg{service: w.serviceOf(r, c.tc), mode: core.ModeAT, lock: -1}
		if r.below(4) == 0 {
			l.mode = core.ModeXA
		}
		for range r.between(1, 2) {
			add := 1 + r.below(7) + 8*i
			if i%2 == 0 {
				add = -add
			}
			l.changes = append(l.changes, change{key: r.below(accounts), add: add})
			sum += add
		}
		if r.below(4) == 0 {
			l.changes = append(l.changes, change{key: r.below(accounts), tag: w.tag(r)})
		}
		l.changes = w.withFamily(r, l.changes)
		if r.below(6) == 0 {
			l.lock = r.below(accounts)
			if len(l.changes) > 1 && r.below(2) == 0 {
				l.lock = l.changes[1].key // as who reads a row, and changes it then
			}
		}
		l.above = r.below(5) == 0
		legs[i] = l
	}
	last := &legs[n-1]
	last.changes = append(last.changes, change{key: r.below(accounts), add: -sum})
	return legs
}

// tag draws one of a few unique values, so that they are fought for.
func (w *world) tag(r *rng) string { return string(rune('a' + r.below(10))) }

// serviceOf draws a service of a coordinator.
func (w *world) serviceOf(r *rng, c *coordinator) *service {
	for {
		if s := w.services[r.below(len(w.services))]; s.tc == c {
			return s
		}
	}
}

// action makes what the coordinator calls of changes.
func (s *service) action(a payload) core.Action {
	return core.Action{Kind: core.TargetHandler, Address: "work", Lane: s.group, Group: "group", Payload: a.encode(), Timeout: actionTimeout}
}

// actionTimeout is how long one call may take; the coordinator waits a bit longer.
const actionTimeout = 2 * time.Second

func opposite(cs []change) []change {
	out := make([]change, len(cs))
	for i, c := range cs {
		out[i] = change{key: c.key, add: -c.add}
	}
	return out
}

// retry is quick, so that a run ends soon.
var retry = core.Retry{First: 50 * time.Millisecond, Max: time.Second, Poll: 200 * time.Millisecond}

// sagaOf draws a graph of steps: some forward with a compensation, some after the pivot.
// The first takes, all give; after the pivot nothing may refuse.
func (w *world) sagaOf(r *rng, c *client, x xid.ID) []core.Register {
	n := r.between(1, 5)
	refuses := -1
	if r.below(3) == 0 {
		refuses = r.below(n)
	}
	pivot := r.below(n + 2)
	amounts, sum := make([]int, n), 0
	for i := range n {
		if pivot > 0 { // what only gives needs somebody who takes
			amounts[i] = 1 + r.below(5) + 6*i
		}
		sum += amounts[i]
	}
	var branches []core.Register
	for i := range n {
		s := w.serviceOf(r, c.tc)
		// What is given before the pivot is put aside: its compensation has to find it.
		a := payload{changes: []change{{key: r.below(accounts), add: amounts[i]}}, refuses: i == refuses && i < pivot}
		if i < pivot {
			a.changes[0].key += reserved
		}
		if i == 0 && pivot > 0 {
			a.changes = append(a.changes, change{key: r.below(accounts), add: -sum})
		}
		b := core.Register{Branch: xid.BranchOf(x, stepName(i)), Mode: core.ModeSaga, Name: stepName(i), Plan: &core.Plan{Retry: retry}}
		for e := range i {
			if r.below(3) == 0 {
				b.Plan.After = append(b.Plan.After, xid.BranchOf(x, stepName(e)))
			}
		}
		if i < pivot {
			b.Plan.Forward = s.action(a)
			b.Plan.Rollback = s.action(payload{changes: opposite(a.changes)})
		} else {
			b.Plan.Commit, b.Vote = s.action(a), core.VoteYes
		}
		branches = append(branches, b)
	}
	return branches
}

func stepName(i int) string { return string(rune('a' + i)) }
