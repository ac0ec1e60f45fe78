package explore

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/handfast/handfast/tc/core"
)

// maxBranches is how many branches a transaction of a scene may have.
const maxBranches = 3

// env is what a world knows beside the machine, the log and the network. It has only
// single bytes, so that its memory is its canonical form.
type env struct {
	inc   uint8        // incarnation of the coordinator
	begun [maxTx]uint8 // the incarnation that it was begun in; 0: not yet
	told  [maxTx]uint8 // the outcome that somebody was told
	tm    [maxTx]uint8
	left  budget

	reg   [maxTx][maxBranches]uint8
	local [maxTx][maxBranches]uint8
	voted [maxTx][maxBranches]bool
	order [maxTx][maxBranches]uint8 // in which local transactions wrote to the one row
	att   [maxBranches]bool         // resources that are attached

	effect [maxBranches]uint8 // of participants that are called
	sender uint8              // of a message
}

// budget is what may still go wrong.
type budget struct {
	crashes, losses, doubles uint8
	deaths                   uint8 // of services: a local transaction, or who began, is gone
	janitors                 uint8 // questions of third parties
	operators                uint8 // rollbacks by hand
	breaks                   uint8 // victims of a deadlock
	detaches                 uint8
	refusals                 uint8 // a business says no
}

// world is a state of the search.
type world struct {
	env
	mid  id     // the machine
	dur  id     // the durable log, folded
	tail []id   // batches that are not durable
	out  []msg  // what waits for the log; a sorted set
	net  []msg  // a sorted set, too: two copies in flight are one
	bad  string // the promise that is broken
}

func (w *world) clone() *world {
	n := *w
	n.tail, n.out, n.net = slices.Clone(w.tail), slices.Clone(w.out), slices.Clone(w.net)
	return &n
}

// key is the canonical form.
func (w *world) key(buf []byte) []byte {
	buf = append(buf[:0], unsafe.Slice((*byte)(unsafe.Pointer(&w.env)), unsafe.Sizeof(w.env))...)
	num := func(n id) { buf = append(buf, byte(n), byte(n>>8), byte(n>>16), byte(n>>24)) }
	num(w.mid)
	num(w.dur)
	buf = append(buf, byte(len(w.tail)), byte(len(w.out)), byte(len(w.net)))
	for _, b := range w.tail {
		num(b)
	}
	for _, set := range [][]msg{w.out, w.net} {
		for i := range set {
			buf = append(buf, unsafe.Slice((*byte)(unsafe.Pointer(&set[i])), unsafe.Sizeof(msg{}))...)
		}
	}
	return buf
}

func (w *world) fail(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
	}
}

