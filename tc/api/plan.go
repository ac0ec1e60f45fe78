package api

import (
	"bytes"
	"fmt"
	"time"

	"github.com/handfast/handfast/internal/address"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Limits of plans; the wire contract names them.
const (
	maxStepName    = 128
	maxPayload     = 1 << 20
	maxResult      = 64 << 10
	maxDelay       = 30 * 24 * time.Hour
	maxCallTimeout = time.Hour
	maxSubmit      = 30 * 24 * time.Hour
	maxSubmitted   = 256 // branches in one Submit
	maxAfter       = 32  // their results go along with one call
)

func register(ref core.Ref, r *pb.RegisterBranchRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	if err != nil {
		return nil, err
	}
	b, err := parseRegister("", r)
	b.Ref, b.XID = ref, id
	return b, err
}

func (a *API) submit(ref core.Ref, r *pb.SubmitRequest) (core.Input, error) {
	id, err := parseXID("xid", r.GetXid())
	if err != nil {
		return nil, err
	}
	if n := len(r.GetBranches()); n > maxSubmitted {
		return nil, invalid("branches", "%d branches, at most %d", n, maxSubmitted)
	}
	in := core.Submit{Ref: ref, XID: id}
	most := maxSubmit
	for i, br := range r.GetBranches() {
		at := fmt.Sprintf("branches[%d].", i)
		if br.GetXid() != "" && br.GetXid() != r.GetXid() {
			return nil, invalid(at+"xid", "is that of another transaction")
		}
		b, err := parseRegister(at, br)
		if err != nil {
			return nil, err
		}
		if b.Plan == nil {
			most = maxTimeout
		}
		in.Branches = append(in.Branches, b)
	}
	if r.GetTimeout() != nil {
		timeout, err := duration("timeout", r.GetTimeout(), 0, time.Millisecond, most)
		if err != nil {
			return nil, err
		}
		in.Deadline = a.eng.Now().Add(timeout)
	}
	return in, nil
}

// parseRegister reads all but the XID. at is what the names of its fields begin with.
func parseRegister(at string, r *pb.RegisterBranchRequest) (in core.Register, err error) {
	if in.Branch, err = parseBranch(at+"branch_id", r.GetBranchId()); err != nil {
		return in, err
	}
	if r.GetResourceId() != "" || r.GetPlan() == nil {
		if in.Resource, err = parseResource(at+"resource_id", r.GetResourceId()); err != nil {
			return in, err
		}
	}
	in.Mode, in.Name, in.Vote, in.Result = core.Mode(r.GetMode()), r.GetName(), core.Vote(r.GetVote()), some(r.GetResult())
	switch r.GetMode() { //nolint:exhaustive // the others are refused
	case pb.Mode_MODE_AT, pb.Mode_MODE_XA:
		if r.GetPlan() != nil {
			return in, invalid(at+"plan", "a branch of %s has none", r.GetMode())
		}
	case pb.Mode_MODE_TCC, pb.Mode_MODE_SAGA, pb.Mode_MODE_MESSAGE, pb.Mode_MODE_WORKFLOW:
		if r.GetPlan() == nil {
			return in, invalid(at+"plan", "is missing; a branch of %s needs one", r.GetMode())
		}
	default:
		return in, invalid(at+"mode", "%s, want MODE_AT, MODE_XA, MODE_TCC, MODE_SAGA, MODE_MESSAGE or MODE_WORKFLOW", r.GetMode())
	}
	if v := r.GetVote(); v != pb.Vote_VOTE_UNSPECIFIED && v != pb.Vote_VOTE_YES {
		return in, invalid(at+"vote", "%s, want VOTE_YES or none", v)
	}
	if err := checkStepName(at+"name", r.GetName()); err != nil {
		return in, err
	}
	if err := checkResult(at+"result", r.GetResult()); err != nil {
		return in, err
	}
	if r.GetPlan() != nil {
		if in.Plan, err = parsePlan(at+"plan.", r.GetPlan()); err == nil {
			err = checkDialects(at+"plan.", in.Mode, in.Plan)
		}
	}
	return in, err
}

// some makes nil of nothing: the wire does not tell them apart, and neither may
// the log.
func some(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// checkStepName: the name has to fit into a reference.
func checkStepName(field, s string) error {
	if len(s) > maxStepName {
		return invalid(field, "%d bytes long, at most %d", len(s), maxStepName)
	}
	for i := range len(s) {
		if c := s[i]; c != '_' && c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return invalid(field, "%q may hold letters, digits, \"_\" and \"-\" only", s)
		}
	}
	return nil
}

func checkResult(field string, b []byte) error {
	if len(b) > maxResult {
		return invalid(field, "%d bytes long, at most %d", len(b), maxResult)
	}
	return nil
}

func parsePlan(at string, p *pb.Plan) (*core.Plan, error) {
	out := &core.Plan{}
	for _, x := range []struct {
		field string
		from  *pb.Action
		to    *core.Action
	}{{"forward", p.GetForward(), &out.Forward}, {"commit", p.GetCommit(), &out.Commit}, {"rollback", p.GetRollback(), &out.Rollback}} {
		if x.from == nil {
			continue
		}
		if err := parseAction(at+x.field+".", x.from, x.to); err != nil {
			return nil, err
		}
	}
	if n := len(p.GetAfter()); n > maxAfter {
		return nil, invalid(at+"after", "%d branches, at most %d", n, maxAfter)
	}
	for i, text := range p.GetAfter() {
		id, err := parseBranch(fmt.Sprintf("%safter[%d]", at, i), text)
		if err != nil {
			return nil, err
		}
		out.After = append(out.After, id)
	}
	return out, parseRetry(at+"retry.", p.GetRetry(), &out.Retry)
}

// checkDialects refuses what DTM has no name for, and names what it has one for that
// does not follow from mode and operation.
func checkDialects(at string, mode core.Mode, p *core.Plan) error {
	const dtm = core.DialectDTM
	steps := mode == core.ModeSaga || mode == core.ModeMessage
	switch {
	case p.Forward.Dialect == dtm && mode == core.ModeWorkflow:
		return invalid(at+"forward.dialect", "a branch of MODE_WORKFLOW is not called in DTM's dialect: its service would not tell the result")
	case p.Commit.Dialect == dtm && mode != core.ModeTCC && (!steps || p.Forward.Kind != core.TargetNone):
		return invalid(at+"commit.dialect", "DTM knows the commit of TCC, and that of a saga or a message without a forward")
	case p.Rollback.Dialect == dtm && mode != core.ModeTCC && mode != core.ModeSaga:
		return invalid(at+"rollback.dialect", "DTM knows the rollback of TCC and of a saga")
	case p.Forward.Dialect == dtm && mode == core.ModeMessage:
		p.Forward.Verb = "msg" // a check-back
	}
	return nil
}

func parseRetry(at string, r *pb.RetryPolicy, out *core.Retry) (err error) {
	if out.First, err = duration(at+"first", r.GetFirst(), 0, time.Millisecond, maxDelay); err != nil {
		return err
	}
	if out.Max, err = duration(at+"max", r.GetMax(), 0, time.Millisecond, maxDelay); err != nil {
		return err
	}
	if p := r.GetPercent(); p != 0 && (p < 100 || p > 1000) {
		return invalid(at+"percent", "%d, want 100 to 1000", p)
	}
	out.Percent, out.Attempts, out.Attention = r.GetPercent(), r.GetAttempts(), r.GetAttentionAfter()
	return nil
}

func parseAction(at string, a *pb.Action, out *core.Action) (err error) {
	targets := 0
	for _, s := range []string{a.GetUrl(), a.GetGrpc(), a.GetHandler()} {
		if s != "" {
			targets++
		}
		if len(s) > address.MaxLen {
			return invalid(at+"url", "an address of %d bytes, at most %d", len(s), address.MaxLen)
		}
	}
	if targets != 1 {
		return invalid(at+"url", "want exactly one of url, grpc and handler, got %d", targets)
	}
	kind, parseURL := address.Handler, address.ParseHTTP
	switch d := a.GetDialect(); {
	case d == pb.Dialect_DIALECT_UNSPECIFIED:
	case d != pb.Dialect_DIALECT_DTM:
		return invalid(at+"dialect", "%s, want DIALECT_DTM or none", d)
	case a.GetHandler() != "":
		return invalid(at+"dialect", "%s is for url and grpc; a handler has none", d)
	default:
		out.Dialect, parseURL = core.DialectDTM, address.ParsePlainHTTP
	}
	switch {
	case a.GetUrl() != "":
		kind = address.HTTP
		err = parseAddress(at+"url", a.GetUrl(), parseURL, out)
	case a.GetGrpc() != "":
		kind = address.GRPC
		err = parseAddress(at+"grpc", a.GetGrpc(), address.ParseGRPC, out)
	default:
		err = parseHandler(at, a, out)
	}
	if err != nil {
		return err
	}
	if n := len(a.GetPayload()); n > maxPayload {
		return invalid(at+"payload", "%d bytes long, at most %d", n, maxPayload)
	}
	out.Payload = some(a.GetPayload())
	if out.Delay, err = duration(at+"delay", a.GetDelay(), 0, 0, maxDelay); err != nil {
		return err
	}
	if out.Timeout, err = duration(at+"timeout", a.GetTimeout(), 0, time.Millisecond, maxCallTimeout); err != nil {
		return err
	}
	return parseHeaders(at+"headers", kind, a.GetHeaders(), out)
}

func parseHandler(at string, a *pb.Action, out *core.Action) (err error) {
	out.Kind, out.Address, out.Group = core.TargetHandler, a.GetHandler(), a.GetHandlerGroup()
	if err = checkName(at+"handler", out.Address); err != nil {
		return err
	}
	if out.Lane, err = parseResource(at+"handler_resource", a.GetHandlerResource()); err != nil || out.Group == "" {
		return err
	}
	// People look for the services by this name: it has to be theirs.
	if r := xid.ResourceOf(out.Group); r != out.Lane {
		return invalid(at+"handler_group", "%.40q has handler_resource %s, want %s, or no group where it is a database", out.Group, out.Lane, r)
	}
	return checkName(at+"handler_group", out.Group)
}

func parseAddress(field, s string, parse func(string) (address.Address, error), out *core.Action) error {
	to, err := parse(s)
	if err != nil {
		return invalid(field, "%v", err)
	}
	out.Kind, out.Address, out.Lane = core.TargetHTTP, s, to.Lane()
	if to.Kind == address.GRPC {
		out.Kind = core.TargetGRPC
	}
	return nil
}

func parseHeaders(field string, kind address.Kind, hs []*pb.Header, out *core.Action) error {
	if len(hs) > address.MaxHeaders {
		return invalid(field, "%d headers, at most %d", len(hs), address.MaxHeaders)
	}
	size := 0
	for i, h := range hs {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := address.CheckHeaderName(kind, h.GetName()); err != nil {
			return invalid(at+".name", "%v", err)
		}
		if err := address.CheckHeaderValue(kind, h.GetName(), h.GetValue()); err != nil {
			return invalid(at+".value", "%v", err)
		}
		size += len(h.GetName()) + len(h.GetValue())
		out.Header = append(out.Header, core.Header{Name: h.GetName(), Value: h.GetValue()})
	}
	if size > address.MaxHeaderBytes {
		return invalid(field, "%d bytes long, at most %d", size, address.MaxHeaderBytes)
	}
	return nil
}

func wirePlan(p *core.Plan) *pb.Plan {
	if p == nil {
		return nil
	}
	out := &pb.Plan{Forward: wireAction(&p.Forward), Commit: wireAction(&p.Commit), Rollback: wireAction(&p.Rollback)}
	for _, id := range p.After {
		out.After = append(out.After, id.String())
	}
	if r := p.Retry; r != (core.Retry{}) {
		out.Retry = &pb.RetryPolicy{
			First: wireDuration(r.First), Max: wireDuration(r.Max), Percent: r.Percent, Attempts: r.Attempts, AttentionAfter: r.Attention,
		}
	}
	return out
}

// wireAction leaves out the payload and the values of headers: they may be
// secret, and are long.
func wireAction(a *core.Action) *pb.Action {
	out := &pb.Action{Delay: wireDuration(a.Delay), Timeout: wireDuration(a.Timeout)}
	switch a.Kind {
	case core.TargetNone:
		return nil
	case core.TargetHTTP:
		out.Url = a.Address
	case core.TargetGRPC:
		out.Grpc = a.Address
	case core.TargetHandler:
		out.Handler, out.HandlerResource, out.HandlerGroup = a.Address, a.Lane.String(), a.Group
	}
	if a.Dialect != core.DialectHandfast {
		out.Dialect = pb.Dialect_DIALECT_DTM
	}
	for _, h := range a.Header {
		out.Headers = append(out.Headers, &pb.Header{Name: h.Name})
	}
	return out
}

func wireProgress(p *core.Progress) *pb.Progress {
	if *p == (core.Progress{}) {
		return nil
	}
	return &pb.Progress{
		Attempts: p.Attempts, Failures: p.Failures, LastError: p.LastError,
		LastAttemptTime: wireTime(p.Last), NextAttemptTime: wireTime(p.Next), Attention: p.Attention,
	}
}

func wireCall(c *core.Call, payload []byte) *pb.Call {
	out := &pb.Call{
		Xid: c.XID.String(), BranchId: c.Branch.String(), Op: pb.Op(c.Op), Attempt: c.Attempt, Mode: wireMode(c.Mode), Name: c.Name,
		HandlerResource: c.Action.Lane.String(), Handler: c.Action.Address, Payload: payload,
		Timeout: wireDuration(callTimeout(c.Action)), Own: c.Own,
	}
	for _, h := range c.Action.Header {
		out.Headers = append(out.Headers, &pb.Header{Name: h.Name, Value: h.Value})
	}
	for _, r := range c.Before {
		out.Before = append(out.Before, &pb.StepResult{Name: r.Name, Value: bytes.Clone(r.Value)})
	}
	return out
}

// defaultCallTimeout is how long a call may take that does not say.
const defaultCallTimeout = 10 * time.Second

func callTimeout(a *core.Action) time.Duration {
	if a.Timeout == 0 {
		return defaultCallTimeout
	}
	return a.Timeout
}
