package histories

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// maxBranches is how many branches a transaction has at most.
const maxBranches = 3

// A call is two operations of the model, both within the time of the call: what it may
// have done, and what it was answered. A client that asks again, or a coordinator that
// learns a vote from the database, separates them.
type action uint8

const (
	doRegister action = iota + 1
	doVote            // the vote is a fact in its database: the coordinator may know it
	doCommit          // commit is asked for
	doRollback
	doExpire // the deadline has passed
	doDoubt  // a vote to withdraw was lost in a crash; the database says no
	toldRegistered
	toldVote
	toldOutcome // by any call, or by a command to settle
	toldAll     // by Get
)

// input is what was done, and where.
type input struct {
	do     action
	branch int
	vote   pb.Vote
	cause  int // which rollback it is
	// crashes tells that the coordinator may have been killed.
	crashes bool
}

// Outcomes that are told beside those of the protocol.
const (
	unknownXID    = pb.Outcome(-1)
	unknownBranch = pb.Outcome(-2)
)

// untold is a reason or cause that an answer did not name.
const untold = -1

// output is what was told.
type output struct {
	outcome  pb.Outcome
	reason   int // pb.RollbackReason, or untold
	cause    int // of REQUESTED the rollback, of VOTED_NO the branch, else 0; or untold
	branches [maxBranches]shown
}

// shown is a branch as Get shows it.
type shown struct {
	registered bool
	vote       pb.Vote
}

// phase is how far the transaction has come.
type phase uint8

const (
	fresh phase = iota // begun, and nothing of it told: a crash may take it back
	begun
	lost
	committed
	rolledBack
)

// state is a transaction as its clients may know it.
type state struct {
	phase  phase
	asked  bool // to commit
	reason int
	cause  int
	branch [maxBranches]branch
}

type branch struct {
	registered bool
	vote       pb.Vote
	durable    bool // the vote was shown; without a crash it is anyway
}

func (s state) undecided() bool { return s.phase == fresh || s.phase == begun }

// allIn tells whether nothing stands in the way of a commit.
func (s state) allIn() bool {
	for _, b := range s.branch {
		if b.registered && b.vote != pb.Vote_VOTE_YES && b.vote != pb.Vote_VOTE_WITHDRAWN {
			return false
		}
	}
	return true
}

func (s state) rollBack(why pb.RollbackReason, cause int) state {
	s.phase, s.reason, s.cause = rolledBack, int(why), cause
	return s
}

// decide commits, if that was asked for and nothing is missing.
func (s state) decide() state {
	if s.asked && s.allIn() {
		s.phase = committed
	}
	return s
}

// effect gives what a call makes of an undecided transaction.
func (s state) effect(in input) []state {
	b := &s.branch[in.branch]
	switch in.do { //nolint:exhaustive // the others are answers
	case doRegister:
		b.registered, s.phase = true, begun
		return []state{s}
	case doVote:
		if !b.registered || b.vote != pb.Vote_VOTE_UNSPECIFIED {
			return nil
		}
		if b.vote = in.vote; in.vote == pb.Vote_VOTE_NO {
			return []state{s.rollBack(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, in.branch)}
		}
		next := []state{s.decide()}
		if in.vote == pb.Vote_VOTE_WITHDRAWN {
			// Asked before it was told, the database only knows that it will never commit.
			b.vote = pb.Vote_VOTE_NO
			next = append(next, s.rollBack(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, in.branch))
		}
		return next
	case doCommit:
		s.asked = true
		return []state{s.decide()}
	case doRollback:
		return []state{s.rollBack(pb.RollbackReason_ROLLBACK_REASON_REQUESTED, in.cause)}
	case doDoubt:
		if !b.registered || b.vote != pb.Vote_VOTE_WITHDRAWN || b.durable || !in.crashes {
			return nil
		}
		b.vote = pb.Vote_VOTE_NO
		return []state{s.rollBack(pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, in.branch)}
	case doExpire:
		return []state{s.rollBack(pb.RollbackReason_ROLLBACK_REASON_TIMEOUT, 0)}
	}
	return nil
}

