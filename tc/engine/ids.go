package engine

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/handfast/handfast/xid"
)

// clock is the time of day that never goes back, not even behind what a former run of
// the process has recorded. Nor does it stand still: where the system's clock was set
// back it goes on by the time that passes, or every pause, deadline and retry would
// last until the old time of day is reached again.
type clock struct {
	now func() time.Time

	mu   sync.Mutex
	read time.Time // the last reading of now
	last time.Time // what Now has returned, or a former run recorded; of the wall clock alone
}

func (c *clock) raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t = t.Round(0); t.After(c.last) {
		c.last = t
	}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.now()
	var passed time.Duration
	if !c.read.IsZero() {
		passed = t.Sub(c.read) // by the monotonic clock, where the readings have one
	}
	if passed >= 0 {
		c.read = t
	}
	c.last = goOn(c.last, t.Round(0), passed)
	return c.last
}

// goOn gives the time of day after some time has passed, where the wall clock shows wall.
func goOn(last, wall time.Time, passed time.Duration) time.Time {
	if last = last.Add(max(passed, 0)); wall.After(last) {
		return wall
	}
	return last
}

// ids makes XIDs. It reads random bytes for many at once: a system call each
// would cost more than the rest of Begin.
type ids struct {
	store       xid.StoreID
	incarnation uint32

	mu      sync.Mutex
	counter uint64
	left    []byte
	buf     [12 * 256]byte
}

func (g *ids) next(now time.Time) xid.ID {
	p := xid.Parts{Begin: now, Incarnation: g.incarnation, Store: g.store}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.left) == 0 {
		_, _ = rand.Read(g.buf[:]) // never fails: it ends the process instead
		g.left = g.buf[:]
	}
	copy(p.Random[:], g.left)
	clear(g.left[:len(p.Random)]) // whoever reads memory learns no old XID here
	g.left = g.left[len(p.Random):]
	g.counter++
	p.Counter = g.counter
	return xid.New(p)
}

// shardOf spreads XIDs over n shards. The random part of an XID is as good as
// a hash of all of it, and costs nothing.
func shardOf(id xid.ID, n int) int {
	return int(binary.BigEndian.Uint64(id[27:35]) % uint64(n))
}
