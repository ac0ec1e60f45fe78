package engine

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handfast/handfast/xid"
)

// clock is the time of day that never goes back, not even behind what a
// former run of the process has recorded.
type clock struct {
	now   func() time.Time
	floor atomic.Int64 // milliseconds since 1970
}

func (c *clock) raise(t time.Time) {
	ms := t.UnixMilli()
	for {
		old := c.floor.Load()
		if ms <= old || c.floor.CompareAndSwap(old, ms) {
			return
		}
	}
}

func (c *clock) Now() time.Time {
	t := c.now()
	if f := c.floor.Load(); t.UnixMilli() < f {
		return time.UnixMilli(f)
	}
	c.raise(t)
	return t
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
