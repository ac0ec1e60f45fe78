package core_test

import (
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// slowly is a branch whose pauses are a second long, and that of "not yet" three.
func slowly(b core.Register) core.Register {
	b.Plan.Retry = core.Retry{First: 2 * time.Second, Max: time.Minute, Poll: 3 * time.Second}
	return b
}

func TestNotYetIsAskedAtASteadyPaceWhileFailuresGrow(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]core.Register{"forward": slowly(step(1)), "in phase two": slowly(delivery(1))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			id := s.beginFor(24 * time.Hour)
			c := wantCalls(t, s.submit(id, b), "1f ")[0]
			look := func() core.Progress {
				tx := s.reply(core.Get{Ref: 1, XID: id}).Tx
				if tx.Outcome == core.Undecided {
					return tx.Branches[0].Forward
				}
				return tx.Settlements[0].Progress
			}
			next := func(v core.Verdict) time.Duration {
				s.do(answer(c, v, "later"))
				p := look()
				if p.NotYet != (v == core.NotYet) {
					t.Fatalf("answered %d, and NotYet is %t", v, p.NotYet)
				}
				pause := p.Next.Sub(s.now)
				wantCalls(t, s.pass(pause-time.Millisecond), "")
				c = wantCalls(t, s.pass(time.Millisecond), "1f ")[0]
				return pause
			}
			var failed time.Duration
			for n := range 5 {
				for range 4 {
					if d := next(core.NotYet); d != 3*time.Second {
						t.Errorf("after %d failures it is asked again after %s", n, d)
					}
				}
				// Half of the pause is chance, so it grows by every second time at least.
				d := next(core.Unsure)
				if n%2 == 0 {
					if d <= failed {
						t.Errorf("failure %d: pause %s after %s", n, d, failed)
					}
					failed = d
				}
			}
			if p := look(); p.Failures != 5 || p.Attempts != 26 {
				t.Errorf("%+v", p)
			}
			s.do(answer(c, core.NotYet, ""))
			s.do(answer(c, core.Done, "")) // late, and still the answer
			tx, _ := s.archived(id)
			if tx.Outcome != core.Committed || tx.Branches[0].Forward.NotYet || len(tx.Settlements) > 0 && tx.Settlements[0].NotYet {
				t.Errorf("%+v", tx)
			}
		})
	}
}

func TestWithoutAPollPauseNotYetSlowsDown(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(24 * time.Hour)
	c := wantCalls(t, s.submit(id, step(1)), "1f ")[0]
	var pause time.Duration
	for range 12 {
		s.do(answer(c, core.NotYet, ""))
		pause = s.reply(core.Get{Ref: 1, XID: id}).Tx.Branches[0].Forward.Next.Sub(s.now)
		c = wantCalls(t, s.pass(pause), "1f ")[0]
	}
	if pause < 10*time.Second {
		t.Errorf("the pause is %s", pause)
	}
}

// orStalled begins a wait and gives the reply, if there is one at once.
func (s *shell) orStalled(id xid.ID) []core.Reply {
	s.t.Helper()
	return replies(s.do(core.Wait{Ref: "stalled", XID: id, Finished: true, OrStalled: true, Until: s.now.Add(time.Hour)}))
}

// wantStalled tells whether the wait was answered, with everything.
func wantStalled(t *testing.T, when string, rs []core.Reply, want bool) {
	t.Helper()
	var found []core.Reply
	for _, r := range rs {
		if r.Ref == "stalled" {
			found = append(found, r)
		}
	}
	switch {
	case !want && len(found) > 0:
		t.Fatalf("%s: answered too early: %+v", when, found[0].Tx)
	case want && (len(found) != 1 || found[0].Err != nil):
		t.Fatalf("%s: %d answers", when, len(found))
	case want && len(found[0].Tx.Branches) == 0:
		t.Fatalf("%s: the answer says nothing of branches", when)
	case want && found[0].Tx.Outcome != core.Undecided && len(found[0].Tx.Settlements) == 0:
		t.Fatalf("%s: the answer says nothing of settlements", when)
	}
}

