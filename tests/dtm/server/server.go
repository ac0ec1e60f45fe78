package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmgrpc/dtmgpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handfast/handfast/internal/child"
)

// patience is how long a server may take to start or to stop.
const patience = 30 * time.Second

// Server is a coordinator in a process of its own. Its methods end the test where
// they fail, so they are for the goroutine of the test.
type Server struct {
	HTTP    string // for dtmcli: http://127.0.0.1:PORT/api/dtmsvr
	JSONRPC string // for dtmcli with Protocol "json-rpc"
	GRPC    string // for dtmgrpc: 127.0.0.1:PORT
	Native  string // Handfast's own API: 127.0.0.1:PORT
	Dir     string // of the store

	tb   testing.TB
	opts options
	*running
}

// running is what servers of several tests share.
type running struct {
	log     *os.File
	mu      sync.Mutex
	process *child.Process // nil: not running
}

type options struct {
	dir  string
	args []string
	env  []string
}

// Option changes how a server is started.
type Option func(*options)

// Args adds flags to "handfast server".
func Args(args ...string) Option {
	return func(o *options) { o.args = append(o.args, args...) }
}

// Env adds variables, as NAME=value, to the environment of the server.
func Env(vars ...string) Option {
	return func(o *options) { o.env = append(o.env, vars...) }
}

// StoreDir says where the store is; else it is in a directory of the test's.
func StoreDir(dir string) Option {
	return func(o *options) { o.dir = dir }
}

// Start starts a server and waits until it answers. It ends with the test.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s := describe(tb, tb.TempDir(), opts...)
	tb.Cleanup(func() {
		s.Kill()
		s.explain(0)
		_ = s.log.Close()
	})
	s.start()
	return s
}

var shared struct {
	mu     sync.Mutex
	server *Server
}

// Shared gives the server that tests of this process use together, started now if
// need be. Run ends it. It is not to be stopped by a test.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		binary(tb) // makes the directory of this process
		s := describe(tb, filepath.Join(built.dir, "shared"))
		s.start()
		shared.server = s
	}
	s := *shared.server
	s.tb = tb
	from, err := s.log.Seek(0, io.SeekEnd)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.explain(from) })
	return &s
}

// describe makes a server that does not run yet, with its files in dir.
func describe(tb testing.TB, dir string, opts ...Option) *Server {
	tb.Helper()
	s := &Server{tb: tb, running: &running{}}
	for _, o := range opts {
		o(&s.opts)
	}
	if s.Dir = s.opts.dir; s.Dir == "" {
		s.Dir = filepath.Join(dir, "store")
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	h, g, n := Address(tb), Address(tb), Address(tb)
	s.HTTP, s.JSONRPC, s.GRPC, s.Native = "http://"+h+"/api/dtmsvr", "http://"+h+"/api/json-rpc", g, n
	var err error
	if s.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		tb.Fatal(err)
	}
	return s
}

func (s *Server) start() {
	s.tb.Helper()
	bin := binary(s.tb)
	cmd := exec.Command(bin, "server", "--store-dir", s.Dir, "--listen", s.Native, //nolint:noctx // its life is not that of a context
		"--dtm", "--dtm-http", host(s.HTTP), "--dtm-grpc", s.GRPC)
	cmd.Args = append(cmd.Args, s.opts.args...)
	cmd.Env = os.Environ()
	if Reference() {
		cmd.Args = cmd.Args[:1]
		cmd.Dir = s.Dir // it makes its store where it runs
		cmd.Env = append(cmd.Env, "STORE_DRIVER=boltdb", "HTTP_PORT="+port(s.HTTP), "GRPC_PORT="+port(s.GRPC),
			"TRANS_CRON_INTERVAL=1", "CONFIG_UPDATE_INTERVAL=1",
			"UPDATE_BRANCH_SYNC=1") // or it forgets the steps of workflows
	}
	cmd.Env = append(cmd.Env, s.opts.env...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	p, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		s.tb.Fatalf("start the server: %v", err)
	}
	s.set(p)
	if err := s.answers(p); err != nil {
		s.Kill()
		s.tb.Fatalf("the server does not answer: %v\n%s", err, s.Log())
	}
}

