package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// Handler settles in one resource what the coordinator has decided. For one
// attachment the client calls each method from one goroutine of its own, so a
// slow call delays only later commands of the same kind; when too many wait,
// they are dropped, and come again. ctx ends when the resource is detached or
// the client closed; both wait for the methods to return.
//
// answer may be called any number of times, from any goroutine, also after the
// method has returned and after ctx has ended; it never blocks. The message
// belongs to the client from then on, which fills in the resource.
type Handler interface {
	// Settle carries out a decision. Items may be answered one by one, as they
	// become known.
	Settle(ctx context.Context, cmd *pb.Settle, answer func(*pb.SettleResult))
	// AskVotes finds out how phase one of branches ended.
	AskVotes(ctx context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult))
}

// Examiner is a Handler that can also look at single rows for an operator. The
// client calls it from a goroutine of its own, one call at a time; when too many
// wait, they are refused.
type Examiner interface {
	Handler
	// Examine is answered once, by what it returns; the client fills in the id and
	// the resource. ctx ends like that of the other methods.
	Examine(ctx context.Context, cmd *pb.Examine) *pb.ExamineResult
}

// maxExamines bounds those that wait; operators are few.
const maxExamines = 4

// result is an encoded answer to a command.
type result []byte

type command struct {
	settle *pb.Settle
	ask    *pb.AskVotes
	look   *pb.Examine
}

// attachment is one resource with its handler.
type attachment struct {
	c        *Client
	id       string
	resource *pb.AttachedResource
	handler  Handler
	ctx      context.Context
	cancel   context.CancelFunc
	settles  chan *pb.Settle
	asks     chan *pb.AskVotes
	looks    chan *pb.Examine
	wg       sync.WaitGroup

	calls    CallHandler // nil: none
	maxCalls int
	grace    time.Duration
	ending   sync.Once     // of the calls
	active   int           // calls under way; belongs to Client.mu
	idle     chan struct{} // closed when active gets 0; belongs to Client.mu
}

// Attach offers to settle for a resource, on this session and every later one; with
// WithCalls also, or only, to carry out calls. It does not wait for the
// coordinator: see WithAttachError. One resource may be attached several times;
// each command goes to one of its handlers.
//
// detach takes the offer back. Calls under way are given their grace, then their
// contexts are ended, as those of the handler's methods are at once. It returns when
// all have returned, so it must not be called by them; a call that does not heed
// its context is left behind after 5 s. It may be called again.
func (c *Client) Attach(r *pb.AttachedResource, h Handler, opts ...AttachOption) (detach func(), err error) {
	id, err := xid.ParseResourceID(r.GetResourceId())
	if err != nil {
		return nil, &Error{
			Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Code: codes.InvalidArgument,
			Field: "resource_id", Message: "Attach: " + err.Error(),
		}
	}
	a := &attachment{
		c: c, id: id.String(), resource: proto.CloneOf(r), handler: h,
		settles:  make(chan *pb.Settle, c.maxCommands),
		asks:     make(chan *pb.AskVotes, c.maxCommands),
		looks:    make(chan *pb.Examine, maxExamines),
		maxCalls: DefaultMaxCalls, grace: DefaultCallGrace,
	}
	for _, o := range opts {
		if err := o(a); err != nil {
			return nil, err
		}
	}
	if h == nil && a.calls == nil {
		return nil, errors.New("handfast: Attach: the handler is nil")
	}
	if _, err := c.encode("Attach", a.frame()); err != nil {
		return nil, err
	}
	a.ctx, a.cancel = context.WithCancel(c.ctx)

	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		a.cancel()
		return nil, fmt.Errorf("handfast: Attach: %w", ErrClosed)
	}
	c.attached[a.id] = append(c.attached[a.id], a)
	// Added under the lock, so that Close waits for them or refuses them.
	loops := []func(){a.keepAttached}
	if h != nil {
		loops = append(loops, a.runSettles, a.runAsks, a.runLooks)
	}
	for _, f := range loops {
		a.wg.Add(1)
		c.wg.Go(func() {
			defer a.wg.Done()
			f()
		})
	}
	c.mu.Unlock()
	return sync.OnceFunc(a.detach), nil
}

func (a *attachment) frame() *pb.ClientFrame {
	return &pb.ClientFrame{Kind: &pb.ClientFrame_Attach{Attach: &pb.Attach{Resources: []*pb.AttachedResource{a.resource}}}}
}

func (a *attachment) detach() {
	c := a.c
	c.mu.Lock()
	rest := slices.DeleteFunc(slices.Clone(c.attached[a.id]), func(o *attachment) bool { return o == a })
	if len(rest) == 0 {
		delete(c.attached, a.id)
	} else {
		c.attached[a.id] = rest
	}
	last := len(rest) == 0 && !c.closed
	c.mu.Unlock()
	a.ending.Do(func() { a.endCalls(time.Now()) })
	a.wg.Wait()
	if last {
		// Without an answer: a session that breaks takes the offer with it.
		c.post("Detach", &pb.ClientFrame{Kind: &pb.ClientFrame_Detach{Detach: &pb.Detach{ResourceIds: []string{a.id}}}})
	}
}

