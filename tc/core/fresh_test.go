package core_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
)

func TestAFreshRegistrationIsTheFirst(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	b := try(id, 1)
	b.Fresh = true
	if r := s.reply(b); r.Err != nil {
		t.Fatal(r.Err)
	}
	records := len(s.log)
	wantKind(t, s.reply(b), core.ErrBranchConflict)
	other := b
	other.Name = "another"
	wantKind(t, s.reply(other), core.ErrBranchConflict)
	b.Fresh = false
	if r := s.reply(b); r.Err != nil {
		t.Errorf("the same again, if it need not be the first: %v", r.Err)
	}
	b.Fresh = true
	s.eachCrash(len(s.log), func(_ int, c *shell, _ []core.Body) {
		wantKind(t, c.reply(b), core.ErrBranchConflict)
	})
	if len(s.log) != records {
		t.Errorf("%d new records", len(s.log)-records)
	}
	for want, decide := range map[core.ErrorKind]core.Input{
		core.ErrRolledBack: core.Rollback{Ref: 1, XID: id},
		core.ErrCommitted:  core.Commit{Ref: 1, XID: id},
	} {
		s.eachCrash(len(s.log), func(_ int, c *shell, _ []core.Body) {
			c.vote(id, 1, core.VoteYes)
			c.do(decide)
			late := try(id, 2)
			late.Fresh = true
			wantKind(t, c.reply(late), want)
		})
	}
}

func TestAFreshBranchOfASubmissionIsTheFirst(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	b := step(1)
	b.Fresh = true
	wantKind(t, replies(s.submit(id, b, b))[0], core.ErrBranchConflict)
	wantCalls(t, s.submit(id, b), "1f ")
	records := len(s.log)
	wantKind(t, replies(s.submit(id, b))[0], core.ErrBranchConflict)
	if r := replies(s.submit(id, step(1))); r[0].Err != nil || len(s.log) != records {
		t.Errorf("%v, %d new records", r[0].Err, len(s.log)-records)
	}
}

func TestAFreshVoteIsTheFirst(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before func(s *shell, b core.CastVote)
	}{
		"doubled":      {func(s *shell, b core.CastVote) { s.do(b) }},
		"the opposite": {func(s *shell, b core.CastVote) { b.Vote = core.VoteNo; s.do(b) }},
		"rolled back":  {func(s *shell, b core.CastVote) { s.do(core.Rollback{Ref: 1, XID: b.XID}) }},
		"given up":     {func(s *shell, b core.CastVote) { s.abandon(b.XID) }},
		"too late":     {func(s *shell, _ core.CastVote) { s.pass(time.Hour) }},
		"committed":    {func(s *shell, b core.CastVote) { s.do(b); s.do(core.Commit{Ref: 1, XID: b.XID}) }},
		"by another input": {func(s *shell, b core.CastVote) {
			again := try(b.XID, 1)
			again.Vote = core.VoteYes
			s.do(again)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			id := s.begin()
			s.do(try(id, 1))
			fresh := core.CastVote{Ref: 1, XID: id, Branch: branchID(1), Vote: core.VoteYes, Fresh: true}
			s.eachCrash(len(s.log), func(_ int, c *shell, _ []core.Body) {
				if r := c.reply(fresh); r.Err != nil {
					t.Fatalf("the first: %v", r.Err)
				}
			})
			tt.before(s, fresh)
			records := len(s.log)
			wantKind(t, s.reply(fresh), core.ErrWrongState)
			fresh.Vote = core.VoteNo
			wantKind(t, s.reply(fresh), core.ErrWrongState)
			if len(s.log) != records {
				t.Errorf("%d new records", len(s.log)-records)
			}
		})
	}
	s := newShell(t, core.Config{})
	wantKind(t, s.reply(core.CastVote{Ref: 1, XID: s.begin(), Branch: branchID(1), Vote: core.VoteYes, Fresh: true}), core.ErrUnknownBranch)
}

func delayed(b core.CastVote, d time.Duration) core.CastVote {
	b.Vote, b.Delay = core.VoteYes, d
	return b
}

