package dtm_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What clients are told, in the words of each protocol.
func TestWhatClientsAreTold(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	notYet := b.at("/a", "status", "425")
	for _, tt := range []struct {
		name   string
		before func(gid string) // what has happened
		method string
		saga   string // the URL of its only step; empty: a tcc
		gid    string // instead of a new one
		http   int
		body   string
		grpc   codes.Code
		rpc    int
		text   string
	}{
		{name: "success", method: "prepare", http: 200, body: success},
		{name: "failure", method: "submit", http: 409, body: `"dtm_result":"FAILURE"`, grpc: codes.Aborted, rpc: -32901,
			text: "current status 'failed', cannot sumbmit. FAILURE",
			before: func(gid string) {
				shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
				shared.post(t, "abort", trans(gid, "tcc")).ok(t)
			}},
		{name: "ongoing", method: "submit", saga: notYet, http: 425, body: `"dtm_result":"ONGOING"`, grpc: codes.FailedPrecondition, rpc: -32902,
			text: "is not finished yet"},
		{name: "other", method: "abort", http: 500, body: `{"message":"no TransGlobal with gid: `, grpc: codes.Unknown, rpc: -32603,
			text: "no TransGlobal with gid: "},
		{name: "invalid", method: "prepare", gid: "a;b", http: 400, body: `{"message":"gid: `, grpc: codes.InvalidArgument, rpc: -32602, text: "gid: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			made := func() (gid string, o object) {
				if gid = tt.gid; gid == "" {
					gid = shared.gid(t)
				}
				if tt.before != nil {
					tt.before(gid)
				}
				if tt.saga == "" {
					return gid, trans(gid, "tcc")
				}
				return gid, with(saga(gid, tt.saga, ""), "wait_result", true)
			}
			_, o := made()
			a := shared.post(t, tt.method, o).want(t, tt.http, tt.body, tt.text)
			if a.kind != jsonType {
				t.Errorf("the type is %s", a.kind)
			}

			_, o = made()
			a = shared.jsonRPC(t, tt.method, o).want(t, 200)
			r := read[rpcAnswer](t, a)
			if a.kind != jsonType || (r.Error == nil) != (tt.rpc == 0) {
				t.Errorf("JSON-RPC: got %s %s, want %d", a.kind, a.body, tt.rpc)
			}
			if r.Error != nil && (r.Error.Code != tt.rpc || !strings.Contains(r.Error.Message, tt.text)) {
				t.Errorf("JSON-RPC: got %s, want %d %s", a.body, tt.rpc, tt.text)
			}

			gid, _ := made()
			req := request(gid, "tcc")
			if tt.saga != "" {
				req.TransType, req.Steps = "saga", fmt.Sprintf(`[{"action":%q,"compensate":""}]`, tt.saga)
				req.BinPayloads, req.TransOptions.WaitResult = [][]byte{[]byte("x")}, true
			}
			_, err := shared.method(tt.method)(limited(t), req)
			if status.Code(err) != tt.grpc || !strings.Contains(status.Convert(err).Message(), tt.text) {
				t.Errorf("gRPC: got %v, want %s %s", err, tt.grpc, tt.text)
			}
		})
	}
}

