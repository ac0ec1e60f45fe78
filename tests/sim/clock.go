package sim

import "time"

// epoch is the time of day at which every run begins.
var epoch = time.UnixMilli(1_800_000_000_000)

// clock is the clock of one node: it is off, drifts, and jumps. Pauses are measured by
// the time that really passes; only what asks for the time of day sees it.
type clock struct {
	offset time.Duration
	drift  int // parts of a million
}

func (c *clock) read(now time.Duration) time.Time {
	return epoch.Add(now + c.offset + time.Duration(int64(now)/million*int64(c.drift)))
}

// wall is the time of day as the node sees it.
func (n *node) wall() time.Time { return n.clock.read(n.w.now) }