// step gives the states that may follow. An effect may also not have come about: the
// call was lost, was refused, or came too late.
func step(s state, in input, out output) []state {
	if in.do <= doDoubt {
		next := []state{s}
		if s.undecided() {
			next = append(next, s.effect(in)...)
		}
		return next
	}
	if s, ok := s.told(in, out); ok {
		return []state{s}
	}
	return nil
}

// told tells whether an answer is true at this moment.
func (s state) told(in input, out output) (state, bool) {
	switch out.outcome { //nolint:exhaustive // undecided is the default
	case unknownXID:
		// Only a crash forgets, and only what nobody was told of.
		ok := s.phase == lost || s.phase == fresh && in.crashes
		s.phase = lost
		return s, ok
	case unknownBranch:
		return s, s.phase != lost && !s.branch[in.branch].registered
	case pb.Outcome_OUTCOME_COMMITTED:
		if s.phase != committed {
			return s, false
		}
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		if s.phase != rolledBack || out.reason != untold && out.reason != s.reason || out.cause != untold && out.cause != s.cause {
			return s, false
		}
	default:
		if !s.undecided() {
			return s, false
		}
		s.phase = begun // what is told is durable
	}
	b := s.branch[in.branch]
	switch in.do { //nolint:exhaustive // the others have no branches
	case toldRegistered:
		return s, b.registered || !s.undecided()
	case toldVote:
		return s, b.registered && (b.vote != pb.Vote_VOTE_UNSPECIFIED || !s.undecided())
	case toldAll:
		return s.shows(in, out)
	}
	return s, true
}

// shows compares every branch.
func (s state) shows(in input, out output) (state, bool) {
	for i := range s.branch {
		b, told := &s.branch[i], out.branches[i]
		// A vote is not forced, for it can be asked for again. A commit rests on it.
		forgotten := in.crashes && !b.durable && told.vote == pb.Vote_VOTE_UNSPECIFIED && s.phase != committed
		if told.registered != b.registered || told.vote != b.vote && !forgotten {
			return s, false
		}
		b.durable = b.durable || told.vote != pb.Vote_VOTE_UNSPECIFIED
	}
	return s, true
}

// transaction is the model for porcupine.
var transaction = func() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{state{}} },
		Step: func(s, in, out any) (next []any) {
			for _, n := range step(s.(state), in.(input), out.(output)) {
				next = append(next, n)
			}
			return next
		},
		DescribeOperation: func(in, out any) string { return describe(in.(input), out.(output)) },
	}
	return m.ToModel()
}()

// describe says in words what was done or told.
func describe(in input, out output) string {
	switch in.do {
	case doRegister:
		return fmt.Sprintf("registers branch %d, maybe", in.branch)
	case doVote:
		return fmt.Sprintf("branch %d votes %s, maybe", in.branch, word(in.vote.String()))
	case doCommit:
		return "asks to commit, maybe"
	case doRollback:
		return fmt.Sprintf("asks to roll back (%d), maybe", in.cause)
	case doExpire:
		return "the deadline may roll back"
	case doDoubt:
		return fmt.Sprintf("branch %d is asked again after a crash, maybe, and says no", in.branch)
	case toldRegistered:
		return fmt.Sprintf("is told of branch %d: %s", in.branch, out)
	case toldVote:
		return fmt.Sprintf("is told of the vote of branch %d: %s", in.branch, out)
	case toldOutcome:
		return "is told: " + out.String()
	case toldAll:
		var b strings.Builder
		for i, t := range out.branches {
			if t.registered {
				fmt.Fprintf(&b, ", branch %d %s", i, word(t.vote.String()))
			}
		}
		return "is shown: " + out.String() + b.String()
	}
	return "?"
}

func (o output) String() string {
	switch o.outcome { //nolint:exhaustive // the others need no more words
	case unknownXID:
		return "unknown XID"
	case unknownBranch:
		return "unknown branch"
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		if o.reason != untold {
			return fmt.Sprintf("rolled back, %s (%d)", word(pb.RollbackReason(o.reason).String()), o.cause)
		}
	}
	return word(o.outcome.String())
}

// word cuts the prefix of an enum off.
func word(name string) string {
	for _, p := range []string{"OUTCOME_", "VOTE_", "ROLLBACK_REASON_"} {
		name = strings.TrimPrefix(name, p)
	}
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}
