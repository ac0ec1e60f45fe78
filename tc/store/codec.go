package store

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Field numbers of store.v1.Record.
const (
	recordKind = iota + 1
	recordTime
	recordName
	recordParent
	recordDeadline
	recordBranch
	recordResource
	recordMode
	recordVote
	recordOutcome
	recordReason
	recordText
	recordOperator
	recordPlan
	recordResult
	_ // was: a vote no answers the only attempt
	recordKey
	recordNote
	recordNotBefore
	recordAbandoned
)

// Field numbers of store.v1.Finished.
const (
	finishedName = iota + 1
	finishedParent
	finishedDeadline
	finishedOutcome
	finishedReason
	finishedCause
	finishedOperator
	finishedDecided
	finishedFinished
	finishedRecords
	finishedBranches
	finishedResources
	finishedCalled
	finishedSubmitted
	finishedKey
	finishedNote
	finishedNotBefore
	finishedAbandoned
)

// Field numbers of store.v1.Branch.
const (
	branchID = iota + 1
	branchResource
	branchMode
	branchVote
	branchVoteReason
	branchRegistered
	branchName
	branchPlan
	branchResult
)

// AppendRecord appends the encoded record to b. XID and Seq are not part of
// it: they belong to the key. Times lose what is finer than a millisecond, and
// bytes that are no UTF-8 are replaced in texts. It is an error to encode what
// DecodeRecord would refuse: a store with such a record could not be read again.
func AppendRecord(b []byte, r core.Record) ([]byte, error) {
	if err := checkRecord(&r); err != nil {
		return b, fmt.Errorf("record %d of %s can't be stored: %w", r.Seq, r.XID, err)
	}
	e := encoder{b: b}
	e.uint(recordKind, uint64(r.Kind))
	e.time(recordTime, r.Time)
	e.text(recordName, r.Name)
	e.xid(recordParent, r.Parent)
	e.time(recordDeadline, r.Deadline)
	e.id(recordBranch, r.Branch)
	e.id(recordResource, r.Resource)
	e.uint(recordMode, uint64(r.Mode))
	e.uint(recordVote, uint64(r.Vote))
	e.uint(recordOutcome, uint64(r.Outcome))
	e.uint(recordReason, uint64(r.Reason))
	e.text(recordText, r.Text)
	e.text(recordOperator, r.Operator)
	e.plan(recordPlan, r.Plan, true)
	e.blob(recordResult, r.Result)
	e.text(recordKey, r.Key)
	e.blob(recordNote, r.Note)
	e.time(recordNotBefore, r.NotBefore)
	e.flag(recordAbandoned, r.Abandoned)
	if e.err != nil {
		return b, fmt.Errorf("record %d of %s can't be stored: %w", r.Seq, r.XID, e.err)
	}
	return e.b, nil
}

// DecodeRecord reads what AppendRecord wrote. Anything else is ErrCorrupt.
func DecodeRecord(id xid.ID, seq uint32, b []byte) (core.Record, error) {
	r := core.Record{XID: id, Seq: seq}
	d := decoder{b: b}
	for d.next() {
		switch d.field {
		case recordKind:
			r.Kind = core.RecordKind(d.enum("kind", uint64(core.RecordSubmit)))
		case recordTime:
			r.Time = d.time("time")
		case recordName:
			r.Name = d.text("name")
		case recordParent:
			r.Parent = d.xid("parent")
		case recordDeadline:
			r.Deadline = d.time("deadline")
		case recordBranch:
			r.Branch = d.id("branch")
		case recordResource:
			r.Resource = d.id("resource")
		case recordMode:
			r.Mode = core.Mode(d.enum("mode", uint64(core.ModeWorkflow)))
		case recordVote:
			r.Vote = core.Vote(d.enum("vote", uint64(core.VoteWithdrawn)))
		case recordOutcome:
			r.Outcome = core.Outcome(d.enum("outcome", uint64(core.RolledBack)))
		case recordReason:
			r.Reason = core.Reason(d.enum("reason", uint64(core.ReasonDeadlock)))
		case recordText:
			r.Text = d.text("text")
		case recordOperator:
			r.Operator = d.text("operator")
		case recordPlan:
			r.Plan = d.plan()
		case recordResult:
			r.Result = d.blob("result")
		case recordKey:
			r.Key = d.text("key")
		case recordNote:
			r.Note = d.blob("note")
		case recordNotBefore:
			r.NotBefore = d.time("moment before which nothing is committed")
		case recordAbandoned:
			r.Abandoned = d.enum("abandoned", 1) == 1
		default:
			d.unknown()
		}
	}
	err := d.err
	if err == nil {
		err = checkRecord(&r)
	}
	if err != nil {
		return core.Record{}, fmt.Errorf("%w: transaction %s, record %d: %w", ErrCorrupt, id, seq, err)
	}
	return r, nil
}

