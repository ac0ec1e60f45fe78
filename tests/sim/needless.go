package sim

import (
	"reflect"

	"github.com/handfast/handfast/tc/core"
)

// A reply that is lost aborts nobody. Whoever asks again is answered as at first, and
// what was asked for twice is there once.

// asks sees what comes in, as it was sent.
func (o *oracle) asks(in core.Input) {
	switch in := in.(type) {
	case core.Register:
		o.asked[branchKey{in.XID, in.Branch}] = true
	case core.Submit:
		for i := range in.Branches {
			o.asked[branchKey{in.XID, in.Branches[i].Branch}] = true
		}
	}
}

// refusedAgain: a registration that is in the log is not refused while its transaction is
// undecided. Who sends it again has not heard that it succeeded.
func (o *oracle) refusedAgain(in core.Register, e *core.Error) {
	h := o.txs[in.XID]
	if h == nil || h.lost || in.Fresh || e.Kind == core.ErrRolledBack || e.Kind == core.ErrCommitted {
		return
	}
	m := h.member(in.Branch)
	if m == nil || m.resource != in.Resource || m.mode != in.Mode || !reflect.DeepEqual(m.plan, in.Plan) {
		return
	}
	o.w.fail("%s: branch %s is registered, and when it is asked for again it is refused: %v", short(h.id), m.id, e)
}

// needless: nothing is rolled back for a vote where everybody who works for it has
// succeeded.
func (o *oracle) needless(h *history) {
	if h.beyond() || h.decision.outcome != core.RolledBack || h.decision.reason != core.ReasonVotedNo {
		return
	}
	for i := range h.branches {
		if m := &h.branches[i]; o.asked[branchKey{h.id, m.id}] && !o.succeeded(h, m) {
			return
		}
	}
	o.w.fail("%s is rolled back for a vote, and every branch that anybody has asked for has succeeded", short(h.id))
}

// succeeded tells whether a branch has done what it was begun for: votes of those that
// work in a database are facts there.
func (o *oracle) succeeded(h *history, m *member) bool {
	if m.vote == core.VoteYes || m.vote == core.VoteWithdrawn {
		return true
	}
	d := o.w.databaseOf(m.resource)
	if m.plan != nil || d == nil {
		return false
	}
	k := branchKey{h.id, m.id}
	f := d.fence[k]
	return f.state == 'L' || f.state == 'C' || d.preparedOf(k) != nil
}
