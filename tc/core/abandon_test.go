package core_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func (s *shell) abandon(id xid.ID) []core.Body {
	s.t.Helper()
	return s.do(core.Abandon{Ref: "abandon", XID: id, Cause: "hopeless", Operator: "ann"})
}

// abandonedOf gives the branches whose calls were given up.
func abandonedOf(tx core.Transaction) string {
	out := ""
	for i := range tx.Settlements {
		if s := &tx.Settlements[i]; s.Abandoned {
			out += fmt.Sprint(s.Branch[15], " ")
		}
	}
	return out
}

// unchangedBy tells that inputs leave no record and no message but replies.
func (s *shell) unchangedBy(t *testing.T, when string, ins ...core.Input) {
	t.Helper()
	records := len(s.log)
	for _, in := range ins {
		for _, b := range s.do(in) {
			if _, ok := b.(core.Reply); !ok {
				t.Errorf("%s: %T makes it say %T", when, in, b)
			}
		}
	}
	if len(s.log) != records {
		t.Errorf("%s: %d new records", when, len(s.log)-records)
	}
}

// nothingLeft tells that all that was held, queued and counted is free again.
func (s *shell) nothingLeft(t *testing.T) {
	t.Helper()
	if s.m.Open() != 0 || s.m.Held() != 0 || s.m.Lanes() != 0 || !s.wake.IsZero() {
		t.Errorf("left: %d open, %d bytes, %d lanes, wake %v", s.m.Open(), s.m.Held(), s.m.Lanes(), s.wake)
	}
}

func TestAbandonOfAnUndecidedOneRollsItBackAndCallsNothing(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{Window: 1})
	id, other := s.beginFor(time.Hour), s.beginFor(time.Hour)
	first := wantCalls(t, s.submit(id, on(laneOf(1), step(1)), on(laneOf(1), step(2, 1))), "1f ")
	wantCalls(t, s.submit(other, on(laneOf(1), step(3))), "") // the lane is full
	out := s.abandon(id)
	next := wantCalls(t, out, "3f ") // and here it has room again
	r := replies(out)
	if len(r) != 1 || r[0].Err != nil || r[0].Tx.Phase != core.Finished || r[0].Tx.Outcome != core.RolledBack ||
		r[0].Tx.Reason != core.ReasonOperator || r[0].Tx.Cause != "hopeless" || r[0].Tx.Operator != "ann" {
		t.Fatalf("%+v", r)
	}
	tx, ok := s.archived(id)
	if !ok || abandonedOf(tx) != "1 " {
		t.Fatalf("given up: %q of %+v", abandonedOf(tx), tx)
	}
	s.unchangedBy(t, "late and doubled",
		answer(first[0], core.Done, "late"), answer(first[0], core.Failed, ""), answer(first[0], core.NotYet, ""),
		core.Abandon{Ref: 2, XID: id}, core.RetryNow{Ref: 3, XID: id}, core.Rollback{Ref: 4, XID: id},
		core.Commit{Ref: 5, XID: id, Operator: "bob"}, core.Submit{Ref: 6, XID: id, Branches: []core.Register{on(laneOf(1), step(1)), on(laneOf(1), step(2, 1))}})
	if got := s.reply(core.Get{Ref: 6, XID: id}).Tx; got.Operator != "ann" || got.Outcome != core.RolledBack {
		t.Errorf("%+v", got)
	}
	s.do(answer(next[0], core.Done, ""))
	s.nothingLeft(t)
}

func TestWhatDatabasesSettleIsSettledAfterAbandonAllTheSame(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{Window: 1})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.beginFor(time.Hour)
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	tcc := try(id, 3)
	tcc.Vote = core.VoteYes
	s.do(tcc)
	forward := wantCalls(t, s.submit(id, on(laneOf(1), step(2)), on(laneOf(3), step(4, 2))), "2f ")[0]
	other := s.beginFor(time.Hour)
	wantCalls(t, s.submit(other, on(laneOf(1), step(9))), "")
	s.do(core.Commit{Ref: "settled", XID: id, WaitSettled: true})
	s.do(core.Wait{Ref: "finished", XID: id, Finished: true})

	out := s.abandon(id)
	next := wantCalls(t, out, "9f ")
	if st := settles(out); len(st) != 1 || st[0].Outcome != core.RolledBack || len(st[0].Branches) != 1 {
		t.Fatalf("%+v", st)
	}
	if r := replies(out); len(r) != 1 || r[0].Ref != "abandon" || r[0].Tx.Phase != core.Settling {
		t.Fatalf("%+v", r)
	}
	s.wantHeld(t, "abandoned")
	s.unchangedBy(t, "late and doubled", answer(forward, core.Done, "late"), core.Abandon{Ref: 2, XID: id})
	s.eachCrash(len(s.log), func(_ int, c *shell, out []core.Body) {
		for _, made := range c.drive(out) {
			if made.XID == id {
				t.Errorf("branch %d was called after a restart", made.Branch[15])
			}
		}
	})
	out = s.do(core.Settled{XID: id, Resource: resourceID(1), Outcome: core.RolledBack, Done: true})
	told := map[core.Ref]core.Reply{}
	for _, r := range replies(out) {
		told[r.Ref] = r
	}
	for _, ref := range []string{"settled", "finished"} {
		if r, ok := told[ref]; !ok || r.Err != nil || r.Tx.Outcome != core.RolledBack || r.Tx.Phase != core.Finished {
			t.Errorf("who waits until it is %s: %t %+v", ref, ok, r)
		}
	}
	if tx := told["finished"].Tx; len(tx.Branches) != 4 || abandonedOf(tx) != "3 2 " {
		t.Errorf("given up: %q of %+v", abandonedOf(tx), tx)
	}
	s.do(answer(next[0], core.Done, ""))
}

