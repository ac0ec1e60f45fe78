package rm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const (
	// deliveryMax is how long a waiter relies on others to settle what may be
	// decided by now, before it looks for itself.
	deliveryMax = time.Second
	turnsMax    = 20
	// A waiter with an open local transaction looks whether that holds up the
	// holder: first after firstLook, then after twice as long each time.
	firstLook   = 100 * time.Millisecond
	lookMax     = time.Second
	lookTimeout = 2 * time.Second
)

// errExpired: the time is up, or nobody could be asked to wait for.
var errExpired = errors.New("waited as long as the lock timeout allows")

// waiter waits for those who hold the rows that one statement needs.
type waiter struct {
	p     *Pool
	x     xid.ID
	open  bool // its local transaction stays open meanwhile
	began time.Time
	last  xid.ID // who was waited for last
	over  bool   // waiting again would not help
}

func (p *Pool) newWaiter(x xid.ID) *waiter { return &waiter{p: p, x: x} }

// again tells whether the statement that failed with err is to be run again: the
// holder is settled in this database. Otherwise it gives the error to return.
func (w *waiter) again(ctx context.Context, err error) (bool, error) {
	conflict, ok := errors.AsType[*LockConflictError](err)
	if !ok || !w.canWait(conflict) {
		return false, err
	}
	switch werr := w.wait(ctx, conflict); {
	case werr == nil:
		return true, nil
	case errors.Is(werr, errExpired):
		return false, err
	default:
		return false, werr
	}
}

func (w *waiter) canWait(c *LockConflictError) bool {
	return !w.over && !c.Holder.IsZero() && c.Holder != w.x && w.left() > 0
}

// left is how much of the lock timeout is left; it runs from the first conflict.
func (w *waiter) left() time.Duration {
	if w.began.IsZero() {
		return w.p.cfg.lockTimeout
	}
	return w.p.cfg.lockTimeout - time.Since(w.began)
}

