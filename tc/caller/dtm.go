package caller

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/tc/core"
)

// The words of DTM that mean what 409 and 425 mean, wherever they stand in a body.
const (
	dtmFailure = "FAILURE"
	dtmOngoing = "ONGOING"
)

// maxScan is how much of an answer in DTM's dialect is looked at, in bytes.
const maxScan = 4 << 20

// calledBack is about a workflow whose service was reached: what it answers is no result.
const calledBack = "called back; the workflow has not told its result yet"

// dtmIdentity is what DTM tells whoever it calls.
type dtmIdentity struct{ gid, transType, branch, op string }

// each gives the names that are the same in a URL's query, in metadata and in JSON.
func (id dtmIdentity) each(set func(name, value string)) {
	set("gid", id.gid)
	set("trans_type", id.transType)
	set("branch_id", id.branch)
	set("op", id.op)
}

var dtmTypes = map[core.Mode]string{
	core.ModeSaga: "saga", core.ModeMessage: "msg", core.ModeTCC: "tcc", core.ModeXA: "xa", core.ModeWorkflow: "workflow",
}

type modeOp struct {
	mode core.Mode
	op   core.Op
}

// dtmOps are the operations that have a name without Action.Verb.
var dtmOps = map[modeOp]string{
	{core.ModeSaga, core.OpForward}:    "action",
	{core.ModeSaga, core.OpRollback}:   "compensate",
	{core.ModeMessage, core.OpForward}: "action",
	{core.ModeTCC, core.OpForward}:     "try",
	{core.ModeTCC, core.OpCommit}:      "confirm",
	{core.ModeTCC, core.OpRollback}:    "cancel",
	{core.ModeXA, core.OpCommit}:       "commit",
	{core.ModeXA, core.OpRollback}:     "rollback",
}

// identify puts a call into DTM's words.
func identify(c *core.Call) (dtmIdentity, error) {
	id := dtmIdentity{gid: c.Key, transType: dtmTypes[c.Mode], branch: c.Branch.String(), op: c.Action.Verb}
	if id.gid == "" {
		id.gid = c.XID.String()
	} else if c.Name != "" {
		id.branch = c.Name
	}
	if id.op == "" {
		id.op = dtmOps[modeOp{c.Mode, c.Op}]
	}
	if id.transType == "" || id.op == "" {
		return id, fmt.Errorf("action %d of mode %d has no name in DTM's dialect", c.Op, c.Mode)
	}
	return id, nil
}

// withoutCall answers what DTM does not call at all: an empty address.
func withoutCall(c *core.Call) (r result, nothing bool) {
	switch a := c.Action; {
	case a == nil || a.Dialect == core.DialectHandfast || a.Address != "",
		a.Kind != core.TargetHTTP && a.Kind != core.TargetGRPC:
		return result{}, false
	case c.Mode == core.ModeWorkflow:
		return result{verdict: core.NotYet, text: "nobody is called back: the workflow has no address"}, true
	default:
		return result{verdict: core.Done}, true
	}
}

// attemptDTM calls in DTM's dialect.
func (c *Caller) attemptDTM(ctx context.Context, j *job) result {
	id, err := identify(&j.call)
	if err == nil {
		err = checkDTMHeaders(j, id)
	}
	if err != nil {
		return mistake("%v", err)
	}
	var r result
	switch {
	case j.to.Kind == address.HTTP:
		r = c.http.callDTM(ctx, j, id)
	case j.call.Action.Dialect == core.DialectDTMRPC:
		return mistake("grpc %.80q: JSON-RPC goes over HTTP", j.call.Action.Address)
	default:
		r = c.grpc.callDTM(ctx, j, id)
	}
	switch {
	case j.call.Mode == core.ModeWorkflow:
		return callback(r)
	case r.verdict == core.Failed && !mayRefuse(&j.call):
		r.verdict = core.Unsure
	}
	return r
}

