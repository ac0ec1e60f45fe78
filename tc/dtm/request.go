package dtm

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/handfast/handfast/proto/dtmgimp"
)

// Limits of what a client may send.
const (
	maxBody    = 4 << 20 // of a request, in bytes
	maxGid     = 128     // what DTM's barrier tables hold
	maxBranch  = 64      // of a branch_id and an op, in bytes
	maxSteps   = 256
	maxHeaders = 64
	maxSeconds = 10 * 365 * 24 * 3600 // of every time that an option names
)

// transType is a mode of DTM.
type transType string

const (
	saga     transType = "saga"
	msg      transType = "msg"
	tcc      transType = "tcc"
	xa       transType = "xa"
	workflow transType = "workflow"
)

// options are those of a global transaction, with the names of DTM's JSON.
type options struct {
	WaitResult     bool              `json:"wait_result,omitempty"`
	TimeoutToFail  int64             `json:"timeout_to_fail,omitempty"` // seconds, as all times
	RequestTimeout int64             `json:"request_timeout,omitempty"`
	RetryInterval  int64             `json:"retry_interval,omitempty"`
	RetryLimit     int64             `json:"retry_limit,omitempty"`
	BranchHeaders  map[string]string `json:"branch_headers,omitempty"`
	Concurrent     bool              `json:"concurrent"`
}

// request is what a client asks about a global transaction, over whatever it came.
type request struct {
	Gid            string
	Type           transType
	Steps          []map[string]string
	Payloads       [][]byte
	QueryPrepared  string
	Protocol       string // "http", "grpc" or "json-rpc"
	CustomData     string
	RollbackReason string
	Options        options
	Extra          map[string]string // of a workflow's submit
}

// jsonRequest is a request in JSON. What it does not know is ignored, as DTM does.
type jsonRequest struct {
	Gid            string              `json:"gid"`
	TransType      transType           `json:"trans_type"`
	Steps          []map[string]string `json:"steps"`
	Payloads       []string            `json:"payloads"`
	QueryPrepared  string              `json:"query_prepared"`
	Protocol       string              `json:"protocol"`
	CustomData     string              `json:"custom_data"`
	RollbackReason string              `json:"rollback_reason"`
	ReqExtra       map[string]string   `json:"req_extra"`
	options
}

// parseJSON reads a request over HTTP or JSON-RPC.
func parseJSON(body []byte) (*request, error) {
	var in jsonRequest
	if err := unmarshal(body, &in); err != nil {
		return nil, err
	}
	r := &request{
		Gid: in.Gid, Type: in.TransType, Steps: in.Steps, QueryPrepared: in.QueryPrepared,
		Protocol: cmp.Or(in.Protocol, "http"), CustomData: in.CustomData, RollbackReason: in.RollbackReason,
		Options: in.options, Extra: in.ReqExtra,
	}
	for _, p := range in.Payloads {
		r.Payloads = append(r.Payloads, []byte(p))
	}
	for _, s := range in.Steps {
		if d := s["data"]; d != "" { // where old clients have the payload
			r.Payloads = append(r.Payloads, []byte(d))
		}
	}
	return r, nil
}

// unmarshal names the field that is wrong.
func unmarshal(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	var t *json.UnmarshalTypeError
	switch {
	case errors.As(err, &t) && t.Field != "":
		return wrong(t.Field, "is a %s; want a %s", t.Value, t.Type)
	case err != nil:
		return refuse(other, "the body is no JSON of a request: %v", err)
	}
	return nil
}

// parseProto reads a request over gRPC.
func parseProto(in *dtmgimp.DtmRequest) (*request, error) {
	o := in.GetTransOptions()
	r := &request{
		Gid: in.GetGid(), Type: transType(in.GetTransType()), Payloads: in.GetBinPayloads(),
		QueryPrepared: in.GetQueryPrepared(), Protocol: "grpc", CustomData: in.GetCustomedData(),
		RollbackReason: in.GetRollbackReason(), Extra: in.GetReqExtra(),
		Options: options{
			WaitResult: o.GetWaitResult(), TimeoutToFail: o.GetTimeoutToFail(), RequestTimeout: o.GetRequestTimeout(),
			RetryInterval: o.GetRetryInterval(), RetryLimit: o.GetRetryLimit(), BranchHeaders: o.GetBranchHeaders(),
		},
	}
	if in.GetSteps() != "" {
		if err := json.Unmarshal([]byte(in.GetSteps()), &r.Steps); err != nil {
			return nil, wrong("Steps", "is no JSON array of objects with texts: %v", err)
		}
	}
	return r, nil
}

