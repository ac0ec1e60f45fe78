package core_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// laneOf is a lane of which there are as many as anybody likes.
func laneOf(n int) xid.ResourceID { return xid.ResourceID{0: 0xe, 14: byte(n >> 8), 15: byte(n)} }

// on makes all actions of a branch wait in one lane.
func on(lane xid.ResourceID, b core.Register) core.Register {
	for _, a := range []*core.Action{&b.Plan.Forward, &b.Plan.Commit, &b.Plan.Rollback} {
		if a.Kind != core.TargetNone {
			a.Lane = lane
		}
	}
	return b
}

// Hosts are as many as those who submit think of: a customer each, a port each.
func TestLanesOfHostsAreForgottenOnceNothingIsCalledThere(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *shell, c core.Call){
		"done": func(s *shell, c core.Call) { s.do(answer(c, core.Done, "")) },
		"failed": func(s *shell, c core.Call) {
			undo := calls(s.do(answer(c, core.Failed, "sold out")))
			s.do(answer(undo[0], core.Done, ""))
		},
		"no answer for a while": func(s *shell, c core.Call) {
			again := calls(s.pass(time.Minute))
			s.do(answer(again[0], core.Done, ""))
		},
		"paused, and then rolled back by hand": func(s *shell, c core.Call) {
			s.do(answer(c, core.Unsure, "broken pipe"))
			undo := calls(s.do(core.Rollback{Ref: "operator", XID: c.XID}))
			s.do(answer(undo[0], core.Done, ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			for n := range 300 {
				id := s.beginFor(time.Hour)
				cs := calls(s.submit(id, on(laneOf(n), step(1))))
				if s.m.Lanes() != 1 {
					t.Fatalf("%d lanes while one host is called", s.m.Lanes())
				}
				end(s, cs[0])
				if s.m.Open() != 0 || s.m.Lanes() != 0 {
					t.Fatalf("%d transactions and %d lanes are left", s.m.Open(), s.m.Lanes())
				}
			}
		})
	}
}

func TestManyLanesAtATimeAreAllForgotten(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{RestartGrace: time.Second})
	const many = 1000
	for n := range many {
		s.submit(s.beginFor(time.Hour), on(laneOf(n), step(1)))
	}
	s.restart(0)
	if s.m.Lanes() != many {
		t.Fatalf("%d lanes, want %d", s.m.Lanes(), many)
	}
	for range 10 {
		for _, c := range calls(s.pass(time.Minute)) {
			s.do(answer(c, core.Done, ""))
		}
	}
	if s.m.Open() != 0 || s.m.Lanes() != 0 {
		t.Errorf("%d transactions and %d lanes are left", s.m.Open(), s.m.Lanes())
	}
}

// A lane that somebody is attached to is the only place where that is known.
func TestLanesAreKeptWhileSomebodyIsAttachedOrWaits(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	lanes := func(want int, when string) {
		t.Helper()
		if got := s.m.Lanes(); got != want {
			t.Errorf("%s: %d lanes, want %d", when, got, want)
		}
	}
	s.do(core.Detached{Resource: laneOf(1)})
	lanes(0, "after a word about a lane that nobody knows")
	s.do(core.Attached{Resource: laneOf(1)})
	lanes(1, "attached")
	id := s.begin()
	s.reply(core.Register{Ref: 1, XID: id, Branch: branchID(1), Resource: laneOf(1), Mode: core.ModeAT})
	s.vote(id, 1, core.VoteYes)
	if n := len(settles(s.do(core.Commit{Ref: 1, XID: id}))); n != 1 {
		t.Fatalf("%d commands", n)
	}
	s.do(core.Detached{Resource: laneOf(1)})
	lanes(1, "with a command that nobody can take")
	if got := s.reply(core.Get{Ref: 1, XID: id}).Tx.Settlements[0].LastError; got == "" {
		t.Error("that nobody is attached is not told")
	}
	if n := len(settles(s.do(core.Attached{Resource: laneOf(1)}))); n != 1 {
		t.Fatalf("%d commands to whoever attaches", n)
	}
	s.do(core.Settled{XID: id, Resource: laneOf(1), Outcome: core.Committed, Done: true})
	lanes(1, "settled, and attached")
	s.do(core.Detached{Resource: laneOf(1)})
	lanes(0, "nobody and nothing")
}

// To look must neither make lanes nor need them.
func TestLookingMakesNoLanes(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	cs := calls(s.submit(id, on(laneOf(1), step(1)), on(laneOf(2), step(2, 1)), on(laneOf(3), step(3, 2))))
	for _, look := range []string{"get", "list"} {
		s.reply(core.Get{Ref: look, XID: id})
		s.m.Newest(xid.ID{}, 10, func(*core.Transaction) bool { return true })
		if s.m.Lanes() != 1 {
			t.Errorf("%s: %d lanes while one host is called", look, s.m.Lanes())
		}
	}
	undo := calls(s.do(answer(cs[0], core.Failed, "no")))
	s.do(answer(undo[0], core.Done, ""))
	if s.m.Lanes() != 0 {
		t.Errorf("%d lanes are left", s.m.Lanes())
	}
}

// A resource manager that attaches under the name of a host, and leaves, must not
// make its calls go out once more, nor hold them up.
func TestWhoeverAttachesToAHostDoesNotDisturbItsCalls(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id, other := s.beginFor(time.Hour), s.beginFor(time.Hour)
	first := calls(s.submit(id, on(laneOf(1), step(1))))
	out := append(s.do(core.Attached{Resource: laneOf(1)}), s.do(core.Detached{Resource: laneOf(1)})...)
	// What goes out next to the host shows what else is due there.
	out = append(out, s.submit(other, on(laneOf(1), step(1)))...)
	if cs := calls(out); len(cs) != 1 || cs[0].XID != other {
		t.Fatalf("calls %+v, want only that of the second transaction", cs)
	}
	s.do(answer(first[0], core.Done, ""))
	s.do(answer(calls(out)[0], core.Done, ""))
	if s.m.Open() != 0 || s.m.Lanes() != 0 {
		t.Errorf("%d transactions and %d lanes are left", s.m.Open(), s.m.Lanes())
	}
}
