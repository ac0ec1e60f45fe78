//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/proto/dtmgimp"
)

// front is how the caller reaches the coordinator as a client of DTM would.
type front struct {
	web  string // URL
	http *http.Client
	grpc dtmgimp.DtmClient
}

func (p part) front() (*front, func() error, error) {
	cc, err := grpc.NewClient("passthrough:///"+p.DTM[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, nil, err
	}
	return &front{web: "http://" + p.DTM[0], http: web(http.DefaultTransport), grpc: dtmgimp.NewDtmClient(cc)}, cc.Close, nil
}

// trans is a global transaction, with the names of DTM's JSON.
type trans struct {
	Gid            string              `json:"gid"`
	TransType      string              `json:"trans_type"`
	Steps          []map[string]string `json:"steps,omitempty"`
	Payloads       []string            `json:"payloads,omitempty"`
	QueryPrepared  string              `json:"query_prepared,omitempty"`
	CustomData     string              `json:"custom_data,omitempty"`
	WaitResult     bool                `json:"wait_result,omitempty"`
	TimeoutToFail  int64               `json:"timeout_to_fail,omitempty"`
	RequestTimeout int64               `json:"request_timeout,omitempty"`
	RetryInterval  int64               `json:"retry_interval,omitempty"`

	protocol string
}

// The protocols that a client of DTM may speak.
const (
	overHTTP = "http"
	overRPC  = "json-rpc"
	overGRPC = "grpc"
)

// reply is what a client of DTM makes of an answer.
type reply int

const (
	lost   reply = iota // nothing is known
	yes                 // SUCCESS
	no                  // FAILURE
	notYet              // ONGOING
	wrong               // the request itself
)

// call asks for something about a transaction. branch is that of registerBranch, and nil
// for all else.
func (f *front) call(ctx context.Context, method string, t *trans, branch map[string]string) (reply, string) {
	switch t.protocol {
	case overGRPC:
		return f.callGRPC(ctx, method, t, branch)
	case overRPC:
		return f.callRPC(ctx, method, t, branch)
	default:
		return f.callHTTP(ctx, method, t, branch)
	}
}

// body is a request in JSON.
func (t *trans) body(branch map[string]string) any {
	if branch == nil {
		return t
	}
	flat := map[string]string{"gid": t.Gid, "trans_type": t.TransType, "data": "{}"}
	for k, v := range branch {
		flat[k] = v
	}
	return flat
}

// post gives the whole answer, or none.
func (f *front) post(ctx context.Context, path string, body any) (int, []byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.web+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return f.send(r)
}

func (f *front) send(r *http.Request) (int, []byte, error) {
	resp, err := f.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, text, err
}

func (f *front) callHTTP(ctx context.Context, method string, t *trans, branch map[string]string) (reply, string) {
	code, text, err := f.post(ctx, "/api/dtmsvr/"+method, t.body(branch))
	if err != nil {
		return lost, err.Error()
	}
	switch code {
	case http.StatusOK:
		return yes, ""
	case http.StatusConflict:
		return no, string(text)
	case http.StatusTooEarly:
		return notYet, string(text)
	case http.StatusBadRequest:
		return wrong, string(text)
	default:
		return lost, string(text)
	}
}

func (f *front) callRPC(ctx context.Context, method string, t *trans, branch map[string]string) (reply, string) {
	_, text, err := f.post(ctx, "/api/json-rpc", map[string]any{"jsonrpc": "2.0", "id": t.Gid, "method": method, "params": t.body(branch)})
	var got struct {
		ID    string `json:"id"`
		Error *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	switch {
	case err != nil || got.ID != t.Gid:
		return lost, fmt.Sprintf("%v: %s", err, text)
	case got.Error == nil:
		return yes, ""
	}
	switch got.Error.Code {
	case -32901:
		return no, got.Error.Message
	case -32902:
		return notYet, got.Error.Message
	case -32600, -32601, -32602, -32700:
		return wrong, got.Error.Message
	default:
		return lost, got.Error.Message
	}
}

func (f *front) callGRPC(ctx context.Context, method string, t *trans, branch map[string]string) (reply, string) {
	steps, err := json.Marshal(t.Steps)
	if err != nil {
		return wrong, err.Error()
	}
	r := &dtmgimp.DtmRequest{
		Gid: t.Gid, TransType: t.TransType, Steps: string(steps), QueryPrepared: t.QueryPrepared, CustomedData: t.CustomData,
		TransOptions: &dtmgimp.DtmTransOptions{WaitResult: t.WaitResult, TimeoutToFail: t.TimeoutToFail, RequestTimeout: t.RequestTimeout, RetryInterval: t.RetryInterval},
	}
	for _, p := range t.Payloads {
		r.BinPayloads = append(r.BinPayloads, []byte(p))
	}
	switch method {
	case "prepare":
		_, err = f.grpc.Prepare(ctx, r)
	case "submit":
		_, err = f.grpc.Submit(ctx, r)
	case "abort":
		_, err = f.grpc.Abort(ctx, r)
	case "registerBranch":
		_, err = f.grpc.RegisterBranch(ctx, &dtmgimp.DtmBranchRequest{
			Gid: t.Gid, TransType: t.TransType, BranchID: branch["branch_id"], Data: branch, BusiPayload: []byte("{}"),
		})
	default:
		return wrong, method
	}
	switch text := status.Convert(err).Message(); status.Code(err) { //nolint:exhaustive // the others say nothing
	case codes.OK:
		return yes, ""
	case codes.Aborted:
		return no, text
	case codes.FailedPrecondition:
		return notYet, text
	case codes.InvalidArgument, codes.Unimplemented:
		return wrong, text
	default:
		return lost, text
	}
}

// query asks for the outcome of a transaction: empty where it is not known, or there is
// none yet.
func (f *front) query(ctx context.Context, gid string) string {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.web+"/api/dtmsvr/query?gid="+url.QueryEscape(gid), http.NoBody)
	if err != nil {
		return ""
	}
	code, text, err := f.send(r)
	var got struct {
		Transaction *struct {
			TransType string `json:"trans_type"`
			Status    string `json:"status"`
		} `json:"transaction"`
	}
	if err != nil || code != http.StatusOK || json.Unmarshal(text, &got) != nil || got.Transaction == nil {
		return ""
	}
	switch s := got.Transaction.Status; {
	case s == "succeed", s == "submitted" && got.Transaction.TransType != "saga": // a saga may still fail
		return committed
	case s == "failed", s == "aborting":
		return rolledBack
	default:
		return ""
	}
}
