package core_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func TestCommitWithEveryVoteIsDecidedAtOnceAndSettledPerResource(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	s.do(core.Attached{Resource: resourceID(2)})
	id := s.begin()
	s.register(id, 1, 1)
	s.register(id, 2, 1)
	s.register(id, 3, 2)
	for b := 1; b <= 3; b++ {
		s.vote(id, b, core.VoteYes)
	}
	out := s.do(core.Commit{Ref: "tm", XID: id})
	if r := replies(out); len(r) != 1 || r[0].Tx.Outcome != core.Committed {
		t.Fatalf("replies %+v", r)
	}
	cmds := settles(out)
	if len(cmds) != 2 || len(cmds[0].Branches) != 2 || len(cmds[1].Branches) != 1 {
		t.Fatalf("one command per resource with all of its branches, got %+v", cmds)
	}
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	if s.m.Open() != 1 {
		t.Fatal("finished while a resource is unsettled")
	}
	s.do(core.Settled{XID: id, Resource: resourceID(2), Outcome: core.Committed, Done: true})
	if s.m.Open() != 0 || s.m.Known(id) {
		t.Fatal("not finished although every resource is settled")
	}
	if r := s.reply(core.Commit{Ref: "again", XID: id}); r.Err != nil || r.Tx.Outcome != core.Committed {
		t.Fatalf("a repeated commit does not learn the outcome: %+v", r)
	}
	wantKind(t, s.reply(core.Rollback{Ref: "late", XID: id}), core.ErrCommitted)
}

func TestCommitWaitsForMissingVotesThenAsks(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	s.register(id, 2, 2)
	s.vote(id, 1, core.VoteYes)
	if out := s.do(core.Commit{Ref: "tm", XID: id}); len(replies(out)) != 0 {
		t.Fatal("answered without a vote")
	}
	if n := asks(s.pass(199 * time.Millisecond)); n != 0 {
		t.Fatal("asked within the grace")
	}
	if n := asks(s.pass(time.Millisecond)); n != 1 {
		t.Fatalf("asked %d times after the grace, want once for the one missing vote", n)
	}
	if n := asks(s.pass(10 * time.Second)); n < 3 || n > 10 {
		t.Fatalf("asked %d times in 10 s", n)
	}
	out := s.do(core.Answered{XID: id, Branch: branchID(2), Vote: core.VoteOpen})
	if len(replies(out)) != 0 {
		t.Fatal("an open branch decided something")
	}
	out = s.do(core.Answered{XID: id, Branch: branchID(2), Vote: core.VoteYes})
	if r := replies(out); len(r) != 1 || r[0].Ref != "tm" || r[0].Tx.Outcome != core.Committed {
		t.Fatalf("replies %+v", r)
	}
}

func TestWhatRollsBack(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		act    func(s *shell, id xid.ID)
		reason core.Reason
	}{
		"a no vote": {func(s *shell, id xid.ID) {
			s.step(core.CastVote{Ref: 1, XID: id, Branch: branchID(1), Vote: core.VoteNo, Reason: "stock is 0"})
		}, core.ReasonVotedNo},
		"an answer no": {func(s *shell, id xid.ID) {
			s.step(core.Answered{XID: id, Branch: branchID(1), Vote: core.VoteNo})
		}, core.ReasonVotedNo},
		"the deadline":                  {func(s *shell, _ xid.ID) { s.pass(time.Minute) }, core.ReasonTimeout},
		"a request":                     {func(s *shell, id xid.ID) { s.step(core.Rollback{Ref: 1, XID: id}) }, core.ReasonRequested},
		"an operator":                   {func(s *shell, id xid.ID) { s.step(core.Rollback{Ref: 1, XID: id, Operator: "ann"}) }, core.ReasonOperator},
		"a commit after the deadline":   {func(s *shell, id xid.ID) { s.now = s.now.Add(time.Hour); s.step(core.Commit{Ref: 1, XID: id}) }, core.ReasonTimeout},
		"the deadline while collecting": {func(s *shell, id xid.ID) { s.step(core.Commit{Ref: 1, XID: id}); s.pass(time.Minute) }, core.ReasonTimeout},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			s.do(core.Attached{Resource: resourceID(1)})
			id := s.begin()
			s.register(id, 1, 1)
			tt.act(s, id)
			s.flush()
			r := s.reply(core.Get{Ref: "get", XID: id})
			if r.Tx.Outcome != core.RolledBack || r.Tx.Reason != tt.reason || r.Tx.Phase != core.Settling {
				t.Fatalf("outcome %d, reason %d, phase %d", r.Tx.Outcome, r.Tx.Reason, r.Tx.Phase)
			}
			wantKind(t, s.register(id, 2, 1), core.ErrRolledBack)
			if r := s.reply(core.Commit{Ref: "tm", XID: id}); r.Err != nil || r.Tx.Outcome != core.RolledBack {
				t.Fatalf("commit after a rollback: %+v", r)
			}
		})
	}
}

