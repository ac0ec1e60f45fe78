package tm_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func TestCommitAnsweredWithRolledBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		reason pb.RollbackReason
		name   string // as the details of an error name it
		timed  bool
		dead   bool
	}{
		{pb.RollbackReason_ROLLBACK_REASON_TIMEOUT, "TIMEOUT", true, false},
		{pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, "ROLLBACK_REASON_VOTED_NO", false, false},
		{pb.RollbackReason_ROLLBACK_REASON_OPERATOR, "OPERATOR", false, false},
		{pb.RollbackReason_ROLLBACK_REASON_REQUESTED, "REQUESTED", false, false},
		{pb.RollbackReason_ROLLBACK_REASON_DEADLOCK, "DEADLOCK", false, true},
	} {
		for _, asError := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
					switch {
					case f.GetCommit() == nil:
						return false
					case asError:
						refuse(n, f, &client.Error{
							Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted, Message: "as the stock said",
							Metadata: map[string]string{"rollback_reason": tt.name, "cause": "as the stock said"},
						})
					default:
						committed(n, f, &pb.CommitResponse{
							Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, RollbackReason: tt.reason, RollbackCause: "as the stock said",
						})
					}
					return true
				})
				err := b.Do(t.Context(), func(context.Context) error { return nil })
				r, ok := errors.AsType[*tm.RolledBackError](err)
				if !ok || r.Reason != tt.reason || !errors.Is(err, tm.ErrRolledBack) ||
					errors.Is(err, tm.ErrTimedOut) != tt.timed || errors.Is(err, tm.ErrDeadlock) != tt.dead {
					t.Errorf("got %#v", err)
				}
				if !strings.Contains(err.Error(), "as the stock said") || !strings.Contains(err.Error(), r.XID.String()) {
					t.Errorf("the error leaves something out: %v", err)
				}
				if status.Code(err) != codes.Aborted {
					t.Errorf("as a status it is %v", status.Code(err))
				}
				b.next(t)
				b.next(t)
				b.nothingMore(t)
			})
		}
	}
}

func TestReasonIsTakenFromTheErrorOfABranch(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	err := b.Do(t.Context(), func(ctx context.Context) error {
		id, _ := xid.FromContext(ctx)
		return &client.Error{
			Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted, XID: id,
			Metadata: map[string]string{"rollback_reason": "TIMEOUT"},
		}
	})
	if !errors.Is(err, tm.ErrTimedOut) {
		t.Errorf("got %v", err)
	}
	// What happened to another transaction says nothing about this one.
	err = b.Do(t.Context(), func(context.Context) error {
		return &client.Error{
			Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted, XID: b.tc.NewXID(),
			Metadata: map[string]string{"rollback_reason": "TIMEOUT"},
		}
	})
	if errors.Is(err, tm.ErrTimedOut) || !errors.Is(err, tm.ErrRolledBack) {
		t.Errorf("got %v", err)
	}
}

func TestCommitIsAskedAgainWhenItsAnswerIsLost(t *testing.T) {
	t.Parallel()
	lost := 0
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetCommit() == nil || lost == 3 {
			return false
		}
		lost++
		n.Break(status.Error(codes.Internal, "broken by the test"))
		return true
	})
	if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	want := b.next(t)
	for range 4 {
		if f := b.next(t).GetCommit(); f == nil {
			t.Fatalf("want Commit of %v", want)
		}
	}
	b.nothingMore(t)
}

func TestLostAnswerToCommitIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	t.Run("until the context ends", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		b := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
			if f.GetCommit() != nil {
				cancel()
			}
			return f.GetCommit() != nil
		})
		var inside xid.ID
		err := b.Do(ctx, func(ctx context.Context) error { inside, _ = xid.FromContext(ctx); return nil })
		u, ok := errors.AsType[*tm.OutcomeUnknownError](err)
		if !ok || u.XID != inside || !errors.Is(err, tm.ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) || errors.Is(err, tm.ErrRolledBack) {
			t.Errorf("got %v", err)
		}
		b.next(t)
		b.next(t)
		b.nothingMore(t) // above all no Rollback
	})
	t.Run("until the limit", func(t *testing.T) {
		t.Parallel()
		crash := make(chan struct{}, 1)
		b := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
			if f.GetCommit() != nil {
				crash <- struct{}{}
			}
			return f.GetCommit() != nil
		}, tm.WithRetryLimit(brief))
		done := make(chan error, 1)
		go func() { done <- b.Do(context.Background(), func(context.Context) error { return nil }) }()
		<-crash
		b.tc.Stop()
		if err := <-done; !errors.Is(err, tm.ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCommitWaitsOnWhileTheCoordinatorIsThere(t *testing.T) {
	t.Parallel()
	asked := 0
	b := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetCommit() == nil {
			return false
		}
		asked++
		return asked < 4
	}, tm.WithRetryLimit(brief))
	if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestCommitThatNeverLeftIsRolledBack(t *testing.T) {
	t.Parallel()
	b := start(t, nil, tm.WithRetryLimit(brief))
	err := b.Do(t.Context(), func(context.Context) error {
		b.tc.Stop()
		return nil
	})
	// Whether the last session still took the commit is a race of the two ends.
	if !errors.Is(err, tm.ErrRollbackPending) && !errors.Is(err, tm.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
}

func TestRollbackThatCannotBeDeliveredKeepsTheCause(t *testing.T) {
	t.Parallel()
	b := start(t, nil, tm.WithRetryLimit(brief))
	err := b.Do(t.Context(), func(context.Context) error {
		b.tc.Stop()
		return &tm.LockConflictError{Table: "t"}
	})
	p, ok := errors.AsType[*tm.RollbackPendingError](err)
	if !ok || !errors.Is(err, tm.ErrRollbackPending) || !errors.Is(err, tm.ErrLockConflict) || errors.Is(err, tm.ErrRolledBack) || p.XID.IsZero() {
		t.Errorf("got %v", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "deadline rolls it back") {
		t.Errorf("the error leaves something out: %v", err)
	}
}

func TestRollbackOfWhatWasRolledBackTakesItsReason(t *testing.T) {
	t.Parallel()
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetRollback() == nil {
			return false
		}
		refuse(n, f, &client.Error{
			Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted,
			Metadata: map[string]string{"rollback_reason": "TIMEOUT"},
		})
		return true
	})
	err := b.Do(t.Context(), func(context.Context) error { return errUser })
	if !errors.Is(err, tm.ErrTimedOut) || !errors.Is(err, errUser) {
		t.Errorf("got %v", err)
	}
	if err := b.Rollback(t.Context(), tm.Tx{XID: b.tc.NewXID()}, nil); err != nil {
		t.Errorf("by hand: %v", err)
	}
}

func TestOperatorWhoCommittedIsNotHidden(t *testing.T) {
	t.Parallel()
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetRollback() == nil {
			return false
		}
		refuse(n, f, &client.Error{Reason: pb.ErrorReason_ERROR_REASON_COMMITTED, Code: codes.FailedPrecondition, Message: "m"})
		return true
	})
	err := b.Do(t.Context(), func(context.Context) error { return errUser })
	if !errors.Is(err, tm.ErrCommitted) || !errors.Is(err, errUser) || errors.Is(err, tm.ErrRolledBack) {
		t.Errorf("got %v", err)
	}
}

