package dtm

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/go-resty/resty/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// xa runs one. act calls a service, whose commit and rollback have the same address.
func (w *world) xa(p protocol, gid string, change func(*dtmimp.TransBase), f func(act func(name string) error) error) error {
	if change == nil {
		change = func(*dtmimp.TransBase) {}
	}
	if p == overGRPC {
		return dtmgrpc.XaGlobalTransaction2(w.GRPC, gid, func(x *dtmgrpc.XaGrpc) { change(&x.TransBase) }, func(x *dtmgrpc.XaGrpc) error {
			return f(func(name string) error {
				err := x.CallBranch(wrapperspb.String(payload), w.url(p, name), &wrapperspb.StringValue{})
				return dtmgrpc.GrpcError2DtmError(err)
			})
		})
	}
	return dtmcli.XaGlobalTransaction2(w.HTTP, gid, func(x *dtmcli.Xa) { change(&x.TransBase) }, func(x *dtmcli.Xa) (*resty.Response, error) {
		return nil, f(func(name string) error {
			_, err := x.CallBranch(amount, w.url(p, name))
			return err
		})
	})
}

// local has a service change an account in a transaction that is prepared, and
// committed or rolled back by the coordinator.
func (b *bank) local(w *world, name, q string, args ...any) {
	f := func(c call) error {
		do := func(db *sql.DB) error { return change(db, q, args...) }
		if c.Via == "grpc" {
			return dtmgrpc.XaLocalTransaction(c.Context, b.conf, func(db *sql.DB, _ *dtmgrpc.XaGrpc) error { return do(db) })
		}
		return dtmcli.XaLocalTransaction(c.Query, b.conf, func(db *sql.DB, _ *dtmcli.Xa) error { return do(db) })
	}
	for _, op := range []string{"action", "commit", "rollback"} {
		w.on(name+" "+op, f)
	}
}

// unprepared fails the test where a prepared transaction is left.
func (b *bank) unprepared() {
	b.t.Helper()
	eventually(b.t, func() error {
		var n int
		err := b.db.QueryRowContext(b.t.Context(), `SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()`).Scan(&n)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d prepared transactions", n)
		}
		return err
	})
}

func TestXACommitsWhatWasPrepared(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.local(w, "out", take, "out", 30)
		b.local(w, "in", give, "in", 30)
		gid := w.gid(p)
		check(t, w.xa(p, gid, nil, func(act func(string) error) error {
			err := inTurn(act, "out", "in")
			b.holds(100, 100) // nobody sees it yet
			same(t, "branches", w.query(gid).rows(), []string{"01 rollback prepared", "01 commit prepared", "02 rollback prepared", "02 commit prepared"})
			return err
		}))
		r := w.ends(gid, "succeed", "01 rollback prepared", "01 commit succeed", "02 rollback prepared", "02 commit succeed")
		equal(t, "type", r.Transaction.TransType, "xa")
		b.holds(70, 130)
		b.unprepared()
	}, overHTTP, overGRPC)
}

func TestXARollsBackWhatWasPrepared(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.local(w, "out", take, "out", 30)
		b.local(w, "in", take, "in", 300) // it has not as much
		gid := w.gid(p)
		err := w.xa(p, gid, nil, func(act func(string) error) error { return inTurn(act, "out", "in") })
		if !errors.Is(err, dtmcli.ErrFailure) {
			t.Fatalf("got %v, want a failure", err)
		}
		w.ends(gid, "failed", "01 rollback succeed", "01 commit prepared")
		b.holds(100, 100)
		b.unprepared()
	}, overHTTP, overGRPC)
}

func TestXATriesTheSecondPhaseUntilItSucceeds(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.local(w, "out", take, "out", 30)
		b.local(w, "in", give, "in", 30)
		commit, lost := w.answers["out commit"], answer(errDown)
		w.on("out commit", func(c call) error { return errors.Join(commit(c), lost(c)) })
		gid := w.gid(p)
		_ = w.xa(p, gid, func(b *dtmimp.TransBase) { b.RetryInterval = 1 }, func(act func(string) error) error { return inTurn(act, "out", "in") })
		w.ends(gid, "succeed", "01 rollback prepared", "01 commit succeed", "02 rollback prepared", "02 commit succeed")
		equal(t, "commits", len(w.all("out commit")), 2)
		b.holds(70, 130)
		b.unprepared()
	}, overHTTP, overGRPC)
}

func TestXAIsRolledBackAtItsTimeout(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, b := w.t, newBank(w.t)
		b.local(w, "out", take, "out", 30)
		b.local(w, "in", give, "in", 30)
		gid := w.gid(p)
		err := w.xa(p, gid, func(b *dtmimp.TransBase) { b.TimeoutToFail, b.RetryInterval = inTime, 1 }, func(act func(string) error) error {
			check(t, act("out"))
			w.ends(gid, "failed", "01 rollback succeed", "01 commit prepared")
			if err := act("in"); err == nil {
				t.Error("a branch was prepared after the end")
			}
			return nil
		})
		if err == nil {
			t.Fatal("committed after its timeout")
		}
		b.holds(100, 100)
		b.unprepared()
	}, overHTTP, overGRPC)
}

func TestXASurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	for name, submitted := range map[string]bool{"before its decision": false, "after its decision": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t, w, b := w.t, newWorldToKill(w.t), newBank(w.t)
				b.local(w, "out", take, "out", 30)
				b.local(w, "in", give, "in", 30)
				commit, let := w.answers["out commit"], newSignal()
				w.on("out commit", func(c call) error {
					if err := let.wait(); err != nil {
						return err
					}
					return commit(c)
				})
				gid := w.gid(p)
				timeout := func(b *dtmimp.TransBase) { b.TimeoutToFail, b.RetryInterval = inTime, 1 }
				err := w.xa(p, gid, timeout, func(act func(string) error) error {
					check(t, inTurn(act, "out", "in"))
					if !submitted {
						w.Kill()
					}
					return nil
				})
				if submitted {
					check(t, err)
					w.called("out commit", 1)
				} else if err == nil {
					t.Fatal("submitted to nobody")
				}
				let.give()
				w.Restart()
				if submitted {
					w.reaches(gid, "succeed")
					b.holds(70, 130)
				} else {
					w.reaches(gid, "failed")
					b.holds(100, 100)
				}
				b.unprepared()
			}, bothWays...)
		})
	}
}
