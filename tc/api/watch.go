package api

import (
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

// watchers hands changes to everybody who watches. It never waits for one.
type watchers struct {
	eng    *engine.Engine
	buffer int

	mu     sync.Mutex
	all    map[*watcher]struct{}
	closed bool
	done   chan struct{} // closed with closed
}

// watcher is one Watch call.
type watcher struct {
	only   xid.ID // zero: every transaction
	events chan *pb.WatchEvent
	missed uint64 // since the last event that fit; belongs to watchers.mu
}

func newWatchers(eng *engine.Engine, buffer int) *watchers {
	return &watchers{eng: eng, buffer: buffer, all: make(map[*watcher]struct{}), done: make(chan struct{})}
}

func (w *watchers) add(only xid.ID) (*watcher, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return nil, draining()
	case len(w.all) >= maxWatchers:
		return nil, limit(maxWatchers, "%d callers watch already", len(w.all))
	}
	n := &watcher{only: only, events: make(chan *pb.WatchEvent, w.buffer)}
	w.all[n] = struct{}{}
	if len(w.all) == 1 {
		w.eng.SetWatch(true)
	}
	return n, nil
}

// maxWatchers bounds the callers that watch at a time.
const maxWatchers = 256

func (w *watchers) remove(n *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, n)
	if len(w.all) == 0 {
		w.eng.SetWatch(false)
	}
}

// changed hands a new state to all watchers.
func (w *watchers) changed(tx *core.Transaction) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var state *pb.Transaction
	now := timestamppb.New(w.eng.Now())
	for n := range w.all {
		if !n.only.IsZero() && n.only != tx.XID {
			continue
		}
		if state == nil {
			state = wireTransaction(tx) // shared: nobody changes it
		}
		select {
		case n.events <- &pb.WatchEvent{Time: now, Transaction: state, Missed: n.missed}:
			n.missed = 0
		default:
			n.missed++
		}
	}
}

func (w *watchers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.done)
	}
}
