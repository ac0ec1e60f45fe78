package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// stage is what a scenario acts on.
type stage struct {
	*cluster
	p          *printer
	events     []string
	told       string         // who was told the outcome
	background sync.WaitGroup // ends with the scenario's context
}

func (s *stage) event(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.events = append(s.events, text)
	s.p.say("  - %s", text)
}

// hold is a point where a service stops the first call that comes there.
type hold struct {
	release func()
	reached chan reached
}

type reached struct {
	xid string
	err error
}

// hold returns when the service will stop there.
func (s *stage) hold(ctx context.Context, service, point string) (*hold, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := shopv1.NewControlClient(s.conns[service]).Hold(ctx, &shopv1.HoldRequest{Point: point})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("hold %s at %s: %w", service, point, err)
	}
	h := &hold{release: cancel, reached: make(chan reached, 1)}
	s.background.Go(func() {
		r, err := stream.Recv()
		h.reached <- reached{r.GetXid(), err}
	})
	return h, nil
}

// await returns when a call stands there.
func (h *hold) await(ctx context.Context) error {
	select {
	case r := <-h.reached:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("nobody came to where it was to be held: %w", ctx.Err())
	}
}

// pending is an order that is under way.
type pending struct {
	*hold
	xid  string
	done chan struct{}
	resp *shopv1.PlaceResponse
	err  error
}

// begin places the order and returns when only its commit is missing; release lets
// it commit.
func (s *stage) begin(ctx context.Context, o *shopv1.PlaceRequest) (*pending, error) {
	h, err := s.hold(ctx, "orders", beforeCommit)
	if err != nil {
		return nil, err
	}
	p := &pending{hold: h, done: make(chan struct{})}
	s.background.Go(func() {
		defer close(p.done)
		p.resp, p.err = s.orders.Place(ctx, o)
	})
	select {
	case r := <-h.reached:
		p.xid = r.xid
		return p, r.err
	case <-p.done:
		h.release()
		return nil, fmt.Errorf("the order ended before it was held: %w: %s", p.err, p.resp.GetError())
	}
}

// answer is what the caller of the order is told.
func (p *pending) answer() (*shopv1.PlaceResponse, error) {
	<-p.done
	return p.resp, p.err
}

// refused places an order that nobody stops.
func (s *stage) refused(ctx context.Context, o *shopv1.PlaceRequest) (*shopv1.PlaceResponse, error) {
	resp, err := s.orders.Place(ctx, o)
	if err == nil && resp.GetError() != "" {
		s.event("%s", resp.GetError())
	}
	return resp, err
}

// again starts dead processes again.
func (s *stage) again(ctx context.Context, names ...string) error {
	for _, n := range s.nodes() {
		if !slices.Contains(names, n.name) {
			continue
		}
		if err := n.start(ctx); err != nil {
			return err
		}
		who := n.name
		if n == s.tc {
			who = "the coordinator"
		}
		s.event("%s is started again (pid %d)", who, n.pid())
	}
	return nil
}

// decided waits for the decision about what was submitted, which its caller does
// not learn.
func (s *stage) decided(ctx context.Context, resp *shopv1.PlaceResponse) (*shopv1.PlaceResponse, error) {
	if resp.GetOutcome() != submitted {
		return nil, fmt.Errorf("the order is %s, want it submitted: %s", resp.GetOutcome(), resp.GetError())
	}
	id, err := xid.Parse(resp.GetXid())
	if err != nil {
		return nil, err
	}
	s.told = "who asks the coordinator"
	switch err := s.tm.Wait(ctx, id); {
	case err == nil:
		return &shopv1.PlaceResponse{Xid: resp.GetXid(), Outcome: committed}, nil
	case errors.Is(err, tm.ErrRolledBack):
		s.event("%v", err)
		return &shopv1.PlaceResponse{Xid: resp.GetXid(), Outcome: rolledBack}, nil
	default:
		return nil, err
	}
}

// expect compares the rows with those that there should be in between.
func (s *stage) expect(ctx context.Context, when string, want ...string) error {
	got, err := s.rows(ctx)
	if err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: rows %q, want %q", when, got, want)
	}
	return nil
}
