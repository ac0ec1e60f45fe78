package dtm

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
)

var bothWays = []protocol{overHTTP, overGRPC}

// reply is the result of a workflow whose last step called a service.
func reply(p protocol, name string) string {
	if p == overGRPC {
		return name
	}
	return `{"did":"` + name + `"}` + "\n"
}

func TestWorkflowRunsItsSteps(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, k := w.t, w.works(p)
		gid := w.gid(p)
		equal(t, "outcome", k.runs("saga", gid, "data"), outcome{Result: reply(p, "in")})
		r := w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		same(t, "transaction", []string{r.Transaction.TransType, r.Transaction.Protocol}, []string{"workflow", string(p)})
		same(t, "calls", w.log(), []string{"out action", "in action"})
		c := w.called("in action", 1)
		same(t, "call", []string{c.Gid, c.Type, c.Branch}, []string{gid, "workflow", "02"})
	}, bothWays...)
}

func TestWorkflowExecutedAgainGivesItsFirstResult(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		if p == overGRPC {
			betterThanDTM(t, "its answer over gRPC has no result")
		}
		k := w.works(p)
		gid := w.gid(p)
		for range 2 {
			equal(t, "outcome", k.runs("saga", gid, "data"), outcome{Result: reply(p, "in")})
		}
		same(t, "calls", w.log(), []string{"out action", "in action"})
	}, bothWays...)
}

func TestWorkflowRollsItsStepsBack(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, k := w.t, w.works(p)
		w.on("in action", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		for range 2 { // the second time, the coordinator says so
			if o := k.runs("saga", gid, "data"); !o.Failure {
				t.Fatalf("got %+v, want a failure", o)
			}
		}
		r := w.ends(gid, "failed", "01 action succeed", "02 action failed", "01 rollback succeed")
		if r.Transaction.RollbackReason == "" {
			t.Fatal("no reason")
		}
		same(t, "calls", w.log(), []string{"out action", "in action", "out rollback"})
	}, bothWays...)
}

func TestWorkflowConfirmsOrCancels(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, k := w.t, w.works(p)
		gid := w.gid(p)
		equal(t, "outcome", k.runs("tcc", gid, "data"), outcome{Result: reply(p, "in")})
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed", "02 commit succeed", "01 commit succeed")
		same(t, "calls", w.log(), []string{"out action", "in action", "in commit", "out commit"})

		w.on("in action", always(dtmcli.ErrFailure))
		gid = w.gid(p)
		if o := k.runs("tcc", gid, "data"); !o.Failure {
			t.Fatalf("got %+v, want a failure", o)
		}
		w.ends(gid, "failed", "01 action succeed", "02 action failed", "01 rollback succeed")
		same(t, "calls", w.log()[4:], []string{"out action", "in action", "out rollback"})
	}, bothWays...)
}

func TestWorkflowMovesMoneyByXA(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		k := w.works(p, func(k *worker) { k.Bank = b.conf })
		gid := w.gid(p)
		equal(t, "outcome", k.runs("xa", gid, "30"), outcome{Result: "moved"})
		w.ends(gid, "succeed", "01 business succeed", "01 action succeed", "02 business succeed", "02 action succeed",
			"02 commit succeed", "01 commit succeed")
		b.holds(70, 130)

		gid = w.gid(p)
		if o := k.runs("xa", gid, "300"); !o.Failure { // there is not as much
			t.Fatalf("got %+v, want a failure", o)
		}
		w.reaches(gid, "failed")
		b.holds(70, 130)
		b.unprepared()
	}, bothWays...)
}

func TestWorkflowMovesMoneyBehindBarriers(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		k := w.works(p, func(k *worker) { k.Bank = b.conf })
		gid := w.gid(p)
		equal(t, "outcome", k.runs("local", gid, "30"), outcome{Result: "moved"})
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		b.holds(70, 130)

		gid = w.gid(p)
		if o := k.runs("local", gid, "80"); !o.Failure { // there is not as much
			t.Fatalf("got %+v, want a failure", o)
		}
		w.ends(gid, "failed", "01 action succeed", "02 action failed", "01 rollback succeed")
		b.holds(70, 130)
	}, bothWays...)
}

func TestWorkflowStepThatIsNotDoneYetIsAskedAgain(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"not yet": dtmcli.ErrOngoing, "no answer": errDown} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, k := w.t, w.works(p, calledBack)
				w.on("in action", answer(err))
				gid := w.gid(p)
				if o := k.runs("saga", gid, "data"); o.Err == "" || o.Failure || o.Ongoing != errors.Is(err, dtmcli.ErrOngoing) {
					t.Fatalf("got %+v", o)
				}
				w.ends(gid, "succeed", "01 action succeed", "02 action succeed") // called back
				same(t, "calls", w.log(), []string{"out action", "in action", "in action"})
			}, bothWays...)
		})
	}
}

