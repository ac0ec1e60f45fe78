package sim

import (
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// database models one Postgres database with the handfast schema: rows, a unique
// index, row locks, local transactions, prepared ones, and the tables fence, undo,
// gate and action. What a local transaction changed is seen by nobody before it
// commits, and then all of it.
type database struct {
	*node
	id  xid.ResourceID
	seq uint64 // of undo rows: one sequence for the database

	rows    map[int]row
	tags    map[string]int // unique index over row.tag
	undo    []undoRow
	gate    map[gateKey]xid.ID
	fence   map[branchKey]fence
	actions map[branchKey]action

	version uint64         // of what was committed last
	changed map[int]uint64 // version of rows
	gated   map[gateKey]uint64

	prepared []*local
	open     []*local
	locks    map[lockKey]*lock

	touched  map[xid.ID]time.Duration // when something of it changed last
	fails    int                      // how often it failed over
	unsynced []func()                 // takes back, newest last, what a crash of the server may lose
}

// row is one account or one shelf: how much there is, and a unique tag. Or it is one of a
// family: whether it is there, and the key of its parent.
type row struct {
	n      int
	tag    string
	there  bool
	parent int
}

// undoRow is one row of handfast.undo: what a statement changed.
type undoRow struct {
	seq    uint64
	x      xid.ID
	b      xid.BranchID
	key    int
	before row
	after  row
	gates  []gateKey
}

// gateKey is a key that somebody owns: a row, or a unique value, or one end of a foreign
// key.
type gateKey struct {
	key int
	tag string
	end byte   // 'n': a parent that is new, 'd': one that a child needs
	by  xid.ID // of those that many may own
}

type branchKey struct {
	x xid.ID
	b xid.BranchID
}

// fence is one row of handfast.fence; since is when it came.
type fence struct {
	state byte // 'L' live, 'C' committed, 'R' rolled back, 'T' tombstone
	since time.Duration
}

// action is one row of handfast.action.
type action struct {
	state           byte // 'F' forward, 'C' committed, 'R' rolled back, 'T' tombstone
	forward, ending string
}

// lockKey is what a local transaction can hold and another wait for.
type lockKey struct {
	kind byte // 'r' row, 'k' key of a parent, 'u' unique value, 'f' fence or action row, 'x' open XA branch
	key  int
	tag  string
	b    branchKey
}

type lock struct {
	holder  *local
	waiters []waiting
}

type waiting struct {
	l    *local
	wake func()
}

func (w *world) newDatabase(i int) *database {
	d := &database{
		node: w.newNode("db", i), id: xid.ResourceID{0xd, 15: byte(i + 1)},
		rows: map[int]row{}, tags: map[string]int{}, gate: map[gateKey]xid.ID{},
		fence: map[branchKey]fence{}, actions: map[branchKey]action{}, locks: map[lockKey]*lock{},
		changed: map[int]uint64{}, gated: map[gateKey]uint64{}, version: 1,
		touched: map[xid.ID]time.Duration{},
	}
	d.start()
	return d
}

// local is a local transaction.
type local struct {
	d        *database
	owner    *node // whose session it is; nil once it is prepared
	life     uint32
	x        xid.ID // armed for, or of XA; zero: a plain session
	b        xid.BranchID
	xa       bool
	above    bool // READ COMMITTED: it has one snapshot, in which version is the newest
	settles  bool // it carries a decision out
	ended    bool
	doing    bool // COMMIT or PREPARE is on its way
	snapshot uint64
	held     []lockKey
	waits    *lockKey

	rows    map[int]row
	order   []int // keys of rows, as they were first changed
	undo    []undoRow
	gates   []gateKey
	fences  []branchKey
	actions map[branchKey]action
	acts    []branchKey
	effects []effect
	acting  branchKey // of an action behind a fence, or of what vouches for messages
	barrier branchKey // what the action is remembered as
	op      core.Op
}

// begin opens a local transaction for a process.
func (d *database) begin(owner *node) *local {
	l := &local{d: d, owner: owner, life: owner.life}
	d.open = append(d.open, l)
	return l
}

// lock takes a lock, or waits for it; false: not within the time.
func (l *local) lock(p *proc, k lockKey, within time.Duration) bool {
	d := l.d
	deadline := d.w.now + within
	for {
		k0 := d.locks[k]
		switch {
		case l.ended:
			return false
		case k0 == nil:
			d.locks[k] = &lock{holder: l}
			l.held = append(l.held, k)
			return true
		case k0.holder == l:
			return true
		case k0.holder == nil:
			k0.holder = l
			l.held = append(l.held, k)
			return true
		case p == nil || d.w.now >= deadline:
			return false
		}
		wake := p.waker()
		k0.waiters = append(k0.waiters, waiting{l, wake})
		l.waits = &k
		p.n.after(deadline-d.w.now, wake)
		p.park()
		l.leaveLine()
	}
}

// leaveLine ends a wait for a lock.
func (l *local) leaveLine() {
	if l.waits == nil {
		return
	}
	k0 := l.d.locks[*l.waits]
	k0.waiters = slices.DeleteFunc(k0.waiters, func(o waiting) bool { return o.l == l })
	if k0.holder == nil && len(k0.waiters) == 0 {
		delete(l.d.locks, *l.waits)
	}
	l.waits = nil
}

// unlock gives up locks, newest first, until n are left.
func (l *local) unlock(n int) {
	for i := len(l.held) - 1; i >= n; i-- {
		k := l.held[i]
		k0 := l.d.locks[k]
		k0.holder = nil
		if len(k0.waiters) == 0 {
			delete(l.d.locks, k)
			continue
		}
		for _, o := range k0.waiters {
			o.wake()
		}
	}
	l.held = l.held[:n]
}

// blocks tells whether a lock of l keeps somebody waiting who works for one of the
// transactions: handfast.blocks of undolog.Blocks.
func (l *local) blocks(ids []xid.ID) bool {
	for _, k := range l.held {
		for _, o := range l.d.locks[k].waiters {
			if slices.Contains(ids, o.l.x) {
				return true
			}
		}
	}
	return false
}

// read gives a row as the local transaction sees it.
func (l *local) read(key int) row {
	if r, ok := l.rows[key]; ok {
		return r
	}
	return l.d.rows[key]
}

func (l *local) write(key int, r row) {
	if l.rows == nil {
		l.rows = map[int]row{}
	}
	if _, ok := l.rows[key]; !ok {
		l.order = append(l.order, key)
	}
	l.rows[key] = r
}

// savepoint is what a local transaction goes back to when a statement has failed.
type savepoint struct{ held, undo, gates, fences int }

func (l *local) savepoint() savepoint {
	return savepoint{len(l.held), len(l.undo), len(l.gates), len(l.fences)}
}

// backTo undoes a statement that changed nothing but locks, gates and fence.
func (l *local) backTo(s savepoint) {
	l.undo, l.gates, l.fences = l.undo[:s.undo], l.gates[:s.gates], l.fences[:s.fences]
	l.unlock(s.held)
}

// abort is ROLLBACK, or the end of the session.
func (l *local) abort() {
	if l.ended {
		return
	}
	l.ended = true
	l.leaveLine()
	l.unlock(0)
	l.d.forget(l)
}

func (d *database) forget(l *local) {
	d.open = slices.DeleteFunc(d.open, func(o *local) bool { return o == l })
	d.prepared = slices.DeleteFunc(d.prepared, func(o *local) bool { return o == l })
}

// commit makes everything visible at once. Where it is not synchronous a crash of the
// server may take it back.
func (l *local) commit(synchronous bool) {
	d := l.d
	d.touch(l.x, l.acting.x)
	d.w.oracle.commits(l)
	if !synchronous {
		d.unsynced = append(d.unsynced, l.takeBack())
	}
	for _, k := range l.order {
		d.put(k, l.rows[k])
	}
	d.undo = append(d.undo, l.undo...)
	for _, g := range l.gates {
		d.gateBy(g, l.x)
	}
	state := byte('L')
	if l.xa {
		state = 'C'
	}
	for _, k := range l.fences {
		d.fence[k] = fence{state, d.w.now}
	}
	for _, k := range l.acts {
		d.actions[k] = l.actions[k]
	}
	if synchronous {
		d.unsynced = nil
	}
	l.ended = true
	l.unlock(0)
	d.forget(l)
}

// takeBack gives what a crash of the server does to a commit that was not forced. It is
// for a planted fault only.
func (l *local) takeBack() func() {
	d := l.d
	before := map[int]row{}
	for _, k := range l.order {
		before[k] = d.rows[k]
	}
	return func() {
		for _, k := range l.order {
			d.put(k, before[k])
		}
		d.forgetUndo(l.x)
		for _, k := range l.fences {
			delete(d.fence, k)
		}
	}
}

// gateBy puts a key into the gate.
func (d *database) gateBy(g gateKey, x xid.ID) {
	d.version++
	d.gate[g], d.gated[g] = x, d.version
}

// put writes a row and the unique index.
func (d *database) put(key int, r row) {
	if old := d.rows[key]; old.tag != "" && d.tags[old.tag] == key {
		delete(d.tags, old.tag)
	}
	d.version++
	d.rows[key], d.changed[key] = r, d.version
	if r.tag != "" {
		d.tags[r.tag] = key
	}
}

// prepare is PREPARE TRANSACTION: it survives its session, and crashes. Postgres forces its
// log for that, with all that was committed before.
func (l *local) prepare() {
	l.owner = nil
	l.d.open = slices.DeleteFunc(l.d.open, func(o *local) bool { return o == l })
	l.d.prepared = append(l.d.prepared, l)
	l.d.unsynced = nil
	l.d.touch(l.x)
	l.d.w.oracle.prepares(l)
}

// preparedOf finds a prepared transaction by its name.
func (d *database) preparedOf(k branchKey) *local {
	for _, l := range d.prepared {
		if l.x == k.x && l.b == k.b {
			return l
		}
	}
	return nil
}

// sessionsOf ends what a dead process has left open. A COMMIT on its way is carried
// out or not, as it comes.
func (d *database) sessionsOf(n *node, life uint32) {
	for _, l := range slices.Clone(d.open) {
		if l.owner == n && l.life == life && !l.doing {
			l.abort()
		}
	}
}

// crash loses every open local transaction, and settled commits that were not forced.
func (d *database) crash() {
	d.note("database crashes", len(d.open), len(d.unsynced))
	for _, l := range slices.Clone(d.open) {
		l.abort()
	}
	lost := d.rng.below(len(d.unsynced) + 1)
	for range lost {
		last := len(d.unsynced) - 1
		d.unsynced[last]()
		d.unsynced = d.unsynced[:last]
		d.w.count("settled commits lost by a database")
	}
	d.unsynced = nil
	d.stop()
}

// restart brings the server back.
func (d *database) restart() {
	if !d.up {
		d.start()
		d.note("database is back")
	}
}
