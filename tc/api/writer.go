package api

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Bounds of one message to a client. A client of gRPC refuses more than 4 MiB
// unless told otherwise.
const (
	maxFramesOut = 256
	maxBytesOut  = 1 << 20
	maxItems     = 256 // of one Settle or AskVotes
)

func messageSize(m proto.Message) int { return proto.Size(m) }

// send queues a small frame that answers no request of the table.
func (s *session) send(f *pb.ServerFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(f, smallFrame)
}

// queue queues a frame. The caller holds s.mu.
func (s *session) queue(f *pb.ServerFrame, size int) {
	// The requests in flight bound the answers; what is more than that are
	// answers to requests that were refused, by a client that does not read.
	if len(s.out) >= 2*s.a.cfg.MaxInFlight {
		s.end(refusal(codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_LIMIT,
			"the client does not read its answers", "limit", "answers").Err())
		return
	}
	s.out = append(s.out, frame{f, size})
	s.poke()
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finishing ends the session as soon as nothing is in flight.
func (s *session) finishing(w lastWord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == goesOn {
		s.last = w
		if w == drained {
			s.queue(&pb.ServerFrame{Kind: &pb.ServerFrame_Drain{Drain: &pb.Drain{}}}, smallFrame)
		}
	}
	s.poke()
}

// write writes what is queued, many frames to a message.
func (s *session) write() error {
	for {
		m, last := s.take()
		if m == nil {
			if last != goesOn {
				return s.farewell(last)
			}
			select {
			case <-s.wake:
			case <-s.ctx.Done():
				return nil
			}
			continue
		}
		s.sending.Store(time.Now().UnixNano())
		err := s.stream.Send(m)
		s.sending.Store(0)
		if err != nil {
			return err
		}
	}
}

// farewell ends a session with nothing in flight.
func (s *session) farewell(last lastWord) error {
	if last == drained {
		return draining()
	}
	s.end(nil)
	return nil
}

// take makes the next message. Without one, last tells whether the session is
// to end.
func (s *session) take() (m *pb.ServerMessage, last lastWord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < len(s.out) && n < maxFramesOut && (n == 0 || bytes+s.out[n].size <= maxBytesOut) {
		bytes += s.out[n].size
		n++
	}
	var frames []*pb.ServerFrame
	if n > 0 {
		frames = make([]*pb.ServerFrame, n, n+1)
		for i := range frames {
			frames[i] = s.out[i].f
		}
		left := copy(s.out, s.out[n:])
		clear(s.out[left:])
		s.out = s.out[:left]
	}
	for bytes < maxBytesOut && len(frames) < maxFramesOut {
		f, size := s.commands.take(maxBytesOut-bytes, len(frames) == 0)
		if f == nil {
			break
		}
		bytes += size
		frames = append(frames, f)
	}
	if len(frames) > 0 {
		return &pb.ServerMessage{Frames: frames}, goesOn
	}
	switch {
	case s.last == drained && len(s.calls) == s.parked, s.last == clientDone && len(s.calls) == 0:
		return nil, s.last
	default:
		return nil, goesOn
	}
}

// commands are the commands that wait to be written to a session, gathered by
// resource. The session's mutex guards it.
type commands struct {
	count int
	calls []*pb.ServerFrame
	of    map[xid.ResourceID]*resourceCommands
	order []xid.ResourceID // those with commands
}

type resourceCommands struct {
	settles []*pb.SettleItem
	asks    []*pb.AskItem
}

func (c *commands) at(r xid.ResourceID) *resourceCommands {
	if c.of == nil {
		c.of = make(map[xid.ResourceID]*resourceCommands)
	}
	rc := c.of[r]
	if rc == nil {
		rc = &resourceCommands{}
		c.of[r] = rc
	}
	if len(rc.settles)+len(rc.asks) == 0 {
		c.order = append(c.order, r)
	}
	c.count++
	return rc
}

func (c *commands) clear() { *c = commands{} }

// take gives the next command frame and about how large it is. A call that is
// larger than room is only given alone.
func (c *commands) take(room int, alone bool) (*pb.ServerFrame, int) {
	if len(c.calls) > 0 {
		f := c.calls[0]
		if messageSize(f) > room && !alone {
			return nil, 0
		}
		c.calls[0] = nil
		c.calls = c.calls[1:]
		c.count--
		return f, messageSize(f)
	}
	if len(c.order) == 0 {
		return nil, 0
	}
	r := c.order[0]
	rc := c.of[r]
	var f *pb.ServerFrame
	size := smallFrame
	if len(rc.settles) > 0 {
		n := 0
		for n < len(rc.settles) && n < maxItems && size < maxBytesOut/2 {
			size += smallFrame + 48*len(rc.settles[n].GetBranches())
			n++
		}
		c.count -= n
		f = &pb.ServerFrame{Kind: &pb.ServerFrame_Settle{Settle: &pb.Settle{ResourceId: r.String(), Items: rc.settles[:n:n]}}}
		rc.settles = rc.settles[n:]
	} else {
		n := min(len(rc.asks), maxItems)
		size += n * smallFrame
		c.count -= n
		f = &pb.ServerFrame{Kind: &pb.ServerFrame_AskVotes{AskVotes: &pb.AskVotes{ResourceId: r.String(), Items: rc.asks[:n:n]}}}
		rc.asks = rc.asks[n:]
	}
	c.order = c.order[1:]
	if len(rc.settles)+len(rc.asks) > 0 {
		c.order = append(c.order, r)
	} else {
		delete(c.of, r)
	}
	return f, size
}

// call queues a call; false when the session can't take it.
func (s *session) call(c handled, f *pb.ServerFrame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil || s.last != goesOn || s.commands.count >= s.a.cfg.MaxCommands || len(s.commands.calls) >= maxCalls {
		return false
	}
	s.commands.calls = append(s.commands.calls, f)
	s.commands.count++
	if len(s.handling) < maxHandling {
		s.handling[c] = struct{}{}
	}
	s.poke()
	return true
}

// handled names a call that a session was given.
type handled struct {
	xid     xid.ID
	branch  xid.BranchID
	op      core.Op
	attempt uint32
}

// maxHandling bounds what a session is remembered to have been given. One call more
// that is lost with it is made again when its time is up.
const maxHandling = 16384

// handled forgets a call that was answered.
func (s *session) handled(c handled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handling, c)
}

// lose gives the calls that have no answer, once there can be none any more.
func (s *session) lose() []handled {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := slices.Collect(maps.Keys(s.handling))
	clear(s.handling)
	return lost
}

// maxCalls bounds the calls that wait to be written to one session: each may
// hold a megabyte.
const maxCalls = 64

// command queues one command; false when the session can't take it.
func (s *session) command(r xid.ResourceID, settle *core.Settle, ask *core.AskVote) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil || s.last != goesOn || s.commands.count >= s.a.cfg.MaxCommands {
		return false
	}
	rc := s.commands.at(r)
	if settle != nil {
		rc.settles = append(rc.settles, wireSettleItem(settle))
	} else {
		rc.asks = append(rc.asks, &pb.AskItem{Xid: ask.XID.String(), BranchId: ask.Branch.String(), Mode: wireMode(ask.Mode)})
	}
	s.poke()
	return true
}
