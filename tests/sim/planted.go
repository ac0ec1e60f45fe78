package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// plant is a fault that is built in on purpose, to see that it is found.
type plant int

const (
	plantNone plant = iota
	plantSkipFlush
	plantReplyBeforeNeed
	plantNoIsYes
	plantCommitWithoutVotes
	plantLateBranch
	plantDecideTwice
	plantWrongOutcome
	plantForgetSubmitted
	plantEarlyCompensation
	plantDeadlineAfterDecision
	plantEarlyHorizon
	plantNoOperator
	plantForgetPrepared
	plantLostCancel
	plantFailedIsDone
	plantLostResults
	plantSameIncarnation
	plantEmptyUnforced
	plantRollbackUnforced
	plantLostEpoch
	plantDropFence
	plantNoTombstone
	plantReleaseBeforeRestore
	plantDropGuardKey
	plantNoGuard
	plantWrongUndoOrder
	plantSettlePerBranch
	plantSnapshotBeforeLock
	plantNoIdempotency
	plantNoEmptyRollback
	plantUnknownIsRolledBack
	plantUndecidedIsRolledBack
	plantCommitBeforeAck
	plantRerunUnknown
	plantAnswerBeforeSettling
	plantVoteIsOpinion
	plantNoJanitor
	plantNoVictim
	plantStaleSession
	plantAmbientXID
	plantClockStands
	plantGraphPerShard
	plantUnsyncedYes
	plantStaleRead
	plants
)

// Plant describes a planted fault.
type Plant struct {
	Name string // for Options.Planted
	Rule string // of the protocol, that it switches off
	Text string
}

var planted = [plants]Plant{
	plantSkipFlush:             {"skip-flush", "C1", "one forced write in four is skipped, and what waited for it leaves"},
	plantReplyBeforeNeed:       {"reply-before-need", "C1", "messages leave before the log is durable up to their Need"},
	plantNoIsYes:               {"no-is-yes", "H5", "a vote no is taken for yes"},
	plantCommitWithoutVotes:    {"commit-without-votes", "H5", "a request to commit counts missing votes as yes"},
	plantLateBranch:            {"late-branch", "promise 5", "a resource manager goes on with a branch that was refused because its transaction is decided"},
	plantDecideTwice:           {"decide-twice", "promise 1", "a decision that is not carried out yet is forgotten at the restart"},
	plantWrongOutcome:          {"wrong-outcome", "promise 1", "one command to settle in eight says the opposite"},
	plantForgetSubmitted:       {"forget-submitted", "promise 12", "a submission is forgotten at the restart"},
	plantEarlyCompensation:     {"early-compensation", "promise 6", "a compensation does not wait for the end of its action, and actions have no memory of it"},
	plantDeadlineAfterDecision: {"deadline-after-decision", "promise 1", "the deadline rolls back what is committed and not settled"},
	plantEarlyHorizon:          {"early-horizon", "H13", "outcomes are forgotten as soon as they are carried out"},
	plantNoOperator:            {"operator-unrecorded", "promise 7", "the record of a decision by hand does not say whose it was"},
	plantForgetPrepared:        {"forget-prepared", "H9", "settling leaves prepared transactions alone"},
	plantLostCancel:            {"lost-cancel", "promise 6", "Cancel of TCC is taken for done without a call"},
	plantFailedIsDone:          {"failed-is-done", "promise 2", "an attempt to settle that failed is taken for done"},
	plantLostResults:           {"lost-results", "guarantee 12", "steps are called without the results of those before them"},
	plantSameIncarnation:       {"same-incarnation", "C6", "the incarnation is not raised at the start, and XIDs are a counter alone"},
	plantEmptyUnforced:         {"empty-commit-unforced", "H12", "the commit of a transaction without branches is told before it is durable"},
	plantRollbackUnforced:      {"rollback-unforced", "C1", "a rollback is told, and sent, before it is durable"},
	plantLostEpoch:             {"lost-epoch", "H8", "a process that hung goes on beside its successor, on the same log"},
	plantDropFence:             {"drop-fence", "C3", "a branch puts in its fence without looking whether there is a tombstone"},
	plantNoTombstone:           {"no-tombstone", "C3", "rollback and questions for votes leave no tombstone"},
	plantReleaseBeforeRestore:  {"release-before-restore", "promise 2", "keys are released before the rows are restored"},
	plantDropGuardKey:          {"drop-guard-key", "C5", "unique values are not guarded"},
	plantNoGuard:               {"no-guard", "C5", "nothing is guarded"},
	plantWrongUndoOrder:        {"wrong-undo-order", "C2", "a row that was changed twice goes back to what it was before the second change, unchecked"},
	plantSettlePerBranch:       {"settle-per-branch", "C2", "a rollback undoes branch after branch"},
	plantSnapshotBeforeLock:    {"snapshot-before-lock", "C4", "a rollback reads the undo rows before it has the fences"},
	plantNoIdempotency:         {"no-idempotency", "promise 6", "actions have no fence"},
	plantNoEmptyRollback:       {"no-empty-rollback", "promise 6", "a compensation that comes first is not remembered"},
	plantUnknownIsRolledBack:   {"unknown-is-rolled-back", "C6", "what a coordinator does not know is undone"},
	plantUndecidedIsRolledBack: {"undecided-is-rolled-back", "C1", "what is not decided is undone by whoever meets it"},
	plantCommitBeforeAck:       {"commit-before-ack", "C8", "a local transaction commits without waiting for its registration"},
	plantRerunUnknown:          {"rerun-unknown", "H7", "after a COMMIT without an answer the work is done again"},
	plantAnswerBeforeSettling:  {"answer-before-settling", "promise 2", "half of the commands to settle are answered and not carried out"},
	plantVoteIsOpinion:         {"vote-is-opinion", "H5", "a branch votes yes before its local commit"},
	plantNoJanitor:             {"no-janitor", "§2", "nobody looks for what a database brings back after a crash"},
	plantGraphPerShard:         {"graph-per-shard", "H14", "cycles of waits that run through several shards are not seen"},
	plantUnsyncedYes:           {"unsynced-yes", "H4", "local commits are not forced by the database before the vote"},
	plantStaleRead:             {"stale-read", "promise 1", "one answer in eight to a question is from before the decision"},
	plantClockStands:           {"clock-stands", "§2", "the coordinator's clock stands still while the system's catches up, after that was set back"},
	plantStaleSession:          {"stale-session", "H3", "a connection goes back to the pool armed, and its next user writes under another's XID"},
	plantAmbientXID:            {"ambient-xid", "H10", "an action that is called works in a branch of the transaction that calls it, too"},
	plantNoVictim:              {"no-victim", "H2", "cycles of waits are found, and nobody is rolled back"},
}

