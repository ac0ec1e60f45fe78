package core_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// errViolated is what a broken promise looks like to the search.
var errViolated = errors.New("promise violated")

// world is one machine with model databases around it. Messages in both
// directions are lost, doubled, delayed and reordered; the machine crashes and
// loses any part of what was not forced.
type world struct {
	rng    *rand.Rand
	s      *shell
	toTC   []core.Input // on their way to the coordinator
	toRM   []core.Body  // on their way to resource managers
	told   map[xid.ID]core.Outcome
	dbs    map[dbKey]*branchModel
	txs    []*txModel
	broken error
}

type txModel struct {
	id       xid.ID
	branches []*branchModel
}

type dbKey struct {
	id xid.ID
	b  int
}

// branchModel is the local transaction of one branch, and its fence row.
type branchModel struct {
	tx       *txModel
	n        int
	resource int
	acked    bool // the registration was answered
	fence    core.Vote
	undone   bool
	released bool
}

// Fatalf makes world a fataler for its shell.
func (w *world) Fatalf(format string, args ...any) { w.fail(format, args...) }

// Helper does nothing.
func (w *world) Helper() {}

func (w *world) fail(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf("%w: %s", errViolated, fmt.Sprintf(format, args...))
	}
}

func newWorld(seed uint64, naive bool) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), told: map[xid.ID]core.Outcome{}, dbs: map[dbKey]*branchModel{}}
	w.s = newShell(w, core.Config{Window: 2, RestartGrace: time.Second})
	w.s.naive = naive
	w.s.release = w.released
	return w
}

// released sees everything that leaves the machine.
func (w *world) released(b core.Body) {
	switch b := b.(type) {
	case core.Reply:
		w.reply(b)
	case core.Settle:
		w.tell(b.XID, b.Outcome)
		w.toRM = append(w.toRM, b)
	case core.AskVote:
		w.toRM = append(w.toRM, b)
	case core.Changed:
		w.tell(b.Tx.XID, b.Tx.Outcome)
	case core.WaiterDone:
		w.reply(core.Reply{Ref: "waiter", Err: b.Err})
	}
}

func (w *world) reply(r core.Reply) {
	if r.Err == nil {
		w.tell(r.Tx.XID, r.Tx.Outcome)
		if br, ok := r.Ref.(*branchModel); ok && w.rng.IntN(8) > 0 {
			br.acked = true
		}
		return
	}
	if r.Err.Kind == core.ErrRolledBack {
		w.tell(r.Err.XID, core.RolledBack)
	}
	if r.Err.Kind == core.ErrCommitted {
		w.tell(r.Err.XID, core.Committed)
	}
}

// tell checks that no two outcomes are ever told, and that a commit stands on
// local commits only.
func (w *world) tell(id xid.ID, o core.Outcome) {
	if o == core.Undecided {
		return
	}
	if old := w.told[id]; old != core.Undecided && old != o {
		w.fail("%s: told outcome %d, then %d", id, old, o)
	}
	w.told[id] = o
	if o != core.Committed {
		return
	}
	for _, br := range w.dbs {
		if br.tx.id == id && br.acked && br.fence == core.VoteNone {
			w.fail("%s committed while branch %d is open", id, br.n)
		}
		if br.tx.id == id && br.acked && (br.fence == core.VoteNo || br.undone) {
			w.fail("%s committed although branch %d is undone", id, br.n)
		}
	}
}