func TestWhoeverWaitsForAStallHearsOfItWhenNothingIsLeftButToWait(t *testing.T) {
	t.Parallel()
	late := func(d time.Duration, b core.Register) core.Register {
		b.Plan.Forward.Delay, b.Plan.Commit.Delay = d, d
		return b
	}
	at := core.Register{Branch: branchID(7), Resource: resourceID(1), Mode: core.ModeAT, Vote: core.VoteYes}
	type inputs = func(id xid.ID, cs []core.Call) core.Input
	fails := func(n int) inputs {
		return func(_ xid.ID, cs []core.Call) core.Input { return answer(cs[n], core.Unsure, "503") }
	}
	done := func(n int) inputs {
		return func(_ xid.ID, cs []core.Call) core.Input { return answer(cs[n], core.Done, "") }
	}
	settled := func(ok bool) inputs {
		return func(id xid.ID, _ []core.Call) core.Input {
			return core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: ok, Error: "slow"}
		}
	}
	for name, tt := range map[string]struct {
		branches []core.Register
		steps    []inputs // the answer comes with the last
	}{
		"the only call fails":                  {[]core.Register{slowly(step(1))}, []inputs{fails(0)}},
		"the only delivery fails":              {[]core.Register{slowly(delivery(1))}, []inputs{fails(0)}},
		"the last of several fails":            {[]core.Register{slowly(step(1)), slowly(step(2)), slowly(step(3))}, []inputs{fails(1), fails(0), fails(2)}},
		"the last under way ends well":         {[]core.Register{slowly(step(1)), slowly(step(2))}, []inputs{fails(0), done(1)}},
		"so in phase two":                      {[]core.Register{slowly(delivery(1)), slowly(delivery(2))}, []inputs{fails(0), done(1)}},
		"not before what comes next was tried": {[]core.Register{slowly(delivery(1)), slowly(delivery(2)), slowly(delivery(3, 2))}, []inputs{fails(0), done(1), fails(2)}},
		"nor in phase one":                     {[]core.Register{slowly(step(1)), slowly(step(2)), slowly(step(3, 2))}, []inputs{fails(0), done(1), fails(2)}},
		"a delay holds up nothing that failed": {[]core.Register{slowly(delivery(1)), late(time.Minute, delivery(2))}, []inputs{fails(0)}},
		"it waits for not yet": {[]core.Register{slowly(step(1))}, []inputs{
			func(_ xid.ID, cs []core.Call) core.Input { return answer(cs[0], core.NotYet, "") },
		}},
		"a database fails": {[]core.Register{at, slowly(delivery(1))}, []inputs{settled(false)}},
		"a database is settled, and then the call fails": {[]core.Register{at, slowly(delivery(1))}, []inputs{settled(true), fails(0)}},
		"a database can't be reached any more": {[]core.Register{at, slowly(delivery(1))}, []inputs{
			func(xid.ID, []core.Call) core.Input { return core.Detached{Resource: resourceID(1)} },
		}},
		"the call that is owed was given up, and the database fails": {[]core.Register{at, slowly(delivery(1))}, []inputs{
			func(id xid.ID, _ []core.Call) core.Input { return core.Abandon{Ref: 1, XID: id} }, settled(false),
		}},
		"the step under way when it was rolled back fails": {[]core.Register{slowly(step(1)), slowly(step(2))}, []inputs{
			done(0),
			func(id xid.ID, _ []core.Call) core.Input { return core.Rollback{Ref: 1, XID: id} },
			func(_ xid.ID, cs []core.Call) core.Input { return answer(cs[2], core.Unsure, "503") }, // 1r
			func(_ xid.ID, cs []core.Call) core.Input { return answer(cs[1], core.Unsure, "503") }, // 2f; 2r goes out
			func(_ xid.ID, cs []core.Call) core.Input { return answer(cs[3], core.Unsure, "503") },
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{AnswerTimeout: time.Hour})
			s.do(core.Attached{Resource: resourceID(1)})
			id := s.beginFor(time.Hour)
			cs := calls(s.submit(id, tt.branches...))
			wantStalled(t, "at first", s.orStalled(id), false)
			for i, step := range tt.steps {
				out := s.do(step(id, cs))
				wantStalled(t, name, replies(out), i == len(tt.steps)-1)
				cs = append(cs, calls(out)...)
			}
			// Whoever comes now hears of it at once, and it stays so until the pause ends.
			wantStalled(t, "again", s.orStalled(id), true)
			s.do(core.RetryNow{Ref: 1, XID: id})
		})
	}
}

func TestAPauseThatEndsWithTheLastAttemptIsNoStall(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	quick, slow := step(1), step(2)
	quick.Plan.Retry = core.Retry{First: 11 * time.Second, Max: 11 * time.Second, Poll: 11 * time.Second}
	cs := wantCalls(t, s.submit(id, slowly(slow), quick), "2f 1f ")
	s.do(answer(cs[1], core.NotYet, "")) // due when the other is given up: 10 s and the margin
	wantStalled(t, "at first", s.orStalled(id), false)
	out := s.pass(11 * time.Second)
	wantCalls(t, out, "1f ")
	wantStalled(t, "another call has just begun", replies(out), false)
}

