package explore

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// maxTx is how many transactions a scene may have.
const maxTx = 2

// id names what is interned: two values with one canonical form have one id.
type id uint32

// machines are all states of the real core that were met. What leads from one to
// another is computed by the core, once: by a machine that is made anew from the log and
// led through the inputs since its start.
type machines struct {
	scene *scene
	byKey map[string]id
	all   []machine
	moves map[move]moved

	batchByKey map[string]id
	batches    [][]core.Record // the first is empty
	foldByKey  map[string]id
	folds      []folded
	folding    map[[2]id]id

	compare  int // of so many ways into a state that is known, one is compared with it
	ways     int
	compared int
}

// machine is one state, and a way to it.
type machine struct {
	parent int64 // -1: a start
	now    time.Time
	in     core.Input
	load   *core.Transaction
	start  *start // of a root
	tail   int    // how many records may still be lost
	soon   bool   // something is armed that is due after a short wait
	expire bool   // a deadline of somebody undecided is ahead
	due    time.Time
	known  [maxTx]bool
}

type start struct {
	incarnation uint32
	now         time.Time
	txs         folded
}

// folded is what a log says.
type folded struct {
	txs [maxTx]core.Transaction
}

func (f *folded) at(tx uint8) *core.Transaction { return &f.txs[tx] }

// move is one step out of a state: with the log as folded, a transaction of the archive
// may have to be loaded for it.
type move struct {
	from   id
	ev     event
	logged id
}

type moved struct {
	to   id
	rec  id // the records
	msgs []held
	bad  string
}

// held is a message, and whether it waits for records that may still be lost.
type held struct {
	m    msg
	need bool
}

func newMachines(s *scene) *machines {
	ms := &machines{
		scene: s, byKey: map[string]id{}, moves: map[move]moved{},
		batchByKey: map[string]id{"": 0}, batches: [][]core.Record{nil},
		foldByKey: map[string]id{}, folding: map[[2]id]id{},
	}
	ms.internFold(folded{})
	return ms
}

var epoch = time.UnixMilli(1_700_000_000_000)

var storeID = xid.StoreID{1, 2, 3}

func (ms *machines) config(incarnation uint32) core.Config {
	return core.Config{Store: storeID, Incarnation: incarnation, RestartGrace: unit}
}

// xidOf names a transaction by the incarnation that it was begun in.
func xidOf(tx, incarnation uint8) xid.ID {
	return xid.New(xid.Parts{Begin: epoch, Incarnation: uint32(incarnation), Store: storeID, Counter: uint64(tx) + 1})
}

func txOf(x xid.ID) uint8 { return uint8(x.Parts().Counter) - 1 }

// begin makes a machine from a root.
func (s *start) begin(ms *machines) *core.Machine {
	m := core.New(ms.config(s.incarnation))
	for i := range s.txs.txs {
		if t := s.txs.txs[i]; !t.XID.IsZero() && t.Phase != core.Finished {
			m.Restore(s.now, clone(t))
		}
	}
	return m
}

func clone(t core.Transaction) core.Transaction {
	t.Branches, t.Settlements = slices.Clone(t.Branches), slices.Clone(t.Settlements)
	return t
}

// rebuild makes the machine of a state anew.
func (ms *machines) rebuild(at id) *core.Machine {
	var way []id
	n := at
	for ms.all[n].parent >= 0 {
		way = append(way, n)
		n = id(ms.all[n].parent)
	}
	m := ms.all[n].start.begin(ms)
	ms.take(m, &ms.all[n])
	for _, n := range slices.Backward(way) {
		ms.take(m, &ms.all[n])
	}
	return m
}

// take steps a machine as its caller would.
func (ms *machines) take(m *core.Machine, to *machine) core.Output {
	if to.load != nil {
		m.Load(clone(*to.load))
	}
	out := m.Step(to.now, to.in)
	if to.load != nil {
		m.Evict(to.load.XID)
	}
	for i := range out.Finished {
		m.Evict(out.Finished[i].XID)
	}
	return out
}

