package dtm

import (
	"database/sql"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
)

func TestBarrierSagaMovesMoney(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.moves(w, 30)
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, "out", "in"))
		w.reaches(gid, "succeed")
		b.holds(70, 130)
	})
}

func TestBarrierSagaGivesMoneyBack(t *testing.T) {
	t.Parallel()
	for name, concurrent := range map[string]bool{"in turn": false, "concurrent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, b := w.t, newBank(w.t)
				b.moves(w, 30)
				w.on("refuse action", always(dtmcli.ErrFailure))
				gid := w.gid(p)
				check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.Concurrent, s.RetryInterval = concurrent, 1 }, "out", "in", "refuse"))
				w.reaches(gid, "failed")
				eventually(t, func() error { // an action may come late
					if out, in := b.balance("out"), b.balance("in"); out != "100 0" || in != "100 0" {
						return errors.New(out + ", " + in)
					}
					return nil
				})
			})
		})
	}
}

func TestBarrierMakesRepeatedCallsHappenOnce(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.moves(w, 30)
		lost := answer(errDown, errDown) // the change is made, its answer lost
		w.on("out action", func(c call) error { return errors.Join(b.guarded(c, take, "out", 30), lost(c)) })
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in"))
		w.reaches(gid, "succeed")
		b.holds(70, 130)
		equal(t, "calls", len(w.all("out action")), 3)
	})
}

func TestBarrierLetsACompensationComeBeforeItsAction(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.moves(w, 30)
		compensated, late := newSignal(), make(chan error, 1)
		var calls atomic.Int32
		w.on("in action", func(c call) error {
			if calls.Add(1) > 1 {
				return errDown
			}
			if err := compensated.wait(); err != nil {
				return err
			}
			c.Context = t.Context() // the caller has gone
			late <- lateCall(b, c)
			return nil
		})
		w.on("in compensate", func(c call) error {
			err := b.guarded(c, take, "in", 30)
			compensated.give()
			return err
		})
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval, s.RequestTimeout, s.TimeoutToFail = 1, 1, inTime }, "out", "in"))
		w.reaches(gid, "failed")
		check(t, <-late)
		b.holds(100, 100)
	})
}

// lateCall is an action after the end of its transaction.
func lateCall(b *bank, c call) error {
	bb, err := dtmcli.BarrierFrom(c.Type, c.Gid, c.Branch, c.Op)
	if err != nil {
		return err
	}
	return bb.CallWithDB(b.db, func(tx *sql.Tx) error { return change(tx, give, "in", 30) })
}

func TestBarrierTCCMovesMoney(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"confirmed": false, "cancelled": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, b := w.t, newBank(w.t)
				w.on("out try", func(c call) error {
					return b.guarded(c, `UPDATE account SET frozen = frozen + $2 WHERE name = $1 AND balance - frozen >= $2`, "out", 30)
				})
				w.on("out confirm", func(c call) error {
					return b.guarded(c, `UPDATE account SET frozen = frozen - $2, balance = balance - $2 WHERE name = $1`, "out", 30)
				})
				w.on("out cancel", func(c call) error {
					return b.guarded(c, `UPDATE account SET frozen = frozen - $2 WHERE name = $1`, "out", 30)
				})
				if refused {
					w.on("in try", always(dtmcli.ErrFailure)) // its cancel finds that nothing was tried
				}
				w.on("in confirm", func(c call) error { return b.guarded(c, give, "in", 30) })
				w.on("in cancel", func(c call) error { return b.guarded(c, take, "in", 30) })
				gid := w.gid(p)
				err := w.tcc(p, gid, nil, func(try func(string) error) error {
					if err := try("out"); err != nil {
						return err
					}
					equal(t, "while it is open", b.balance("out"), "100 30")
					return try("in")
				})
				if refused {
					if !errors.Is(err, dtmcli.ErrFailure) {
						t.Fatalf("got %v", err)
					}
					w.reaches(gid, "failed")
					b.holds(100, 100)
					return
				}
				check(t, err)
				w.reaches(gid, "succeed")
				b.holds(70, 130)
			})
		})
	}
}

