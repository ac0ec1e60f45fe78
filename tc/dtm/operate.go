package dtm

import (
	"context"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// operator is who gives calls up for a client.
const operator = "forceStop over DTM's API"

// forceStop ends a transaction as failed, and calls nobody any more.
func (s *service) forceStop(ctx context.Context, gid string) error {
	g, err := s.known(ctx, gid)
	if err != nil {
		return err
	}
	if st := g.status(); st == succeed || st == failed {
		return s.told(ctx, &g, refuse(failure, "global transaction force stop error. status: %s. error: FAILURE", st))
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input {
		return core.Abandon{Ref: ref, XID: g.XID, Cause: "stopped by force", Operator: operator}
	})
	return err
}

// retryNow makes the next attempt of all calls due at once.
func (s *service) retryNow(ctx context.Context, gid string) error {
	g, err := s.known(ctx, gid)
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, func(ref core.Ref) core.Input {
		return core.RetryNow{Ref: ref, XID: g.XID, Delayed: g.note.Type == workflow}
	})
	return err
}

// retryLate is retryNow for open transactions whose next attempt is later than after. What
// was never tried is not late: it waits for the moment that its client has named.
func (s *service) retryLate(ctx context.Context, after time.Duration, limit int) (done int, more bool, err error) {
	late := s.eng.Now().Add(after)
	open, rest, err := s.eng.List(ctx, xid.ID{}, limit+1, func(t *core.Transaction) bool {
		next := nextCall(t)
		return t.Key != "" && t.Phase != core.Finished && next != nil && !next.Last.IsZero() && next.Next.After(late)
	})
	if err != nil {
		return 0, false, err
	}
	for i := range open[:min(limit, len(open))] {
		if _, err := s.ask(ctx, func(ref core.Ref) core.Input { return core.RetryNow{Ref: ref, XID: open[i].XID} }); err != nil {
			return done, true, err
		}
		done++
	}
	return done, len(open) > limit || done > 0 && !rest.IsZero(), nil
}
