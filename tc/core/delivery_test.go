package core_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func TestDeliveryRetriesForeverWithGrowingPausesAndFlags(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	if n := len(settles(s.do(core.Commit{Ref: 1, XID: id}))); n != 1 {
		t.Fatalf("%d commands", n)
	}
	var pause time.Duration
	for attempt := 1; attempt <= 20; attempt++ {
		s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Error: "disk is slow"})
		tx := s.reply(core.Get{Ref: 1, XID: id}).Tx
		st := tx.Settlements[0]
		if st.LastError != "disk is slow" || int(st.Attempts) != attempt {
			t.Fatalf("settlement %+v", st)
		}
		if want := attempt >= 10; tx.Attention() != want {
			t.Fatalf("attempt %d: attention %t, want %t", attempt, tx.Attention(), want)
		}
		pause = st.Next.Sub(s.now)
		if pause < 50*time.Millisecond || pause > 30*time.Second {
			t.Fatalf("attempt %d: pause %s", attempt, pause)
		}
		if n := len(settles(s.pass(pause))); n != 1 {
			t.Fatalf("attempt %d: %d commands after the pause", attempt, n)
		}
	}
	if pause < 15*time.Second {
		t.Fatalf("last pause %s, want at least half of the longest", pause)
	}
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true})
	if s.m.Open() != 0 {
		t.Fatal("not finished")
	}
}

func TestMisfitIsFlaggedAtOnceAndRetriedAtTheSlowestPace(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.do(core.Rollback{Ref: 1, XID: id})
	s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.RolledBack, Error: "row differs", NeedsAttention: true})
	tx := s.reply(core.Get{Ref: 1, XID: id}).Tx
	if !tx.Attention() || tx.Settlements[0].Next.Sub(s.now) != 30*time.Second {
		t.Fatalf("%+v", tx.Settlements[0])
	}
	r := s.do(core.RetryNow{Ref: "op", XID: id})
	if len(settles(r)) != 1 || replies(r)[0].Count != 1 {
		t.Fatalf("retry now: %+v", r)
	}
}

func TestSilentRMIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.do(core.Rollback{Ref: 1, XID: id})
	if n := len(settles(s.pass(10*time.Second - time.Millisecond))); n != 0 {
		t.Fatalf("%d commands before the answer timed out", n)
	}
	if n := len(settles(s.pass(time.Second))); n != 1 {
		t.Fatalf("%d commands after it", n)
	}
}

func TestResourceWithoutRMWaitsAndGoesOnWhenOneAttaches(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	s.do(core.Rollback{Ref: 1, XID: id})
	if n := len(settles(s.pass(time.Hour))); n != 0 {
		t.Fatalf("%d commands to nobody", n)
	}
	tx := s.reply(core.Get{Ref: 1, XID: id}).Tx
	if !tx.Attention() || tx.Settlements[0].LastError == "" {
		t.Fatalf("what is stuck must be visible: %+v", tx.Settlements[0])
	}
	if n := len(settles(s.do(core.Attached{Resource: resourceID(1)}))); n != 1 {
		t.Fatalf("%d commands when an RM came", n)
	}
	s.do(core.Detached{Resource: resourceID(1)})
	if n := len(settles(s.do(core.Attached{Resource: resourceID(1)}))); n != 1 {
		t.Fatalf("%d commands when another came before the first had answered", n)
	}
}

func TestWindowBoundsCommandsInFlight(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{Window: 3})
	var ids []xid.ID
	for range 10 {
		id := s.begin()
		s.register(id, 1, 1)
		s.do(core.Rollback{Ref: 1, XID: id})
		ids = append(ids, id)
	}
	sent := settles(s.do(core.Attached{Resource: resourceID(1)}))
	if len(sent) != 3 {
		t.Fatalf("%d in flight, want 3", len(sent))
	}
	total := len(sent)
	for i := 0; i < len(ids); i++ {
		total += len(settles(s.do(core.Settled{XID: ids[i], Resource: resourceID(1), Outcome: core.RolledBack, Done: true})))
	}
	if total != 10 || s.m.Open() != 0 {
		t.Fatalf("%d commands, %d open", total, s.m.Open())
	}
}

// Whoever asks for a new attempt may have changed what the one under way did not see.
func TestAnAttemptIsMadeAfterTheOneUnderWayWhereSomebodyAsks(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.do(core.Attached{Resource: resourceID(1)})
	s.register(id, 1, 1)
	if n := len(settles(s.do(core.Rollback{Ref: "tm", XID: id}))); n != 1 {
		t.Fatalf("%d commands", n)
	}
	s.do(core.RetryNow{Ref: "me", XID: id})
	misfit := core.Settled{XID: id, Resource: resourceID(1), Outcome: core.RolledBack, Error: "it does not fit", NeedsAttention: true}
	if n := len(settles(s.do(misfit))); n != 1 {
		t.Errorf("%d commands after the attempt that was under way", n)
	}
	if n := len(settles(s.do(misfit))); n != 0 {
		t.Errorf("%d commands after the one that was asked for", n)
	}
}
