package tm_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

var errUser = errors.New("the account is empty")

// bench is a Manager on a coordinator that does what the test says.
type bench struct {
	*tm.Manager
	tc     *faketc.Server
	frames chan *pb.ClientFrame // every request, in order
}

// start makes a bench. on may answer frames itself, by returning true.
func start(t *testing.T, on func(*faketc.Session, *pb.ClientFrame) bool, opts ...tm.Option) *bench {
	t.Helper()
	b := &bench{tc: faketc.Start(t), frames: make(chan *pb.ClientFrame, 256)}
	b.tc.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetHello() != nil {
			return false
		}
		b.frames <- f
		return on != nil && on(n, f)
	})
	c, err := client.Dial(b.tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	b.Manager = tm.New(c, opts...)
	return b
}

// next is the next request that arrived at the coordinator.
func (b *bench) next(t *testing.T) *pb.ClientFrame {
	t.Helper()
	select {
	case f := <-b.frames:
		return f
	case <-time.After(patience):
		t.Fatal("no request arrived")
		return nil
	}
}

// nothingMore checks that no other request had arrived. Requests are answered
// in order, so the answer to one more proves it.
func (b *bench) nothingMore(t *testing.T) {
	t.Helper()
	if _, err := b.Outcome(t.Context(), b.tc.NewXID()); err != nil {
		t.Fatal(err)
	}
	if f := b.next(t); f.GetGet() == nil {
		t.Errorf("there was another request: %v", f)
	}
}

func refuse(n *faketc.Session, f *pb.ClientFrame, e *client.Error) {
	p := e.GRPCStatus().Proto()
	n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Error{Error: &pb.Error{
		Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails(),
	}}})
}

func committed(n *faketc.Session, f *pb.ClientFrame, r *pb.CommitResponse) {
	n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Commit{Commit: r}})
}

func TestDoCommitsWhenFnReturnsNil(t *testing.T) {
	t.Parallel()
	b := start(t, nil, tm.WithName("default"), tm.WithTimeout(time.Minute))
	var inside xid.ID
	err := b.Do(t.Context(), func(ctx context.Context) error {
		inside, _ = xid.FromContext(ctx)
		return nil
	}, tm.WithName("order"))
	if err != nil {
		t.Fatal(err)
	}
	begin := b.next(t).GetBegin()
	if begin.GetName() != "order" || begin.GetTimeout().AsDuration() != time.Minute || begin.GetParentXid() != "" {
		t.Errorf("Begin: %v", begin)
	}
	commit := b.next(t).GetCommit()
	if inside.IsZero() || commit.GetXid() != inside.String() || commit.GetWaitSettled() {
		t.Errorf("fn ran under %v, Commit: %v", inside, commit)
	}
	b.nothingMore(t)
}

