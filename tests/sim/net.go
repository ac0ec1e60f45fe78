package sim

import "time"

// network carries messages between nodes. Each may be lost, doubled, delayed and
// overtaken, while there are faults; and links may be cut, in one direction or both.
type network struct {
	w    *world
	rng  *rng
	cut  map[link]time.Duration // until when
	cuts int
}

type link struct{ from, to int }

// weather is how bad the network is.
type weather struct {
	lose, double, slow int // parts of a million
	delay              time.Duration
}

func newNetwork(w *world, seed uint64) *network {
	return &network{w: w, rng: stream(seed, partNet), cut: map[link]time.Duration{}}
}

// send carries something to a node, which gets it in whatever life it is then.
func (t *network) send(from, to *node, arrive func()) { t.sendIn(t.w.weather, from, to, arrive) }

func (t *network) sendIn(f weather, from, to *node, arrive func()) {
	if t.isCut(from, to) {
		return
	}
	if t.rng.chance(f.lose) {
		t.w.count("messages lost")
		return
	}
	t.carry(to, f, arrive)
	if t.rng.chance(f.double) {
		t.w.count("messages doubled")
		t.carry(to, f, arrive)
	}
}

// sure carries something exactly once, and in little time: what a database's connection
// or one call between services does where it does not break.
func (t *network) sure(to *node, arrive func()) {
	t.carry(to, weather{delay: t.w.weather.delay}, arrive)
}

func (t *network) carry(to *node, f weather, arrive func()) {
	d := t.rng.during(50*time.Microsecond, 200*time.Microsecond+f.delay)
	if t.rng.chance(f.slow) {
		t.w.count("messages delayed")
		d += t.rng.during(time.Millisecond, 3*time.Second)
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