// Planted lists the faults that can be planted.
func Planted() []Plant { return planted[1:] }

func plantOf(name string) plant {
	if name == "" {
		return plantNone
	}
	for i, p := range planted {
		if p.Name == name {
			return plant(i)
		}
	}
	panic("sim: no planted fault is called " + name)
}

// mutateRestored changes what a coordinator reads back.
func (w *world) mutateRestored(tx core.Transaction) core.Transaction {
	switch {
	case w.plant == plantDecideTwice && tx.Outcome != core.Undecided:
		tx.Outcome, tx.Phase, tx.Settlements, tx.Decided = core.Undecided, core.Active, nil, time.Time{}
		if tx.Submitted {
			tx.Phase = core.Collecting
		}
		if h := w.oracle.txs[tx.XID]; h != nil {
			tx.Deadline = tx.XID.Begin() // so that the second one is the other
		}
	case w.plant == plantForgetSubmitted && tx.Outcome == core.Undecided && tx.Submitted:
		tx.Submitted, tx.Phase = false, core.Active
	}
	return tx
}

// mutateInput changes what a machine is given.
func (s *shard) mutateInput(in core.Input) []core.Input {
	switch m := in.(type) {
	case core.CastVote:
		if s.c.w.plant == plantNoIsYes && m.Vote == core.VoteNo {
			m.Vote = core.VoteYes
			return []core.Input{m}
		}
	case core.Answered:
		if s.c.w.plant == plantNoIsYes && m.Vote == core.VoteNo {
			m.Vote = core.VoteYes
			return []core.Input{m}
		}
	case core.Settled:
		if s.c.w.plant == plantFailedIsDone {
			m.Done = true
			return []core.Input{m}
		}
	case core.Commit:
		if s.c.w.plant != plantCommitWithoutVotes {
			break
		}
		var all []core.Input
		if tx, known := s.m.Look(m.XID); known {
			for _, b := range tx.Branches {
				if b.Vote == core.VoteNone && b.Plan == nil {
					all = append(all, core.Answered{XID: m.XID, Branch: b.ID, Vote: core.VoteYes})
				}
			}
		}
		return append(all, in)
	}
	return []core.Input{in}
}