func compareMsg(a, b msg) int {
	x := unsafe.Slice((*byte)(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	y := unsafe.Slice((*byte)(unsafe.Pointer(&b)), unsafe.Sizeof(b))
	return slices.Compare(x, y)
}

func (w *world) put(m msg) { w.net = insert(w.net, m) }

func insert(set []msg, m msg) []msg {
	at, found := slices.BinarySearchFunc(set, m, compareMsg)
	if found {
		return set
	}
	return slices.Insert(set, at, m)
}

func (w *world) drop(m msg) {
	if at, found := slices.BinarySearchFunc(w.net, m, compareMsg); found {
		w.net = slices.Delete(w.net, at, at+1)
	}
}

// act is one thing that happens.
type act struct {
	k       actKind
	tx, br  uint8
	a       uint8
	m       msg
	doubled bool
}

// step is an act and what it leads to. A fault is nothing that progress may rest on.
type step struct {
	act   act
	fault bool
	w     *world
}

type actKind uint8

const (
	aBegin actKind = iota
	aSubmit
	aRegister
	aOpen
	aLocalCommit
	aLocalRollback
	aLocalRefuse
	aVote
	aVoteLost
	aCommit
	aRollback
	aOperator
	aBreak
	aJanitor
	aAttach
	aDetach
	aShortWait
	aDeadline
	aFlush
	aCrash
	aDeath
	aDeliver
	aLose
	aReplyLost
	aTry
	aSenderCommit
	aSenderAbort
)

// input steps the machine and keeps what it says.
func (e *explorer) input(w *world, in inKind, ev event) {
	ev.in = in
	ev.inc = w.begun[ev.tx]
	e.apply(w, e.ms.step(w.mid, ev, e.logged(w)))
}

// logged is the log with its tail, as the archive shows it.
func (e *explorer) logged(w *world) id {
	n := w.dur
	for _, b := range w.tail {
		n = e.ms.fold(n, b)
	}
	return n
}

func (e *explorer) apply(w *world, r moved) {
	if r.bad != "" {
		w.fail("%s", r.bad)
		return
	}
	w.mid = r.to
	if r.rec != 0 {
		w.tail = append(w.tail, r.rec)
	}
	for _, h := range r.msgs {
		if h.need && !e.leaky(h.m) {
			w.out = insert(w.out, h.m)
		} else {
			e.leave(w, h.m)
		}
	}
}

// leaky tells whether a planted fault lets a message out too early.
func (e *explorer) leaky(m msg) bool {
	switch e.scene.planted { //nolint:exhaustive // the others leak nothing
	case plantNaive:
		return true
	case plantNaiveRollback:
		return m.o == uint8(core.RolledBack)
	case plantUnforcedRegister:
		return m.k == toReply && m.who == whoRM && m.e == 0
	default:
		return false
	}
}

// leave is when something is told. A reply takes effect at once: that its receiver does
// nothing yet is what it is while the reply is under way. What is kept on the network is
// what may do something else when it comes late.
func (e *explorer) leave(w *world, m msg) {
	if o := m.o; o != 0 {
		if old := w.told[m.tx]; old != 0 && old != o {
			w.fail("told %s of %s, before that %s", outcome(o), txName(m.tx), outcome(old))
		}
		w.told[m.tx] = o
	}
	switch m.k { //nolint:exhaustive // the default is for the others
	case toTell:
	case toReply:
		if core.ErrorKind(m.e) == core.ErrUnknownXID && w.told[m.tx] != 0 && e.scene.planted != plantUnknownUndoes {
			w.fail("%s is told to be unknown, before that to be %s", txName(m.tx), outcome(w.told[m.tx]))
		}
		e.rules.replied(w, m)
	case toCall: // those before it are of an earlier attempt
		for i := range w.net {
			if n := &w.net[i]; (n.k == toCall || n.k == backCalled) && n.tx == m.tx && n.br == m.br && n.e == m.e && n.age == 0 {
				n.age = 1
			}
		}
		slices.SortFunc(w.net, compareMsg)
		w.net = slices.Compact(w.net)
		w.put(m)
	default:
		w.put(m)
	}
}

// flush makes the log durable. To make only the beginning of the tail durable is to do
// it before the rest comes: the machine does not notice.
func (e *explorer) flush(w *world) {
	w.dur, w.tail = e.logged(w), nil
	w.mid = e.ms.flushed(w.mid)
	out := w.out
	w.out = nil
	for _, m := range out {
		e.leave(w, m)
	}
}

// crash loses the tail but for its oldest batches, and what waited for it, and starts
// the next incarnation from the log.
func (e *explorer) crash(w *world, keep int) {
	for _, b := range w.tail[:keep] {
		w.dur = e.ms.fold(w.dur, b)
	}
	w.tail, w.out = nil, nil
	w.inc++
	w.att = [maxBranches]bool{}
	w.net = slices.DeleteFunc(w.net, func(m msg) bool { return m.k == backCalled })
	for i := range w.net {
		if w.net[i].k == toCall {
			w.net[i].age = stale // it may still arrive, but its answer goes to nobody
		}
	}
	slices.SortFunc(w.net, compareMsg)
	w.net = slices.Compact(w.net)
	e.rules.crashed(w)
	boot := e.ms.boot(w.mid, w.inc, w.dur)
	for _, r := range e.ms.batches[boot.rec] {
		if r.Outcome == core.RolledBack && r.Reason != core.ReasonVotedNo {
			w.fail("the crash rolls %s back", txName(txOf(r.XID)))
		}
	}
	e.apply(w, boot)
	if !e.scene.attach {
		e.attachAll(w)
	}
}

const stale = 255

func (e *explorer) attachAll(w *world) {
	for _, r := range e.scene.resources() {
		w.att[r] = true
		e.input(w, inAttached, event{br: r})
	}
}

// common are the acts that every scene has.
func (e *explorer) common(w *world) {
	st := &e.ms.all[w.mid]
	if len(w.tail) > 0 {
		e.to(act{k: aFlush}, w, func(n *world) { e.flush(n) })
	}
	if st.soon && e.scene.planted != plantNoRetry {
		e.to(act{k: aShortWait}, w, func(n *world) { e.input(n, inShortWait, event{}) })
	}
	if st.expire && !e.scene.noExpiry {
		e.to(act{k: aDeadline}, w, func(n *world) { e.input(n, inDeadline, event{}) })
	}
	if w.left.crashes > 0 {
		for keep := range len(w.tail) + 1 {
			e.fault(act{k: aCrash, a: uint8(keep)}, w, func(n *world) {
				n.left.crashes--
				if p := e.scene.planted; (p == plantLyingDisk || p == plantUnknownUndoes) && n.dur != 0 && keep == 0 {
					n.dur = 0 // what was forced is gone, too
				}
				e.crash(n, keep)
			})
		}
	}
	for _, m := range w.net {
		e.rules.deliver(w, m, false)
		if w.left.doubles > 0 && m.k != toCall && m.k != backCalled {
			e.rules.deliver(w, m, true)
		}
		if w.left.losses > 0 {
			e.fault(act{k: aLose, m: m}, w, func(n *world) {
				n.left.losses--
				n.drop(m)
			})
		}
	}
	if e.scene.attach {
		for _, r := range e.scene.resources() {
			if !w.att[r] {
				e.to(act{k: aAttach, br: r}, w, func(n *world) {
					n.att[r] = true
					e.input(n, inAttached, event{br: r})
				})
			} else if w.left.detaches > 0 {
				e.fault(act{k: aDetach, br: r}, w, func(n *world) {
					n.left.detaches--
					n.att[r] = false
					e.input(n, inDetached, event{br: r})
				})
			}
		}
	}
}

// delivered takes a message from the network, or leaves a copy there.
func (e *explorer) delivered(w *world, m msg, doubled bool, variant uint8, do func(*world)) {
	a := act{k: aDeliver, m: m, doubled: doubled, a: variant}
	e.emit(a, doubled, w, func(n *world) {
		if doubled {
			n.left.doubles--
		} else {
			n.drop(m)
		}
		do(n)
	})
}

func (e *explorer) to(a act, w *world, do func(*world))    { e.emit(a, false, w, do) }
func (e *explorer) fault(a act, w *world, do func(*world)) { e.emit(a, true, w, do) }

func (e *explorer) emit(a act, fault bool, w *world, do func(*world)) {
	n := w.clone()
	do(n)
	e.steps = append(e.steps, step{a, fault, n})
}

func txName(tx uint8) string { return "X" + string('1'+rune(tx)) }

func brName(br uint8) string { return "B" + string('1'+rune(br)) }

func outcome(o uint8) string {
	return [...]string{"undecided", "commit", "rollback"}[o]
}

func (m msg) String() string {
	var b strings.Builder
	fmt.Fprint(&b, [...]string{"reply", "told", "Settle", "AskVote", "Call", "Settled", "Answered", "Called"}[m.k])
	fmt.Fprintf(&b, "(%s", txName(m.tx))
	switch m.k { //nolint:exhaustive // the default is for the others
	case toReply:
		fmt.Fprintf(&b, " to %s", [...]string{"", "RM's register", "RM's vote", "TM", "operator", "janitor", "TM's submit"}[m.who])
		if m.who == whoRM || m.who == whoVote {
			fmt.Fprintf(&b, " %s", brName(m.br))
		}
		if m.e != 0 {
			fmt.Fprintf(&b, ": refused, kind %d", m.e)
		} else {
			fmt.Fprintf(&b, ": %s", outcome(m.o))
		}
	case toSettle, backSettled:
		fmt.Fprintf(&b, " in D%d: %s", m.br+1, outcome(m.o))
		if m.k == backSettled && m.yes == 0 {
			fmt.Fprint(&b, ", not yet")
		}
	case backAnswered:
		fmt.Fprintf(&b, " %s: %s", brName(m.br), [...]string{"", "yes", "no", "withdrawn"}[m.o])
	case toCall:
		fmt.Fprintf(&b, " %s %s", brName(m.br), opName(m.e))
	case backCalled:
		fmt.Fprintf(&b, " %s %s: %s", brName(m.br), opName(m.e), [...]string{"unsure", "done", "not yet", "failed"}[m.o])
	default:
		fmt.Fprintf(&b, " %s", brName(m.br))
	}
	if m.age > 0 {
		fmt.Fprint(&b, ", an earlier attempt")
	}
	return b.String() + ")"
}

func opName(op uint8) string { return [...]string{"", "forward", "commit", "rollback"}[op] }

func (a act) String() string {
	tx, br := txName(a.tx), brName(a.br)
	switch a.k {
	case aBegin:
		return "TM begins " + tx
	case aSubmit:
		return "TM submits " + tx
	case aRegister:
		return fmt.Sprintf("register %s of %s", br, tx)
	case aOpen:
		return fmt.Sprintf("%s of %s opens its local transaction and writes", br, tx)
	case aLocalCommit:
		return fmt.Sprintf("local commit of %s of %s", br, tx)
	case aLocalRollback:
		return fmt.Sprintf("local rollback of %s of %s", br, tx)
	case aLocalRefuse:
		return fmt.Sprintf("%s of %s rolls back behind a tombstone and votes no", br, tx)
	case aVote:
		return fmt.Sprintf("%s of %s votes", br, tx)
	case aVoteLost:
		return fmt.Sprintf("the vote of %s of %s is lost", br, tx)
	case aCommit:
		return "TM asks to commit " + tx
	case aRollback:
		return "TM asks to roll back " + tx
	case aOperator:
		return "an operator rolls back " + tx
	case aBreak:
		return fmt.Sprintf("%s is the victim of a deadlock", tx)
	case aJanitor:
		return fmt.Sprintf("a third party in D%d asks for the outcome of %s", a.br+1, tx)
	case aAttach:
		return fmt.Sprintf("an RM of D%d attaches", a.br+1)
	case aDetach:
		return fmt.Sprintf("the RM of D%d detaches", a.br+1)
	case aShortWait:
		return "pauses end"
	case aDeadline:
		return "the next deadline passes"
	case aFlush:
		return "the log becomes durable"
	case aCrash:
		return fmt.Sprintf("CRASH of the coordinator; %d batches of the tail survive", a.a)
	case aDeath:
		return fmt.Sprintf("the service of %s of %s dies", br, tx)
	case aDeliver:
		how := map[bool]string{true: "a copy of "}[a.doubled]
		if a.a > 0 {
			return fmt.Sprintf("%s%s arrives, variant %d", how, a.m, a.a)
		}
		return fmt.Sprintf("%s%s arrives", how, a.m)
	case aLose:
		return fmt.Sprintf("%s is lost", a.m)
	case aReplyLost:
		return fmt.Sprintf("%s was lost", a.m)
	case aTry:
		return fmt.Sprintf("Try of %s of %s", br, tx)
	case aSenderCommit:
		return "the sender's local transaction commits"
	case aSenderAbort:
		return "the sender's local transaction is rolled back"
	}
	return fmt.Sprint(a.k)
}
