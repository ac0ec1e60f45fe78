package adya

import (
	"fmt"
	"slices"
	"strings"
)

// dependency is why a transaction comes after another one.
type dependency uint8

const (
	ww dependency = 1 << iota
	wr
	rw
)

// edge is a dependency between two committed transactions, with its reason.
type edge struct {
	from, to int
	kind     dependency
	why      string
}

// graph has the committed transactions, and what orders them.
type graph struct {
	v    *versions
	out  [][]edge
	seen map[[3]int]bool
	told map[string]bool // cycles
}

func newGraph(v *versions) *graph {
	g := &graph{v: v, out: make([][]edge, len(v.h.Txns)), seen: map[[3]int]bool{}, told: map[string]bool{}}
	for i := range v.h.Txns {
		if v.outcome(i) != Committed {
			continue
		}
		for _, op := range v.h.Txns[i].Ops {
			if op.Write != 0 {
				g.addWrite(i, op)
			} else {
				g.addRead(i, op)
			}
		}
	}
	return g
}

func (g *graph) add(from, to int, k dependency, format string, args ...any) {
	id := [3]int{from, to, int(k)}
	if from == to || g.v.outcome(from) != Committed || g.v.outcome(to) != Committed || g.seen[id] {
		return
	}
	g.seen[id] = true
	g.out[from] = append(g.out[from], edge{from, to, k, fmt.Sprintf(format, args...)})
}

func (g *graph) name(i int) string { return g.v.h.Txns[i].Name }

// addWrite orders a write behind the committed version that it replaced.
func (g *graph) addWrite(i int, op Op) {
	ver := g.v.all[at{op.Key, op.Write}]
	if ver == nil {
		return
	}
	under := g.v.all[at{op.Key, ver.over}]
	for under != nil && g.v.outcome(under.writer) != Committed {
		under = g.v.all[at{op.Key, under.over}]
	}
	if under != nil {
		g.add(under.writer, i, ww, "%s replaced %d of %s in %s by %d", g.name(i), under.value, g.name(under.writer), op.Key, op.Write)
	}
}

// addRead orders a read behind what it saw, and before what replaced that.
func (g *graph) addRead(i int, op Op) {
	value := 0
	if ver := g.v.read(op.Key, op.List); ver != nil {
		if g.v.outcome(ver.writer) != Committed {
			return
		}
		value = ver.value
		g.add(ver.writer, i, wr, "%s read %d of %s in %s", g.name(i), value, g.name(ver.writer), op.Key)
	} else if len(op.List) > 0 {
		return
	}
	for _, next := range g.v.after(op.Key, value) {
		g.add(i, next.writer, rw, "%s read %v in %s, which %s then replaced by %d", g.name(i), op.List, op.Key, g.name(next.writer), next.value)
	}
}

// check looks for each kind of cycle, the strictest first. An edge that is in a cycle of
// one kind is not reported again for a weaker one.
func (g *graph) check() {
	for i := range g.out {
		for _, e := range g.out[i] {
			switch e.kind {
			case ww:
				g.report(G0, e, ww)
			case wr:
				g.report(G1c, e, ww|wr)
			case rw:
				if !g.report(GSingle, e, ww|wr) {
					g.report(G2, e, ww|wr|rw)
				}
			}
		}
	}
}

// report finds the shortest way back from an edge over those of some kinds.
func (g *graph) report(k Kind, e edge, over dependency) bool {
	way := g.path(e.to, e.from, over)
	if way == nil {
		return false
	}
	names, story := []string{g.name(e.from)}, []string{e.why}
	for _, s := range way {
		names = append(names, g.name(s.from))
		story = append(story, s.why)
	}
	f := g.v.found
	who := slices.Clone(names)
	slices.Sort(who)
	id := string(k) + ": " + strings.Join(who, " ")
	if g.told[id] {
		return true // the same cycle, from another edge
	}
	g.told[id] = true
	before := len(f.all)
	f.add(k, "%s", strings.Join(story, "; "))
	if len(f.all) > before {
		f.all[before].Txns = names
	}
	return true
}

// path is the shortest one, breadth first.
func (g *graph) path(from, to int, over dependency) []edge {
	came := map[int]edge{}
	queue := []int{from}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		for _, e := range g.out[n] {
			if _, ok := came[e.to]; ok || e.kind&over == 0 || e.to == from {
				continue
			}
			came[e.to] = e
			if e.to == to {
				var way []edge
				for at := to; at != from; at = came[at].from {
					way = append(way, came[at])
				}
				slices.Reverse(way)
				return way
			}
			queue = append(queue, e.to)
		}
	}
	return nil
}
