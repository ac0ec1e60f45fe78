package sim

import (
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

const (
	janitorEvery   = 4 * time.Second
	janitorAge     = 2 * time.Second
	janitorTimeout = 10 * time.Second
)

// settlementOf is rm.settlement: only an explicit decision is one.
func settlementOf(x xid.ID, o core.Outcome, branches []core.Branch) (settlement, error) {
	s := settlement{x: x}
	switch o {
	case core.Committed:
		s.commit = true
	case core.RolledBack:
	case core.Undecided:
		return s, errors.New("no decision, so nothing is settled")
	}
	for i := range branches {
		b := &branches[i]
		s.branches = append(s.branches, branchVote{id: b.ID, yes: b.Vote == core.VoteYes, xa: b.Mode == core.ModeXA})
	}
	return s, nil
}

// settleCommand is agent.Settle: into the queue, unless it is there already.
func (s *service) settleCommand(m core.Settle, seed uint64) {
	item, err := settlementOf(m.XID, m.Outcome, m.Branches)
	answer := func(p *proc, err error) {
		in := core.Settled{XID: m.XID, Resource: m.Resource, Outcome: m.Outcome, Done: err == nil}
		if err != nil {
			var alarm *alarmError
			in.Error, in.NeedsAttention = err.Error(), errors.As(err, &alarm)
		}
		p.tell(s.tc, in)
	}
	if err != nil {
		s.spawnWith(seed, func(p *proc) { answer(p, err) })
		return
	}
	s.enqueue(item, seed, answer)
}

// enqueue is agent.enqueue, and a settler that takes it.
func (s *service) enqueue(item settlement, seed uint64, done func(*proc, error)) bool {
	if s.queued[item.x] {
		return false
	}
	s.queued[item.x] = true
	s.spawnWith(seed, func(p *proc) {
		err := s.settle(p, item)
		delete(s.queued, item.x)
		if err != nil {
			s.note("settling failed", item.x, err.Error())
		}
		var alarm *alarmError
		if errors.As(err, &alarm) {
			s.w.oracle.alarm(s, alarm)
		}
		done(p, err)
	})
	return true
}

// settle is settler.settle: on a connection of its own, which may break before or after.
func (s *service) settle(p *proc, item settlement) error {
	p.nap(50*time.Microsecond, time.Millisecond)
	if !s.db.up || p.rng.chance(s.w.breaks) {
		return errBroken
	}
	if s.w.plant == plantAnswerBeforeSettling && p.rng.below(2) == 0 {
		return nil
	}
	s.note("settles", item.x, item.commit)
	if err := s.db.settle(p, item); err != nil {
		return err
	}
	p.nap(20*time.Microsecond, 300*time.Microsecond)
	if p.rng.chance(s.w.breaks) {
		return errBroken // and yet it is settled
	}
	return nil
}

// askCommand is agent.AskVotes.
func (s *service) askCommand(m core.AskVote, seed uint64) {
	s.spawnWith(seed, func(p *proc) {
		p.nap(50*time.Microsecond, time.Millisecond)
		if !s.db.up {
			return // the coordinator asks again
		}
		v := s.db.ask(p, branchKey{m.XID, m.Branch}, m.Mode == core.ModeXA)
		s.note("looked up a vote", m.XID, m.Branch, v)
		p.tell(s.tc, core.Answered{XID: m.XID, Branch: m.Branch, Vote: v, Reason: "the local transaction never committed"})
	})
}

// settleDecided is agent.settleDecided: it asks, and acts on a recorded decision only.
func (s *service) settleDecided(p *proc, x xid.ID, within time.Duration) bool {
	until := s.w.now + within
	r, err := p.ask(s.tc, min(2*time.Second, within), func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: x} })
	if err != nil {
		return false
	}
	outcome := r.Tx.Outcome
	switch {
	case r.Err != nil && s.w.plant == plantUnknownIsRolledBack:
		outcome = core.RolledBack
	case r.Err != nil && s.w.plant == plantAdoptionUndoes && s.tc.adopted && r.Err.Kind == core.ErrUnknownXID:
		outcome = core.RolledBack
	case r.Err != nil:
		s.w.oracle.reports(x)
		return false // it refuses to tell; nothing follows from that
	case outcome == core.Undecided && s.w.plant == plantUndecidedIsRolledBack:
		outcome = core.RolledBack
	case outcome == core.Undecided:
		return false
	}
	var here []core.Branch
	for _, b := range r.Tx.Branches {
		if b.Resource == s.db.id && b.Plan == nil {
			here = append(here, b)
		}
	}
	if r.Err != nil && outcome == core.RolledBack {
		for _, k := range s.db.fencesOf(x) {
			here = append(here, core.Branch{ID: k.b})
		}
	}
	item, err := settlementOf(x, outcome, here)
	if err != nil || len(item.branches) == 0 {
		s.w.oracle.reports(x)
		return false
	}
	settled := false
	wake := p.waker()
	if !s.enqueue(item, p.rng.next(), func(_ *proc, err error) { settled = err == nil; wake() }) {
		return false
	}
	s.after(until-s.w.now, wake)
	p.park() // who waits no longer leaves it to the settler
	return settled
}

// janitor is rm.janitor: it looks for what has lain for long.
func (s *service) janitor(p *proc) {
	for {
		p.nap(janitorEvery*9/10, janitorEvery*11/10)
		if !s.db.up || s.w.plant == plantNoJanitor {
			continue
		}
		for _, x := range s.db.pending(janitorAge) {
			switch {
			case x.Store() != s.tc.disk.id || !s.settleDecided(p, x, janitorTimeout):
			case s.db.stillPrepared(x):
				s.w.oracle.reports(x) // its branch is none that the coordinator knows
			default:
				s.w.count("leftovers settled by a janitor")
			}
		}
	}
}