func TestWorkflowGoesOnAfterACrashOfItsProcess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flow, point string
		refuse      bool
		calls       []string
	}{
		{"saga", "before out", false, []string{"out action", "in action"}},
		{"saga", "between", false, []string{"out action", "in action"}},
		{"saga", "at the end", false, []string{"out action", "in action"}},
		{"saga", "between", true, []string{"out action", "in action", "out rollback"}},
		{"saga", "in rollback", true, []string{"out action", "in action", "out rollback", "out rollback"}},
		{"tcc", "in commit", false, []string{"out action", "in action", "in commit", "in commit", "out commit"}},
		{"tcc", "in rollback", true, []string{"out action", "in action", "out rollback", "out rollback"}},
	} {
		name := c.flow + " " + c.point
		if c.refuse {
			name += ", refused"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, k := w.t, w.works(p, calledBack, func(k *worker) { k.Crash = c.point })
				status := "succeed"
				if c.refuse {
					w.on("in action", always(dtmcli.ErrFailure))
					status = "failed"
				}
				gid := w.gid(p)
				k.dies(t, c.flow, gid, "data")
				equal(t, "status", w.query(gid).status(), "prepared")
				k.revive()
				w.reaches(gid, status)
				same(t, "calls", w.log(), c.calls)
				if o := k.runs(c.flow, gid, "data"); o.Failure != c.refuse {
					t.Fatalf("executed again: %+v", o)
				}
			}, bothWays...)
		})
	}
}

func TestWorkflowOnADatabaseGoesOnAfterACrashOfItsProcess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flow, point, data, status string
		out, in                   int
	}{
		{"local", "in local", "30", "succeed", 70, 130}, // made, and not recorded
		{"local", "in local", "300", "failed", 100, 100},
		{"xa", "between", "30", "succeed", 70, 130},
		{"xa", "between", "300", "failed", 100, 100},
	} {
		t.Run(c.flow+" "+c.status, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, b := w.t, newBank(w.t)
				k := w.works(p, calledBack, func(k *worker) { k.Crash, k.Bank = c.point, b.conf })
				gid := w.gid(p)
				k.dies(t, c.flow, gid, c.data)
				k.revive()
				w.reaches(gid, c.status)
				b.holds(c.out, c.in)
				b.unprepared()
			}, bothWays...)
		})
	}
}

// TestWorkflowWithoutDataGoesOn: its process is called back by POST, too.
func TestWorkflowWithoutDataGoesOn(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		if p == overHTTP {
			betterThanDTM(t, "calls back by GET where there is no data")
		}
		k := w.works(p, calledBack, func(k *worker) { k.Crash = "between" })
		gid := w.gid(p)
		k.dies(t, "saga", gid, "")
		k.revive()
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
	}, bothWays...)
}

func TestWorkflowExecutedTwiceAtOnceHasOneResult(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		k := w.works(p)
		let := newSignal()
		w.on("out action", func(call) error { return let.wait() })
		gid := w.gid(p)
		var both sync.WaitGroup
		got := make([]outcome, 2)
		for i := range got {
			both.Go(func() {
				var err error
				if got[i], err = k.execute(context.Background(), "saga", gid, "data"); err != nil {
					t.Error(err)
				}
			})
		}
		w.called("out action", 2)
		let.give()
		both.Wait()
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		n := 0
		for _, o := range got {
			if o.Err == "" {
				n++
			} else if o.Failure {
				t.Fatalf("told that it failed: %+v", o)
			}
		}
		if n != 1 {
			t.Fatalf("%d executions went through: %+v", n, got)
		}
		equal(t, "calls of what comes after", len(w.all("in action")), 1)
	}, bothWays...)
}

func TestWorkflowSurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, w := w.t, newWorldToKill(w.t)
		k := w.works(p, calledBack)
		var once sync.Once
		w.on("in action", func(call) error {
			once.Do(w.Kill) // the step can't be recorded
			return nil
		})
		gid := w.gid(p)
		if o := k.runs("saga", gid, "data"); o.Err == "" || o.Failure {
			t.Fatalf("got %+v without a coordinator", o)
		}
		w.Restart()
		w.ends(gid, "succeed", "01 action succeed", "02 action succeed")
		same(t, "calls", w.log(), []string{"out action", "in action", "in action"})
	}, bothWays...)
}

func TestWorkflowWithoutItsCoordinatorIsAnError(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		k := w.works(p, func(k *worker) {
			if k.API = "127.0.0.1:1"; p == overHTTP {
				k.API = "http://127.0.0.1:1/api/dtmsvr"
			}
		})
		if o := k.runs("saga", "nobody-knows", "data"); !strings.Contains(o.Err, "refused") || o.Failure {
			w.t.Fatalf("got %+v", o)
		}
	}, bothWays...)
}
