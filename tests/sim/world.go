package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// The streams of a run.
const (
	partWorld uint64 = iota
	partNet
	partJobs
	partFaults
	partNode
	partRestore
	partAbout
	partFailOver
	partRelay
)

// Options change a run. The zero value is what the tests use.
type Options struct {
	// Planted is a fault of the code under test; empty: none. See Planted.
	Planted string
	// PromisesOnly leaves out the checks of rules that the promises rest on, such as
	// that nothing is told before it is durable.
	PromisesOnly bool
	// Trace keeps what happens as text.
	Trace bool
	// Restore has the store of a coordinator replaced by an older copy of it. What the
	// copy does not know can't be carried out, so such a run does not go on to its end.
	Restore bool
	// Adopt has an operator adopt that copy some time later, and the run go on to its end.
	Adopt bool
	// FailOver has databases fail over to replicas that lack their newest commits.
	FailOver bool

	// Jobs and Busy multiply what happens in a run: how many jobs there are, and for how
	// long they begin and faults happen. With Busy alone there is more of both, and as
	// much at a time.
	Jobs, Busy int

	// What shrinking leaves out.
	without map[string]bool
}

// Result is what became of a run.
type Result struct {
	Seed   uint64
	Hash   uint64 // of everything that happened
	Events int
	Time   time.Duration // that passed in the run
	Counts map[string]int
	Trace  []string
	Err    error // the promise that was broken; nil: none
}

// ErrBroken is wrapped by every error of a run.
var ErrBroken = errors.New("a promise is broken")

// world is one run: all nodes, the network, what happens to them, and the oracle.
type world struct {
	scheduler
	o     Options
	plant plant
	rng   *rng
	seed  uint64
	trace trace
	net   *network

	oracle   *oracle
	coords   []*coordinator
	dbs      []*database
	services []*service
	clients  []*client
	nodes    []*node

	shards    int
	families  bool // parents and children come and go all the time
	retention time.Duration
	weather   weather
	breaks    int // database connections, parts of a million and trip
	moods     int // user code
	slowDisk  map[*coordinator]time.Duration
	failDisk  map[*coordinator]bool
	jobsLeft  int
	busy      time.Duration // for so long jobs begin and faults happen
	calm      bool

	flying map[xid.ID][]core.Call // forward calls that were released; of a planted fault only
	counts map[string]int
}

const (
	mostJobs = 32 // of a run, unless Options multiply them
	busyTime = 6 * time.Second
)

const quietLimit = 5 * time.Minute

func newWorld(seed uint64, o Options) *world {
	o.Jobs, o.Busy = max(o.Jobs, 1), max(o.Busy, plantOf(o.Planted).busy())
	w := &world{
		o: o, plant: plantOf(o.Planted), rng: stream(seed, partWorld), seed: seed, trace: newTrace(o.Trace),
		slowDisk: map[*coordinator]time.Duration{}, failDisk: map[*coordinator]bool{}, counts: map[string]int{},
		busy:   time.Duration(o.Busy) * busyTime,
		flying: map[xid.ID][]core.Call{},
	}
	w.net = newNetwork(w, seed)
	w.oracle = newOracle(w)
	w.shards = w.rng.between(1, 3)
	w.retention = 10 * time.Minute
	if w.rng.below(3) == 0 {
		w.retention = 25 * time.Second
	}
	w.families = w.rng.below(3) == 0
	w.setWeather()
	for i := range w.rng.between(1, 2) {
		w.coords = append(w.coords, w.newCoordinator(i))
	}
	for i := range w.rng.between(1, 3) {
		d := w.newDatabase(i)
		for k := range accounts {
			d.put(k, row{n: start, tag: string(rune('a' + k))})
		}
		d.settleFamily()
		w.oracle.open(d)
		w.dbs = append(w.dbs, d)
	}
	for _, c := range w.coords {
		for _, d := range w.dbs {
			for range w.rng.between(1, 2) {
				w.services = append(w.services, w.newService(len(w.services), d, c))
			}
		}
	}
	for i := range w.rng.between(2, 4) {
		c := &client{node: w.newNode("tm", i), tc: w.coords[w.rng.below(len(w.coords))]}
		w.clients = append(w.clients, c)
	}
	return w
}