func TestNothingIsCommittedByACallBeforeTheDelayOfAVote(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{RestartGrace: time.Second})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.beginFor(time.Hour)
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	s.do(try(id, 2))
	s.do(try(id, 3))
	vote := func(n int) core.CastVote { return core.CastVote{Ref: 1, XID: id, Branch: branchID(n)} }
	start := s.now
	if r := s.reply(delayed(vote(2), 30*time.Second)); r.Err != nil || !r.Tx.NotBefore.Equal(start.Add(30*time.Second)) {
		t.Fatalf("%+v", r)
	}
	// A vote that names a shorter delay, or comes again with another, changes nothing.
	if r := s.reply(delayed(vote(3), time.Second)); r.Err != nil || !r.Tx.NotBefore.Equal(start.Add(30*time.Second)) {
		t.Fatalf("%+v", r)
	}
	if r := s.reply(delayed(vote(2), time.Hour)); r.Err != nil || !r.Tx.NotBefore.Equal(start.Add(30*time.Second)) {
		t.Fatalf("%+v", r)
	}
	voted := len(s.log)
	out := s.do(core.Commit{Ref: 1, XID: id})
	wantCalls(t, out, "")
	if len(settles(out)) != 1 {
		t.Fatal("what resource managers settle need not wait")
	}
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	wantCalls(t, s.do(core.RetryNow{Ref: 1, XID: id}), "")
	settled := len(s.log)
	s.eachCrash(voted, func(n int, c *shell, out []core.Body) {
		out = append(out, c.do(core.Attached{Resource: resourceID(1)})...)
		if n == voted {
			out = append(out, c.do(core.Commit{Ref: 1, XID: id})...)
		}
		if n < settled {
			out = append(out, c.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})...)
		}
		out = append(out, c.pass(29_999*time.Millisecond)...)
		wantCalls(t, out, "")
		if n == settled { // unless somebody says that it must not
			wantCalls(t, c.do(core.RetryNow{Ref: 1, XID: id, Delayed: true}), "2c 3c ")
			return
		}
		wantCalls(t, c.pass(time.Millisecond), "2c 3c ")
	})
	// A rollback does not wait.
	s.eachCrash(voted, func(n int, c *shell, _ []core.Body) {
		if n == voted {
			c.do(core.Attached{Resource: resourceID(1)})
			c.do(core.Rollback{Ref: 1, XID: id})
			wantCalls(t, c.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.RolledBack, Done: true}), "2r 3r ")
		}
	})
	wantCalls(t, s.pass(29_999*time.Millisecond), "")
	for _, c := range wantCalls(t, s.pass(time.Millisecond), "2c 3c ") {
		s.do(answer(c, core.Done, ""))
	}
	if tx, ok := s.archived(id); !ok || !tx.NotBefore.Equal(start.Add(30*time.Second)) {
		t.Errorf("%t %+v", ok, tx)
	}
}

// The sender of a message that is checked back can be asked again for a lost vote,
// but nobody can be asked for the delay.
func TestADelayIsForcedWithItsVote(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	s.register(id, 1, 1)
	s.register(id, 2, 1)
	told := map[core.Ref]bool{}
	s.release = func(b core.Body) {
		if r, ok := b.(core.Reply); ok {
			told[r.Ref] = true
		}
	}
	s.step(core.CastVote{Ref: "without", XID: id, Branch: branchID(1), Vote: core.VoteYes})
	s.step(delayed(core.CastVote{Ref: "with", XID: id, Branch: branchID(2)}, time.Second))
	if !told["without"] || told["with"] {
		t.Errorf("told before it is durable: %v", told)
	}
	s.flush()
	if !told["with"] {
		t.Error("not told when it is durable")
	}
}

func TestADelayIsThatOfAYes(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.do(try(id, 1))
	if r := s.reply(core.CastVote{Ref: 1, XID: id, Branch: branchID(1), Vote: core.VoteWithdrawn, Delay: time.Hour}); r.Err != nil || !r.Tx.NotBefore.IsZero() {
		t.Errorf("%+v", r)
	}
}
