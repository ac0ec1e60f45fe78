package demo

import (
	"context"
	"errors"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
)

// Scenarios that the coordinator goes on with alone: sagas, messages, workflows.

func actSagaCrash(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	charged, err := s.hold(ctx, "accounts", "charge")
	if err != nil {
		return nil, err
	}
	resp, err := s.orders.Place(ctx, order(shopv1.Mode_MODE_SAGA))
	if err != nil {
		return nil, err
	}
	s.event("the caller is told: %s; kill -9 of the caller, which is orders (pid %d)", resp.GetOutcome(), s.services["orders"].pid())
	s.services["orders"].kill()
	if err := charged.await(ctx); err != nil {
		return nil, err
	}
	s.event("stock is taken, the account is charged, and that is not answered yet; kill -9 of the coordinator (pid %d)", s.tc.pid())
	s.tc.kill()
	charged.release()
	if err := s.expect(ctx, "in the middle", ordered[1:]...); err != nil {
		return nil, err
	}
	if err := s.again(ctx, "coordinator", "orders"); err != nil {
		return nil, err
	}
	return s.decided(ctx, resp)
}

func actSagaCompensate(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	taken, err := s.hold(ctx, "stock", "take")
	if err != nil {
		return nil, err
	}
	resp, err := s.orders.Place(ctx, tooDear(shopv1.Mode_MODE_SAGA))
	if err != nil {
		return nil, err
	}
	if err := taken.await(ctx); err != nil {
		return nil, err
	}
	if err := s.expect(ctx, "after the first step", ordered[1], fresh[1]); err != nil {
		return nil, err
	}
	s.event("stock is taken; the account holds too little for what comes next")
	taken.release()
	return s.decided(ctx, resp)
}

func actMessageCrash(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	delivered, err := s.hold(ctx, "stock", deliver)
	if err != nil {
		return nil, err
	}
	p, err := s.begin(ctx, order(shopv1.Mode_MODE_MESSAGE))
	if err != nil {
		return nil, err
	}
	s.event("the messages are published, and only the local COMMIT is missing; kill -9 of the coordinator (pid %d)", s.tc.pid())
	s.tc.kill()
	p.release()
	resp, err := p.answer()
	if err != nil {
		return nil, err
	}
	s.event("the local transaction is %s; kill -9 of the sender, which is orders (pid %d)", resp.GetOutcome(), s.services["orders"].pid())
	s.services["orders"].kill()
	if err := s.expect(ctx, "after COMMIT", ordered[0], fresh[0], fresh[1]); err != nil {
		return nil, err
	}
	s.event("nobody is left who knew both of the messages and of the commit, but the database of orders")
	if err := s.again(ctx, "coordinator", "orders"); err != nil {
		return nil, err
	}
	if err := delivered.await(ctx); err != nil {
		return nil, err
	}
	s.event("stock has its message and has not answered; kill -9 of stock (pid %d), so the message comes once more", s.services["stock"].pid())
	s.services["stock"].kill()
	return resp, s.again(ctx, "stock")
}

func actMessageRollback(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	o := order(shopv1.Mode_MODE_MESSAGE)
	o.Amount = 20000
	return s.refused(ctx, o)
}

func actWorkflow(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	charged, err := s.hold(ctx, "accounts", "charge")
	if err != nil {
		return nil, err
	}
	resp, err := s.orders.Place(ctx, order(shopv1.Mode_MODE_WORKFLOW))
	if err != nil {
		return nil, err
	}
	if err := charged.await(ctx); err != nil {
		return nil, err
	}
	if err := s.expect(ctx, "in the second step", ordered[1:]...); err != nil {
		return nil, err
	}
	s.event("step stock is remembered, step accounts has its effect and is not; kill -9 of orders (pid %d), whose function it is", s.services["orders"].pid())
	s.services["orders"].kill()
	charged.release()
	// The fence would hide a second run of the first step, so a call of it is caught.
	twice, err := s.hold(ctx, "stock", "take")
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.background.Go(func() {
		if r := <-twice.reached; r.err == nil {
			cancel(errors.New("a step that was remembered was run again"))
		}
	})
	if err := s.again(ctx, "orders"); err != nil {
		return nil, err
	}
	resp, err = s.decided(wait, resp)
	if cause := context.Cause(wait); cause != nil {
		return nil, cause
	}
	s.event("the function ran again, and stock was not asked again")
	return resp, err
}