// run does one random thing.
func (w *world) run() {
	switch w.rng.IntN(14) {
	case 0:
		w.begin()
	case 1, 2:
		w.register()
	case 3, 4:
		w.localCommit()
	case 5:
		w.giveUp()
	case 6:
		w.decide()
	case 7, 8:
		w.deliverToRM()
	case 9, 10:
		w.deliverToTC()
	case 11:
		w.s.flush()
	case 12:
		w.s.now = w.s.now.Add(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
		w.s.step(core.Tick{})
	case 13:
		w.fault()
	}
}

func (w *world) fault() {
	switch w.rng.IntN(10) {
	case 0:
		w.s.restart(w.rng.IntN(5))
	case 1:
		w.s.step(core.Attached{Resource: resourceID(w.rng.IntN(2))})
	case 2:
		w.s.step(core.Detached{Resource: resourceID(w.rng.IntN(2))})
	case 3:
		if tx := w.pick(); tx != nil {
			w.s.step(core.Get{Ref: "get", XID: tx.id})
		}
	case 4, 5:
		if waiter, holder := w.pick(), w.pick(); waiter != nil {
			w.s.step(core.Wait{Ref: "wait", XID: holder.id, Resource: resourceID(0), Waiter: waiter.id, Until: w.s.now.Add(5 * time.Second)})
			w.s.step(core.Waiting{XID: waiter.id})
		}
	case 6:
		if tx := w.pick(); tx != nil {
			w.s.step(core.EndWait{Ref: "wait", XID: tx.id, Err: &core.Error{Kind: core.ErrLimit}})
		}
	case 7:
		if tx := w.pick(); tx != nil {
			w.s.step(core.Break{XID: tx.id, Cause: "a cycle"})
		}
	case 8:
		if tx := w.pick(); tx != nil && w.rng.IntN(4) == 0 {
			w.s.step(core.Abandon{Ref: "operator", XID: tx.id})
		}
	case 9:
		if tx := w.pick(); tx != nil {
			w.s.step(core.Wait{Ref: "wait", XID: tx.id, Finished: true, OrStalled: w.rng.IntN(2) == 0, Until: w.s.now.Add(time.Minute)})
		}
	}
}

func (w *world) begin() {
	if len(w.txs) >= 4 {
		return
	}
	w.s.counter++
	id := xid.New(xid.Parts{Begin: w.s.now, Incarnation: w.s.cfg.Incarnation, Store: testStore, Counter: w.s.counter})
	w.txs = append(w.txs, &txModel{id: id})
	w.s.step(core.Begin{Ref: "begin", XID: id, Deadline: w.s.now.Add(20 * time.Second)})
}

func (w *world) pick() *txModel {
	if len(w.txs) == 0 {
		return nil
	}
	return w.txs[w.rng.IntN(len(w.txs))]
}

func (w *world) pickBranch() *branchModel {
	tx := w.pick()
	if tx == nil || len(tx.branches) == 0 {
		return nil
	}
	return tx.branches[w.rng.IntN(len(tx.branches))]
}

// mode is another one for every other branch.
func (b *branchModel) mode() core.Mode { return core.Mode(1 + b.n%2) }

func (w *world) register() {
	tx := w.pick()
	if tx == nil {
		return
	}
	var br *branchModel
	if n := len(tx.branches); n > 0 && w.rng.IntN(3) == 0 || n >= 3 {
		br = tx.branches[w.rng.IntN(n)]
	} else {
		br = &branchModel{tx: tx, n: n + 1, resource: w.rng.IntN(2)}
		tx.branches = append(tx.branches, br)
		w.dbs[dbKey{tx.id, br.n}] = br
	}
	w.toTC = append(w.toTC, core.Register{Ref: br, XID: tx.id, Branch: branchID(br.n), Resource: resourceID(br.resource), Mode: br.mode()})
}

// localCommit commits the local transaction, which needs the acknowledged
// registration and a fence that nobody has taken.
func (w *world) localCommit() {
	if br := w.pickBranch(); br != nil && br.acked && br.fence == core.VoteNone {
		br.fence = core.VoteYes
		w.toTC = append(w.toTC, core.CastVote{Ref: "vote", XID: br.tx.id, Branch: branchID(br.n), Vote: core.VoteYes, Delay: time.Duration(w.rng.IntN(2000)) * time.Millisecond})
	}
}

func (w *world) giveUp() {
	if br := w.pickBranch(); br != nil && br.fence == core.VoteNone && w.rng.IntN(4) == 0 {
		br.fence = core.VoteNo
		w.toTC = append(w.toTC, core.CastVote{Ref: "vote", XID: br.tx.id, Branch: branchID(br.n), Vote: core.VoteNo})
	}
}

func (w *world) decide() {
	tx := w.pick()
	if tx == nil {
		return
	}
	// A service commits once it is done, never before its branches are; it may
	// ask again, and it may change its mind after an answer was lost.
	for _, br := range tx.branches {
		if !br.acked || br.fence == core.VoteNone {
			return
		}
	}
	if w.rng.IntN(5) == 0 {
		w.toTC = append(w.toTC, core.Rollback{Ref: "tm", XID: tx.id})
	} else {
		w.toTC = append(w.toTC, core.Commit{Ref: "tm", XID: tx.id})
	}
}

// take removes a random element most of the time; what stays comes again.
func take[T any](rng *rand.Rand, q *[]T) (T, bool) {
	var zero T
	if len(*q) == 0 {
		return zero, false
	}
	i := rng.IntN(len(*q))
	x := (*q)[i]
	if rng.IntN(6) > 0 {
		*q = append((*q)[:i], (*q)[i+1:]...)
	}
	return x, rng.IntN(10) > 0
}

func (w *world) deliverToTC() {
	if in, ok := take(w.rng, &w.toTC); ok {
		w.s.step(in)
	}
}

func (w *world) deliverToRM() {
	b, ok := take(w.rng, &w.toRM)
	if !ok {
		return
	}
	switch b := b.(type) {
	case core.AskVote:
		br := w.dbs[dbKey{b.XID, int(b.Branch[15])}]
		if b.Mode != br.mode() {
			w.fail("%s: branch %d is asked for in mode %d", b.XID, br.n, b.Mode)
		}
		if br.fence == core.VoteNone && w.rng.IntN(2) == 0 {
			w.toTC = append(w.toTC, core.Answered{XID: b.XID, Branch: b.Branch, Vote: core.VoteOpen})
			return
		}
		if br.fence == core.VoteNone {
			br.fence = core.VoteNo // the tombstone
		}
		w.toTC = append(w.toTC, core.Answered{XID: b.XID, Branch: b.Branch, Vote: br.fence})
	case core.Settle:
		w.settle(b)
	}
}

func (w *world) settle(b core.Settle) {
	for _, cb := range b.Branches {
		br := w.dbs[dbKey{b.XID, int(cb.ID[15])}]
		switch {
		case cb.Mode != br.mode():
			w.fail("%s: branch %d is to be settled in mode %d", b.XID, br.n, cb.Mode)
		case b.Outcome == core.RolledBack && br.released:
			w.fail("%s: undone after it was released", b.XID)
		case b.Outcome == core.RolledBack:
			if br.fence == core.VoteNone {
				br.fence = core.VoteNo
			}
			br.undone = true
		case br.undone:
			w.fail("%s: released after it was undone", b.XID)
		case br.fence != core.VoteYes:
			w.fail("%s: committed, branch %d has no fence", b.XID, br.n)
		default:
			br.released = true
		}
	}
	w.toTC = append(w.toTC, core.Settled{XID: b.XID, Resource: b.Resource, Outcome: b.Outcome, Done: true})
}

// calm lets everything arrive and checks that nothing is left.
func (w *world) calm() {
	w.s.step(core.Attached{Resource: resourceID(0)})
	w.s.step(core.Attached{Resource: resourceID(1)})
	for range 5000 {
		w.s.flush()
		for len(w.toTC) > 0 {
			in := w.toTC[0]
			w.toTC = w.toTC[1:]
			w.s.step(in)
		}
		w.s.flush()
		if len(w.toRM) > 0 {
			w.deliverToRM()
			continue
		}
		if w.s.m.Open() == 0 && len(w.toTC) == 0 {
			w.s.step(core.Detached{Resource: resourceID(0)})
			w.s.step(core.Detached{Resource: resourceID(1)})
			if n := w.s.m.Lanes(); n != 0 {
				w.fail("%d lanes although there is nothing to do", n)
			}
			return
		}
		if !w.s.wake.IsZero() {
			w.s.now = later(w.s.now, w.s.wake)
		}
		w.s.step(core.Tick{})
	}
	w.fail("%d transactions open although everything works", w.s.m.Open())
}

func search(seed uint64, naive bool) (*world, error) {
	w := newWorld(seed, naive)
	for range 150 {
		if w.run(); w.broken != nil {
			return w, w.broken
		}
	}
	w.calm()
	return w, w.broken
}

func TestRandomHistoriesKeepThePromises(t *testing.T) {
	t.Parallel()
	seeds := uint64(20_000)
	if testing.Short() {
		seeds = 2000
	}
	seen := map[core.Outcome]int{}
	for seed := range seeds {
		w, err := search(seed, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, tx := range w.txs {
			if len(tx.branches) > 0 {
				seen[w.told[tx.id]]++
			}
		}
	}
	// Histories in which nothing happens would keep every promise.
	for _, o := range []core.Outcome{core.Committed, core.RolledBack} {
		if seen[o] < int(seeds)/10 {
			t.Errorf("%d transactions with branches had outcome %d, of %d histories", seen[o], o, seeds)
		}
	}
}

// The search must be able to fail: messages that do not wait for the log are
// the fault that the protocol exists to prevent.
func TestSearchFindsMessagesThatDoNotWaitForTheLog(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4000) {
		if _, err := search(seed, true); errors.Is(err, errViolated) {
			return
		}
	}
	t.Fatal("not found in 4000 histories")
}

// The same inputs give the same outputs: no clock, map order or randomness.
func TestMachineIsDeterministic(t *testing.T) {
	t.Parallel()
	trace := func(seed uint64) []core.Record {
		w := newWorld(seed, false)
		for range 150 {
			w.run()
		}
		w.calm()
		return w.s.log
	}
	for seed := range uint64(50) {
		if a, b := trace(seed), trace(seed); !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
}
