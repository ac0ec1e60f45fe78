package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
)

// What a Func wraps in its error to say more than "try again"; see package target.
var (
	ErrFailed    = target.ErrFailed
	ErrNotYet    = target.ErrNotYet
	ErrAttention = target.ErrAttention
)

// Call is one call of the coordinator.
type Call struct {
	// Identity names the call: XID, Branch, Action and Attempt. It is what a fence needs.
	target.Identity
	Handler string  // the name it was called by
	Mode    pb.Mode // of the branch
	Step    string  // the name of the branch; may be empty
	// Payload has its references filled in.
	Payload []byte
	Headers map[string]string
	// Own is the branch's own result: of its forward action, or what was voted with.
	Own []byte
	// Before are the results of the steps that this one comes directly after.
	Before []Result
}

// Result is what a step answered.
type Result struct {
	Step  string
	Value []byte
}

// Decode reads the payload as JSON.
func (c Call) Decode(v any) error {
	if err := json.Unmarshal(c.Payload, v); err != nil {
		return fmt.Errorf("payload of %s: %w", c.Identity, err)
	}
	return nil
}

// Func carries out a call. Its result, at most client.MaxResult bytes, is remembered by
// the coordinator where it is that of a forward action or a delivery. ctx ends when
// the time of the call is up, and carries no XID. It may be called concurrently.
type Func func(ctx context.Context, call Call) ([]byte, error)

// Group is a set of functions that services offer under one name. The methods may be
// called concurrently.
type Group struct {
	name     string
	resource xid.ResourceID

	mu    sync.RWMutex
	funcs map[string]Func
	errs  []error
}

// New makes a group of services, which needs no database. All processes that attach
// the name should have the same functions, and a process should attach it once.
func New(name string) *Group {
	return &Group{name: name, resource: xid.ResourceOf(name), funcs: make(map[string]Func)}
}

// ForDatabase makes the group of the services of one database; name is for people.
func ForDatabase(r xid.ResourceID, name string) *Group {
	return &Group{name: name, resource: r, funcs: make(map[string]Func)}
}

// Name is the name of the group.
func (g *Group) Name() string { return g.name }

// Handle sets the function for a name: letters, digits, "_" and "-", or several of such
// names joined with "/". What is wrong with it is told by Attach.
func (g *Group) Handle(name string, f Func) *Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := target.CheckHandler("group", name)
	switch {
	case err != nil:
	case f == nil:
		err = fmt.Errorf("handler %q: the function is nil", name)
	case g.funcs[name] != nil:
		err = fmt.Errorf("handler %q: there is one already", name)
	}
	if err != nil {
		g.errs = append(g.errs, err)
		return g
	}
	g.funcs[name] = f
	return g
}

// Attach offers the functions to the coordinator, on this session and every later one.
// It does not wait for the coordinator. detach takes the offer back and waits for calls
// under way, as client.Attach says. Errors are those of Handle, and of a name of the
// group that is empty, longer than target.MaxName bytes, or not one line.
func (g *Group) Attach(c *client.Client, opts ...client.AttachOption) (detach func(), err error) {
	g.mu.RLock()
	err = errors.Join(g.errs...)
	g.mu.RUnlock()
	if err == nil {
		err = target.CheckHandler(g.name, "x")
	}
	if err != nil {
		return nil, fmt.Errorf("handlers of %.40q: %w", g.name, err)
	}
	r := &pb.AttachedResource{ResourceId: g.resource.String(), Name: g.name}
	return c.Attach(r, nil, append(slices.Clone(opts), client.WithCalls(g.call))...)
}

func (g *Group) call(ctx context.Context, p *pb.Call) *pb.CallResult {
	g.mu.RLock()
	f := g.funcs[p.GetHandler()]
	g.mu.RUnlock()
	if f == nil {
		// Another process, or a later version, may have it.
		return answer(nil, fmt.Errorf("this process has no handler %.40q in %q, but %s", p.GetHandler(), g.name, g.list()))
	}
	c, err := parse(p)
	if err != nil {
		return answer(nil, fmt.Errorf("malformed call: %w (%w)", err, ErrAttention))
	}
	return answer(f(ctx, c))
}

func (g *Group) list() string {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if len(g.funcs) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(g.funcs)), ", ")
}

func parse(p *pb.Call) (Call, error) {
	c := Call{
		Handler: p.GetHandler(), Mode: p.GetMode(), Step: p.GetName(), Payload: p.GetPayload(), Own: p.GetOwn(),
	}
	var err error
	if c.XID, err = xid.Parse(p.GetXid()); err != nil {
		return c, err
	}
	if c.Branch, err = xid.ParseBranchID(p.GetBranchId()); err != nil {
		return c, err
	}
	switch p.GetOp() {
	case pb.Op_OP_FORWARD, pb.Op_OP_COMMIT, pb.Op_OP_ROLLBACK:
		c.Action = action.Action(p.GetOp())
	case pb.Op_OP_UNSPECIFIED:
		return c, errors.New("it names no action")
	default:
		return c, fmt.Errorf("this version does not know the action %d", p.GetOp())
	}
	c.Attempt = p.GetAttempt()
	for _, h := range p.GetHeaders() {
		if c.Headers == nil {
			c.Headers = make(map[string]string, len(p.GetHeaders()))
		}
		c.Headers[h.GetName()] = h.GetValue()
	}
	for _, r := range p.GetBefore() {
		c.Before = append(c.Before, Result{Step: r.GetName(), Value: r.GetValue()})
	}
	return c, nil
}

func answer(result []byte, err error) *pb.CallResult {
	if err == nil {
		return &pb.CallResult{Verdict: pb.Verdict_VERDICT_DONE, Result: result}
	}
	r := &pb.CallResult{Verdict: pb.Verdict_VERDICT_UNSURE, Error: err.Error(), NeedsAttention: errors.Is(err, ErrAttention)}
	switch {
	case errors.Is(err, ErrFailed):
		r.Verdict = pb.Verdict_VERDICT_FAILED
	case errors.Is(err, ErrNotYet):
		r.Verdict = pb.Verdict_VERDICT_NOT_YET
	}
	return r
}