func TestAbandonGivesUpWhatADecisionOwes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, s *shell, id xid.ID) []core.Call
		outcome core.Outcome
		given   string
	}{
		// 1 is done, 2 under way, 3 behind it, 4 failed and waits, 5 is delayed.
		"deliveries": {func(t *testing.T, s *shell, id xid.ID) []core.Call {
			t.Helper()
			late := on(laneOf(5), delivery(5))
			late.Plan.Commit.Delay = time.Minute
			cs := wantCalls(t, s.submit(id, on(laneOf(2), delivery(1)), on(laneOf(1), delivery(2)), on(laneOf(1), delivery(3, 2)),
				on(laneOf(4), delivery(4)), late), "1f 2f 4f ")
			s.do(answer(cs[0], core.Done, ""))
			s.do(answer(cs[2], core.Unsure, "503"))
			return cs[1:]
		}, core.Committed, "2 3 4 5 "},
		"compensations behind a step under way": {func(t *testing.T, s *shell, id xid.ID) []core.Call {
			t.Helper()
			cs := wantCalls(t, s.submit(id, on(laneOf(2), step(1)), on(laneOf(1), step(2, 1))), "1f ")
			two := wantCalls(t, s.do(answer(cs[0], core.Done, "")), "2f ")
			wantCalls(t, s.do(core.Rollback{Ref: "tm", XID: id}), "")
			return two
		}, core.RolledBack, "1 2 "},
		"a compensation under way": {func(t *testing.T, s *shell, id xid.ID) []core.Call {
			t.Helper()
			cs := wantCalls(t, s.submit(id, on(laneOf(1), step(1)), on(laneOf(2), step(2))), "1f 2f ")
			s.do(answer(cs[0], core.Done, ""))
			return wantCalls(t, s.do(answer(cs[1], core.Failed, "")), "1r 2r ")
		}, core.RolledBack, "1 2 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, core.Config{Window: 1})
			s.m.SetWatch(true)
			id, other := s.beginFor(time.Hour), s.beginFor(time.Hour)
			cs := tt.prepare(t, s, id)
			wantCalls(t, s.submit(other, on(laneOf(1), step(9))), "")
			s.do(core.Commit{Ref: "settled", XID: id, WaitSettled: true})
			from := len(s.log)
			out := s.abandon(id)
			next := wantCalls(t, out, "9f ")
			told := map[core.Ref]bool{}
			for _, r := range replies(out) {
				told[r.Ref] = r.Err == nil && r.Tx.Phase == core.Finished && r.Tx.Outcome == tt.outcome
			}
			if len(told) != 2 || !told["settled"] || !told["abandon"] {
				t.Errorf("told %v", told)
			}
			var changed []core.Transaction
			for _, b := range out {
				if c, ok := b.(core.Changed); ok && c.Tx.XID == id {
					changed = append(changed, c.Tx)
				}
			}
			if len(changed) != 1 || changed[0].Phase != core.Finished || abandonedOf(changed[0]) != tt.given {
				t.Errorf("watchers hear %+v", changed)
			}
			tx, _ := s.archived(id)
			if abandonedOf(tx) != tt.given || tx.Outcome != tt.outcome || tx.Attention() {
				t.Errorf("given up %q, want %q: %+v", abandonedOf(tx), tt.given, tx)
			}
			for i := range tx.Settlements {
				if p := tx.Settlements[i].Progress; !p.Next.IsZero() || p.LastError != "" {
					t.Errorf("branch %d: %+v", tx.Settlements[i].Branch[15], p)
				}
			}
			for _, c := range cs {
				s.unchangedBy(t, "late", answer(c, core.Done, "late"), answer(c, core.Unsure, "late"))
			}
			s.unchangedBy(t, "doubled", core.Abandon{Ref: 1, XID: id})
			s.do(answer(next[0], core.Done, ""))
			s.nothingLeft(t)
			// A crash may take any part of it along: then the rest is called, as before.
			s.eachCrash(from, func(n int, c *shell, out []core.Body) {
				given := abandonedOf(c.reply(core.Get{Ref: 1, XID: id}).Tx)
				for _, made := range c.drive(out) {
					if made.XID == id && contains(given, made.Branch) {
						t.Errorf("after %d records branch %d is called, which was given up", n, made.Branch[15])
					}
				}
				if tx, ok := c.archived(id); !ok || tx.Outcome != tt.outcome {
					t.Errorf("after %d records: %t %+v", n, ok, tx)
				}
			})
		})
	}
}

