package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/undolog"
)

func actCommit(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	return s.orders.Place(ctx, order(shopv1.Mode_MODE_AT))
}

func actRollback(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	return s.refused(ctx, tooDear(shopv1.Mode_MODE_AT))
}

func actCrashParticipant(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	p, err := s.begin(ctx, order(shopv1.Mode_MODE_AT))
	if err != nil {
		return nil, err
	}
	s.event("every service has committed locally; kill -9 of stock (pid %d)", s.services["stock"].pid())
	s.services["stock"].kill()
	p.release()
	resp, err := p.answer()
	if err != nil {
		return nil, err
	}
	n, err := s.intents(ctx, "stock")
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("stock was settled although its service is dead")
	}
	s.event("decided: %s; stock is not settled, its rows are guarded by their intents", resp.GetOutcome())
	return resp, s.again(ctx, "stock")
}

func actCrashCoordinator(point string) func(context.Context, *stage) (*shopv1.PlaceResponse, error) {
	return func(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
		s.tc.kill()
		if err := s.tc.start(ctx, tc.CrashPointEnv+"="+point); err != nil {
			return nil, err
		}
		p, err := s.begin(ctx, order(shopv1.Mode_MODE_AT))
		if err != nil {
			return nil, err
		}
		s.event("every service has committed locally; the coordinator (pid %d) is set to die %s", s.tc.pid(), point)
		p.release()
		if err := s.tc.awaitEnd(ctx); err != nil {
			return nil, err
		}
		for _, service := range databases {
			n, err := s.intents(ctx, service)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				return nil, fmt.Errorf("%s holds no intents while the coordinator is dead", service)
			}
		}
		s.event("the coordinator is dead; all databases hold their intents, the caller waits")
		if err := s.again(ctx, "coordinator"); err != nil {
			return nil, err
		}
		return p.answer()
	}
}

func actContention(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	p, err := s.begin(ctx, order(shopv1.Mode_MODE_AT))
	if err != nil {
		return nil, err
	}
	s.event("order 1 is undecided and holds the row of tea")
	second := order(shopv1.Mode_MODE_AT)
	second.Id = 2
	resp, err := s.orders.Place(ctx, second)
	if err != nil {
		return nil, err
	}
	if resp.GetOutcome() != rolledBack || resp.GetConflictHolder() != p.xid {
		return nil, fmt.Errorf("order 2: outcome %q, holder %q, want a rollback because of %s: %s", resp.GetOutcome(), resp.GetConflictHolder(), p.xid, resp.GetError())
	}
	s.event("order 2 is refused at its statement, and told who holds the row")
	_, err = s.db["stock"].Exec(ctx, "UPDATE stock SET count = 999 WHERE item = 'tea'")
	if err == nil {
		return nil, errors.New("a plain session overwrote an undecided row")
	}
	if conflict, ok := undolog.AsConflict(err); !ok || conflict.Holder.String() != p.xid {
		return nil, fmt.Errorf("a plain session is refused, but not because of %s: %w", p.xid, err)
	}
	s.event("a plain session is refused: %v", err)
	p.release()
	return p.answer()
}
