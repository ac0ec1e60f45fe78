package store_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/handfast/handfast/proto/handfast/store/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

var (
	someXID      = xid.ID{1, 2, 3}
	someBranch   = xid.BranchID{1}
	someResource = xid.ResourceID{2}
	someTime     = time.UnixMilli(1_700_000_000_123)
)

func someRecord() core.Record {
	return core.Record{
		XID: someXID, Seq: 4, Kind: core.RecordDecide, Time: time.UnixMilli(5), Name: "n", Parent: xid.ID{9}, Deadline: time.UnixMilli(6),
		Branch: someBranch, Resource: someResource, Mode: core.ModeAT, Vote: core.VoteNo, Outcome: core.RolledBack,
		Reason: core.ReasonOperator, Text: "t", Operator: "o",
	}
}

func someRecords() map[string]core.Record {
	records := map[string]core.Record{
		"everything": someRecord(),
		"begin":      {Kind: core.RecordBegin, Name: strings.Repeat("ä", 5000), Deadline: someTime},
		"register":   {Kind: core.RecordRegister, Branch: someBranch, Resource: someResource, Mode: core.ModeAT},
		"vote":       {Kind: core.RecordVote, Branch: someBranch, Vote: core.VoteYes},
		"decide":     {Kind: core.RecordDecide, Outcome: core.Committed},
		"done":       {Kind: core.RecordDone, Resource: someResource},
		"plan":       {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeSaga, Name: "hotel", Plan: somePlan(), Vote: core.VoteYes, Result: []byte{}},
		"bare plan":  {Kind: core.RecordRegister, Branch: someBranch, Resource: someResource, Mode: core.ModeTCC, Plan: &core.Plan{}},
		"submit":     {Kind: core.RecordSubmit, Deadline: someTime},
		"for ever":   {Kind: core.RecordSubmit},
		"called":     {Kind: core.RecordDone, Branch: someBranch, Result: []byte("ok")},
		"named":      {Kind: core.RecordBegin, Key: "order-7", Note: []byte("\x00note")},
		"no note":    {Kind: core.RecordBegin, Key: "ä", Note: []byte{}},
		"delayed":    {Kind: core.RecordVote, Branch: someBranch, Vote: core.VoteYes, NotBefore: someTime},
		"all given":  {Kind: core.RecordDecide, Outcome: core.RolledBack, Abandoned: true},
		"one given":  {Kind: core.RecordDone, Branch: someBranch, Abandoned: true},
		"XA by plan": {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeXA, Plan: somePlan()},
		"last year":  {Kind: core.RecordDone, Resource: someResource, Time: time.UnixMilli(253_402_300_799_999)},
	}
	for name, r := range records {
		r.XID, r.Seq = someXID, 4
		if r.Time.IsZero() {
			r.Time = someTime
		}
		records[name] = r
	}
	return records
}

func somePlan() *core.Plan {
	return &core.Plan{
		Forward: core.Action{
			Kind: core.TargetHTTP, Address: "http://a/b", Lane: someResource, Payload: []byte("\x00body"),
			Header: []core.Header{{Name: "a", Value: "b"}, {Name: "a"}}, Delay: time.Second, Timeout: time.Minute,
			Dialect: core.DialectDTM, Verb: "action",
		},
		Rollback: core.Action{Kind: core.TargetHandler, Address: "undo", Lane: someResource, Group: "payments", Payload: []byte{}, Dialect: core.DialectDTMRPC},
		After:    []xid.BranchID{{3}, {4}},
		Retry:    core.Retry{First: 1, Max: 2, Poll: 5, Percent: 150, Attempts: 3, Attention: 4},

		LastFirst: true,
	}
}

func schemaPlan(p *core.Plan) *storev1.Plan {
	if p == nil {
		return nil
	}
	out := &storev1.Plan{
		Forward: schemaAction(p.Forward), Commit: schemaAction(p.Commit), Rollback: schemaAction(p.Rollback),
		RetryFirstNs: int64(p.Retry.First), RetryMaxNs: int64(p.Retry.Max), RetryPercent: p.Retry.Percent,
		RetryAttempts: p.Retry.Attempts, RetryAttention: p.Retry.Attention,
		RetryPollNs: int64(p.Retry.Poll), LastFirst: p.LastFirst,
	}
	for _, id := range p.After {
		out.After = append(out.After, id[:])
	}
	return out
}