func TestWaitSettledTellsCommittedFromSettled(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	if err := b.Do(t.Context(), func(context.Context) error { return nil }, tm.WithWaitSettled()); err != nil {
		t.Fatal(err)
	}
	b.next(t)
	for _, want := range []bool{false, true} {
		if f := b.next(t).GetCommit(); f == nil || f.GetWaitSettled() != want {
			t.Errorf("Commit: %v", f)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	b = start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetCommit().GetWaitSettled() {
			cancel()
			return true
		}
		return false
	})
	err := b.Do(ctx, func(context.Context) error { return nil }, tm.WithWaitSettled())
	if !errors.Is(err, tm.ErrNotSettled) || !errors.Is(err, context.Canceled) || errors.Is(err, tm.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
}

// TestWaitSettledAfterARollback, whoever decided it.
func TestWaitSettledAfterARollback(t *testing.T) {
	t.Parallel()
	fails := func(context.Context) error { return errUser }
	votedNo := &pb.CommitResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, RollbackReason: pb.RollbackReason_ROLLBACK_REASON_VOTED_NO}
	for name, run := range map[string]func(context.Context, *bench) error{
		"fn failed": func(ctx context.Context, b *bench) error { return b.Do(ctx, fails, tm.WithWaitSettled()) },
		"a vote was no": func(ctx context.Context, b *bench) error {
			return b.Do(ctx, func(context.Context) error { return nil }, tm.WithWaitSettled())
		},
		"waited for": func(ctx context.Context, b *bench) error { return b.Wait(ctx, b.tc.NewXID(), tm.WithWaitSettled()) },
		"by hand": func(ctx context.Context, b *bench) error {
			tx, err := b.Begin(ctx, tm.WithWaitSettled())
			if err != nil {
				return err
			}
			return b.Rollback(ctx, tx, errUser)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var settled, stuck atomic.Bool
			b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
				switch {
				case f.GetCommit() != nil:
					committed(n, f, votedNo)
				case f.GetWaitFor() != nil:
					n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_WaitFor{WaitFor: &pb.WaitForResponse{Outcome: pb.Outcome_OUTCOME_ROLLED_BACK}}})
				case f.GetRollback().GetWaitSettled() && stuck.Load():
					cancel()
				default:
					settled.Store(settled.Load() || f.GetRollback().GetWaitSettled())
					return false
				}
				return true
			})
			wantRolledBack := name != "by hand"
			err := run(ctx, b)
			if !settled.Load() || errors.Is(err, tm.ErrNotSettled) || errors.Is(err, tm.ErrRolledBack) != wantRolledBack {
				t.Errorf("waited until settled %v, got %v", settled.Load(), err)
			}
			stuck.Store(true)
			err = run(ctx, b)
			n, ok := errors.AsType[*tm.NotSettledError](err)
			if !ok || n.Outcome != pb.Outcome_OUTCOME_ROLLED_BACK || !errors.Is(err, tm.ErrNotSettled) || !errors.Is(err, context.Canceled) ||
				errors.Is(err, tm.ErrRolledBack) != wantRolledBack || errors.Is(err, tm.ErrOutcomeUnknown) {
				t.Errorf("got %v", err)
			}
			if strings.Count(err.Error(), "rolled back") != 1 || !strings.Contains(err.Error(), "not settled everywhere yet") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestTheEndOfTheCallerEndsTheWait, and the rollback is sent all the same.
func TestTheEndOfTheCallerEndsTheWait(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Do(ctx, func(context.Context) error { cancel(); return nil }, tm.WithWaitSettled())
	if !errors.Is(err, tm.ErrRolledBack) || !errors.Is(err, tm.ErrNotSettled) {
		t.Errorf("got %v", err)
	}
	b.next(t)
	if f := b.next(t).GetRollback(); f == nil || f.GetWaitSettled() {
		t.Errorf("sent %v", f)
	}
	b.nothingMore(t)
}

func TestCommitThatIsRefused(t *testing.T) {
	t.Parallel()
	for reason, unknown := range map[pb.ErrorReason]bool{
		pb.ErrorReason_ERROR_REASON_UNKNOWN_XID:   false,
		pb.ErrorReason_ERROR_REASON_INVALID_FIELD: false,
		pb.ErrorReason_ERROR_REASON_EXPIRED_XID:   true,
		pb.ErrorReason_ERROR_REASON_QUARANTINED:   true,
		pb.ErrorReason_ERROR_REASON_FOREIGN_STORE: true,
	} {
		t.Run(reason.String(), func(t *testing.T) {
			t.Parallel()
			b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
				if f.GetCommit() == nil {
					return false
				}
				refuse(n, f, &client.Error{Reason: reason, Code: codes.NotFound, Message: "m"})
				return true
			})
			err := b.Do(t.Context(), func(context.Context) error { return nil })
			if errors.Is(err, tm.ErrOutcomeUnknown) != unknown || client.ReasonOf(err) != reason {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFullCoordinatorIsAskedAgain(t *testing.T) {
	t.Parallel()
	full := &client.Error{Reason: pb.ErrorReason_ERROR_REASON_LIMIT, Code: codes.ResourceExhausted, Message: "full"}
	refusals := 0
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetBegin() != nil || refusals == 3 {
			refusals = 0
			return false
		}
		refusals++
		refuse(n, f, full)
		return true
	})
	if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Errorf("Commit: %v", err)
	}
	if err := b.Do(t.Context(), func(context.Context) error { return errUser }); !errors.Is(err, tm.ErrRolledBack) {
		t.Errorf("Rollback: %v", err)
	}

	// Where it stays full, nothing was decided: it is rolled back.
	b = start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetCommit() == nil {
			return false
		}
		refuse(n, f, full)
		return true
	}, tm.WithRetryLimit(brief))
	err := b.Do(t.Context(), func(context.Context) error { return nil })
	if !errors.Is(err, tm.ErrRolledBack) || client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_LIMIT {
		t.Errorf("always full: %v", err)
	}
}
