package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// W is one run of a workflow. It is for one goroutine: steps are taken one after the
// other.
type W struct {
	m    *tm.Manager
	id   xid.ID
	past []*pb.Branch // remembered from earlier runs, in the order of their registration

	retry *pb.RetryPolicy // of the runs

	taken  int
	done   map[string]*pb.Branch // steps of this run
	last   xid.BranchID          // the last one that has a compensation
	broken error                 // why no more steps can be taken
}

// XID is the transaction that the workflow is.
func (w *W) XID() xid.ID { return w.id }

// StepCall is the identity of a step, the same in every run.
type StepCall = target.Identity

// StepOption changes a step.
type StepOption func(*pb.Plan) error

// Compensate sets what is called for the step where the workflow fails: it finds the
// step's result as its own. It is known to the coordinator before the step is run, and is
// called also where nobody knows whether the step happened, and, whatever becomes of the
// workflow, where the step was refused.
func Compensate(t target.Target) StepOption {
	return func(p *pb.Plan) error {
		if err := t.Validate(); err != nil {
			return &target.Error{Field: "compensate", Text: err.Error()}
		}
		if t.DTM {
			return &target.Error{Field: "compensate", Text: "a workflow's steps are not called as DTM would; want a target without that option"}
		}
		if steps, _, _ := t.References(); len(steps) > 0 {
			return &target.Error{Field: "compensate", Text: "it refers to results of steps; want \"${own}\", or what the payload needs written into it"}
		}
		p.Rollback = t.Proto()
		return nil
	}
}

// CompensateRetry sets how the compensation is tried again, instead of as Retry says of
// the workflow.
func CompensateRetry(r target.RetryPolicy) StepOption {
	return func(p *pb.Plan) error {
		p.Retry = r.Proto()
		return r.Validate()
	}
}

// Step runs f, unless an earlier run has done so: then it gives what f gave. The name is
// letters, digits, "_" and "-", and no other step's of the workflow. The result is
// remembered as JSON, at most client.MaxResult bytes long, and is what JSON makes of
// it in the first run, too. ctx of f carries no XID.
//
// An error of f that Is target.ErrFailed says that it had no effect; it is remembered,
// and later runs get it with its text. The step is compensated all the same, in the end. Any other error leaves open what happened, and
// so do the other errors of Step: ErrChanged, and those of tm.Manager.Register and Vote,
// which are ErrRetry, too, unless the transaction is decided. After these no more steps
// can be taken, and the workflow can't succeed.
func Step[T any](ctx context.Context, w *W, name string, f func(ctx context.Context, step StepCall) (T, error), opts ...StepOption) (T, error) {
	var v T
	result, err := w.step(ctx, name, opts, func(ctx context.Context, c StepCall) ([]byte, error) {
		v, err := f(ctx, c)
		if err != nil {
			return nil, err
		}
		return json.Marshal(v)
	})
	if err != nil {
		return v, err
	}
	if len(result) > 0 {
		if err := json.Unmarshal(result, &v); err != nil {
			return v, w.breaks(name, fmt.Errorf("its remembered result: %w (%w)", err, ErrChanged))
		}
	}
	return v, nil
}

// breaks ends the taking of steps.
func (w *W) breaks(name string, err error) error {
	w.broken = fmt.Errorf("step %q: %w", name, err)
	if errors.Is(err, ErrChanged) && !errors.Is(err, ErrRetry) {
		w.broken = fmt.Errorf("step %q: %w (%w)", name, err, ErrRetry)
	}
	return w.broken
}

