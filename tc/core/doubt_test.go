package core_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// byGroup is an action that a group of services has.
func byGroup(lane int) core.Action {
	return core.Action{Kind: core.TargetHandler, Address: "do", Lane: resourceID(50 + lane)}
}

// A refusal says that nothing happened at this attempt. Whether something did at an
// attempt before, or does when a copy of the call arrives, nobody knows.
func TestARefusalIsUndoneHoweverItCame(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(s *shell, first core.Call) core.Call{ // gives the call to refuse
		"the first": func(_ *shell, first core.Call) core.Call { return first },
		"after one without an end": func(s *shell, first core.Call) core.Call {
			s.do(answer(first, core.Unsure, "connection reset"))
			return calls(s.pass(time.Second))[0]
		},
		"after one without an answer": func(s *shell, _ core.Call) core.Call {
			return calls(s.pass(15 * time.Second))[0]
		},
		"after a restart": func(s *shell, _ core.Call) core.Call {
			var got []core.Body
			s.release = func(b core.Body) { got = append(got, b) }
			s.restart(0)
			s.release = nil
			return calls(got)[0]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			refused := before(s, calls(s.submit(s.beginFor(time.Hour), step(1)))[0])
			wantCalls(t, s.do(answer(refused, core.Failed, "sold out")), "1r ")
		})
	}
}

// What a caller or a workflow has withdrawn is undone, committed or not: another copy of
// the request, or another run, may have had the effect.
func TestWhatWithdrewIsUndoneWhateverTheOutcome(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end   func(id xid.ID) core.Input
		calls []string // by and by, each after all before it are done
	}{
		"committed":   {func(id xid.ID) core.Input { return core.Commit{Ref: "tm", XID: id} }, []string{"1c 2r 4c ", "3r "}},
		"rolled back": {func(id xid.ID) core.Input { return core.Rollback{Ref: "tm", XID: id} }, []string{"2r 4r ", "3r ", "1r "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			id := s.begin()
			for _, b := range []struct {
				n     int
				after []xid.BranchID
				vote  core.Vote
			}{
				{1, nil, core.VoteYes}, {3, []xid.BranchID{branchID(1)}, core.VoteWithdrawn},
				{2, []xid.BranchID{branchID(3)}, core.VoteWithdrawn}, {4, nil, core.VoteYes},
			} {
				r := try(id, b.n)
				r.Plan.After = b.after
				s.do(r)
				s.vote(id, b.n, b.vote)
			}
			from := len(s.log)
			out := s.do(tt.end(id))
			for _, want := range tt.calls {
				cs := wantCalls(t, out, want)
				out = nil
				for _, c := range cs {
					s.unchangedBy(t, "the opposite", answer(core.Call{XID: c.XID, Branch: c.Branch, Op: core.OpCommit + core.OpRollback - c.Op, Attempt: 1}, core.Done, ""))
					out = append(out, s.do(answer(c, core.Done, ""))...)
				}
			}
			s.ended(t)
			all := strings.Fields(strings.Join(tt.calls, ""))
			s.eachCrash(from+1, func(n int, c *shell, out []core.Body) {
				made := strings.Fields(names(c.drive(out)))
				left := slices.Clone(all[n-from-1:]) // each record behind the decision ends one call
				slices.Sort(made)
				slices.Sort(left)
				if !slices.Equal(made, left) {
					t.Errorf("after %d records behind the decision calls %q, want %q", n-from-1, made, left)
				}
			})
		})
	}
}

func TestALateRefusalDoesNotDecideWhileAnotherAttemptIsUnderWay(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	first := calls(s.submit(id, step(1)))[0]
	second := calls(s.pass(15 * time.Second))[0]
	wantCalls(t, s.do(answer(first, core.Failed, "no money")), "")
	s.do(answer(second, core.Done, "paid"))
	if tx, ok := s.archived(id); !ok || tx.Outcome != core.Committed {
		t.Errorf("%+v", tx)
	}
}

// What undoes a step waits for the attempt that is under way, and not for an answer
// to one before.
func TestCompensationWaitsForTheAttemptUnderWay(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	first := calls(s.submit(id, step(1)))[0]
	second := calls(s.pass(15 * time.Second))[0]
	wantCalls(t, s.do(core.Rollback{Ref: "tm", XID: id}), "")
	wantCalls(t, s.do(answer(first, core.Done, "late")), "")
	wantCalls(t, s.do(answer(second, core.Done, "")), "1r ")
}

// A pivot is not undone, but what came before it is, and not while it may happen.
func TestCompensationWaitsForAPivotUnderWay(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	pivot := step(2, 1)
	pivot.Plan.Rollback = core.Action{}
	out := s.submit(id, step(1), pivot)
	out = wantCallsOf(t, s.do(answer(calls(out)[0], core.Done, "")), "2f ")
	wantCalls(t, s.do(core.Rollback{Ref: "tm", XID: id}), "")
	wantCalls(t, s.do(answer(calls(out)[0], core.Done, "paid")), "1r ")
}

func wantCallsOf(t *testing.T, out []core.Body, want string) []core.Body {
	t.Helper()
	wantCalls(t, out, want)
	return out
}

// Whoever was called has gone, and the decision was made meanwhile.
func TestNothingIsCalledForwardAfterTheDecision(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: byGroup(1).Lane})
	id := s.beginFor(time.Hour)
	b := step(1)
	b.Plan.Forward = byGroup(1)
	wantCalls(t, s.submit(id, b), "1f ")
	wantCalls(t, s.do(core.Rollback{Ref: "tm", XID: id}), "")
	undo := wantCalls(t, s.do(core.Detached{Resource: byGroup(1).Lane}), "1r ")
	wantCalls(t, s.do(core.Attached{Resource: byGroup(1).Lane}), "")
	s.do(answer(undo[0], core.Done, ""))
	if _, ok := s.archived(id); !ok {
		t.Error("not finished")
	}
}