// Nothing that reveals state leaves before the log up to that state is durable.
func TestNothingLeavesBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(s *shell, id xid.ID)
		in      func(id xid.ID) core.Input
		forced  bool
	}{
		"register": {nil, func(id xid.ID) core.Input {
			return core.Register{Ref: 1, XID: id, Branch: branchID(2), Resource: resourceID(1), Mode: core.ModeAT}
		}, true},
		"yes vote": {nil, func(id xid.ID) core.Input {
			return core.CastVote{Ref: 1, XID: id, Branch: branchID(1), Vote: core.VoteYes}
		}, false},
		"no vote": {nil, func(id xid.ID) core.Input {
			return core.CastVote{Ref: 1, XID: id, Branch: branchID(1), Vote: core.VoteNo}
		}, true},
		"rollback": {nil, func(id xid.ID) core.Input { return core.Rollback{Ref: 1, XID: id} }, true},
		"get of a vote": {func(s *shell, id xid.ID) {
			s.step(core.CastVote{Ref: 0, XID: id, Branch: branchID(1), Vote: core.VoteYes})
		}, func(id xid.ID) core.Input { return core.Get{Ref: 1, XID: id} }, true},
		"commit": {func(s *shell, id xid.ID) {
			s.step(core.CastVote{Ref: 0, XID: id, Branch: branchID(1), Vote: core.VoteYes})
		}, func(id xid.ID) core.Input { return core.Commit{Ref: 1, XID: id} }, true},
		"repeated register": {func(s *shell, id xid.ID) {
			s.step(core.Register{Ref: 0, XID: id, Branch: branchID(2), Resource: resourceID(1), Mode: core.ModeAT})
		}, func(id xid.ID) core.Input {
			return core.Register{Ref: 1, XID: id, Branch: branchID(2), Resource: resourceID(1), Mode: core.ModeAT}
		}, true},
		"register refused by an undurable decision": {func(s *shell, id xid.ID) { s.step(core.Rollback{Ref: 0, XID: id}) },
			func(id xid.ID) core.Input {
				return core.Register{Ref: 1, XID: id, Branch: branchID(2), Resource: resourceID(1), Mode: core.ModeAT}
			}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			s.do(core.Attached{Resource: resourceID(1)})
			id := s.begin()
			s.register(id, 1, 1)
			if tt.prepare != nil {
				tt.prepare(s, id)
			}
			var left []core.Body
			s.release = func(b core.Body) { left = append(left, b) }
			s.step(tt.in(id))
			if forced := len(left) == 0; forced != tt.forced {
				t.Fatalf("left before the flush: %+v, forced should be %t", left, tt.forced)
			}
			s.flush()
			if len(left) == 0 {
				t.Fatal("nothing left after the flush")
			}
		})
	}
}

func TestEmptyCommitIsForced(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	var left []core.Body
	s.release = func(b core.Body) { left = append(left, b) }
	s.step(core.Commit{Ref: 1, XID: id})
	if len(left) != 0 {
		t.Fatal("told before it was durable")
	}
	s.flush()
	if len(left) != 1 {
		t.Fatal("not told after the flush")
	}
}