func schemaAction(a core.Action) *storev1.Action {
	if a.Kind == core.TargetNone {
		return nil
	}
	out := &storev1.Action{
		Kind: uint32(a.Kind), Address: a.Address, Lane: a.Lane[:], Payload: a.Payload, DelayNs: int64(a.Delay), TimeoutNs: int64(a.Timeout), Group: a.Group,
		Dialect: uint32(a.Dialect), Verb: a.Verb,
	}
	for _, h := range a.Header {
		out.Headers = append(out.Headers, &storev1.Header{Name: h.Name, Value: h.Value})
	}
	return out
}

func someFinished() core.Transaction {
	return core.Transaction{
		XID: someXID, Name: "n", Parent: xid.ID{9}, Deadline: someTime, Phase: core.Finished, Outcome: core.RolledBack,
		Reason: core.ReasonVotedNo, Cause: "c", Operator: "o", Decided: someTime, Finished: someTime.Add(time.Second), Records: 7,
		Branches: []core.Branch{
			{ID: someBranch, Resource: someResource, Mode: core.ModeAT, Vote: core.VoteNo, VoteReason: strings.Repeat("r", 300), Registered: someTime},
			{ID: xid.BranchID{7}, Resource: xid.ResourceID{8}, Mode: core.ModeXA},
		},
		Settlements: []core.Settlement{{Resource: someResource, Done: true}, {Resource: xid.ResourceID{8}, Done: true}},
	}
}

// someAbandoned is what is left of a transaction with calls, some of them given up.
func someAbandoned() core.Transaction {
	tx := someFinished()
	tx.Key, tx.Note, tx.NotBefore, tx.Submitted = "order-7", []byte{}, someTime, true
	for n := byte(20); n < 24; n++ {
		tx.Branches = append(tx.Branches, core.Branch{
			ID: xid.BranchID{n}, Mode: core.ModeXA, Vote: core.VoteYes, Registered: someTime,
			Plan: &core.Plan{Commit: core.Action{Kind: core.TargetHTTP, Address: "a", Dialect: core.DialectDTM, Verb: "commit"}, LastFirst: true},
		})
		tx.Settlements = append(tx.Settlements, core.Settlement{Branch: xid.BranchID{n}, Done: true, Abandoned: n != 21})
	}
	return tx
}

func encodeRecord(tb testing.TB, r core.Record) []byte {
	tb.Helper()
	b, err := store.AppendRecord(nil, r)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func encodeFinished(tb testing.TB, tx core.Transaction) []byte {
	tb.Helper()
	b, err := store.AppendFinished([]byte("before"), tx)
	if err != nil {
		tb.Fatal(err)
	}
	return bytes.TrimPrefix(b, []byte("before"))
}

func TestRecordSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	for name, r := range someRecords() {
		got, err := store.DecodeRecord(r.XID, r.Seq, encodeRecord(t, r))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, r)
		}
	}
}

func TestFinishedSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	empty := core.Transaction{XID: someXID, Phase: core.Finished, Outcome: core.Committed, Decided: someTime, Finished: someTime, Records: 2}
	for _, tx := range []core.Transaction{someFinished(), someAbandoned(), empty} {
		got, err := store.DecodeFinished(tx.XID, encodeFinished(t, tx))
		if err != nil || !reflect.DeepEqual(got, tx) {
			t.Errorf("%+v %v, want %+v", got, err, tx)
		}
	}
}