func TestADelayAloneIsNoStall(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	b := slowly(delivery(1))
	b.Plan.Commit.Delay = time.Minute
	wantCalls(t, s.submit(id, b), "")
	wantStalled(t, "delayed", s.orStalled(id), false)
	c := wantCalls(t, s.pass(time.Minute), "1f ")
	wantStalled(t, "tried", replies(s.do(answer(c[0], core.Unsure, ""))), true)
}

func TestALaneThatIsFullIsNoStallAndOneWithoutAnybodyIs(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{Window: 1})
	s.do(core.Attached{Resource: resourceID(1)})
	var ids []xid.ID
	for range 2 {
		id := s.begin()
		s.register(id, 1, 1)
		s.do(core.Rollback{Ref: 1, XID: id})
		ids = append(ids, id)
	}
	wantStalled(t, "it is another's turn", s.orStalled(ids[1]), false)
	wantStalled(t, "nobody is left", replies(s.do(core.Detached{Resource: resourceID(1)})), true)
	wantStalled(t, "nobody is there", s.orStalled(ids[1]), true)
	s.do(core.Attached{Resource: resourceID(1)})
	wantStalled(t, "somebody is there again", s.orStalled(ids[1]), false)
}

func TestAWaitOrStalledEndsLikeAnyOther(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	c := wantCalls(t, s.submit(id, slowly(delivery(1))), "1f ")
	r := replies(s.do(core.Wait{Ref: "stalled", XID: id, Finished: true, OrStalled: true, Until: s.now.Add(time.Second)}))
	wantStalled(t, "at first", r, false)
	wantStalled(t, "its time is up", replies(s.pass(time.Second)), true)
	s.orStalled(id)
	s.do(core.Cancel{Ref: "stalled", XID: id})
	wantStalled(t, "cancelled", replies(s.do(answer(c[0], core.Unsure, ""))), false)
	c = wantCalls(t, s.pass(time.Minute)[:1], "1f ")
	wantStalled(t, "tried again", s.orStalled(id), false)
	// Only once, though it is finished by the same step.
	out := s.do(answer(c[0], core.Done, ""))
	wantStalled(t, "finished", replies(out), true)
	if r := replies(out)[0]; r.Tx.Phase != core.Finished {
		t.Errorf("%+v", r)
	}
	wantStalled(t, "in the archive", s.orStalled(id), true)
	s.nothingLeft(t)
}

func TestAWaitUntilItIsFinishedIsAnsweredThenWithEverything(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	tcc := try(id, 2)
	tcc.Vote = core.VoteYes
	s.do(tcc)
	finished := func() []core.Reply {
		return replies(s.do(core.Wait{Ref: "finished", XID: id, Finished: true}))
	}
	s.do(core.Wait{Ref: "decided", XID: id})
	if r := finished(); len(r) != 0 {
		t.Fatalf("undecided: %+v", r)
	}
	out := replies(s.do(core.Commit{Ref: "tm", XID: id}))
	for _, r := range out {
		if r.Ref == "finished" || len(r.Tx.Branches)+len(r.Tx.Settlements) > 0 {
			t.Errorf("decided: %+v", r)
		}
	}
	if r := finished(); len(out) != 2 || len(r) != 0 {
		t.Fatalf("decided: %+v, %+v", out, r)
	}
	c := wantCalls(t, s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.Committed, Done: true}), "2c ")
	records := len(s.log)
	var left []core.Body
	s.release = func(b core.Body) { left = append(left, b) }
	s.step(answer(c[0], core.Unsure, ""))
	s.step(answer(c[0], core.Done, ""))
	if len(s.log) == records || len(replies(left)) != 0 {
		t.Fatalf("told before it is durable: %+v", left)
	}
	s.flush()
	s.release = func(core.Body) {}
	rs := append(replies(left), finished()...)
	if len(rs) != 3 {
		t.Fatalf("%+v", rs)
	}
	for _, r := range rs {
		if r.Err != nil || r.Tx.Phase != core.Finished || len(r.Tx.Branches) != 2 || len(r.Tx.Settlements) != 2 || !r.Settled {
			t.Errorf("%+v", r)
		}
	}
}
