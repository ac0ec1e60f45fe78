package engine

import (
	"context"
	"sync"

	"github.com/handfast/handfast/tc/core"
)

// item is one thing for a shard to do: a step, or a look at the machine.
type item struct {
	in core.Input
	do func(*core.Machine)
}

// size is how many bytes of payloads and results wait with an item.
func (it *item) size() int64 {
	switch in := it.in.(type) {
	case core.CastVote:
		return int64(len(in.Result))
	case core.Called:
		return int64(len(in.Result))
	default:
		return core.Weight(in)
	}
}

// queue holds what a shard has to do. The limits count for add only; the last item
// may go beyond that of bytes.
type queue struct {
	limit      int
	limitBytes int64
	wake       chan struct{} // holds one: there may be something to take

	mu     sync.Mutex
	items  []item
	bytes  int64
	room   chan struct{} // closed when there is room again; nil while nobody waits
	closed bool
}

func newQueue(limit int, limitBytes int64) *queue {
	return &queue{limit: limit, limitBytes: limitBytes, wake: make(chan struct{}, 1)}
}

// add puts an item at the end, if there is room or force is set.
func (q *queue) add(it item, force bool) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return ErrStopped
	case !force && !q.hasRoom():
		q.mu.Unlock()
		return ErrFull
	}
	q.items = append(q.items, it)
	q.bytes += it.size()
	first := len(q.items) == 1
	q.mu.Unlock()
	if first {
		q.poke()
	}
	return nil
}

func (q *queue) hasRoom() bool { return len(q.items) < q.limit && q.bytes < q.limitBytes }

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// waitRoom returns when there is room, the queue is closed or ctx ends.
func (q *queue) waitRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return ErrStopped
		}
		if q.hasRoom() {
			q.mu.Unlock()
			return nil
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take takes everything. The caller gives back a slice to fill next.
func (q *queue) take(spare []item) (items []item, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	items, q.items = q.items, spare[:0]
	q.bytes = 0
	q.free()
	return items, q.closed
}

// close refuses everything from now on. What is queued can still be taken.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.free()
	q.mu.Unlock()
	q.poke()
}

func (q *queue) free() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}