func TestUnknownXIDIsNeverRolledBack(t *testing.T) {
	t.Parallel()
	parts := func(change func(*xid.Parts)) xid.ID {
		p := xid.Parts{Begin: epoch, Incarnation: 2, Store: testStore, Counter: 77}
		change(&p)
		return xid.New(p)
	}
	tests := map[string]struct {
		id   xid.ID
		want core.ErrorKind
	}{
		"never issued":                      {parts(func(*xid.Parts) {}), core.ErrUnknownXID},
		"lost with an earlier incarnation":  {parts(func(p *xid.Parts) { p.Incarnation = 1 }), core.ErrUnknownXID},
		"begun before the horizon":          {parts(func(p *xid.Parts) { p.Begin = epoch.Add(-2 * time.Hour) }), core.ErrExpiredXID},
		"another store":                     {parts(func(p *xid.Parts) { p.Store = xid.StoreID{9} }), core.ErrForeignStore},
		"a later incarnation of this store": {parts(func(p *xid.Parts) { p.Incarnation = 3 }), core.ErrQuarantined},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{Horizon: epoch.Add(-time.Hour)})
			s.restart(0) // incarnation 2
			wantKind(t, s.register(tt.id, 1, 1), tt.want)
			wantKind(t, s.vote(tt.id, 1, core.VoteYes), tt.want)
			wantKind(t, s.reply(core.Commit{Ref: 1, XID: tt.id}), tt.want)
			wantKind(t, s.reply(core.Rollback{Ref: 1, XID: tt.id}), tt.want)
			wantKind(t, s.reply(core.Get{Ref: 1, XID: tt.id}), tt.want)
			wantKind(t, s.reply(core.Wait{Ref: 1, XID: tt.id}), tt.want)
			if s.m.Known(tt.id) {
				t.Fatal("the request made a transaction")
			}
		})
	}
}

func TestRepeatsChangeNothing(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	before := len(s.log)
	if r := s.register(id, 1, 1); r.Err != nil {
		t.Fatalf("repeated registration: %v", r.Err)
	}
	wantKind(t, s.register(id, 1, 2), core.ErrBranchConflict)
	wantKind(t, s.vote(id, 9, core.VoteYes), core.ErrUnknownBranch)
	wantKind(t, s.vote(id, 1, core.VoteOpen), core.ErrWrongState)
	if len(s.log) != before {
		t.Fatalf("%d records appended", len(s.log)-before)
	}
	s.vote(id, 1, core.VoteYes)
	s.vote(id, 1, core.VoteNo)
	if r := s.reply(core.Commit{Ref: 1, XID: id}); r.Tx.Outcome != core.Committed {
		t.Fatal("the first vote did not count")
	}
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	before = len(s.log)
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Error: "late"})
	wantKind(t, s.reply(core.Begin{Ref: 1, XID: func() xid.ID { return s.begin() }(), Deadline: s.now}), core.ErrWrongState)
	if len(s.log) != before+1 {
		t.Fatalf("%d records appended, want 1 for the begin", len(s.log)-before)
	}
}

func TestWithdrawnBranchesNeitherBlockNorSettle(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	s.do(core.Attached{Resource: resourceID(2)})
	id := s.begin()
	s.register(id, 1, 1)
	s.register(id, 2, 2)
	s.vote(id, 1, core.VoteWithdrawn)
	s.vote(id, 2, core.VoteYes)
	cmds := settles(s.do(core.Commit{Ref: 1, XID: id}))
	if len(cmds) != 1 || cmds[0].Resource != resourceID(2) {
		t.Fatalf("commands %+v", cmds)
	}
}