// setWeather draws how bad everything is in this run.
func (w *world) setWeather() {
	r := w.rng
	w.weather = weather{delay: r.during(0, 3*time.Millisecond)}
	if r.below(3) > 0 {
		w.weather.lose, w.weather.double, w.weather.slow = r.below(60_000), r.below(60_000), r.below(60_000)
	}
	if r.below(2) == 0 {
		w.breaks = r.below(30_000)
	}
	if r.below(2) == 0 {
		w.moods = r.below(300_000)
	}
	for _, off := range []struct {
		name string
		n    *int
	}{
		{"loss", &w.weather.lose}, {"doubling", &w.weather.double}, {"delays", &w.weather.slow},
		{"broken connections", &w.breaks}, {"moods", &w.moods},
	} {
		if w.o.without[off.name] {
			*off.n = 0
		}
	}
}

func (w *world) newNode(name string, i int) *node {
	n := &node{w: w, id: len(w.nodes), name: fmt.Sprintf("%s%d", name, i)}
	n.rng = stream(w.seed, partNode, uint64(n.id))
	n.clock.offset = n.rng.during(0, 200*time.Millisecond) - 100*time.Millisecond
	n.clock.drift = n.rng.between(-300, 300)
	w.nodes = append(w.nodes, n)
	return n
}

// coreConfig has short times, so that a run ends soon.
func (w *world) coreConfig() core.Config {
	return core.Config{
		RestartGrace: time.Second, CollectGrace: 100 * time.Millisecond, RetryFirst: 50 * time.Millisecond, RetryMax: time.Second,
		AnswerTimeout: 3 * time.Second, AttentionAfter: 5, Window: 4,
	}
}

// newBranchID is xid.NewBranchID, drawn from the seed.
func (p *proc) newBranchID() (b xid.BranchID) {
	binary.BigEndian.PutUint64(b[:], p.rng.next())
	binary.BigEndian.PutUint64(b[8:], p.rng.next())
	return b
}

func (w *world) databaseOf(r xid.ResourceID) *database {
	for _, d := range w.dbs {
		if d.id == r {
			return d
		}
	}
	return nil
}

// count counts what happened, for people.
func (w *world) count(what string) { w.counts[what]++ }

// fail says that a promise is broken, which ends the run.
func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, args...))
		w.trace.add(w.now, "oracle", "BROKEN: "+fmt.Sprintf(format, args...))
	}
}

// rule says that a rule is broken, which the promises rest on.
func (w *world) rule(format string, args ...any) {
	if !w.o.PromisesOnly {
		w.fail(format, args...)
	}
}

// Run plays one seed to its end.
func Run(seed uint64, o Options) Result {
	w := newWorld(seed, o)
	defer w.end()
	w.playSafely()
	return Result{Seed: seed, Hash: w.trace.hash, Events: w.steps, Time: w.now, Counts: w.counts, Trace: w.trace.lines, Err: w.failed}
}

// playSafely makes a panic, such as that of a machine that would record what Fold
// refuses, a broken promise.
func (w *world) playSafely() {
	defer func() {
		if p := recover(); p != nil {
			w.fail("panic: %v\n%s", p, debug.Stack())
		}
	}()
	w.play()
}

// end frees the coroutines.
func (w *world) end() {
	for _, n := range w.nodes {
		n.stop()
	}
}

