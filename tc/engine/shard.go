package engine

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// maxSteps bounds the steps that share one batch, and with it the time that
// the first of them waits for the last.
const maxSteps = 512

// shard owns one machine. Only run touches what is above the line.
type shard struct {
	e       *Engine
	m       *core.Machine
	q       *queue
	batch   store.Batch
	msgs    []core.Message
	loaded  []xid.ID
	wake    time.Time
	decided bool  // the batch holds a decision
	held    int64 // what Engine.held has of the machine

	open      atomic.Int64
	applied   atomic.Uint64 // the store has everything up to this LSN
	decisions atomic.Uint64 // batches with a decision that were applied

	mu      sync.Mutex
	durable uint64         // the log is durable up to this LSN
	pending []core.Message // wait for the log, in order
}

// run is the loop of the shard. It ends when the queue is closed and empty, or
// the engine is dead.
func (s *shard) run() {
	defer func() {
		if p := recover(); p != nil {
			s.e.fail(fmt.Errorf("engine: a shard panicked: %v\n%s", p, debug.Stack()))
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var spare []item
	for {
		items, closed := s.q.take(spare)
		s.step(items)
		clear(items)
		spare = items
		switch {
		case s.e.isDead():
			return
		case len(items) > 0:
			continue // more may have come meanwhile
		case closed:
			return
		}
		s.sleep(timer)
	}
}

// sleep waits for work or for the moment that the machine asked for.
func (s *shard) sleep(timer *time.Timer) {
	if s.wake.IsZero() {
		select {
		case <-s.q.wake:
		case <-s.e.dead:
		}
		return
	}
	// A clock that a test holds still must not make this a busy loop.
	timer.Reset(max(s.wake.Sub(s.e.clock.Now()), time.Millisecond))
	select {
	case <-s.q.wake:
	case <-timer.C:
	case <-s.e.dead:
	}
}

// step does everything in items, a batch at a time, and what the time demands.
func (s *shard) step(items []item) {
	for {
		n := min(len(items), maxSteps)
		now := s.e.clock.Now()
		for i := range items[:n] {
			if it := &items[i]; it.do != nil {
				it.do(s.m)
			} else {
				s.lookUp(it.in)
				s.take(now, it.in)
			}
			if s.e.isDead() {
				return
			}
		}
		if n > 0 || (!s.wake.IsZero() && !now.Before(s.wake)) {
			s.collect(s.m.Step(now, core.Tick{}))
		}
		if err := s.commit(); err != nil {
			s.e.fail(err)
			return
		}
		items = items[n:]
		if len(items) == 0 {
			return
		}
	}
}

// take steps with one input. What it asks room for counts as held before the
// machine looks: shards that ask at the same time can't both get the last of it.
func (s *shard) take(now time.Time, in core.Input) {
	need := core.Weight(in)
	if need > 0 {
		s.m.SetElsewhere(s.e.held.Add(need) - need - s.held)
	}
	s.collect(s.m.Step(now, in))
	if need > 0 {
		s.e.held.Add(-need)
	}
}

// noteHeld keeps the account of all shards.
func (s *shard) noteHeld() {
	if now := s.m.Held(); now != s.held {
		s.e.held.Add(now - s.held)
		s.held = now
	}
}

// lookUp loads a finished transaction that the input is about.
func (s *shard) lookUp(in core.Input) {
	id, asks := core.About(in)
	if !asks || s.m.Known(id) || id.Store() != s.e.meta.Store || id.Incarnation() > s.e.meta.Incarnation {
		return
	}
	tx, found, err := s.e.st.Finished(id)
	if err != nil {
		// Going on would call a known transaction unknown.
		s.e.fail(fmt.Errorf("engine: look up %s: %w", id, err))
		return
	}
	if !found {
		// It may have been dropped just now: the horizon was raised before.
		s.collect(s.m.Step(s.e.clock.Now(), core.Horizon{Time: s.e.st.Meta().Horizon}))
		return
	}
	s.m.Load(tx)
	s.loaded = append(s.loaded, id)
}

// collect copies an output, which is valid until the next step only.
func (s *shard) collect(out core.Output) {
	for i := range out.Records {
		if out.Records[i].Kind == core.RecordDecide {
			s.decided = true
		}
	}
	s.batch.Records = append(s.batch.Records, out.Records...)
	s.batch.Finished = append(s.batch.Finished, out.Finished...)
	s.msgs = append(s.msgs, out.Messages...)
	s.e.waits.collect(out)
	s.noteHeld()
	s.wake = out.Wake
}

// commit appends what was gathered to the log and lets the messages go.
func (s *shard) commit() error {
	if len(s.batch.Records)+len(s.batch.Finished) > 0 {
		s.e.crash(BeforeWrite)
		if s.decided {
			s.e.crash(BeforeDecision)
		}
		pos, err := s.e.st.Apply(s.batch, false)
		if err != nil {
			return fmt.Errorf("engine: write to the store: %w", err)
		}
		s.e.crash(AfterWrite)
		s.e.flusher.appended(pos)
		s.applied.Store(s.m.LSN())
		if s.decided {
			s.decisions.Add(1)
		}
	}
	for i := range s.batch.Finished {
		s.m.Evict(s.batch.Finished[i].XID)
	}
	for _, id := range s.loaded {
		s.m.Evict(id)
	}
	s.open.Store(int64(s.m.Open()))
	s.letGo()
	clear(s.batch.Records)
	clear(s.batch.Finished)
	clear(s.msgs)
	s.batch.Records, s.batch.Finished = s.batch.Records[:0], s.batch.Finished[:0]
	s.msgs, s.loaded, s.decided = s.msgs[:0], s.loaded[:0], false
	return nil
}

// letGo releases what needs nothing, and what needs the log if it is durable
// and nothing stands in line before it.
func (s *shard) letGo() {
	if len(s.msgs) == 0 {
		return
	}
	waiting := 0
	s.mu.Lock()
	for _, msg := range s.msgs {
		switch {
		case msg.Need == 0, len(s.pending) == 0 && msg.Need <= s.durable:
			s.e.release(msg.Body)
		default:
			s.pending = append(s.pending, msg)
			waiting++
		}
	}
	s.mu.Unlock()
	if waiting > 0 {
		s.e.flusher.want(waiting)
	}
}

// flushed is called by the flusher: the log is durable up to lsn.
func (s *shard) flushed(lsn uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = max(s.durable, lsn)
	n := 0
	for n < len(s.pending) && s.pending[n].Need <= s.durable {
		s.e.release(s.pending[n].Body)
		n++
	}
	left := copy(s.pending, s.pending[n:])
	clear(s.pending[left:])
	s.pending = s.pending[:left]
}