func TestDoLeavesTheTimeoutToTheCoordinator(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	if err := b.Do(t.Context(), func(ctx context.Context) error {
		if d, ok := ctx.Deadline(); ok {
			t.Errorf("the context ends at %v", d)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if f := b.next(t); f.GetBegin() == nil || f.GetBegin().GetTimeout() != nil {
		t.Errorf("Begin: %v", f)
	}
}

func TestDoRollsBackWhenFnFails(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	var inside xid.ID
	err := b.Do(t.Context(), func(ctx context.Context) error {
		inside, _ = xid.FromContext(ctx)
		return errUser
	})
	if !errors.Is(err, tm.ErrRolledBack) || !errors.Is(err, errUser) || errors.Is(err, tm.ErrTimedOut) || errors.Is(err, tm.ErrLockConflict) {
		t.Errorf("got %v", err)
	}
	r, ok := errors.AsType[*tm.RolledBackError](err)
	if !ok || r.XID != inside || r.Reason != pb.RollbackReason_ROLLBACK_REASON_REQUESTED || r.Conflict != nil {
		t.Errorf("got %#v", err)
	}
	b.next(t)
	if f := b.next(t).GetRollback(); f.GetXid() != inside.String() || f.GetCause() != errUser.Error() {
		t.Errorf("Rollback: %v", f)
	}
	b.nothingMore(t)
}

func TestPanicRollsBackAndGoesOnWithItsValue(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	value := &struct{ s string }{"mine"}
	func() {
		defer func() {
			if v := recover(); v != value {
				t.Errorf("recovered %v, want %v", v, value)
			}
		}()
		_ = b.Do(t.Context(), func(context.Context) error { panic(value) })
	}()
	b.next(t)
	if f := b.next(t); f.GetRollback() == nil {
		t.Errorf("got %v, want Rollback", f)
	}
}

func TestGoexitRollsBack(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Do(context.Background(), func(context.Context) error { runtime.Goexit(); return nil })
	}()
	<-done
	b.next(t)
	if f := b.next(t); f.GetRollback() == nil {
		t.Errorf("got %v, want Rollback", f)
	}
}

func TestDoJoinsTheTransactionOfTheContext(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	id := b.tc.NewXID()
	for _, want := range []error{nil, errUser} {
		err := b.Do(xid.NewContext(t.Context(), id), func(ctx context.Context) error {
			if got, _ := xid.FromContext(ctx); got != id {
				t.Errorf("fn ran under %v, want %v", got, id)
			}
			return want
		}, tm.WithName("x"))
		if err != want { //nolint:errorlint // the very error, not one around it
			t.Errorf("got %v, want %v", err, want)
		}
	}
	b.nothingMore(t)
}

func TestRequiresNewNamesItsParent(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	outer := b.tc.NewXID()
	if err := b.Do(xid.NewContext(t.Context(), outer), func(ctx context.Context) error {
		if got, _ := xid.FromContext(ctx); got == outer || got.IsZero() {
			t.Errorf("fn ran under %v", got)
		}
		return nil
	}, tm.RequiresNew()); err != nil {
		t.Fatal(err)
	}
	if f := b.next(t).GetBegin(); f.GetParentXid() != outer.String() {
		t.Errorf("Begin: %v", f)
	}
	if f := b.next(t).GetCommit(); f == nil || f.GetXid() == outer.String() {
		t.Errorf("Commit: %v", f)
	}
	b.nothingMore(t)
}

func TestNotSupportedRunsOutsideOfAnyTransaction(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	err := b.Do(xid.NewContext(t.Context(), b.tc.NewXID()), func(ctx context.Context) error {
		if got, ok := xid.FromContext(ctx); ok {
			t.Errorf("fn ran under %v", got)
		}
		return errUser
	}, tm.NotSupported())
	if err != errUser { //nolint:errorlint // the very error, not one around it
		t.Errorf("got %v", err)
	}
	b.nothingMore(t)
}

func TestRollbackIsSentAlthoughTheContextHasEnded(t *testing.T) {
	t.Parallel()
	for name, fnErr := range map[string]error{"fn fails": errUser, "fn does not notice": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			err := b.Do(ctx, func(context.Context) error { cancel(); return fnErr })
			want := fnErr
			if want == nil {
				want = context.Canceled
			}
			r, ok := errors.AsType[*tm.RolledBackError](err)
			if !ok || r.Cause != want { //nolint:errorlint // the very error, not one around it
				t.Errorf("got %v", err)
			}
			b.next(t)
			if f := b.next(t); f.GetRollback() == nil {
				t.Errorf("got %v, want Rollback", f)
			}
			b.nothingMore(t)
		})
	}
}

func TestContextOfFnEndsWithTheTransaction(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	err := b.Do(t.Context(), func(ctx context.Context) error {
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), tm.ErrTimedOut) {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
		return ctx.Err()
	}, tm.WithTimeout(20*time.Millisecond))
	if !errors.Is(err, tm.ErrTimedOut) || !errors.Is(err, tm.ErrRolledBack) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCommitAnsweredWithRolledBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		reason pb.RollbackReason
		name   string // as the details of an error name it
		timed  bool
	}{
		{pb.RollbackReason_ROLLBACK_REASON_TIMEOUT, "TIMEOUT", true},
		{pb.RollbackReason_ROLLBACK_REASON_VOTED_NO, "ROLLBACK_REASON_VOTED_NO", false},
		{pb.RollbackReason_ROLLBACK_REASON_OPERATOR, "OPERATOR", false},
		{pb.RollbackReason_ROLLBACK_REASON_REQUESTED, "REQUESTED", false},
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
				if !ok || r.Reason != tt.reason || !errors.Is(err, tm.ErrRolledBack) || errors.Is(err, tm.ErrTimedOut) != tt.timed {
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
		}, tm.WithRetryLimit(300*time.Millisecond))
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
	}, tm.WithRetryLimit(30*time.Millisecond))
	if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestCommitThatNeverLeftIsRolledBack(t *testing.T) {
	t.Parallel()
	b := start(t, nil, tm.WithRetryLimit(200*time.Millisecond))
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
	b := start(t, nil, tm.WithRetryLimit(100*time.Millisecond))
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
	}, tm.WithRetryLimit(50*time.Millisecond))
	err := b.Do(t.Context(), func(context.Context) error { return nil })
	if !errors.Is(err, tm.ErrRolledBack) || client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_LIMIT {
		t.Errorf("always full: %v", err)
	}
}

