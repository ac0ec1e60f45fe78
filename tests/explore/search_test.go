package explore

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// result is what a search came to.
type result struct {
	states, steps int
	depth         int
	machines      int
	moves         int
	over          int // states in which everything is settled
	bad           string
	trace         []string
	cut           bool
}

// graph is what was found, without the states themselves: how each was first reached,
// and the steps that progress may rest on.
type graph struct {
	seeds [2]maphash.Seed
	index map[[2]uint64]uint32
	from  []uint32
	by    []act
	first []uint64 // where the steps of a state begin in next
	next  []uint32
	over  []bool
}

func (g *graph) find(key []byte) (n uint32, isNew bool) {
	h := [2]uint64{maphash.Bytes(g.seeds[0], key), maphash.Bytes(g.seeds[1], key)}
	n, ok := g.index[h]
	if !ok {
		n = uint32(len(g.from))
		g.index[h] = n
	}
	return n, !ok
}

func (g *graph) add(from uint32, by act, over bool) {
	g.from = append(g.from, from)
	g.by = append(g.by, by)
	g.over = append(g.over, over)
}

// search visits every state within the bounds, nearest first, so that what it finds has a
// shortest trace. It stops at the first broken promise, and after limit states, if that
// is not zero.
func (e *explorer) search(limit int) (r result) {
	g := &graph{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, index: map[[2]uint64]uint32{}}
	w := e.first()
	var buf []byte
	buf = w.key(buf)
	g.find(buf)
	g.add(0, act{}, e.rules.over(w))
	level := []*world{w}
	n := uint32(0)
	for len(level) > 0 {
		var below []*world
		for i, w := range level {
			level[i] = nil
			g.first = append(g.first, uint64(len(g.next)))
			for _, s := range e.expand(w) {
				r.steps++
				if s.w.bad != "" {
					r.bad = s.w.bad
					r.trace = append(g.trace(n), s.act.String())
					return e.sum(r, g)
				}
				buf = s.w.key(buf)
				to, isNew := g.find(buf)
				if isNew {
					g.add(n, s.act, e.rules.over(s.w))
					below = append(below, s.w)
				}
				if !s.fault {
					g.next = append(g.next, to)
				}
			}
			n++
			if limit > 0 && int(n) >= limit {
				r.cut = true
				return e.sum(r, g)
			}
		}
		level = below
		r.depth++
	}
	g.first = append(g.first, uint64(len(g.next)))
	if at, ok := g.stuck(); ok {
		r.bad = "from here nothing leads to a state in which everything is settled"
		r.trace = g.trace(at)
	}
	return e.sum(r, g)
}

func (e *explorer) sum(r result, g *graph) result {
	r.states, r.machines, r.moves = len(g.from), len(e.ms.all), len(e.ms.moves)
	for _, o := range g.over {
		if o {
			r.over++
		}
	}
	return r
}

// trace is the way to a state.
func (g *graph) trace(n uint32) (out []string) {
	for ; n != 0; n = g.from[n] {
		out = append([]string{g.by[n].String()}, out...)
	}
	return out
}

// stuck finds the nearest state from which no steps but faults lead to the end: a
// deadlock, or a livelock that no fairness ends.
func (g *graph) stuck() (at uint32, found bool) {
	n := len(g.from)
	count := make([]uint32, n+1)
	for _, to := range g.next {
		count[to+1]++
	}
	for i := range n {
		count[i+1] += count[i]
	}
	back := make([]uint32, len(g.next))
	fill := append([]uint32(nil), count...)
	for i := range n {
		for _, to := range g.next[g.first[i]:g.first[i+1]] {
			back[fill[to]] = uint32(i)
			fill[to]++
		}
	}
	good := make([]bool, n)
	var todo []uint32
	for i, o := range g.over {
		if o {
			good[i] = true
			todo = append(todo, uint32(i))
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, p := range back[count[i]:count[i+1]] {
			if !good[p] {
				good[p] = true
				todo = append(todo, p)
			}
		}
	}
	for i, ok := range good {
		if !ok {
			return uint32(i), true
		}
	}
	return 0, false
}

func (r result) String() string {
	cut := map[bool]string{true: " (cut, whether the end can be reached was not looked at)"}[r.cut]
	return fmt.Sprintf("%d states, %d steps, depth %d%s, %d of them settled; %d states of the core, %d steps of the core",
		r.states, r.steps, r.depth, cut, r.over, r.machines, r.moves)
}

func (r result) story() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, after %d states:\n", r.bad, r.states)
	for i, s := range r.trace {
		fmt.Fprintf(&b, "  %2d %s\n", i+1, s)
	}
	return b.String()
}
