package sim

import (
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// errUnanswered: the time was up, or the other side has gone.
var errUnanswered = errors.New("no answer")

// ask makes a request of the coordinator as package client does: it is sent again where
// the session broke or nothing was heard, and the answer to any of them will do.
func (p *proc) ask(c *coordinator, patience time.Duration, build func(core.Ref) core.Input) (core.Reply, error) {
	return p.askWith(c, patience, func(_ *coordinator, ref core.Ref) core.Input { return build(ref) })
}

// begin asks for a new transaction. Each time that it is sent, another one begins.
func (p *proc) begin(c *coordinator, patience time.Duration, in core.Begin, timeout time.Duration) (core.Reply, error) {
	ids := stream(p.rng.next())
	return p.askWith(c, patience, func(c *coordinator, ref core.Ref) core.Input {
		in.Ref, in.XID = ref, c.newXID(ids.next())
		if timeout > 0 {
			in.Deadline = c.Now().Add(timeout)
		}
		return in
	})
}

func (p *proc) askWith(c *coordinator, patience time.Duration, build func(*coordinator, core.Ref) core.Input) (core.Reply, error) {
	n := p.n
	invoked, deadline := n.w.now, n.w.now+patience
	var got *core.Reply
	for got == nil && n.w.now < deadline {
		wake := p.waker()
		back := stream(p.rng.next())
		ref := &request{reply: func(r core.Reply) {
			n.w.net.carryOn(back, c.node, n, func() {
				if got == nil {
					got = &r
				}
				wake()
			})
		}}
		p.send(c.node, func() { c.post(ref.of(build(c, ref))) })
		n.after(min(p.rng.during(400*time.Millisecond, 1200*time.Millisecond), deadline-n.w.now), wake)
		p.park()
		if got == nil {
			ref.gone = true
		}
	}
	if got == nil {
		return core.Reply{}, errUnanswered
	}
	n.w.oracle.answers(invoked, *got)
	return *got, nil
}

// askOnce is ask without sending again, for what waits on the other side; the wait ends
// there at the latest when the patience does.
func (p *proc) askOnce(c *coordinator, patience time.Duration, build func(core.Ref) core.Input) (core.Reply, error) {
	n, invoked := p.n, p.n.w.now
	var got *core.Reply
	wake := p.waker()
	back := stream(p.rng.next())
	ref := &request{}
	ref.reply = func(r core.Reply) {
		n.w.net.carryOn(back, c.node, n, func() {
			if got == nil {
				got = &r
			}
			wake()
		})
	}
	in := ref.of(build(ref))
	p.send(c.node, func() { c.post(in) })
	n.after(patience, wake)
	p.park()
	if got == nil {
		ref.gone = true
		id, _ := core.About(in)
		p.send(c.node, func() { c.post(core.Cancel{Ref: ref, XID: id}) })
		return core.Reply{}, errUnanswered
	}
	n.w.oracle.answers(invoked, *got)
	return *got, nil
}

// between makes one call to another process, which runs f and answers. It is neither
// sent again nor doubled: whoever calls can't know whether it happened.
func (p *proc) between(to *node, f func(p *proc) error) error {
	return p.betweenFor(to, callTimeout, f)
}

func (p *proc) betweenFor(to *node, timeout time.Duration, f func(p *proc) error) error {
	n := p.n
	var answer *error
	wake := p.waker()
	w := n.w
	if w.net.isCut(n, to) || p.rng.chance(w.weather.lose) {
		p.sleep(timeout)
		return errUnanswered
	}
	seed := p.rng.next()
	w.net.sure(p.rng, to, func() {
		to.spawnWith(seed, func(q *proc) {
			err := f(q)
			if w.net.isCut(to, n) || q.rng.chance(w.weather.lose) {
				return
			}
			w.net.sure(q.rng, n, func() {
				answer = &err
				wake()
			})
		})
	})
	n.after(timeout, wake)
	p.park()
	if answer == nil {
		return errUnanswered
	}
	return *answer
}
