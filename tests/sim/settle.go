package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

const (
	settleLockTimeout = 500 * time.Millisecond
	askLockTimeout    = 500 * time.Millisecond
)

// alarmError is undolog.AlarmError and MisfitError: trying again can't help. None of
// them may ever be seen.
type alarmError struct {
	x    xid.ID
	what string
}

func (e *alarmError) Error() string { return e.what }

var errBlocked = errors.New("settling is blocked by an open local transaction")

// settlement is undolog.Settlement.
type settlement struct {
	x        xid.ID
	commit   bool
	branches []branchVote
}

type branchVote struct {
	id  xid.BranchID
	yes bool
	xa  bool
}

// settle is undolog.Settle for one transaction: all of its branches in the database at
// once.
func (d *database) settle(p *proc, s settlement) error {
	if d.w.plant == plantSettlePerBranch && len(s.branches) > 1 && !s.commit {
		return d.settlePerBranch(p, s)
	}
	if s.commit {
		if err := d.commitPrepared(s); err != nil {
			return err
		}
		return d.commitBatch(p, s)
	}
	if slices.ContainsFunc(s.branches, func(b branchVote) bool { return b.xa }) {
		return d.rollbackPrepared(p, s)
	}
	return d.rollback(p, s)
}

// commitPrepared is undolog.commitPrepared and commitEach.
func (d *database) commitPrepared(s settlement) error {
	for _, b := range s.branches {
		l := d.preparedOf(branchKey{s.x, b.id})
		switch {
		case l == nil || d.w.plant == plantForgetPrepared:
		case !b.yes:
			return &alarmError{s.x, fmt.Sprintf("branch %s of %s is prepared and was not to commit", b.id, short(s.x))}
		default:
			l.commit(true)
		}
	}
	return nil
}

// commitBatch is handfast.commit_batch: it locks the fences, compares them with the
// votes, and forgets what an undo would need.
func (d *database) commitBatch(p *proc, s settlement) error {
	t := d.begin(p.n)
	defer t.abort()
	t.x = s.x
	for _, b := range s.branches {
		// FOR UPDATE of what is there. An open local transaction has not committed
		// its fence, so there is nothing to wait for.
		if _, there := d.fence[branchKey{s.x, b.id}]; there && !t.lock(p, lockKey{kind: 'f', b: branchKey{s.x, b.id}}, settleLockTimeout) {
			return errBlocked
		}
	}
	yes := map[xid.BranchID]bool{}
	for _, b := range s.branches {
		f := d.fence[branchKey{s.x, b.id}]
		if b.yes {
			yes[b.id] = true
		}
		if b.yes && f.state != 'L' && f.state != 'C' && d.w.plant != plantForgetPrepared && d.w.plant != plantMissingFence {
			return &alarmError{s.x, fmt.Sprintf("branch %s of %s voted yes and its fence is in state %q", b.id, short(s.x), f.state)}
		}
	}
	for _, k := range d.fencesOf(s.x) {
		if f := d.fence[k]; f.state != 'T' && !yes[k.b] {
			return &alarmError{s.x, fmt.Sprintf("branch %s of %s has a fence in state %q and was not to commit", k.b, short(s.x), f.state)}
		}
	}
	d.touch(s.x)
	d.w.oracle.settles(d, s)
	undo, gates := d.forgetUndo(s.x)
	var live []branchKey
	for _, k := range d.fencesOf(s.x) {
		if f := d.fence[k]; f.state == 'L' {
			live = append(live, k)
			d.fence[k] = fence{'C', f.since}
		}
	}
	if len(live) > 0 {
		// synchronous_commit is off: a crash brings the intents back.
		d.unsynced = append(d.unsynced, func() {
			d.undo = append(d.undo, undo...)
			slices.SortFunc(d.undo, func(a, b undoRow) int { return int(a.seq) - int(b.seq) })
			for _, g := range gates {
				d.gateBy(g, s.x)
			}
			for _, k := range live {
				d.fence[k] = fence{'L', d.w.now}
			}
			d.w.oracle.unsettled(d, s.x)
		})
		n := len(d.unsynced)
		d.after(d.rng.during(50*time.Millisecond, 400*time.Millisecond), func() { // the WAL writer
			d.unsynced = d.unsynced[min(n, len(d.unsynced)):]
		})
	}
	return nil
}

