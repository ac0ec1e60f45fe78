package core

import (
	"errors"
	"fmt"

	"github.com/handfast/handfast/xid"
)

// ErrImpossibleRecord is wrapped by every error of Fold.
var ErrImpossibleRecord = errors.New("impossible record")

// Fold applies one record to the transaction, the zero Transaction for the
// first. It is the only way in which durable state changes, while a machine
// runs and when a log is read back, so both always agree. On an error, which
// wraps ErrImpossibleRecord, the transaction is as it was.
func Fold(tx *Transaction, r Record) error {
	if r.Seq != tx.Records {
		return impossible(r, "sequence number %d, want %d", r.Seq, tx.Records)
	}
	if r.Kind == RecordBegin {
		if r.Seq != 0 || r.XID.IsZero() {
			return impossible(r, "begin has sequence number %d", r.Seq)
		}
		*tx = Transaction{XID: r.XID, Name: r.Name, Parent: r.Parent, Deadline: r.Deadline, Key: r.Key, Note: r.Note, Records: 1}
		return nil
	}
	if r.Seq == 0 || r.XID != tx.XID {
		return impossible(r, "does not belong to %s", tx.XID)
	}
	var err error
	switch r.Kind {
	case RecordBegin: // handled above
	case RecordRegister:
		err = foldRegister(tx, r)
	case RecordVote:
		err = foldVote(tx, r)
	case RecordDecide:
		err = foldDecide(tx, r)
	case RecordDone:
		err = foldDone(tx, r)
	case RecordSubmit:
		err = foldSubmit(tx, r)
	default:
		err = impossible(r, "unknown kind")
	}
	if err == nil {
		tx.Records++
	}
	return err
}

func foldRegister(tx *Transaction, r Record) error {
	switch {
	case tx.Outcome != Undecided:
		return impossible(r, "registration after the decision")
	case tx.branch(r.Branch) != nil:
		return impossible(r, "branch %s registered twice", r.Branch)
	case r.Vote != VoteNone && r.Vote != VoteYes:
		return impossible(r, "registration with vote %d", r.Vote)
	}
	if r.Plan != nil {
		for _, id := range r.Plan.After {
			if tx.branch(id) == nil {
				return impossible(r, "comes after branch %s, which is not registered", id)
			}
		}
	}
	tx.Branches = append(tx.Branches, Branch{
		ID: r.Branch, Resource: r.Resource, Mode: r.Mode, Name: r.Name, Plan: r.Plan, Vote: r.Vote, Result: r.Result, Registered: r.Time,
	})
	return nil
}

// foldSubmit: from here on nobody needs to ask for the commit again.
func foldSubmit(tx *Transaction, r Record) error {
	if tx.Outcome != Undecided || tx.Submitted {
		return impossible(r, "submitted after the decision, or twice")
	}
	tx.Submitted, tx.Phase, tx.Deadline = true, Collecting, r.Deadline
	return nil
}

func foldVote(tx *Transaction, r Record) error {
	b := tx.branch(r.Branch)
	switch {
	case tx.Outcome != Undecided:
		return impossible(r, "vote after the decision")
	case b == nil:
		return impossible(r, "vote of unknown branch %s", r.Branch)
	case b.Vote != VoteNone:
		return impossible(r, "second vote of branch %s", r.Branch)
	case r.Vote != VoteYes && r.Vote != VoteNo && r.Vote != VoteWithdrawn:
		return impossible(r, "vote %d", r.Vote)
	}
	b.Vote, b.VoteReason = r.Vote, r.Text
	if r.Result != nil {
		b.Result = r.Result
	}
	tx.NotBefore = later(tx.NotBefore, r.NotBefore)
	return nil
}

func foldDecide(tx *Transaction, r Record) error {
	if tx.Outcome != Undecided {
		return impossible(r, "second decision")
	}
	if r.Outcome != Committed && r.Outcome != RolledBack {
		return impossible(r, "outcome %d", r.Outcome)
	}
	if r.Outcome == Committed && !tx.allIn() {
		return impossible(r, "commit without every vote")
	}
	if r.Outcome == Committed && r.Abandoned {
		return impossible(r, "committed and given up in one")
	}
	tx.Outcome, tx.Reason, tx.Cause, tx.Operator = r.Outcome, r.Reason, r.Text, r.Operator
	tx.Decided = r.Time
	tx.Phase = Settling
	for i := range tx.Branches {
		b := &tx.Branches[i]
		if b.Plan != nil {
			if tx.owes(b, r.Outcome) {
				tx.Settlements = append(tx.Settlements, Settlement{
					Resource: b.action(b.opAfter(r.Outcome)).Lane, Branch: b.ID, Done: r.Abandoned, Abandoned: r.Abandoned,
				})
			}
			continue
		}
		s := tx.settlement(b.Resource)
		if s == nil {
			// Where every branch withdrew, nothing was left behind.
			tx.Settlements = append(tx.Settlements, Settlement{Resource: b.Resource, Done: true})
			s = &tx.Settlements[len(tx.Settlements)-1]
		}
		if b.Vote != VoteWithdrawn {
			s.Done = false
		}
	}
	tx.finishIfDone(r)
	return nil
}

func foldDone(tx *Transaction, r Record) error {
	s := tx.settlement(r.Resource)
	if r.Branch != (xid.BranchID{}) {
		s = tx.owed(r.Branch)
	}
	switch {
	case tx.Outcome == Undecided:
		return impossible(r, "settled before the decision")
	case s == nil:
		return impossible(r, "nothing is to be settled in resource %s or for branch %s", r.Resource, r.Branch)
	case s.Done:
		return impossible(r, "resource %s or branch %s settled twice", r.Resource, r.Branch)
	case r.Abandoned && s.Branch == (xid.BranchID{}):
		return impossible(r, "resource %s given up, which is no call", r.Resource)
	}
	s.Done, s.Abandoned, s.Attention, s.LastError, s.NotYet = true, r.Abandoned, false, "", false
	if r.Result != nil {
		tx.branch(r.Branch).Result = r.Result
	}
	tx.finishIfDone(r)
	return nil
}

func (t *Transaction) finishIfDone(r Record) {
	for i := range t.Settlements {
		if !t.Settlements[i].Done {
			return
		}
	}
	t.Phase, t.Finished = Finished, r.Time
}

// allIn tells whether every branch has voted, and none voted no.
func (t *Transaction) allIn() bool {
	for i := range t.Branches {
		if v := t.Branches[i].Vote; v != VoteYes && v != VoteWithdrawn {
			return false
		}
	}
	return true
}

func (t *Transaction) branch(id xid.BranchID) *Branch {
	for i := range t.Branches {
		if t.Branches[i].ID == id {
			return &t.Branches[i]
		}
	}
	return nil
}

// settlement is that of a resource; owed is that of a branch.
func (t *Transaction) settlement(r xid.ResourceID) *Settlement {
	for i := range t.Settlements {
		if s := &t.Settlements[i]; s.Resource == r && s.Branch == (xid.BranchID{}) {
			return s
		}
	}
	return nil
}

func (t *Transaction) owed(b xid.BranchID) *Settlement {
	for i := range t.Settlements {
		if t.Settlements[i].Branch == b {
			return &t.Settlements[i]
		}
	}
	return nil
}

func impossible(r Record, format string, args ...any) error {
	return fmt.Errorf("%w: %s %d (kind %d): %s", ErrImpossibleRecord, r.XID, r.Seq, r.Kind, fmt.Sprintf(format, args...))
}
