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

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// brief is a limit that is meant to run out, and still long enough for what comes before.
const brief = time.Second

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
	// No limit of a test includes the way to the coordinator.
	if _, _, err := c.Store(t.Context()); err != nil {
		t.Fatal(err)
	}
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
