package demo

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
)

// holdEnv names a point at which a service stops from its start on. Nobody could
// say so in time over the network.
const holdEnv = "HANDFAST_DEMO_HOLD"

// beforeCommit is where orders has done everything but its commit. The points of
// stock and accounts are the names of their actions: right after the effect is
// committed, before anybody hears of it.
const beforeCommit = "before-commit"

// gate stops calls at points that the demo names.
type gate struct {
	shopv1.UnimplementedControlServer
	mu     sync.Mutex
	points map[string]*point
}

type point struct {
	taken    bool // by the one call that is held
	reached  chan string
	released chan struct{}
}

// newGate holds at one point from the beginning, unless its name is empty.
func newGate(first string) *gate {
	g := &gate{points: map[string]*point{}}
	if first != "" {
		g.arm(first)
	}
	return g
}

func (g *gate) arm(name string) *point {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.points[name] == nil {
		g.points[name] = &point{reached: make(chan string, 1), released: make(chan struct{})}
	}
	return g.points[name]
}

// at waits where the demo wants this point held, and else does nothing.
func (g *gate) at(ctx context.Context, name, id string) error {
	g.mu.Lock()
	p := g.points[name]
	if p == nil || p.taken {
		g.mu.Unlock()
		return nil
	}
	p.taken = true
	g.mu.Unlock()
	p.reached <- id
	select {
	case <-p.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hold implements shopv1.ControlServer.
func (g *gate) Hold(r *shopv1.HoldRequest, stream grpc.ServerStreamingServer[shopv1.HoldResponse]) error {
	p := g.arm(r.GetPoint())
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.points[r.GetPoint()] == p {
			delete(g.points, r.GetPoint())
			close(p.released)
		}
	}()
	if err := stream.Send(&shopv1.HoldResponse{}); err != nil {
		return err
	}
	ctx := stream.Context()
	select {
	case id := <-p.reached:
		if err := stream.Send(&shopv1.HoldResponse{Xid: id}); err != nil {
			return err
		}
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	<-ctx.Done()
	return nil
}
