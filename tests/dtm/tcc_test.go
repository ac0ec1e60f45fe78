package dtm

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/go-resty/resty/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// tcc runs one. try calls a service, whose confirm and cancel have the same address.
func (w *world) tcc(p protocol, gid string, change func(*dtmimp.TransBase), f func(try func(name string) error) error) error {
	if change == nil {
		change = func(*dtmimp.TransBase) {}
	}
	if p == overGRPC {
		return dtmgrpc.TccGlobalTransaction2(w.GRPC, gid, func(t *dtmgrpc.TccGrpc) { change(&t.TransBase) }, func(t *dtmgrpc.TccGrpc) error {
			return f(func(name string) error { return w.tryGRPC(t, name) })
		})
	}
	api := w.HTTP
	if p == overJSONRPC {
		api = w.JSONRPC
	}
	return dtmcli.TccGlobalTransaction2(api, gid, func(t *dtmcli.Tcc) {
		if p == overJSONRPC {
			t.Protocol = string(p)
		}
		change(&t.TransBase)
	}, func(t *dtmcli.Tcc) (*resty.Response, error) {
		return nil, f(func(name string) error { return w.try(p, t, name) })
	})
}

func (w *world) try(p protocol, t *dtmcli.Tcc, name string) error {
	u := w.url(p, name)
	_, err := t.CallBranch(amount, u, u, u)
	return err
}

func (w *world) tryGRPC(t *dtmgrpc.TccGrpc, name string) error {
	u := w.url(overGRPC, name)
	err := t.CallBranch(wrapperspb.String(payload), u, u, u, &wrapperspb.StringValue{})
	return dtmgrpc.GrpcError2DtmError(err)
}

// all tries one after the other.
func inTurn(try func(string) error, names ...string) error {
	for _, name := range names {
		if err := try(name); err != nil {
			return err
		}
	}
	return nil
}

// sorted is for calls that may come in any order.
func sorted(log []string) []string {
	slices.Sort(log)
	return log
}

func TestTCCConfirmsWhatWasTried(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.tcc(p, gid, nil, func(try func(string) error) error {
			if err := try("out"); err != nil {
				return err
			}
			r := w.query(gid)
			equal(t, "status", r.status(), "prepared")
			same(t, "branches", r.rows(), []string{"01 cancel prepared", "01 confirm prepared"})
			return try("in")
		}))
		r := w.ends(gid, "succeed", "01 cancel prepared", "01 confirm succeed", "02 cancel prepared", "02 confirm succeed")
		equal(t, "type", r.Transaction.TransType, "tcc")
		log := w.log()
		same(t, "calls", append(log[:2:2], sorted(log[2:])...), []string{"out try", "in try", "in confirm", "out confirm"})
		c := w.called("out confirm", 1)
		same(t, "call", []string{c.Gid, c.Type, c.Branch}, []string{gid, "tcc", "01"})
		if p != overJSONRPC {
			equal(t, "payload", c.Body, payload)
		}
	})
}

func TestTCCCancelsWhereATryIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		w.on("in try", always(dtmcli.ErrFailure))
		gid := w.gid(p)
		err := w.tcc(p, gid, nil, func(try func(string) error) error { return inTurn(try, "out", "in") })
		if !errors.Is(err, dtmcli.ErrFailure) {
			t.Fatalf("got %v, want a failure", err)
		}
		r := w.ends(gid, "failed", "01 cancel succeed", "01 confirm prepared", "02 cancel succeed", "02 confirm prepared")
		log := w.log()
		same(t, "calls", append(log[:2:2], sorted(log[2:])...), []string{"out try", "in try", "in cancel", "out cancel"})
		if r.Transaction.RollbackReason == "" {
			t.Fatal("no reason")
		}
	})
}

func TestTCCCancelsWhereItsFunctionPanics(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is lost")
				}
			}()
			_ = w.tcc(p, gid, nil, func(try func(string) error) error {
				check(t, try("out"))
				panic("broken")
			})
		}()
		w.ends(gid, "failed", "01 cancel succeed", "01 confirm prepared")
		same(t, "calls", w.log(), []string{"out try", "out cancel"})
	}, overHTTP, overJSONRPC) // the client over gRPC dereferences a nil error here
}