func TestWaitAnswersWhenDecidedSettledOrLate(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	for _, w := range []core.Wait{
		{Ref: "decided", XID: id},
		{Ref: "settled", XID: id, Resource: resourceID(1)},
		{Ref: "elsewhere", XID: id, Resource: resourceID(7)},
		{Ref: "impatient", XID: id, Until: s.now.Add(time.Second)},
		{Ref: "gone", XID: id},
	} {
		if out := s.do(w); len(out) != 0 {
			t.Fatalf("%v answered at once: %+v", w.Ref, out)
		}
	}
	s.do(core.Cancel{Ref: "gone", XID: id})
	if r := replies(s.pass(time.Second)); len(r) != 1 || r[0].Ref != "impatient" || r[0].Tx.Outcome != core.Undecided {
		t.Fatalf("%+v", r)
	}
	s.vote(id, 1, core.VoteYes)
	r := replies(s.do(core.Commit{Ref: "tm", XID: id}))
	if len(r) != 3 || r[0].Ref != "decided" || r[1].Ref != "elsewhere" || r[2].Ref != "tm" || r[0].Tx.Outcome != core.Committed {
		t.Fatalf("%+v", r)
	}
	if r := s.reply(core.Commit{Ref: "all", XID: id}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if out := s.do(core.Commit{Ref: "wait settled", XID: id, WaitSettled: true}); len(out) != 0 {
		t.Fatalf("%+v", out)
	}
	r = replies(s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true}))
	if len(r) != 2 || r[0].Ref != "settled" || !r[0].Settled || r[1].Ref != "wait settled" || r[1].Tx.Phase != core.Finished {
		t.Fatalf("%+v", r)
	}
}

func TestCrashAbortsNobody(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Second)
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	s.now = s.now.Add(time.Hour) // the coordinator was down for long
	s.restart(0)
	if out := s.pass(9 * time.Second); len(out) != 0 {
		t.Fatalf("something was decided within the grace: %+v", out)
	}
	if r := s.reply(core.Commit{Ref: 1, XID: id}); r.Err != nil || r.Tx.Outcome != core.Committed {
		t.Fatalf("%+v", r)
	}
}

func TestDeadlineAfterRestartComesAfterTheGrace(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Second)
	s.register(id, 1, 1)
	s.restart(0)
	s.pass(10 * time.Second)
	if r := s.reply(core.Get{Ref: 1, XID: id}); r.Tx.Reason != core.ReasonTimeout {
		t.Fatalf("%+v", r.Tx)
	}
}

func TestRestartGoesOnDelivering(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	s.register(id, 2, 2)
	s.do(core.Rollback{Ref: 1, XID: id})
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.RolledBack, Done: true})
	s.restart(0)
	if n := len(settles(s.do(core.Attached{Resource: resourceID(1)}))); n != 0 {
		t.Fatalf("%d commands to a resource that is done", n)
	}
	if n := len(settles(s.do(core.Attached{Resource: resourceID(2)}))); n != 1 {
		t.Fatalf("%d commands", n)
	}
}

func TestQuarantineFreezesEarlierIncarnations(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	undecided := s.begin()
	s.register(undecided, 1, 1)
	decided := s.begin()
	s.register(decided, 2, 1)
	s.do(core.Rollback{Ref: 1, XID: decided})
	s.cfg.QuarantineBelow = 2
	s.restart(0)
	for _, id := range []xid.ID{undecided, decided} {
		wantKind(t, s.register(id, 3, 1), core.ErrQuarantined)
		wantKind(t, s.reply(core.Commit{Ref: 1, XID: id}), core.ErrQuarantined)
		wantKind(t, s.reply(core.Rollback{Ref: 1, XID: id}), core.ErrQuarantined)
		wantKind(t, s.reply(core.Get{Ref: 1, XID: id}), core.ErrQuarantined)
		wantKind(t, s.reply(core.Wait{Ref: 1, XID: id}), core.ErrQuarantined)
		if r := s.reply(core.Get{Ref: 1, XID: id, Operator: true}); r.Err != nil {
			t.Fatalf("an operator has to see it: %v", r.Err)
		}
	}
	s.do(core.Answered{XID: undecided, Branch: branchID(1), Vote: core.VoteNo})
	out := append(s.do(core.Attached{Resource: resourceID(1)}), s.pass(time.Hour)...)
	if len(out) != 0 {
		t.Fatalf("quarantine let something out: %+v", out)
	}
	fresh := s.begin()
	s.register(fresh, 4, 1)
	if n := len(settles(s.do(core.Rollback{Ref: 1, XID: fresh}))); n != 1 {
		t.Fatal("a transaction of this incarnation was held back")
	}
	out = append(s.do(core.Quarantine{}), s.pass(time.Second)...)
	if n := len(settles(out)); n != 2 {
		t.Fatalf("%d commands after adoption, want one for each old transaction", n)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{MaxOpen: 1, MaxBranches: 1})
	id := s.begin()
	other := xid.New(xid.Parts{Begin: s.now, Incarnation: 1, Store: testStore, Counter: 99})
	wantKind(t, s.reply(core.Begin{Ref: 1, XID: other, Deadline: s.now.Add(time.Minute)}), core.ErrLimit)
	s.register(id, 1, 1)
	wantKind(t, s.register(id, 2, 1), core.ErrLimit)
}