// wait returns nil when the holder is settled in this database, errExpired when
// the statement may be tried a last time, and else the error of the statement.
func (w *waiter) wait(ctx context.Context, c *LockConflictError) error {
	if w.began.IsZero() {
		w.began = time.Now()
	}
	// Settled a moment ago, and it still holds the row: never spin on that.
	if c.Holder == w.last && !w.pause(ctx) {
		return w.ended(ctx, c)
	}
	w.last = c.Holder
	left := w.left()
	if left <= 0 {
		w.over = true
		return errExpired
	}
	limited, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	once := min(left, deliveryMax)
	req := &pb.WaitForRequest{
		Xid: c.Holder.String(), ResourceId: w.p.resource, WaiterXid: w.x.String(), Timeout: durationpb.New(once),
		Row: c.Table + " " + c.Key, Waited: durationpb.New(time.Since(w.began)),
	}
	a, err := w.watched(limited, c.Holder, func(ctx context.Context) (*pb.WaitForResponse, error) {
		// Decided already: no need to wait until somebody is told to settle it.
		if settled, _ := w.p.agent.settleDecided(ctx, c.Holder); settled {
			return &pb.WaitForResponse{Settled: true}, nil
		}
		return w.p.client.WaitFor(ctx, req)
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return w.ended(ctx, c)
	case err != nil:
		return w.refused(c, err)
	case !a.GetSettled() && w.left() > 0:
		w.last = xid.ID{} // it was not settled, so there is nothing to pause for
		return w.wait(ctx, c)
	case !a.GetSettled():
		w.over = true
		return errExpired
	}
	if ahead := a.GetAheadXid(); ahead != "" {
		// First come, first served: each that was let go before gets a moment to take
		// the row and to be done with it. If one has taken it this statement meets it,
		// and waits for it in earnest.
		turns := w.p.cfg.turn * time.Duration(min(a.GetAheadCount(), turnsMax))
		_, _ = w.p.client.WaitFor(limited, &pb.WaitForRequest{
			Xid: ahead, ResourceId: w.p.resource, Timeout: durationpb.New(min(turns, left)),
		})
	}
	return nil
}

// ended is the error where the context of the statement has ended.
func (w *waiter) ended(ctx context.Context, c *LockConflictError) error {
	if ctx.Err() == nil {
		return errExpired
	}
	w.over = true
	return c.with("", context.Cause(ctx))
}

// refused sorts the errors of a wait. Where the waiter itself is decided nothing
// it does can stay, so it must not go on; anything else only means that nobody
// can be asked.
func (w *waiter) refused(c *LockConflictError, err error) error {
	w.over = true
	if _, gaveWay := errors.AsType[*heldUpError](err); gaveWay {
		return c.with(err.Error(), nil)
	}
	e, ok := client.AsError(err)
	if !ok || e.XID != w.x {
		return errExpired
	}
	switch e.Reason { //nolint:exhaustive // the two ways to be decided
	case pb.ErrorReason_ERROR_REASON_ROLLED_BACK, pb.ErrorReason_ERROR_REASON_COMMITTED:
		cycle := ""
		if e.Metadata["rollback_reason"] == pb.RollbackReason_ROLLBACK_REASON_DEADLOCK.String() {
			cycle = e.Metadata["cause"]
		}
		return c.with(cycle, &decidedError{id: w.x, err: e})
	default:
		return errExpired
	}
}

// pause spreads those who go for the same row.
func (w *waiter) pause(ctx context.Context) bool {
	t := time.NewTimer(min(rand.N(32*time.Millisecond), max(w.left(), 0))) //nolint:gosec // not a secret
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// heldUpError: the holder can't get on before the waiter's own local transaction
// ends. No other place sees that: one half of this cycle is at the coordinator,
// the other inside Postgres.
type heldUpError struct{ waiter, holder, blocked xid.ID }

// Error names the cycle.
func (e *heldUpError) Error() string {
	through := ""
	if e.blocked != e.holder {
		through = fmt.Sprintf("waits, directly or through others, for %s, which ", e.blocked)
	}
	return fmt.Sprintf("%s waits for %s, which %swaits inside Postgres for a row that %s has locked",
		e.waiter, e.holder, through, e.waiter)
}

// watched runs a wait. While it lasts, and a local transaction is open, it looks
// from time to time whether that transaction's row locks hold up the holder, or
// one that the holder waits for. It then ends the wait: the other one can't give
// way, for it waits inside Postgres.
func (w *waiter) watched(ctx context.Context, holder xid.ID, wait func(context.Context) (*pb.WaitForResponse, error)) (*pb.WaitForResponse, error) {
	if !w.open {
		return wait(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if blocked := w.holdsUp(ctx, holder); !blocked.IsZero() {
			cancel(&heldUpError{waiter: w.x, holder: holder, blocked: blocked})
		}
	}()
	a, err := wait(ctx)
	cancel(nil)
	<-done
	return a, err
}

// holdsUp looks until the context ends or it has found somebody.
func (w *waiter) holdsUp(ctx context.Context, holder xid.ID) (blocked xid.ID) {
	for pause := firstLook; ; pause = min(2*pause, lookMax) {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return xid.ID{}
		}
		// A look that fails is made again.
		if blocked, err := w.look(ctx, w.waitsFor(ctx, holder)); err == nil && !blocked.IsZero() {
			return blocked
		}
	}
}

// waitsFor is the holder and all that it waits for, in whatever database.
func (w *waiter) waitsFor(ctx context.Context, holder xid.ID) []xid.ID {
	all := []xid.ID{holder}
	a, err := w.p.client.Get(ctx, &pb.GetRequest{Xid: holder.String(), Waits: true})
	if err != nil {
		return all
	}
	for _, s := range a.GetWaitsFor() {
		if id, err := xid.Parse(s); err == nil && id != w.x {
			all = append(all, id)
		}
	}
	return all
}

// look asks the database whom the waiter holds up.
func (w *waiter) look(ctx context.Context, others []xid.ID) (xid.ID, error) {
	var found xid.ID
	err := w.p.agent.do(ctx, func(ctx context.Context, s *settler) error {
		// The end of the wait must not cut through the question: that would
		// cost the connection.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		found, err = undolog.Blocks(ctx, conn, w.x, others)
		return err
	})
	if err != nil {
		return xid.ID{}, err
	}
	return found, nil
}
