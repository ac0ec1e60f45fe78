package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// mutateRestored changes what a coordinator reads back.
func (w *world) mutateRestored(tx core.Transaction) core.Transaction {
	switch {
	case w.plant == plantDecideTwice && tx.Outcome != core.Undecided:
		tx.Outcome, tx.Phase, tx.Settlements, tx.Decided = core.Undecided, core.Active, nil, time.Time{}
		if tx.Submitted {
			tx.Phase = core.Collecting
		}
		tx.Deadline = tx.XID.Begin() // so that the second one is the other
	case w.plant == plantForgetSubmitted && tx.Outcome == core.Undecided && tx.Submitted:
		tx.Submitted, tx.Phase = false, core.Active
	}
	return tx
}

// mutateInput changes what a machine is given.
func (s *shard) mutateInput(in core.Input) []core.Input {
	switch m := in.(type) {
	case core.Register:
		return []core.Input{s.mutateRepeated(m)}
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

// mutateRepeated makes something else of a registration that came before.
func (s *shard) mutateRepeated(in core.Register) core.Input {
	tx, known := s.m.Look(in.XID)
	if !known || !slices.ContainsFunc(tx.Branches, func(b core.Branch) bool { return b.ID == in.Branch }) {
		return in
	}
	switch s.c.w.plant { //nolint:exhaustive // two faults are about this
	case plantRepeatedRefused:
		in.Fresh = true
	case plantGhostBranch:
		if in.Plan == nil { // of a local transaction, for which a database can answer
			in.Branch[0] ^= 0xff
		}
	}
	return in
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
	case plantEarlyDelivery:
		out.Messages = append(out.Messages, earlyDeliveries(out.Records)...)
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

// earlyDeliveries are calls that should wait for a decision.
func earlyDeliveries(records []core.Record) (early []core.Message) {
	for i := range records {
		r := &records[i]
		if r.Kind == core.RecordRegister && r.Mode == core.ModeMessage && r.Plan.Commit.Kind == core.TargetHandler {
			early = append(early, core.Message{Body: core.Call{
				XID: r.XID, Branch: r.Branch, Mode: r.Mode, Op: core.OpCommit, Attempt: 1, Action: &r.Plan.Commit,
			}})
		}
	}
	return early
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
			s.c.w.flying[m.XID] = append(s.c.w.flying[m.XID], m)
		}
	}
	for _, r := range out.Records {
		if r.Kind == core.RecordDecide && r.Outcome == core.RolledBack {
			for _, m := range s.c.w.flying[r.XID] {
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
