package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

var (
	errDrained = errors.New("the coordinator asked to connect again")
	errBroken  = errors.New("the session ended")
)

// session is one Session stream after its Hello. unanswered and draining
// belong to Client.mu.
type session struct {
	epoch       uint64
	stream      grpc.ClientStream
	ctx         context.Context
	end         context.CancelCauseFunc
	store       xid.StoreID
	incarnation uint32
	began       time.Time

	unanswered int  // calls written to it and still in the table
	draining   bool // nothing new is written
}

// checkDrained ends a draining session once nothing is in flight. The caller
// holds Client.mu.
func (s *session) checkDrained() {
	if s.draining && s.unanswered == 0 {
		s.end(errDrained)
	}
}

// run keeps a session open until the client is closed.
func (c *Client) run() {
	pause := backoffTimer{first: c.backoffFirst, max: c.backoffMax}
	var store xid.StoreID
	lost := false // it was said that there is no session
	for c.ctx.Err() == nil {
		s, err := c.open()
		if err == nil {
			if (store != xid.StoreID{}) && store != s.store {
				c.log.Warn("the coordinator serves another store than before", "target", c.target,
					"store", s.store.String(), "before", store.String())
			}
			store = s.store
			c.log.Log(c.ctx, levelOf(lost), "session with the coordinator is open", "target", c.target,
				"store", s.store.String(), "incarnation", s.incarnation)
			lost = false
			err = c.serve(s)
			if time.Since(s.began) >= c.settledAfter {
				pause.reset()
			}
		} else if refused(err) {
			// Nothing gets better by sending again; whoever waits has to know.
			c.failAll(err)
		}
		if c.ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.connErr = err
		c.mu.Unlock()
		if !lost && !errors.Is(err, errDrained) {
			c.log.Warn("no session with the coordinator", "target", c.target, "error", err)
			lost = true
		}
		c.sleep(pause.next())
	}
}

// sleep waits before the next attempt. While gRPC itself waits to connect
// again, a connection that comes back ends the pause.
func (c *Client) sleep(d time.Duration) {
	ctx, cancel := context.WithTimeout(c.ctx, d)
	defer cancel()
	if s := c.cc.GetState(); s == connectivity.TransientFailure {
		c.cc.WaitForStateChange(ctx, s)
		return
	}
	<-ctx.Done()
}

// refused tells whether the coordinator, or what stands in its place, turned
// the session down for a reason that time alone does not mend.
func refused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	return slices.Contains([]codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.Unimplemented,
	}, e.Code)
}

// open starts a stream and says Hello. Its error is an *Error, or tells that
// the handshake took too long.
func (c *Client) open() (*session, error) {
	ctx, end := context.WithCancelCause(c.ctx)
	timer := time.AfterFunc(c.handshake, func() {
		end(fmt.Errorf("the coordinator did not open a session within %v", c.handshake))
	})
	s, err := c.hello(ctx)
	// A timer that has fired has ended the stream, whatever hello says.
	if !timer.Stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end(errBroken)
		return nil, err
	}
	s.end = end
	return s, nil
}

func (c *Client) hello(ctx context.Context) (*session, error) {
	stream, err := c.cc.NewStream(ctx, &pb.Coordinator_ServiceDesc.Streams[0],
		pb.Coordinator_Session_FullMethodName, grpc.ForceCodecV2(codec{}))
	if err != nil {
		return nil, FromStatus(status.Convert(err))
	}
	c.mu.Lock()
	c.nextID++
	id, witness := c.nextID, c.witness
	c.mu.Unlock()
	hello := &pb.ClientMessage{Frames: []*pb.ClientFrame{{
		Id:   id,
		Kind: &pb.ClientFrame_Hello{Hello: &pb.Hello{ClientName: c.name, Witness: witness}},
	}}}
	// An error of Send is only EOF; Recv has the status.
	if err := stream.SendMsg(hello); err != nil && !errors.Is(err, io.EOF) {
		return nil, FromStatus(status.Convert(err))
	}
	for {
		m := new(pb.ServerMessage)
		if err := stream.RecvMsg(m); err != nil {
			return nil, ended(err)
		}
		for _, f := range m.GetFrames() {
			if f.GetDrain() != nil {
				return nil, errDrained
			}
			if f.GetId() != id {
				continue
			}
			return c.welcome(ctx, stream, f)
		}
	}
}

