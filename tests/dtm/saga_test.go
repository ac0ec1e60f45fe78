package dtm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const payload = `{"amount":30}`

var amount = map[string]int{"amount": 30}

// saga submits one whose steps have the names. A name with a "!" has no
// compensation.
func (w *world) saga(p protocol, gid string, change func(*dtmcli.Saga), names ...string) error {
	undo := func(name string) (action, compensate string) {
		if name, ok := strings.CutSuffix(name, "!"); ok {
			return w.url(p, name), ""
		}
		return w.url(p, name), w.url(p, name)
	}
	if p == overGRPC {
		s := dtmgrpc.NewSagaGrpc(w.GRPC, gid)
		for _, name := range names {
			a, c := undo(name)
			s.Add(a, c, wrapperspb.String(payload))
		}
		if change != nil {
			change(&s.Saga)
		}
		return s.Submit()
	}
	s := dtmcli.NewSaga(w.HTTP, gid)
	if p == overJSONRPC {
		s.Dtm, s.Protocol = w.JSONRPC, string(p)
	}
	for _, name := range names {
		a, c := undo(name)
		s.Add(a, c, amount)
	}
	if change != nil {
		change(s)
	}
	return s.Submit()
}

func TestSagaRunsItsActionsInOrder(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, "out", "in", "tell"))
		r := w.ends(gid, "succeed", "01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed",
			"03 compensate prepared", "03 action succeed")
		equal(t, "type", r.Transaction.TransType, "saga")
		equal(t, "protocol", r.Transaction.Protocol, string(p))
		same(t, "calls", w.log(), []string{"out action", "in action", "tell action"})
		c := w.called("in action", 1)
		via := map[protocol]string{overHTTP: "POST", overJSONRPC: "json-rpc", overGRPC: "grpc"}[p]
		same(t, "call", []string{c.Via, c.Gid, c.Type, c.Branch, c.Op}, []string{via, gid, "saga", "02", "action"})
		if p != overJSONRPC {
			equal(t, "payload", c.Body, payload)
		} else if !strings.Contains(c.Body, `"amount":30`) {
			t.Fatalf("payload %s", c.Body)
		}
	})
}

func TestSagaIsRolledBackInReverseWhereAnActionFails(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, "out", "in", "tell"))
		r := w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action failed",
			"03 compensate prepared", "03 action prepared")
		same(t, "calls", w.log(), []string{"out action", "in action", "in compensate", "out compensate"})
		if r.Transaction.RollbackReason == "" {
			t.Fatal("no reason")
		}
		c := w.called("out compensate", 1)
		same(t, "call", []string{c.Gid, c.Type, c.Branch}, []string{gid, "saga", "01"})
	})
}

func TestSagaStepNeedsNoCompensation(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, "out", "look!", "in!"))
		w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action succeed",
			"03 compensate succeed", "03 action failed")
		same(t, "calls", w.log(), []string{"out action", "look action", "in action", "out compensate"})
	})
}

func waiting(s *dtmcli.Saga) { s.WaitResult = true }

func TestSagaWaitsForItsResult(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.saga(p, gid, waiting, "out", "in"))
		equal(t, "status after the answer", w.query(gid).status(), "succeed")
		same(t, "calls", w.log(), []string{"out action", "in action"})
	})
}

func TestSagaThatIsRolledBackAnswersItsWaitingCallerWithAnError(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		err := w.saga(p, gid, waiting, "out", "in")
		if p == overGRPC {
			err = dtmgrpc.GrpcError2DtmError(err)
			if !errors.Is(err, dtmcli.ErrFailure) {
				t.Fatalf("got %v, want a failure", err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), "FAILURE") && !strings.Contains(err.Error(), "-32901") {
			t.Fatalf("got %v, want a failure", err)
		}
		w.reaches(gid, "failed")
	})
}

