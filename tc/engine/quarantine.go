package engine

import (
	"errors"
	"fmt"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Witness is a point in the life of a store that somebody outside has seen.
type Witness struct {
	Store       xid.StoreID
	Incarnation uint32
	Position    uint64
}

// CheckWitness compares a witness with the store. If the store can't have
// reached that point, it was restored from an older copy: everything of its
// earlier incarnations goes into quarantine, and the error says what was seen
// and wraps ErrQuarantined. A witness of another store says nothing.
func (e *Engine) CheckWitness(w Witness) error {
	why := e.beyond(w)
	if why == "" || e.accepts(w) {
		return nil
	}
	if err := e.Quarantine(e.meta.Incarnation, why); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", ErrQuarantined, why)
}

// ErrQuarantined tells that the store is older than what it issued.
var ErrQuarantined = errors.New("the store was restored from an older copy")

// accepts tells whether an operator has adopted the store although the witness
// was known; otherwise it is noted, as what the next adoption accepts.
func (e *Engine) accepts(w Witness) bool {
	e.quarantine.Lock()
	defer e.quarantine.Unlock()
	if !e.accepted.before(w) {
		return true
	}
	if e.seen.before(w) {
		e.seen = w
	}
	return false
}

// before orders witnesses of one store.
func (w Witness) before(o Witness) bool {
	if w.Incarnation != o.Incarnation {
		return w.Incarnation < o.Incarnation
	}
	return w.Position < o.Position
}

func (e *Engine) beyond(w Witness) string {
	switch {
	case w.Store != e.meta.Store:
		return ""
	case w.Incarnation > e.meta.Incarnation:
		return fmt.Sprintf("a witness has seen incarnation %d of store %s, which is only at %d",
			w.Incarnation, w.Store, e.meta.Incarnation)
	case w.Incarnation == e.meta.Incarnation:
		if end := e.st.Position(); w.Position > end {
			return fmt.Sprintf("a witness has seen position %d in incarnation %d of store %s, which is only at %d",
				w.Position, w.Incarnation, w.Store, end)
		}
	default:
		if end, found := e.st.EndOf(w.Incarnation); !found {
			return fmt.Sprintf("a witness has seen incarnation %d of store %s, which never had it", w.Incarnation, w.Store)
		} else if w.Position > end {
			return fmt.Sprintf("a witness has seen position %d in incarnation %d of store %s, which ended at %d",
				w.Position, w.Incarnation, w.Store, end)
		}
	}
	return ""
}

// Quarantine makes every transaction of an incarnation below the given one
// read-only, durably. A quarantine that is as wide already stays as it is.
func (e *Engine) Quarantine(below uint32, reason string) error {
	e.quarantine.Lock()
	defer e.quarantine.Unlock()
	if e.st.Meta().QuarantineBelow >= below {
		return nil
	}
	if err := e.st.Quarantine(below, reason); err != nil {
		e.fail(fmt.Errorf("engine: quarantine the store: %w", err))
		return e.Err()
	}
	e.Post(core.Quarantine{Below: below})
	e.log.Error("the store is older than what it issued: transactions of earlier incarnations are in quarantine until an operator adopts the store",
		"below_incarnation", below, "reason", reason)
	return nil
}

// Adopt ends the quarantine. What witnesses have seen so far does not begin
// another one, until the engine is started anew.
func (e *Engine) Adopt(operator string) error {
	e.quarantine.Lock()
	defer e.quarantine.Unlock()
	e.accepted = e.seen
	meta := e.st.Meta()
	if meta.QuarantineBelow == 0 {
		return nil
	}
	if err := e.st.Quarantine(0, ""); err != nil {
		e.fail(fmt.Errorf("engine: adopt the store: %w", err))
		return e.Err()
	}
	e.Post(core.Quarantine{})
	e.log.Warn("an operator has adopted the store: the quarantine is over",
		"operator", operator, "below_incarnation", meta.QuarantineBelow, "reason", meta.QuarantineReason)
	return nil
}
