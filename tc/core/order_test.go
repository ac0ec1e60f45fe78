package core_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// both is a branch that is confirmed or cancelled, and comes after others.
func both(n int, lastFirst bool, after ...int) core.Register {
	b := core.Register{Branch: branchID(n), Mode: core.ModeXA, Vote: core.VoteYes, Plan: &core.Plan{
		Commit: action(n), Rollback: action(n), LastFirst: lastFirst,
	}}
	for _, a := range after {
		b.Plan.After = append(b.Plan.After, branchID(a))
	}
	return b
}

func TestTheOrderOfPhaseTwo(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		branches         []core.Register
		commit, rollback string
	}{
		"first to last": {[]core.Register{both(1, false), both(2, false, 1), both(3, false, 2)}, "1c 2c 3c ", "3r 2r 1r "},
		"last first":    {[]core.Register{both(1, true), both(2, true, 1), both(3, true, 2)}, "3c 2c 1c ", "3r 2r 1r "},
		// Only the one that names the other says which goes first. Each asked for
		// its own side, 1 and 2 would wait for each other for ever.
		"the earlier last first":     {[]core.Register{both(1, true), both(2, false, 1), both(3, true, 2)}, "1c 3c 2c ", "3r 2r 1r "},
		"the one between":            {[]core.Register{both(1, false), both(2, true, 1), both(3, false, 1, 2)}, "2c 1c 3c ", "3r 2r 1r "},
		"nothing names the other":    {[]core.Register{both(1, true), both(2, false), both(3, true)}, "1c 2c 3c ", "1r 2r 3r "},
		"all of those that it names": {[]core.Register{both(1, true), both(2, true), both(3, true, 1, 2)}, "3c 1c 2c ", "3r 1r 2r "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for want, decide := range map[string]func(s *shell) []core.Body{
				tt.commit: func(s *shell) []core.Body { return s.submit(s.beginFor(time.Hour), tt.branches...) },
				tt.rollback: func(s *shell) []core.Body {
					id := s.beginFor(time.Hour)
					for _, b := range tt.branches {
						b.Ref, b.XID = 1, id
						if r := s.reply(b); r.Err != nil {
							t.Fatal(r.Err)
						}
					}
					return s.do(core.Rollback{Ref: 1, XID: id})
				},
			} {
				s := newShell(t, core.Config{})
				from := len(s.log)
				if made := s.drive(decide(s)); names(made) != want {
					t.Errorf("calls %q, want %q", names(made), want)
				}
				s.ended(t)
				// After a crash what is left comes in the same order.
				s.eachCrash(from, func(n int, c *shell, out []core.Body) {
					if s.log[n-1].Kind != core.RecordDecide && s.log[n-1].Kind != core.RecordDone {
						return
					}
					if made := names(c.drive(out)); made != want[len(want)-len(made):] {
						t.Errorf("after %d records calls %q of %q", n, made, want)
					}
				})
			}
		})
	}
}

func TestLastFirstIsCalledOneAtATime(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	three := wantCalls(t, s.submit(s.beginFor(time.Hour), both(1, true), both(2, true, 1), both(3, true, 2)), "3c ")
	wantCalls(t, s.do(answer(three[0], core.Unsure, "503")), "")
	three = wantCalls(t, s.pass(time.Second), "3c ")
	two := wantCalls(t, s.do(answer(three[0], core.Done, "")), "2c ")
	s.unchangedBy(t, "doubled", answer(three[0], core.Done, ""))
	one := wantCalls(t, s.do(answer(two[0], core.Done, "")), "1c ")
	wantCalls(t, s.do(answer(one[0], core.Done, "")), "")
	if s.m.Open() != 0 {
		t.Error("not finished")
	}
}

// TestWhatWasRefusedIsUndone: that it had no effect is what one answer said.
func TestWhatWasRefusedIsUndone(t *testing.T) {
	t.Parallel()
	refuse := func(t *testing.T, s *shell, c core.Call) []core.Body {
		t.Helper()
		out := s.do(answer(c, core.Failed, "sold out"))
		s.unchangedBy(t, "doubled", answer(c, core.Failed, "sold out"), answer(c, core.Done, ""))
		return out
	}
	t.Run("in sequence", func(t *testing.T) {
		t.Parallel()
		s := newShell(t, core.Config{})
		id := s.beginFor(time.Hour)
		one := wantCalls(t, s.submit(id, step(1), step(2, 1), step(3, 2)), "1f ")
		two := wantCalls(t, s.do(answer(one[0], core.Done, "")), "2f ")
		from := len(s.log)
		undo := wantCalls(t, refuse(t, s, two[0]), "2r ") // and not 3, which nobody called
		undo = wantCalls(t, s.do(answer(undo[0], core.Done, "")), "1r ")
		s.do(answer(undo[0], core.Done, ""))
		s.ended(t)
		s.eachCrash(from+1, func(n int, c *shell, out []core.Body) {
			want := []string{"2r 1r ", "2r 1r ", "1r ", ""}[n-from-1]
			if made := names(c.drive(out)); made != want {
				t.Errorf("after %d records calls %q, want %q", n-from, made, want)
			}
		})
	})
	t.Run("in parallel", func(t *testing.T) {
		t.Parallel()
		s := newShell(t, core.Config{})
		cs := wantCalls(t, s.submit(s.beginFor(time.Hour), step(1), step(2), step(3)), "1f 2f 3f ")
		s.do(answer(cs[0], core.Done, ""))
		undo := wantCalls(t, refuse(t, s, cs[1]), "1r 2r ")
		// The third is under way: it is undone when it has come to an end, whatever end.
		undo = append(undo, wantCalls(t, refuse(t, s, cs[2]), "3r ")...)
		for _, c := range undo {
			s.do(answer(c, core.Done, ""))
		}
		s.ended(t)
	})
}
