package sim

import (
	"fmt"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// finale checks what has to hold once faults are over and time has passed.
func (w *world) finale(quiet bool) {
	if !quiet {
		w.fail("after %s without faults: %s", quietLimit, w.left())
		return
	}
	for _, b := range w.oracle.books {
		for _, k := range keys() {
			w.oracle.compare(b, k, "at the end")
		}
		if k := b.d.orphan(nil); k != 0 {
			w.fail("row %s/%d has no parent in the end", b.d.name, k)
		}
		if n := len(b.owner); n > 0 && !w.oracle.accident {
			w.fail("the books of %s say that %d rows are still held", b.d.name, n)
		}
	}
	for _, h := range w.oracle.order {
		w.whole(h)
	}
	w.askAgain()
}

// keys are all rows of a database, in order.
func keys() []int {
	var all []int
	for k := range accounts {
		all = append(all, k, k+reserved)
	}
	return append(all, family()...)
}

// whole checks that a transaction happened as a whole or not at all.
func (w *world) whole(h *history) {
	if h.abandoned {
		return
	}
	if h.beyond() {
		w.notSilent(h)
		return
	}
	if h.stuck {
		w.count("transactions that wait for what an accident left")
		return
	}
	type place struct {
		d   *database
		key int
	}
	sum, rows := 0, map[place]int{}
	for _, e := range h.effects {
		sum += e.add
		rows[place{e.db, e.key}] += e.add
	}
	switch h.decision.outcome {
	case core.Undecided:
		if len(h.effects) > 0 {
			w.fail("%s (%s) was never decided, and has effects", short(h.id), h.kind)
		}
	case core.Committed:
		if sum != 0 && !h.byHand && !h.reused {
			w.fail("%s (%s) is committed, and its effects add up to %d: some are missing, or happened twice", short(h.id), h.kind, sum)
		}
		if len(h.effects) > 0 {
			w.count("committed with effects")
		}
	case core.RolledBack:
		switch h.kind {
		case "publish", kindNames[kindCheckBack], kindNames[kindDTMMessage], kindNames[kindDTMWorkflow]:
			if h.byHand {
				return // an operator keeps a message back, or ends what only its client can undo
			}
		}
		if h.reused {
			return // barriers take its calls for those of the one before
		}
		for _, n := range rows {
			if n != 0 {
				w.fail("%s (%s) is rolled back, and an effect of it stays", short(h.id), h.kind)
				return
			}
		}
		if len(h.settled) > 0 {
			w.count("rolled back with branches")
		}
	}
}

// askAgain asks for every outcome once more, as anybody may.
func (w *world) askAgain() {
	n := w.newNode("asker", 0)
	n.start()
	answers := 0
	for _, h := range w.oracle.order {
		if h.begun == 0 {
			continue
		}
		n.spawn(func(p *proc) {
			a, err := p.ask(h.tc, 30*time.Second, func(ref core.Ref) core.Input { return core.Get{Ref: ref, XID: h.id} })
			answers++
			if h.key != "" {
				h.findAgain(p)
			}
			switch {
			case err != nil:
				w.fail("%s: nobody answers in the end", short(h.id))
			case a.Err != nil && a.Err.Kind == core.ErrExpiredXID && h.expired:
			case a.Err != nil && h.forgot, h.adopted && h.forgot && a.Tx.Outcome != core.Undecided:
			case a.Err != nil:
				w.fail("%s: asked for in the end: %v", short(h.id), a.Err)
			case a.Tx.Outcome == core.Undecided && h.stuck:
			case a.Tx.Outcome == core.Undecided:
				w.fail("%s is undecided in the end", short(h.id))
			case h.told != core.Undecided && a.Tx.Outcome != h.told:
				w.fail("%s: told %s, and in the end %s", short(h.id), outcomeNames[h.told], outcomeNames[a.Tx.Outcome])
			case a.Tx.Reason == core.ReasonOperator && a.Tx.Operator == "":
				w.fail("%s was rolled back by an operator, and nobody knows by whom", short(h.id))
			}
		})
	}
	w.run(w.now+time.Minute, func() bool { return len(n.procs) == 0 })
	w.trace.add(w.now, "world", fmt.Sprintf("asked for %d transactions", answers))
}
