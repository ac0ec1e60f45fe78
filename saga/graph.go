package saga

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

// graph is who comes after whom. Steps are known by their index.
type graph struct {
	d       *Definition
	after   [][]int  // as the definition says
	direct  [][]int  // as the coordinator is told
	order   []int    // every step behind those that it comes after
	earlier [][]bool // earlier[i][j]: j comes before i, directly or not
	pivot   int      // -1: none
}

func (d *Definition) graph() (*graph, error) {
	n := len(d.steps)
	g := &graph{d: d, after: make([][]int, n), direct: make([][]int, n), earlier: make([][]bool, n)}
	g.pivot = slices.IndexFunc(d.steps, func(s step) bool { return s.pivot })
	for i, s := range d.steps {
		switch {
		case s.after == nil && !d.parallel && i > 0:
			g.after[i] = []int{i - 1}
		default:
			for _, a := range s.after {
				if j := d.find(a); !slices.Contains(g.after[i], j) {
					g.after[i] = append(g.after[i], j)
				}
			}
		}
	}
	if err := g.sort(); err != nil {
		return nil, err
	}
	for _, i := range g.order {
		g.earlier[i] = make([]bool, n)
		for _, j := range g.after[i] {
			g.earlier[i][j] = true
			for k, before := range g.earlier[j] {
				g.earlier[i][k] = g.earlier[i][k] || before
			}
		}
	}
	for _, i := range g.order {
		g.link(i)
	}
	return g, nil
}

// sort puts the steps in order, as near to that of the definition as it gets.
func (g *graph) sort() error {
	const fresh, open, done = 0, 1, 2
	state := make([]int, len(g.after))
	var path []int
	var visit func(i int) error
	visit = func(i int) error {
		switch state[i] {
		case done:
			return nil
		case open:
			return g.cycle(path[slices.Index(path, i):])
		}
		state[i] = open
		path = append(path, i)
		for _, j := range g.after[i] {
			if err := visit(j); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		state[i] = done
		g.order = append(g.order, i)
		return nil
	}
	for i := range g.after {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

func (g *graph) cycle(path []int) error {
	names := make([]string, 0, len(path)+1)
	for _, i := range append(slices.Clone(path), path[0]) {
		names = append(names, g.d.steps[i].name)
	}
	return g.d.wrong(names[0], "after: the steps wait for each other in a circle, %s; take one of these out", strings.Join(names, " after "))
}

// before tells whether step i comes before step j.
func (g *graph) before(i, j int) bool { return g.earlier[j][i] }

// delivery tells whether a step is tried until it succeeds.
func (g *graph) delivery(i int) bool {
	return g.d.forward || (g.pivot >= 0 && g.before(g.pivot, i))
}

// retry is the policy of step i.
func (g *graph) retry(i int) target.RetryPolicy {
	byDefault := g.d.retry
	if g.delivery(i) || i == g.pivot {
		byDefault = byDefault.Unlimited() // it was meant for the steps that can have one
	}
	return g.d.steps[i].retry.Or(byDefault)
}

// link finds what the coordinator has to know of step i: the steps before it; those
// whose results it uses, because results come from direct neighbours only; and those
// before a step that has nothing to undo, because compensations are ordered along
// steps that have one.
func (g *graph) link(i int) {
	var out []int
	add := func(j int) {
		if j >= 0 && !slices.Contains(out, j) {
			out = append(out, j)
		}
	}
	for _, j := range g.after[i] {
		add(j)
		if g.d.steps[j].compensate.IsZero() && !g.delivery(i) && i != g.pivot {
			for _, k := range g.direct[j] {
				add(k)
			}
		}
	}
	s := &g.d.steps[i]
	names, _, _ := s.action.References()
	more, _, _ := s.undo().References()
	for _, name := range append(names, more...) {
		if j := g.d.find(name); j >= 0 && g.before(j, i) {
			add(j)
		}
	}
	g.direct[i] = out
}

// request is the whole saga as it is submitted, the same each time for the same XID.
func (g *graph) request(id xid.ID) *pb.SubmitRequest {
	r := &pb.SubmitRequest{Xid: id.String()}
	if g.d.timeout > 0 {
		r.Timeout = durationpb.New(g.d.timeout)
	}
	r.Branches = g.branches(func(i int) xid.BranchID { return xid.BranchOf(id, g.d.steps[i].name) })
	return r
}

// branches are the steps, each behind those that it comes after. id names that of a step.
func (g *graph) branches(id func(i int) xid.BranchID) []*pb.RegisterBranchRequest {
	out := make([]*pb.RegisterBranchRequest, 0, len(g.order))
	ids := make([]string, len(g.d.steps))
	for _, i := range g.order {
		s := &g.d.steps[i]
		ids[i] = id(i).String()
		b := &pb.RegisterBranchRequest{BranchId: ids[i], Mode: pb.Mode_MODE_SAGA, Name: s.name, Plan: &pb.Plan{Retry: g.retry(i).Proto()}}
		for _, j := range g.direct[i] {
			b.Plan.After = append(b.Plan.After, ids[j])
		}
		if g.delivery(i) {
			b.Plan.Commit = s.action.Proto()
			b.Vote = pb.Vote_VOTE_YES
		} else {
			b.Plan.Forward, b.Plan.Rollback = s.action.Proto(), s.undo().Proto()
		}
		out = append(out, b)
	}
	return out
}
