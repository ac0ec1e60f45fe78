package core_test

import (
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// heavy is a saga step that holds about so many bytes.
func heavy(n, bytes int) core.Register {
	b := step(n)
	b.Plan.Forward.Payload = make([]byte, bytes)
	return b
}

// counted is what the open transactions hold, counted anew.
func (s *shell) counted() int64 {
	sum := int64(0)
	for _, tx := range s.m.Newest(xid.ID{}, 1<<20, func(t *core.Transaction) bool { return t.Phase != core.Finished }) {
		sum += tx.Held()
	}
	return sum
}

func (s *shell) wantHeld(t *testing.T, when string) {
	t.Helper()
	if got, want := s.m.Held(), s.counted(); got != want {
		t.Fatalf("%s: %d bytes on account, %d are held", when, got, want)
	}
}

func TestEverythingOfACallersLengthCounts(t *testing.T) {
	t.Parallel()
	const long = 1000
	text := strings.Repeat("x", long)
	plain := step(1).Plan
	weigh := func(b core.Branch) int64 {
		return (&core.Transaction{Branches: []core.Branch{b}}).Held()
	}
	base := weigh(core.Branch{Plan: plain})
	if base < 1000 {
		t.Errorf("a branch with a plan counts %d bytes, which is less than its structs take", base)
	}
	with := func(change func(*core.Plan)) *core.Plan {
		p := *plain
		change(&p)
		return &p
	}
	for name, b := range map[string]core.Branch{
		"payload of forward":  {Plan: with(func(p *core.Plan) { p.Forward.Payload = []byte(text) })},
		"payload of commit":   {Plan: with(func(p *core.Plan) { p.Commit.Payload = []byte(text) })},
		"payload of rollback": {Plan: with(func(p *core.Plan) { p.Rollback.Payload = []byte(text) })},
		"name of a header":    {Plan: with(func(p *core.Plan) { p.Forward.Header = []core.Header{{Name: text}} })},
		"value of a header":   {Plan: with(func(p *core.Plan) { p.Forward.Header = []core.Header{{Value: text}} })},
		"many headers":        {Plan: with(func(p *core.Plan) { p.Forward.Header = make([]core.Header, 64) })},
		"address":             {Plan: with(func(p *core.Plan) { p.Forward.Address += text })},
		"after":               {Plan: with(func(p *core.Plan) { p.After = make([]xid.BranchID, 64) })},
		"result":              {Plan: plain, Result: []byte(text)},
		"reason of a vote":    {Plan: plain, VoteReason: text},
		"name":                {Plan: plain, Name: text},
	} {
		if more := weigh(b) - base; more < long {
			t.Errorf("%s: %d bytes count as %d", name, long, more)
		}
	}
	if n := weigh(core.Branch{Resource: resourceID(1), Result: []byte(text)}); n != long {
		t.Errorf("a result of a database counts %d bytes, want %d", n, long)
	}
}

func TestWithoutRoomNothingNewIsTakenAndAllElseGoesOn(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	s := newShell(t, core.Config{MaxHeld: limit})
	full := s.beginFor(time.Hour)
	cs := calls(s.submit(full, heavy(1, limit/2), heavy(2, limit/3)))
	s.wantHeld(t, "submitted")
	records := len(s.log)

	for name, in := range map[string]func(xid.ID) core.Input{
		"submit": func(id xid.ID) core.Input {
			return core.Submit{Ref: 1, XID: id, Branches: []core.Register{step(1), heavy(2, limit/8)}}
		},
		"register": func(id xid.ID) core.Input {
			b := heavy(1, limit/8)
			b.Ref, b.XID = 1, id
			return b
		},
	} {
		id := s.begin()
		records++
		r := s.reply(in(id))
		wantKind(t, r, core.ErrLimit)
		if !strings.Contains(r.Err.Message, "100000") || !strings.Contains(r.Err.Message, "try again") {
			t.Errorf("%s: %s", name, r.Err.Message)
		}
		if len(s.log) != records {
			t.Errorf("%s: refused, and %d records", name, len(s.log)-records)
		}
		s.wantHeld(t, "refused")
	}

	// The same again is answered: it asks for no room.
	if r := replies(s.submit(full, heavy(1, limit/2), heavy(2, limit/3))); r[0].Err != nil {
		t.Errorf("repeated: %v", r[0].Err)
	}
	// Databases hold nothing here.
	at := s.begin()
	if r := s.register(at, 1, 1); r.Err != nil {
		t.Errorf("a branch of a database: %v", r.Err)
	}
	s.reply(core.CastVote{Ref: 1, XID: at, Branch: branchID(1), Vote: core.VoteYes, Result: make([]byte, limit)})
	s.wantHeld(t, "a result that goes beyond")
	if r := s.reply(core.Commit{Ref: 1, XID: at}); r.Tx.Outcome != core.Committed {
		t.Errorf("commit: %+v", r)
	}
	// What ends gives its room back, here in part with every result beyond.
	s.do(answer(cs[0], core.Done, strings.Repeat("r", limit)))
	s.wantHeld(t, "with a result")
	s.do(answer(cs[1], core.Done, ""))
	if _, ok := s.archived(full); !ok {
		t.Fatal("it has not ended")
	}
	s.wantHeld(t, "ended")
	s.do(core.Settled{XID: at, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	s.do(core.Attached{Resource: resourceID(1)})
	s.do(core.Settled{XID: at, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	if s.m.Held() != 0 {
		t.Errorf("%d bytes are left", s.m.Held())
	}
	if r := replies(s.submit(s.begin(), heavy(1, limit/2))); r[0].Err != nil {
		t.Errorf("with room again: %v", r[0].Err)
	}
}

// A workflow that is full of steps, and may add no more, ends never: then nothing
// would give room again.
func TestTheLastRoomIsForWhatHoldsSomethingAlready(t *testing.T) {
	t.Parallel()
	const limit = 800_000
	s := newShell(t, core.Config{MaxHeld: limit})
	register := func(id xid.ID, b core.Register) core.Reply {
		b.Ref, b.XID = 1, id
		return s.reply(b)
	}
	old := s.begin()
	if r := register(old, heavy(1, limit*3/4)); r.Err != nil {
		t.Fatal(r.Err)
	}
	next := heavy(2, limit/5)
	wantKind(t, register(s.begin(), next), core.ErrLimit)
	if r := register(old, next); r.Err != nil {
		t.Errorf("one that holds something: %v", r.Err)
	}
	wantKind(t, register(old, heavy(3, limit/10)), core.ErrLimit)
}

func TestOtherMachinesUseUpTheSameRoom(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{MaxHeld: 100_000})
	s.m.SetElsewhere(80_000)
	wantKind(t, replies(s.submit(s.begin(), heavy(1, 20_000)))[0], core.ErrLimit)
	s.m.SetElsewhere(0)
	if r := replies(s.submit(s.begin(), heavy(1, 20_000))); r[0].Err != nil {
		t.Error(r[0].Err)
	}
}

func TestARestartGoesOnWithMoreThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	s.submit(id, heavy(1, 500_000), heavy(2, 500_000))
	s.cfg.MaxHeld = 100_000
	var out []core.Body
	s.release = func(b core.Body) { out = append(out, b) }
	s.restart(0)
	s.wantHeld(t, "restarted")
	if s.m.Held() < 1_000_000 {
		t.Fatalf("%d bytes", s.m.Held())
	}
	wantKind(t, replies(s.submit(s.begin(), step(1)))[0], core.ErrLimit)
	if r := s.register(s.begin(), 1, 1); r.Err != nil {
		t.Errorf("a branch of a database: %v", r.Err)
	}
	if r := replies(s.submit(id, heavy(1, 500_000), heavy(2, 500_000))); r[0].Err != nil {
		t.Errorf("repeated: %v", r[0].Err)
	}
	for _, c := range wantCalls(t, out, "1f 2f ") {
		s.do(answer(c, core.Done, "fine"))
	}
	if tx, ok := s.archived(id); !ok || tx.Outcome != core.Committed || s.m.Held() != 0 {
		t.Errorf("%+v, %d bytes are left", tx, s.m.Held())
	}
	if r := replies(s.submit(s.begin(), step(1))); r[0].Err != nil {
		t.Errorf("with room again: %v", r[0].Err)
	}
}
