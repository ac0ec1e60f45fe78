//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// fault is one thing that goes wrong: when, with whom, and for how long.
type fault struct {
	at, lasts time.Duration
	kind      string
	target    string
	seed      uint64 // of its details
}

func (f fault) String() string {
	return fmt.Sprintf("%s %s for %s", f.kind, f.target, f.lasts.Round(time.Millisecond))
}

// faultKind is one kind of fault. do makes it, and gives what undoes it.
type faultKind struct {
	weight  int
	targets func(*world) []string
	do      func(w *world, ctx context.Context, f fault, r *rand.Rand) (undo func() error, err error)
}

func always(names ...string) func(*world) []string { return func(*world) []string { return names } }

func ofLinks(w *world) []string {
	// "coordinator" is all of its links at once: it is cut off.
	return append(slices.Sorted(maps.Keys(w.links)), "coordinator", "coordinator")
}

func ofDisk(w *world) []string {
	if w.disk.canBeFull() {
		return []string{"coordinator"}
	}
	return nil
}

func inProcesses(w *world) []string {
	if w.engine == nil {
		return []string{"pga", "pgb"}
	}
	return nil
}

func inContainers(w *world) []string {
	if w.engine != nil {
		return []string{"coordinator", "pga", "pgb"}
	}
	return nil
}

// faultKinds are all of them. In this proportion they come, in whatever order.
var faultKinds = map[string]faultKind{
	"kill":       {7, always("coordinator", "coordinator", "coordinator", "a", "a", "b", "b", "caller"), (*world).killed},
	"stop":       {5, always("coordinator", "a", "b", "caller", "pga", "pgb"), (*world).stopped},
	"crash":      {3, always("pga", "pgb"), (*world).crashed},
	"terminate":  {3, always("pga", "pgb"), (*world).terminated},
	"backend":    {2, inProcesses, (*world).terminated},
	"cut":        {5, ofLinks, (*world).linked},
	"oneway":     {4, ofLinks, (*world).linked},
	"hole":       {4, ofLinks, (*world).linked},
	"delay":      {5, ofLinks, (*world).linked},
	"reset":      {6, ofLinks, (*world).linked},
	"drop":       {5, ofPackets, (*world).dropped},
	"full":       {2, ofDisk, (*world).filled},
	"disconnect": {4, inContainers, (*world).severed},
}

// plan draws the faults of a time. All kinds come before one comes again more often than
// its weight says, so that no run misses one for long.
func (w *world) plan(r *rand.Rand, lasting time.Duration, bag *[]string) (plan []fault) {
	at := time.Duration(r.Int64N(int64(time.Second)))
	for n := 1; at < lasting; n++ {
		if len(*bag) == 0 {
			*bag = w.bag(r)
		}
		name := (*bag)[0]
		*bag = (*bag)[1:]
		targets := faultKinds[name].targets(w)
		f := fault{at: at, kind: name, target: targets[r.IntN(len(targets))], seed: r.Uint64()}
		f.lasts = time.Duration(200+r.IntN(1800)) * time.Millisecond
		switch n := r.IntN(24); {
		case n == 0:
			f.lasts += 12 * time.Second // longer than all patience
		case n < 6:
			f.lasts *= 4 // longer than most
		}
		plan = append(plan, f)
		at += time.Duration(100+r.IntN(1000)) * time.Millisecond
		if n%6 == 0 {
			at += 3 * time.Second // health, in which things go on
		}
	}
	return plan
}

func (w *world) bag(r *rand.Rand) (bag []string) {
	for _, name := range slices.Sorted(maps.Keys(faultKinds)) {
		if k := faultKinds[name]; len(k.targets(w)) > 0 && (w.s.kinds == nil || slices.Contains(w.s.kinds, name)) {
			bag = append(bag, slices.Repeat([]string{name}, k.weight)...)
		}
	}
	r.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
	return bag
}

// suffer has the faults of a plan happen, and returns when all of them are undone. Two at
// the same part come one after the other.
func (w *world) suffer(ctx context.Context, plan []fault) {
	busy := map[string]*sync.Mutex{}
	var wg sync.WaitGroup
	begun := time.Now()
	for _, f := range plan {
		if busy[f.target] == nil {
			busy[f.target] = &sync.Mutex{}
		}
		mu := busy[f.target]
		wg.Go(func() {
			if !wait(ctx, f.at-time.Since(begun)) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() == nil {
				w.one(ctx, f)
			}
		})
	}
	wg.Wait()
}

// wait gives false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (w *world) one(ctx context.Context, f fault) {
	undo, err := faultKinds[f.kind].do(w, ctx, f, rand.New(rand.NewPCG(f.seed, 0)))
	if err != nil {
		w.events.add("%s: left out: %v", f, err)
		w.counts.add("faults left out", 1)
	} else {
		w.events.add("%s", f)
		w.counts.add("faults", 1)
		w.counts.add("fault: "+f.kind+" "+class(f.target), 1)
	}
	if undo == nil {
		return
	}
	_ = wait(ctx, f.lasts)
	if err := undo(); err != nil {
		w.wrongf("", "%s can't be undone: %v", f, err)
	}
	w.events.add("%s: over", f)
}

