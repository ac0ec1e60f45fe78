package faketc

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// Store is the store that a Server claims to serve.
var Store = xid.StoreID{0xfa, 0xce}

// Server is a coordinator on loopback.
type Server struct {
	pb.UnimplementedCoordinatorServer
	tb       testing.TB
	addr     string
	counter  atomic.Uint64
	messages atomic.Uint64
	frames   atomic.Uint64
	sessions chan *Session

	mu      sync.Mutex
	on      func(*Session, *pb.ClientFrame) bool
	answers map[string]chan *pb.CallResult // by xid, branch and op
	grpc    *grpc.Server
	done    chan struct{}
}

// Start starts a server that stops with the test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := New(tb)
	lis, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.Serve(lis)
	tb.Cleanup(s.Stop)
	return s
}

// New makes a server that does not listen yet.
func New(tb testing.TB) *Server {
	tb.Helper()
	return &Server{tb: tb, sessions: make(chan *Session, 1024)}
}

// Serve listens in the background until Stop.
func (s *Server) Serve(lis net.Listener) {
	srv, done := grpc.NewServer(), make(chan struct{})
	pb.RegisterCoordinatorServer(srv, s)
	s.mu.Lock()
	s.addr, s.grpc, s.done = lis.Addr().String(), srv, done
	s.mu.Unlock()
	go func() {
		defer close(done)
		if err := srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.tb.Error(err)
		}
	}()
}

// Stop breaks every connection and stops listening, like a crash.
func (s *Server) Stop() {
	s.mu.Lock()
	srv, done := s.grpc, s.done
	s.grpc = nil
	s.mu.Unlock()
	if srv == nil {
		return
	}
	srv.Stop()
	<-done
}

// Restart listens again where it listened before.
func (s *Server) Restart() {
	s.tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		lis, err := new(net.ListenConfig).Listen(s.tb.Context(), "tcp", s.Addr())
		if err == nil {
			s.Serve(lis)
			return
		}
		if time.Now().After(deadline) {
			s.tb.Fatal(err)
		}
		time.Sleep(time.Millisecond) // the system may hold the port a little
	}
}

// Addr is host:port.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// On sets what is done with a frame; false leaves it to the default. It is
// called in the order in which frames arrive on a session.
func (s *Server) On(f func(*Session, *pb.ClientFrame) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = f
}

// NextSession waits for a session that no call has given yet.
func (s *Server) NextSession() *Session {
	s.tb.Helper()
	select {
	case n := <-s.sessions:
		return n
	case <-time.After(patience):
		s.tb.Fatal("no session was opened")
		return nil
	}
}

// Call sends a call to a client and waits for its answer.
func (s *Server) Call(n *Session, call *pb.Call) *pb.CallResult {
	s.tb.Helper()
	answer := s.Expect(call)
	n.Send(&pb.ServerFrame{Kind: &pb.ServerFrame_Call{Call: call}})
	select {
	case r := <-answer:
		return r
	case <-time.After(patience):
		s.tb.Fatalf("the call of %s was not answered", call.GetHandler())
		return nil
	}
}

// Expect gives the answers to a call that the test sends itself.
func (s *Server) Expect(call *pb.Call) <-chan *pb.CallResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		s.answers = make(map[string]chan *pb.CallResult)
	}
	answer := make(chan *pb.CallResult, 64)
	s.answers[key(call)] = answer
	return answer
}

func key(c interface {
	GetXid() string
	GetBranchId() string
	GetOp() pb.Op
}) string {
	return c.GetXid() + "/" + c.GetBranchId() + "/" + c.GetOp().String()
}

// Counts tells how many messages arrived, and how many frames in them.
func (s *Server) Counts() (messages, frames uint64) { return s.messages.Load(), s.frames.Load() }

// NewXID gives an XID as this server's store would issue it.
func (s *Server) NewXID() xid.ID {
	return xid.New(xid.Parts{
		Begin: time.UnixMilli(1_800_000_000_000), Incarnation: 1, Store: Store, Counter: s.counter.Add(1),
	})
}

