package waits

import (
	"bytes"
	"errors"
	"slices"

	"github.com/handfast/handfast/xid"
)

// ErrFull means: there are as many waits as the graph may hold.
var ErrFull = errors.New("waits: too many")

// Token names one wait; it must be comparable and is used once at a time.
type Token any

// Wait is one unanswered request.
type Wait struct {
	Token  Token
	Waiter xid.ID
	Holder xid.ID
}

// Graph is who waits for whom. It is not safe for concurrent use.
type Graph struct {
	limit   int
	waits   map[Token]Wait
	nodes   map[xid.ID]*node
	parents map[xid.ID]xid.ID // by child
}

// node is a transaction that waits for something.
type node struct {
	waits    []Wait   // in the order in which they began
	children []xid.ID // in the order in which they began
	// gone: it is decided or about to be, so it holds up nobody any more. Its
	// waits stay until they have been ended.
	gone bool
}

// New makes an empty graph that holds at most limit waits.
func New(limit int) *Graph {
	return &Graph{
		limit: limit, waits: make(map[Token]Wait),
		nodes: make(map[xid.ID]*node), parents: make(map[xid.ID]xid.ID),
	}
}

// Len counts the waits.
func (g *Graph) Len() int { return len(g.waits) }

// Begin notes that w.Waiter waits for w.Holder, and gives the cycles which that
// closes, each broken by its victim: from now on a victim counts as decided. It
// fails with ErrFull.
func (g *Graph) Begin(w Wait) ([]Cycle, error) {
	if len(g.waits) >= g.limit {
		return nil, ErrFull
	}
	g.End(w.Token)
	g.waits[w.Token] = w
	n := g.node(w.Waiter)
	n.waits = append(n.waits, w)
	var found []Cycle
	for !n.gone {
		path := g.path(w.Holder, w.Waiter)
		if path == nil {
			break
		}
		c := g.judge(path)
		g.nodes[c.Victim].gone = true
		found = append(found, c)
	}
	return found, nil
}

// End forgets a wait; one that is not there is none.
func (g *Graph) End(t Token) {
	w, ok := g.waits[t]
	if !ok {
		return
	}
	delete(g.waits, t)
	n := g.nodes[w.Waiter]
	n.waits = slices.DeleteFunc(n.waits, func(o Wait) bool { return o.Token == t })
	g.tidy(w.Waiter)
}

// Child notes that parent has begun child and waits for it until it is decided.
func (g *Graph) Child(parent, child xid.ID) {
	if parent == child || !g.parents[child].IsZero() {
		return
	}
	g.parents[child] = parent
	n := g.node(parent)
	n.children = append(n.children, child)
}

// Decided notes that a transaction is decided: it waits for nothing any more,
// and its parent not for it. Its waits stay to be ended.
func (g *Graph) Decided(id xid.ID) {
	if parent, ok := g.parents[id]; ok {
		delete(g.parents, id)
		n := g.nodes[parent]
		n.children = slices.DeleteFunc(n.children, func(c xid.ID) bool { return c == id })
		g.tidy(parent)
	}
	if n := g.nodes[id]; n != nil {
		n.gone = true
		for _, c := range n.children {
			delete(g.parents, c)
		}
		n.children = nil
		g.tidy(id)
	}
}

// Of gives the waits of a transaction, in the order in which they began.
func (g *Graph) Of(id xid.ID) []Wait {
	if n := g.nodes[id]; n != nil {
		return slices.Clone(n.waits)
	}
	return nil
}

// Reach gives at most limit transactions that hold one up, directly and through
// others, the nearest first.
func (g *Graph) Reach(id xid.ID, limit int) []xid.ID {
	found := []xid.ID{id}
	seen := map[xid.ID]bool{id: true}
	for i := 0; i < len(found) && len(found) <= limit; i++ {
		g.each(found[i], func(next xid.ID) {
			if !seen[next] && len(found) <= limit {
				seen[next] = true
				found = append(found, next)
			}
		})
	}
	return found[1:]
}

// each calls f for everybody who holds up a transaction.
func (g *Graph) each(id xid.ID, f func(xid.ID)) {
	n := g.nodes[id]
	if n == nil || n.gone {
		return
	}
	for _, w := range n.waits {
		f(w.Holder)
	}
	for _, c := range n.children {
		f(c)
	}
}

func (g *Graph) node(id xid.ID) *node {
	n := g.nodes[id]
	if n == nil {
		n = &node{}
		g.nodes[id] = n
	}
	return n
}

// tidy forgets a node that waits for nothing.
func (g *Graph) tidy(id xid.ID) {
	if n := g.nodes[id]; len(n.waits)+len(n.children) == 0 {
		delete(g.nodes, id)
	}
}

// path gives a shortest way from one transaction to another over those that
// hold somebody up, both ends included; nil where there is none.
func (g *Graph) path(from, to xid.ID) []xid.ID {
	came := map[xid.ID]xid.ID{from: {}}
	for queue := []xid.ID{from}; len(queue) > 0; queue = queue[1:] {
		id := queue[0]
		if id == to {
			var path []xid.ID
			for ; !id.IsZero(); id = came[id] {
				path = append(path, id)
			}
			slices.Reverse(path)
			return path
		}
		g.each(id, func(next xid.ID) {
			if _, seen := came[next]; !seen {
				came[next] = id
				queue = append(queue, next)
			}
		})
	}
	return nil
}

// judge makes a cycle of a path whose last waits for its first. The victim is
// the youngest that has an unanswered wait in it: a parent that only called its
// child has none, and rolling it back would free nothing at once.
func (g *Graph) judge(path []xid.ID) Cycle {
	var c Cycle
	for i, id := range path {
		next := path[(i+1)%len(path)]
		s := Step{XID: id, Child: !slices.ContainsFunc(g.nodes[id].waits, func(w Wait) bool { return w.Holder == next })}
		if !s.Child && bytes.Compare(id[:], c.Victim[:]) > 0 {
			c.Victim = id
		}
		c.Steps = append(c.Steps, s)
	}
	return c
}
