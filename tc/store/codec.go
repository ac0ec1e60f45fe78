package store

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/handfast/handfast/proto/handfast/store/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// AppendRecord appends the encoded record to b. XID and Seq are not part of
// it: they belong to the key.
func AppendRecord(b []byte, r core.Record) ([]byte, error) {
	m := storev1.Record{
		Kind: uint32(r.Kind), TimeMs: millis(r.Time), Name: r.Name, DeadlineMs: millis(r.Deadline),
		Mode: uint32(r.Mode), Vote: uint32(r.Vote), Outcome: uint32(r.Outcome), Reason: uint32(r.Reason),
		Text: r.Text, Operator: r.Operator,
	}
	if !r.Parent.IsZero() {
		m.Parent = r.Parent[:]
	}
	if r.Branch != (xid.BranchID{}) {
		m.Branch = r.Branch[:]
	}
	if r.Resource != (xid.ResourceID{}) {
		m.Resource = r.Resource[:]
	}
	return proto.MarshalOptions{}.MarshalAppend(b, &m)
}

// DecodeRecord reads what AppendRecord wrote. Anything else is ErrCorrupt.
func DecodeRecord(id xid.ID, seq uint32, b []byte) (core.Record, error) {
	var m storev1.Record
	if err := proto.Unmarshal(b, &m); err != nil {
		return core.Record{}, corrupt(id, "%v", err)
	}
	d := decoder{}
	r := core.Record{
		XID: id, Seq: seq,
		Kind:     core.RecordKind(d.enum("kind", m.GetKind(), uint32(core.RecordDone))),
		Time:     fromMillis(m.GetTimeMs()),
		Name:     m.GetName(),
		Parent:   d.xid(m.GetParent()),
		Deadline: fromMillis(m.GetDeadlineMs()),
		Branch:   d.id16("branch", m.GetBranch()),
		Resource: d.id16("resource", m.GetResource()),
		Mode:     core.Mode(d.enum("mode", m.GetMode(), uint32(core.ModeAT))),
		Vote:     core.Vote(d.enum("vote", m.GetVote(), uint32(core.VoteWithdrawn))),
		Outcome:  core.Outcome(d.enum("outcome", m.GetOutcome(), uint32(core.RolledBack))),
		Reason:   core.Reason(d.enum("reason", m.GetReason(), uint32(core.ReasonOperator))),
		Text:     m.GetText(),
		Operator: m.GetOperator(),
	}
	if d.err != nil {
		return core.Record{}, corrupt(id, "record %d: %v", seq, d.err)
	}
	return r, nil
}

// AppendFinished appends the encoded final state to b, without the XID.
func AppendFinished(b []byte, tx core.Transaction) ([]byte, error) {
	m := storev1.Finished{
		Name: tx.Name, DeadlineMs: millis(tx.Deadline), Outcome: uint32(tx.Outcome), Reason: uint32(tx.Reason),
		Cause: tx.Cause, Operator: tx.Operator, DecidedMs: millis(tx.Decided), FinishedMs: millis(tx.Finished),
		Records: tx.Records,
	}
	if !tx.Parent.IsZero() {
		m.Parent = tx.Parent[:]
	}
	for i := range tx.Branches {
		br := &tx.Branches[i]
		m.Branches = append(m.Branches, &storev1.Branch{
			Id: br.ID[:], Resource: br.Resource[:], Mode: uint32(br.Mode), Vote: uint32(br.Vote),
			VoteReason: br.VoteReason, RegisteredMs: millis(br.Registered),
		})
	}
	for i := range tx.Settlements {
		m.Resources = append(m.Resources, tx.Settlements[i].Resource[:])
	}
	return proto.MarshalOptions{}.MarshalAppend(b, &m)
}

// DecodeFinished reads what AppendFinished wrote. Anything else is ErrCorrupt.
func DecodeFinished(id xid.ID, b []byte) (core.Transaction, error) {
	var m storev1.Finished
	if err := proto.Unmarshal(b, &m); err != nil {
		return core.Transaction{}, corrupt(id, "%v", err)
	}
	d := decoder{}
	tx := core.Transaction{
		XID: id, Name: m.GetName(), Parent: d.xid(m.GetParent()), Deadline: fromMillis(m.GetDeadlineMs()),
		Phase:    core.Finished,
		Outcome:  core.Outcome(d.enum("outcome", m.GetOutcome(), uint32(core.RolledBack))),
		Reason:   core.Reason(d.enum("reason", m.GetReason(), uint32(core.ReasonOperator))),
		Cause:    m.GetCause(),
		Operator: m.GetOperator(),
		Decided:  fromMillis(m.GetDecidedMs()),
		Finished: fromMillis(m.GetFinishedMs()),
		Records:  m.GetRecords(),
	}
	for _, br := range m.GetBranches() {
		tx.Branches = append(tx.Branches, core.Branch{
			ID: d.id16("branch", br.GetId()), Resource: d.id16("resource", br.GetResource()),
			Mode:       core.Mode(d.enum("mode", br.GetMode(), uint32(core.ModeAT))),
			Vote:       core.Vote(d.enum("vote", br.GetVote(), uint32(core.VoteWithdrawn))),
			VoteReason: br.GetVoteReason(), Registered: fromMillis(br.GetRegisteredMs()),
		})
	}
	for _, r := range m.GetResources() {
		tx.Settlements = append(tx.Settlements, core.Settlement{Resource: d.id16("resource", r), Done: true})
	}
	switch {
	case d.err != nil:
		return core.Transaction{}, corrupt(id, "%v", d.err)
	case tx.Outcome == core.Undecided:
		return core.Transaction{}, corrupt(id, "finished without an outcome")
	}
	return tx, nil
}

// decoder keeps the first thing that did not fit.
type decoder struct{ err error }

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) enum(field string, v, highest uint32) uint8 {
	if v > highest {
		d.fail("%s %d is not known", field, v)
		return 0
	}
	return uint8(v)
}

// id16 reads an id; absent is the zero id.
func (d *decoder) id16(field string, b []byte) (id [16]byte) {
	if len(b) != 0 && len(b) != len(id) {
		d.fail("%s is %d bytes long", field, len(b))
		return id
	}
	copy(id[:], b)
	return id
}

func (d *decoder) xid(b []byte) xid.ID {
	if len(b) == 0 {
		return xid.ID{}
	}
	id, err := xid.FromBytes(b)
	if err != nil {
		d.fail("%v", err)
	}
	return id
}

func corrupt(id xid.ID, format string, args ...any) error {
	return fmt.Errorf("%w: transaction %s: %s", ErrCorrupt, id, fmt.Sprintf(format, args...))
}

// The zero time is 0; nothing here happens in 1970.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