func TestNewestListsInOrderAndPages(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	var ids []xid.ID
	for range 10 {
		s.now = s.now.Add(time.Millisecond)
		ids = append(ids, s.begin())
	}
	var got []xid.ID
	var before xid.ID
	for {
		page := s.m.Newest(before, 3, func(tx *core.Transaction) bool { return tx.XID != ids[4] })
		for _, tx := range page {
			got = append(got, tx.XID)
		}
		if len(page) < 3 {
			break
		}
		before = page[2].XID
	}
	if len(got) != 9 {
		t.Fatalf("%d listed, want 9", len(got))
	}
	for i, want := 0, 9; want >= 0; want-- {
		if want == 4 {
			continue
		}
		if got[i] != ids[want] {
			t.Fatalf("place %d: %s, want %s", i, got[i], ids[want])
		}
		i++
	}
}

func TestWatchersHearOfEveryChange(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.m.SetWatch(true)
	var heard []core.Phase
	s.release = func(b core.Body) {
		if c, ok := b.(core.Changed); ok {
			heard = append(heard, c.Tx.Phase)
		}
	}
	id := xid.New(xid.Parts{Begin: s.now, Incarnation: 1, Store: testStore, Counter: 99})
	s.step(core.Begin{Ref: 1, XID: id, Deadline: s.now.Add(time.Minute)})
	s.step(core.Register{Ref: 1, XID: id, Branch: branchID(1), Resource: resourceID(1), Mode: core.ModeAT})
	s.step(core.Commit{Ref: 1, XID: id})
	if len(heard) != 0 {
		t.Fatal("a watcher heard of what was not durable")
	}
	s.step(core.CastVote{Ref: 1, XID: id, Branch: branchID(1), Vote: core.VoteYes})
	s.step(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	s.flush()
	want := []core.Phase{core.Active, core.Active, core.Collecting, core.Settling, core.Finished}
	if len(heard) != len(want) {
		t.Fatalf("heard %v, want %v", heard, want)
	}
	for i := range want {
		if heard[i] != want[i] {
			t.Fatalf("heard %v, want %v", heard, want)
		}
	}
}

func TestFoldRefusesImpossibleRecords(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	var base core.Transaction
	for _, r := range s.log {
		if err := core.Fold(&base, r); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]core.Record{
		"gap":                         {XID: id, Seq: 5, Kind: core.RecordDecide, Outcome: core.Committed},
		"another XID":                 {XID: xid.ID{1}, Seq: 3, Kind: core.RecordDecide, Outcome: core.Committed},
		"unknown kind":                {XID: id, Seq: 3, Kind: 99},
		"second begin":                {XID: id, Seq: 3, Kind: core.RecordBegin},
		"branch twice":                {XID: id, Seq: 3, Kind: core.RecordRegister, Branch: branchID(1)},
		"vote twice":                  {XID: id, Seq: 3, Kind: core.RecordVote, Branch: branchID(1), Vote: core.VoteNo},
		"vote of an unknown branch":   {XID: id, Seq: 3, Kind: core.RecordVote, Branch: branchID(2), Vote: core.VoteYes},
		"no outcome":                  {XID: id, Seq: 3, Kind: core.RecordDecide},
		"settled before the decision": {XID: id, Seq: 3, Kind: core.RecordDone, Resource: resourceID(1)},
	}
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tx := base
			if err := core.Fold(&tx, r); err == nil {
				t.Fatal("accepted")
			}
			if tx.Records != base.Records || tx.Outcome != base.Outcome {
				t.Fatal("changed by a refused record")
			}
		})
	}
}