func TestSagaThatIsNotFinishedAnswersItsWaitingCallerWithAnError(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		let := newSignal()
		w.on("in action", func(call) error {
			select {
			case <-let.done:
				return nil
			default:
				return dtmcli.ErrOngoing
			}
		})
		gid := w.gid(p)
		if err := w.saga(p, gid, func(s *dtmcli.Saga) { s.WaitResult, s.RetryInterval = true, 1 }, "out", "in"); err == nil {
			t.Fatal("got success before it was")
		}
		equal(t, "status", w.query(gid).status(), "submitted")
		let.give()
		w.reaches(gid, "succeed")
	})
}

func TestSagaThatIsNotFinishedHasNotFailed(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "a saga that goes on is told as FAILURE to who waits")
	w := newWorld(t)
	let := newSignal()
	defer let.give()
	w.on("in action", func(call) error {
		select {
		case <-let.done:
			return nil
		default:
			return dtmcli.ErrOngoing
		}
	})
	err := dtmgrpc.GrpcError2DtmError(w.saga(overGRPC, w.gid(overGRPC), waiting, "out", "in"))
	if err == nil || errors.Is(err, dtmcli.ErrFailure) {
		t.Fatalf("got %v, want an error that is no failure", err)
	}
}

func TestConcurrentSagaRunsActionsTogether(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		a, b := newSignal(), newSignal()
		w.on("a action", func(call) error { a.give(); return b.wait() })
		w.on("b action", func(call) error { b.give(); return a.wait() })
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.SetConcurrent() }, "a", "b"))
		w.ends(gid, "succeed", "01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed")
	})
}

func TestConcurrentSagaKeepsToItsOrders(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.SetConcurrent().AddBranchOrder(0, []int{2, 3}).AddBranchOrder(1, []int{0}) },
			"c", "d", "a", "b"))
		w.ends(gid, "succeed", "01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed",
			"03 compensate prepared", "03 action succeed", "04 compensate prepared", "04 action succeed")
		log := w.log()
		slices.Sort(log[:2])
		same(t, "calls", log, []string{"a action", "b action", "c action", "d action"})
	})
}

func TestConcurrentSagaIsRolledBackAgainstItsOrders(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("c action", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.SetConcurrent().AddBranchOrder(1, []int{0}).AddBranchOrder(2, []int{1}) },
			"a", "b", "c"))
		w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action succeed",
			"03 compensate succeed", "03 action failed")
		same(t, "calls", w.log(), []string{"a action", "b action", "c action", "c compensate", "b compensate", "a compensate"})
	})
}

// TestConcurrentSagaCompensatesNoActionThatStillRuns: a compensation beside its own
// action can be over before the action has had its effect.
func TestConcurrentSagaCompensatesNoActionThatStillRuns(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "compensations start while actions run")
	each(t, func(w *world, p protocol) {
		t := w.t
		slow, gid := newSignal(), w.gid(p)
		w.on("slow action", func(call) error {
			w.called("bad action", 1)
			eventually(t, func() error { // the decision
				if s := w.query(gid).status(); s != "aborting" {
					return errors.New(s)
				}
				return nil
			})
			select {
			case <-slow.done:
				t.Error("compensated while it ran")
			case <-time.After(time.Second): // as long as the action takes
			}
			return nil
		})
		w.on("slow compensate", func(call) error { slow.give(); return nil })
		w.on("bad action", func(c call) error {
			w.called("slow action", 1)
			return dtmcli.ErrFailure
		})
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.SetConcurrent().RequestTimeout = 60 }, "slow", "bad"))
		// What an action answers after the decision is not recorded.
		w.ends(gid, "failed", "01 compensate succeed", "01 action prepared", "02 compensate succeed", "02 action failed")
		equal(t, "compensations", len(w.all("slow compensate")), 1)
	})
}

func TestSagaTriesAnActionUntilItHasAnAnswer(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("out action", answer(errDown, dtmcli.ErrOngoing))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in"))
		w.ends(gid, "succeed", "01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed")
		same(t, "calls", w.log(), []string{"out action", "out action", "out action", "in action"})
	})
}

