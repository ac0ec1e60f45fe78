package sim

import (
	"errors"

	"github.com/handfast/handfast/tc/core"
)

// Errors of package fence.
var (
	errLate         = errors.New("fence: the branch is rolled back")
	errNoForward    = errors.New("fence: there was no forward action")
	errContradicted = errors.New("fence: contradicted")
	errBusy         = errors.New("fence: another call of the branch is under way")
)

// enter is handfast.action_enter: what is to be done with a call. run tells to make the
// effect, in this local transaction; otherwise the call is answered with result or err.
func (l *local) enter(p *proc, k branchKey, op core.Op) (run bool, result string, err error) {
	d := l.d
	if !l.lock(p, lockKey{kind: 'a', b: k}, lockTimeout) {
		return false, "", errBusy
	}
	a, there := d.actions[k]
	set := func(state byte) {
		if l.actions == nil {
			l.actions = map[branchKey]action{}
		}
		l.acts = append(l.acts, k)
		a.state = state
		l.actions[k] = a
	}
	if d.w.plant == plantNoIdempotency {
		if op == core.OpForward {
			set('F')
		}
		return true, "", nil
	}
	switch op {
	case core.OpForward:
		switch a.state {
		case 'F', 'C':
			return false, a.forward, nil
		case 'R', 'T':
			return false, "", errLate
		}
		set('F')
		return true, "", nil
	case core.OpCommit:
		switch {
		case !there:
			return false, "", errNoForward
		case a.state == 'C':
			return false, a.ending, nil
		case a.state != 'F':
			return false, "", errContradicted
		}
		set('C')
		return true, "", nil
	case core.OpRollback:
		switch {
		case !there:
			if d.w.plant != plantNoEmptyRollback {
				set('T') // empty: remembered, so that the forward action stays out
			}
			return false, "", nil
		case a.state == 'R':
			return false, a.ending, nil
		case a.state == 'T':
			return false, "", nil
		case a.state == 'C':
			return false, "", errContradicted
		}
		set('R')
		return true, "", nil
	}
	return false, "", errContradicted
}

// leave is handfast.action_leave.
func (l *local) leave(k branchKey, op core.Op, result string) {
	a := l.actions[k]
	if op == core.OpForward {
		a.forward = result
	} else {
		a.ending = result
	}
	l.actions[k] = a
}