// present gives nil for an id that is all zero.
func present(id []byte) []byte {
	if len(bytes.Trim(id, "\x00")) == 0 {
		return nil
	}
	return id
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// The files are protobuf as the .proto file says, whoever reads them.
func TestEncodingIsThatOfTheSchema(t *testing.T) {
	t.Parallel()
	for name, r := range someRecords() {
		var m storev1.Record
		if err := proto.Unmarshal(encodeRecord(t, r), &m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := &storev1.Record{
			Kind: uint32(r.Kind), TimeMs: millis(r.Time), Name: r.Name, Parent: present(r.Parent[:]), DeadlineMs: millis(r.Deadline),
			Branch: present(r.Branch[:]), Resource: present(r.Resource[:]), Mode: uint32(r.Mode), Vote: uint32(r.Vote),
			Outcome: uint32(r.Outcome), Reason: uint32(r.Reason), Text: r.Text, Operator: r.Operator,
			Plan: schemaPlan(r.Plan), Result: r.Result,
			Key: r.Key, Note: r.Note, NotBeforeMs: millis(r.NotBefore), Abandoned: r.Abandoned,
		}
		if !proto.Equal(&m, want) {
			t.Errorf("%s:\n%v\nwant\n%v", name, &m, want)
		}
	}
	tx := someFinished()
	tx.Key, tx.Note, tx.NotBefore = "key", []byte("note"), someTime
	tx.Settlements = append(tx.Settlements, core.Settlement{Branch: someBranch, Abandoned: true})
	var m storev1.Finished
	if err := proto.Unmarshal(encodeFinished(t, tx), &m); err != nil {
		t.Fatal(err)
	}
	want := &storev1.Finished{
		Name: tx.Name, Parent: tx.Parent[:], DeadlineMs: millis(tx.Deadline), Outcome: uint32(tx.Outcome), Reason: uint32(tx.Reason),
		Cause: tx.Cause, Operator: tx.Operator, DecidedMs: millis(tx.Decided), FinishedMs: millis(tx.Finished), Records: tx.Records,
		Key: tx.Key, Note: tx.Note, NotBeforeMs: millis(tx.NotBefore), Called: [][]byte{someBranch[:]}, Abandoned: [][]byte{someBranch[:]},
	}
	for i := range tx.Branches {
		br := &tx.Branches[i]
		want.Branches = append(want.Branches, &storev1.Branch{
			Id: br.ID[:], Resource: br.Resource[:], Mode: uint32(br.Mode), Vote: uint32(br.Vote),
			VoteReason: br.VoteReason, RegisteredMs: millis(br.Registered),
		})
		want.Resources = append(want.Resources, tx.Settlements[i].Resource[:])
	}
	if !proto.Equal(&m, want) {
		t.Errorf("%v\nwant\n%v", &m, want)
	}
}

func TestDecodingRefusesWhatWasNotWritten(t *testing.T) {
	t.Parallel()
	good := encodeRecord(t, core.Record{Kind: core.RecordVote, Branch: someBranch, Vote: core.VoteYes, Time: someTime})
	for name, b := range map[string][]byte{
		"nothing":             {},
		"cut off":             good[:len(good)-1],
		"an unknown kind":     {8, 7},
		"an unknown vote":     append(bytes.Clone(good[:len(good)-1]), 4),
		"an unknown field":    append(bytes.Clone(good), 0x70, 1),
		"a field twice":       append(bytes.Clone(good), 0x48, 1),
		"fields in disorder":  {0x10, 1, 8, 1},
		"a zero value":        {8, 1, 0x10, 0},
		"a long varint":       {8, 0x81, 0},
		"another wire type":   {8, 1, 0x12, 1, 1},
		"a time far out":      {8, 1, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a short branch":      {8, 1, 0x32, 2, 1, 1},
		"a zero branch":       append([]byte{8, 1, 0x32, 16}, make([]byte, 16)...),
		"a vote of nobody":    {8, 3, 0x48, 1},
		"a short parent":      {8, 1, 0x22, 1, 1},
		"a text of no UTF-8":  {8, 1, 0x1a, 1, 0xff},
		"an empty text":       {8, 1, 0x1a, 0},
		"a length far out":    {8, 1, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a negative length":   {8, 1, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"field number zero":   {8, 1, 0},
		"an unknown mode":     {8, 1, 0x40, 9},
		"an unknown outcome":  {8, 4, 0x50, 3},
		"an unknown reason":   {8, 4, 0x50, 1, 0x58, 200, 1},
		"a decision for none": {8, 4},
		"an empty key":        {8, 1, 0x8a, 1, 0},
		"a key of no UTF-8":   {8, 1, 0x8a, 1, 1, 0xff},
		"no time":             {8, 3, 0x98, 1, 0},
		"given up, or not":    {8, 4, 0x50, 2, 0xa0, 1, 0},
		"given up twice":      {8, 4, 0x50, 2, 0xa0, 1, 2},
		"XA with both": encodeSchema(t, &storev1.Record{
			Kind: uint32(core.RecordRegister), Branch: someBranch[:], Resource: someResource[:], Mode: uint32(core.ModeXA), Plan: schemaPlan(somePlan()),
		}),
		"XA with nothing":    encodeSchema(t, &storev1.Record{Kind: uint32(core.RecordRegister), Branch: someBranch[:], Mode: uint32(core.ModeXA)}),
		"an unknown dialect": encodeSchema(t, withPlan(func(p *storev1.Plan) { p.Forward.Dialect = 3 })),
		"a long pause":       encodeSchema(t, withPlan(func(p *storev1.Plan) { p.RetryPollNs = -1 })),
	} {
		if r, err := store.DecodeRecord(someXID, 4, b); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), someXID.String()) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	whole := encodeFinished(t, someFinished())
	for name, b := range map[string][]byte{
		"nothing":                {},
		"cut off":                whole[:len(whole)-1],
		"no time":                {0x20, 1},
		"an unknown field":       append(bytes.Clone(whole), 0x6a, 0),
		"a branch after the end": append(bytes.Clone(whole), 0x5a, 0),
		"an empty branch":        {0x20, 1, 0x40, 1, 0x48, 1, 0x5a, 0},
		"given up by nobody":     encodeSchema(t, withAbandoned(xid.BranchID{99})),
		"given up twice":         encodeSchema(t, withAbandoned(xid.BranchID{20}, xid.BranchID{20})),
		"given up in disorder":   encodeSchema(t, withAbandoned(xid.BranchID{22}, xid.BranchID{20})),
		"nothing given up":       encodeSchema(t, withAbandoned(xid.BranchID{})),
		"a short one given up":   encodeSchema(t, &storev1.Finished{Outcome: 1, DecidedMs: 1, FinishedMs: 1, Abandoned: [][]byte{{1}}}),
		"a database given up": encodeSchema(t, &storev1.Finished{
			Outcome: 1, DecidedMs: 1, FinishedMs: 1, Resources: [][]byte{someResource[:]}, Abandoned: [][]byte{someResource[:]},
		}),
		"an unknown branch field": {0x20, 1, 0x40, 1, 0x48, 1, 0x5a, 2, 0x38, 1},
	} {
		if tx, err := store.DecodeFinished(someXID, b); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), someXID.String()) {
			t.Errorf("%s: %+v, %v", name, tx, err)
		}
	}
}

// encodeSchema writes what is protobuf, and yet may not be what is ever written.
func encodeSchema(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func withPlan(change func(*storev1.Plan)) *storev1.Record {
	p := schemaPlan(somePlan())
	change(p)
	return &storev1.Record{Kind: uint32(core.RecordRegister), Branch: someBranch[:], Mode: uint32(core.ModeSaga), Plan: p}
}

// withAbandoned has calls of branches 20 to 23.
func withAbandoned(ids ...xid.BranchID) *storev1.Finished {
	f := &storev1.Finished{Outcome: 1, DecidedMs: 1, FinishedMs: 1}
	for n := byte(20); n < 24; n++ {
		id := xid.BranchID{n}
		f.Called = append(f.Called, id[:])
	}
	for _, id := range ids {
		f.Abandoned = append(f.Abandoned, id[:])
	}
	return f
}

// The cases above are refused for what is wrong with them, and for nothing else.
func TestTheSameWithoutItsFaultIsAccepted(t *testing.T) {
	t.Parallel()
	good := encodeSchema(t, withPlan(func(*storev1.Plan) {}))
	if _, err := store.DecodeRecord(someXID, 4, good); err != nil {
		t.Error(err)
	}
	tx, err := store.DecodeFinished(someXID, encodeSchema(t, withAbandoned(xid.BranchID{20}, xid.BranchID{22})))
	if err != nil || len(tx.Settlements) != 4 || !tx.Settlements[0].Abandoned || tx.Settlements[1].Abandoned || !tx.Settlements[2].Abandoned {
		t.Errorf("%+v %v", tx, err)
	}
}

// What could not be read again is never written.
func TestEncodingRefusesWhatDecodingWould(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]core.Record{
		"no kind":       {},
		"unknown kind":  {Kind: 9},
		"register":      {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeAT},
		"vote":          {Kind: core.RecordVote, Branch: someBranch, Vote: core.VoteOpen},
		"decide":        {Kind: core.RecordDecide},
		"done":          {Kind: core.RecordDone},
		"before 1970":   {Kind: core.RecordBegin, Time: time.UnixMilli(-1)},
		"the year 1970": {Kind: core.RecordBegin, Time: time.UnixMilli(0)},
		"far out":       {Kind: core.RecordBegin, Deadline: time.UnixMilli(1 << 60)},
		"XA with plan":  {Kind: core.RecordRegister, Branch: someBranch, Resource: someResource, Mode: core.ModeXA, Plan: &core.Plan{}},
		"saga without":  {Kind: core.RecordRegister, Branch: someBranch, Resource: someResource, Mode: core.ModeSaga},
		"done twice":    {Kind: core.RecordDone, Branch: someBranch, Resource: someResource},
		"back in time":  {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeSaga, Plan: &core.Plan{Retry: core.Retry{First: -1}}},
		"broken key":    {Kind: core.RecordBegin, Key: "a\xff"},
		"a delay":       {Kind: core.RecordVote, Branch: someBranch, Vote: core.VoteYes, NotBefore: time.UnixMilli(1 << 60)},
		"dialect":       {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeSaga, Plan: &core.Plan{Commit: core.Action{Kind: 1, Dialect: 3}}},
		"poll":          {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeSaga, Plan: &core.Plan{Retry: core.Retry{Poll: -1}}},
		"XA without":    {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeXA},
		"no target":     {Kind: core.RecordRegister, Branch: someBranch, Mode: core.ModeSaga, Plan: &core.Plan{Commit: core.Action{Kind: 9}}},
	} {
		if b, err := store.AppendRecord([]byte("kept"), r); err == nil || string(b) != "kept" {
			t.Errorf("%s: %x %v", name, b, err)
		}
	}
	for name, change := range map[string]func(*core.Transaction){
		"undecided":   func(tx *core.Transaction) { tx.Outcome = core.Undecided },
		"no end":      func(tx *core.Transaction) { tx.Finished = time.Time{} },
		"no resource": func(tx *core.Transaction) { tx.Settlements[0].Resource = xid.ResourceID{} },
		"no branch":   func(tx *core.Transaction) { tx.Branches[1].ID = xid.BranchID{} },
		"given up":    func(tx *core.Transaction) { tx.Settlements[0].Abandoned = true },
		"broken key":  func(tx *core.Transaction) { tx.Key = "a\xff" },
		"far out":     func(tx *core.Transaction) { tx.Branches[1].Registered = time.UnixMilli(1 << 60) },
	} {
		tx := someFinished()
		change(&tx)
		if b, err := store.AppendFinished([]byte("kept"), tx); err == nil || string(b) != "kept" {
			t.Errorf("%s: %x %v", name, b, err)
		}
	}
}

// A text that is no UTF-8 must not stop the coordinator.
func TestBrokenTextIsMended(t *testing.T) {
	t.Parallel()
	r := core.Record{XID: someXID, Seq: 4, Kind: core.RecordBegin, Time: someTime, Name: "a\xffb"}
	got, err := store.DecodeRecord(someXID, 4, encodeRecord(t, r))
	if err != nil || got.Name != "a\uFFFDb" {
		t.Fatalf("%q %v", got.Name, err)
	}
}

// No bytes make the decoders panic, and there is one spelling of everything:
// what they accept they would write again byte for byte.
func FuzzDecodeRecord(f *testing.F) {
	for _, r := range someRecords() {
		f.Add(encodeRecord(f, r))
	}
	f.Add([]byte{})
	f.Add([]byte{8, 99})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := store.DecodeRecord(someXID, 4, b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		if again := encodeRecord(t, r); !bytes.Equal(again, b) {
			t.Fatalf("%x, want %x", again, b)
		}
	})
}

func FuzzDecodeFinished(f *testing.F) {
	f.Add(encodeFinished(f, someFinished()))
	f.Add(encodeFinished(f, someAbandoned()))
	f.Add(encodeSchema(f, withAbandoned(xid.BranchID{20}, xid.BranchID{20})))
	f.Add([]byte{0x20})
	f.Fuzz(func(t *testing.T, b []byte) {
		tx, err := store.DecodeFinished(someXID, b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		if again := encodeFinished(t, tx); !bytes.Equal(again, b) {
			t.Fatalf("%x, want %x", again, b)
		}
	})
}
