package rm

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// waiter waits, outside of any local transaction, for those who hold the rows
// that one statement needs.
type waiter struct {
	p        *Pool
	x        xid.ID
	deadline time.Time // zero before the first conflict
	tries    int
}

func (p *Pool) newWaiter(x xid.ID) *waiter { return &waiter{p: p, x: x} }

// again tells whether the statement that failed with err is to be run again. It
// returns true only when the holder is settled in this database.
func (w *waiter) again(ctx context.Context, err error) bool {
	conflict, ok := errors.AsType[*LockConflictError](err)
	if !ok || conflict.Holder.IsZero() || conflict.Holder == w.x {
		return false
	}
	if w.deadline.IsZero() {
		w.deadline = time.Now().Add(w.p.cfg.lockTimeout)
	}
	left := time.Until(w.deadline)
	if left <= 0 {
		return false
	}
	if w.tries++; w.tries > 1 && !w.pause(ctx, left) {
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, w.deadline)
	defer cancel()
	a, err := w.p.client.WaitFor(ctx, &pb.WaitForRequest{
		Xid: conflict.Holder.String(), ResourceId: w.p.resource, WaiterXid: w.x.String(),
		Timeout: durationpb.New(left),
	})
	return err == nil && a.GetSettled()
}

// pause spreads those who go for the same row.
func (w *waiter) pause(ctx context.Context, left time.Duration) bool {
	d := min(rand.N(time.Millisecond<<min(w.tries, 6)), left) //nolint:gosec // not a secret
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
