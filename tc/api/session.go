package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/xid"
)

// session is one Session stream.
type session struct {
	a      *API
	stream pb.Coordinator_SessionServer
	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	since  time.Time
	wake   chan struct{} // holds one: there may be something to write

	sending atomic.Int64 // since when a write is under way, in ns since 1970; 0: none

	// resources belongs to the hub's mutex.
	resources map[xid.ResourceID]*pb.AttachedResource

	mu       sync.Mutex
	name     string
	calls    map[uint64]*call // requests without an answer
	parked   int              // those of them that only wait: WaitFor
	out      []frame
	commands commands
	handling map[handled]struct{} // calls to it without an answer
	last     lastWord
}

// lastWord is why a session ends as soon as nothing is in flight.
type lastWord uint8

const (
	goesOn     lastWord = iota
	clientDone          // the client sends nothing more
	drained             // the coordinator goes away: waiting requests don't count
)

// frame is something to write and about how large it is.
type frame struct {
	f    *pb.ServerFrame
	size int
}

// smallFrame is the size that is assumed of frames of bounded size.
const smallFrame = 256

// call is one request without an answer.
type call struct {
	s    *session
	id   uint64
	xid  xid.ID
	kind callKind

	waits bool        // a Get that asks whom the transaction waits for
	quit  atomic.Bool // nobody waits for the answer
}

var _ engine.Quitter = (*call)(nil)

// Quit implements engine.Quitter.
func (c *call) Quit() bool { return c.quit.Load() }

// cancel takes the request back.
func (c *call) cancel() {
	c.quit.Store(true)
	c.s.a.eng.Post(core.Cancel{Ref: c, XID: c.xid})
}

type callKind uint8

const (
	callBegin callKind = iota
	callRegister
	callSubmit
	callVote
	callCommit
	callRollback
	callGet
	callWaitFor
)

// Session implements the service.
func (c *coordinator) Session(stream pb.Coordinator_SessionServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &session{
		a: c.API, stream: stream, ctx: ctx, cancel: cancel, since: time.Now(),
		wake:      make(chan struct{}, 1),
		resources: make(map[xid.ResourceID]*pb.AttachedResource),
		calls:     make(map[uint64]*call),
		handling:  make(map[handled]struct{}),
	}
	if err := c.hub.add(s); err != nil {
		return err
	}
	// Neither may be the handler's own goroutine: a handler that returns is
	// the only way to end a Recv or a Send that the client holds up.
	c.hub.work.Go(func() { s.guard(s.read) })
	c.hub.work.Go(func() { s.guard(s.write) })
	select {
	case <-ctx.Done():
	case <-c.eng.Dead():
		s.end(engineError(c.eng.Err()))
	}
	c.hub.remove(s)
	s.abandon()
	err := context.Cause(ctx)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.FromContextError(err).Err()
}

// end ends the session; nil and io.EOF end it well. The first call counts.
func (s *session) end(err error) {
	if err == nil {
		err = io.EOF
	}
	s.cancel(err)
}

// guard ends the session, and only the session, when f panics.
func (s *session) guard(f func() error) {
	defer func() {
		if p := recover(); p != nil {
			s.a.log.Error("a session panicked", "panic", p, "stack", string(debug.Stack()))
			s.end(status.Error(codes.Internal, "internal error"))
		}
	}()
	if err := f(); err != nil {
		s.end(err)
	}
}

// abandon takes back what nobody waits for any more.
func (s *session) abandon() {
	s.mu.Lock()
	calls := s.calls
	s.calls, s.out = nil, nil
	s.commands.clear()
	s.mu.Unlock()
	for _, c := range calls {
		if c.kind == callCommit || c.kind == callRollback || c.kind == callWaitFor {
			c.cancel()
		}
	}
}

// read handles what the client sends.
func (s *session) read() error {
	greeted := false
	for {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			s.finishing(clientDone)
			return nil
		}
		if err != nil {
			return err
		}
		if n := len(m.GetFrames()); n > maxFrames {
			return invalid("frames", "%d frames in one message, at most %d", n, maxFrames)
		}
		for _, f := range m.GetFrames() {
			if !greeted {
				h := f.GetHello()
				if h == nil {
					return invalid("hello", "the first frame of a session must be Hello, got %T", f.GetKind())
				}
				if err := s.hello(f.GetId(), h); err != nil {
					return err
				}
				greeted = true
				continue
			}
			if err := s.handle(f); err != nil {
				return err
			}
		}
	}
}