// intern finds or makes the state that a machine is in.
func (ms *machines) intern(m *core.Machine, st machine, out core.Output) id {
	key := string(rune(st.tail)) + canonical(m, st.now, st.tail)
	if n, ok := ms.byKey[key]; ok {
		return n
	}
	n := id(len(ms.all))
	ms.byKey[key] = n
	st.soon = !out.Wake.IsZero() && out.Wake.Sub(st.now) < unit/2
	st.due = out.Wake
	deadline, ok := nextDeadline(m, st.now)
	st.expire = ok && deadline.After(st.now)
	for tx := range uint8(ms.scene.txs) {
		for inc := uint8(1); inc <= maxIncarnation; inc++ {
			st.known[tx] = st.known[tx] || m.Known(xidOf(tx, inc))
		}
	}
	ms.all = append(ms.all, st)
	return n
}

const maxIncarnation = 4

// boot starts a machine over a log, at the moment of the one before it.
func (ms *machines) boot(before id, incarnation uint8, log id) moved {
	key := move{before, event{in: inBoot, a: incarnation}, log}
	if r, ok := ms.moves[key]; ok {
		return r
	}
	now := epoch
	if incarnation > 1 {
		now = ms.all[before].now
	}
	st := machine{parent: -1, now: now, in: core.Tick{}, start: &start{uint32(incarnation), now, ms.folds[log]}}
	r := ms.guarded(func() moved {
		m := st.start.begin(ms)
		return ms.moved(m, st, ms.take(m, &st))
	})
	ms.moves[key] = r
	return r
}

// step gives what one event leads to.
func (ms *machines) step(from id, ev event, logged id) moved {
	key := move{from, ev, logged}
	if ms.all[from].known[ev.tx] || !ev.in.asks() {
		key.logged = 0 // nothing has to be loaded
	}
	if r, ok := ms.moves[key]; ok {
		return r
	}
	r := ms.guarded(func() moved {
		m, st := ms.prepare(from, ev, logged)
		return ms.moved(m, st, ms.take(m, &st))
	})
	ms.moves[key] = r
	return r
}

func (ms *machines) prepare(from id, ev event, logged id) (*core.Machine, machine) {
	m := ms.rebuild(from)
	f := &ms.all[from]
	st := machine{parent: int64(from), now: f.now, tail: f.tail}
	switch ev.in { //nolint:exhaustive // time passes with these alone
	case inShortWait:
		st.now = f.now.Add(shortWait)
	case inDeadline:
		st.now, _ = nextDeadline(m, f.now)
	}
	st.in = ms.scene.input(m, st.now, ev)
	if t := ms.folds[logged].at(ev.tx); ev.in.asks() && !f.known[ev.tx] && t.Phase == core.Finished && t.XID == ev.xid() {
		t := clone(*t)
		st.load = &t
	}
	return m, st
}

// guarded takes a panic of the core for what it is.
func (ms *machines) guarded(f func() moved) (r moved) {
	defer func() {
		if p := recover(); p != nil {
			r.bad = fmt.Sprint("the core panics: ", p)
		}
	}()
	return f()
}

// moved interns what a step gave. The machine's last output is still valid.
func (ms *machines) moved(m *core.Machine, st machine, out core.Output) (r moved) {
	st.tail += len(out.Records)
	r.rec = ms.internBatch(out.Records, st.now)
	for _, b := range out.Messages {
		msg, ok, bad := ms.scene.message(b.Body)
		if bad != "" {
			r.bad = bad
		}
		if !ok {
			continue
		}
		h := held{m: msg}
		h.need = b.Need > 0 && int(m.LSN()-b.Need) < st.tail
		r.msgs = append(r.msgs, h)
	}
	before := len(ms.all)
	r.to = ms.intern(m, st, out)
	if ms.compare > 0 && len(ms.all) == before {
		if ms.ways++; ms.ways%ms.compare == 0 {
			ms.compared++
			r.bad = ms.differ(m, st.now, r.to)
		}
	}
	return r
}

