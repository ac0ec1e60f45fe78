package engine

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// maxScan bounds how many finished transactions one List looks at.
const maxScan = 20_000

// maxListed bounds what the transactions of one List hold, in bytes, as core.Transaction.Held
// counts it: notes and results of what is finished are in nobody's account.
const maxListed = 16 << 20

// List gives up to limit transactions that match, newest XID first, from the
// first below before on (the zero ID: from the newest). next is where to go on,
// the zero ID at the end; a List that looked at many and found few, or found
// large ones, may give fewer than limit and still a next. What it tells is durable.
//
// match is called from goroutines of the engine and must not keep or change
// what it is given.
func (e *Engine) List(ctx context.Context, before xid.ID, limit int, match func(*core.Transaction) bool) (found []core.Transaction, next xid.ID, err error) {
	if limit <= 0 {
		return nil, xid.ID{}, nil
	}
	// The open ones first: one that finishes meanwhile is then seen twice
	// rather than not at all.
	open, err := e.listOpen(ctx, before, limit, match)
	if err != nil {
		return nil, xid.ID{}, err
	}
	var finished []core.Transaction
	var stop xid.ID // where the scan was given up; zero: it was not
	scanned, listed, full := 0, int64(0), false
	err = e.st.ListFinished(ctx, before, func(tx core.Transaction) bool {
		if scanned++; scanned > maxScan {
			return false
		}
		if match(&tx) {
			finished = append(finished, tx)
			listed += tx.Held()
		}
		stop, full = tx.XID, len(finished) == limit || listed > maxListed
		return !full
	})
	if err != nil {
		return nil, xid.ID{}, fmt.Errorf("list finished transactions: %w", err)
	}
	if scanned <= maxScan && !full {
		stop = xid.ID{}
	}
	found = merge(open, finished)
	// What lies below the point where either list was cut short is not
	// complete, so it belongs to the next page.
	if !stop.IsZero() {
		found = slices.DeleteFunc(found, func(tx core.Transaction) bool { return bytes.Compare(tx.XID[:], stop[:]) < 0 })
		next = stop
	}
	listed = 0
	for i := range found {
		if listed += found[i].Held(); i == limit-1 || listed > maxListed {
			found, next = found[:i+1], found[i].XID
			break
		}
	}
	return found, next, e.flusher.barrier(ctx)
}

// listOpen asks every shard for its newest.
func (e *Engine) listOpen(ctx context.Context, before xid.ID, limit int, match func(*core.Transaction) bool) ([]core.Transaction, error) {
	parts := make(chan []core.Transaction, len(e.shards))
	for _, s := range e.shards {
		err := s.q.add(item{do: func(m *core.Machine) { parts <- m.Newest(before, limit, match) }}, true)
		if err != nil {
			return nil, e.stopped(err)
		}
	}
	var open []core.Transaction
	for range e.shards {
		select {
		case p := <-parts:
			open = append(open, p...)
		case <-e.dead:
			return nil, e.Err()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return open, nil
}

// merge joins both lists, newest first. A transaction that is in both has
// finished in between.
func merge(open, finished []core.Transaction) []core.Transaction {
	all := slices.Concat(finished, open)
	slices.SortStableFunc(all, func(a, b core.Transaction) int { return bytes.Compare(b.XID[:], a.XID[:]) })
	return slices.CompactFunc(all, func(a, b core.Transaction) bool { return a.XID == b.XID })
}