func (s *session) hello(id uint64, h *pb.Hello) error {
	if err := checkName("hello.client_name", h.GetClientName()); err != nil {
		return err
	}
	if h.GetWitness() != nil {
		w, err := parseWitness("hello.witness", h.GetWitness())
		if err != nil {
			return err
		}
		// The session itself goes on: only what the store has lost is refused.
		_ = s.a.eng.CheckWitness(w)
	}
	s.mu.Lock()
	s.name = h.GetClientName()
	s.mu.Unlock()
	meta := s.a.eng.Identity()
	s.send(&pb.ServerFrame{Id: id, Kind: &pb.ServerFrame_Hello{Hello: &pb.HelloResponse{
		StoreId: meta.StoreText, Incarnation: meta.Incarnation,
	}}})
	return nil
}

// handle does what one frame says. An error ends the session: it is for frames
// to which no answer can be given.
func (s *session) handle(f *pb.ClientFrame) error {
	switch k := f.GetKind().(type) {
	case *pb.ClientFrame_SettleResult:
		return s.settled(k.SettleResult)
	case *pb.ClientFrame_AskVotesResult:
		return s.answered(k.AskVotesResult)
	case *pb.ClientFrame_CallResult:
		return s.calledBack(k.CallResult)
	case *pb.ClientFrame_ExamineResult:
		s.a.hub.examiners.answered(k.ExamineResult)
		return nil
	case *pb.ClientFrame_Hello:
		return invalid("hello", "Hello was sent before")
	case *pb.ClientFrame_Detach:
		return s.detach(f.GetId(), k.Detach)
	case *pb.ClientFrame_CancelWait:
		s.cancelWait(k.CancelWait.GetWaitId())
		return nil
	}
	if f.GetId() == 0 {
		return invalid("id", "is 0 in a frame that needs an answer (%T)", f.GetKind())
	}
	c := &call{s: s, id: f.GetId()}
	in, err := c.input(f)
	switch {
	case err != nil:
		s.send(frameError(f.GetId(), err))
		return nil
	case in == nil:
		return nil // answered already
	}
	if err := s.open(c); err != nil {
		s.send(frameError(f.GetId(), err))
		return nil
	}
	if err := s.a.eng.Submit(in); err != nil {
		c.finish(frameError(c.id, engineError(err)), smallFrame)
	}
	return nil
}

// input makes the engine's input of a request.
func (c *call) input(f *pb.ClientFrame) (in core.Input, err error) {
	a := c.s.a
	switch k := f.GetKind().(type) {
	case *pb.ClientFrame_Begin:
		c.kind = callBegin
		return a.begin(c, k.Begin)
	case *pb.ClientFrame_RegisterBranch:
		c.kind = callRegister
		return register(c, k.RegisterBranch)
	case *pb.ClientFrame_Submit:
		c.kind = callSubmit
		return a.submit(c, k.Submit)
	case *pb.ClientFrame_Vote:
		c.kind = callVote
		return vote(c, k.Vote)
	case *pb.ClientFrame_Commit:
		c.kind = callCommit
		in, err = commit(c, k.Commit)
		if err == nil {
			c.xid = in.(core.Commit).XID
		}
		return in, err
	case *pb.ClientFrame_Rollback:
		c.kind = callRollback
		in, err = rollback(c, k.Rollback)
		if err == nil {
			c.xid = in.(core.Rollback).XID
		}
		return in, err
	case *pb.ClientFrame_Get:
		c.kind, c.waits = callGet, k.Get.GetWaits()
		return get(c, k.Get)
	case *pb.ClientFrame_WaitFor:
		c.kind = callWaitFor
		in, err = a.waitFor(c, k.WaitFor)
		if err == nil {
			c.xid = in.(core.Wait).XID
		}
		return in, err
	case *pb.ClientFrame_Attach:
		if err := a.hub.attach(c.s, k.Attach); err != nil {
			return nil, err
		}
		c.s.send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Attach{Attach: &pb.AttachResponse{}}})
		return nil, nil //nolint:nilnil // answered: there is nothing to submit
	default:
		return nil, badField(codes.Unimplemented, "kind", fmt.Sprintf("this coordinator does not know the frame (%T)", k))
	}
}

// open puts a request into the table of those without an answer.
func (s *session) open(c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.calls == nil:
		return draining()
	case len(s.calls) >= s.a.cfg.MaxInFlight:
		return limit(s.a.cfg.MaxInFlight, "this session has %d requests in flight", len(s.calls))
	case s.calls[c.id] != nil:
		return invalid("id", "%d is the id of another request in flight", c.id)
	}
	s.calls[c.id] = c
	if c.kind == callWaitFor {
		s.parked++
	}
	return nil
}