func TestDoAndSubmitDBFollowsItsLocalTransaction(t *testing.T) {
	t.Parallel()
	mine := errors.New("broken")
	sender := func(b *bank, then func() error) func(*dtmcli.BranchBarrier) error {
		return func(bb *dtmcli.BranchBarrier) error {
			return bb.CallWithDB(b.db, func(tx *sql.Tx) error {
				return errors.Join(change(tx, take, "out", 30), then())
			})
		}
	}
	for name, c := range map[string]struct {
		do      func(*bank) func(*dtmcli.BranchBarrier) error
		status  string
		out, in int
	}{
		"success": {func(b *bank) func(*dtmcli.BranchBarrier) error { return sender(b, func() error { return nil }) }, "succeed", 70, 130},
		"refused": {func(b *bank) func(*dtmcli.BranchBarrier) error {
			return sender(b, func() error { return dtmcli.ErrFailure })
		}, "failed", 100, 100},
		"fails": {func(b *bank) func(*dtmcli.BranchBarrier) error { return sender(b, func() error { return mine }) }, "failed", 100, 100},
		"crashes before its commit": {func(b *bank) func(*dtmcli.BranchBarrier) error {
			return sender(b, func() error { panic(mine) })
		}, "failed", 100, 100},
		"crashes after its commit": {func(b *bank) func(*dtmcli.BranchBarrier) error {
			return func(bb *dtmcli.BranchBarrier) error {
				err := sender(b, func() error { return nil })(bb)
				panic(err)
			}
		}, "succeed", 70, 130},
		"fails after its commit": {func(b *bank) func(*dtmcli.BranchBarrier) error {
			return func(bb *dtmcli.BranchBarrier) error {
				return errors.Join(sender(b, func() error { return nil })(bb), mine)
			}
		}, "succeed", 70, 130},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, b := w.t, newBank(w.t)
				w.on("in action", func(c call) error { return b.guarded(c, give, "in", 30) })
				w.on("sent msg", func(c call) error {
					bb, err := barrier(c)
					if err != nil {
						return err
					}
					return bb.QueryPrepared(b.db)
				})
				gid := w.gid(p)
				m := w.msg(p, gid, func(m *dtmcli.Msg) { m.TimeoutToFail, m.RetryInterval = inTime, 1 }, "in")
				err := dtmimp.CatchP(func() { _ = m.DoAndSubmit(w.sent(p), c.do(b)) })
				if err != nil && name[:7] != "crashes" {
					t.Fatal(err)
				}
				w.reaches(gid, c.status)
				b.holds(c.out, c.in)
			})
		})
	}
}

// TestSenderThatIsLateFindsItsMessageDropped: the coordinator has asked before the
// local transaction was there, so that may not be committed any more.
func TestSenderThatIsLateFindsItsMessageDropped(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		w.on("in action", func(c call) error { return b.guarded(c, give, "in", 30) })
		w.on("sent msg", func(c call) error {
			bb, err := barrier(c)
			if err != nil {
				return err
			}
			return bb.QueryPrepared(b.db)
		})
		gid := w.gid(p)
		m := w.msg(p, gid, func(m *dtmcli.Msg) { m.TimeoutToFail, m.RetryInterval = 1, 1 }, "in")
		err := m.DoAndSubmit(w.sent(p), func(bb *dtmcli.BranchBarrier) error {
			w.reaches(gid, "failed")
			return bb.CallWithDB(b.db, func(tx *sql.Tx) error { return change(tx, take, "out", 30) })
		})
		if !errors.Is(err, dtmcli.ErrDuplicated) {
			t.Fatalf("got %v", err)
		}
		w.reaches(gid, "failed")
		b.holds(100, 100)
	})
}