func (c *Client) welcome(ctx context.Context, stream grpc.ClientStream, f *pb.ServerFrame) (*session, error) {
	if e := f.GetError(); e != nil {
		return nil, fromWire(e)
	}
	h := f.GetHello()
	if h == nil {
		return nil, &Error{Code: codes.Internal, Message: fmt.Sprintf("the coordinator answered Hello with %T", f.GetKind())}
	}
	store, err := xid.ParseStoreID(h.GetStoreId())
	if err != nil {
		return nil, &Error{Code: codes.Internal, Message: "the coordinator answered Hello with a malformed store: " + err.Error()}
	}
	return &session{stream: stream, ctx: ctx, store: store, incarnation: h.GetIncarnation(), began: time.Now()}, nil
}

// ended says why a stream is over.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return &Error{Code: codes.Unavailable, Message: "the coordinator ended the session"}
	}
	return FromStatus(status.Convert(err))
}

// serve runs a session to its end and says why it ended.
func (c *Client) serve(s *session) error {
	defer s.end(errBroken)
	c.mu.Lock()
	c.epoch++
	s.epoch = c.epoch
	c.requeueAll()
	c.session, c.connErr = s, nil
	c.signal()
	c.mu.Unlock()

	written := make(chan struct{})
	go func() { // ends with s.ctx, and is waited for below
		defer close(written)
		c.write(s)
	}()
	err := c.read(s)

	c.mu.Lock()
	c.session, c.connErr = nil, err
	c.signal()
	c.mu.Unlock()
	s.end(errBroken)
	<-written
	return err
}

// signal tells everybody who waits that the session is another. The caller
// holds c.mu.
func (c *Client) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// write puts what is queued on the stream until the session ends.
func (c *Client) write(s *session) {
	for {
		m, ok := c.take(s)
		if !ok {
			c.nothingToWrite()
			select {
			case <-c.wake:
				// Who is about to make a request may do so first: then one message
				// carries it, too.
				runtime.Gosched()
			case <-s.ctx.Done():
				return
			}
			continue
		}
		if err := s.stream.SendMsg(m); err != nil {
			return // the reader gets the reason
		}
	}
}

// take makes the next message. Answers to commands go first, but never fill it.
func (c *Client) take(s *session) (message, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ctx.Err() != nil {
		return message{}, false
	}
	calls := c.takeCalls(s)
	results := c.takeResults(len(calls))
	if len(calls)+len(results) == 0 {
		return message{}, false
	}
	const overhead = 16 // of a frame, at most: two tags, a length, an id
	size := 0
	for _, k := range calls {
		size += len(k.body) + overhead
	}
	for _, r := range results {
		size += len(r) + overhead
	}
	buf := mem.DefaultBufferPool().Get(size)
	b := (*buf)[:0]
	for _, r := range results {
		b = appendFrame(b, 0, r)
	}
	for _, k := range calls {
		b = appendFrame(b, k.id, k.body)
	}
	*buf = b
	return message{buf: buf}, true
}

// takeCalls takes requests off the queue and counts them as written: from here
// on they may reach the coordinator.
func (c *Client) takeCalls(s *session) []*call {
	if s.draining {
		return nil
	}
	n, bytes := 0, 0
	out := c.queue[:0:0]
	for _, k := range c.queue {
		if len(out) > 0 && (len(out) == c.maxFrames || bytes+len(k.body) > c.maxBytes) {
			break
		}
		n++
		if k.dead {
			c.dead--
			continue
		}
		bytes += len(k.body)
		k.epoch, k.sent, k.queued = s.epoch, true, false
		s.unanswered++
		out = append(out, k)
	}
	c.queue = c.queue[n:]
	if len(c.queue) == 0 {
		c.queue = nil
	}
	return out
}

