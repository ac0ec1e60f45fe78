package core_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func otherXID(n int) xid.ID {
	return xid.New(xid.Parts{Begin: epoch, Incarnation: 1, Store: testStore, Counter: uint64(1000 + n)})
}

func TestWaitersAreLetGoInTheOrderInWhichTheyBegan(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	holder := s.begin()
	s.register(holder, 1, 1)
	wait := func(name string, since time.Duration, row string, who int) {
		s.do(core.Wait{
			Ref: name, XID: holder, Resource: resourceID(1), Row: row, Waiter: otherXID(who),
			Since: s.now.Add(since), Until: s.now.Add(time.Minute),
		})
	}
	wait("second", -2*time.Second, "r", 2)
	wait("third", -time.Second, "r", 3)
	wait("other row", -time.Second, "q", 4)
	wait("first", -3*time.Second, "r", 1)
	wait("from the future", time.Hour, "r", 5)
	wait("last", 0, "r", 6)
	s.vote(holder, 1, core.VoteYes)
	if got := replies(s.do(core.Commit{Ref: "commit", XID: holder})); len(got) != 1 {
		t.Fatalf("somebody was let go before it was settled: %v", got)
	}
	s.do(core.Attached{Resource: resourceID(1)})
	var order []string
	ahead := map[string]xid.ID{}
	for _, r := range replies(s.do(core.Settled{XID: holder, Resource: resourceID(1), Outcome: core.Committed, Done: true})) {
		order = append(order, fmt.Sprint(r.Ref))
		ahead[fmt.Sprint(r.Ref)] = r.Ahead
	}
	if want := []string{"first", "second", "third", "other row", "from the future", "last"}; !slices.Equal(order, want) {
		t.Errorf("got %q, want %q", order, want)
	}
	for name, want := range map[string]xid.ID{
		"first": {}, "second": otherXID(1), "third": otherXID(2), "other row": {}, "from the future": otherXID(3), "last": otherXID(5),
	} {
		if ahead[name] != want {
			t.Errorf("ahead of %q is %s, want %s", name, ahead[name], want)
		}
	}
}

// TestEveryEndOfAWaitIsTold: an edge of the wait-for graph never outlives its wait.
func TestEveryEndOfAWaitIsTold(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *shell, holder xid.ID){
		"decided":   func(s *shell, holder xid.ID) { s.do(core.Rollback{Ref: "rollback", XID: holder}) },
		"timed out": func(s *shell, _ xid.ID) { s.pass(2 * time.Second) },
		"cancelled": func(s *shell, holder xid.ID) { s.do(core.Cancel{Ref: "wait", XID: holder}) },
		"refused": func(s *shell, holder xid.ID) {
			s.do(core.EndWait{Ref: "wait", XID: holder, Err: &core.Error{Kind: core.ErrRolledBack}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{})
			var told []core.Parked
			s.parked = func(p core.Parked) { told = append(told, p) }
			holder := s.begin()
			s.do(core.Wait{Ref: "nobody's", XID: holder, Until: s.now.Add(time.Second)})
			s.do(core.Wait{Ref: "wait", XID: holder, Waiter: otherXID(1), Until: s.now.Add(time.Second)})
			end(s, holder)
			s.do(core.Cancel{Ref: "wait", XID: holder})
			p := core.Parked{Ref: "wait", Waiter: otherXID(1), Holder: holder}
			over := p
			over.Over = true
			if want := []core.Parked{p, over}; !slices.Equal(told, want) {
				t.Errorf("got %v, want %v", told, want)
			}
		})
	}
	t.Run("never began", func(t *testing.T) {
		t.Parallel()
		s := newShell(t, core.Config{})
		s.parked = func(p core.Parked) { t.Errorf("told of %v", p) }
		holder := s.begin()
		s.do(core.Rollback{Ref: "rollback", XID: holder})
		s.do(core.Wait{Ref: "wait", XID: holder, Waiter: otherXID(1), Until: s.now.Add(time.Second)})
	})
}

func waiterDone(bodies []core.Body) (found []core.WaiterDone) {
	for _, b := range bodies {
		if d, ok := b.(core.WaiterDone); ok {
			found = append(found, d)
		}
	}
	return found
}

func TestABrokenCycleIsDurableBeforeAnybodyIsTold(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	if got := waiterDone(s.do(core.Waiting{XID: id})); len(got) > 0 {
		t.Fatalf("got %v", got)
	}
	var left []core.Body
	s.release = func(b core.Body) { left = append(left, b) }
	s.step(core.Break{XID: id, Cause: "a waits for b"})
	if len(left) > 0 {
		t.Fatalf("told before it was durable: %v", left)
	}
	s.flush()
	got := waiterDone(left)
	if len(got) != 1 || got[0].XID != id || got[0].Err.Kind != core.ErrRolledBack || got[0].Err.Reason != core.ReasonDeadlock {
		t.Fatalf("got %v", got)
	}
	if !strings.Contains(got[0].Err.Message, "deadlock: a waits for b") {
		t.Errorf("the error says %q", got[0].Err.Message)
	}
	// It waits again, because it has not heard of it.
	if got := waiterDone(s.do(core.Waiting{XID: id})); len(got) != 1 || got[0].Err.Reason != core.ReasonDeadlock {
		t.Errorf("got %v", got)
	}
	r := s.reply(core.Rollback{Ref: "rollback", XID: id})
	if r.Err != nil || r.Tx.Reason != core.ReasonDeadlock || r.Tx.Cause != "a waits for b" {
		t.Errorf("got %+v", r)
	}
}

func TestWhoeverGotAwayIsNoVictim(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.do(core.Commit{Ref: "commit", XID: id})
	s.do(core.Break{XID: id, Cause: "late"})
	s.do(core.Break{XID: otherXID(9), Cause: "unknown"})
	if r := s.reply(core.Get{Ref: "get", XID: id}); r.Tx.Outcome != core.Committed {
		t.Errorf("got %+v", r.Tx)
	}
}

func TestAWaiterThatIsNotKnownIsRefused(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	got := waiterDone(s.do(core.Waiting{XID: otherXID(1)}))
	if len(got) != 1 || got[0].Err.Kind != core.ErrUnknownXID {
		t.Errorf("got %v", got)
	}
}

func TestTheDecisionOfAChildIsTold(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	parent := s.begin()
	child := otherXID(1)
	s.do(core.Begin{Ref: "begin", XID: child, Parent: parent, Deadline: s.now.Add(time.Minute)})
	if got := waiterDone(s.do(core.Commit{Ref: "commit", XID: child})); len(got) != 1 || got[0].XID != child {
		t.Errorf("got %v", got)
	}
}