// rollbackPrepared is undolog.rollbackPrepared.
func (d *database) rollbackPrepared(p *proc, s settlement) error {
	var last error
	for range 4 {
		for _, b := range s.branches {
			if l := d.preparedOf(branchKey{s.x, b.id}); l != nil && b.xa && d.w.plant != plantForgetPrepared {
				d.w.oracle.rollsBackPrepared(l)
				l.abort()
			}
		}
		last = d.rollback(p, s)
		if last != nil && !errors.Is(last, errBlocked) {
			return last
		}
		left := false
		for _, b := range s.branches {
			left = left || d.preparedOf(branchKey{s.x, b.id}) != nil
		}
		if !left || d.w.plant == plantForgetPrepared {
			return last
		}
	}
	return last
}

// rollback is undolog.rollback: a tombstone for every branch, and then, in a statement
// of its own, every row back to what it was before the first image.
func (d *database) rollback(p *proc, s settlement) error {
	var early []undoRow
	if d.w.plant == plantSnapshotBeforeLock {
		early = append(early, d.undoOf(s.x)...)
	}
	t := d.begin(p.n)
	defer t.abort()
	t.x, t.settles = s.x, true
	began := d.w.now
	defer func() {
		if !t.ended {
			d.w.oracle.settlingTook(d, s.x, d.w.now-began, len(t.held)+1)
		}
	}()
	branches := slices.Clone(s.branches)
	slices.SortFunc(branches, func(a, b branchVote) int { return slices.Compare(a.id[:], b.id[:]) })
	var tombs []branchKey
	for _, b := range branches {
		k := branchKey{s.x, b.id}
		if !t.lock(p, lockKey{kind: 'f', b: k}, d.settleTimeout()) {
			return errBlocked
		}
		if _, there := d.fence[k]; !there && d.w.plant != plantNoTombstone {
			tombs = append(tombs, k)
		}
	}
	for _, k := range d.fencesOf(s.x) {
		f := d.fence[k]
		switch {
		case f.state == 'C':
			return &alarmError{s.x, fmt.Sprintf("branch %s of %s is settled as committed, and shall be rolled back", k.b, short(s.x))}
		case !slices.ContainsFunc(branches, func(b branchVote) bool { return b.id == k.b }):
			return &alarmError{s.x, fmt.Sprintf("branch %s of %s has a fence and was never registered", k.b, short(s.x))}
		}
	}
	undo := d.undoOf(s.x)
	if d.w.plant == plantSnapshotBeforeLock {
		undo = early
	}
	restored, err := d.plan(undo)
	if err != nil {
		return err
	}
	for _, r := range restored {
		if !t.lock(p, lockKey{kind: 'r', key: r.key}, d.settleTimeout()) {
			return errBlocked
		}
	}
	// The rows are locked: what they are now stays.
	for _, r := range restored {
		if now := d.rows[r.key]; now != r.after && d.w.plant != plantWrongUndoOrder {
			return &alarmError{s.x, fmt.Sprintf("row %s/%d of %s can't be restored: it is %v, and not %v", d.name, r.key, short(s.x), now, r.after)}
		}
	}
	for _, r := range restored {
		if owner, taken := d.tags[r.before.tag]; taken && owner != r.key && !slices.ContainsFunc(restored, func(o undoRow) bool { return o.key == owner }) {
			return &alarmError{s.x, fmt.Sprintf("row %s/%d of %s can't be restored: row %d has its tag %q", d.name, r.key, short(s.x), owner, r.before.tag)}
		}
	}
	if k := d.orphan(restored); k != 0 {
		return &alarmError{s.x, fmt.Sprintf("rows of %s in %s can't be restored: the parent of row %d would be missing", short(s.x), d.name, k)}
	}
	if t.ended {
		return errBroken // the server crashed meanwhile
	}
	d.touch(s.x)
	d.w.oracle.settles(d, s)
	if d.w.plant == plantReleaseBeforeRestore {
		d.releaseBeforeRestore(p, t, s.x)
	}
	for _, r := range restored {
		d.put(r.key, r.before)
	}
	d.forgetUndo(s.x)
	for _, k := range d.fencesOf(s.x) {
		if f := d.fence[k]; f.state == 'L' {
			d.fence[k] = fence{'R', f.since}
		}
	}
	for _, k := range tombs {
		d.fence[k] = fence{'T', d.w.now}
	}
	d.unsynced = nil // synchronous_commit is on
	d.w.oracle.rolledBack(d, s.x, restored)
	return nil
}