func TestSagaTriesACompensationUntilItSucceeds(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrFailure))
		w.on("out compensate", answer(dtmcli.ErrFailure, dtmcli.ErrOngoing))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in"))
		w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action failed")
		equal(t, "compensations", len(w.all("out compensate")), 3)
	})
}

func TestSagaRetryIntervalIsKept(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		var times []time.Time // calls of one action do not overlap
		ongoing := answer(dtmcli.ErrOngoing)
		w.on("out action", func(c call) error {
			times = append(times, time.Now())
			return ongoing(c)
		})
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 2 }, "out"))
		w.reaches(gid, "succeed")
		if gap := times[1].Sub(times[0]); gap < 1500*time.Millisecond || gap > 6*time.Second {
			t.Fatalf("tried again after %v, want about 2s, and not the 10s of who says nothing", gap)
		}
	}, overHTTP, overGRPC)
}

func TestSagaRequestTimeoutBoundsACall(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		let := newSignal()
		defer let.give()
		slow := true // calls of one action do not overlap, but for this one
		w.on("out action", func(call) error {
			if slow {
				slow = false
				return let.wait()
			}
			return nil
		})
		gid := w.gid(p)
		begin := time.Now()
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval, s.RequestTimeout = 1, 5 }, "out"))
		w.reaches(gid, "succeed")
		if took := time.Since(begin); took < 5*time.Second {
			t.Fatalf("tried again after %v, want 5s or more", took)
		}
		equal(t, "calls", len(w.all("out action")), 2)
	}, overHTTP, overGRPC)
}

func TestSagaRequestTimeoutMayBeLong(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("out action", func(call) error {
			<-time.After(3500 * time.Millisecond) // longer than a call may take by default
			return nil
		})
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RequestTimeout = 60 }, "out"))
		w.reaches(gid, "succeed")
		equal(t, "calls", len(w.all("out action")), 1)
	}, overHTTP, overGRPC)
}

func TestSagaCallsNobodyAgainWhoIsStillAtIt(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "retry_interval is also the lease of the first attempt")
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("out action", func(call) error {
			<-time.After(2500 * time.Millisecond)
			return nil
		})
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval, s.RequestTimeout = 1, 60 }, "out"))
		w.reaches(gid, "succeed")
		equal(t, "calls", len(w.all("out action")), 1)
	})
}

func TestJSONRPCServiceRefusesByItsCode(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "compares the code of an error, a float, with an integer; only the text FAILURE counts")
	w := newWorld(t)
	w.on("out action", answer(bareError(dtmimp.JrpcCodeOngoing)))
	w.on("in action", always(bareError(dtmimp.JrpcCodeFailure)))
	gid := w.gid(overJSONRPC)
	check(t, w.saga(overJSONRPC, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in"))
	w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action failed")
}

func TestSagaUnderstandsOldServices(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		w.on("out action", answer(oldError("ONGOING")))
		w.on("in action", always(oldError("FAILURE")))
		gid := w.gid(p)
		check(w.t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in"))
		w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action failed")
		same(w.t, "calls", w.log(), []string{"out action", "out action", "in action", "in compensate", "out compensate"})
	}, bothWays...)
}

func TestSagaIsRolledBackAtItsTimeout(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrOngoing))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval, s.TimeoutToFail = 1, inTime }, "out", "in"))
		r := w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action prepared")
		equal(t, "reason", r.Transaction.RollbackReason, fmt.Sprintf("Timeout after %d seconds", inTime))
		log := w.log()
		same(t, "last calls", log[len(log)-2:], []string{"in compensate", "out compensate"})
	})
}

func TestSagaIsRolledBackAtItsRetryLimit(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(errDown))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1; s.WithRetryLimit(2) }, "out", "in"))
		w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action prepared")
		same(t, "calls", w.log(), []string{"out action", "in action", "in action", "in action", "in compensate", "out compensate"})
	})
}

