package sim

import (
	"slices"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// books are what the oracle expects a database to hold, worked out from the effects of
// committed local transactions and from decisions alone.
type books struct {
	d     *database
	want  map[int]row
	owner map[int]xid.ID    // rows that an undecided or unsettled transaction changed
	tags  map[string]xid.ID // unique values that it had, or has taken
	done  map[deed]int      // how often an action has had its effect
}

type deed struct {
	k  branchKey
	op core.Op
}

func (o *oracle) booksOf(d *database) *books {
	for _, b := range o.books {
		if b.d == d {
			return b
		}
	}
	return nil
}

func (o *oracle) open(d *database) {
	b := &books{d: d, want: map[int]row{}, owner: map[int]xid.ID{}, tags: map[string]xid.ID{}, done: map[deed]int{}}
	for k, r := range d.rows {
		b.want[k] = r
	}
	o.books = append(o.books, b)
}

// touch checks that nobody changes what an undecided transaction of somebody else has.
func (o *oracle) touch(b *books, l *local, e *effect) {
	for _, held := range []xid.ID{b.owner[e.key], b.tags[e.from], b.tags[e.to]} {
		if !held.IsZero() && held != l.x {
			o.w.fail("dirty write: row %s/%d was changed by %s and is not settled, and %s changes it", b.d.name, e.key, short(held), short(l.x))
		}
	}
}

// prepares sees that a local transaction is prepared.
func (o *oracle) prepares(l *local) {
	o.registeredFirst(l)
	b := o.booksOf(l.d)
	for i := range l.effects {
		o.touch(b, l, &l.effects[i])
		b.owner[l.effects[i].key] = l.x
	}
}

// rollsBackPrepared sees the end of a prepared transaction.
func (o *oracle) rollsBackPrepared(l *local) {
	o.mayEnd(l.d, l.x, core.RolledBack)
	b := o.booksOf(l.d)
	for _, e := range l.effects {
		delete(b.owner, e.key)
	}
}

// commits sees a local transaction, or a prepared one, commit.
func (o *oracle) commits(l *local) {
	b := o.booksOf(l.d)
	if l.xa {
		o.mayEnd(l.d, l.x, core.Committed)
		for _, e := range l.effects {
			delete(b.owner, e.key)
		}
	}
	at := !l.x.IsZero() && !l.xa
	if at && len(l.fences) > 0 {
		o.registeredFirst(l)
		o.notTooLate(l)
	}
	by := l.acting
	if at || l.xa {
		by = branchKey{l.x, l.b}
	}
	for i := range l.effects {
		e := l.effects[i]
		e.by, e.op = by, l.op
		o.touch(b, l, &e)
		r := b.want[e.key]
		r.n += e.add
		r.tag = e.to
		if e.family {
			r = e.is
		}
		b.want[e.key] = r
		if r.n < 0 {
			o.w.fail("row %s/%d is negative: %d", l.d.name, e.key, r.n)
		}
		if at {
			b.owner[e.key] = l.x
			if e.from != e.to {
				b.tags[e.from], b.tags[e.to] = l.x, l.x
			}
		}
		if h := o.txs[by.x]; h != nil {
			h.effects = append(h.effects, e)
		}
	}
	if l.op != 0 {
		o.onceOnly(b, l)
	}
}

// onceOnly checks the effects of actions.
func (o *oracle) onceOnly(b *books, l *local) {
	a := deed{l.barrier, l.op}
	b.done[a]++
	if b.done[a] > 1 {
		o.w.fail("the %s of branch %s of %s has had its effect twice", opNames[l.op], a.k.b, short(a.k.x))
	}
	undone := b.done[deed{l.barrier, core.OpRollback}] > 0
	switch {
	case l.op == core.OpRollback && b.done[deed{l.barrier, core.OpForward}] == 0:
		o.w.fail("branch %s of %s is compensated, and its action never happened", a.k.b, short(a.k.x))
	case l.op == core.OpForward && undone:
		o.w.fail("branch %s of %s happens after it was compensated", a.k.b, short(a.k.x))
	}
}

// registeredFirst: a local commit implies a registration that survives.
func (o *oracle) registeredFirst(l *local) {
	h := o.txs[l.x]
	var m *member
	if h != nil {
		m = h.member(l.b)
	}
	switch {
	case h != nil && (h.lost || h.failed):
	case m == nil:
		o.w.rule("%s: branch %s commits in %s, and is not registered", short(l.x), l.b, l.d.name)
	case !h.survives(m.batch):
		o.w.rule("%s: branch %s commits in %s before its registration is durable", short(l.x), l.b, l.d.name)
	}
}

// notTooLate: a branch of a decided transaction can't stay.
func (o *oracle) notTooLate(l *local) {
	h := o.txs[l.x]
	switch {
	case h == nil, h.beyond():
	case h.decided() == core.Committed:
		o.w.fail("%s: branch %s commits in %s after the decision to commit", short(l.x), l.b, l.d.name)
	case h.settled[l.d] && h.member(l.b) != nil:
		o.w.fail("%s: branch %s commits in %s, where the transaction is settled already", short(l.x), l.b, l.d.name)
	}
}

// mayEnd: nothing is settled but by a decision that survives.
func (o *oracle) mayEnd(d *database, x xid.ID, outcome core.Outcome) {
	h := o.txs[x]
	if h == nil {
		o.w.fail("%s settles %s as %s, and nobody has begun it", d.name, short(x), outcomeNames[outcome])
		return
	}
	was := h.decided()
	if h.lost && was == core.Undecided {
		was = h.told // by the store that there was before
	}
	if outcome == h.before && h.adopted {
		return // a command of the store that there was before
	}
	if was == core.Undecided {
		o.w.fail("%s settles %s as %s, and no such decision is durable", d.name, short(x), outcomeNames[outcome])
	} else if was != outcome {
		o.w.fail("%s settles %s as %s, and decided was %s", d.name, short(x), outcomeNames[outcome], outcomeNames[was])
	}
}

// settles sees the AT branches of a transaction settled, before the rows change.
func (o *oracle) settles(d *database, s settlement) {
	outcome := core.RolledBack
	if s.commit {
		outcome = core.Committed
	}
	o.mayEnd(d, s.x, outcome)
	if h := o.txs[s.x]; h != nil {
		o.backed(d, s)
		h.settled[d] = true
	}
	if !s.commit {
		return
	}
	b := o.booksOf(d)
	for _, u := range d.undoOf(s.x) {
		b.free(u)
	}
}

// backed: what is settled as committed has every local commit that was voted for.
func (o *oracle) backed(d *database, s settlement) {
	for _, b := range s.branches {
		if f := d.fence[branchKey{s.x, b.id}]; s.commit && b.yes && f.state != 'L' && f.state != 'C' {
			o.w.fail("%s settles %s as committed, and the local commit of branch %s is not there", d.name, short(s.x), b.id)
		}
	}
}

func (b *books) free(u undoRow) {
	if b.owner[u.key] == u.x {
		delete(b.owner, u.key)
	}
	for _, tag := range []string{u.before.tag, u.after.tag} {
		if b.tags[tag] == u.x {
			delete(b.tags, tag)
		}
	}
}

// unsettled sees that a database has lost a settled commit: its intents are back.
func (o *oracle) unsettled(d *database, x xid.ID) {
	b := o.booksOf(d)
	for _, u := range d.undoOf(x) {
		b.owner[u.key] = x
		if u.before.tag != u.after.tag {
			b.tags[u.before.tag], b.tags[u.after.tag] = x, x
		}
	}
}

// rolledBack sees the rows of a transaction restored: each has to be what it was.
func (o *oracle) rolledBack(d *database, x xid.ID, restored []undoRow) {
	b := o.booksOf(d)
	h := o.txs[x]
	if h != nil {
		for i := len(h.effects) - 1; i >= 0; i-- {
			e := h.effects[i]
			if e.db != d || e.op != 0 || h.isXA(e.by.b) || h.isVouched(e.by) {
				continue
			}
			r := b.want[e.key]
			r.n -= e.add
			r.tag = e.from
			if e.family {
				r = e.was
			}
			b.want[e.key] = r
			h.effects = slices.Delete(h.effects, i, i+1)
			b.free(undoRow{x: x, key: e.key, before: row{tag: e.from}, after: row{tag: e.to}})
		}
	}
	for _, r := range restored {
		o.compare(b, r.key, "after the rollback of "+short(x))
	}
}

func (h *history) isXA(id xid.BranchID) bool {
	m := h.member(id)
	return m != nil && m.mode == core.ModeXA
}

// isVouched tells whether a local transaction was a plain one, which vouched for
// messages.
func (h *history) isVouched(branchKey) bool { return h.kind == "publish" }

func (o *oracle) compare(b *books, key int, when string) {
	if now, want := b.d.rows[key], b.want[key]; now != want {
		o.w.fail("row %s/%d is %v %s, and should be %v", b.d.name, key, now, when, want)
	}
}
