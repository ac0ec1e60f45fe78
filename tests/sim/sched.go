package sim

import (
	"container/heap"
	"errors"
	"iter"
	"slices"
	"time"
)

// scheduler is virtual time and the one queue. Nothing happens but by an event of the
// queue, one at a time; events of the same moment happen in the order in which they
// were put in.
type scheduler struct {
	now    time.Duration // since the start of the run
	queue  eventHeap
	count  uint64
	steps  int
	failed error // the first broken promise; ends the run
}

type event struct {
	at   time.Duration
	n    uint64
	node *node  // nil: nobody's
	life uint32 // of node: an event of an earlier life does not happen
	run  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].n < h[j].n
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// after has something happen later, whatever becomes of the nodes.
func (s *scheduler) after(d time.Duration, run func()) { s.put(d, nil, run) }

func (s *scheduler) put(d time.Duration, n *node, run func()) {
	e := event{at: s.now + max(d, 0), n: s.count, node: n, run: run}
	if n != nil {
		e.life = n.life
	}
	s.count++
	heap.Push(&s.queue, e)
}

// run takes events until there is none before the given moment, or stop says so.
func (s *scheduler) run(until time.Duration, stop func() bool) {
	for len(s.queue) > 0 && s.failed == nil && !stop() {
		if s.queue[0].at > until {
			break
		}
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		if e.node != nil && (!e.node.up || e.node.life != e.life) {
			continue
		}
		s.steps++
		e.run()
	}
	if s.failed == nil && s.now < until && !stop() {
		s.now = until
	}
}

// node is a process, or a database server. It lives, crashes, and lives again.
type node struct {
	w     *world
	id    int
	name  string
	up    bool
	life  uint32 // counts starts
	clock clock
	procs []*proc
	rng   *rng
}

// after has something happen later if the node is still in the same life then.
func (n *node) after(d time.Duration, run func()) { n.w.put(d, n, run) }

// note adds to the trace.
func (n *node) note(what string, args ...any) { n.w.trace.add(n.w.now, n.name, what, args...) }

// start begins a life.
func (n *node) start() {
	n.up = true
	n.life++
}

// stop ends a life: nothing of it goes on. It must not be called by a proc of the node
// itself.
func (n *node) stop() {
	n.up = false
	n.life++
	all := n.procs
	n.procs = nil
	for _, p := range all {
		p.kill()
	}
}

// proc is sequential code of a node, as a coroutine: exactly one runs at a time, and
// only between two events of the queue.
type proc struct {
	n     *node
	rng   *rng
	yield func(struct{}) bool
	next  func() (struct{}, bool)
	end   func()
	turn  uint64 // counts parks
}

// errKilled unwinds a proc whose node has crashed.
var errKilled = errors.New("killed")

// spawn starts a proc with the next event.
func (n *node) spawn(f func(p *proc)) { n.spawnWith(n.rng.next(), f) }

// spawnWith starts a proc that draws from a stream of its own: what it is part of, such
// as a job, goes on as it did when something else is left out of a run.
func (n *node) spawnWith(seed uint64, f func(p *proc)) {
	p := &proc{n: n, rng: stream(seed)}
	p.next, p.end = iter.Pull(func(yield func(struct{}) bool) {
		p.yield = yield
		defer func() {
			if r := recover(); r != nil && r != any(errKilled) {
				panic(r)
			}
		}()
		f(p)
	})
	n.procs = append(n.procs, p)
	n.after(0, p.resume)
}

func (p *proc) resume() {
	if _, more := p.next(); more {
		return
	}
	if i := slices.Index(p.n.procs, p); i >= 0 {
		last := len(p.n.procs) - 1
		p.n.procs[i] = p.n.procs[last]
		p.n.procs[last] = nil
		p.n.procs = p.n.procs[:last]
	}
}

func (p *proc) kill() { p.end() }

// park waits until a waker that was made before is called.
func (p *proc) park() {
	if !p.yield(struct{}{}) {
		panic(errKilled)
	}
	p.turn++
}

// waker gives what ends the next park. Later calls of it, and those after another waker
// of the same park, do nothing.
func (p *proc) waker() func() {
	turn, called := p.turn, false
	return func() {
		if p.turn != turn || called {
			return
		}
		called = true
		p.n.after(0, func() {
			if p.turn == turn {
				p.resume()
			}
		})
	}
}

// sleep lets time pass.
func (p *proc) sleep(d time.Duration) {
	turn := p.turn
	p.n.after(d, func() {
		if p.turn == turn {
			p.resume()
		}
	})
	p.park()
}

// nap sleeps for a time that it draws.
func (p *proc) nap(lo, hi time.Duration) { p.sleep(p.rng.during(lo, hi)) }
