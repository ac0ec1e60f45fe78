package sim

import (
	"bytes"
	"errors"
	"slices"
	"time"
)

// Parents and their children: rows of two tables with a foreign key between them, that
// come, go and move. A rollback puts a parent or a child back, or takes it away, so both
// ends are guarded: nobody else's child may refer to a parent that may vanish, and no
// parent may go that a child needs which may come back.

// Keys of their rows, beside those of accounts.
const (
	firstParent = 1000
	parents     = 2
	firstChild  = 2000
	children    = 3
)

// slowCode is what user code may do between statements in runs with many of them, so that
// they meet while local transactions are open.
const slowCode = 60 * time.Millisecond

var errForeign = errors.New("23503: foreign key violation")

// The statements on them.
const (
	parentComes = 'P'
	parentGoes  = 'p'
	childComes  = 'C' // or moves
	childGoes   = 'c'
)

func isParent(key int) bool { return key >= firstParent && key < firstParent+parents }
func isChild(key int) bool  { return key >= firstChild && key < firstChild+children }

// family are the keys of both tables, in order.
func family() (keys []int) {
	for i := range parents {
		keys = append(keys, firstParent+i)
	}
	for i := range children {
		keys = append(keys, firstChild+i)
	}
	return keys
}

// settleFamily is what there is at the start: the last parent is missing, and half of the
// children.
func (d *database) settleFamily() {
	for _, k := range family() {
		r := row{there: k < firstParent+parents-1}
		if isChild(k) && k%2 == 0 {
			r = row{there: true, parent: firstParent}
		}
		d.put(k, r)
	}
}

// withFamily draws whether there are statements on parents and children among others, and
// which; in some runs there are many.
func (w *world) withFamily(r *rng, changes []change) []change {
	most := 1
	if w.families {
		most = 3
	}
	for range most {
		if r.below(4) > 0 && most == 1 || r.below(4) == 0 {
			continue
		}
		at := r.below(len(changes) + 1)
		changes = slices.Insert(changes, at, familyChange(r))
	}
	return changes
}

// familyChange draws a statement.
func familyChange(r *rng) change {
	parent, child := firstParent+r.below(parents), firstChild+r.below(children)
	switch r.below(7) {
	case 0, 1:
		return change{key: parent, family: parentComes}
	case 2, 3:
		return change{key: parent, family: parentGoes}
	case 4, 5:
		return change{key: child, family: childComes, parent: parent}
	default:
		return change{key: child, family: childGoes}
	}
}

// relative is what the row is after a statement.
func (c change) relative() row {
	switch c.family {
	case parentComes:
		return row{there: true}
	case childComes:
		return row{there: true, parent: c.parent}
	default:
		return row{}
	}
}

// leaves and joins give the parent that a child has no longer, or has from now on; 0: none.
func leaves(before, after row) int {
	if before.parent != after.parent {
		return before.parent
	}
	return 0
}

func joins(before, after row) int { return leaves(after, before) }

// changeFamily is what the statement does beside the row: the checks of Postgres, and
// after these the guard, which sees what was committed while they waited.
func (l *local) changeFamily(p *proc, key int, before, after row) error {
	if l.d.w.plant == plantGuardFirst {
		if err := l.guardFamily(key, before, after); err != nil {
			return err
		}
		return l.references(p, key, before, after)
	}
	if err := l.references(p, key, before, after); err != nil {
		return err
	}
	return l.guardFamily(key, before, after)
}

// references are the referential triggers of Postgres, whose FOR KEY SHARE is one lock for
// all here; and capture takes it on the parent that a child leaves.
func (l *local) references(p *proc, key int, before, after row) error {
	if isParent(key) {
		if !l.lock(p, lockKey{kind: 'k', key: key}, lockTimeout) {
			return errLockTimeout
		}
		if after.there {
			return nil
		}
		for k := firstChild; k < firstChild+children; k++ {
			if l.read(k).parent != key {
				continue
			}
			if !l.lock(p, lockKey{kind: 'r', key: k}, lockTimeout) { // somebody may be changing it
				return errLockTimeout
			}
			if l.read(k).parent == key {
				return errForeign
			}
		}
		return nil
	}
	if old := leaves(before, after); old != 0 && l.armed() && !l.lock(p, lockKey{kind: 'k', key: old}, lockTimeout) {
		return errLockTimeout
	}
	if parent := joins(before, after); parent != 0 {
		if !l.lock(p, lockKey{kind: 'k', key: parent}, lockTimeout) {
			return errLockTimeout
		}
		if !l.read(parent).there || l.unseen(l.d.changed[parent]) {
			return errForeign
		}
	}
	return nil
}

// guardFamily is the guard at both ends: a parent that exists through somebody else only
// gets no children, and one that somebody else's child may come back to stays.
func (l *local) guardFamily(key int, before, after row) error {
	d := l.d
	if parent := joins(before, after); parent != 0 && d.w.plant != plantNoNewGuard {
		g := gateKey{key: parent, end: 'n'}
		if owner, held := d.gate[g]; held && owner != l.x {
			return l.meets(g, owner)
		}
	}
	if !isParent(key) || after.there || d.w.plant == plantNoNeedGuard {
		return nil
	}
	var needed *gateKey
	for g := range d.gate {
		if g.end == 'd' && g.key == key && g.by != l.x && (needed == nil || bytes.Compare(g.by[:], needed.by[:]) < 0) {
			needed = &g
		}
	}
	if needed == nil {
		return nil
	}
	return l.meets(*needed, needed.by)
}

// gatesOfFamily is what capture puts into the gate beside the row itself. Many may need a
// parent, so that key is theirs each.
func (l *local) gatesOfFamily(key int, before, after row) []gateKey {
	gates := []gateKey{{key: key}}
	if old := leaves(before, after); old != 0 {
		gates = append(gates, gateKey{key: old, end: 'd', by: l.x})
	}
	if isParent(key) && after.there {
		gates = append(gates, gateKey{key: key, end: 'n'})
	}
	return gates
}

// orphan finds a child whose parent is missing once rows are restored; 0: none.
func (d *database) orphan(restored []undoRow) int {
	is := func(key int) row {
		if i := slices.IndexFunc(restored, func(u undoRow) bool { return u.key == key }); i >= 0 {
			return restored[i].before
		}
		return d.rows[key]
	}
	for k := firstChild; k < firstChild+children; k++ {
		if r := is(k); r.there && !is(r.parent).there {
			return k
		}
	}
	return 0
}
