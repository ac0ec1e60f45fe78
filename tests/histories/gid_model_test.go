package histories

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// maxSteps is how many branches a gid has at most.
const maxSteps = 3

// What somebody may have done to a gid, and then what somebody was told or has found, as in
// the other model.
type gidAction uint8

const (
	gidPrepare gidAction = iota + 1
	gidRegister
	gidSubmit
	gidAbort
	gidExpire  // its timeout has passed
	gidSays    // the sender of a message answers what became of it
	gidYes     // an action of a saga answers that it succeeded
	gidNo      // or that it failed
	gidDone    // what the decision asks for was answered
	gidHappens // an action has its effect, whoever learns of it; from here on nothing is optional
	foundCalled
	toldPrepared
	toldBranch
	toldSubmitted
	toldAborted
	toldOver    // by a submit that waits: it succeeded
	toldOngoing // by one that waited long enough
	toldStatus  // by query, or by a refusal that names what it saw
	toldRolled  // by a refusal that only tells the outcome, as the next one
	toldCommits
	toldLate     // a branch is refused
	toldNobody   // the gid is not known
	toldConflict // it is used already, with other content
)

// gidMode is a type of transaction.
type gidMode string

const (
	modeTCC  gidMode = "tcc"
	modeMsg  gidMode = "msg"
	modeSaga gidMode = "saga"
)

// gidOp are the calls that branches get.
type gidOp string

const (
	opAction     gidOp = "action" // of a saga
	opCompensate gidOp = "compensate"
	opConfirm    gidOp = "confirm"
	opCancel     gidOp = "cancel"
	opDeliver    gidOp = "deliver"
	opAsk        gidOp = "ask" // the sender of a message
)

type gidInput struct {
	do      gidAction
	mode    gidMode
	steps   int // of a saga or message
	branch  int
	op      gidOp
	yes     bool
	crashes bool
}

// gidOutput is a status in DTM's words; empty: the gid is not known.
type gidOutput struct {
	status   string
	branches [maxSteps]bool // of TCC
	listed   bool           // branches is told
}

type gidPhase uint8

const (
	gidUnknown  gidPhase = iota
	gidFresh             // prepared, and without a branch or a look at it: a crash may take it back
	gidPrepared          // durably
	gidRunning           // actions of a saga are called
	gidCommitted
	gidUndone
)

// gidState is what clients may know of a gid.
type gidState struct {
	phase  gidPhase
	late   bool // the timeout has passed
	ended  bool // and it was told that it is over
	branch [maxSteps]gidBranch
}

type gidBranch struct {
	registered, yes, happened, done bool
}

func (s gidState) with(p gidPhase, steps int) gidState {
	s.phase = p
	for i := range steps {
		s.branch[i].registered = true
	}
	return s
}

func (s gidState) waits() bool   { return s.phase == gidFresh || s.phase == gidPrepared }
func (s gidState) decided() bool { return s.phase == gidCommitted || s.phase == gidUndone }

// effect gives what a call makes of a gid; not ok: nothing.
func (s gidState) effect(in gidInput) (gidState, bool) {
	b := &s.branch[in.branch]
	switch in.do { //nolint:exhaustive // the others are no effects
	case gidPrepare:
		if s.phase != gidUnknown {
			return s, false
		}
		if in.mode == modeMsg {
			return s.with(gidPrepared, in.steps), true
		}
		return s.with(gidFresh, 0), true
	case gidRegister:
		b.registered = true
		return s.with(gidPrepared, 0), s.waits()
	case gidSubmit:
		switch {
		case s.phase == gidUnknown && in.mode == modeSaga:
			return s.with(gidRunning, in.steps), true
		case s.phase == gidUnknown, s.waits():
			return s.with(gidCommitted, in.steps), true
		}
	case gidAbort:
		return s.with(gidUndone, 0), s.waits()
	case gidExpire:
		s.late = true
		if in.mode != modeMsg && (s.waits() || s.phase == gidRunning) {
			s.phase = gidUndone
		}
		return s, true
	case gidSays:
		if !s.waits() || !s.late {
			return s, false
		}
		if in.yes {
			return s.with(gidCommitted, 0), true
		}
		return s.with(gidUndone, 0), true
	case gidYes:
		b.yes = true
		for i := range in.steps {
			if !s.branch[i].yes {
				return s, s.phase == gidRunning
			}
		}
		return s.with(gidCommitted, 0), s.phase == gidRunning
	case gidNo:
		return s.with(gidUndone, 0), s.phase == gidRunning
	case gidDone:
		b.done = true
		return s, s.decided()
	}
	return s, false
}

// stepGid gives the states that may follow.
func stepGid(s gidState, in gidInput, out gidOutput) []gidState {
	if in.do < gidHappens {
		next := []gidState{s}
		if n, ok := s.effect(in); ok {
			next = append(next, n)
			if in.do == gidExpire && n.phase != s.phase { // it may also be late and still there
				s.late = true
				next = append(next, s)
			}
		}
		return next
	}
	if s, ok := s.told(in, out); ok {
		return []gidState{s}
	}
	return nil
}