// takeResults takes answers to commands, fewer where calls fill the message.
func (c *Client) takeResults(calls int) []result {
	n := min(len(c.results), max(c.maxFrames-calls, c.maxFrames/2))
	bytes := 0
	for i, r := range c.results[:n] {
		if bytes += len(r); i > 0 && bytes > c.maxBytes {
			n = i
			break
		}
	}
	out := c.results[:n]
	c.results = c.results[n:]
	for _, r := range out {
		c.resultBytes -= len(r)
	}
	return out
}

// read handles what the coordinator sends until the session ends.
func (c *Client) read(s *session) error {
	for {
		m := new(pb.ServerMessage)
		if err := s.stream.RecvMsg(m); err != nil {
			if cause := context.Cause(s.ctx); cause != nil {
				return cause
			}
			return ended(err)
		}
		c.receive(s, m)
	}
}

// receive handles one message. Frames of kinds that this version does not know
// are left alone.
func (c *Client) receive(s *session, m *pb.ServerMessage) {
	c.deliver(s, m)
	for _, f := range m.GetFrames() {
		switch k := f.GetKind().(type) {
		case *pb.ServerFrame_Settle:
			c.dispatch(k.Settle.GetResourceId(), command{settle: k.Settle})
		case *pb.ServerFrame_AskVotes:
			c.dispatch(k.AskVotes.GetResourceId(), command{ask: k.AskVotes})
		case *pb.ServerFrame_Examine:
			c.dispatch(k.Examine.GetResourceId(), command{look: k.Examine})
		case *pb.ServerFrame_Call:
			c.dispatchCall(k.Call)
		case *pb.ServerFrame_Drain:
			c.startDrain(s)
		}
	}
}

// deliver hands answers to those who wait for them. An answer nobody waits for
// any more is dropped.
func (c *Client) deliver(s *session, m *pb.ServerMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range m.GetFrames() {
		k := c.calls[f.GetId()]
		// An id that was not written to this session is none of its business.
		if k == nil || f.GetId() == 0 || k.epoch != s.epoch {
			continue
		}
		s.unanswered--
		if again(f.GetError()) {
			// It is going away: the request waits for the next session.
			k.epoch = 0
			c.drainLocked(s)
			continue
		}
		delete(c.calls, k.id)
		k.done <- reply{frame: f, epoch: s.epoch}
	}
	s.checkDrained()
}

// again tells whether a refusal holds only for this session.
func again(e *pb.Error) bool {
	if e == nil {
		return false
	}
	return codes.Code(e.GetCode()) == codes.Unavailable ||
		fromWire(e).Reason == pb.ErrorReason_ERROR_REASON_STORE_FAILED
}

// startDrain writes nothing new to this session and ends it when what is in
// flight is answered, or took too long.
func (c *Client) startDrain(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drainLocked(s)
	s.checkDrained()
}

func (c *Client) drainLocked(s *session) {
	if s.draining {
		return
	}
	s.draining = true
	stop := time.AfterFunc(c.drain, func() { s.end(errDrained) })
	context.AfterFunc(s.ctx, func() { stop.Stop() })
}

// levelOf is INFO for what ends a trouble that was logged, DEBUG otherwise.
func levelOf(lost bool) slog.Level {
	if lost {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// backoffTimer gives pauses that double, each with jitter.
type backoffTimer struct {
	first, max time.Duration
	failures   int
}

func (b *backoffTimer) reset() { b.failures = 0 }

// next gives between half of the pause and all of it.
func (b *backoffTimer) next() time.Duration {
	d := b.first
	for range b.failures {
		if d *= 2; d >= b.max {
			d = b.max
			break
		}
	}
	b.failures++
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter is no secret
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
