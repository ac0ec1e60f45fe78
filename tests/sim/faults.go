package sim

import (
	"fmt"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// faultKind is what goes wrong at one moment of a run.
type faultKind int

const (
	faultCrashCoordinator faultKind = iota
	faultCrashService
	faultCrashClient
	faultCrashDatabase
	faultPartition
	faultOneWay
	faultSlowDisk
	faultFailingDisk
	faultClock
	faultStorm
	faultOperator
	faultKinds
)

var faultNames = [faultKinds]string{
	"crash of a coordinator", "crash of a service", "crash of a client", "crash of a database", "partition", "one-way partition",
	"slow disk", "failing disk", "clock jump", "storm", "operator",
}

// fault is drawn before the run, so that each can be left out by itself.
type fault struct {
	n    int
	at   time.Duration
	kind faultKind
	seed uint64
}

func (f fault) name() string { return fmt.Sprintf("fault %d", f.n) }

func (f fault) String() string {
	return fmt.Sprintf("%s at %s", faultNames[f.kind], f.at.Truncate(time.Millisecond))
}

func (w *world) faults(seed uint64) []fault {
	r := stream(seed, partFaults)
	all := make([]fault, r.below(14*w.o.Busy))
	for i := range all {
		all[i] = fault{n: i, at: r.during(0, w.busy), kind: faultKind(r.below(int(faultKinds))), seed: r.next()}
		if r.below(4) == 0 { // the one that matters most
			all[i].kind = faultCrashCoordinator
		} else if r.below(6) == 0 {
			all[i].kind = faultCrashDatabase
		}
	}
	return all
}

// apply lets a fault happen.
func (w *world) apply(f fault) {
	r := stream(f.seed)
	w.count("faults: " + faultNames[f.kind])
	down := r.during(0, 1500*time.Millisecond)
	switch f.kind {
	case faultCrashCoordinator:
		c := w.coords[r.below(len(w.coords))]
		c.crash()
		w.after(down, c.restart)
	case faultCrashService:
		s := w.services[r.below(len(w.services))]
		s.crash()
		w.after(down, s.restart)
	case faultCrashClient:
		c := w.clients[r.below(len(w.clients))]
		c.note("crashes")
		c.stop()
		c.start()
	case faultCrashDatabase:
		d := w.dbs[r.below(len(w.dbs))]
		if d.up {
			d.crash()
			w.after(down, d.restart)
		}
	case faultPartition, faultOneWay:
		a, b := w.nodes[r.below(len(w.nodes))], w.nodes[r.below(len(w.nodes))]
		d := r.during(100*time.Millisecond, 4*time.Second)
		w.trace.add(w.now, "world", "cut", a.name, b.name)
		w.net.partition(a, b, d)
		if f.kind == faultPartition {
			w.net.partition(b, a, d)
		}
	case faultSlowDisk:
		c := w.coords[r.below(len(w.coords))]
		w.slowDisk[c] = r.during(5*time.Millisecond, 500*time.Millisecond)
		w.after(2*down, func() { delete(w.slowDisk, c) })
	case faultFailingDisk:
		w.failDisk[w.coords[r.below(len(w.coords))]] = true
	case faultClock:
		n := w.nodes[r.below(len(w.nodes))]
		jump := r.during(0, 6*time.Second) - 2*time.Second
		if r.below(3) == 0 {
			jump = -r.during(0, 2*time.Hour)
		}
		w.trace.add(w.now, n.name, "clock jumps", jump)
		n.clock.offset += jump
	case faultStorm:
		before := w.weather
		w.weather.lose += r.below(400_000)
		w.weather.double += r.below(300_000)
		w.weather.slow += r.below(300_000)
		w.after(2*down, func() {
			if !w.calm {
				w.weather = before
			}
		})
	case faultOperator:
		w.meddle(r)
	case faultKinds:
	}
}

// meddle is an operator at a bad moment.
func (w *world) meddle(r *rng) {
	known := w.oracle.order
	if len(known) == 0 {
		return
	}
	h := known[len(known)-1-r.below(min(len(known), 6))]
	ref := &request{reply: func(core.Reply) {}}
	const who = "an operator"
	var in core.Input
	what := r.below(6)
	if h.kind == kindNames[kindDTMTCC] && what == 2 {
		what = 0 // only its client knows whether everything was tried
	}
	switch what {
	case 0, 1:
		in = core.RetryNow{Ref: ref, XID: h.id}
	case 2:
		h.byHand = true
		in = core.Commit{Ref: ref, XID: h.id, Operator: who}
	case 3, 4:
		h.byHand = true
		in = core.Rollback{Ref: ref, XID: h.id, Operator: who, Cause: "it looked stuck"}
	default:
		h.byHand = true
		in = core.Abandon{Ref: ref, XID: h.id, Operator: who, Cause: "it looked stuck"}
	}
	if h.lost {
		return
	}
	w.trace.add(w.now, "op", fmt.Sprintf("%T", in), h.id)
	if h.tc.up {
		h.tc.post(ref.of(in))
	}
}