func TestTCCWithoutBranchesSucceeds(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		check(t, w.tcc(p, gid, nil, func(func(string) error) error { return nil }))
		w.ends(gid, "succeed")
	})
}

func TestTCCBranchHasBranchesOfItsOwn(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"confirmed": false, "cancelled": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t := w.t
				w.on("out try", func(c call) error {
					if p == overGRPC {
						inner, err := dtmgrpc.TccFromGrpc(c.Context)
						if err != nil {
							return err
						}
						return w.tryGRPC(inner, "bank")
					}
					inner, err := dtmcli.TccFromQuery(c.Query)
					if err != nil {
						return err
					}
					if p == overJSONRPC {
						inner.Protocol = string(p)
					}
					return w.try(p, inner, "bank")
				})
				gid := w.gid(p)
				err := w.tcc(p, gid, nil, func(try func(string) error) error {
					if err := try("out"); err != nil || !refused {
						return err
					}
					return dtmcli.ErrFailure
				})
				if refused != (err != nil) {
					t.Fatalf("got %v", err)
				}
				status, op := "succeed", "confirm"
				rows := []string{"01 cancel prepared", "01 confirm succeed", "0101 cancel prepared", "0101 confirm succeed"}
				if refused {
					status, op = "failed", "cancel"
					rows = []string{"01 cancel succeed", "01 confirm prepared", "0101 cancel succeed", "0101 confirm prepared"}
				}
				w.ends(gid, status, rows...)
				log := w.log()
				same(t, "calls", append(log[:2:2], sorted(log[2:])...), []string{"out try", "bank try", "bank " + op, "out " + op})
			})
		})
	}
}

func TestTCCConfirmsAndCancelsUntilThatSucceeds(t *testing.T) {
	t.Parallel()
	for op, result := range map[string]error{"confirm": nil, "cancel": dtmcli.ErrFailure} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				t := w.t
				w.on("out "+op, answer(dtmcli.ErrFailure, dtmcli.ErrOngoing))
				gid := w.gid(p)
				err := w.tcc(p, gid, func(b *dtmimp.TransBase) { b.RetryInterval = 1 }, func(try func(string) error) error {
					return errors.Join(inTurn(try, "out", "in"), result)
				})
				if !errors.Is(err, result) {
					t.Fatalf("got %v, want %v", err, result)
				}
				w.reaches(gid, map[string]string{"confirm": "succeed", "cancel": "failed"}[op])
				same(t, "calls", sorted(w.log()), sorted([]string{"out try", "in try", "in " + op, "out " + op, "out " + op, "out " + op}))
			})
		})
	}
}

func TestTCCIsCancelledAtItsTimeout(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t := w.t
		gid := w.gid(p)
		err := w.tcc(p, gid, func(b *dtmimp.TransBase) { b.TimeoutToFail, b.RetryInterval = inTime, 1 }, func(try func(string) error) error {
			check(t, try("out"))
			r := w.ends(gid, "failed", "01 cancel succeed", "01 confirm prepared")
			equal(t, "reason", r.Transaction.RollbackReason, fmt.Sprintf("Timeout after %d seconds", inTime))
			if err := try("in"); err == nil {
				t.Error("a branch was registered after the end")
			}
			return nil // as if nothing had happened
		})
		if err == nil {
			t.Fatal("committed after its timeout")
		}
		w.ends(gid, "failed", "01 cancel succeed", "01 confirm prepared")
		same(t, "calls", w.log(), []string{"out try", "out cancel"})
	})
}

func TestTCCSurvivesTheCoordinator(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, w := w.t, newWorldToKill(w.t)
		gid := w.gid(p)
		err := w.tcc(p, gid, func(b *dtmimp.TransBase) { b.TimeoutToFail, b.RetryInterval = 30, 1 }, func(try func(string) error) error {
			check(t, try("out"))
			w.Restart()
			eventually(t, func() error { // a connection may be one of before
				if r, err := ask(t.Context(), w.HTTP, gid); err != nil || r.status() != "prepared" {
					return fmt.Errorf("%v, %w", r.status(), err)
				}
				return nil
			})
			return nil
		})
		if err != nil { // over a connection of before
			w.reaches(gid, "failed")
			return
		}
		w.ends(gid, "succeed", "01 cancel prepared", "01 confirm succeed")
	})
}
