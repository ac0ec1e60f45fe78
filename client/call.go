package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// call is one request without an answer. Its mutable fields belong to
// Client.mu.
type call struct {
	op   string
	id   uint64
	body []byte     // the encoded frame without its id
	done chan reply // holds one; never closed

	epoch  uint64 // the session it is in flight on; 0: none
	sent   bool   // written to some session
	queued bool   // in Client.queue
	dead   bool   // given up while it was queued
}

type reply struct {
	frame *pb.ServerFrame
	err   error
	epoch uint64
}

// do sends a request and waits for its answer, over as many sessions as it takes.
func (c *Client) do(ctx context.Context, op string, f *pb.ClientFrame) (*pb.ServerFrame, error) {
	// A context that has ended must not race with a free slot.
	if ctx.Err() != nil {
		return nil, c.interrupted(op, false, context.Cause(ctx))
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, c.interrupted(op, false, context.Cause(ctx))
	case <-c.ctx.Done():
		return nil, &InterruptedError{Op: op, Err: ErrClosed}
	}
	defer func() { <-c.slots }()
	r := c.roundTrip(ctx, op, f)
	return r.frame, r.err
}

// roundTrip is do without the bound on requests in flight.
func (c *Client) roundTrip(ctx context.Context, op string, f *pb.ClientFrame) reply {
	body, err := c.encode(op, f)
	if err != nil {
		return reply{err: err}
	}
	k := &call{op: op, body: body, done: make(chan reply, 1)}
	if err := c.enqueue(k); err != nil {
		return reply{err: err}
	}
	select {
	case r := <-k.done:
		return r
	case <-ctx.Done():
		return c.giveUp(k, context.Cause(ctx))
	case <-c.ctx.Done():
		return c.giveUp(k, ErrClosed)
	}
}

// encode makes the bytes of a frame here, in the goroutine of the caller: the
// caller may reuse its request afterwards, sending again costs nothing, and
// what can't be encoded, or is larger than the coordinator accepts, is refused
// before it could break the session for everybody.
func (c *Client) encode(op string, f *pb.ClientFrame) ([]byte, error) {
	body, err := proto.Marshal(f)
	if err != nil {
		return nil, &Error{
			Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Code: codes.InvalidArgument,
			Message: fmt.Sprintf("%s: %v", op, err),
		}
	}
	if len(body) > c.maxFrameBytes {
		return nil, &Error{
			Reason: pb.ErrorReason_ERROR_REASON_LIMIT, Code: codes.ResourceExhausted,
			Message:  fmt.Sprintf("%s: the request is %d bytes long, want at most %d", op, len(body), c.maxFrameBytes),
			Metadata: map[string]string{"limit": strconv.Itoa(c.maxFrameBytes)},
		}
	}
	return body, nil
}

func (c *Client) enqueue(k *call) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return &InterruptedError{Op: k.op, Err: ErrClosed}
	}
	c.nextID++
	k.id = c.nextID
	c.calls[k.id] = k
	c.queue = append(c.queue, k)
	k.queued = true
	c.mu.Unlock()
	c.poke()
	return nil
}

// giveUp takes a call out of the table. An answer that came meanwhile wins.
func (c *Client) giveUp(k *call, cause error) reply {
	c.mu.Lock()
	_, waiting := c.calls[k.id]
	if !waiting {
		c.mu.Unlock()
		return <-k.done
	}
	delete(c.calls, k.id)
	sent, inFlight := k.sent, false
	switch {
	case k.queued:
		c.bury(k)
	case c.session != nil && k.epoch == c.session.epoch:
		inFlight = true
		c.session.unanswered--
		c.session.checkDrained()
	}
	c.mu.Unlock()
	if inFlight && k.op == opWaitFor {
		// Or it would count as waiting until its time is up, and could be taken
		// for a part of a deadlock.
		c.post("CancelWait", &pb.ClientFrame{Kind: &pb.ClientFrame_CancelWait{CancelWait: &pb.CancelWait{WaitId: k.id}}})
	}
	return reply{err: c.interrupted(k.op, sent, cause)}
}

// bury marks a queued call as given up, and sweeps when half of the queue is.
// The caller holds c.mu.
func (c *Client) bury(k *call) {
	k.dead = true
	c.dead++
	if c.dead < 64 || 2*c.dead < len(c.queue) {
		return
	}
	c.queue = slices.DeleteFunc(c.queue, func(k *call) bool { return k.dead })
	c.dead = 0
}

func (c *Client) interrupted(op string, sent bool, cause error) error {
	e := &InterruptedError{Op: op, Sent: sent, Err: cause}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		e.Conn = c.connErr
	}
	return e
}

// requeueAll puts every call of the table back into the queue, in the order in
// which they were made. The caller holds c.mu.
func (c *Client) requeueAll() {
	c.queue = c.queue[:0]
	for _, k := range c.calls {
		k.queued = true
		c.queue = append(c.queue, k)
	}
	slices.SortFunc(c.queue, func(a, b *call) int { return cmp.Compare(a.id, b.id) })
	c.dead = 0
}

// failAll ends every call: the coordinator will not have this client.
func (c *Client) failAll(cause error) {
	c.mu.Lock()
	calls := c.calls
	c.calls = make(map[uint64]*call)
	c.queue, c.dead = nil, 0
	c.mu.Unlock()
	for _, k := range calls {
		k.done <- reply{err: &InterruptedError{Op: k.op, Sent: k.sent, Err: cause}}
	}
}