// checkRecord tells whether the record has what its kind needs.
func checkRecord(r *core.Record) error {
	noBranch, noResource := r.Branch == (xid.BranchID{}), r.Resource == (xid.ResourceID{})
	switch r.Kind {
	case core.RecordBegin:
		return checkKey(r.Key)
	case core.RecordRegister:
		if noBranch || !whole(r.Resource, r.Mode, r.Plan) {
			return errors.New("registration without branch, mode, or resource or plan")
		}
		if r.Vote > core.VoteYes {
			return errors.New("registration with a vote other than yes")
		}
	case core.RecordVote:
		if noBranch || r.Vote < core.VoteYes || r.Vote > core.VoteWithdrawn {
			return errors.New("vote without branch or vote")
		}
	case core.RecordDecide:
		if r.Outcome != core.Committed && r.Outcome != core.RolledBack {
			return errors.New("decision without outcome")
		}
	case core.RecordDone:
		if noResource == noBranch {
			return errors.New("done without resource or branch, or with both")
		}
	case core.RecordSubmit:
	default:
		return fmt.Errorf("kind %d", r.Kind)
	}
	return nil
}

// checkKey: a key that is mended like other texts would be another one.
func checkKey(key string) error {
	if !utf8.ValidString(key) {
		return fmt.Errorf("key %.100q is no UTF-8", key)
	}
	return nil
}

// whole tells whether a branch has what its mode needs.
func whole(r xid.ResourceID, m core.Mode, p *core.Plan) bool {
	switch {
	case m == core.ModeAT, m == core.ModeXA && r != xid.ResourceID{}:
		return r != xid.ResourceID{} && p == nil
	case m >= core.ModeXA && m <= core.ModeWorkflow:
		return p != nil
	default:
		return false
	}
}

// AppendFinished appends the encoded final state to b, without the XID. What
// AppendRecord says of times, texts and errors holds here as well.
func AppendFinished(b []byte, tx core.Transaction) ([]byte, error) {
	if err := checkFinished(&tx); err != nil {
		return b, fmt.Errorf("transaction %s can't be stored: %w", tx.XID, err)
	}
	e := encoder{b: b}
	e.text(finishedName, tx.Name)
	e.xid(finishedParent, tx.Parent)
	e.time(finishedDeadline, tx.Deadline)
	e.uint(finishedOutcome, uint64(tx.Outcome))
	e.uint(finishedReason, uint64(tx.Reason))
	e.text(finishedCause, tx.Cause)
	e.text(finishedOperator, tx.Operator)
	e.time(finishedDecided, tx.Decided)
	e.time(finishedFinished, tx.Finished)
	e.uint(finishedRecords, uint64(tx.Records))
	for i := range tx.Branches {
		br := &tx.Branches[i]
		e.message(finishedBranches, func(e *encoder) {
			e.id(branchID, br.ID)
			e.id(branchResource, br.Resource)
			e.uint(branchMode, uint64(br.Mode))
			e.uint(branchVote, uint64(br.Vote))
			e.text(branchVoteReason, br.VoteReason)
			e.time(branchRegistered, br.Registered)
			e.text(branchName, br.Name)
			e.plan(branchPlan, br.Plan, false)
			e.blob(branchResult, br.Result)
		})
	}
	for i := range tx.Settlements {
		if s := &tx.Settlements[i]; s.Branch == (xid.BranchID{}) {
			e.id(finishedResources, s.Resource)
		}
	}
	for i := range tx.Settlements {
		e.id(finishedCalled, tx.Settlements[i].Branch)
	}
	e.flag(finishedSubmitted, tx.Submitted)
	e.text(finishedKey, tx.Key)
	e.blob(finishedNote, tx.Note)
	e.time(finishedNotBefore, tx.NotBefore)
	for i := range tx.Settlements {
		if s := &tx.Settlements[i]; s.Abandoned {
			e.id(finishedAbandoned, s.Branch)
		}
	}
	if e.err != nil {
		return b, fmt.Errorf("transaction %s can't be stored: %w", tx.XID, e.err)
	}
	return e.b, nil
}

