package tc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/api"
	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/caller/refs"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

// maxMessage bounds one message of a client, in bytes.
const maxMessage = 4 << 20

// Server is a coordinator. It is safe for concurrent use.
type Server struct {
	cfg    Config
	log    *slog.Logger
	st     store.Store
	eng    *engine.Engine
	api    *api.API
	caller *caller.Caller // nil where Config has another
	grpc   *grpc.Server
	health *health.Server
	lis    net.Listener
	dtm    *dtm.Server // nil where DTM's clients are not served

	down     sync.Once
	downErr  error
	draining chan struct{} // closed when Shutdown begins
	stopped  chan struct{} // closed when Shutdown is done
}

// NewServer opens the store, reads back what is open in it and listens. It
// serves nothing before Serve. Whoever gets a server has to call Serve or
// Shutdown, or the store stays locked. Errors, for errors.Is: store.ErrLocked
// when another process has the store open, store.ErrCorrupt, store.ErrNotAStore,
// store.ErrFull.
func NewServer(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, log: cfg.Log, draining: make(chan struct{}), stopped: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		if s.lis != nil {
			err = errors.Join(err, s.lis.Close())
		}
		if s.dtm != nil {
			err = errors.Join(err, s.dtm.Shutdown(ctx))
		}
		if s.st != nil {
			err = errors.Join(err, s.st.Close())
		}
		return nil, err
	}
	if s.cfg.API.Expand == nil {
		s.cfg.API.Expand = refs.Expand
	}
	if s.cfg.API.Caller == nil {
		s.caller = caller.New(s.cfg.Calls, func(c core.Called) { s.eng.Post(c) })
		s.cfg.API.Caller = s.caller
	}
	s.api = api.New(s.eng, s.cfg.API)
	s.health = health.NewServer()
	s.grpc = s.newGRPC()
	s.api.Register(s.grpc)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	if !cfg.NoReflection {
		reflection.Register(s.grpc)
	}
	if s.dtm != nil {
		s.dtm.Use(s.eng, s.st, api.RecoverUnary(s.log))
	}
	return s, nil
}

// open gets hold of everything that can fail.
func (s *Server) open(ctx context.Context) error {
	began := time.Now()
	var err error
	if s.lis = s.cfg.Listener; s.lis == nil {
		if s.lis, err = new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("listen on %s: %w", s.cfg.Listen, err)
		}
	}
	if s.cfg.DTM != nil {
		conf := *s.cfg.DTM
		conf.Log = s.log
		if s.dtm, err = dtm.New(ctx, conf); err != nil {
			return err
		}
	}
	if s.st = s.cfg.Store; s.st == nil {
		st, err := pebblestore.Open(s.cfg.StoreDir, pebblestore.WithLogger(s.log))
		if err != nil {
			return fmt.Errorf("store %s: %w", s.cfg.StoreDir, err)
		}
		s.st = st
	}
	if s.eng, err = engine.New(ctx, s.st, s.cfg.Engine); err != nil {
		return fmt.Errorf("store %s: %w", s.cfg.StoreDir, err)
	}
	meta := s.st.Meta()
	s.log.Info("the store is open", "dir", s.cfg.StoreDir, "store", meta.Store.String(), "incarnation", meta.Incarnation,
		"open_transactions", s.eng.Open(), "took", time.Since(began).Round(time.Millisecond).String())
	if meta.QuarantineBelow != 0 {
		s.log.Error("the store is in quarantine until an operator adopts it",
			"below_incarnation", meta.QuarantineBelow, "reason", meta.QuarantineReason)
	}
	return nil
}

func (s *Server) newGRPC() *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(4 * maxMessage),
		grpc.MaxConcurrentStreams(10_000),
		grpc.ReadBufferSize(64 << 10),
		grpc.WriteBufferSize(64 << 10),
		// A peer that vanished without a word is noticed within 15 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(api.RecoverUnary(s.log)),
		grpc.ChainStreamInterceptor(s.leave, api.RecoverStream(s.log)),
	}
	if s.cfg.Credentials != nil {
		opts = append(opts, grpc.Creds(s.cfg.Credentials))
	}
	return grpc.NewServer(opts...)
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.lis.Addr() }

// DTMAddrs are where DTM's clients are served, over HTTP and gRPC; nil where they are not.
func (s *Server) DTMAddrs() (http, grpc net.Addr) {
	if s.dtm == nil {
		return nil, nil
	}
	return s.dtm.HTTPAddr(), s.dtm.GRPCAddr()
}