// told tells whether it is true at this moment.
func (s gidState) told(in gidInput, out gidOutput) (gidState, bool) {
	b := &s.branch[in.branch]
	switch in.do { //nolint:exhaustive // the others are effects
	case gidHappens:
		b.happened = b.happened || !s.ended // a call that was on its way all the time comes too late
		return s, true
	case foundCalled:
		return s, s.calls(in)
	case toldPrepared:
		return s, s.waits()
	case toldBranch:
		return s, b.registered
	case toldSubmitted:
		return s, !s.ended && (s.phase == gidCommitted || s.phase == gidRunning)
	case toldAborted, toldRolled:
		return s, s.phase == gidUndone
	case toldCommits:
		return s, s.phase == gidCommitted || s.phase == gidRunning
	case toldOver:
		return s.status(in, gidOutput{status: "succeed"})
	case toldOngoing:
		return s, s.decided() || s.phase == gidRunning
	case toldLate:
		if s.phase == gidFresh && in.crashes {
			s.phase = gidUnknown
		}
		return s, s.phase == gidUnknown || s.decided()
	case toldNobody:
		return s.status(in, gidOutput{})
	case toldConflict:
		return s, s.phase != gidUnknown
	case toldStatus:
		return s.status(in, out)
	}
	return s, false
}

// calls tells whether a branch may be called like that: only ever as was decided.
func (s gidState) calls(in gidInput) bool {
	switch in.op {
	case opAsk:
		return s.late && s.phase != gidUnknown
	case opAction:
		return s.phase >= gidRunning
	case opConfirm, opDeliver:
		return s.phase == gidCommitted && s.branch[in.branch].registered
	case opCancel, opCompensate:
		return s.phase == gidUndone && s.branch[in.branch].registered
	}
	return false
}

// status compares one that was told. What is told is durable, and what is over stays so.
func (s gidState) status(in gidInput, out gidOutput) (gidState, bool) {
	if out.listed {
		for i, b := range s.branch {
			if b.registered != out.branches[i] {
				return s, false
			}
		}
	}
	switch out.status {
	case "":
		if s.phase == gidFresh && in.crashes {
			s.phase = gidUnknown
		}
		return s, s.phase == gidUnknown
	case "prepared":
		ok := s.waits()
		s.phase = gidPrepared
		return s, ok
	case "submitted":
		return s, !s.ended && (s.phase == gidCommitted || s.phase == gidRunning)
	case "aborting":
		return s, !s.ended && s.phase == gidUndone
	case "succeed":
		s.ended = true
		return s, s.phase == gidCommitted && s.carriedOut(in)
	case "failed":
		s.ended = true
		return s, s.phase == gidUndone && s.carriedOut(in)
	}
	return s, false
}

// carriedOut tells whether everything was answered that the decision asks for.
func (s gidState) carriedOut(in gidInput) bool {
	for _, b := range s.branch {
		owed := b.registered
		switch {
		case in.mode == modeSaga && s.phase == gidCommitted:
			owed = false // that is what its actions were for
		case in.mode == modeSaga:
			owed = b.happened
		case in.mode == modeMsg && s.phase == gidUndone:
			owed = false
		}
		if owed && !b.done {
			return false
		}
	}
	return true
}

// gidModel is the model for porcupine.
var gidModel = func() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{gidState{}} },
		Step: func(s, in, out any) (next []any) {
			for _, n := range stepGid(s.(gidState), in.(gidInput), out.(gidOutput)) {
				next = append(next, n)
			}
			return next
		},
		DescribeOperation: func(in, out any) string { return in.(gidInput).describe(out.(gidOutput)) },
	}
	return m.ToModel()
}()

// describe says in words what was done or told.
func (in gidInput) describe(out gidOutput) string {
	branch := fmt.Sprintf("branch %d", in.branch+1)
	switch in.do { //nolint:exhaustive // the others are in the list below
	case gidPrepare, gidSubmit, gidAbort:
		return map[gidAction]string{gidPrepare: "prepares it, maybe", gidSubmit: "submits it, maybe", gidAbort: "aborts it, maybe"}[in.do]
	case gidRegister:
		return "registers " + branch + ", maybe"
	case gidExpire:
		return "its timeout may pass"
	case gidSays:
		return fmt.Sprintf("the sender answers %t, and is heard, maybe", in.yes)
	case gidYes, gidNo, gidDone:
		return fmt.Sprintf("%s answers (%s: %t), and is heard, maybe", branch, in.op, in.do != gidNo)
	case gidHappens:
		return "the effect of the action of " + branch
	case foundCalled:
		return fmt.Sprintf("%s is called: %s", branch, in.op)
	case toldStatus:
		var b strings.Builder
		for i, there := range out.branches {
			if there {
				fmt.Fprintf(&b, ", branch %d", i+1)
			}
		}
		return fmt.Sprintf("is told: %q%s", out.status, b.String())
	}
	return "is told: " + map[gidAction]string{
		toldPrepared: "it is prepared", toldBranch: branch + " is registered", toldSubmitted: "it is submitted",
		toldAborted: "it is aborted", toldOver: "it succeeded", toldOngoing: "it goes on", toldRolled: "it was rolled back",
		toldCommits: "it was submitted before", toldLate: branch + " is too late", toldNobody: "nobody knows it", toldConflict: "the gid is used already",
	}[in.do]
}