// keepAttached attaches the resource on every session, and again after a pause
// where the coordinator refused.
func (a *attachment) keepAttached() {
	c := a.c
	pause := backoffTimer{first: c.backoffFirst, max: c.backoffMax}
	refused := false
	for a.ctx.Err() == nil {
		r := c.roundTrip(a.ctx, "Attach", a.frame())
		_, err := answer("Attach", r.frame, r.err, (*pb.ServerFrame).GetAttach)
		if a.ctx.Err() != nil {
			return
		}
		if err != nil {
			c.reportAttach(a.id, err)
			refused = true
			sleep(a.ctx, pause.next())
			continue
		}
		if refused {
			c.reportAttach(a.id, nil)
		}
		refused = false
		pause.reset()
		c.awaitSession(a.ctx, r.epoch)
	}
}

func (c *Client) reportAttach(resource string, err error) {
	switch {
	case c.attachError != nil:
		c.attachError(resource, err)
	case err != nil:
		c.log.Warn("the coordinator refuses to attach a resource", "resource", resource, "error", err)
	default:
		c.log.Info("the coordinator has attached the resource", "resource", resource)
	}
}

// awaitSession returns when there is a session later than epoch, or ctx ends.
func (c *Client) awaitSession(ctx context.Context, epoch uint64) {
	for {
		c.mu.Lock()
		s, changed := c.session, c.changed
		c.mu.Unlock()
		if s != nil && s.epoch > epoch {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// dispatch hands a command to a handler of the resource. It never blocks.
func (c *Client) dispatch(resource string, cmd command) {
	c.mu.Lock()
	a := c.pickLocked(resource, func(a *attachment) bool { return a.handler != nil })
	c.mu.Unlock()
	if a == nil {
		return // detached while the command was under way
	}
	if cmd.look != nil {
		a.look(cmd.look)
		return
	}
	if cmd.settle != nil {
		select {
		case a.settles <- cmd.settle:
		default:
			c.log.Debug("a settle command is dropped: too many wait", "resource", resource)
		}
		return
	}
	select {
	case a.asks <- cmd.ask:
	default:
		c.log.Debug("a question for votes is dropped: too many wait", "resource", resource)
	}
}

func (a *attachment) runSettles() {
	for {
		select {
		case cmd := <-a.settles:
			a.handler.Settle(a.ctx, cmd, a.settled)
		case <-a.ctx.Done():
			return
		}
	}
}

func (a *attachment) runAsks() {
	for {
		select {
		case cmd := <-a.asks:
			a.handler.AskVotes(a.ctx, cmd, a.asked)
		case <-a.ctx.Done():
			return
		}
	}
}

// look queues a question of an operator, who waits: it is refused rather than dropped.
func (a *attachment) look(cmd *pb.Examine) {
	if _, ok := a.handler.(Examiner); !ok {
		a.examined(cmd, refuseExamine(codes.Unimplemented, "this service can't look at single rows"))
		return
	}
	select {
	case a.looks <- cmd:
	default:
		a.examined(cmd, refuseExamine(codes.ResourceExhausted, "too many questions of operators wait at this service; try again"))
	}
}

func (a *attachment) runLooks() {
	h, ok := a.handler.(Examiner)
	if !ok {
		return
	}
	for {
		select {
		case cmd := <-a.looks:
			a.examined(cmd, h.Examine(a.ctx, cmd))
		case <-a.ctx.Done():
			return
		}
	}
}

func refuseExamine(code codes.Code, message string) *pb.ExamineResult {
	return &pb.ExamineResult{Error: &pb.Error{Code: int32(code), Message: message}}
}

func (a *attachment) examined(cmd *pb.Examine, r *pb.ExamineResult) {
	r.Id = cmd.GetId()
	if r.GetRows() != nil {
		r.Rows.ResourceId = a.id
	}
	f := func() *pb.ClientFrame {
		return &pb.ClientFrame{Kind: &pb.ClientFrame_ExamineResult{ExamineResult: r}}
	}
	if _, err := a.c.encode("ExamineResult", f()); err != nil {
		r = refuseExamine(codes.Internal, err.Error())
		r.Id = cmd.GetId()
	}
	a.c.post("ExamineResult", f())
}

func (a *attachment) settled(r *pb.SettleResult) {
	r.ResourceId = a.id
	for _, i := range r.GetItems() {
		i.Error = clean(i.GetError())
	}
	a.c.post("SettleResult", &pb.ClientFrame{Kind: &pb.ClientFrame_SettleResult{SettleResult: r}})
}

func (a *attachment) asked(r *pb.AskVotesResult) {
	r.ResourceId = a.id
	for _, i := range r.GetItems() {
		i.Reason = clean(i.GetReason())
	}
	a.c.post("AskVotesResult", &pb.ClientFrame{Kind: &pb.ClientFrame_AskVotesResult{AskVotesResult: r}})
}

// post queues a frame that has no answer. Where too many wait it is dropped:
// the coordinator asks again.
func (c *Client) post(op string, f *pb.ClientFrame) {
	body, err := c.encode(op, f)
	if err != nil {
		c.log.Error("an answer to the coordinator can't be sent", "kind", op, "error", err)
		return
	}
	c.mu.Lock()
	full := len(c.results) >= c.maxResults || c.resultBytes+len(body) > c.maxResultBytes
	if !full && c.ctx.Err() == nil {
		c.results = append(c.results, body)
		c.resultBytes += len(body)
	}
	c.mu.Unlock()
	if full {
		c.log.Debug("an answer to the coordinator is dropped: too many wait", "kind", op)
		return
	}
	c.poke()
}