func TestSagaBranchHeadersReachEachService(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in action", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.BranchHeaders = map[string]string{"x-who": "test", "x-what": "trip"} }, "out", "in"))
		w.reaches(gid, "failed")
		for _, what := range []string{"out action", "in action", "in compensate", "out compensate"} {
			c := w.called(what, 1)
			same(t, "headers of "+what, []string{c.Header("x-who"), c.Header("x-what")}, []string{"test", "trip"})
		}
	})
}

func TestSagaKeepsItsCustomData(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.CustomData = `{"mine":1}` }, "out"))
		equal(t, "custom data", w.reaches(gid, "succeed").Transaction.CustomData, `{"mine":1}`)
	})
}

func TestSagaMixesHTTPAndGRPC(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.on("tell action", always(dtmcli.ErrFailure))
	gid := w.gid(overGRPC)
	s := dtmgrpc.NewSagaGrpc(w.GRPC, gid).
		Add(w.url(overGRPC, "out"), w.url(overGRPC, "out"), wrapperspb.String(payload)).
		Add(w.url(overHTTP, "in"), w.url(overHTTP, "in"), wrapperspb.String(payload)).
		Add(w.url(overGRPC, "tell"), w.url(overGRPC, "tell"), wrapperspb.String(payload))
	check(t, s.Submit())
	w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action succeed",
		"03 compensate succeed", "03 action failed")
	same(t, "calls", w.log(), []string{"out action", "in action", "tell action", "tell compensate", "in compensate", "out compensate"})
	for _, c := range append(w.all("in action"), w.all("in compensate")...) {
		if c.Via != "POST" || !strings.Contains(c.Body, payload) || c.Branch != "02" {
			t.Fatalf("%s over %s of branch %s with %q", c, c.Via, c.Branch, c.Body)
		}
	}
}

func TestSagaSubmittedAgainRunsOnce(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "processes it once per submit")
	each(t, func(w *world, p protocol) {
		t := w.t
		let := newSignal()
		w.on("out action", func(call) error { return let.wait() })
		gid := w.gid(p)
		for range 3 {
			check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RequestTimeout = 60 }, "out", "in"))
		}
		w.called("out action", 1)
		let.give()
		w.ends(gid, "succeed", "01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed")
		same(t, "calls", w.log(), []string{"out action", "in action"})
	})
}

func TestSagaThatIsOverIsNotSubmittedAgain(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, "out"))
		w.reaches(gid, "succeed")
		if err := w.saga(p, gid, nil, "out"); err == nil {
			t.Fatal("submitted again")
		}
		same(t, "calls", w.log(), []string{"out action"})
	})
}

func TestSagaSurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	w := newWorldToKill(t)
	var gids []string
	let := newSignal()
	w.on("in action", func(call) error { return let.wait() })
	for _, p := range []protocol{overHTTP, overJSONRPC, overGRPC} {
		gid := w.gid(p)
		gids = append(gids, gid)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval, s.RequestTimeout = 1, 60 }, "out", "in"))
		w.called("in action", len(gids))
	}
	w.Kill()
	let.give()
	w.Restart()
	for _, gid := range gids {
		w.ends(gid, "succeed", "01 compensate prepared", "01 action succeed", "02 compensate prepared", "02 action succeed")
	}
}

func TestRollbackOfASagaSurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	w := newWorldToKill(t)
	let := newSignal()
	w.on("in action", always(dtmcli.ErrFailure))
	w.on("out compensate", func(call) error { return let.wait() })
	patient := func(s *dtmcli.Saga) { s.RetryInterval, s.RequestTimeout = 1, 60 } // or "out compensate" comes twice for one
	var gids []string
	for _, p := range []protocol{overHTTP, overJSONRPC, overGRPC} {
		gid := w.gid(p)
		gids = append(gids, gid)
		check(t, w.saga(p, gid, patient, "out", "in"))
		w.called("out compensate", len(gids))
	}
	w.Kill()
	let.give()
	w.Restart()
	for _, gid := range gids {
		w.ends(gid, "failed", "01 compensate succeed", "01 action succeed", "02 compensate succeed", "02 action failed")
	}
	equal(t, "actions", len(w.all("out action")), len(gids))
}