// Reply implements engine.Waiter.
func (c *call) Reply(r core.Reply, durable uint64) {
	f := &pb.ServerFrame{Id: c.id}
	size := smallFrame
	switch {
	case r.Err != nil:
		f = frameError(c.id, coreError(r.Err))
		size += 2 * len(r.Err.Message)
	case c.kind == callBegin:
		f.Kind = &pb.ServerFrame_Begin{Begin: &pb.BeginResponse{Xid: r.Tx.XID.String()}}
	case c.kind == callRegister:
		f.Kind = &pb.ServerFrame_RegisterBranch{RegisterBranch: c.s.a.registered(durable)}
	case c.kind == callSubmit:
		f.Kind = &pb.ServerFrame_Submit{Submit: &pb.SubmitResponse{Outcome: wireOutcome(r.Tx.Outcome)}}
	case c.kind == callVote:
		f.Kind = &pb.ServerFrame_Vote{Vote: &pb.VoteResponse{Outcome: wireOutcome(r.Tx.Outcome)}}
	case c.kind == callCommit:
		f.Kind = &pb.ServerFrame_Commit{Commit: committed(&r)}
		size += len(r.Tx.Cause)
	case c.kind == callRollback:
		f.Kind = &pb.ServerFrame_Rollback{Rollback: rolledBack(&r)}
	case c.kind == callGet:
		f.Kind = &pb.ServerFrame_Get{Get: c.s.a.got(&r, c.waits)}
		size = messageSize(f)
	case c.kind == callWaitFor:
		f.Kind = &pb.ServerFrame_WaitFor{WaitFor: waited(&r)}
	}
	c.finish(f, size)
}

// finish answers the request, unless the session is over.
func (c *call) finish(f *pb.ServerFrame, size int) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls[c.id] != c {
		return
	}
	delete(s.calls, c.id)
	if c.kind == callWaitFor {
		s.parked--
	}
	s.queue(f, size)
}

// cancelWait forgets a wait. One that is answered already is none.
func (s *session) cancelWait(id uint64) {
	s.mu.Lock()
	c := s.calls[id]
	if c == nil || c.kind != callWaitFor {
		s.mu.Unlock()
		return
	}
	delete(s.calls, id)
	s.parked--
	s.mu.Unlock()
	s.poke() // it may have been the last that a farewell waited for
	c.cancel()
}

// settled hands an RM's results to the engine. It waits for room there, so a
// client that sends more than the engine can take holds up itself alone.
func (s *session) settled(r *pb.SettleResult) error {
	resource, err := parseResource("settle_result.resource_id", r.GetResourceId())
	if err != nil {
		return err
	}
	for _, i := range r.GetItems() {
		id, err := parseXID("settle_result.items.xid", i.GetXid())
		if err != nil {
			return err
		}
		o := i.GetOutcome()
		if o != pb.Outcome_OUTCOME_COMMITTED && o != pb.Outcome_OUTCOME_ROLLED_BACK {
			return invalid("settle_result.items.outcome", "%s, want OUTCOME_COMMITTED or OUTCOME_ROLLED_BACK", o)
		}
		err = s.a.eng.SubmitWait(s.ctx, core.Settled{
			XID: id, Resource: resource, Outcome: core.Outcome(o - 1), Done: i.GetDone(),
			Error: cut(i.GetError()), NeedsAttention: i.GetNeedsAttention(),
		})
		if err != nil {
			return engineError(err)
		}
	}
	return nil
}

func (s *session) answered(r *pb.AskVotesResult) error {
	if _, err := parseResource("ask_votes_result.resource_id", r.GetResourceId()); err != nil {
		return err
	}
	for _, i := range r.GetItems() {
		id, err := parseXID("ask_votes_result.items.xid", i.GetXid())
		if err != nil {
			return err
		}
		branch, err := parseBranch("ask_votes_result.items.branch_id", i.GetBranchId())
		if err != nil {
			return err
		}
		v := i.GetVote()
		if v != pb.Vote_VOTE_YES && v != pb.Vote_VOTE_NO && v != pb.Vote_VOTE_OPEN {
			return invalid("ask_votes_result.items.vote", "%s, want VOTE_YES, VOTE_NO or VOTE_OPEN", v)
		}
		err = s.a.eng.SubmitWait(s.ctx, core.Answered{XID: id, Branch: branch, Vote: core.Vote(v), Reason: cut(i.GetReason())})
		if err != nil {
			return engineError(err)
		}
	}
	return nil
}

// detach withdraws resources. It has no answer of its own, but where the
// client asks for one it gets the errors.
func (s *session) detach(id uint64, d *pb.Detach) error {
	err := s.a.hub.detach(s, d)
	if err != nil && id != 0 {
		s.send(frameError(id, err))
		return nil
	}
	return err
}