func (w *world) play() {
	for _, c := range w.coords {
		c.boot()
	}
	for _, s := range w.services {
		s.boot()
	}
	for _, c := range w.clients {
		c.start()
	}
	for _, d := range w.dbs {
		d.relay()
	}
	for _, j := range w.plan(w.seed) {
		if w.o.without[j.name()] {
			continue
		}
		c := w.clients[j.client]
		w.jobsLeft++
		w.after(j.at, func() {
			w.jobsLeft--
			if c.up {
				w.count("jobs of kind " + kindNames[j.kind])
				c.spawnWith(j.seed+1, func(p *proc) { c.run(p, j) })
			}
		})
	}
	for _, f := range w.faults(w.seed) {
		if !w.o.without[f.name()] {
			w.after(f.at, func() {
				if !w.calm {
					w.apply(f)
				}
			})
		}
	}
	switch {
	case w.o.Adopt, w.plant == plantAdoptionUndoes:
		w.restoreOnce()
	case w.o.Restore, w.plant == plantUnmarkedCopy:
		w.restoreOnce()
		w.becalm()
		w.run(w.now+20*time.Second, func() bool { return false })
		return
	case w.o.FailOver, w.plant == plantMissingFence:
		w.failOvers()
	}
	w.run(w.busy, func() bool { return false })
	w.becalm()
	quiet, next := false, w.now
	w.run(w.now+quietLimit, func() bool {
		if w.now >= next {
			next = w.now + 100*time.Millisecond
			quiet = w.isQuiet()
		}
		return quiet
	})
	if w.failed == nil {
		w.finale(quiet)
	}
}

// restoreOnce plays a run until a store is restored, and what follows from that.
func (w *world) restoreOnce() {
	r := stream(w.seed, partRestore)
	c := w.coords[r.below(len(w.coords))]
	w.run(r.during(w.busy/4, w.busy), func() bool { return false })
	c.crash()
	c.restoreCopy(r.below(len(c.disk.log) + 1))
	c.restart()
	if !w.o.Adopt && w.plant != plantAdoptionUndoes {
		w.run(w.busy, func() bool { return false })
		return
	}
	w.oracle.accident = true
	w.jobsLeft++
	w.after(r.during(0, 8*time.Second), func() {
		w.jobsLeft--
		c.adopt()
	})
}

// failOvers draws when databases fail over, and how much their replicas lack.
func (w *world) failOvers() {
	w.oracle.accident = true
	r := stream(w.seed, partFailOver)
	for range r.between(1, 4) {
		d := w.dbs[r.below(len(w.dbs))]
		at, lag, down := r.during(w.busy/8, w.busy), r.during(time.Millisecond, 800*time.Millisecond), r.during(0, time.Second)
		w.after(at, func() {
			replica := d.replicate()
			w.after(lag, func() {
				if d.up && !w.calm {
					d.failOver(replica)
					w.after(down, d.restart)
				}
			})
		})
	}
}

func (j job) name() string { return fmt.Sprintf("job %d", j.n) }

// becalm ends all faults.
func (w *world) becalm() {
	w.calm = true
	w.trace.add(w.now, "world", "faults are over")
	w.net.heal()
	w.weather = weather{delay: 500 * time.Microsecond}
	w.breaks, w.moods = 0, 0
	clear(w.slowDisk)
	clear(w.failDisk)
	for _, d := range w.dbs {
		d.restart()
	}
	for _, c := range w.coords {
		if !c.up {
			w.after(time.Second, c.restart)
		}
	}
	for _, s := range w.services {
		s.restart()
	}
}

// diskDelay is how long a forced write takes.
func (w *world) diskDelay(c *coordinator) time.Duration {
	return c.rng.during(200*time.Microsecond, 2*time.Millisecond) + w.slowDisk[c]
}

// diskFails tells whether a write fails.
func (w *world) diskFails(c *coordinator) bool {
	fails := w.failDisk[c]
	delete(w.failDisk, c)
	return fails
}

// forwardUnderWay tells whether the forward action of a branch, or of one that comes
// after it, is being run by somebody and still waited for.
func (w *world) forwardUnderWay(m core.Call) bool {
	for _, s := range w.services {
		u, runs := s.since[callKey{branchKey{m.XID, m.Branch}, core.OpForward}]
		if runs && s.up && u.life == s.tc.life && s.tc.routes.seen[s.id] == u.session && s.tc.Now().Sub(u.at) < actionTimeout {
			return true
		}
	}
	return false
}

