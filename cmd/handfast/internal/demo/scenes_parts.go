package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
)

// Scenarios whose order is held before its commit: XA, TCC, and all together.

func actXA(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	p, err := s.begin(ctx, order(shopv1.Mode_MODE_XA))
	if err != nil {
		return nil, err
	}
	if err := s.prepared(ctx, databases...); err != nil {
		return nil, err
	}
	if err := s.expect(ctx, "while all is prepared", fresh...); err != nil {
		return nil, err
	}
	s.event("every service has prepared, and nobody sees it; kill -9 of stock (pid %d)", s.services["stock"].pid())
	s.services["stock"].kill()
	p.release()
	resp, err := p.answer()
	if err != nil {
		return nil, err
	}
	if err := s.prepared(ctx, "stock"); err != nil {
		return nil, err
	}
	s.event("decided: %s; in stock it is still prepared, and its rows are locked", resp.GetOutcome())
	return resp, s.again(ctx, "stock")
}

// prepared makes sure that each of the services has one prepared transaction.
func (s *stage) prepared(ctx context.Context, services ...string) error {
	for _, service := range services {
		var n int
		if err := s.db[service].QueryRow(ctx, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()").Scan(&n); err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("%s has %d prepared transactions, want 1", service, n)
		}
	}
	return nil
}

func actTCCConfirm(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	p, err := s.begin(ctx, order(shopv1.Mode_MODE_TCC))
	if err != nil {
		return nil, err
	}
	s.event("stock and accounts have reserved; kill -9 of stock (pid %d)", s.services["stock"].pid())
	s.services["stock"].kill()
	p.release()
	resp, err := p.answer()
	if err != nil {
		return nil, err
	}
	if err := s.has(ctx, "stock reserved (tea,3)"); err != nil {
		return nil, err
	}
	s.event("decided: %s; stock is still reserved, and nobody is there to confirm it", resp.GetOutcome())
	if err := s.services["stock"].start(ctx, holdEnv+"=confirm"); err != nil {
		return nil, err
	}
	h, err := s.hold(ctx, "stock", "confirm")
	if err != nil {
		return nil, err
	}
	if err := h.await(ctx); err != nil {
		return nil, err
	}
	if err := s.has(ctx, "stock     (tea,7)"); err != nil {
		return nil, err
	}
	s.event("started again, stock has confirmed and not answered; kill -9 of it (pid %d), so Confirm comes once more", s.services["stock"].pid())
	s.services["stock"].kill()
	return resp, s.again(ctx, "stock")
}

// has makes sure that a row is there.
func (s *stage) has(ctx context.Context, want string) error {
	rows, err := s.rows(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r == want {
			return nil
		}
	}
	return fmt.Errorf("rows %q, want %q to be one of them", rows, want)
}

func actTCCCancel(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	return s.refused(ctx, tooDear(shopv1.Mode_MODE_TCC))
}

func actMixedCrash(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	p, err := s.begin(ctx, order(shopv1.Mode_MODE_MIXED))
	if err != nil {
		return nil, err
	}
	if err := s.prepared(ctx, "accounts"); err != nil {
		return nil, err
	}
	if n, err := s.intents(ctx, "orders"); err != nil || n == 0 {
		return nil, errors.Join(err, fmt.Errorf("orders holds %d intents, want some", n))
	}
	if err := s.expect(ctx, "before the commit", ordered[0], fresh[0], "stock reserved (tea,2)", fresh[1]); err != nil {
		return nil, err
	}
	s.event("orders holds an intent, accounts has prepared, stock has reserved 2 of 3; kill -9 of accounts (pid %d)", s.services["accounts"].pid())
	s.services["accounts"].kill()
	p.release()
	resp, err := p.answer()
	if err != nil {
		return nil, err
	}
	if err := s.prepared(ctx, "accounts"); err != nil {
		return nil, err
	}
	s.event("the saga took the third, and so it is decided: %s; in accounts the price is prepared, and the shipping a message on its way", resp.GetOutcome())
	return resp, s.again(ctx, "accounts")
}

// actMixedRollback wants one more than there is: the last one, which the saga takes.
func actMixedRollback(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	o := order(shopv1.Mode_MODE_MIXED)
	o.Count = 11
	p, err := s.begin(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.prepared(ctx, "accounts"); err != nil {
		return nil, err
	}
	if err := s.has(ctx, "stock reserved (tea,10)"); err != nil {
		return nil, err
	}
	s.event("orders holds an intent, accounts has prepared, stock has reserved all 10; the saga is to take one more")
	p.release()
	resp, err := p.answer()
	if err == nil {
		s.event("%s", resp.GetError())
	}
	return resp, err
}
