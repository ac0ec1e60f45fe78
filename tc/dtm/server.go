package dtm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/handfast/handfast/proto/dtmgimp"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
)

// Where DTM's clients look for it, on this machine alone: they can't authenticate.
const (
	DefaultHTTP = "127.0.0.1:36789"
	DefaultGRPC = "127.0.0.1:36790"
)

// streamWorkers is how many goroutines wait for requests over gRPC, with stacks that have
// grown. When all are busy a request gets one of its own.
const streamWorkers = 32

// ErrListen is wrapped by the error of a New that can't listen.
var ErrListen = errors.New("can't listen for DTM's clients")

// Config of a Server. The zero value is ready to use.
type Config struct {
	HTTP string // host:port of HTTP and JSON-RPC; empty: DefaultHTTP
	GRPC string // host:port of gRPC; empty: DefaultGRPC
	// Listener is used instead of HTTP, if set. The server closes it.
	Listener net.Listener
	// Version is told beside DTM's.
	Version string
	// Log; nil: slog.Default.
	Log *slog.Logger
}

// Server serves DTM's API on an engine. It is safe for concurrent use.
type Server struct {
	cfg    Config
	svc    *service
	counts counts
	http   *http.Server
	grpc   *grpc.Server
	lis    [2]net.Listener // HTTP, gRPC
}

// New listens. Nothing is served before Serve. Whoever gets a server has to call
// Shutdown. Its errors wrap ErrListen.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.HTTP == "" {
		cfg.HTTP = DefaultHTTP
	}
	if cfg.GRPC == "" {
		cfg.GRPC = DefaultGRPC
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{cfg: cfg}
	s.lis[0] = cfg.Listener
	for i, addr := range []string{cfg.HTTP, cfg.GRPC} {
		if s.lis[i] != nil {
			continue
		}
		lis, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrListen, err), s.closeListeners())
		}
		s.lis[i] = lis
	}
	return s, nil
}

func (s *Server) closeListeners() error {
	var errs []error
	for _, l := range s.lis {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// HTTPAddr is where the server listens for HTTP and JSON-RPC.
func (s *Server) HTTPAddr() net.Addr { return s.lis[0].Addr() }

// GRPCAddr is where the server listens for gRPC.
func (s *Server) GRPCAddr() net.Addr { return s.lis[1].Addr() }

// Use says what to serve. It is called once, before Serve. interceptors come first, such
// as one that keeps a panic to its request.
func (s *Server) Use(eng *engine.Engine, st store.Store, interceptors ...grpc.UnaryServerInterceptor) {
	s.svc = newService(eng, st)
	s.http = &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(s.routes()), // loopback keeps no page in a browser out
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxBody),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(append(interceptors, s.count)...),
	)
	dtmgimp.RegisterDtmServer(s.grpc, &rpc{svc: s.svc})
	reflection.Register(s.grpc)
}

// Serve serves until Shutdown is called, or something fails.
func (s *Server) Serve() error {
	s.cfg.Log.Info("serving DTM's clients", "http", s.HTTPAddr().String(), "grpc", s.GRPCAddr().String())
	for _, l := range s.lis {
		if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			s.cfg.Log.Warn("DTM's clients can't authenticate: whoever reaches this address can have any URL called",
				"address", l.Addr().String())
		}
	}
	ended := make(chan error, 2)
	go func() { ended <- s.http.Serve(s.lis[0]) }()
	go func() { ended <- s.grpc.Serve(s.lis[1]) }()
	err := <-ended
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	if err != nil {
		_ = s.http.Close() // the other one is of no use alone
		s.grpc.Stop()
	}
	second := <-ended
	if errors.Is(second, http.ErrServerClosed) || errors.Is(second, grpc.ErrServerStopped) {
		second = nil
	}
	return errors.Join(err, second)
}

// Shutdown takes no new requests and waits for those that are under way; when ctx ends
// they are cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	if s.http == nil {
		return s.closeListeners()
	}
	graceful := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(graceful)
	}()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = s.http.Close()
	}
	select {
	case <-graceful:
	case <-ctx.Done():
		s.grpc.Stop()
		<-graceful
	}
	_ = s.closeListeners() // closed already where they were served
	return err
}