// isQuiet tells whether nothing is left to do.
func (w *world) isQuiet() bool { return w.jobsLeft == 0 && w.left() == "" }

// left says what is not done yet.
func (w *world) left() string {
	for _, c := range w.clients {
		if len(c.procs) > 0 {
			return fmt.Sprintf("%s has %d calls that are not answered", c.name, len(c.procs))
		}
	}
	for _, c := range w.coords {
		if !c.up {
			return c.name + " is down"
		}
		for _, s := range c.shards {
			if n := s.m.Open(); n > 0 && !w.oracle.accident || n > s.stuck() {
				return c.name + " has open transactions: " + s.describe()
			}
			if len(c.procs) > 0 {
				return c.name + " has requests of its front under way"
			}
			if len(s.pending)+len(s.queue) > 0 {
				return c.name + " has messages that have not left"
			}
		}
		if n := c.graph.Len(); n > 0 {
			return fmt.Sprintf("%s: %d wait for others", c.name, n)
		}
	}
	for _, s := range w.services {
		if len(s.procs) > 1 && !w.oracle.accident { // the janitor, and calls that can't succeed
			return fmt.Sprintf("%s is at work (%d)", s.name, len(s.procs))
		}
	}
	for _, d := range w.dbs {
		if l := d.left(); l != "" {
			return d.name + " " + l
		}
	}
	return ""
}

// stuck gives how many open transactions can't end, and show it.
func (s *shard) stuck() int {
	all := s.m.Newest(xid.ID{}, 1000, func(t *core.Transaction) bool { return s.c.w.oracle.stuck(t) })
	for i := range all {
		if h := s.c.w.oracle.txs[all[i].XID]; h != nil {
			h.stuck = true
		}
	}
	return len(all)
}

func (d *database) left() string {
	if d.w.oracle.accident {
		return d.leftAfterAccident()
	}
	switch {
	case len(d.open) > 0:
		return fmt.Sprintf("has %d open local transactions", len(d.open))
	case len(d.prepared) > 0:
		return "has a prepared transaction of " + short(d.prepared[0].x)
	case len(d.undo) > 0:
		return "has intents of " + short(d.undo[0].x)
	case len(d.gate) > 0:
		return "has keys that are owned by somebody"
	case len(d.locks) > 0:
		return "has locks"
	case len(d.procs) > 0:
		return "is at work"
	}
	left := slices.Collect(func(yield func(branchKey) bool) {
		for k, f := range d.fence {
			if f.state == 'L' && !yield(k) {
				return
			}
		}
	})
	if len(left) > 0 {
		k := slices.MinFunc(left, func(a, b branchKey) int { return slices.Compare(a.b[:], b.b[:]) })
		return "has a live fence of " + short(k.x)
	}
	return ""
}

// leftAfterAccident does not count what nobody can decide, and is told.
func (d *database) leftAfterAccident() string {
	behind := d.w.oracle.leftBehind
	for _, l := range d.prepared {
		if !behind(l.x) {
			return "has a prepared transaction of " + short(l.x)
		}
	}
	for _, u := range d.undo {
		if !behind(u.x) {
			return "has intents of " + short(u.x)
		}
	}
	for _, x := range d.pending(0) {
		if !behind(x) {
			return "has a live fence of " + short(x)
		}
	}
	return ""
}

// describe shows one open transaction of a shard.
func (s *shard) describe() string {
	all := s.m.Newest(xid.ID{}, 1, func(t *core.Transaction) bool { return t.Phase != core.Finished })
	if len(all) == 0 {
		return "none"
	}
	t := all[0]
	text := fmt.Sprintf("%s phase %d outcome %s", short(t.XID), t.Phase, outcomeNames[t.Outcome])
	for _, b := range t.Branches {
		text += fmt.Sprintf("; branch %s mode %d vote %s %s", b.ID.String()[:6], b.Mode, voteNames[b.Vote], b.Forward.LastError)
	}
	for _, x := range t.Settlements {
		text += fmt.Sprintf("; settlement %s done %v: %s", x.Resource.String()[:4], x.Done, x.LastError)
	}
	return text
}
