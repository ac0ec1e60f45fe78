package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/handfast/handfast/xid"
)

// Errors of statements.
var (
	errLockTimeout  = errors.New("55P03: lock timeout")
	errDecided      = errors.New("HF002: the global transaction is decided")
	errMixed        = errors.New("HF001: AT and XA branches of one transaction on one row")
	errUnique       = errors.New("23505: unique violation")
	errInsufficient = errors.New("not enough is left")
	errSerial       = errors.New("40001: could not serialize access")
	errBroken       = errors.New("the connection broke")
)

// conflictError is HF001: a row, key or unique value is held by an undecided
// transaction.
type conflictError struct{ holder xid.ID }

func (e *conflictError) Error() string { return "HF001: held by " + short(e.holder) }

// lockTimeout is lock_timeout of armed statements.
const lockTimeout = 5 * time.Second

// change is one statement: it adds to a row, or gives it another tag.
type change struct {
	key int
	add int
	tag string // empty: stays

	family byte // a statement on parents and children instead; see family.go
	parent int
}

// forUpdate is SELECT ... FOR UPDATE: a row lock, and nothing that a guard sees.
func (l *local) forUpdate(p *proc, key int) error {
	if !l.lock(p, lockKey{kind: 'r', key: key}, lockTimeout) {
		return errLockTimeout
	}
	return nil
}

// update is one UPDATE of a protected table, with the triggers of undolog: the row
// lock first, then the guard, then capture where the transaction is armed for AT.
func (l *local) update(p *proc, c change) error {
	d := l.d
	l.look()
	if err := l.forUpdate(p, c.key); err != nil {
		return err
	}
	if l.unseen(d.changed[c.key]) {
		return errSerial
	}
	before := l.read(c.key)
	after := before
	after.n += c.add
	if c.tag != "" {
		after.tag = c.tag
	}
	if c.family != 0 {
		if after = c.relative(); after == before {
			return nil // no row is changed
		}
		if err := l.changeFamily(p, c.key, before, after); err != nil {
			return err
		}
	}
	// The unique index: an entry of an open transaction is waited for.
	if after.tag != before.tag {
		for _, tag := range []string{before.tag, after.tag} {
			if !l.lock(p, lockKey{kind: 'u', tag: tag}, lockTimeout) {
				return errLockTimeout
			}
		}
		if owner, taken := d.tags[after.tag]; taken && owner != c.key && l.read(owner).tag == after.tag {
			return errUnique
		}
		for _, k := range l.order {
			if k != c.key && l.rows[k].tag == after.tag {
				return errUnique // with a row of its own
			}
		}
	}
	armed := l.armed()
	if armed && len(l.fences) == 0 {
		if err := l.insertFence(p); err != nil {
			return err
		}
	}
	gates := gatesOf(c.key, before, after)
	if c.family != 0 {
		gates = l.gatesOfFamily(c.key, before, after)
	}
	for _, g := range gates {
		if d.w.plant == plantDropGuardKey && g.tag != "" {
			continue
		}
		if owner, held := d.gate[g]; held && owner != l.x && d.w.plant != plantNoGuard {
			if err := l.meets(g, owner); err != nil {
				return err
			}
		} else if held && owner == l.x && l.xa {
			return errMixed
		}
	}
	if after.n < 0 {
		return errInsufficient
	}
	if armed {
		d.seq++
		l.undo = append(l.undo, undoRow{seq: d.seq, x: l.x, b: l.b, key: c.key, before: before, after: after, gates: gates})
		for _, g := range gates {
			if d.gate[g] != l.x && !slices.Contains(l.gates, g) {
				l.gates = append(l.gates, g)
			}
		}
	}
	l.effects = append(l.effects, effect{db: d, key: c.key, add: c.add, from: before.tag, to: after.tag, family: c.family != 0, was: before, is: after})
	l.write(c.key, after)
	return nil
}

// armed tells whether what it changes is captured.
func (l *local) armed() bool { return !l.x.IsZero() && !l.xa }

// meets is what becomes of a statement that needs a key of somebody else's.
func (l *local) meets(g gateKey, owner xid.ID) error {
	switch {
	case !l.unseen(l.d.gated[g]):
		return &conflictError{holder: owner}
	case l.armed() || l.d.w.plant != plantNoProbe:
		// Who inserts a key, or a probe for it, hears of one that its snapshot lacks.
		return errSerial
	}
	return nil
}

// look takes the snapshot of a local transaction above READ COMMITTED, with its first
// statement.
func (l *local) look() {
	if l.above && l.snapshot == 0 {
		l.snapshot = l.d.version
		l.d.w.count("snapshots")
	}
}

// unseen tells whether the snapshot lacks what was committed as the given version.
func (l *local) unseen(version uint64) bool { return l.above && version > l.snapshot }

// gatesOf is what the gate needs to know of a change: the row, the unique value that it
// had and must get back, and the one that it got.
func gatesOf(key int, before, after row) []gateKey {
	gates := []gateKey{{key: key}}
	if before.tag != after.tag {
		gates = append(gates, gateKey{tag: before.tag}, gateKey{tag: after.tag})
		slices.SortFunc(gates[1:], func(a, b gateKey) int {
			if a.tag < b.tag {
				return -1
			}
			return 1
		})
	}
	return gates
}

// insertFence is the plain INSERT of handfast.me, handfast.xa_fence and handfast.vouch:
// it collides with a tombstone, and waits for one that is on its way.
func (l *local) insertFence(p *proc) error {
	k := branchKey{l.x, l.b}
	return l.insertFenceOf(p, k)
}

func (l *local) insertFenceOf(p *proc, k branchKey) error {
	if l.d.w.plant == plantDropFence {
		l.fences = append(l.fences, k)
		return nil
	}
	if !l.lock(p, lockKey{kind: 'f', b: k}, lockTimeout) {
		return errLockTimeout
	}
	if _, there := l.d.fence[k]; there {
		return errDecided
	}
	l.fences = append(l.fences, k)
	return nil
}
