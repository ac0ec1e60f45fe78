package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// DefaultTimeout is how long one run of a workflow may take, unless Timeout says
// otherwise. It is also how long a run that got lost may go unnoticed.
const DefaultTimeout = 10 * time.Minute

// MaxSteps is how many steps a workflow may have.
const MaxSteps = 255

// self is the name of the branch that is the function itself.
const self = "workflow"

var (
	// ErrRetry in an error of a workflow or a step has the function called again.
	ErrRetry = errors.New("to be tried again")
	// ErrChanged is a workflow that takes other steps than the coordinator remembers.
	ErrChanged = errors.New("the workflow does not take the steps that it took before")
	// ErrUnsure is a workflow that tried to go on after a step whose end nobody knows.
	ErrUnsure = errors.New("a step ended without anybody knowing whether it happened")
)

// Func is a workflow. ctx carries no XID and ends when the time of the run is up. Its
// result is at most client.MaxResult bytes.
type Func func(ctx context.Context, w *W, input []byte) ([]byte, error)

// Register adds a workflow to a group, which is then attached as usual. The name is that
// of a handler; what is wrong with it is told by Group.Attach. m is how the steps reach
// the coordinator.
func Register(g *handlers.Group, m *tm.Manager, name string, f Func) {
	g.Handle("workflow/"+name, func(ctx context.Context, call handlers.Call) ([]byte, error) {
		if f == nil {
			return nil, fmt.Errorf("workflow %q: the function is nil: %w", name, target.ErrAttention)
		}
		return run(ctx, m, call, f)
	})
}

func run(ctx context.Context, m *tm.Manager, call handlers.Call, f Func) ([]byte, error) {
	t, err := m.Get(ctx, call.XID)
	if err != nil {
		return nil, err // unsure
	}
	if t.GetOutcome() > pb.Outcome_OUTCOME_UNDECIDED {
		// It was decided while this call was on its way: no step must be taken any more.
		return nil, retryable{fmt.Errorf("transaction %s is decided", call.XID)}
	}
	w := &W{m: m, id: call.XID, done: make(map[string]*pb.Branch)}
	for _, b := range t.GetBranches() {
		switch {
		case b.GetMode() != pb.Mode_MODE_WORKFLOW:
		case b.GetBranchId() == call.Branch.String():
			w.retry = b.GetPlan().GetRetry()
		default:
			w.past = append(w.past, b)
		}
	}
	result, err := f(ctx, w, call.Payload)
	if err == nil && w.broken == nil && w.taken < len(w.past) {
		w.broken = fmt.Errorf("%w: it has taken %d of %d remembered steps, and not %q (%w)", ErrChanged, w.taken, len(w.past), w.past[w.taken].GetName(), ErrRetry)
	}
	if w.broken != nil && (err == nil || errors.Is(w.broken, ErrRetry)) {
		// It must not commit over a step that has no end, whatever it made of the error.
		err = w.broken
	}
	switch {
	case err == nil && len(result) > client.MaxResult:
		return nil, fmt.Errorf("the result is %d bytes long; want at most %d: %w", len(result), client.MaxResult, target.ErrFailed)
	case err == nil:
		return result, nil
	case errors.Is(err, ErrRetry), errors.Is(err, target.ErrNotYet), ctx.Err() != nil:
		return nil, retryable{err}
	default:
		return nil, forGood{err}
	}
}

// forGood makes any error of a workflow its end, and leaves the text to it.
type forGood struct{ error }

// Is matches target.ErrFailed.
func (forGood) Is(t error) bool { return t == target.ErrFailed }

// Unwrap gives the error.
func (e forGood) Unwrap() error { return e.error }

// retryable hides what a step said of itself: the run is to be tried again.
type retryable struct{ err error }

func (e retryable) Error() string { return e.err.Error() }

func (e retryable) Is(t error) bool {
	return t == target.ErrAttention && (errors.Is(e.err, target.ErrAttention) || errors.Is(e.err, ErrChanged)) ||
		t == target.ErrNotYet && errors.Is(e.err, target.ErrNotYet)
}

// StartOption changes how a workflow is started.
type StartOption func(*start)

type start struct {
	timeout time.Duration
	within  time.Duration
	retry   target.RetryPolicy
	tm      []tm.Option
}

