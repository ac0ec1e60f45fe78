package core

import (
	"fmt"

	"github.com/handfast/handfast/xid"
)

// find gives the transaction, or refuses the request. A request never makes a
// transaction: only Begin does.
func (m *Machine) find(ref Ref, id xid.ID) *txn {
	if e := m.misfit(id); e != nil {
		m.refuse(ref, 0, e)
		return nil
	}
	return m.txs[id]
}

// misfit says why nothing may be done under the XID; nil: something may.
func (m *Machine) misfit(id xid.ID) *Error {
	fail := func(k ErrorKind, format string, args ...any) *Error {
		return &Error{Kind: k, XID: id, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case id.Store() != m.cfg.Store:
		return fail(ErrForeignStore, "XID %s was issued by store %s; this coordinator has store %s", id, id.Store(), m.cfg.Store)
	case id.Incarnation() > m.cfg.Incarnation:
		return fail(ErrQuarantined, "XID %s was issued by incarnation %d of this store, which is only at %d: it was restored from an older copy",
			id, id.Incarnation(), m.cfg.Incarnation)
	case m.quarantined(id):
		return fail(ErrQuarantined, "XID %s is of incarnation %d; incarnations below %d are in quarantine until an operator adopts the store",
			id, id.Incarnation(), m.cfg.QuarantineBelow)
	case m.Known(id):
		return nil
	case !id.Begin().After(m.cfg.Horizon):
		return fail(ErrExpiredXID, "XID %s is not known any more: outcomes are kept since %s", id, m.cfg.Horizon.UTC())
	case id.Incarnation() < m.cfg.Incarnation:
		return fail(ErrUnknownXID, "XID %s is not known: the coordinator stopped before the transaction had a branch", id)
	default:
		return fail(ErrUnknownXID, "XID %s is not known: this coordinator never issued it", id)
	}
}

func (m *Machine) quarantined(id xid.ID) bool {
	return id.Incarnation() < m.cfg.QuarantineBelow
}

// quarantine holds or frees what earlier incarnations left.
func (m *Machine) quarantine(in Quarantine) {
	m.cfg.QuarantineBelow = in.Below
	for _, tx := range m.byAge() {
		m.schedule(tx)
	}
	for _, r := range m.resourcesInOrder() {
		m.pump(r)
	}
}

func decidedError(tx *txn) *Error {
	id := tx.t.XID
	if tx.t.Outcome == Committed {
		return &Error{Kind: ErrCommitted, XID: id, Message: fmt.Sprintf("transaction %s is committed", id)}
	}
	return &Error{
		Kind: ErrRolledBack, XID: id, Reason: tx.t.Reason, Cause: tx.t.Cause,
		Message: fmt.Sprintf("transaction %s is rolled back: %s", id, rollbackText(tx.t.Reason, tx.t.Cause)),
	}
}

func rollbackText(r Reason, cause string) string {
	var why string
	switch r {
	case ReasonRequested:
		why = "requested"
	case ReasonTimeout:
		why = "timed out"
	case ReasonVotedNo:
		why = "a branch voted no"
	case ReasonOperator:
		why = "by an operator"
	case ReasonDeadlock:
		why = "deadlock"
	case ReasonNone:
		why = "no reason recorded"
	}
	if cause == "" {
		return why
	}
	return why + ": " + cause
}
