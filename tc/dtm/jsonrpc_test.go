package dtm_test

import (
	"net/http"
	"strings"
	"testing"
)

// rpcAnswer is an answer of JSON-RPC.
type rpcAnswer struct {
	Jsonrpc string
	ID      any
	Error   *struct {
		Code    int
		Message string
	}
	Result any
}

func (w *world) jsonRPC(t *testing.T, method string, params any) answer {
	t.Helper()
	return w.do(t, http.MethodPost, "/api/json-rpc", marshal(t, object{"jsonrpc": "2.0", "id": "an id", "method": method, "params": params}))
}

func TestJSONRPC(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	const done = `{"jsonrpc":"2.0","id":"an id","error":null,"result":null}`
	b := newBranches(t)
	for _, tt := range []struct {
		method string
		params any
	}{
		{"prepare", trans(gid, "tcc")},
		{"registerBranch", tccBranch(gid, "01", "", b.at("/cancel"))},
		{"abort", with(trans(gid, "tcc"), "wait_result", true)},
	} {
		a := shared.jsonRPC(t, tt.method, tt.params).want(t, 200)
		if a.body != done || a.kind != jsonType {
			t.Fatalf("%s: got %s %s", tt.method, a.kind, a.body)
		}
	}
	b.want(t, gid, "01-cancel")
	shared.await(t, gid, "failed 01-cancel:succeed 01-confirm:prepared")
	r := read[rpcAnswer](t, shared.jsonRPC(t, "newGid", nil).want(t, 200))
	if o, _ := r.Result.(object); r.Error != nil || r.ID != "an id" || r.Jsonrpc != "2.0" || o["gid"] == "" || o["gid"] == nil {
		t.Errorf("newGid: got %+v", r)
	}
	other := shared.gid(t)
	if a := shared.jsonRPC(t, "submit", with(saga(other, b.at("/rpc", "method", "m", "body", "{}"), ""), "protocol", "json-rpc", "wait_result", true)); a.body != done {
		t.Errorf("submit: got %s", a.body)
	}
}

func TestWhatIsWrongWithJSONRPC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		body   string
		status int
		code   int
		text   string
	}{
		{`{"jsonrpc":"2.0","id":"1","met`, 400, -32700, "Parse json error: "},
		{`{"jsonrpc":"2.0","id":1,"method":"newGid"}`, 400, -32700, "Parse json error: "},
		{`{"jsonrpc":"1.0","id":"1","method":"newGid"}`, 200, -32600, "Bad json request: "},
		{`{"jsonrpc":"2.0","id":"","method":"newGid"}`, 200, -32600, "Bad json request: "},
		{`{"jsonrpc":"2.0","method":"newGid"}`, 200, -32600, "Bad json request: "},
		{`{"jsonrpc":"2.0","id":"1","method":"forceStop"}`, 200, -32601, "Method not found: forceStop"},
		{`{"jsonrpc":"2.0","id":"1","method":"prepare"}`, 200, -32603, "the body is no JSON"},
		{`{"jsonrpc":"2.0","id":"1","method":"prepare","params":[]}`, 200, -32603, "array"},
		{`{"jsonrpc":"2.0","id":"1","method":"abort","params":{"gid":"never","trans_type":"tcc"}}`, 200, -32603, "no TransGlobal with gid: never found"},
		{`{"jsonrpc":"2.0","id":"1","method":"registerBranch","params":{"gid":"never","trans_type":"tcc","branch_id":"01"}}`, 200, -32901, "FAILURE"},
		{strings.Repeat("[", 20_000), 400, -32700, "Parse json error: "},
	} {
		a := shared.do(t, http.MethodPost, "/api/json-rpc", tt.body).want(t, tt.status, tt.text)
		r := read[rpcAnswer](t, a)
		if r.Error == nil || r.Error.Code != tt.code || r.Result != nil || r.Jsonrpc != "2.0" || a.kind != jsonType {
			t.Errorf("%.80s: got %s %s, want %d", tt.body, a.kind, a.body, tt.code)
		}
	}
}