// class is what a target is counted as.
func class(target string) string {
	switch {
	case strings.Contains(target, ">"):
		return "link"
	case strings.HasPrefix(target, "pg"):
		return "postgres"
	case target == "a", target == "b":
		return "service"
	default:
		return target
	}
}

func (w *world) killed(_ context.Context, f fault, _ *rand.Rand) (func() error, error) {
	n := w.node(f.target)
	n.kill()
	if f.target == "coordinator" && w.s.planted == plantedLostStore {
		if err := os.RemoveAll(filepath.Join(w.disk.dir, "data")); err != nil {
			return nil, err
		}
	}
	return func() error { return n.start(context.Background()) }, nil
}

func (w *world) stopped(_ context.Context, f fault, _ *rand.Rand) (func() error, error) {
	n := w.node(f.target)
	if err := n.pause(); err != nil {
		return nil, err
	}
	return func() error {
		n.resume()
		return nil
	}, nil
}

func (w *world) database(name string) database { return w.db[name[2]-'a'] }

// crashed is an immediate shutdown and a start, or kill -9 and a start later.
func (w *world) crashed(ctx context.Context, f fault, r *rand.Rand) (func() error, error) {
	d := w.database(f.target)
	if r.IntN(2) == 0 {
		if err := d.crash(context.WithoutCancel(ctx)); err != nil {
			w.wrongf("", "%s does not come back from a crash: %v", f.target, err)
		}
		return nil, nil //nolint:nilnil // nothing is left to be undone
	}
	d.kill()
	return func() error { return d.start(context.Background()) }, nil
}

func (w *world) terminated(ctx context.Context, f fault, r *rand.Rand) (func() error, error) {
	n, err := terminate(ctx, w.database(f.target), f.kind == "terminate", r)
	w.counts.add("backends terminated", int64(n))
	return nil, err
}

// linked is a link, or all of the coordinator's, that goes wrong. Where nothing went
// through, either what was sent arrives in the end, or the connections are lost.
func (w *world) linked(_ context.Context, f fault, r *rand.Rand) (func() error, error) {
	links := []*link{w.links[f.target]}
	if f.target == "coordinator" {
		links = nil
		for name, l := range w.links {
			if strings.Contains(name, "coordinator") {
				links = append(links, l)
			}
		}
	}
	var t trouble
	lost := false
	switch f.kind {
	case "cut":
		t.refused = true
	case "oneway":
		t.hold[r.IntN(2)], lost = true, r.IntN(2) == 0
	case "hole":
		t.hold, lost = [2]bool{true, true}, r.IntN(2) == 0
	case "delay":
		t.delay = time.Duration(1+r.IntN(120)) * time.Millisecond
	case "reset":
		t.reset, t.after = true, int64(r.IntN(8000))
	default:
		return nil, errors.New("unknown kind")
	}
	for _, l := range links {
		l.set(t, false)
	}
	return func() error {
		for _, l := range links {
			l.set(trouble{}, lost)
		}
		return nil
	}, nil
}

// filled is a disk that is full, or nearly: the coordinator has to stop rather than go on,
// or can't start.
func (w *world) filled(ctx context.Context, _ fault, r *rand.Rand) (func() error, error) {
	n := w.coordinator
	n.quiet(true)
	n.kill() // it has made room for its log in advance, and would not feel it for long
	room := int64(0)
	if r.IntN(3) > 0 {
		room = 16 << 20 // enough to start, and not to make room in advance
	}
	if err := w.disk.fill(room); err != nil {
		n.quiet(false)
		return nil, errors.Join(err, n.start(context.Background()))
	}
	free := func() error {
		if err := w.disk.empty(); err != nil {
			return err
		}
		n.kill() // it may be about to end
		n.quiet(false)
		return n.start(context.Background())
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := n.start(limited); err != nil {
		w.counts.add("full disks that kept the coordinator from starting", 1)
		return free, nil
	}
	if err := w.disk.fill(r.Int64N(64 << 10)); err != nil {
		return free, err
	}
	select {
	case <-n.exited():
		w.counts.add("full disks that stopped the coordinator", 1)
	case <-time.After(10 * time.Second):
		w.counts.add("full disks that were not felt", 1)
	case <-ctx.Done():
	}
	return free, nil
}

func (w *world) severed(_ context.Context, f fault, _ *rand.Rand) (func() error, error) {
	if f.target == "coordinator" {
		c := w.coordinator.(*container)
		return c.mend, c.sever()
	}
	sever, mend := w.database(f.target).severable()
	return mend, sever()
}
