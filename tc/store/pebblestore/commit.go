package pebblestore

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// maxGroup is how many commits share one turn of the writer.
const maxGroup = 256

// commit is one batch on its way into the log.
type commit struct {
	batch    *pebble.Batch
	sync     bool
	position uint64
	done     chan struct{} // holds one; never sent to when the store fails
}

// pipeline takes batches into the log.
//
//	Apply ─► queue ─► writer: log and memory, in order ─► (no sync) done
//	                     └─► syncs ─► syncer: waits for the disk ─► done
//
// Only these two goroutines enter Pebble to write. Where the disk fails they
// may stay there for ever; whoever waits for them is released by failed.
type pipeline struct {
	db     *pebble.DB
	queue  chan *commit
	syncs  chan *forced
	failed chan struct{} // closed when the store has failed
	ended  chan struct{} // closed when everything queued was handled
	fail   func(error)

	// position is raised before a batch can be seen, so that whoever has seen
	// a batch finds its position here.
	position atomic.Uint64
	next     uint64 // where the next batch begins; owned by the writer

	commits sync.Pool
}

// forced is a group of commits that one sync makes durable.
type forced struct {
	batch   *pebble.Batch // the last of the group
	commits []*commit
}

func newPipeline(failed chan struct{}, fail func(error)) *pipeline {
	p := &pipeline{
		queue:  make(chan *commit, maxGroup),
		syncs:  make(chan *forced, 64),
		failed: failed,
		ended:  make(chan struct{}),
		fail:   fail,
	}
	p.commits.New = func() any { return &commit{done: make(chan struct{}, 1)} }
	return p
}

func (p *pipeline) start(db *pebble.DB) {
	p.db = db
	go p.write()
	go p.force()
}

// stop handles what is queued. Nothing may be queued afterwards.
func (p *pipeline) stop() {
	close(p.queue)
	select {
	case <-p.ended:
	case <-p.failed:
	}
}

// apply queues the batch, which it owns from then on, and waits for it. It
// returns false when the store has failed.
func (p *pipeline) apply(b *pebble.Batch, sync bool) (position uint64, ok bool) {
	c := p.commits.Get().(*commit)
	c.batch, c.sync = b, sync
	select {
	case <-p.failed:
		return 0, false
	case p.queue <- c:
	}
	select {
	case <-c.done:
	case <-p.failed:
		return 0, false // c may still be in use
	}
	position = c.position
	c.batch = nil
	p.commits.Put(c)
	return position, true
}

// write is the only goroutine that commits to Pebble.
func (p *pipeline) write() {
	defer close(p.syncs)
	defer p.caught()
	group := make([]*commit, 0, maxGroup)
	for c := range p.queue {
		group = append(group[:0], c)
		for more := true; more && len(group) < maxGroup; {
			select {
			case c, ok := <-p.queue:
				if more = ok; ok {
					group = append(group, c)
				}
			default:
				more = false
			}
		}
		if !p.commitAll(group) {
			return
		}
	}
}

// commitAll commits a group. The log keeps the order, so one sync, that of the
// last commit that wants one, covers all of them. It returns false when the
// store has failed.
func (p *pipeline) commitAll(group []*commit) bool {
	last := -1
	for i, c := range group {
		if c.sync {
			last = i
		}
	}
	var f *forced
	for i, c := range group {
		if p.hasFailed() || !p.commitOne(c, i == last) {
			return false
		}
		switch {
		case !c.sync:
			_ = c.batch.Close() // releases memory, can't fail
			c.done <- struct{}{}
			continue
		case f == nil:
			f = &forced{}
		}
		f.commits = append(f.commits, c)
		if i != last {
			_ = c.batch.Close()
			continue
		}
		f.batch = c.batch
		select {
		case p.syncs <- f:
		case <-p.failed:
			return false
		}
	}
	return true
}

// commitOne returns false when the store has failed.
func (p *pipeline) commitOne(c *commit, sync bool) bool {
	// Only this goroutine allocates positions, so the next one is known.
	if end := p.next + uint64(c.batch.Count()); end > p.position.Load() {
		p.position.Store(end)
	}
	var err error
	if sync {
		err = p.db.ApplyNoSyncWait(c.batch, pebble.Sync)
	} else {
		err = p.db.Apply(c.batch, pebble.NoSync)
	}
	if err != nil {
		p.fail(err)
	}
	if p.hasFailed() { // Pebble tells some failures to its logger only
		return false
	}
	c.position = uint64(c.batch.SeqNum()) + uint64(c.batch.Count())
	p.next = c.position
	if c.position > p.position.Load() {
		p.position.Store(c.position) // the first commit of all
	}
	return true
}

func (p *pipeline) hasFailed() bool {
	select {
	case <-p.failed:
		return true
	default:
		return false
	}
}

// force waits for the syncs, in the order of the log.
func (p *pipeline) force() {
	defer close(p.ended)
	defer p.caught()
	for f := range p.syncs {
		if err := f.batch.SyncWait(); err != nil {
			p.fail(err)
			return
		}
		_ = f.batch.Close() // releases memory, can't fail
		for _, c := range f.commits {
			c.done <- struct{}{}
		}
	}
}

// caught makes a panic of Pebble a failure of the store.
func (p *pipeline) caught() {
	switch v := recover().(type) {
	case nil:
	case error:
		p.fail(v)
	default:
		p.fail(fmt.Errorf("pebble: %v", v))
	}
}

// gate counts the users of something that can be closed once.
type gate struct {
	mu      sync.Mutex
	users   int
	closed  bool
	drained chan struct{} // made by close
}

// enter returns false when the gate is closed.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.users++
	}
	return !g.closed
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users--; g.users == 0 && g.closed {
		close(g.drained)
	}
}

// close waits for the users, of which none can enter any more. It returns
// false when it was called before.
func (g *gate) close() bool {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return false
	}
	g.closed = true
	g.drained = make(chan struct{})
	if g.users == 0 {
		close(g.drained)
	}
	g.mu.Unlock()
	<-g.drained
	return true
}
