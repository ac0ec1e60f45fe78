package dtm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// What DTM has where an option says nothing.
const (
	defaultTimeout  = 35 * time.Second // of msg, tcc and xa
	defaultRequest  = 3 * time.Second
	defaultInterval = 10 * time.Second
)

// firstRetry is the first pause after a failure where no option names one. DTM waits for
// defaultInterval.
const firstRetry = time.Second

// longestRetry is the longest pause after a failure, unless an option names a longer
// first one. DTM doubles it without end.
const longestRetry = time.Minute

// zero is the branch_id of the calls that are about the whole transaction: asking the
// sender of a message, and calling a workflow back.
const zero = "00"

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// interval is how soon something is asked again that is not over.
func (o *options) interval() time.Duration {
	switch {
	case o.RetryInterval > 0:
		return seconds(o.RetryInterval)
	case o.TimeoutToFail > 0 && seconds(o.TimeoutToFail) < defaultInterval:
		return seconds(o.TimeoutToFail)
	default:
		return defaultInterval
	}
}

func (o *options) retry() core.Retry {
	first := min(o.interval(), firstRetry)
	if o.RetryInterval > 0 {
		first = o.interval()
	}
	return core.Retry{First: first, Max: max(first, longestRetry), Poll: o.interval()}
}

func (o *options) timeout() time.Duration {
	if o.TimeoutToFail > 0 {
		return seconds(o.TimeoutToFail)
	}
	return defaultTimeout
}

func (o *options) request() time.Duration {
	if o.RequestTimeout > 0 {
		return seconds(o.RequestTimeout)
	}
	return defaultRequest
}

// planner makes the actions of one transaction.
type planner struct {
	id       xid.ID
	protocol string
	opts     *options
	headers  []core.Header
}

func newPlanner(id xid.ID, protocol string, o *options) *planner {
	p := &planner{id: id, protocol: protocol, opts: o}
	for name, value := range o.BranchHeaders {
		p.headers = append(p.headers, core.Header{Name: name, Value: value})
	}
	slices.SortFunc(p.headers, func(a, b core.Header) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

func (p *planner) branch(name string) xid.BranchID { return xid.BranchOf(p.id, name) }

// action makes the action for an address; none for an empty one, which DTM takes for
// success without a call.
func (p *planner) action(field, addr string, payload []byte) (core.Action, error) {
	if addr == "" {
		return core.Action{}, nil
	}
	a := core.Action{
		Kind: core.TargetHTTP, Address: addr, Payload: payload, Header: p.headers,
		Timeout: p.opts.request(), Dialect: core.DialectDTM,
	}
	var to address.Address
	var err error
	switch isHTTP := strings.HasPrefix(addr, "http://") || strings.HasPrefix(addr, "https://"); {
	case len(addr) > maxAddress:
		return a, wrong(field, "%d bytes long, at most %d", len(addr), maxAddress)
	case isHTTP || p.protocol == "http":
		to, err = address.ParseHTTP(addr)
		if p.protocol == "json-rpc" && strings.Contains(addr, "method") {
			a.Dialect = core.DialectDTMRPC
			if !jsonObject(payload) {
				return a, wrong(field, "is called over JSON-RPC with a payload that is no JSON object")
			}
		}
	default:
		a.Kind = core.TargetGRPC
		to, err = address.ParseGRPC(addr)
	}
	if err != nil {
		return a, wrong(field, "%v", err)
	}
	for _, h := range p.headers {
		if err := checkHeader(to.Kind, h); err != nil {
			return a, wrong("branch_headers", "%v", err)
		}
	}
	a.Lane = to.Lane()
	return a, nil
}

// checkHeader: over HTTP a value may be any text, as with DTM.
func checkHeader(kind address.Kind, h core.Header) error {
	if kind == address.GRPC {
		return address.CheckHeader(kind, h.Name, h.Value)
	}
	if !httpguts.ValidHeaderFieldValue(h.Value) {
		return fmt.Errorf("the value of %.40q holds a character that no header may hold", h.Name)
	}
	return address.CheckHeaderName(kind, h.Name)
}

// maxAddress is the longest URL, in bytes.
const maxAddress = 8 << 10

func jsonObject(payload []byte) bool {
	var o map[string]json.RawMessage
	return len(payload) == 0 || json.Unmarshal(payload, &o) == nil && o != nil
}

// saga makes the branches of a saga, each behind those that it comes after.
func (p *planner) saga(r *request) ([]core.Register, error) {
	after, err := r.orders()
	if err != nil {
		return nil, err
	}
	order, err := sorted(after)
	if err != nil {
		return nil, err
	}
	retry := p.opts.retry()
	if p.opts.RetryLimit > 0 {
		retry.Attempts = uint32(min(p.opts.RetryLimit, 1<<31)) + 1
	}
	out := make([]core.Register, 0, len(order))
	for _, i := range order {
		plan := &core.Plan{Retry: retry}
		at := fmt.Sprintf("steps[%d].", i)
		if plan.Forward, err = p.action(at+"action", r.Steps[i]["action"], r.Payloads[i]); err != nil {
			return nil, err
		}
		if plan.Rollback, err = p.action(at+"compensate", r.Steps[i]["compensate"], r.Payloads[i]); err != nil {
			return nil, err
		}
		for _, j := range after[i] {
			plan.After = append(plan.After, p.branch(stepName(j)))
		}
		out = append(out, core.Register{Branch: p.branch(stepName(i)), Mode: core.ModeSaga, Name: stepName(i), Plan: plan})
	}
	return out, nil
}

func stepName(i int) string { return fmt.Sprintf("%02d", i+1) }

// deliveries makes the branches of a message. topic gives the addresses of those who
// have subscribed.
func (p *planner) deliveries(r *request, delay time.Duration, topic func(string) ([]string, error)) ([]core.Register, error) {
	var out []core.Register
	for i, s := range r.Steps {
		field := fmt.Sprintf("steps[%d].action", i)
		to := []string{s["action"]}
		if name, ok := strings.CutPrefix(s["action"], "topic://"); ok {
			var err error
			if to, err = topic(name); err != nil {
				return nil, err
			}
		}
		if n := len(out) + len(to); n > maxDeliveries {
			return nil, wrong("steps", "they go to %d subscribers and more, at most %d", n, maxDeliveries)
		}
		for j, addr := range to {
			a, err := p.action(field, addr, r.Payloads[i])
			if err != nil {
				return nil, err
			}
			a.Delay = delay
			name := stepName(i)
			if len(to) > 1 {
				name += "-" + stepName(j)
			}
			b := core.Register{
				Branch: p.branch(name), Mode: core.ModeMessage, Name: name, Vote: core.VoteYes,
				Plan: &core.Plan{Commit: a, Retry: p.opts.retry()},
			}
			if n := len(out); n > 0 && !p.opts.Concurrent {
				b.Plan.After = []xid.BranchID{out[n-1].Branch}
			}
			out = append(out, b)
		}
	}
	return out, nil
}

// delayOf is how long after its submit a message is delivered.
func (r *request) delayOf() (time.Duration, error) {
	if r.CustomData == "" {
		return 0, nil
	}
	var custom struct{ Delay uint64 }
	if err := json.Unmarshal([]byte(r.CustomData), &custom); err != nil {
		return 0, wrong("custom_data", "is not what a message has there: %v", err)
	}
	if custom.Delay > maxSeconds {
		return 0, wrong("custom_data.delay", "%d; want at most %d", custom.Delay, maxSeconds)
	}
	return seconds(int64(custom.Delay)), nil
}

// checkBack makes the branch that asks the sender of a message what became of it. DTM
// takes no URL for a yes.
func (p *planner) checkBack(r *request) (core.Register, error) {
	b := core.Register{Branch: p.branch(zero), Mode: core.ModeMessage, Name: zero, Plan: &core.Plan{Retry: p.opts.retry()}}
	a, err := p.action("query_prepared", r.QueryPrepared, nil)
	if r.QueryPrepared == "" {
		a = core.Action{Kind: core.TargetHTTP, Dialect: core.DialectDTM}
	}
	a.Verb, a.Delay = "msg", p.opts.timeout()
	b.Plan.Forward = a
	return b, err
}

// callBack makes the branch that calls a workflow back for as long as it has no result.
func (p *planner) callBack(r *request) (core.Register, error) {
	b := core.Register{Branch: p.branch(zero), Mode: core.ModeWorkflow, Name: zero}
	custom, err := readFlow(r.CustomData)
	if err != nil {
		return b, err
	}
	if err := address.CheckHeaderValue(address.GRPC, "dtm-op", custom.Name); err != nil && p.protocol == "grpc" {
		return b, wrong("custom_data.name", "%.150q goes along with calls over gRPC, and %v", custom.Name, err)
	}
	payload := custom.Data
	if p.protocol == "grpc" && len(payload) > 0 { // workflow.WorkflowData
		payload = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), payload)
	}
	a, err := p.action("query_prepared", r.QueryPrepared, payload)
	if r.QueryPrepared == "" {
		err = wrong("query_prepared", "is empty; want the URL that goes on with the workflow")
	}
	a.Verb, a.Delay = custom.Name, p.opts.interval()
	every := p.opts.interval()
	b.Plan = &core.Plan{Forward: a, Retry: core.Retry{First: every, Max: max(every, longestRetry), Poll: every}}
	return b, err
}

