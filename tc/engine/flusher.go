package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handfast/handfast/tc/store"
)

// flusher forces the log for all shards. At most one forced write is under
// way; whatever is appended meanwhile shares the next one.
type flusher struct {
	e       *Engine
	wake    chan struct{}
	waiting atomic.Int64 // messages that wait, about
	last    int64        // how many the flush before served

	mu       sync.Mutex
	position uint64          // highest that an Apply has returned
	durable  uint64          // highest that is known to be forced
	barriers []chan struct{} // closed after the next flush that begins from now on
}

func newFlusher(e *Engine) *flusher {
	return &flusher{e: e, wake: make(chan struct{}, 1)}
}

// appended notes that the store has a batch at the position.
func (f *flusher) appended(pos uint64) {
	f.mu.Lock()
	f.position = max(f.position, pos)
	f.mu.Unlock()
}

// want asks for a flush, on account of n messages.
func (f *flusher) want(n int) {
	f.waiting.Add(int64(n))
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// durablePosition is the highest position that surely survives a crash.
func (f *flusher) durablePosition() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.durable
}

// barrier returns when everything that was visible in the store before the
// call is durable.
func (f *flusher) barrier(ctx context.Context) error {
	ch := make(chan struct{})
	f.mu.Lock()
	// Not f.position: a batch can be seen before its Apply has returned.
	if f.e.st.Position() == f.durable {
		f.mu.Unlock()
		return nil
	}
	f.barriers = append(f.barriers, ch)
	f.mu.Unlock()
	f.want(0)
	select {
	case <-ch:
		return nil
	case <-f.e.dead:
		return f.e.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run flushes when somebody waits, until stop is closed or the engine is dead.
func (f *flusher) run(stop <-chan struct{}) {
	defer func() {
		if p := recover(); p != nil {
			f.e.fail(fmt.Errorf("engine: the flusher panicked: %v\n%s", p, debug.Stack()))
		}
	}()
	for {
		select {
		case <-f.wake:
		case <-stop:
			return
		case <-f.e.dead:
			return
		}
		f.gather()
		if err := f.flush(); err != nil {
			f.e.fail(err)
			return
		}
	}
}

// gatherMax is the longest that a flush is put off to be shared by more.
const gatherMax = time.Millisecond

// gather puts the flush off for a moment while only a few wait compared to the
// flush before: with many callers at work the others are just coming. Without
// it, a disk that is faster than the callers is flushed for two or three of
// them at a time, and the processor pays for each flush.
func (f *flusher) gather() {
	want := f.last / 2
	f.last -= f.last / 8 // callers that went away are forgotten soon
	if want < 4 || f.waiting.Load() >= want {
		return
	}
	timer := time.NewTimer(gatherMax)
	defer timer.Stop()
	for f.waiting.Load() < want {
		select {
		case <-f.wake:
		case <-timer.C:
			return
		case <-f.e.dead:
			return
		}
	}
}

// flush forces the log and releases what waited for it.
func (f *flusher) flush() error {
	served := f.waiting.Swap(0)
	f.last = max(f.last, served)
	shards := f.e.shards
	lsn := make([]uint64, len(shards))
	decisions := uint64(0)
	for i, s := range shards {
		decisions += s.decisions.Load() // before applied: what it counts is in there
		lsn[i] = s.applied.Load()
	}
	f.mu.Lock()
	pos, barriers := f.position, f.barriers
	f.barriers = nil
	done := f.durable
	f.mu.Unlock()
	if pos > done || len(barriers) > 0 {
		if _, err := f.e.st.Apply(store.Batch{}, true); err != nil {
			return fmt.Errorf("engine: force the log: %w", err)
		}
		f.e.crash(AfterForce)
	}
	if decisions > f.e.decided {
		f.e.decided = decisions
		f.e.crash(AfterDecision)
	}
	f.mu.Lock()
	f.durable = max(f.durable, pos)
	f.mu.Unlock()
	for i, s := range shards {
		s.flushed(lsn[i])
	}
	for _, b := range barriers {
		close(b)
	}
	return nil
}
