package core_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// action is one that calls a host of its own.
func action(lane int) core.Action {
	return core.Action{Kind: core.TargetHTTP, Address: fmt.Sprintf("http://host%d/", lane), Lane: resourceID(100 + lane)}
}

// step is a saga step that comes after others.
func step(n int, after ...int) core.Register {
	p := &core.Plan{Forward: action(n), Rollback: action(n)}
	for _, a := range after {
		p.After = append(p.After, branchID(a))
	}
	return core.Register{Branch: branchID(n), Mode: core.ModeSaga, Name: fmt.Sprintf("step%d", n), Plan: p}
}

// delivery is a message: its receiver is told to do it, and not to confirm it.
func delivery(n int, after ...int) core.Register {
	p := &core.Plan{Commit: action(n)}
	for _, a := range after {
		p.After = append(p.After, branchID(a))
	}
	return core.Register{Branch: branchID(n), Mode: core.ModeMessage, Plan: p, Vote: core.VoteYes}
}

func calls(bodies []core.Body) []core.Call {
	var out []core.Call
	for _, b := range bodies {
		if c, ok := b.(core.Call); ok {
			out = append(out, c)
		}
	}
	return out
}

func names(cs []core.Call) string {
	out := ""
	for _, c := range cs {
		out += fmt.Sprintf("%d%s ", c.Branch[15], [...]string{"", "f", "c", "r"}[c.Op])
	}
	return out
}

func (s *shell) submit(id xid.ID, branches ...core.Register) []core.Body {
	s.t.Helper()
	return s.do(core.Submit{Ref: "submit", XID: id, Branches: branches})
}

func answer(c core.Call, v core.Verdict, result string) core.Called {
	a := core.Called{XID: c.XID, Branch: c.Branch, Op: c.Op, Attempt: c.Attempt, Verdict: v, Text: result}
	if v == core.Done && result != "" {
		a.Result = []byte(result)
	}
	return a
}

func wantCalls(t *testing.T, got []core.Body, want string) []core.Call {
	t.Helper()
	cs := calls(got)
	if names(cs) != want {
		t.Fatalf("calls %q, want %q", names(cs), want)
	}
	return cs
}

func TestSagaRunsInOrderAndHandsResultsOn(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	out := s.submit(id, step(1), step(2, 1), step(3, 1), step(4, 2, 3))
	if r := replies(out); len(r) != 1 || r[0].Err != nil || !r[0].Tx.Submitted {
		t.Fatalf("%+v", r)
	}
	first := wantCalls(t, out, "1f ")
	both := wantCalls(t, s.do(answer(first[0], core.Done, "one")), "2f 3f ")
	if len(both[0].Before) != 1 || both[0].Before[0].Name != "step1" || string(both[0].Before[0].Value) != "one" {
		t.Errorf("results %+v", both[0].Before)
	}
	wantCalls(t, s.do(answer(both[0], core.Done, "two")), "")
	last := wantCalls(t, s.do(answer(both[1], core.Done, "")), "4f ")
	s.do(answer(last[0], core.Done, ""))
	if tx, ok := s.archived(id); !ok || tx.Outcome != core.Committed {
		t.Fatalf("%+v", tx)
	}
}

func TestSagaCompensatesBackwardsWhatMayHaveHappened(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	first := wantCalls(t, s.submit(id, step(1), step(2, 1), step(3, 1), step(4, 3), step(5, 4)), "1f ")
	both := wantCalls(t, s.do(answer(first[0], core.Done, "")), "2f 3f ")
	four := wantCalls(t, s.do(answer(both[1], core.Done, "")), "4f ")
	// 4 fails for good. 2 is under way: its compensation waits for its end. 5 was
	// never called.
	out := s.do(answer(four[0], core.Failed, "sold out"))
	four = wantCalls(t, out, "4r ") // a refusal is no proof
	three := wantCalls(t, s.do(answer(four[0], core.Done, "")), "3r ")
	wantCalls(t, s.do(answer(three[0], core.Done, "")), "")
	two := wantCalls(t, s.do(answer(both[0], core.Unsure, "broken pipe")), "2r ")
	one := wantCalls(t, s.do(answer(two[0], core.Done, "")), "1r ")
	s.do(answer(one[0], core.Done, ""))
	tx, ok := s.archived(id)
	if !ok || tx.Outcome != core.RolledBack || tx.Reason != core.ReasonVotedNo {
		t.Fatalf("%+v", tx)
	}
}

