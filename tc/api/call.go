package api

import (
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
)

// Caller makes the calls that go to an address. Call must not block; the answer
// to each goes to the engine as core.Called, or is lost: it is called again.
type Caller interface {
	Call(core.Call)
}

// Expand fills in the references of a payload; see Config.Expand.
type Expand func(payload []byte, before []core.Result, own []byte) ([]byte, error)

// Call implements engine.Deliverer.
func (d delivery) Call(c core.Call) {
	a := d.a
	if c.Action.Kind != core.TargetHandler {
		if a.cfg.Caller == nil {
			a.refuseCall(&c, "this coordinator calls no addresses")
			return
		}
		a.cfg.Caller.Call(c)
		return
	}
	payload := c.Action.Payload
	if a.cfg.Expand != nil {
		var err error
		if payload, err = a.cfg.Expand(payload, c.Before, c.Own); err != nil {
			a.refuseCall(&c, err.Error())
			return
		}
	}
	call := wireCall(&c, payload)
	call.Incarnation = a.eng.Identity().Incarnation
	f := &pb.ServerFrame{Kind: &pb.ServerFrame_Call{Call: call}}
	a.hub.call(c.Action.Lane, handled{c.XID, c.Branch, c.Op, c.Attempt}, f)
}

// refuseCall answers a call that can't be made, and could not be made later.
func (a *API) refuseCall(c *core.Call, why string) {
	a.eng.Post(core.Called{
		XID: c.XID, Branch: c.Branch, Op: c.Op, Attempt: c.Attempt, Verdict: core.Unsure, Text: why, NeedsAttention: true,
	})
}

// calledBack hands the answer of a handler to the engine.
func (s *session) calledBack(r *pb.CallResult) error {
	id, err := parseXID("call_result.xid", r.GetXid())
	if err != nil {
		return err
	}
	branch, err := parseBranch("call_result.branch_id", r.GetBranchId())
	if err != nil {
		return err
	}
	if o := r.GetOp(); o < pb.Op_OP_FORWARD || o > pb.Op_OP_ROLLBACK {
		return invalid("call_result.op", "%s, want OP_FORWARD, OP_COMMIT or OP_ROLLBACK", o)
	}
	if r.GetIncarnation() == 0 {
		return invalid("call_result.incarnation", "0, want that of the call: answers without it would not count")
	}
	if err := checkResult("call_result.result", r.GetResult()); err != nil {
		return err
	}
	in := core.Called{
		XID: id, Branch: branch, Op: core.Op(r.GetOp()), Attempt: r.GetAttempt(), Text: cut(r.GetError()),
		Result: some(r.GetResult()), NeedsAttention: r.GetNeedsAttention(),
	}
	if r.GetIncarnation() == s.a.eng.Identity().Incarnation {
		s.handled(handled{id, branch, in.Op, in.Attempt})
	} else {
		in.Attempt = 0 // of before a restart: none that this coordinator has made
	}
	switch r.GetVerdict() { //nolint:exhaustive // the others are refused
	case pb.Verdict_VERDICT_DONE:
		in.Verdict = core.Done
	case pb.Verdict_VERDICT_FAILED:
		in.Verdict = core.Failed
	case pb.Verdict_VERDICT_NOT_YET:
		in.Verdict = core.NotYet
	case pb.Verdict_VERDICT_UNSURE:
		in.Verdict = core.Unsure
	default:
		return invalid("call_result.verdict", "%s, want DONE, FAILED, NOT_YET or UNSURE", r.GetVerdict())
	}
	if err := s.a.eng.SubmitWait(s.ctx, in); err != nil {
		return engineError(err)
	}
	return nil
}