// answers waits until both of the server's listeners do.
func (s *Server) answers(p *child.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cc, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer cc.Close() //nolint:errcheck // nothing is left to do
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := errors.Join(s.overHTTP(ctx), overGRPC(ctx, cc))
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("it ended: %w", p.Err())
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (s *Server) overHTTP(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.HTTP+"/newGid", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	text, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(text, []byte("gid"))) {
		err = fmt.Errorf("newGid: %s: %s", resp.Status, text)
	}
	return err
}

func overGRPC(ctx context.Context, cc *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	a, err := dtmgpb.NewDtmClient(cc).NewGid(ctx, &emptypb.Empty{}, grpc.WaitForReady(true))
	if err == nil && a.GetGid() == "" {
		err = errors.New("NewGid: no gid")
	}
	return err
}

func (s *Server) set(p *child.Process) (before *child.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.process = s.process, p
	return before
}

// PID is the id of the server's process, 0 where it does not run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.PID()
}

// Kill ends the server with SIGKILL and waits for that.
func (s *Server) Kill() {
	if p := s.set(nil); p != nil {
		p.Kill()
	}
}

// Stop ends the server as Ctrl-C does and waits for that.
func (s *Server) Stop() {
	s.tb.Helper()
	p := s.set(nil)
	if p == nil {
		return
	}
	p.Interrupt()
	select {
	case <-p.Done():
		if err := p.Err(); err != nil {
			s.tb.Fatalf("the server ended with %v\n%s", err, s.Log())
		}
	case <-time.After(patience):
		p.Kill()
		s.tb.Fatalf("the server did not stop\n%s", s.Log())
	}
}

// Restart starts the server again with the same store, ports and flags, and waits
// until it answers. It kills the server first where that runs.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	s.start()
}

// Log is what the server has logged last.
func (s *Server) Log() string { return s.logged(0) }

// logged is the last part of what the server has logged after an offset.
func (s *Server) logged(from int64) string {
	const most = 32 << 10
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, int(from), len(text)-most):])
}

// explain adds the server's log to that of a test that failed.
func (s *Server) explain(from int64) {
	if s.tb.Failed() {
		s.tb.Logf("log of the server:\n%s", s.logged(from))
	}
}

// Ports are handed out in blocks: those of one are for one process, or else two packages
// whose tests run side by side could meet at a port while its server is restarted. Who
// listens at the first port of a block has it.
const (
	firstPort = 18000
	blocks    = 14
	blockSize = 1000
)

var ports struct {
	mu    sync.Mutex
	block net.Listener // nil: this process has none yet
	next  int
}

// claim takes a block that is free.
func claim() error {
	for _, i := range rand.Perm(blocks) { //nolint:gosec // this is no secret
		n := firstPort + i*blockSize
		lis, err := new(net.ListenConfig).Listen(context.Background(), "tcp", loopback(n))
		if err == nil {
			ports.block, ports.next = lis, n+1
			return nil
		}
	}
	return errors.New("no block of ports is free")
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Address gives one of loopback that is free. Its port is below those that the
// kernel hands out, so nobody gets it by chance while who has it is restarted.
func Address(tb testing.TB) string {
	tb.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.block == nil {
		if err := claim(); err != nil {
			tb.Fatal(err)
		}
	}
	for ports.next%blockSize != 0 {
		a := loopback(ports.next)
		ports.next++
		if lis, err := new(net.ListenConfig).Listen(context.Background(), "tcp", a); err == nil {
			_ = lis.Close()
			return a
		}
	}
	tb.Fatal("no port is free")
	return ""
}