// check tells what is wrong with a request, whatever is asked.
func (r *request) check() error {
	if err := checkGid(r.Gid); err != nil {
		return err
	}
	switch r.Type {
	case saga, msg, tcc, xa, workflow:
	default:
		return wrong("trans_type", "%.40q; want saga, msg, tcc, xa or workflow", string(r.Type))
	}
	switch r.Protocol {
	case "http", "grpc", "json-rpc":
	default:
		return wrong("protocol", "%.40q; want http, grpc or json-rpc", r.Protocol)
	}
	o := &r.Options
	for _, n := range []struct {
		field string
		v     int64
	}{
		{"timeout_to_fail", o.TimeoutToFail}, {"request_timeout", o.RequestTimeout},
		{"retry_interval", o.RetryInterval}, {"retry_limit", o.RetryLimit},
	} {
		if n.v < 0 || n.v > maxSeconds {
			return wrong(n.field, "%d; want from 0 to %d", n.v, maxSeconds)
		}
	}
	if len(o.BranchHeaders) > maxHeaders {
		return wrong("branch_headers", "%d headers, at most %d", len(o.BranchHeaders), maxHeaders)
	}
	if len(r.Steps) > maxSteps {
		return wrong("steps", "%d, at most %d", len(r.Steps), maxSteps)
	}
	if r.Type == saga || r.Type == msg {
		if len(r.Payloads) < len(r.Steps) {
			return wrong("payloads", "%d for %d steps; want one for each", len(r.Payloads), len(r.Steps))
		}
		for i, s := range r.Steps {
			if s["action"] == "" {
				return wrong(fmt.Sprintf("steps[%d].action", i), "is empty; want the URL to call")
			}
		}
	}
	return nil
}

// checkGid: the gid goes into queries, headers, and the SQL of DTM's XA clients.
func checkGid(gid string) error {
	switch {
	case gid == "":
		return wrong("gid", "is empty")
	case len(gid) > maxGid:
		return wrong("gid", "%d bytes long, at most %d", len(gid), maxGid)
	}
	for _, c := range gid {
		if c < ' ' || c > '~' || strings.ContainsRune("'\"\\;`", c) {
			return wrong("gid", "%.150q holds %q; want ASCII without control characters, quotes, backslash and semicolon", gid, c)
		}
	}
	return nil
}

// checkWord is about what becomes a part of the name of a branch.
func checkWord(field, s string) error {
	if s == "" || len(s) > maxBranch || strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") != "" {
		return wrong(field, "%.100q; want from 1 to %d letters, digits, \"-\", \"_\" and \".\"", s, maxBranch)
	}
	return nil
}

// sum tells two requests apart that are about the same gid.
func (r *request) sum() []byte {
	h := sha256.New()
	add := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	add([]byte(r.Type))
	if r.Type != saga && r.Type != msg {
		return h.Sum(nil) // what else there is comes with the branches
	}
	for _, s := range r.Steps {
		for _, name := range []string{"action", "compensate"} {
			add([]byte(s[name]))
		}
	}
	for _, p := range r.Payloads[:len(r.Steps)] {
		add(p)
	}
	if r.Type == saga {
		add([]byte(r.CustomData)) // that of a message may come with its submit only
	}
	return h.Sum(nil)
}

// note is what a transaction has to remember for this package; see core.Begin.
type note struct {
	Type     transType `json:"type"`
	Protocol string    `json:"protocol,omitempty"`
	Query    string    `json:"query,omitempty"`
	Custom   string    `json:"custom,omitempty"`
	Options  options   `json:"options"`
	Sum      []byte    `json:"sum"`
}

func (r *request) note() note {
	return note{Type: r.Type, Protocol: r.Protocol, Query: r.QueryPrepared, Custom: r.CustomData, Options: r.Options, Sum: r.sum()}
}

// same tells whether a request has the content that a transaction was begun with.
func (n *note) same(r *request) bool { return bytes.Equal(n.Sum, r.sum()) }

// orders reads the custom data of a saga: which steps come after which, by their
// numbers from 0, and whether those without an order run side by side.
func (r *request) orders() (after [][]int, err error) {
	var custom struct {
		Orders     map[int][]int `json:"orders"`
		Concurrent bool          `json:"concurrent"`
	}
	if r.CustomData != "" {
		if err := json.Unmarshal([]byte(r.CustomData), &custom); err != nil {
			return nil, wrong("custom_data", "is not what a saga has there: %v", err)
		}
	}
	after = make([][]int, len(r.Steps))
	for i, before := range custom.Orders {
		for _, j := range append(before, i) {
			if j < 0 || j >= len(r.Steps) {
				return nil, wrong("custom_data.orders", "step %d of %d steps", j, len(r.Steps))
			}
		}
		after[i] = append(after[i], before...)
	}
	for i := range after {
		if !custom.Concurrent && i > 0 {
			after[i] = append(after[i], i-1)
		}
		slices.Sort(after[i])
		after[i] = slices.Compact(after[i])
	}
	return after, nil
}

// sorted gives the steps in an order in which each comes behind those that it comes
// after; an error where there is none.
func sorted(after [][]int) ([]int, error) {
	out := make([]int, 0, len(after))
	in := make([]bool, len(after))
	for len(out) < len(after) {
		before := len(out)
		for i := range after {
			if !in[i] && !slices.ContainsFunc(after[i], func(j int) bool { return !in[j] }) {
				in[i] = true
				out = append(out, i)
			}
		}
		if len(out) == before {
			return nil, wrong("custom_data.orders", "steps wait for each other in a circle")
		}
	}
	return out, nil
}
