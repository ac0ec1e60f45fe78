package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/store"
)

// point is a scenario with what goes wrong in it: one fault for each life of the
// coordinator, from the first on.
type point struct {
	mode   string
	refuse bool
	look   string // a name in looks: what is done when the power is gone; may be empty
	faults []fault
}

// looks are what a run can do beside.
var looks = map[string]func(*run){
	"torn": func(r *run) { r.probe = tearTail },
	"damaged": func(r *run) {
		r.began, r.probe, r.memory = fill, damage, 1<<20 // all in one log
		r.ended = func(r *run) { r.drive.cut() }
	},
}

// String is what -disk.repeat takes.
func (p point) String() string {
	parts := []string{p.mode}
	if p.refuse {
		parts[0] += "+refused"
	}
	if p.look != "" {
		parts[0] += "~" + p.look
	}
	for _, f := range p.faults {
		parts = append(parts, f.String())
	}
	return strings.Join(parts, "/")
}

// String has the parts of a fault, separated by colons.
func (f fault) String() string {
	return fmt.Sprintf("%s:%s:%d:%d:%t:%d:%d:%s", f.what, f.class, f.at, int(f.errno), f.lasts, f.keep, f.seed, f.only)
}

// parsePoint reads what String wrote.
func parsePoint(text string) (p point, err error) {
	parts := strings.Split(text, "/")
	p.mode, p.look, _ = strings.Cut(parts[0], "~")
	p.mode, p.refuse = strings.CutSuffix(p.mode, "+refused")
	if scenarios[p.mode].call == nil {
		return p, fmt.Errorf("there is no scenario %q", p.mode)
	}
	for _, part := range parts[1:] {
		v := strings.Split(part, ":")
		if len(v) != 8 {
			return p, fmt.Errorf("fault %q: want 8 parts", part)
		}
		var n [4]int
		for i, j := range []int{2, 3, 5, 6} {
			if n[i], err = strconv.Atoi(v[j]); err != nil {
				return p, fmt.Errorf("fault %q: %w", part, err)
			}
		}
		p.faults = append(p.faults, fault{
			what: what(v[0]), class: class(v[1]), at: n[0], errno: syscall.Errno(n[1]), lasts: v[4] == "true",
			keep: n[2], seed: uint64(n[3]), only: v[7],
		})
	}
	return p, nil
}

// once plays a point, and tells whether all of its faults have come.
func (p point) once(change func(*run)) (hit bool, err error) {
	slots <- struct{}{}
	defer func() { <-slots }()
	limit := patience
	if p.look != "" && *everything {
		limit = time.Hour // whoever looks at what a power loss leaves takes his time
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return p.within(ctx, change)
}

func (p point) within(ctx context.Context, change func(*run)) (hit bool, err error) {
	w, err := newWorld()
	if err != nil {
		return false, err
	}
	defer w.close()
	s, err := newService(p.mode, p.refuse, w.gates[0].addr(), w.gates[1].addr())
	if err != nil {
		return false, err
	}
	defer s.close()
	r := &run{world: w, service: s, mode: p.mode, faults: p.faults}
	for _, f := range []func(*run){looks[p.look], change} {
		if f != nil {
			f(r)
		}
	}
	hits, err := r.play(ctx)
	if err == nil {
		err = errors.Join(r.judge(ctx, hits > 0), r.named())
	}
	if r.life != nil {
		// Clients of DTM's API may be there still when its time to drain is up.
		if end := r.life.end(); err == nil && end != nil && !errors.Is(end, context.DeadlineExceeded) {
			err = fmt.Errorf("at the end: %w", end)
		}
	}
	counted.run(r, p, hits, err)
	return hits >= len(p.faults) && hits > 0, err
}

// named tells what is wrong with what coordinators said when they failed: each has to
// name what happened, and to which file.
func (r *run) named() error {
	var errs []error
	for _, f := range r.failed {
		kind := store.ErrFailed
		if f.fault.errno == syscall.ENOSPC {
			kind = store.ErrFull
		}
		switch {
		case f.err == nil:
			errs = append(errs, fmt.Errorf("at %q, %w: it stopped without an error", f.where, f.fault.errno))
		case !errors.Is(f.err, kind) && !errors.Is(f.err, f.fault.errno):
			errs = append(errs, fmt.Errorf("at %q, %w: it does not say what happened: %w", f.where, f.fault.errno, f.err))
		case !slices.ContainsFunc(f.where, func(file string) bool { return strings.Contains(f.err.Error(), file) }):
			errs = append(errs, fmt.Errorf("at %q, %w: it does not say where: %w", f.where, f.fault.errno, f.err))
		}
	}
	return errors.Join(errs...)
}

// series is one kind of point, with the number of the call of one of its faults left open.
type series struct {
	point
	open int // which fault
}

// at gives the point of a call number.
func (s series) at(n int) point {
	p := s.point
	p.faults = slices.Clone(p.faults)
	p.faults[s.open].at = n
	return p
}

// workers is how many scenarios are played at once. Most of the time they wait.
const workers = 16

var slots = make(chan struct{}, workers)

// tryAll plays each series: at every call until the scenario survives, or, not to be here
// all day, at some, chosen by the place in the list, most of them after the start.
func tryAll(t *testing.T, list []series, some int) {
	t.Helper()
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				s := list[i]
				for n, ok := 1, true; ok; n++ {
					if !*everything {
						if n > some {
							break
						}
						tryOne(t, s.at(s.sample(i*some+n)))
						continue
					}
					ok = tryOne(t, s.at(n))
				}
			}
		})
	}
	for i := range list {
		if t.Failed() {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
}

// usual is how many calls of a class there are in a short scenario, and how many of these
// before it begins.
var usual = sync.OnceValue(func() map[class][2]int {
	seen := map[class][2]int{}
	var drive *drive
	_, err := point{mode: "dtm"}.once(func(r *run) {
		r.planted = true
		r.began = func(r *run) {
			drive = r.drive
			for c, n := range drive.calls() {
				seen[c] = [2]int{0, n}
			}
		}
	})
	if err != nil {
		panic(err)
	}
	for c, n := range drive.calls() {
		seen[c] = [2]int{n, seen[c][1]}
	}
	return seen
})

// sample gives the i-th of some call numbers that are spread over the scenario.
func (s series) sample(i int) int {
	calls := usual()[s.faults[s.open].class]
	if s.open > 0 {
		return 1 + i*7%calls[1] // a start on what is there
	}
	if i%4 == 0 || calls[0] == calls[1] {
		return 1 + i*7%calls[0]
	}
	return calls[1] + 1 + i*5%(calls[0]-calls[1])
}

func tryOne(t *testing.T, p point) (hit bool) {
	t.Helper()
	hit, err := p.once(nil)
	if err != nil {
		t.Errorf("%v\nrepeat it with: go test ./tests/disk -run TestRepeat -v -disk.repeat '%s'", err, p)
	}
	return hit && err == nil
}