func TestCompensationWaitsForAnActionOnlyAsLongAsItsTimeout(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	wantCalls(t, s.submit(id, step(1)), "1f ")
	wantCalls(t, s.do(core.Rollback{Ref: "tm", XID: id}), "")
	wantCalls(t, s.pass(12*time.Second), "1r ")
}

func TestARestartGoesOnWithWhatWasSubmitted(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	first := wantCalls(t, s.submit(id, step(1), step(2, 1)), "1f ")
	s.step(answer(first[0], core.Done, "kept"))
	var got []core.Body
	s.release = func(b core.Body) { got = append(got, b) }
	s.restart(0) // the vote was not forced
	wantCalls(t, got, "1f ")
	again := calls(got)
	got = nil
	s.step(answer(again[0], core.Done, "kept"))
	s.flush()
	wantCalls(t, got, "2f ")
	got = nil
	s.restart(1)
	two := wantCalls(t, got, "2f ")
	if len(two[0].Before) != 1 || string(two[0].Before[0].Value) != "kept" {
		t.Errorf("results after the restart: %+v", two[0].Before)
	}
}

func TestARestartCallsAtOnceWhatADecisionOwes(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	for range 3 {
		wantCalls(t, s.submit(s.beginFor(time.Hour), delivery(1)), "1f ")
	}
	var got []core.Body
	s.release = func(b core.Body) { got = append(got, b) }
	s.restart(0)
	wantCalls(t, got, "1f 1f 1f ")
}

func TestAMessageGoesOutOnlyIfItsSenderCommitted(t *testing.T) {
	t.Parallel()
	sender := core.Register{Branch: branchID(1), Resource: resourceID(1), Mode: core.ModeAT}
	checkBack := core.Register{Branch: branchID(1), Mode: core.ModeMessage, Plan: &core.Plan{Forward: action(9)}}
	checkBack.Plan.Forward.Delay = 10 * time.Second
	for name, sent := range map[string]core.Register{"of a database": sender, "with check-back": checkBack} {
		for _, vote := range []core.Vote{core.VoteYes, core.VoteNo} {
			t.Run(fmt.Sprintf("%s, vote %d", name, vote), func(t *testing.T) {
				t.Parallel()
				s := newShell(t, core.Config{})
				s.do(core.Attached{Resource: resourceID(1)})
				id := s.beginFor(time.Minute)
				wantCalls(t, s.submit(id, sent, delivery(2), delivery(3, 2)), "")
				wantCalls(t, s.pass(9*time.Second), "")
				var out []core.Body
				if name == "with check-back" {
					asked := wantCalls(t, s.pass(time.Second), "1f ")
					verdict := core.Done
					if vote == core.VoteNo {
						verdict = core.Failed
					}
					out = s.do(answer(asked[0], verdict, ""))
				} else {
					// It has no deadline any more: nobody may drop it while its sender
					// may have committed.
					if n := asks(s.pass(24 * time.Hour)); n == 0 {
						t.Fatal("the sender's database was not asked")
					}
					out = s.do(core.Answered{XID: id, Branch: branchID(1), Vote: vote})
					done := core.Committed
					if vote == core.VoteNo {
						done = core.RolledBack
					}
					out = append(out, s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: done, Done: true})...)
				}
				if vote == core.VoteNo {
					wantCalls(t, out, "")
					if _, ok := s.archived(id); !ok {
						t.Fatal("not finished")
					}
					return
				}
				two := wantCalls(t, out, "2f ")
				three := wantCalls(t, s.do(answer(two[0], core.Done, "")), "3f ")
				s.do(answer(three[0], core.Failed, "no")) // tried until it is taken
				three = wantCalls(t, s.pass(35*time.Second), "3f ")
				s.do(answer(three[0], core.Done, ""))
				if tx, ok := s.archived(id); !ok || tx.Outcome != core.Committed {
					t.Fatalf("%+v", tx)
				}
			})
		}
	}
}