// differ leads two machines with one canonical form through the same random inputs, and
// says where they differ: then the canonical form leaves out something that matters.
func (ms *machines) differ(a *core.Machine, now time.Time, known id) string {
	b := ms.rebuild(known)
	times := [2]time.Time{now, ms.all[known].now}
	tails := [2]int{ms.all[known].tail, ms.all[known].tail}
	rng := rand.New(rand.NewPCG(uint64(ms.ways), 1))
	var did []event
	for range 12 {
		ev := event{
			in: inRegister + inKind(rng.IntN(int(inDeadline))), tx: uint8(rng.IntN(ms.scene.txs)), inc: 1,
			br: uint8(rng.IntN(len(ms.scene.branches))), a: uint8(1 + rng.IntN(2)), b: uint8(rng.IntN(2)),
		}
		if ev.in == inCalled && ms.scene.branches[0].plan == nil {
			continue
		}
		did = append(did, ev)
		var forms [2]string
		for i, m := range []*core.Machine{a, b} {
			st := machine{now: times[i].Add(shortWait)}
			if d, ok := nextDeadline(m, times[i]); ok && ev.in == inDeadline {
				st.now = d
			}
			times[i] = st.now
			st.in = ms.scene.input(m, st.now, ev)
			out := ms.take(m, &st)
			tails[i] += len(out.Records)
			c := canon{now: st.now, end: m.LSN()}
			c.value(reflect.ValueOf(out.Records))
			var said []string // in whatever order: that of a lane is left out, too
			for _, b := range out.Messages {
				msg, _, _ := ms.scene.message(b.Body)
				said = append(said, fmt.Sprint(msg, b.Need > 0 && int(m.LSN()-b.Need) < tails[i]))
			}
			slices.Sort(said)
			c.value(reflect.ValueOf(said))
			forms[i] = string(c.buf) + canonical(m, st.now, tails[i])
		}
		if forms[0] != forms[1] {
			return fmt.Sprintf("two machines with one canonical form differ after %+v", did)
		}
	}
	return ""
}

// flushed is the state once the log is durable: the machine does not notice, but its
// positions do not matter any more.
func (ms *machines) flushed(from id) id {
	key := move{from: from, ev: event{in: inFlushed}}
	if r, ok := ms.moves[key]; ok {
		return r.to
	}
	st := ms.all[from]
	st.tail = 0
	n := ms.intern(ms.rebuild(from), st, core.Output{Wake: st.due})
	ms.moves[key] = moved{to: n}
	return n
}

func (ms *machines) internBatch(records []core.Record, now time.Time) id {
	if len(records) == 0 {
		return 0
	}
	key := canonicalOf(records, now)
	n, ok := ms.batchByKey[key]
	if !ok {
		n = id(len(ms.batches))
		ms.batchByKey[key] = n
		ms.batches = append(ms.batches, slices.Clone(records))
	}
	return n
}

func (ms *machines) internFold(f folded) id {
	key := canonicalOf(f.txs, epoch)
	n, ok := ms.foldByKey[key]
	if !ok {
		n = id(len(ms.folds))
		ms.foldByKey[key] = n
		ms.folds = append(ms.folds, f)
	}
	return n
}

// fold adds a batch to a log.
func (ms *machines) fold(log, batch id) id {
	key := [2]id{log, batch}
	if n, ok := ms.folding[key]; ok {
		return n
	}
	f := ms.folds[log]
	for i := range f.txs {
		f.txs[i] = clone(f.txs[i])
	}
	for _, r := range ms.batches[batch] {
		if err := core.Fold(f.at(txOf(r.XID)), r); err != nil {
			panic(err)
		}
	}
	n := ms.internFold(f)
	ms.folding[key] = n
	return n
}
