package sim

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Errors of user code.
var (
	errFailedForGood = errors.New("failed for good")
	errPanic         = errors.New("panic")
	errUser          = errors.New("user code failed")
)

// payload is what an action is to do: changes of rows. It travels, and is stored, as
// the payload of a real action.
type payload struct {
	changes []change
	refuses bool // the forward action fails for good
	wavers  bool // with refuses: only every other time
	kind    payloadKind
	seed    uint64 // of a workflow that a gid stands for
	goesOn  bool   // a workflow that takes another step where one is refused
}

type payloadKind byte

const (
	payloadEffect payloadKind = iota
	payloadWorkflow
	payloadCheckBack
	payloadGidWorkflow
)

func (a payload) encode() []byte {
	b := []byte{byte(a.kind), 0}
	if a.refuses {
		b[1] |= 1
	}
	if a.goesOn {
		b[1] |= 2
	}
	if a.kind == payloadGidWorkflow {
		return appendSeed(b, a.seed)
	}
	for _, c := range a.changes {
		b = binary.AppendVarint(b, int64(c.key))
		b = binary.AppendVarint(b, int64(c.add))
	}
	return b
}

func decodePayload(b []byte) (a payload) {
	a.kind, a.refuses, a.goesOn = payloadKind(b[0]), b[1]&1 > 0, b[1]&2 > 0
	if b = b[2:]; a.kind == payloadGidWorkflow {
		a.seed, b = binary.BigEndian.Uint64(b), nil
	}
	for len(b) > 0 {
		k, n := binary.Varint(b)
		b = b[n:]
		v, n := binary.Varint(b)
		b = b[n:]
		a.changes = append(a.changes, change{key: int(k), add: int(v)})
	}
	return a
}

// asked is which attempt at a call it was, and in which life of the coordinator.
type asked struct{ life, attempt uint32 }

// callCommand is client.dispatchCall and package handlers: one run of a call at a time
// in a process.
func (s *service) callCommand(m core.Call, life uint32, seed uint64) {
	key := callKey{branchKey{m.XID, m.Branch}, m.Op}
	if by := s.calls[key]; by != nil {
		*by = asked{life, m.Attempt}
		return
	}
	by := asked{life, m.Attempt}
	s.calls[key] = &by
	s.spawnWith(seed, func(p *proc) {
		result, err := s.handle(p, m)
		delete(s.calls, key)
		delete(s.since, key)
		in := core.Called{XID: m.XID, Branch: m.Branch, Op: m.Op, Attempt: by.attempt}
		switch {
		case err == nil:
			in.Verdict, in.Result = core.Done, []byte(result)
		case errors.Is(err, errFailedForGood), errors.Is(err, errLate):
			in.Verdict, in.Text = core.Failed, err.Error()
		case errors.Is(err, errNotYet):
			in.Verdict, in.Text = core.NotYet, err.Error()
		default:
			in.Verdict, in.Text = core.Unsure, err.Error()
			in.NeedsAttention = errors.Is(err, errPanic)
		}
		s.note("called", m.XID, m.Branch, m.Op, in.Verdict)
		s.w.oracle.answered(s, m, in)
		p.send(s.tc.node, func() { s.tc.routes.called(s, in, by.life) })
	})
}

var errNotYet = errors.New("not yet")

// handle is user code behind a fence.
func (s *service) handle(p *proc, m core.Call) (string, error) {
	a := decodePayload(m.Action.Payload)
	if a.kind == payloadWorkflow {
		return s.runWorkflow(p, m)
	}
	if err := s.mood(p); err != nil {
		return "", err
	}
	if a.kind == payloadCheckBack {
		return s.hasCommitted(p, m.XID, branchKey{m.XID, xid.BranchOf(m.XID, "local")})
	}
	out, err := s.fenced(p, branchKey{m.XID, m.Branch}, m.Op, a)
	if err == nil && p.rng.chance(s.w.moods) {
		s.w.count("user code that was late")
		p.nap(100*time.Millisecond, 4*time.Second)
	}
	return out, err
}

// hasCommitted answers a check-back: yes where the local transaction has committed, and
// otherwise a no that keeps it out.
func (s *service) hasCommitted(p *proc, x xid.ID, k branchKey) (string, error) {
	l := s.db.begin(s.node)
	defer l.abort()
	if !s.trip(p, l) {
		return "", errBroken
	}
	if !l.lock(p, lockKey{kind: 'a', b: k}, lockTimeout) {
		return "", errBusy
	}
	switch a := s.db.actions[k]; a.state {
	case 'F':
		return a.forward, nil
	case 0:
		l.acting.x = x
		l.actions, l.acts = map[branchKey]action{k: {state: 'T'}}, []branchKey{k}
		l.commit(true)
	}
	return "", errFailedForGood
}

// mood is user code that fails, panics, hangs or is slow.
func (s *service) mood(p *proc) error {
	p.nap(50*time.Microsecond, 2*time.Millisecond)
	if !p.rng.chance(s.w.moods) {
		return nil
	}
	switch p.rng.below(5) {
	case 0:
		s.w.count("user code that failed")
		return errUser
	case 1:
		s.w.count("user code that panicked")
		return errPanic
	case 2:
		return errNotYet
	case 3:
		s.w.count("user code that hung")
		p.nap(2*time.Second, 12*time.Second)
	default:
		p.nap(10*time.Millisecond, time.Second)
	}
	return nil
}

// fenced is fence.Run: the effect, and the memory that it was made, in one local
// transaction.
func (s *service) fenced(p *proc, k branchKey, op core.Op, a payload) (string, error) {
	return s.fencedAs(p, k, k, op, a)
}

// fencedAs is fenced where the branch that has the effect is remembered as another.
func (s *service) fencedAs(p *proc, k, by branchKey, op core.Op, a payload) (string, error) {
	l := s.db.begin(s.node)
	defer l.abort()
	if !s.trip(p, l) {
		return "", errBroken
	}
	if s.w.plant == plantAmbientXID {
		l.x, l.b = k.x, p.newBranchID()
	}
	l.acting = by
	run, result, err := l.enter(p, k, op)
	if err != nil {
		return "", err
	}
	if run {
		if op == core.OpForward && (a.refuses && (!a.wavers || p.rng.below(2) == 0) || p.rng.chance(s.w.moods/3)) {
			s.w.count("user code that refused")
			return "", errFailedForGood
		}
		for _, c := range a.changes {
			if !s.trip(p, l) {
				return "", errBroken
			}
			if err := l.update(p, c); err != nil {
				if errors.Is(err, errInsufficient) && op == core.OpForward {
					return "", errFailedForGood
				}
				return "", err
			}
		}
		result = op2text(op) + k.b.String()[:8]
		if s.w.plant != plantNoIdempotency {
			l.leave(k, op, result)
		}
		l.barrier, l.op = k, op
	}
	if l.ended || !s.trip(p, l) {
		return "", errBroken
	}
	l.commit(true)
	p.nap(20*time.Microsecond, 300*time.Microsecond)
	if p.rng.chance(4 * s.w.breaks) {
		return "", errBroken // the answer to COMMIT is lost
	}
	return result, nil
}

func op2text(op core.Op) string { return opNames[op] + " of " }