// mutateOutput changes what comes out of a machine.
func (s *shard) mutateOutput(out core.Output) core.Output {
	w := s.c.w
	switch w.plant { //nolint:exhaustive // most faults are planted elsewhere
	case plantNoOperator:
		for i := range out.Records {
			out.Records[i].Operator = ""
		}
	case plantWrongOutcome:
		for i := range out.Messages {
			if m, ok := out.Messages[i].Body.(core.Settle); ok && s.c.rng.below(8) == 0 {
				m.Outcome = core.Committed + core.RolledBack - m.Outcome
				out.Messages[i].Body = m
			}
		}
	case plantDeadlineAfterDecision:
		for _, msg := range out.Messages {
			if m, ok := msg.Body.(core.Settle); ok && m.Outcome == core.Committed && s.c.rng.below(8) == 0 {
				m.Outcome = core.RolledBack
				s.c.after(time.Second, func() { s.c.routes.settle(m) })
			}
		}
	case plantEmptyUnforced, plantRollbackUnforced:
		for i := range out.Messages {
			if s.unforced(out.Messages[i].Body) {
				out.Messages[i].Need = 0
			}
		}
	case plantStaleRead:
		for i := range out.Messages {
			r, ok := out.Messages[i].Body.(core.Reply)
			if !ok || r.Tx.Outcome == core.Undecided || s.c.rng.below(8) > 0 {
				continue
			}
			if req, ok := r.Ref.(*request); ok && req.isGet() {
				r.Tx.Outcome, r.Tx.Phase = core.Undecided, core.Active
				out.Messages[i].Body = r
			}
		}
	case plantLostResults:
		for i := range out.Messages {
			if m, ok := out.Messages[i].Body.(core.Call); ok {
				m.Before = nil
				out.Messages[i].Body = m
			}
		}
	case plantLostCancel:
		out.Messages = slices.DeleteFunc(out.Messages, func(msg core.Message) bool {
			m, ok := msg.Body.(core.Call)
			if !ok || m.Mode != core.ModeTCC || m.Op != core.OpRollback {
				return false
			}
			s.c.post(core.Called{XID: m.XID, Branch: m.Branch, Op: m.Op, Attempt: m.Attempt, Verdict: core.Done})
			return true
		})
	case plantEarlyCompensation:
		s.endCallsEarly(out)
	}
	return out
}

// unforced tells whether a message leaves too early.
func (s *shard) unforced(b core.Body) bool {
	outcome := core.Undecided
	var id xid.ID
	switch b := b.(type) {
	case core.Reply:
		outcome, id = b.Tx.Outcome, b.Tx.XID
	case core.Settle:
		outcome, id = b.Outcome, b.XID
	}
	if s.c.w.plant == plantRollbackUnforced {
		return outcome == core.RolledBack
	}
	h := s.c.w.oracle.txs[id]
	return outcome == core.Committed && h != nil && len(h.branches) == 0
}

// hang leaves the machines of a process in the world, which answers one request in three
// for a while.
func (c *coordinator) hang() {
	c.old = c.shards
	c.w.after(4*time.Second, func() { c.old = nil })
}

// endCallsEarly makes a machine believe that no call is under way once it has decided
// to roll back.
func (s *shard) endCallsEarly(out core.Output) {
	for _, msg := range out.Messages {
		if m, ok := msg.Body.(core.Call); ok && m.Op == core.OpForward {
			k := branchKey{x: m.XID}
			s.c.w.flying[k] = append(s.c.w.flying[k], m)
		}
	}
	for _, r := range out.Records {
		if r.Kind == core.RecordDecide && r.Outcome == core.RolledBack {
			for _, m := range s.c.w.flying[branchKey{x: r.XID}] {
				s.c.post(core.Called{XID: m.XID, Branch: m.Branch, Op: m.Op, Attempt: m.Attempt, Verdict: core.Unsure})
			}
		}
	}
}

// mutateBatch changes what is written.
func (s *shard) mutateBatch(records []core.Record, done []core.Transaction) ([]core.Record, []core.Transaction) {
	if s.c.w.plant == plantNoOperator {
		for i := range done {
			done[i].Operator = ""
		}
	}
	return records, done
}

// lateBranchTaken tells whether a refusal is ignored.
func (w *world) lateBranchTaken(err error) bool {
	var e *core.Error
	return w.plant == plantLateBranch && errors.As(err, &e) && (e.Kind == core.ErrRolledBack || e.Kind == core.ErrCommitted)
}

// settlePerBranch undoes each branch in a local transaction of its own.
func (d *database) settlePerBranch(p *proc, s settlement) error {
	for _, b := range s.branches {
		one := settlement{x: s.x, branches: []branchVote{b}}
		if err := d.rollbackOf(p, one, b.id); err != nil {
			return err
		}
		p.nap(0, time.Millisecond)
	}
	return nil
}

// rollbackOf is rollback for the undo rows of one branch.
func (d *database) rollbackOf(p *proc, s settlement, only xid.BranchID) error {
	var others []undoRow
	d.undo = slices.DeleteFunc(d.undo, func(u undoRow) bool {
		other := u.x == s.x && u.b != only
		if other {
			others = append(others, u)
		}
		return other
	})
	fences := map[branchKey]fence{}
	for _, k := range d.fencesOf(s.x) {
		if k.b != only {
			fences[k] = d.fence[k]
			delete(d.fence, k)
		}
	}
	err := d.rollback(p, s)
	d.undo = append(d.undo, others...)
	for k, f := range fences {
		d.fence[k] = f
	}
	return err
}

// releaseBeforeRestore lets others have the rows for a moment.
func (d *database) releaseBeforeRestore(p *proc, t *local, x xid.ID) {
	for g, owner := range d.gate {
		if owner == x {
			delete(d.gate, g)
		}
	}
	t.unlock(0)
	p.nap(0, 20*time.Millisecond)
}
