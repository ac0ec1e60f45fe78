package api

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
)

// Config of an API. The zero value is ready to use.
type Config struct {
	// Version is told by Status.
	Version string
	// DefaultTimeout of a transaction that names none; 0: 60 s.
	DefaultTimeout time.Duration
	// MaxSessions at a time; 0: 10,000.
	MaxSessions int
	// MaxInFlight bounds the requests of one session that have no answer yet;
	// 0: 16,384.
	MaxInFlight int
	// MaxResources bounds what one session is attached to; 0: 4,096.
	MaxResources int
	// MaxCommands bounds the commands that wait to be written to one session;
	// 0: 4,096. More are dropped: the engine sends them again.
	MaxCommands int
	// StuckAfter is how long a client may take no data before its session
	// ends; 0: 20 s.
	StuckAfter time.Duration
	// ExamineTimeout is how long a service may take to look at rows for an
	// operator; 0: 20 s.
	ExamineTimeout time.Duration
	// Caller makes calls to addresses; nil: they are refused, and wait for a
	// coordinator that has one.
	Caller Caller
	// Expand fills results into the payloads of calls to handlers; nil: they go
	// out as they are.
	Expand Expand
	// WatchBuffer is how many events may wait for one watcher; 0: 1,024.
	WatchBuffer int
	// Log; nil: slog.Default.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.DefaultTimeout == 0 {
		c.DefaultTimeout = time.Minute
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 10_000
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 16_384
	}
	if c.MaxResources == 0 {
		c.MaxResources = 4096
	}
	if c.MaxCommands == 0 {
		c.MaxCommands = 4096
	}
	if c.StuckAfter == 0 {
		c.StuckAfter = 20 * time.Second
	}
	if c.ExamineTimeout == 0 {
		c.ExamineTimeout = 20 * time.Second
	}
	if c.WatchBuffer == 0 {
		c.WatchBuffer = 1024
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// API serves Coordinator and Admin on one engine. It is safe for concurrent use.
type API struct {
	cfg   Config
	eng   *engine.Engine
	log   *slog.Logger
	hub   *hub
	watch *watchers
}

// New makes the services and starts the engine, which must not run yet.
func New(eng *engine.Engine, cfg Config) *API {
	cfg = cfg.withDefaults()
	a := &API{cfg: cfg, eng: eng, log: cfg.Log}
	a.hub = newHub(a)
	a.watch = newWatchers(eng, cfg.WatchBuffer)
	eng.Start(delivery{a})
	a.hub.start()
	return a
}

// Register puts both services on a gRPC server.
func (a *API) Register(s grpc.ServiceRegistrar) {
	pb.RegisterCoordinatorServer(s, &coordinator{API: a})
	pb.RegisterAdminServer(s, &admin{API: a})
}

// Drain asks every client to leave and waits until no session is left. Begin
// and new sessions are refused from now on. When ctx ends, the sessions that
// are left are ended.
func (a *API) Drain(ctx context.Context) {
	a.watch.close()
	a.hub.drain(ctx)
}

// Close ends what Drain has left and waits for the goroutines of all sessions.
// Call it after the gRPC server has stopped and before the engine is closed.
func (a *API) Close() {
	a.watch.close()
	a.hub.close()
}

// delivery carries what the engine says unasked.
type delivery struct{ a *API }

func (d delivery) Settle(c core.Settle)        { d.a.hub.settle(c) }
func (d delivery) AskVote(c core.AskVote)      { d.a.hub.askVote(c) }
func (d delivery) Changed(tx core.Transaction) { d.a.watch.changed(&tx) }

// call runs one request of a unary call.
func (a *API) call(ctx context.Context, build func(core.Ref) (core.Input, error)) (engine.Answer, error) {
	var wrong error
	r, err := a.eng.Ask(ctx, func(ref core.Ref) (in core.Input, err error) {
		in, wrong = build(ref)
		return in, wrong
	})
	switch {
	case wrong != nil:
		return r, wrong
	case err != nil:
		return r, engineError(err)
	case r.Err != nil:
		return r, coreError(r.Err)
	}
	return r, nil
}

func (a *API) registered(durable uint64) *pb.RegisterBranchResponse {
	meta := a.eng.Identity()
	return &pb.RegisterBranchResponse{Witness: &pb.Witness{
		StoreId: meta.StoreText, Incarnation: meta.Incarnation, Position: durable,
	}}
}

func committed(r *core.Reply) *pb.CommitResponse {
	return &pb.CommitResponse{
		Outcome: wireOutcome(r.Tx.Outcome), RollbackReason: wireReason(r.Tx.Reason), RollbackCause: wireCause(&r.Tx),
	}
}

func rolledBack(r *core.Reply) *pb.RollbackResponse {
	return &pb.RollbackResponse{
		Outcome: wireOutcome(r.Tx.Outcome), RollbackReason: wireReason(r.Tx.Reason), RollbackCause: wireCause(&r.Tx),
	}
}

// maxWaitsFor bounds the transactions of GetResponse.waits_for.
const maxWaitsFor = 100

func (a *API) got(r *core.Reply, waits bool) *pb.GetResponse {
	resp := &pb.GetResponse{Transaction: wireTransaction(&r.Tx)}
	if waits {
		for _, id := range a.eng.WaitsFor(r.Tx.XID, maxWaitsFor) {
			resp.WaitsFor = append(resp.WaitsFor, id.String())
		}
	}
	return resp
}

func waited(r *core.Reply) *pb.WaitForResponse {
	return &pb.WaitForResponse{Outcome: wireOutcome(r.Tx.Outcome), Settled: r.Settled, AheadXid: r.Ahead.String(), AheadCount: uint32(r.Count)}
}
