package core

import (
	"fmt"

	"github.com/handfast/handfast/xid"
)

// plannedWeight is about what the memory of a branch with a plan takes that holds
// nothing: the structs of branch, plan, settlement and legs, and some words about
// how its calls go. It bounds the number of branches that are next to empty.
const plannedWeight = 1 << 10

// Held is how many bytes the branches of a transaction hold: what their callers
// chose the length of, and a constant for each that has a plan.
func (t *Transaction) Held() int64 {
	sum := noted(t.Key, t.Note)
	for i := range t.Branches {
		sum += t.Branches[i].weight()
	}
	return sum
}

// noted is what the words of whoever began a transaction weigh.
func noted(key string, note []byte) int64 { return int64(len(key) + len(note)) }

func (in *Begin) weight() int64 { return noted(in.Key, in.Note) }

// weight is what a branch adds to Held.
func (b *Branch) weight() int64 {
	n := len(b.Result) + len(b.VoteReason)
	if p := b.Plan; p != nil {
		n += plannedWeight + len(b.Name) + len(p.After)*len(xid.BranchID{})
		n += p.Forward.weight() + p.Commit.weight() + p.Rollback.weight()
	}
	return int64(n)
}

func (a *Action) weight() int {
	const header = 32 // two strings without their bytes
	n := len(a.Address) + len(a.Payload) + len(a.Verb)
	for _, h := range a.Header {
		n += header + len(h.Name) + len(h.Value)
	}
	return n
}

// weight is what a registration adds to Held if it is taken. A branch without a
// plan is settled by resource managers and weighs nothing, as far as room goes.
func (in *Register) weight() int64 {
	if in.Plan == nil {
		return 0
	}
	return (&Branch{Name: in.Name, Plan: in.Plan, Result: in.Result}).weight()
}

// Weight is how many bytes of room an input asks for; zero where it is never
// refused for want of room.
func Weight(in Input) int64 {
	switch in := in.(type) {
	case Begin:
		return in.weight()
	case Register:
		return in.weight()
	case Submit:
		sum := int64(0)
		for i := range in.Branches {
			sum += in.Branches[i].weight()
		}
		return sum
	default:
		return 0
	}
}

// weightChangedBy is the weight of the branch that a record may change the weight
// of: zero, without a look, where it changes none. What a database is registered
// and votes with is the most, and costs nothing here.
func (t *Transaction) weightChangedBy(r *Record) int64 {
	if r.Plan == nil && len(r.Result) == 0 && len(r.Text) == 0 {
		return 0
	}
	if b := t.branch(r.Branch); b != nil {
		return b.weight()
	}
	return 0
}

// hold keeps account of what open transactions hold.
func (m *Machine) hold(tx *txn, bytes int64) {
	tx.held += bytes
	m.held += bytes
}

// roomFor refuses branches with plans that there is no room for.
func (m *Machine) roomFor(tx *txn, news ...Register) *Error {
	need := int64(0)
	for i := range news {
		need += news[i].weight()
	}
	return m.room(tx, need)
}

// room refuses what there is no room for. The last eighth is for transactions with
// branches that hold something already: those can end, and give room again, only
// if they get further.
func (m *Machine) room(tx *txn, need int64) *Error {
	room := m.cfg.MaxHeld - m.held - m.elsewhere
	if tx.held == noted(tx.t.Key, tx.t.Note) {
		room -= m.cfg.MaxHeld / 8
	}
	if need == 0 || need <= room {
		return nil
	}
	return &Error{Kind: ErrLimit, XID: tx.t.XID, Message: fmt.Sprintf(
		"no room for %d bytes: open transactions hold %d bytes (limit %d); try again", need, m.held+m.elsewhere, m.cfg.MaxHeld)}
}
