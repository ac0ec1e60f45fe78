package engine

import (
	"context"
	"sync/atomic"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Answer is a reply, and a position of the store's log that survives a crash and is not
// before what it speaks of.
type Answer struct {
	core.Reply
	Durable uint64
}

// asker waits for the reply to one request.
type asker struct {
	ch   chan Answer
	quit atomic.Bool
}

var _ Quitter = (*asker)(nil)

// Quit implements Quitter.
func (a *asker) Quit() bool { return a.quit.Load() }

// Reply implements Waiter.
func (a *asker) Reply(r core.Reply, durable uint64) { a.ch <- Answer{r, durable} }

// Ask makes a request and waits for its reply. The request carries the ref that build
// is given. When ctx ends the request is taken back, though it may have been done.
//
// Errors: that of build; those of Submit; the cause of ctx. What the machine refuses is
// Answer.Err, and no error.
func (e *Engine) Ask(ctx context.Context, build func(core.Ref) (core.Input, error)) (Answer, error) {
	a := &asker{ch: make(chan Answer, 1)}
	in, err := build(a)
	if err != nil {
		return Answer{}, err
	}
	if err := e.Submit(in); err != nil {
		return Answer{}, err
	}
	select {
	case r := <-a.ch:
		return r, nil
	case <-e.dead:
		return Answer{}, e.Err()
	case <-ctx.Done():
		a.quit.Store(true)
		if id, _ := core.About(in); !id.IsZero() {
			e.Post(core.Cancel{Ref: a, XID: id})
		}
		return Answer{}, context.Cause(ctx)
	}
}

// Lookup gives the XID of the transaction that was begun with a key.
func (e *Engine) Lookup(key string) (id xid.ID, found bool, err error) { return e.st.Lookup(key) }

// Peek gives a copy of a transaction as it is now, although a crash may still undo a
// part of it: nothing that rests on it may be told to anybody but with the answer to a
// later request about the same transaction, which waits until all is durable.
func (e *Engine) Peek(ctx context.Context, id xid.ID) (tx core.Transaction, found bool, err error) {
	type look struct {
		tx    core.Transaction
		found bool
	}
	ch := make(chan look, 1)
	err = e.shardOf(id).q.add(item{do: func(m *core.Machine) {
		tx, found := m.Look(id)
		ch <- look{tx, found}
	}}, false)
	if err != nil {
		return tx, false, e.stopped(err)
	}
	select {
	case l := <-ch:
		if l.found {
			return l.tx, true, nil
		}
		return e.st.Finished(id)
	case <-e.dead:
		return tx, false, e.Err()
	case <-ctx.Done():
		return tx, false, context.Cause(ctx)
	}
}
