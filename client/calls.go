package client

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

const (
	// DefaultMaxCalls is how many calls of one attachment run at once.
	DefaultMaxCalls = 64
	// DefaultCallGrace is how long a detach or Close lets calls finish.
	DefaultCallGrace = 10 * time.Second
	// MaxResult is the largest result of a call or a vote, in bytes.
	MaxResult = 64 << 10

	// defaultCallTimeout holds where a call names none.
	defaultCallTimeout = 10 * time.Second
	// unwind is how long calls whose context was ended may still take.
	unwind = 5 * time.Second
)

// ErrCallTimeout is the cause of the end of a call's context where its time was up.
var ErrCallTimeout = errors.New("handfast: the time of the call is up")

// CallHandler carries out one action of one branch, and says how it ended. The
// coordinator calls again until it gets an answer, so the same call may come
// more than once, here and in other processes; the same call is never run twice at
// once by one Client.
//
// ctx ends when the time of the call is up, or when the resource is detached or
// the client closed and the calls under way were given their time. It carries no
// XID: what a handler does is no branch of the calling transaction.
//
// The result belongs to the client from then on, which fills in what names the
// call, and cuts the error to 1,024 bytes. No result, a panic, an unspecified
// verdict and a result of more than MaxResult bytes are answered with
// VERDICT_UNSURE and the wish that a person looks.
type CallHandler func(ctx context.Context, call *pb.Call) *pb.CallResult

// AttachOption changes what Attach offers.
type AttachOption func(*attachment) error

// WithCalls offers to carry out calls that name the resource. Where nothing is to be
// settled in it, as in a group of services, the Handler of Attach may be nil.
func WithCalls(h CallHandler) AttachOption {
	return func(a *attachment) error {
		if h == nil {
			return errors.New("handfast: WithCalls: the handler is nil")
		}
		a.calls = h
		return nil
	}
}

// WithMaxCalls bounds the calls that run at once for this attachment. One more is
// answered VERDICT_UNSURE, and comes again. The default is DefaultMaxCalls.
func WithMaxCalls(n int) AttachOption {
	return func(a *attachment) error {
		if n < 1 {
			return fmt.Errorf("handfast: WithMaxCalls: %d, want at least 1", n)
		}
		a.maxCalls = n
		return nil
	}
}

// WithCallGrace sets how long a detach or Close lets calls finish before it ends
// their contexts. 0 ends them at once. The default is DefaultCallGrace.
func WithCallGrace(d time.Duration) AttachOption {
	return func(a *attachment) error {
		if d < 0 {
			return fmt.Errorf("handfast: WithCallGrace: %v is negative", d)
		}
		a.grace = d
		return nil
	}
}

// callKey is the identity of a call: the attempts of one call are the same call.
type callKey struct {
	xid, branch string
	op          pb.Op
}

// running is a call under way. asked belongs to Client.mu: the newest one that asked,
// which is the one that is answered.
type running struct{ asked asked }

// asked is which of the attempts at one call it was. They are counted anew in each
// incarnation of the coordinator.
type asked struct{ incarnation, attempt uint32 }

func askedBy(call *pb.Call) asked {
	return asked{incarnation: call.GetIncarnation(), attempt: call.GetAttempt()}
}

func keyOf(call *pb.Call) callKey {
	return callKey{xid: call.GetXid(), branch: call.GetBranchId(), op: call.GetOp()}
}

// dispatchCall starts a call, or says why not. It never blocks.
func (c *Client) dispatchCall(call *pb.Call) {
	key := keyOf(call)
	c.mu.Lock()
	if r := c.running[key]; r != nil {
		r.asked = askedBy(call)
		c.mu.Unlock()
		return
	}
	a := c.pickLocked(call.GetHandlerResource(), func(a *attachment) bool { return a.calls != nil })
	var refusal *pb.CallResult
	switch {
	case a == nil || c.closing:
		// It surely did not happen, and another process may take it.
		refusal = &pb.CallResult{Verdict: pb.Verdict_VERDICT_NOT_YET, Error: "this process does not take calls of the resource any more"}
	case a.active >= a.maxCalls:
		refusal = &pb.CallResult{Verdict: pb.Verdict_VERDICT_UNSURE, Error: fmt.Sprintf("busy: %d calls are under way in this process", a.active)}
	default:
		a.active++
		c.running[key] = &running{asked: askedBy(call)}
	}
	c.mu.Unlock()
	if refusal != nil {
		c.answerCall(key, askedBy(call), refusal)
		return
	}
	go a.runCall(key, call) // waited for, with a bound, by detach and Close
}

// pickLocked gives one of the attachments of a resource that can do what is asked,
// in turn; nil where none can. The caller holds c.mu.
func (c *Client) pickLocked(resource string, can func(*attachment) bool) *attachment {
	list := c.attached[strings.ToLower(resource)]
	if len(list) == 0 {
		return nil
	}
	c.turn++
	first := int(c.turn % uint64(len(list)))
	for i := range list {
		if a := list[(first+i)%len(list)]; can(a) {
			return a
		}
	}
	return nil
}