func TestDatabasesAreSettledBeforeAnythingIsCalled(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	tcc := try(id, 2)
	tcc.Vote = core.VoteYes
	if r := s.reply(tcc); r.Err != nil {
		t.Fatal(r.Err)
	}
	out := s.do(core.Commit{Ref: "tm", XID: id})
	wantCalls(t, out, "")
	if len(settles(out)) != 1 {
		t.Fatal("the database was not settled")
	}
	confirm := wantCalls(t, s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true}), "2c ")
	s.do(answer(confirm[0], core.Done, ""))
	if _, ok := s.archived(id); !ok {
		t.Fatal("not finished")
	}
}

// try is a branch of TCC whose Try its caller makes.
func try(id xid.ID, n int) core.Register {
	return core.Register{Ref: "tcc", XID: id, Branch: branchID(n), Mode: core.ModeTCC, Plan: &core.Plan{Commit: action(n), Rollback: action(n)}}
}

// A database is asked again for a vote that a crash took. Nobody can be asked for
// that of a Try.
func TestAVoteThatOnlyItsCallerKnowsIsForced(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.do(try(id, 2))
	told := map[core.Ref]bool{}
	s.release = func(b core.Body) {
		if r, ok := b.(core.Reply); ok {
			told[r.Ref] = true
		}
	}
	for n, want := range map[int]bool{1: true, 2: false} {
		ref := fmt.Sprintf("vote %d", n)
		s.step(core.CastVote{Ref: ref, XID: id, Branch: branchID(n), Vote: core.VoteYes})
		if told[ref] != want {
			t.Errorf("branch %d: acknowledged before it is forced: %t", n, told[ref])
		}
	}
	s.flush()
	if !told["vote 2"] {
		t.Error("not acknowledged when it is forced")
	}
}

func TestNothingIsSubmittedBeforeItsTriesHaveVoted(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.do(try(id, 1))
	if r := replies(s.submit(id, step(2))); r[0].Err == nil || r[0].Err.Kind != core.ErrWrongState {
		t.Errorf("without the vote: %+v", r[0])
	}
	s.vote(id, 1, core.VoteYes)
	// Nor with one whose vote would be missing for ever.
	if r := replies(s.submit(id, step(2), try(id, 3))); r[0].Err == nil || r[0].Err.Kind != core.ErrWrongState {
		t.Errorf("with one that has no vote: %+v", r[0])
	}
	wantCalls(t, s.submit(id, step(2)), "2f ")
}

func TestAStepIsGivenUpAfterItsAttempts(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	st := step(1)
	st.Plan.Retry = core.Retry{First: time.Second, Max: time.Second, Attempts: 2}
	one := wantCalls(t, s.submit(id, st), "1f ")
	wantCalls(t, s.do(answer(one[0], core.NotYet, "")), "")
	again := wantCalls(t, s.pass(time.Second), "1f ")
	wantCalls(t, s.do(answer(again[0], core.Unsure, "500")), "")
	third := wantCalls(t, s.pass(time.Second), "1f ")
	// What the last attempt did is not known, so it is undone.
	wantCalls(t, s.do(answer(third[0], core.Unsure, "500")), "1r ")
}

func TestSubmitAgain(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	s.submit(id, step(1), step(2, 1))
	records := len(s.log)
	if r := replies(s.submit(id, step(1), step(2, 1))); r[0].Err != nil || len(s.log) != records {
		t.Errorf("the same again: %v, %d new records", r[0].Err, len(s.log)-records)
	}
	for name, bs := range map[string][]core.Register{
		"one more": {step(1), step(2, 1), step(3)}, "another order": {step(2), step(1)},
		"cycle": {step(1, 2), step(2, 1)},
	} {
		if r := replies(s.submit(id, bs...)); r[0].Err == nil || len(s.log) != records {
			t.Errorf("%s: %v", name, r[0].Err)
		}
	}
	done := s.beginFor(time.Hour)
	c := wantCalls(t, s.submit(done, delivery(1)), "1f ")
	s.do(answer(c[0], core.Done, ""))
	archived := delivery(1)
	archived.Plan.Commit.Payload = []byte("not kept")
	if r := replies(s.submit(done, archived)); r[0].Err != nil || r[0].Tx.Outcome != core.Committed {
		t.Errorf("again after the end: %+v", r[0])
	}
	other := s.beginFor(time.Hour)
	records = len(s.log)
	if r := replies(s.submit(other, step(1), step(2, 7))); r[0].Err == nil || r[0].Err.Kind != core.ErrUnknownBranch || len(s.log) != records {
		t.Errorf("after an unknown step: %v", r[0].Err)
	}
}
