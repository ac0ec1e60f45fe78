package sim

import (
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Two accidents are beyond what is promised: a store that is put back to an older copy
// and then adopted, and a database that fails over to a replica which lacks its newest
// commits. What they took nobody brings back. What they may not be is silent:
//
//   - A transaction of which nothing was lost keeps every promise.
//   - Nothing is settled but by a recorded decision, and what is not known is left alone.
//   - Where databases contradict a decision, or each other, that is an alarm, the
//     transaction is flagged and does not end; what nobody knows is reported by the
//     janitor, and stays.
//   - Each effect happens once in what is left of a database.
//
// What no database can contradict is not found: calls of a saga that an adopted store
// does not know any more, or that a replica forgot after they were answered.

// adopt is engine.Adopt: the copy is declared to be the truth.
func (c *coordinator) adopt() {
	c.note("is adopted")
	c.disk.quarantine = 0
	c.adopted = true
	c.w.oracle.adopted(c)
	if c.up {
		c.post(core.Quarantine{})
	}
}

// adopted sees that what the copy says is true from now on.
func (o *oracle) adopted(c *coordinator) {
	for _, h := range o.order {
		if h.tc == c && h.lost {
			h.adopted = true
		}
	}
}

// took sees that the copy lacks something of a transaction.
func (o *oracle) took(h *history) {
	if o.restoring && !h.forgot {
		h.forgot = true
		o.w.count("transactions of which a copy lacks something")
	}
}

// beyond tells whether an accident took something of a transaction.
func (h *history) beyond() bool { return h != nil && (h.forgot || h.failed) }

// reports sees a janitor say that it leaves something alone.
func (o *oracle) reports(x xid.ID) {
	if h := o.txs[x]; h.beyond() && !h.reported {
		h.reported = true
		o.w.count("leftovers that nobody knows, reported")
	}
}

// leftBehind tells whether something of a transaction may stay in a database: nobody can
// decide it, or it waits for such, and somebody was told.
func (o *oracle) leftBehind(x xid.ID) bool {
	h := o.txs[x]
	return h != nil && h.stuck || h.beyond() && (h.reported || h.alarmed)
}

// stuck tells whether an open transaction can't end, and shows it.
func (o *oracle) stuck(t *core.Transaction) bool {
	return o.accident && t.Attention()
}

// halves gives how the databases of a transaction ended that was settled: how many of
// those that it had a vote of hold its changes, and how many do not.
func (h *history) halves(w *world) (kept, gone int) {
	for i := range h.everMembers {
		m := &h.everMembers[i]
		d := w.databaseOf(m.resource)
		if m.plan != nil || d == nil {
			continue
		}
		switch k := (branchKey{h.id, m.id}); d.fence[k].state {
		case 'C':
			kept++
		case 'R', 'T':
			gone++
		}
	}
	return kept, gone
}

// notSilent checks a transaction of which an accident took something.
func (w *world) notSilent(h *history) {
	kept, gone := h.halves(w)
	told := h.reported || h.alarmed
	if kept > 0 && gone > 0 && !told && !h.settledLost {
		w.fail("%s (%s) is kept in one database and gone in another, and nobody is told", short(h.id), h.kind)
	}
	for i := range h.branches {
		m := &h.branches[i]
		d := w.databaseOf(m.resource)
		if d == nil || m.plan != nil || h.settledLost || h.alarmed {
			continue
		}
		switch f := d.fence[branchKey{h.id, m.id}]; {
		case h.decided() == core.Committed && m.vote == core.VoteYes && f.state != 'C':
			w.fail("%s (%s) is committed, branch %s is not there in %s, and nobody is told", short(h.id), h.kind, m.id, d.name)
		case h.decided() == core.RolledBack && f.state == 'C':
			w.fail("%s (%s) is rolled back, branch %s stays in %s, and nobody is told", short(h.id), h.kind, m.id, d.name)
		}
	}
	if told {
		w.count("transactions that an accident broke, reported")
	} else {
		w.count("transactions that an accident touched, and whole or beyond telling")
	}
}