// Session is one stream of a client.
type Session struct {
	Hello *pb.Hello // set once NextSession has given it

	stream pb.Coordinator_SessionServer
	broken chan error
	gone   chan struct{}
	mu     sync.Mutex
}

// Send sends frames in one message. A stream that is over is no error: that is
// what lost messages are.
func (n *Session) Send(frames ...*pb.ServerFrame) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.stream.Send(&pb.ServerMessage{Frames: frames})
}

// Break ends the stream with err; nil ends it well.
func (n *Session) Break(err error) {
	select {
	case n.broken <- err:
	default: // it is broken already
	}
}

// Gone is closed when the client has ended the stream or it was broken.
func (n *Session) Gone() <-chan struct{} { return n.gone }

// Session implements the service.
func (s *Server) Session(stream pb.Coordinator_SessionServer) error {
	n := &Session{stream: stream, broken: make(chan error, 1), gone: make(chan struct{})}
	defer close(n.gone)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				n.Break(err)
				return
			}
			s.messages.Add(1)
			s.frames.Add(uint64(len(m.GetFrames())))
			for _, f := range m.GetFrames() {
				s.handle(n, f)
			}
		}
	}()
	return <-n.broken
}

func (s *Server) handle(n *Session, f *pb.ClientFrame) {
	if h := f.GetHello(); h != nil {
		n.Hello = h
		defer func() { s.sessions <- n }()
	}
	s.mu.Lock()
	on := s.on
	if r := f.GetCallResult(); r != nil && s.answers[key(r)] != nil {
		s.answers[key(r)] <- r
	}
	s.mu.Unlock()
	if on != nil && on(n, f) {
		return
	}
	if a := s.Answer(f); a != nil {
		n.Send(a)
	}
}

// Answer is what the server answers by default; nil where nothing is due.
func (s *Server) Answer(f *pb.ClientFrame) *pb.ServerFrame {
	a := &pb.ServerFrame{Id: f.GetId()}
	switch k := f.GetKind().(type) {
	case *pb.ClientFrame_Hello:
		a.Kind = &pb.ServerFrame_Hello{Hello: &pb.HelloResponse{StoreId: Store.String(), Incarnation: 1}}
	case *pb.ClientFrame_Begin:
		a.Kind = &pb.ServerFrame_Begin{Begin: &pb.BeginResponse{Xid: s.NewXID().String()}}
	case *pb.ClientFrame_RegisterBranch:
		a.Kind = &pb.ServerFrame_RegisterBranch{RegisterBranch: &pb.RegisterBranchResponse{Witness: &pb.Witness{
			StoreId: Store.String(), Incarnation: 1, Position: s.counter.Add(1),
		}}}
	case *pb.ClientFrame_Submit:
		a.Kind = &pb.ServerFrame_Submit{Submit: &pb.SubmitResponse{Outcome: pb.Outcome_OUTCOME_UNDECIDED}}
	case *pb.ClientFrame_Vote:
		a.Kind = &pb.ServerFrame_Vote{Vote: &pb.VoteResponse{Outcome: pb.Outcome_OUTCOME_UNDECIDED}}
	case *pb.ClientFrame_Commit:
		a.Kind = &pb.ServerFrame_Commit{Commit: &pb.CommitResponse{Outcome: pb.Outcome_OUTCOME_COMMITTED}}
	case *pb.ClientFrame_Rollback:
		a.Kind = &pb.ServerFrame_Rollback{Rollback: &pb.RollbackResponse{
			Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, RollbackReason: pb.RollbackReason_ROLLBACK_REASON_REQUESTED,
		}}
	case *pb.ClientFrame_Get:
		a.Kind = &pb.ServerFrame_Get{Get: &pb.GetResponse{Transaction: &pb.Transaction{Xid: k.Get.GetXid()}}}
	case *pb.ClientFrame_WaitFor:
		a.Kind = &pb.ServerFrame_WaitFor{WaitFor: &pb.WaitForResponse{Outcome: pb.Outcome_OUTCOME_COMMITTED, Settled: true}}
	case *pb.ClientFrame_Attach:
		a.Kind = &pb.ServerFrame_Attach{Attach: &pb.AttachResponse{}}
	default:
		return nil
	}
	return a
}
