package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// tx is rm.Tx: a local transaction that is a branch of a global one.
type tx struct {
	s      *service
	p      *proc
	x      xid.ID
	mode   core.Mode
	above  bool    // READ COMMITTED
	branch *branch // nil: nothing was sent yet
	l      *local
	first  bool // the next statement is the first
}

func (s *service) newTx(p *proc, x xid.ID, mode core.Mode) *tx {
	return &tx{s: s, p: p, x: x, mode: mode, first: true}
}

// trip is the way to the database, or back. The connection may break on it.
func (s *service) trip(p *proc, l *local) bool {
	p.sleep(p.rng.during(20*time.Microsecond, 300*time.Microsecond))
	if p.rng.chance(s.w.breaks) {
		s.w.count("connections broken")
		s.w.after(p.rng.during(0, 300*time.Millisecond), func() {
			if !l.doing {
				l.abort() // its backend may live on for a while
			}
		})
		return false
	}
	return s.db.up && !l.ended
}

// statement runs one statement, again after each conflict that was waited for.
func (t *tx) statement(c change) error {
	var w *waiter
	for {
		first := t.first
		if t.branch == nil {
			t.branch = t.s.startBranch(t.p, t.x, t.mode)
		}
		if t.l == nil {
			t.l = t.s.db.begin(t.s.node)
			t.l.above = t.above
			t.l.x, t.l.b, t.l.xa = t.x, t.branch.id, t.mode == core.ModeXA
			if t.l.xa && !t.l.lock(nil, lockKey{kind: 'x', b: branchKey{t.x, t.l.b}}, 0) {
				return errLockTimeout
			}
		}
		if !t.s.trip(t.p, t.l) {
			return errBroken
		}
		mark := t.l.savepoint()
		err := t.l.update(t.p, c)
		if err != nil {
			if t.l.ended {
				return errBroken
			}
			t.l.backTo(mark)
		}
		if !t.s.trip(t.p, t.l) {
			return errBroken
		}
		if errors.Is(err, errSerial) {
			t.s.w.count("serialization failures")
		}
		var conflict *conflictError
		if errors.As(err, &conflict) && t.above && conflict.holder != t.x {
			return errSerial // a new transaction alone can see what the holder leaves
		}
		if !errors.As(err, &conflict) || conflict.holder == t.x {
			t.first = t.first && err != nil
			return err
		}
		t.s.w.count("conflicts")
		if w == nil {
			w = &waiter{s: t.s, p: t.p, x: t.x, began: t.s.w.now}
			if !first {
				w.open = t.l
			}
		}
		if first { // back to before BEGIN: a waiter that holds nothing
			t.l.abort()
			t.l = nil
		}
		if again, werr := w.again(conflict.holder); !again {
			return werr
		}
	}
}

// forUpdate is SELECT ... FOR UPDATE, as any statement but the first.
func (t *tx) forUpdate(key int) error {
	if t.first {
		return nil
	}
	if !t.s.trip(t.p, t.l) {
		return errBroken
	}
	if err := t.l.forUpdate(t.p, key); err != nil {
		return err
	}
	if !t.s.trip(t.p, t.l) {
		return errBroken
	}
	return nil
}

// rollback is Tx.Rollback: COMMIT was never sent, so the local transaction can only end
// without effect.
func (t *tx) rollback() {
	if t.l != nil {
		t.l.abort()
	}
	if t.branch != nil {
		t.branch.vote(core.VoteWithdrawn)
	}
}

// commit is Tx.Commit: it waits for the registration, seals, commits or prepares, and
// votes.
func (t *tx) commit() error {
	if t.branch == nil || t.l == nil {
		t.rollback()
		return nil
	}
	if t.s.w.plant != plantCommitBeforeAck {
		if err := t.branch.wait(t.p); err != nil && !t.s.w.lateBranchTaken(err) {
			t.rollback()
			return err
		}
	}
	t.s.stale = branchKey{t.x, t.branch.id}
	l := t.l
	if l.ended || !t.s.db.up {
		t.rollback()
		return errBroken
	}
	// What is on its way is carried out by the server, whatever becomes of us.
	done, result := false, error(nil)
	l.doing = true
	wake := t.p.waker()
	breaks := t.p.rng.chance(2 * t.s.w.breaks)
	never := breaks && t.p.rng.chance(million/2)
	delay := t.p.rng.during(20*time.Microsecond, 300*time.Microsecond)
	if breaks {
		t.s.w.count("connections broken at COMMIT")
		delay += t.p.rng.during(0, 300*time.Millisecond)
	}
	server, seed := t.s.db, t.p.rng.next()
	server.after(delay, func() {
		server.spawnWith(seed, func(p *proc) {
			l.doing = false
			switch {
			case l.ended:
				result = errBroken
			case never:
				l.abort()
				result = errBroken
			default:
				result = t.end(p, l)
			}
			done = true
			if !breaks {
				t.s.w.net.sure(p.rng, t.s.node, wake)
			}
		})
	})
	if breaks {
		t.s.after(t.p.rng.during(0, 100*time.Millisecond), wake)
	}
	t.s.after(lockTimeout+2*time.Second, wake)
	t.p.park()
	if !done || breaks || errors.Is(result, errBroken) {
		return t.commitUnknown()
	}
	if result != nil {
		t.branch.vote(core.VoteWithdrawn)
		return result
	}
	t.branch.vote(core.VoteYes)
	return nil
}

