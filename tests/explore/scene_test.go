package explore

import (
	"fmt"
	"strings"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// scene is what is searched: who takes part, and what may go wrong.
type scene struct {
	name          string
	txs           int
	branches      []branchDef // of each transaction
	left          budget
	attach        bool // RMs attach and detach on their own; or else with the coordinator's start
	waitSettled   bool // the TM is answered when everything is settled
	noExpiry      bool // no deadline passes
	noDeadline    bool // there is none
	votesAnswered bool // who votes waits for the answer
	sameRow       bool // all branches of a transaction write to the same row
	rules         func(*explorer) rules
	limit         int // stop after so many states; 0: visit all
	planted       plant
}

type branchDef struct {
	resource uint8 // where resource managers settle it
	mode     core.Mode
	vote     core.Vote
	plan     *core.Plan
}

func (d *branchDef) register(br uint8) core.Register {
	r := core.Register{Branch: branchID(br), Mode: d.mode, Plan: d.plan, Vote: d.vote}
	if d.plan == nil {
		r.Resource = resourceID(d.resource)
	}
	return r
}

// resources are those that resource managers serve.
func (s *scene) resources() (out []uint8) {
	var seen [maxBranches]bool
	for i := range s.branches {
		if d := &s.branches[i]; d.plan == nil && !seen[d.resource] {
			seen[d.resource] = true
			out = append(out, d.resource)
		}
	}
	return out
}

// rules are the models of those around the coordinator.
type rules interface {
	// acts emits what they may do.
	acts(w *world)
	// replied is told of an answer that reaches who has asked.
	replied(w *world, m msg)
	// deliver emits what the arrival of a message may lead to.
	deliver(w *world, m msg, doubled bool)
	// crashed is told of the end of all sessions.
	crashed(w *world)
	// tidy gives states that differ in nothing that matters one form.
	tidy(w *world)
	// check looks for a broken promise.
	check(w *world)
	// over tells whether everything is settled and everybody answered.
	over(w *world) bool
}

// plant is a fault that is planted on purpose, for the search to find.
type plant string

const (
	plantNone             plant = ""
	plantNaive            plant = "messages leave before the log is durable (C1)"
	plantNaiveRollback    plant = "a rollback is told before it is durable (C1)"
	plantUnforcedRegister plant = "a registration is answered before it is durable (C6)"
	plantEarlyCommit      plant = "local commit without the answer to the registration (C8)"
	plantOpinion          plant = "a vote of yes before the local commit (H5)"
	plantEarlyWithdrawal  plant = "withdrawn is told before the local rollback (H5)"
	plantUnknownUndoes    plant = "the store is lost, and what is unknown is undone (C6)"
	plantByBranch         plant = "settled branch by branch, in order of registration (C2)"
	plantLyingDisk        plant = "the disk forgets what was forced"
	plantNoRetry          plant = "nothing is sent twice"
	plantEarlyDone        plant = "done is told before anything is settled"
	plantRollbackBeside   plant = "rolled back beside an open local transaction, without a tombstone (C3, C4)"
	plantUndecided        plant = "a third party takes undecided for rolled back (C6)"
	plantNoFence          plant = "a participant without a fence"
	plantSilentSender     plant = "a check-back answers failed while the local transaction is open"
)

func (p plant) String() string { return string(p) }

// explorer has what a search needs beside its states.
type explorer struct {
	scene *scene
	ms    *machines
	rules rules
	steps []step // of the state that is being expanded
}

func newExplorer(s *scene) *explorer {
	e := &explorer{scene: s, ms: newMachines(s)}
	e.rules = s.rules(e)
	return e
}

// first is the state before anything happened.
func (e *explorer) first() *world {
	w := &world{}
	w.left, w.inc = e.scene.left, 1
	e.apply(w, e.ms.boot(0, 1, 0))
	if !e.scene.attach {
		e.attachAll(w)
	}
	return w
}

// expand gives what may happen next.
func (e *explorer) expand(w *world) []step {
	e.steps = e.steps[:0]
	e.common(w)
	e.rules.acts(w)
	for i := range e.steps {
		n := e.steps[i].w
		if len(n.tail) > 0 && n.left.crashes == 0 {
			e.flush(n) // it matters to a crash alone
		}
		if n.bad == "" {
			e.rules.check(n)
			e.rules.tidy(n)
		}
	}
	return e.steps
}

// durably checks that nothing is lost that was told. While there is a tail it may not be
// in the log yet; what a crash makes of that is a state of its own.
func (e *explorer) durably(w *world, tx uint8) {
	o := uint8(e.durable(w, tx).Outcome)
	if w.told[tx] != 0 && w.told[tx] != o && len(w.tail) == 0 && e.scene.planted != plantUnknownUndoes {
		w.fail("%s was told for %s, and what is left says %s", outcome(w.told[tx]), txName(tx), outcome(o))
	}
}

// durable is a transaction as the durable log has it.
func (e *explorer) durable(w *world, tx uint8) *core.Transaction { return e.ms.folds[w.dur].at(tx) }

func branch(t *core.Transaction, b xid.BranchID) *core.Branch {
	for i := range t.Branches {
		if t.Branches[i].ID == b {
			return &t.Branches[i]
		}
	}
	return nil
}

// String names what may go wrong.
func (b budget) String() string {
	var out []string
	for _, f := range []struct {
		n         uint8
		one, more string
	}{
		{b.crashes, "crash", "crashes"},
		{b.losses, "message lost", "messages lost"},
		{b.doubles, "message doubled", "messages doubled"},
		{b.deaths, "death of a service", "deaths of services"},
		{b.janitors, "third party", "third parties"},
		{b.operators, "rollback by hand", "rollbacks by hand"},
		{b.breaks, "victim of a deadlock", "victims of deadlocks"},
		{b.detaches, "session lost", "sessions lost"},
		{b.refusals, "refusal", "refusals"},
	} {
		switch {
		case f.n == 1:
			out = append(out, "1 "+f.one)
		case f.n > 1:
			out = append(out, fmt.Sprintf("%d %s", f.n, f.more))
		}
	}
	if out == nil {
		return "no faults"
	}
	return strings.Join(out, ", ")
}