func TestBadInputNamesTheField(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	for _, tt := range []struct {
		name, field string
		opt         tm.Option
	}{
		{"negative timeout", "timeout", tm.WithTimeout(-1)},
		{"huge timeout", "timeout", tm.WithTimeout(12*time.Hour + 1)},
		{"long name", "name", tm.WithName(strings.Repeat("x", 257))},
		{"10 KB name", "name", tm.WithName(strings.Repeat("x", 10<<10))},
		{"name not UTF-8", "name", tm.WithName("\xff")},
		{"no limit", "retry limit", tm.WithRetryLimit(0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ran := false
			err := b.Do(t.Context(), func(context.Context) error { ran = true; return nil }, tt.opt)
			e, ok := errors.AsType[*client.Error](err)
			if !ok || e.Field != tt.field || e.Code != codes.InvalidArgument || ran || !strings.Contains(err.Error(), tt.field) {
				t.Errorf("got %v, fn ran: %t", err, ran)
			}
			if _, err := b.Begin(t.Context(), tt.opt); client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_INVALID_FIELD {
				t.Errorf("Begin: got %v", err)
			}
		})
	}
	for _, err := range []error{b.Commit(t.Context(), tm.Tx{}), b.Rollback(t.Context(), tm.Tx{}, nil)} {
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Field != "xid" {
			t.Errorf("no XID: got %v", err)
		}
	}
	b.nothingMore(t)
}

func TestBeginThatFailsDoesNotRunFn(t *testing.T) {
	t.Parallel()
	for name, on := range map[string]func(*faketc.Session, *pb.ClientFrame){
		"refused": func(n *faketc.Session, f *pb.ClientFrame) {
			refuse(n, f, &client.Error{Reason: pb.ErrorReason_ERROR_REASON_LIMIT, Code: codes.ResourceExhausted})
		},
		"malformed": func(n *faketc.Session, f *pb.ClientFrame) {
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Begin{Begin: &pb.BeginResponse{Xid: "junk"}}})
		},
		"silent": func(*faketc.Session, *pb.ClientFrame) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
				if f.GetBegin() != nil {
					on(n, f)
				}
				return f.GetBegin() != nil
			}, tm.WithRetryLimit(100*time.Millisecond))
			err := b.Do(context.Background(), func(context.Context) error {
				t.Error("fn ran")
				return nil
			})
			if err == nil || !strings.HasPrefix(err.Error(), "begin transaction: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTransactionByHand(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	outer := b.tc.NewXID()
	tx, err := b.Begin(xid.NewContext(t.Context(), outer), tm.WithName("n"))
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := xid.FromContext(tx.Context(t.Context())); !ok || id != tx.XID {
		t.Errorf("Context holds %v", id)
	}
	if f := b.next(t).GetBegin(); f.GetName() != "n" || f.GetParentXid() != outer.String() {
		t.Errorf("Begin: %v", f)
	}
	if err := b.Commit(t.Context(), tx); err != nil {
		t.Error(err)
	}
	if f := b.next(t).GetCommit(); f.GetXid() != tx.XID.String() {
		t.Errorf("Commit: %v", f)
	}
	// A Tx made of nothing but an XID, as after a restart.
	if err := b.Rollback(t.Context(), tm.Tx{XID: outer}, errUser); err != nil {
		t.Error(err)
	}
	if f := b.next(t).GetRollback(); f.GetXid() != outer.String() || f.GetCause() != errUser.Error() {
		t.Errorf("Rollback: %v", f)
	}
}