// mayRefuse tells whether a no counts. All else has to happen, so DTM takes a no for
// something that is tried again.
func mayRefuse(c *core.Call) bool {
	return c.Op == core.OpForward && (c.Mode != core.ModeMessage || c.Action.Verb == "msg")
}

// callback reads the answer of a workflow's service. It can't tell how the workflow ends:
// only what its client submits does.
func callback(r result) result {
	switch r.verdict {
	case core.Done:
		return result{verdict: core.NotYet, text: calledBack}
	case core.Failed, core.NotYet, core.Unsure:
	}
	r.verdict = core.Unsure
	return r
}

// checkDTMHeaders tells what can't be sent. Over HTTP that is less than for our own
// actions: DTM sends any text.
func checkDTMHeaders(j *job, id dtmIdentity) error {
	for _, h := range j.call.Action.Header {
		var err error
		if j.to.Kind == address.GRPC {
			err = address.CheckHeader(j.to.Kind, h.Name, h.Value)
		} else if err = address.CheckHeaderName(j.to.Kind, h.Name); err == nil && !httpguts.ValidHeaderFieldValue(h.Value) {
			err = fmt.Errorf("the value of %.40q holds a character that no header may hold", h.Name)
		}
		if err != nil {
			return fmt.Errorf("a header can't be sent: %w", err)
		}
	}
	if j.to.Kind != address.GRPC {
		return nil
	}
	var err error
	id.each(func(name, value string) {
		if wrong := address.CheckHeaderValue(address.GRPC, name, value); wrong != nil {
			err = fmt.Errorf("metadata can't be sent: the value of %s %w", name, wrong)
		}
	})
	return err
}

// refusal is the text that DTM shows as the reason of a rollback.
func refusal(url, why string) string {
	const room = maxText - len(" "+dtmFailure)
	text := strings.TrimSpace("url:" + url + " return failed: " + strings.TrimSpace(why))
	if len(text) > maxText {
		text = text[:room]
	}
	if !strings.Contains(text, dtmFailure) {
		text = text[:min(len(text), room)] + " " + dtmFailure
	}
	return text
}

func tooLongDTM(j *job) result {
	return mistake("%s: the answer is longer than 4 MiB", j.to.Host)
}

// dtmCodec sends messages as they are, and takes none: DTM has no use for a reply.
type dtmCodec struct{ rawCodec }

// Name makes the content type application/grpc, without more.
func (dtmCodec) Name() string { return "" }

func (dtmCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func (g *grpcCalls) callDTM(ctx context.Context, j *job, id dtmIdentity) result {
	given := j.call.Action.Header
	md := make(metadata.MD, 5+len(given))
	id.each(func(name, value string) { md.Set("dtm-"+name, value) })
	md.Set("dtm-dtm", "") // who would register a branch asks the server that began
	for _, h := range given {
		md.Append(h.Name, h.Value)
	}
	return g.invoke(metadata.NewOutgoingContext(ctx, md), j, j.call.Action.Payload, judgeDTMStatus,
		grpc.ForceCodecV2(dtmCodec{}), grpc.MaxCallRecvMsgSize(maxScan))
}

// judgeDTMStatus says what a status other than OK means to DTM. It knows Handfast's own
// errors as the native dialect does: no branch of DTM has them as its word.
func judgeDTMStatus(j *job, st *status.Status) result {
	word := st.Code() == codes.Aborted || st.Code() == codes.FailedPrecondition
	switch {
	case isTooLong(st):
		return tooLongDTM(j)
	case !word || ours(st):
		r := judgeStatus(j, st)
		r.attention = false // DTM tries again as after any other error
		return r
	case st.Code() == codes.Aborted && st.Message() != dtmOngoing:
		return result{verdict: core.Failed, text: refusal(j.call.Action.Address, st.Message())}
	default:
		return notYet(st.Message(), j.to.Host+" answered "+st.Code().String())
	}
}

// notYet shows what was said, or else what it was said with.
func notYet(said, with string) result {
	if cut(said) == "" {
		said = with
	}
	return result{verdict: core.NotYet, text: said}
}