// Engine gives the engine, for tests and benchmarks in the same process.
func (s *Server) Engine() *engine.Engine { return s.eng }

// Serve serves until ctx ends, which shuts the server down in order, or until
// Shutdown is called, or until the store can't be written any more, which is
// the error it returns then.
func (s *Server) Serve(ctx context.Context) error {
	s.setHealth(healthpb.HealthCheckResponse_SERVING)
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	s.log.Info("serving", "address", s.lis.Addr().String())
	var err error
	select {
	case <-ctx.Done():
	case <-s.draining:
	case <-s.eng.Dead():
		s.log.Error("the coordinator stops: what is durable is safe, and a new process will go on from there",
			"error", s.eng.Err())
	case err = <-served:
		err = fmt.Errorf("serve: %w", err)
		served <- nil
	}
	// ctx is over, but the shutdown still has its own time.
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err = errors.Join(err, s.Shutdown(down))
	end := <-served
	if errors.Is(end, grpc.ErrServerStopped) {
		end = nil // ctx ended before the first connection was awaited
	}
	return errors.Join(err, end)
}

// serve serves every API until one of them ends, and then the others too.
func (s *Server) serve() error {
	if s.dtm == nil {
		return s.grpc.Serve(s.lis)
	}
	other := make(chan error, 1)
	go func() {
		err := s.dtm.Serve()
		if err != nil {
			s.grpc.Stop()
		}
		other <- err
	}()
	err := s.grpc.Serve(s.lis)
	select {
	case <-s.draining: // Shutdown ends the other one, too, and gives it the time that it has
		return errors.Join(err, <-other)
	default:
	}
	down, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	return errors.Join(err, s.dtm.Shutdown(down), <-other)
}

// Shutdown stops the server in order: readiness goes off, clients are asked to
// leave, what is in flight is finished, the log is forced. When ctx ends,
// whatever is still in flight is cut off; nothing that anybody was told is lost
// by that. Later calls wait for the first one and return the same.
func (s *Server) Shutdown(ctx context.Context) error {
	s.down.Do(func() {
		close(s.draining)
		defer close(s.stopped)
		s.downErr = s.shutdown(ctx)
	})
	<-s.stopped
	return s.downErr
}

func (s *Server) shutdown(ctx context.Context) error {
	s.setHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	s.log.Info("shutting down", "open_transactions", s.eng.Open())
	s.api.Drain(ctx)
	graceful := make(chan struct{})
	go func() {
		var others sync.WaitGroup
		if s.dtm != nil {
			others.Go(func() { _ = s.dtm.Shutdown(ctx) }) // what it could not finish is asked again
		}
		s.grpc.GracefulStop()
		others.Wait()
		close(graceful)
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		s.log.Warn("requests in flight are cut off: the drain timeout has passed")
	case <-s.deadFor(lastWords):
	}
	s.grpc.Stop()
	<-graceful
	_ = s.lis.Close() // closed already if it was served
	s.api.Close()
	var err error
	if s.caller != nil {
		// What is under way counts as not answered: whoever goes on with the store
		// calls it again. ctx may be over, and breaking off takes a moment.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		err = s.caller.Close(last)
		cancel()
	}
	err = errors.Join(err, s.eng.Close())
	return errors.Join(err, s.st.Close())
}

// lastWords is how long a server that has failed goes on telling so.
const lastWords = time.Second

// deadFor is closed when the engine has been dead for d. It may stay open.
func (s *Server) deadFor(d time.Duration) <-chan struct{} {
	ch := make(chan struct{})
	select {
	case <-s.eng.Dead():
		time.AfterFunc(d, func() { close(ch) })
	default:
	}
	return ch
}

// leave ends streams that are not ours, such as those that watch the health,
// when the server goes down: they would hold it up for as long as they like.
func (s *Server) leave(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, "/handfast.") {
		return handler(srv, stream)
	}
	done := make(chan error, 1)
	go func() { done <- handler(srv, stream) }() // ends when this handler does
	select {
	case err := <-done:
		return err
	case <-s.draining:
		return status.Error(codes.Unavailable, "the coordinator is shutting down")
	}
}

func (s *Server) setHealth(st healthpb.HealthCheckResponse_ServingStatus) {
	for _, name := range []string{"", pb.Coordinator_ServiceDesc.ServiceName, pb.Admin_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(name, st)
	}
}
