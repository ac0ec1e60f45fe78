package sim

import (
	"encoding/binary"
	"time"

	"github.com/handfast/handfast/xid"
)

// network carries messages between nodes. Each may be lost, doubled, delayed and
// overtaken, while there are faults; and links may be cut, in one direction or both.
//
// What becomes of a message is drawn from the stream of what it is about: of the proc
// that sends it, of the transaction that a coordinator sends it for, or else of its link.
// So one job that is left out changes little of what happens to the others.
type network struct {
	w     *world
	seed  uint64
	links map[link]*rng
	about map[uint64]*rng        // by the random part of the XID
	cut   map[link]time.Duration // until when
	cuts  int
}

type link struct{ from, to int }

// weather is how bad the network is.
type weather struct {
	lose, double, slow int // parts of a million
	delay              time.Duration
}

func newNetwork(w *world, seed uint64) *network {
	return &network{w: w, seed: seed, links: map[link]*rng{}, about: map[uint64]*rng{}, cut: map[link]time.Duration{}}
}

// of is the stream of a link.
func (t *network) of(from, to *node) *rng {
	l := link{from.id, to.id}
	if t.links[l] == nil {
		t.links[l] = stream(t.seed, partNet, uint64(l.from), uint64(l.to))
	}
	return t.links[l]
}

// about is the stream of what a coordinator sends for a transaction.
func (c *coordinator) about(id xid.ID) *rng {
	t, random := c.w.net, binary.BigEndian.Uint64(id[27:35])
	if t.about[random] == nil {
		t.about[random] = stream(t.seed, partAbout, random)
	}
	return t.about[random]
}

// send carries something to a node, which gets it in whatever life it is then.
func (t *network) send(from, to *node, arrive func()) { t.carryOn(t.of(from, to), from, to, arrive) }

// send is what a proc sends.
func (p *proc) send(to *node, arrive func()) { p.n.w.net.carryOn(p.rng, p.n, to, arrive) }

// carryOn is send with the stream that its fate is drawn from.
func (t *network) carryOn(r *rng, from, to *node, arrive func()) {
	f := t.w.weather
	lost, doubled := r.chance(f.lose), r.chance(f.double)
	if t.isCut(from, to) {
		return
	}
	if lost {
		t.w.count("messages lost")
		return
	}
	t.carry(r, to, f, arrive)
	if doubled {
		t.w.count("messages doubled")
		t.carry(r, to, f, arrive)
	}
}

// sure carries something exactly once, and in little time: what a database's connection
// or one call between services does where it does not break.
func (t *network) sure(r *rng, to *node, arrive func()) {
	t.carry(r, to, weather{delay: t.w.weather.delay}, arrive)
}

func (t *network) carry(r *rng, to *node, f weather, arrive func()) {
	d := r.during(50*time.Microsecond, 200*time.Microsecond+f.delay)
	if r.chance(f.slow) {
		t.w.count("messages delayed")
		d += r.during(time.Millisecond, 3*time.Second)
	}
	t.w.after(d, func() {
		if to.up {
			arrive()
		}
	})
}

func (t *network) isCut(from, to *node) bool {
	if t.cuts == 0 {
		return false
	}
	until, ok := t.cut[link{from.id, to.id}]
	return ok && t.w.now < until
}

// partition cuts links; heal mends all.
func (t *network) partition(from, to *node, d time.Duration) {
	t.cut[link{from.id, to.id}] = t.w.now + d
	t.cuts++
}

func (t *network) heal() { t.cuts = 0 }
