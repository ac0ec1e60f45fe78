package waits_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/waits"
	"github.com/handfast/handfast/xid"
)

// id makes the n-th transaction, later ones younger.
func id(n int) xid.ID {
	return xid.New(xid.Parts{Begin: time.UnixMilli(1_700_000_000_000 + int64(n)), Incarnation: 1, Store: xid.StoreID{1}, Counter: uint64(n)})
}

func begin(t *testing.T, g *waits.Graph, waiter, holder int) []waits.Cycle {
	t.Helper()
	cs, err := g.Begin(waits.Wait{Token: fmt.Sprint(waiter, "-", holder), Waiter: id(waiter), Holder: id(holder)})
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func TestTheYoungestOfACycleIsItsVictim(t *testing.T) {
	t.Parallel()
	g := waits.New(10)
	for _, e := range [][2]int{{1, 3}, {3, 2}} {
		if cs := begin(t, g, e[0], e[1]); len(cs) > 0 {
			t.Fatalf("%v closes %v", e, cs)
		}
	}
	cs := begin(t, g, 2, 1)
	if len(cs) != 1 || cs[0].Victim != id(3) {
		t.Fatalf("got %v", cs)
	}
	want := fmt.Sprintf("%s waits for %s, which waits for %s, which waits for %s", id(1), id(3), id(2), id(1))
	if cs[0].String() != want {
		t.Errorf("got  %s\nwant %s", cs[0], want)
	}
	// The victim is as good as decided: it closes no other cycle.
	if cs := begin(t, g, 4, 3); len(cs) > 0 {
		t.Errorf("got %v", cs)
	}
	g.Decided(id(3))
	if ws := g.Of(id(3)); len(ws) != 1 || ws[0].Holder != id(2) {
		t.Errorf("its waits are %v", ws)
	}
}

func TestAParentWaitsForItsChildButIsNoVictim(t *testing.T) {
	t.Parallel()
	g := waits.New(10)
	g.Child(id(1), id(2))
	cs := begin(t, g, 2, 1)
	if len(cs) != 1 || cs[0].Victim != id(2) || !strings.Contains(cs[0].String(), "waits for its child "+id(2).String()) {
		t.Fatalf("got %v", cs)
	}
	// With a younger parent in between it is still not the one.
	g = waits.New(10)
	g.Child(id(8), id(9))
	begin(t, g, 9, 3)
	g.Decided(id(9)) // whatever it waited for
	if cs := begin(t, g, 3, 8); len(cs) > 0 {
		t.Fatalf("a decided child is still waited for: %v", cs)
	}
	g = waits.New(10)
	g.Child(id(8), id(5))
	begin(t, g, 5, 3)
	if cs := begin(t, g, 3, 8); len(cs) != 1 || cs[0].Victim != id(5) {
		t.Fatalf("got %v", cs)
	}
}

func TestALongCycleHasABoundedText(t *testing.T) {
	t.Parallel()
	const n = 5000
	g := waits.New(n)
	for i := 1; i < n; i++ {
		begin(t, g, i, i+1)
	}
	cs := begin(t, g, n, 1)
	if len(cs) != 1 || len(cs[0].Steps) != n || cs[0].Victim != id(n) {
		t.Fatalf("got %d cycles", len(cs))
	}
	if s := cs[0].String(); len(s) > 1000 || !strings.HasSuffix(s, "back to "+id(1).String()) {
		t.Errorf("%d bytes: %s", len(s), s)
	}
}

func TestReachGivesTheNearestFirst(t *testing.T) {
	t.Parallel()
	g := waits.New(10)
	begin(t, g, 1, 2)
	begin(t, g, 1, 3)
	begin(t, g, 2, 4)
	g.Child(id(3), id(5))
	begin(t, g, 5, 4)
	begin(t, g, 4, 6)
	for limit, want := range map[int][]xid.ID{
		100: {id(2), id(3), id(4), id(5), id(6)}, 3: {id(2), id(3), id(4)}, 1: {id(2)},
	} {
		if got := g.Reach(id(1), limit); !slices.Equal(got, want) {
			t.Errorf("up to %d: got %v, want %v", limit, got, want)
		}
	}
	g.Decided(id(4))
	if got := g.Reach(id(5), 100); !slices.Equal(got, []xid.ID{id(4)}) {
		t.Errorf("it waits for those of a decided one, too: %v", got)
	}
	if got := g.Reach(id(9), 100); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestTheGraphIsBounded(t *testing.T) {
	t.Parallel()
	g := waits.New(2)
	begin(t, g, 1, 2)
	begin(t, g, 3, 4)
	if _, err := g.Begin(waits.Wait{Token: "x", Waiter: id(5), Holder: id(6)}); !errors.Is(err, waits.ErrFull) {
		t.Errorf("got %v", err)
	}
	g.End("1-2")
	g.End("1-2")
	begin(t, g, 5, 6)
	g.End("3-4")
	g.End("5-6")
	if g.Len() != 0 {
		t.Errorf("%d waits are left", g.Len())
	}
}

// naive is the same graph as lists, searched by trying every way.
type naive struct {
	waits    []waits.Wait
	children [][2]xid.ID
	gone     map[xid.ID]bool
}

func (n *naive) next(from xid.ID) (to []xid.ID) {
	if n.gone[from] {
		return nil
	}
	for _, w := range n.waits {
		if w.Waiter == from {
			to = append(to, w.Holder)
		}
	}
	for _, c := range n.children {
		if c[0] == from {
			to = append(to, c[1])
		}
	}
	return to
}

// cyclic tells whether some transaction comes back to itself.
func (n *naive) cyclic() bool {
	for _, w := range n.waits {
		seen := map[xid.ID]bool{}
		var reach func(xid.ID) bool
		reach = func(at xid.ID) bool {
			for _, to := range n.next(at) {
				if to == w.Waiter {
					return true
				}
				if !seen[to] {
					seen[to] = true
					if reach(to) {
						return true
					}
				}
			}
			return false
		}
		if reach(w.Waiter) {
			return true
		}
	}
	return false
}

func (n *naive) waitsFor(a, b xid.ID) bool {
	return slices.ContainsFunc(n.waits, func(w waits.Wait) bool { return w.Waiter == a && w.Holder == b })
}

// judge checks one cycle and breaks it.
func (n *naive) judge(t *testing.T, c waits.Cycle) {
	t.Helper()
	var victim xid.ID
	for i, s := range c.Steps {
		next := c.Steps[(i+1)%len(c.Steps)].XID
		if !slices.Contains(n.next(s.XID), next) {
			t.Fatalf("%s does not wait for %s", s.XID, next)
		}
		if s.Child == n.waitsFor(s.XID, next) {
			t.Fatalf("%s: child %v", s.XID, s.Child)
		}
		if !s.Child && bytes.Compare(s.XID[:], victim[:]) > 0 {
			victim = s.XID
		}
	}
	if victim != c.Victim {
		t.Fatalf("victim %s, want %s", c.Victim, victim)
	}
	n.gone[victim] = true
}

// TestRandomGraphsAgreeWithANaiveSearch: a cycle is found exactly when there is
// one, it is real, and breaking what was found leaves none.
func TestRandomGraphsAgreeWithANaiveSearch(t *testing.T) {
	t.Parallel()
	found := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		g := waits.New(1 << 20)
		n := &naive{gone: map[xid.ID]bool{}}
		born, token := 8, 0
		for range 200 {
			some := func() xid.ID { return id(max(1, born-rng.IntN(8))) }
			switch op := rng.IntN(20); {
			case op < 10:
				token++
				w := waits.Wait{Token: token, Waiter: some(), Holder: some()}
				if n.gone[w.Waiter] { // nobody waits on its behalf any more
					continue
				}
				cs, err := g.Begin(w)
				if err != nil {
					t.Fatal(err)
				}
				n.waits = append(n.waits, w)
				if n.cyclic() != (len(cs) > 0) {
					t.Fatalf("seed %d: found %v", seed, cs)
				}
				for _, c := range cs {
					n.judge(t, c)
				}
				found += len(cs)
				if n.cyclic() {
					t.Fatalf("seed %d: a cycle is left", seed)
				}
			case op < 14 && len(n.waits) > 0:
				i := rng.IntN(len(n.waits))
				g.End(n.waits[i].Token)
				n.waits = slices.Delete(n.waits, i, i+1)
			case op < 17:
				parent := some()
				born++
				if !n.gone[parent] {
					g.Child(parent, id(born))
					n.children = append(n.children, [2]xid.ID{parent, id(born)})
				}
			default:
				x := some()
				g.Decided(x)
				n.gone[x] = true
				n.children = slices.DeleteFunc(n.children, func(c [2]xid.ID) bool { return c[1] == x || c[0] == x })
				// As the engine does once that is durable.
				for _, w := range g.Of(x) {
					g.End(w.Token)
				}
				n.waits = slices.DeleteFunc(n.waits, func(w waits.Wait) bool { return w.Waiter == x })
				// Nobody waits on behalf of what is decided.
				born++
			}
			if g.Len() != len(n.waits) {
				t.Fatalf("seed %d: %d waits, want %d", seed, g.Len(), len(n.waits))
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d cycles came up", found)
	}
}