func contains(branches string, b xid.BranchID) bool {
	return strings.Contains(" "+branches, fmt.Sprintf(" %d ", b[15]))
}

func TestAbandonIsRefusedWhereNothingMayBeDone(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.beginFor(time.Hour)
	cs := wantCalls(t, s.submit(id, delivery(1)), "1f ")
	s.restart(0)
	s.do(core.Quarantine{Below: s.cfg.Incarnation})
	records := len(s.log)
	wantKind(t, s.reply(core.Abandon{Ref: 1, XID: id}), core.ErrQuarantined)
	wantKind(t, s.reply(core.Abandon{Ref: 1, XID: otherXID(1)}), core.ErrQuarantined)
	s.unchangedBy(t, "an answer in quarantine", answer(cs[0], core.Done, ""))
	s.do(core.Quarantine{})
	wantKind(t, s.reply(core.Abandon{Ref: 1, XID: otherXID(1)}), core.ErrUnknownXID)
	wantKind(t, s.reply(core.Abandon{Ref: 1, XID: xid.ID{1}}), core.ErrForeignStore)
	if len(s.log) != records || s.m.Open() != 1 {
		t.Errorf("%d records, %d open", len(s.log)-records, s.m.Open())
	}
	if r := replies(s.abandon(id)); r[0].Tx.Phase != core.Finished || r[0].Tx.Outcome != core.Committed {
		t.Errorf("%+v", r)
	}
	s.nothingLeft(t)
}

func TestAbandonIsDurableBeforeAnythingShowsIt(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{Window: 1})
	id, other := s.beginFor(time.Hour), s.beginFor(time.Hour)
	wantCalls(t, s.submit(id, on(laneOf(1), step(1))), "1f ")
	wantCalls(t, s.submit(other, on(laneOf(1), step(2))), "")
	var left []core.Body
	s.release = func(b core.Body) { left = append(left, b) }
	s.step(core.Abandon{Ref: 1, XID: id})
	if len(replies(left)) != 0 {
		t.Fatalf("told before it was durable: %+v", left)
	}
	s.flush()
	if len(replies(left)) != 1 {
		t.Fatalf("%+v", left)
	}
}

// Whoever waits for a row must neither outlive its own end nor that of the holder.
func TestAbandonEndsWaits(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	var told []core.Parked
	s.parked = func(p core.Parked) { told = append(told, p) }
	waits, holds := s.begin(), s.begin()
	s.do(core.Wait{Ref: "wait", XID: holds, Waiter: waits, Until: s.now.Add(time.Hour)})
	s.do(core.Waiting{XID: waits})
	if got := waiterDone(s.abandon(waits)); len(got) != 1 || got[0].XID != waits || got[0].Err.Reason != core.ReasonOperator {
		t.Errorf("got %+v", got)
	}
	if r := replies(s.abandon(holds)); len(r) != 2 {
		t.Errorf("%+v", r)
	}
	if len(told) != 2 || !told[1].Over {
		t.Errorf("%+v", told)
	}
	s.nothingLeft(t)
}

func TestNoRecordGivesUpWhatIsNoCall(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id := s.begin()
	s.register(id, 1, 1)
	s.vote(id, 1, core.VoteYes)
	var tx core.Transaction
	for _, r := range s.log {
		if err := core.Fold(&tx, r); err != nil {
			t.Fatal(err)
		}
	}
	r := core.Record{XID: id, Seq: tx.Records, Kind: core.RecordDecide, Outcome: core.Committed, Abandoned: true}
	if err := core.Fold(&tx, r); err == nil {
		t.Error("committed and given up in one")
	}
	r.Abandoned = false
	if err := core.Fold(&tx, r); err != nil {
		t.Fatal(err)
	}
	r = core.Record{XID: id, Seq: tx.Records, Kind: core.RecordDone, Resource: resourceID(1), Abandoned: true}
	if err := core.Fold(&tx, r); err == nil || tx.Phase == core.Finished {
		t.Errorf("a database given up: %v", err)
	}
}

// ended is nothingLeft where resource managers are still attached.
func (s *shell) ended(t *testing.T) {
	t.Helper()
	s.do(core.Detached{Resource: resourceID(1)})
	s.nothingLeft(t)
}