// confirm makes a branch of TCC; before is the one that was registered last.
func (p *planner) confirm(d map[string]string, payload []byte, before []xid.BranchID) (core.Register, error) {
	b := core.Register{
		Branch: p.branch(d["branch_id"]), Mode: core.ModeTCC, Name: d["branch_id"], Vote: core.VoteYes, Fresh: true,
		Plan: &core.Plan{After: before, LastFirst: true, Retry: p.opts.retry()},
	}
	var err error
	if b.Plan.Commit, err = p.action("confirm", d["confirm"], payload); err != nil {
		return b, err
	}
	b.Plan.Rollback, err = p.action("cancel", d["cancel"], payload)
	return b, err
}

// second makes a branch of XA, whose second phase is called at one URL.
func (p *planner) second(d map[string]string) (core.Register, error) {
	a, err := p.action("url", d["url"], nil)
	return core.Register{
		Branch: p.branch(d["branch_id"]), Mode: core.ModeXA, Name: d["branch_id"], Vote: core.VoteYes, Fresh: true,
		Plan: &core.Plan{Commit: a, Rollback: a, Retry: p.opts.retry()},
	}, err
}

// progress makes the branch that remembers the result of a step of a workflow.
func (p *planner) progress(d map[string]string, result []byte) core.Register {
	name := d["branch_id"] + "-" + d["op"]
	return core.Register{
		Branch: p.branch(name), Mode: core.ModeWorkflow, Name: name, Vote: core.VoteYes, Fresh: true,
		Plan: &core.Plan{}, Result: append([]byte{statusByte(d["status"])}, result...),
	}
}

// A result of a step begins with how it ended.
const (
	stepSucceed = 's'
	stepFailed  = 'f'
)

func statusByte(status string) byte {
	if status == string(failed) {
		return stepFailed
	}
	return stepSucceed
}