// settleTimeout is lock_timeout of a rollback.
func (d *database) settleTimeout() time.Duration {
	if d.w.plant == plantSettleWaits {
		return time.Hour
	}
	return settleLockTimeout
}

// plan is what each row was and has to be now, from all of its images.
func (d *database) plan(undo []undoRow) ([]undoRow, error) {
	var out []undoRow
	for _, u := range undo {
		i := slices.IndexFunc(out, func(o undoRow) bool { return o.key == u.key })
		switch {
		case i < 0:
			out = append(out, u)
		case d.w.plant == plantWrongUndoOrder:
			out[i].before = u.before // as if the oldest were undone first
		case out[i].after != u.before:
			return nil, &alarmError{u.x, fmt.Sprintf("the images of row %s/%d contradict each other: %v, then %v", d.name, u.key, out[i].after, u.before)}
		default:
			out[i].after = u.after
		}
	}
	return out, nil
}

func (d *database) undoOf(x xid.ID) (out []undoRow) {
	for _, u := range d.undo {
		if u.x == x {
			out = append(out, u)
		}
	}
	return out
}

// forgetUndo deletes the undo rows of a transaction and the keys that it owns.
func (d *database) forgetUndo(x xid.ID) (undo []undoRow, gates []gateKey) {
	d.undo = slices.DeleteFunc(d.undo, func(u undoRow) bool {
		if u.x == x {
			undo = append(undo, u)
		}
		return u.x == x
	})
	for _, u := range undo {
		for _, g := range u.gates {
			if d.gate[g] == x {
				delete(d.gate, g)
				gates = append(gates, g)
			}
		}
	}
	return undo, gates
}

// fencesOf gives the fences of a transaction in the order of their branches.
func (d *database) fencesOf(x xid.ID) (out []branchKey) {
	for k := range d.fence {
		if k.x == x {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b branchKey) int { return slices.Compare(a.b[:], b.b[:]) })
	return out
}

// ask is undolog.Ask and AskPrepared: how did phase one of a branch end? Where it has
// not committed, a tombstone makes no as final as yes.
func (d *database) ask(p *proc, k branchKey, xa bool) core.Vote {
	t := d.begin(p.n)
	defer t.abort()
	t.x = k.x
	if xa {
		if d.preparedOf(k) != nil {
			return core.VoteYes
		}
		if !t.lock(p, lockKey{kind: 'x', b: k}, askLockTimeout) {
			if d.preparedOf(k) != nil {
				return core.VoteYes
			}
			return core.VoteOpen
		}
		if d.preparedOf(k) != nil {
			return core.VoteYes
		}
	}
	if !t.lock(p, lockKey{kind: 'f', b: k}, askLockTimeout) {
		return core.VoteOpen
	}
	f, there := d.fence[k]
	switch {
	case t.ended:
		return core.VoteOpen
	case there && (f.state == 'L' || f.state == 'C'):
		return core.VoteYes
	case !there && d.w.plant != plantNoTombstone:
		d.fence[k] = fence{'T', d.w.now}
		d.touch(k.x)
		d.unsynced = nil
	}
	return core.VoteNo
}

// stillPrepared is janitor.stillPrepared.
func (d *database) stillPrepared(x xid.ID) bool {
	return slices.ContainsFunc(d.prepared, func(l *local) bool { return l.x == x })
}

// pending is undolog.Pending and PreparedBranches: what has lain for long.
func (d *database) pending(age time.Duration) (out []xid.ID) {
	add := func(x xid.ID) {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	for k, f := range d.fence {
		if f.state == 'L' && d.w.now-f.since >= age {
			add(k.x)
		}
	}
	for _, l := range d.prepared {
		add(l.x)
	}
	slices.SortFunc(out, func(a, b xid.ID) int { return slices.Compare(a[:], b[:]) })
	return out
}
