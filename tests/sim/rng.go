package sim

import "time"

// rng is a stream of numbers (SplitMix64). It is our own so that a seed means the same
// run under every release of Go. Each part of a run has a stream of its own: what one
// part draws does not change what another part draws.
type rng struct{ state uint64 }

// stream makes the stream of one part of a run.
func stream(seed uint64, part ...uint64) *rng {
	r := &rng{state: seed}
	for _, p := range part {
		r.state = r.next() ^ (p+1)*0x9e3779b97f4a7c15
	}
	return r
}

func (r *rng) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below gives a number from 0 to n-1; 0 where n is not positive.
func (r *rng) below(n int) int {
	if n <= 0 {
		return 0
	}
	return int(r.next() % uint64(n))
}

// between gives a number from lo to hi.
func (r *rng) between(lo, hi int) int { return lo + r.below(hi-lo+1) }

// chance is true in p of a million cases. It draws also where p is 0: weather that is
// left out does not change what else is drawn.
func (r *rng) chance(p int) bool { return r.below(million) < p }

// million is what probabilities are parts of.
const million = 1_000_000

// during gives a time from lo to hi.
func (r *rng) during(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.next()%uint64(hi-lo+1))
}