// Timeout sets how long one run may take, at most target.MaxTimeout; then it is run again.
// The default is DefaultTimeout.
func Timeout(d time.Duration) StartOption { return func(s *start) { s.timeout = d } }

// Within sets how long the workflow may take with all its runs, at most 30 days; then it
// is rolled back. By default it never is.
func Within(d time.Duration) StartOption { return func(s *start) { s.within = d } }

// Retry sets how runs are tried again, and the compensations of steps that have no
// policy of their own. With Attempts it is rolled back after so many runs; compensations
// have no such limit.
func Retry(p target.RetryPolicy) StartOption { return func(s *start) { s.retry = p } }

// Options are for tm.Manager.Begin, such as tm.WithName; the name is that of the
// workflow by default.
func Options(opts ...tm.Option) StartOption {
	return func(s *start) { s.tm = append(s.tm, opts...) }
}

// Start has a workflow run in any process that has attached the group. input is what
// target.Encode takes. When it returns without an error the workflow will run to its end,
// whatever becomes of this process; Wait tells how it ends.
//
// Errors: *target.Error, before anything is sent; those of tm.Manager.Begin and Submit.
// With tm.ErrOutcomeUnknown the answer was lost, and StartAs is how to go on.
func Start(ctx context.Context, m *tm.Manager, group, name string, input any, opts ...StartOption) (xid.ID, error) {
	s, _, err := prepare(group, name, input, opts)
	if err != nil {
		return xid.ID{}, err
	}
	t, err := m.Begin(ctx, append([]tm.Option{tm.WithName(name)}, s.tm...)...)
	if err != nil {
		return xid.ID{}, err
	}
	return t.XID, StartAs(ctx, m, t, group, name, input, opts...)
}

// StartAs is Start under a transaction that was begun, or again under one whose answer
// was lost: tm.Tx{XID: id}. The same again changes nothing.
func StartAs(ctx context.Context, m *tm.Manager, t tm.Tx, group, name string, input any, opts ...StartOption) error {
	s, to, err := prepare(group, name, input, opts)
	if err != nil {
		return err
	}
	r := &pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{{
		BranchId: xid.BranchOf(t.XID, self).String(), Mode: pb.Mode_MODE_WORKFLOW, Name: self,
		Plan: &pb.Plan{Forward: to.Proto(), Retry: s.retry.Proto()},
	}}}
	if s.within > 0 {
		r.Timeout = durationpb.New(s.within)
	}
	return m.Submit(ctx, t, r)
}

const maxWithin = 30 * 24 * time.Hour

func prepare(group, name string, input any, opts []StartOption) (start, target.Target, error) {
	s := start{timeout: DefaultTimeout}
	for _, o := range opts {
		o(&s)
	}
	payload, err := target.Encode(input)
	if err != nil {
		return s, target.Target{}, &target.Error{Field: "input", Text: err.Error()}
	}
	if s.within != 0 && (s.within < time.Millisecond || s.within > maxWithin) {
		return s, target.Target{}, &target.Error{Field: "within", Text: fmt.Sprintf("%v; want from 1ms to %v, or 0 for ever", s.within, maxWithin)}
	}
	to := target.Handler(group, "workflow/"+name, target.Payload(payload), target.Timeout(s.timeout))
	if err := to.Validate(); err != nil {
		return s, to, err
	}
	if steps, own, _ := to.References(); len(steps) > 0 || own {
		return s, to, &target.Error{Field: "input", Text: "it refers to results, and there are none before a workflow; want $${ for the two characters ${"}
	}
	return s, to, s.retry.Validate()
}

// Wait waits until the workflow is through and gives its result. Errors are those of
// tm.Manager.Wait: one that Is tm.ErrRolledBack says that it failed, and why.
func Wait(ctx context.Context, m *tm.Manager, id xid.ID, opts ...tm.Option) ([]byte, error) {
	if err := m.Wait(ctx, id, opts...); err != nil {
		return nil, err
	}
	t, err := m.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, b := range t.GetBranches() {
		if b.GetBranchId() == xid.BranchOf(id, self).String() {
			return b.GetResult(), nil
		}
	}
	return nil, fmt.Errorf("transaction %s is no workflow", id)
}