// What branches answer, in the words of each protocol, and in those of clients before
// v1.10.
func TestWhatBranchesAnswer(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	g := newRPCBranches(t)
	over := func(status int, body string) string { return b.at("/h", "status", fmt.Sprint(status), "body", body) }
	rpc := func(status int, body string) string {
		return b.at("/r", "status", fmt.Sprint(status), "body", body, "method", "m")
	}
	// How soon it is asked again tells "not yet" from all else: 10 s, or not.
	const (
		done = iota
		failed
		ongoing
		unknown
	)
	for _, tt := range []struct {
		protocol, url string
		want          int
	}{
		{"http", over(200, ""), done},
		{"http", over(200, "all is well"), done},
		{"http", over(409, ""), failed},
		{"http", over(200, `{"dtm_result":"FAILURE"}`), failed},
		{"http", over(500, "FAILURE"), failed},
		{"http", over(425, ""), ongoing},
		{"http", over(200, `{"dtm_result":"ONGOING"}`), ongoing},
		{"http", over(409, "FAILURE and ONGOING"), ongoing},
		{"http", over(500, "x"), unknown},
		{"http", over(400, ""), unknown},
		{"http", over(404, ""), unknown},
		{"grpc", g.at("OK"), done},
		{"grpc", g.at("Aborted"), failed},
		{"grpc", g.at("Aborted_FAILURE"), failed},
		{"grpc", g.at("FailedPrecondition"), ongoing},
		{"grpc", g.at("Aborted_ONGOING"), ongoing},
		{"grpc", g.at("Unknown"), unknown},
		{"grpc", g.at("Internal"), unknown},
		{"grpc", g.at("Unavailable"), unknown},
		{"json-rpc", rpc(200, `{"jsonrpc":"2.0","id":"1","result":{}}`), done},
		{"json-rpc", rpc(200, `{"error":null}`), done},
		{"json-rpc", rpc(200, `{"error":{"code":-32901,"message":"no"}}`), failed},
		{"json-rpc", rpc(200, `{"error":{"code":-32902,"message":"later"}}`), ongoing},
		{"json-rpc", rpc(200, `{"error":{"code":-32603,"message":"oops"}}`), unknown},
		{"json-rpc", rpc(409, `{}`), failed},
		{"json-rpc", rpc(425, `{}`), ongoing},
		{"json-rpc", rpc(500, `{}`), unknown},
	} {
		t.Run(tt.protocol+" "+strings.TrimPrefix(strings.TrimPrefix(tt.url, b.URL), g.host), func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			s := with(saga(gid, tt.url, ""), "protocol", tt.protocol, "wait_result", true)
			a := shared.post(t, "submit", s)
			f := shared.query(t, gid)
			every, _ := f.Transaction["next_cron_interval"].(float64)
			switch tt.want {
			case done:
				a.ok(t)
				shared.await(t, gid, "succeed 01-compensate:prepared 01-action:succeed")
			case failed:
				a.want(t, 409, "FAILURE", tt.url)
				if tt.protocol == "grpc" {
					a.want(t, 409, "url:"+tt.url+" return failed: ")
				}
				shared.await(t, gid, "failed 01-compensate:succeed 01-action:failed")
			case ongoing, unknown:
				a.want(t, 425, "ONGOING")
				if (tt.want == ongoing) != (every >= 10 && every <= 10+slack) { // what the call took counts, too
					t.Errorf("it is asked again after %v s: %s", every, a.body)
				}
				if s := f.statuses(); s != "submitted 01-compensate:prepared 01-action:prepared" {
					t.Errorf("it is %s", s)
				}
			}
		})
	}
}

// method is one of gRPC, by its name over HTTP.
func (w *world) method(name string) transMethod {
	switch name {
	case "prepare":
		return w.rpc.Prepare
	case "abort":
		return w.rpc.Abort
	default:
		return w.rpc.Submit
	}
}

// A failure that is not an action's is none: confirm, cancel, commit, rollback, compensate
// and delivery are called again.
func TestOnlyAnActionOfASagaCanFail(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	no := b.at("/no", "status", "409")
	for op, f := range map[string]func(t *testing.T, gid string) string{
		"confirm": func(t *testing.T, gid string) string {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			shared.post(t, "registerBranch", tccBranch(gid, "01", no, "")).ok(t)
			shared.post(t, "submit", trans(gid, "tcc")).ok(t)
			return "submitted 01-cancel:prepared 01-confirm:prepared"
		},
		"cancel": func(t *testing.T, gid string) string {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			shared.post(t, "registerBranch", tccBranch(gid, "01", "", no)).ok(t)
			shared.post(t, "abort", trans(gid, "tcc")).ok(t)
			return "aborting 01-cancel:prepared 01-confirm:prepared"
		},
		"commit": func(t *testing.T, gid string) string {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "xa")).ok(t)
			shared.post(t, "registerBranch", with(xaBranch(gid), "branch_id", "01", "url", no)).ok(t)
			shared.post(t, "submit", trans(gid, "xa")).ok(t)
			return "submitted 01-rollback:prepared 01-commit:prepared"
		},
		"rollback": func(t *testing.T, gid string) string {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "xa")).ok(t)
			shared.post(t, "registerBranch", with(xaBranch(gid), "branch_id", "01", "url", no)).ok(t)
			shared.post(t, "abort", trans(gid, "xa")).ok(t)
			return "aborting 01-rollback:prepared 01-commit:prepared"
		},
		"compensate": func(t *testing.T, gid string) string {
			t.Helper()
			shared.post(t, "submit", saga(gid, no, no)).ok(t)
			return "aborting 01-compensate:prepared 01-action:failed"
		},
		"action": func(t *testing.T, gid string) string {
			t.Helper()
			shared.post(t, "submit", msg(gid, "", no)).ok(t)
			return "submitted 01-action:prepared"
		},
	} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			want := f(t, gid)
			times := 0
			eventually(t, func() (bool, string) {
				times = 0
				for _, c := range b.of(gid) {
					if c.query.Get("op") == op {
						times++
					}
				}
				if times == 1 {
					shared.post(t, "resetNextCronTime", object{"gid": gid}).ok(t)
				}
				return times >= 2, fmt.Sprintf("called %v", b.names(gid))
			})
			if got := shared.query(t, gid).statuses(); got != want {
				t.Errorf("it is %s, want %s", got, want)
			}
		})
	}
}