func (a *attachment) runCall(key callKey, call *pb.Call) {
	timeout := defaultCallTimeout
	if d := call.GetTimeout(); d.IsValid() && d.AsDuration() > 0 {
		timeout = d.AsDuration()
	}
	ctx, cancel := context.WithTimeoutCause(a.ctx, timeout, ErrCallTimeout)
	var res *pb.CallResult
	returned := false
	// Not after the handler: it may panic, or end this goroutine.
	defer func() {
		cancel()
		if !returned {
			p := recover()
			a.c.log.Error("a call's handler panicked", "resource", a.id, "handler", call.GetHandler(),
				"xid", key.xid, "branch", key.branch, "panic", p, "stack", string(debug.Stack()))
			res = stuck("the handler panicked or ended its goroutine: %v", p)
		}
		a.callEnded(key, checked(res))
	}()
	res = a.calls(ctx, call)
	returned = true
}

// stuck is the answer to a call that will not succeed by itself.
func stuck(format string, args ...any) *pb.CallResult {
	return &pb.CallResult{Verdict: pb.Verdict_VERDICT_UNSURE, NeedsAttention: true, Error: fmt.Sprintf(format, args...)}
}

// checked makes an answer one that the coordinator takes.
func checked(r *pb.CallResult) *pb.CallResult {
	switch r.GetVerdict() {
	case pb.Verdict_VERDICT_DONE:
		if n := len(r.GetResult()); n > MaxResult {
			return stuck("the result is %d bytes long, want at most %d", n, MaxResult)
		}
		return r
	case pb.Verdict_VERDICT_FAILED, pb.Verdict_VERDICT_NOT_YET, pb.Verdict_VERDICT_UNSURE:
		r.Result = nil
		return r
	case pb.Verdict_VERDICT_UNSPECIFIED:
		return stuck("the handler gave no verdict")
	default:
		return stuck("the handler gave the verdict %d, which does not exist", r.GetVerdict())
	}
}

func (a *attachment) callEnded(key callKey, res *pb.CallResult) {
	c := a.c
	c.mu.Lock()
	by := c.running[key].asked
	delete(c.running, key)
	c.mu.Unlock()
	c.answerCall(key, by, res)
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.active--; a.active == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

func (c *Client) answerCall(key callKey, by asked, r *pb.CallResult) {
	r.Xid, r.BranchId, r.Op, r.Incarnation, r.Attempt = key.xid, key.branch, key.op, by.incarnation, by.attempt
	r.Error = clean(r.GetError())
	c.post("CallResult", &pb.ClientFrame{Kind: &pb.ClientFrame_CallResult{CallResult: r}})
}

// awaitCalls waits until no call of the attachment runs, and tells whether that
// came to be in time. Only one goroutine may wait.
func (a *attachment) awaitCalls(limit time.Duration) bool {
	c := a.c
	c.mu.Lock()
	if a.active == 0 {
		c.mu.Unlock()
		return true
	}
	idle := make(chan struct{})
	a.idle = idle
	c.mu.Unlock()
	t := time.NewTimer(max(limit, 0))
	defer t.Stop()
	select {
	case <-idle:
		return true
	case <-t.C:
		return false
	}
}

// endCalls lets calls finish, then ends their contexts, then gives them up. None may
// start any more.
func (a *attachment) endCalls(since time.Time) {
	if a.awaitCalls(a.grace - time.Since(since)) {
		a.cancel()
		return
	}
	a.cancel()
	if !a.awaitCalls(unwind) {
		a.c.log.Error("calls go on although their contexts have ended; they are left behind", "resource", a.id)
	}
}

// drainCalls ends the calls of all attachments, for Close.
func (c *Client) drainCalls() {
	c.mu.Lock()
	var all []*attachment
	for _, list := range c.attached {
		all = append(all, slices.DeleteFunc(slices.Clone(list), func(a *attachment) bool { return a.calls == nil })...)
	}
	c.mu.Unlock()
	since := time.Now()
	for _, a := range all {
		a.ending.Do(func() { a.endCalls(since) })
	}
	c.flush(time.Second)
}

// flush waits until there is nothing to write, so that answers of calls that were
// let finish are not lost with the session. Where there is no session it does not wait.
func (c *Client) flush(limit time.Duration) {
	c.mu.Lock()
	if c.session == nil {
		c.mu.Unlock()
		return
	}
	written := make(chan struct{})
	c.flushed = written
	c.mu.Unlock()
	c.poke()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-written:
	case <-t.C:
	}
}

// nothingToWrite tells flush.
func (c *Client) nothingToWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flushed != nil {
		close(c.flushed)
		c.flushed = nil
	}
}