func (w *W) step(ctx context.Context, name string, opts []StepOption, f func(context.Context, StepCall) ([]byte, error)) ([]byte, error) {
	if w.broken != nil {
		return nil, fmt.Errorf("step %.40q: %w: %w", name, ErrUnsure, w.broken)
	}
	call := StepCall{XID: w.id, Branch: xid.BranchOf(w.id, name), Action: target.Forward, Attempt: 1}
	r := &pb.RegisterBranchRequest{BranchId: call.Branch.String(), Mode: pb.Mode_MODE_WORKFLOW, Name: name, Plan: &pb.Plan{}}
	if err := w.check(name, r.Plan, opts); err != nil {
		return nil, w.breaks(name, err)
	}
	past, err := w.remembered(r)
	if err != nil {
		return nil, w.breaks(name, err)
	}
	w.taken++
	w.done[name] = past
	undone := r.GetPlan().GetRollback() != nil
	if undone {
		if w.last != (xid.BranchID{}) {
			r.Plan.After = []string{w.last.String()} // it is undone before that one
		}
		w.last = call.Branch
	}
	switch past.GetVote() { //nolint:exhaustive // the others have no end yet
	case pb.Vote_VOTE_YES:
		return past.GetResult(), nil
	case pb.Vote_VOTE_WITHDRAWN:
		// The text has said already that it failed for good.
		return nil, fmt.Errorf("step %q: %w", name, forGood{errors.New(past.GetVoteReason())})
	}
	registered := past != nil
	if undone && !registered {
		// Before the effect: or it could happen and nobody would undo it.
		if err := w.m.Register(ctx, w.id, r); err != nil {
			return nil, w.breaks(name, again(err))
		}
		registered = true
	}
	result, err := f(xid.NewContext(ctx, xid.ID{}), call)
	switch {
	case errors.Is(err, target.ErrFailed):
		if e := w.end(ctx, r, registered, pb.Vote_VOTE_WITHDRAWN, err.Error(), nil); e != nil {
			return nil, w.breaks(name, again(e))
		}
		return nil, fmt.Errorf("step %q: %w", name, err)
	case err != nil:
		return nil, w.breaks(name, err)
	case len(result) > client.MaxResult:
		return nil, w.breaks(name, fmt.Errorf("the result is %d bytes long; want at most %d", len(result), client.MaxResult))
	}
	if err := w.end(ctx, r, registered, pb.Vote_VOTE_YES, "", result); err != nil {
		return nil, w.breaks(name, again(err))
	}
	return result, nil
}

// check looks at what the function says of a step.
func (w *W) check(name string, p *pb.Plan, opts []StepOption) error {
	if err := target.CheckName(name); err != nil {
		return err
	}
	_, twice := w.done[name]
	switch {
	case name == self:
		return fmt.Errorf("the name is that of the workflow itself; want another one")
	case twice:
		return fmt.Errorf("the workflow has taken a step of this name already; want another one, with a number in a loop")
	case w.taken >= MaxSteps:
		return fmt.Errorf("a workflow can take %d steps", MaxSteps)
	}
	for _, o := range opts {
		if err := o(p); err != nil {
			return err
		}
	}
	if p.GetRetry() == nil && p.GetRollback() != nil && w.retry != nil {
		p.Retry = &pb.RetryPolicy{
			First: w.retry.GetFirst(), Max: w.retry.GetMax(), Percent: w.retry.GetPercent(), AttentionAfter: w.retry.GetAttentionAfter(),
		}
	}
	return nil
}

// remembered is the step of an earlier run that has to be this one; nil where there was
// none.
func (w *W) remembered(r *pb.RegisterBranchRequest) (*pb.Branch, error) {
	if w.taken >= len(w.past) {
		return nil, nil
	}
	b := w.past[w.taken]
	if b.GetName() != r.GetName() {
		return nil, fmt.Errorf("%w: it was %q before", ErrChanged, b.GetName())
	}
	was, is := address(b.GetPlan().GetRollback()), address(r.GetPlan().GetRollback())
	if was != is {
		return nil, fmt.Errorf("%w: its compensation was %s, and is %s", ErrChanged, was, is)
	}
	return b, nil
}

func address(a *pb.Action) string {
	if a == nil {
		return "none"
	}
	return a.GetUrl() + a.GetGrpc() + a.GetHandler() + " " + a.GetHandlerResource()
}

// end has a step remembered.
func (w *W) end(ctx context.Context, r *pb.RegisterBranchRequest, registered bool, v pb.Vote, reason string, result []byte) error {
	if !registered {
		if v == pb.Vote_VOTE_YES { // with one request, which is durable
			r.Vote, r.Result = v, result
			return w.m.Register(ctx, w.id, r)
		}
		if err := w.m.Register(ctx, w.id, r); err != nil {
			return err
		}
	}
	return w.m.Vote(ctx, w.id, &pb.VoteRequest{BranchId: r.GetBranchId(), Vote: v, Reason: reason, Result: result})
}

// again makes an error of the coordinator one that has the workflow tried again, unless
// it is decided.
func again(err error) error {
	if errors.Is(err, tm.ErrRolledBack) || errors.Is(err, tm.ErrCommitted) {
		return err
	}
	return fmt.Errorf("%w (%w)", err, ErrRetry)
}