func TestADelayIsNotCutShort(t *testing.T) {
	t.Parallel()
	later := byGroup(1)
	later.Delay = time.Hour
	forward, commit := core.Register{Branch: branchID(1), Mode: core.ModeMessage, Plan: &core.Plan{Forward: later}}, delivery(1)
	commit.Plan.Commit = later
	for name, b := range map[string]core.Register{"of a check-back": forward, "of a delivery": commit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			s.do(core.Attached{Resource: later.Lane})
			id := s.beginFor(time.Minute)
			wantCalls(t, s.submit(id, b), "")
			for _, in := range []core.Input{core.Attached{Resource: later.Lane}, core.Detached{Resource: later.Lane}, core.Attached{Resource: later.Lane}, core.RetryNow{Ref: "me", XID: id}} {
				wantCalls(t, s.do(in), "")
			}
			// Nor does a restart begin it anew.
			wantCalls(t, s.pass(50*time.Minute), "")
			s.restart(0)
			s.do(core.Attached{Resource: later.Lane})
			wantCalls(t, s.pass(9*time.Minute), "")
			wantCalls(t, s.pass(65*time.Second), "1f ")
		})
	}
}

// Two runs of a step of a workflow must not go on with different results.
func TestASecondVoteThatDiffersIsRefused(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	r := core.Register{Ref: "register", XID: id, Branch: branchID(2), Mode: core.ModeWorkflow, Name: "draw", Plan: &core.Plan{}}
	vote := core.CastVote{Ref: "vote", XID: id, Branch: branchID(2), Vote: core.VoteYes, Result: []byte("1")}
	s.do(r)
	for range 2 {
		if got := s.reply(vote); got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	other, withdrawn := vote, vote
	other.Result, withdrawn.Vote = []byte("2"), core.VoteWithdrawn
	again := r
	again.Vote, again.Result = core.VoteYes, []byte("2")
	for name, in := range map[string]core.Input{"result": other, "vote": withdrawn, "registration": again} {
		if got := s.reply(in); got.Err == nil || got.Err.Kind != core.ErrBranchConflict {
			t.Errorf("another %s: %v", name, got.Err)
		}
	}
	if b := s.reply(core.Get{Ref: "get", XID: id}).Tx.Branches[0]; string(b.Result) != "1" {
		t.Errorf("remembered is %q", b.Result)
	}
}

func TestARepeatedRegistrationBringsItsVote(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	r := core.Register{Ref: "register", XID: id, Branch: branchID(2), Mode: core.ModeWorkflow, Name: "draw", Plan: &core.Plan{}}
	s.do(r)
	r.Vote, r.Result = core.VoteYes, []byte("42")
	s.do(r)
	if b := s.reply(core.Get{Ref: "get", XID: id}).Tx.Branches[0]; b.Vote != core.VoteYes || string(b.Result) != "42" {
		t.Errorf("%+v", b)
	}
}

// A person is called for everything that does not come to an end, in lists and looks
// alike.
func TestWhatDoesNotEndCallsAPerson(t *testing.T) {
	t.Parallel()
	group := step(1)
	group.Plan.Forward = byGroup(1)
	database := core.Register{Branch: branchID(1), Resource: resourceID(1), Mode: core.ModeAT}
	for name, tt := range map[string]struct {
		begin func(s *shell) (xid.ID, []core.Body)
		after time.Duration
	}{
		"a group that nobody has": {func(s *shell) (xid.ID, []core.Body) {
			id := s.beginFor(time.Hour)
			return id, s.submit(id, group)
		}, 2 * time.Minute},
		"a database whose service is gone": {func(s *shell) (xid.ID, []core.Body) {
			id := s.beginFor(time.Hour)
			return id, s.submit(id, database, delivery(2))
		}, 2 * time.Minute},
		"a Try that never votes": {func(s *shell) (xid.ID, []core.Body) {
			id := s.beginFor(time.Hour)
			s.do(try(id, 1))
			return id, s.do(core.Commit{Ref: "tm", XID: id})
		}, 2 * time.Minute},
		"not yet, for ever": {func(s *shell) (xid.ID, []core.Body) {
			id := s.beginFor(time.Hour)
			return id, s.submit(id, step(1))
		}, 2 * time.Hour},
		"a delivery that is not yet taken, for ever": {func(s *shell) (xid.ID, []core.Body) {
			id := s.beginFor(time.Hour)
			return id, s.submit(id, delivery(1))
		}, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			id, out := tt.begin(s)
			for end := s.now.Add(tt.after); s.now.Before(end); out = s.pass(10 * time.Second) {
				for _, c := range calls(out) {
					s.do(answer(c, core.NotYet, "closed"))
				}
			}
			shown := s.reply(core.Get{Ref: "get", XID: id}).Tx
			listed := s.m.Newest(xid.ID{}, 10, func(tx *core.Transaction) bool { return tx.Attention() })
			if !shown.Attention() || len(listed) != 1 {
				t.Errorf("shown %t, listed %d: %+v", shown.Attention(), len(listed), shown)
			}
		})
	}
}

func TestNotYetIsAskedLessAndLess(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	n, out := 0, s.submit(s.beginFor(time.Hour), step(1))
	for range 60 * 10 {
		for _, c := range calls(out) {
			n++
			s.do(answer(c, core.NotYet, ""))
		}
		out = s.pass(time.Second)
	}
	if n < 10 || n > 60 {
		t.Errorf("asked %d times in ten minutes", n)
	}
}
