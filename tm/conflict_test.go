package tm_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// rmConflict is an error of another package that tells of a conflict.
type rmConflict struct{ holder xid.ID }

func (e *rmConflict) Error() string { return "conflict" }

func (e *rmConflict) LockConflict() (holder xid.ID, table, key string) {
	return e.holder, "public.stock", `["7"]`
}

// stock is a service whose database refuses.
type stock struct {
	grpc_health_v1.UnimplementedHealthServer
	err error
}

func (s stock) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	return nil, s.err
}

// acrossTheWire gives an error as a caller of a gRPC service gets it.
func acrossTheWire(t *testing.T, err error) error {
	t.Helper()
	lis, lerr := net.Listen("tcp", "127.0.0.1:0")
	if lerr != nil {
		t.Fatal(lerr)
	}
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, stock{err: err})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	cc, cerr := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if cerr != nil {
		t.Fatal(cerr)
	}
	_, err = grpc_health_v1.NewHealthClient(cc).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	_ = cc.Close()
	srv.Stop()
	if serr := <-done; serr != nil {
		t.Error(serr)
	}
	return err
}

func TestLockConflictIsFoundWhereverItHappened(t *testing.T) {
	t.Parallel()
	holder := xid.New(xid.Parts{Incarnation: 1, Counter: 5})
	here := &rmConflict{holder}
	there := &tm.LockConflictError{Holder: holder, Table: "public.stock", Key: `["7"]`}
	for name, cause := range map[string]error{
		"in this process":               here,
		"wrapped":                       fmt.Errorf("reserve: %w", here),
		"beside another error":          errors.Join(errUser, here),
		"in a service behind gRPC":      acrossTheWire(t, there),
		"wrapped there":                 acrossTheWire(t, fmt.Errorf("reserve: %w", there)),
		"two services behind":           acrossTheWire(t, acrossTheWire(t, there)),
		"inside of a rolled back error": acrossTheWire(t, &tm.RolledBackError{Cause: here, Conflict: there}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, nil)
			err := b.Do(t.Context(), func(context.Context) error { return cause })
			if !errors.Is(err, tm.ErrLockConflict) || !errors.Is(err, tm.ErrRolledBack) || !errors.Is(err, cause) {
				t.Fatalf("got %v", err)
			}
			c, ok := errors.AsType[*tm.LockConflictError](err)
			if !ok || *c != *there {
				t.Errorf("got %+v, want %+v", c, there)
			}
		})
	}
}

func TestOtherErrorsAreNoLockConflict(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, errUser, status.Error(codes.Aborted, "x"), &tm.RolledBackError{Cause: errUser}, &tm.OutcomeUnknownError{}} {
		if c, ok := tm.FindLockConflict(err); ok {
			t.Errorf("%v: got %v", err, c)
		}
	}
}

// rmDeadlock is rmConflict where waiting could not help.
type rmDeadlock struct{ rmConflict }

func (*rmDeadlock) DeadlockCycle() string { return "a waits for b, which waits for a" }

func TestADeadlockIsNamedAlsoAcrossServices(t *testing.T) {
	t.Parallel()
	here := error(&rmDeadlock{})
	there := acrossTheWire(t, &tm.LockConflictError{Table: "t", Deadlock: "a waits for b, which waits for a"})
	for _, err := range []error{here, there, fmt.Errorf("order: %w", there)} {
		b := start(t, nil)
		err := b.Do(t.Context(), func(context.Context) error { return err })
		if !errors.Is(err, tm.ErrDeadlock) || !errors.Is(err, tm.ErrRolledBack) || !errors.Is(err, tm.ErrLockConflict) {
			t.Errorf("got %v", err)
		}
	}
	if c, ok := tm.FindLockConflict(there); !ok || c.Deadlock == "" {
		t.Errorf("got %+v", c)
	}
	if c, ok := tm.FindLockConflict(&rmConflict{}); !ok || c.Deadlock != "" || errors.Is(c, tm.ErrDeadlock) {
		t.Errorf("got %+v", c)
	}
}

// TestTheVictimLearnsTheCycle, although its own error only says that it failed.
func TestTheVictimLearnsTheCycle(t *testing.T) {
	t.Parallel()
	b := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetRollback() == nil {
			return false
		}
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Rollback{Rollback: &pb.RollbackResponse{
			Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, RollbackReason: pb.RollbackReason_ROLLBACK_REASON_DEADLOCK,
			RollbackCause: "a waits for b, which waits for a",
		}}})
		return true
	})
	err := b.Do(t.Context(), func(context.Context) error { return errors.New("409 Conflict") })
	if !errors.Is(err, tm.ErrDeadlock) || !strings.Contains(err.Error(), "deadlock: a waits for b, which waits for a") || !strings.Contains(err.Error(), "409") {
		t.Errorf("got %v", err)
	}
}