// DecodeFinished reads what AppendFinished wrote. Anything else is ErrCorrupt.
func DecodeFinished(id xid.ID, b []byte) (core.Transaction, error) {
	tx := core.Transaction{XID: id, Phase: core.Finished}
	d := decoder{b: b, repeated: 1<<finishedBranches | 1<<finishedResources | 1<<finishedCalled | 1<<finishedAbandoned}
	abandoned := 0 // settlements up to here were looked at
	for d.next() {
		switch d.field {
		case finishedName:
			tx.Name = d.text("name")
		case finishedParent:
			tx.Parent = d.xid("parent")
		case finishedDeadline:
			tx.Deadline = d.time("deadline")
		case finishedOutcome:
			tx.Outcome = core.Outcome(d.enum("outcome", uint64(core.RolledBack)))
		case finishedReason:
			tx.Reason = core.Reason(d.enum("reason", uint64(core.ReasonDeadlock)))
		case finishedCause:
			tx.Cause = d.text("cause")
		case finishedOperator:
			tx.Operator = d.text("operator")
		case finishedDecided:
			tx.Decided = d.time("time of the decision")
		case finishedFinished:
			tx.Finished = d.time("time of the end")
		case finishedRecords:
			tx.Records = uint32(d.uint("number of records", 1<<32-1))
		case finishedBranches:
			tx.Branches = append(tx.Branches, d.branch())
		case finishedResources:
			tx.Settlements = append(tx.Settlements, core.Settlement{Resource: d.id("resource"), Done: true})
		case finishedCalled:
			tx.Settlements = append(tx.Settlements, core.Settlement{Branch: d.id("branch that was called"), Done: true})
		case finishedSubmitted:
			tx.Submitted = d.uint("submitted", 1) == 1
		case finishedKey:
			tx.Key = d.text("key")
		case finishedNote:
			tx.Note = d.blob("note")
		case finishedNotBefore:
			tx.NotBefore = d.time("moment before which nothing was committed")
		case finishedAbandoned:
			abandoned = d.abandoned(&tx, abandoned)
		default:
			d.unknown()
		}
	}
	err := d.err
	if err == nil {
		err = checkFinished(&tx)
	}
	if err != nil {
		return core.Transaction{}, fmt.Errorf("%w: transaction %s: %w", ErrCorrupt, id, err)
	}
	return tx, nil
}

// abandoned reads one branch whose call was given up. They come in the order of
// those that were called, each once. It gives the place behind it.
func (d *decoder) abandoned(tx *core.Transaction, from int) int {
	id := xid.BranchID(d.id("branch whose call was given up"))
	if d.err != nil {
		return from
	}
	for i := from; i < len(tx.Settlements); i++ {
		if s := &tx.Settlements[i]; s.Branch == id {
			s.Abandoned = true
			return i + 1
		}
	}
	d.fail("branch %s was given up, but not called, or it comes too late", id)
	return from
}

func (d *decoder) branch() (br core.Branch) {
	in := decoder{b: d.bytes("branch")}
	for in.next() {
		switch in.field {
		case branchID:
			br.ID = in.id("id of a branch")
		case branchResource:
			br.Resource = in.id("resource of a branch")
		case branchMode:
			br.Mode = core.Mode(in.enum("mode", uint64(core.ModeWorkflow)))
		case branchVote:
			br.Vote = core.Vote(in.enum("vote", uint64(core.VoteWithdrawn)))
		case branchVoteReason:
			br.VoteReason = in.text("reason of a vote")
		case branchRegistered:
			br.Registered = in.time("time of a registration")
		case branchName:
			br.Name = in.text("name of a branch")
		case branchPlan:
			br.Plan = in.plan()
		case branchResult:
			br.Result = in.blob("result of a branch")
		default:
			in.unknown()
		}
	}
	if in.err != nil {
		d.fail("%w", in.err)
	}
	return br
}

// checkFinished tells whether the transaction is whole.
func checkFinished(tx *core.Transaction) error {
	switch {
	case tx.Outcome != core.Committed && tx.Outcome != core.RolledBack:
		return fmt.Errorf("finished with outcome %d", tx.Outcome)
	case tx.Decided.IsZero(), tx.Finished.IsZero():
		return errors.New("finished without the time of the decision or of the end")
	}
	if err := checkKey(tx.Key); err != nil {
		return err
	}
	for i := range tx.Branches {
		br := &tx.Branches[i]
		if br.ID == (xid.BranchID{}) || !whole(br.Resource, br.Mode, br.Plan) || br.Vote > core.VoteWithdrawn {
			return fmt.Errorf("branch %s without mode, resource or plan, or known vote", br.ID)
		}
	}
	for i := range tx.Settlements {
		if s := &tx.Settlements[i]; s.Resource == (xid.ResourceID{}) && s.Branch == (xid.BranchID{}) {
			return errors.New("settlement without resource or branch")
		} else if s.Abandoned && s.Branch == (xid.BranchID{}) {
			return fmt.Errorf("resource %s was given up, which is no call", s.Resource)
		}
	}
	return nil
}