// end is what the server does with seal and COMMIT, or fence and PREPARE.
func (t *tx) end(p *proc, l *local) error {
	if l.xa {
		if err := l.insertFence(p); err != nil {
			l.abort()
			return err
		}
		if l.ended {
			return errBroken
		}
		l.prepare()
		return nil
	}
	l.commit(t.s.w.plant != plantUnsyncedYes)
	return nil
}

// commitUnknown is Tx.commitUnknown: the database knows.
func (t *tx) commitUnknown() error {
	if t.s.w.plant == plantRerunUnknown {
		t.branch.vote(core.VoteWithdrawn)
		return errRerun
	}
	if !t.s.db.up {
		t.branch.vote(core.VoteNone)
		return errUnanswered
	}
	switch t.s.db.ask(t.p, branchKey{t.x, t.branch.id}, t.mode == core.ModeXA) { //nolint:exhaustive // open is the rest
	case core.VoteYes:
		t.branch.vote(core.VoteYes)
		return nil
	case core.VoteNo:
		t.branch.vote(core.VoteNo)
		return errBroken
	}
	t.branch.vote(core.VoteNone)
	return errUnanswered
}

// errRerun belongs to a planted fault: the unit of work is run again.
var errRerun = errors.New("run again")

// waiter is rm.waiter: it waits for those who hold the rows that a statement needs.
type waiter struct {
	s     *service
	p     *proc
	x     xid.ID
	open  *local // its local transaction, where that stays open meanwhile
	began time.Duration
	last  xid.ID
}

const deliveryMax = time.Second

// again is waiter.again and wait: true where the holder is settled here.
func (w *waiter) again(holder xid.ID) (bool, error) {
	conflict := &conflictError{holder: holder}
	defer w.s.w.oracle.watchWaiter(w.open, holder)()
	for {
		if holder == w.last {
			w.p.nap(0, 32*time.Millisecond)
		}
		w.last = holder
		left := lockTimeout - (w.s.w.now - w.began)
		if left <= 0 {
			return false, conflict
		}
		stop := w.watch(holder, func() {})
		settled := w.s.settleDecided(w.p, holder, left)
		if stop() && !settled {
			w.s.w.count("waiters that gave way")
			return false, errLockTimeout
		}
		if settled {
			return true, nil
		}
		once := min(left, deliveryMax)
		stop = w.watch(holder, w.p.waker())
		until := w.s.tc.Now().Add(once)
		r, err := w.p.askOnce(w.s.tc, min(left, once+time.Second), func(ref core.Ref) core.Input {
			return core.Wait{Ref: ref, XID: holder, Resource: w.s.db.id, Waiter: w.x, Row: "row", Until: until}
		})
		if stop() {
			w.s.w.count("waiters that gave way")
			return false, errLockTimeout
		}
		switch {
		case err != nil:
			continue
		case r.Err != nil && r.Err.XID == w.x:
			return false, r.Err // the waiter itself is decided
		case r.Err != nil:
			return false, conflict // nobody can be asked
		case r.Settled:
			return true, nil
		}
		w.last = xid.ID{}
	}
}

// watch is waiter.watched: while the wait lasts it looks whether the locks of the open
// local transaction hold up the holder, or one that the holder waits for. stop tells
// whether they do; wake ends the wait then.
func (w *waiter) watch(holder xid.ID, wake func()) (stop func() bool) {
	if w.open == nil || w.s.w.plant == plantNoGivingWay {
		return func() bool { return false }
	}
	found, over := false, false
	pause := 100 * time.Millisecond
	var look func()
	look = func() {
		if over {
			return
		}
		ids := slices.DeleteFunc(append([]xid.ID{holder}, w.s.tc.graph.Reach(holder, 100)...), func(id xid.ID) bool { return id == w.x })
		if w.open.blocks(ids) {
			found = true
			wake()
			return
		}
		pause = min(2*pause, time.Second)
		w.s.after(pause, look)
	}
	w.s.after(pause, look)
	return func() bool {
		over = true
		return found
	}
}
