package dtm_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// DTM's client reads the gid, and all of JSON-RPC, only where the type says JSON.
func TestTheTypeIsAlwaysJSON(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	for _, a := range []answer{
		shared.get(t, "newGid"),
		shared.jsonRPC(t, "newGid", nil), shared.jsonRPC(t, "none", nil), shared.jsonRPC(t, "submit", object{}),
		shared.post(t, "prepare", trans(gid, "tcc")), shared.post(t, "prepare", "{"), shared.post(t, "abort", trans("never", "tcc")),
		shared.post(t, "registerBranch", "{"), shared.post(t, "prepareWorkflow", workflow(shared.gid(t), "http://h/")),
		shared.post(t, "submit", strings.Repeat(" ", 5<<20)),
	} {
		if a.kind != jsonType || !json.Valid([]byte(a.body)) {
			t.Errorf("got %+v", a)
		}
	}
}

// To DTM's client a body with FAILURE is a failure, whatever its status says.
func TestNoSuccessSaysFailure(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for n := range 20 {
		if a := shared.get(t, "newGid"); strings.Contains(a.body, "FAILURE") || strings.Contains(a.body, "ONGOING") {
			t.Errorf("%d: got %s", n, a.body)
		}
	}
	word := "FAILURE-ONGOING-" + shared.gid(t)
	shared.post(t, "prepare", with(trans(word, "tcc"), "custom_data", "FAILURE")).ok(t)
	shared.post(t, "registerBranch", with(tccBranch(word, "FAILURE", b.at("/FAILURE"), b.at("/FAILURE")), "data", "FAILURE")).ok(t)
	shared.post(t, "abort", with(trans(word, "tcc"), "rollback_reason", "FAILURE", "wait_result", true)).ok(t)
	shared.post(t, "submit", with(saga(word+"-2", b.at("/ONGOING"), ""), "wait_result", true)).ok(t)
	shared.get(t, "subscribe", "topic", word, "url", "http://h/FAILURE", "remark", "FAILURE").ok(t)
	shared.get(t, "unsubscribe", "topic", word, "url", "http://h/FAILURE").ok(t)
}

// DTM's client takes every JSON object for a transaction, and panics where it is none.
func TestARefusedWorkflowIsNoJSON(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
	for name, tt := range map[string]struct {
		body   any
		status int
	}{
		"no JSON":     {"{", 500},
		"nothing":     {"", 500},
		"no gid":      {workflow("", "http://h/"), 400},
		"wrong type":  {with(workflow(gid, "http://h/"), "gid", 1), 400},
		"other mode":  {workflow(gid, "http://h/"), 409},
		"no name":     {with(workflow("w", "http://h/"), "custom_data", ""), 400},
		"empty name":  {with(workflow("w", "http://h/"), "custom_data", `{"data":"aW4="}`), 400},
		"no base64":   {with(workflow("w", "http://h/"), "custom_data", `{"name":"n","data":"?"}`), 400},
		"no callback": {workflow("w", ""), 400},
		"bad URL":     {workflow("w", "ftp://h/"), 400},
		"too long":    {strings.Repeat(" ", 5<<20), 400},
	} {
		a := shared.post(t, "prepareWorkflow", tt.body).want(t, tt.status)
		if !strings.HasPrefix(a.kind, "text/plain") || json.Valid([]byte(a.body)) || a.body == "" {
			t.Errorf("%s: got %+v", name, a)
		}
	}
	a := shared.do(t, http.MethodGet, "/api/dtmsvr/prepareWorkflow", "")
	if json.Valid([]byte(a.body)) {
		t.Errorf("got %+v", a)
	}
	if got := shared.query(t, "w").statuses(); got != "unknown" {
		t.Errorf("it is %s", got)
	}
}

// What workflows end with may be any text, over both protocols.
func TestResultsOfWorkflows(t *testing.T) {
	t.Parallel()
	for _, result := range []string{"", "UjE=", "no base64", "ä\x00\u2028<&>", "\ufffd"} {
		gid := shared.gid(t)
		shared.post(t, "prepareWorkflow", workflow(gid, "http://127.0.0.1:1/")).want(t, 200)
		shared.post(t, "registerBranch", progress(gid, "01", "succeed", result)).ok(t)
		shared.post(t, "submit", ended(gid, "succeed", "", result)).ok(t)
		f := read[flowAnswer](t, shared.post(t, "prepareWorkflow", workflow(gid, "http://127.0.0.1:1/")))
		if f.Transaction.Result != result || string(f.Progresses[0].BinData) != result {
			t.Errorf("HTTP: got %+v, want %q", f, result)
		}
		r := request(gid, "workflow")
		r.QueryPrepared, r.CustomedData = "127.0.0.1:1/a.B/C", `{"name":"flow","data":"aW4="}`
		out, err := shared.rpc.PrepareWorkflow(limited(t), r)
		if err != nil || out.GetTransaction().GetResult() != result || string(out.GetProgresses()[0].GetBinData()) != result {
			t.Errorf("gRPC: got %v, %v, want %q", out, err, result)
		}
	}
}

// The initiator and whoever registers branches may speak different protocols.
func TestProtocolsMix(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for first := range register {
		for second, f := range register {
			gid := shared.gid(t)
			switch first {
			case "http":
				shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			case "json-rpc":
				shared.jsonRPC(t, "prepare", trans(gid, "tcc"))
			case "grpc":
				if _, err := shared.rpc.Prepare(limited(t), request(gid, "tcc")); err != nil {
					t.Fatal(err)
				}
			}
			if err := f(t, tccBranch(gid, "01", b.at("/confirm"), b.at("/cancel"))); err != nil {
				t.Errorf("%s and %s: %v", first, second, err)
			}
			shared.post(t, "submit", with(trans(gid, "tcc"), "wait_result", true)).ok(t)
			b.want(t, gid, "01-confirm")
			if got, want := shared.query(t, gid).Transaction["protocol"], map[string]string{"http": "http", "json-rpc": "http", "grpc": "grpc"}[first]; fmt.Sprint(got) != want {
				t.Errorf("the protocol is %v, want %s", got, want)
			}
		}
	}
}
