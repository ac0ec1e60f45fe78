package dtm_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What is wrong is refused with the name of the field, and leaves nothing behind.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := own(t)
	const there = "http://127.0.0.1:1/a"
	good := saga("bad", there, there, there, there, there, there)
	goodMsg := msg("bad", there, there)
	tcc := trans("bad", "tcc")
	many := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = there
		}
		return out
	}
	headers := object{}
	for n := range 65 {
		headers[fmt.Sprintf("h%d", n)] = "x"
	}
	for name, tt := range map[string]struct {
		what   string
		body   any
		status int
		text   string
	}{
		"empty gid":                     {"submit", with(good, "gid", ""), 400, "gid"},
		"no gid":                        {"prepare", object{"trans_type": "tcc"}, 400, "gid"},
		"gid null":                      {"prepare", with(tcc, "gid", nil), 400, "gid"},
		"gid of a number":               {"prepare", with(tcc, "gid", 1), 400, "gid"},
		"gid of 10 KB":                  {"prepare", with(tcc, "gid", strings.Repeat("g", 10<<10)), 400, "gid"},
		"gid with a newline":            {"prepare", with(tcc, "gid", "a\nb"), 400, "gid"},
		"gid with a zero":               {"prepare", with(tcc, "gid", "a\x00b"), 400, "gid"},
		"gid with a quote":              {"prepare", with(tcc, "gid", "a'; DROP TABLE x; --"), 400, "gid"},
		"gid with one quote":            {"prepare", with(tcc, "gid", "a'b"), 400, "gid"},
		"gid with a semicolon":          {"prepare", with(tcc, "gid", "a;b"), 400, "gid"},
		"gid with a backquote":          {"prepare", with(tcc, "gid", "a`b"), 400, "gid"},
		"gid with quotes":               {"prepare", with(tcc, "gid", `a"b`), 400, "gid"},
		"gid with a backslash":          {"prepare", with(tcc, "gid", `a\b`), 400, "gid"},
		"gid beyond ASCII":              {"prepare", with(tcc, "gid", "gïd"), 400, "gid"},
		"abort of a bad gid":            {"abort", with(tcc, "gid", "a\nb"), 400, "gid"},
		"forceStop of no gid":           {"forceStop", object{}, 400, "gid"},
		"resetNextCronTime of no gid":   {"resetNextCronTime", object{}, 400, "gid"},
		"a workflow's submit of no gid": {"submit", ended("", "succeed", "", ""), 400, "gid"},
		"no trans_type":                 {"submit", with(good, "trans_type", ""), 400, "trans_type"},
		"unknown trans_type":            {"submit", with(good, "trans_type", "zz"), 400, "trans_type"},
		"trans_type in capitals":        {"submit", with(good, "trans_type", "SAGA"), 400, "trans_type"},
		"unknown protocol":              {"submit", with(good, "protocol", "smoke"), 400, "protocol"},
		"no payloads":                   {"submit", with(good, "payloads", nil), 400, "payloads"},
		"fewer payloads than steps":     {"submit", with(good, "payloads", []string{"x", "y"}), 400, "payloads"},
		"the same of a message":         {"submit", with(goodMsg, "payloads", nil), 400, "payloads"},
		"the same, prepared":            {"prepare", with(goodMsg, "payloads", nil), 400, "payloads"},
		"payloads that are no texts":    {"submit", with(good, "payloads", []any{object{}, 1, 2}), 400, "payloads"},
		"a step without URL":            {"submit", saga("bad", "", there), 400, "steps[0].action"},
		"the second without URL":        {"submit", saga("bad", there, "", "", ""), 400, "steps[1].action"},
		"a message without URL":         {"submit", msg("bad", there, there, ""), 400, "steps[1].action"},
		"the same, to be prepared":      {"prepare", msg("bad", there, ""), 400, "steps[0].action"},
		"steps that are none":           {"submit", with(good, "steps", "x"), 400, "steps"},
		"a step of a number":            {"submit", with(good, "steps", []any{object{"action": 1}}), 400, "steps"},
		"too many steps":                {"submit", saga("bad", many(2*257)...), 400, "steps"},
		"as many, to be prepared":       {"prepare", msg("bad", there, many(256)...), 400, "steps"},
		"a URL of another scheme":       {"submit", saga("bad", "ftp://h/", ""), 400, "steps[0].action"},
		"the same of a compensation":    {"submit", saga("bad", there, "file:///etc/passwd"), 400, "steps[0].compensate"},
		"the same of a delivery":        {"submit", msg("bad", there, there, "ftp://h/"), 400, "steps[1].action"},
		"a URL without scheme":          {"submit", saga("bad", "h/a", ""), 400, "steps[0].action"},
		"a URL that is none":            {"submit", saga("bad", "http://h:x/%zz", ""), 400, "steps[0].action"},
		"a URL without host":            {"submit", saga("bad", "http:///a", ""), 400, "steps[0].action"},
		"a URL of a driver":             {"submit", with(saga("bad", "discovery:///busi/a.B/C", ""), "protocol", "grpc"), 400, "steps[0].action"},
		"a URL with credentials":        {"submit", saga("bad", "http://user:secret@h/", ""), 400, "steps[0].action"},
		"a URL of 10 KB":                {"submit", saga("bad", there+strings.Repeat("a", 10<<10), ""), 400, "steps[0].action"},
		"query_prepared that is no URL": {"prepare", with(goodMsg, "query_prepared", "gopher://h/"), 400, "query_prepared"},
		"the same of a workflow":        {"prepareWorkflow", workflow("bad", "gopher://h/"), 400, "query_prepared"},
		"negative timeout_to_fail":      {"submit", with(good, "timeout_to_fail", -1), 400, "timeout_to_fail"},
		"negative request_timeout":      {"prepare", with(tcc, "request_timeout", -1), 400, "request_timeout"},
		"negative retry_interval":       {"submit", with(good, "retry_interval", -1), 400, "retry_interval"},
		"negative retry_limit":          {"submit", with(good, "retry_limit", -1), 400, "retry_limit"},
		"a timeout beyond all":          {"submit", with(good, "timeout_to_fail", int64(1)<<62), 400, "timeout_to_fail"},
		"a timeout that is no number":   {"submit", with(good, "timeout_to_fail", "35"), 400, `"timeout_to_fail: `},
		"a timeout that is not whole":   {"submit", with(good, "timeout_to_fail", 1.5), 400, "timeout_to_fail"},
		"orders in a circle":            {"submit", with(good, "custom_data", `{"concurrent":true,"orders":{"0":[1],"1":[2],"2":[0]}}`), 400, "custom_data.orders"},
		"orders after oneself":          {"submit", with(good, "custom_data", `{"concurrent":true,"orders":{"1":[1]}}`), 400, "custom_data.orders"},
		"orders against the line":       {"submit", with(good, "custom_data", `{"orders":{"0":[2]}}`), 400, "custom_data.orders"},
		"orders out of range":           {"submit", with(good, "custom_data", `{"concurrent":true,"orders":{"1":[3]}}`), 400, "custom_data.orders"},
		"orders below":                  {"submit", with(good, "custom_data", `{"concurrent":true,"orders":{"-1":[0]}}`), 400, "custom_data.orders"},
		"orders of what is not there":   {"submit", with(good, "custom_data", `{"concurrent":true,"orders":{"9":[0]}}`), 400, "custom_data.orders"},
		"custom_data that is no JSON":   {"submit", with(good, "custom_data", "x"), 400, "custom_data"},
		"custom_data of something else": {"submit", with(good, "custom_data", `{"orders":[]}`), 400, "custom_data"},
		"no JSON for a message":         {"submit", with(goodMsg, "custom_data", "x"), 400, "custom_data"},
		"a negative delay":              {"submit", with(goodMsg, "custom_data", `{"delay":-1}`), 400, "custom_data"},
		"a delay beyond all":            {"submit", with(goodMsg, "custom_data", `{"delay":1000000000}`), 400, "custom_data"},
		"custom_data of a workflow":     {"prepareWorkflow", with(workflow("bad", there), "custom_data", "x"), 400, "custom_data"},
		"a workflow with a name that gRPC can't carry": {"prepareWorkflow", with(workflow("bad", "127.0.0.1:1/busi.Busi/Back"), "protocol", "grpc",
			"custom_data", `{"name":"Überweisung"}`), 400, "custom_data.name"},
		"a workflow whose name is too long":   {"prepareWorkflow", with(workflow("bad", there), "custom_data", `{"name":"`+strings.Repeat("n", 129)+`"}`), 400, "custom_data.name"},
		"a workflow whose name has two lines": {"prepareWorkflow", with(workflow("bad", there), "custom_data", `{"name":"a\nb"}`), 400, "custom_data.name"},
		"custom_data that is no text":         {"submit", with(good, "custom_data", object{}), 400, "custom_data"},
		"too many headers":                    {"submit", with(good, "branch_headers", headers), 400, "branch_headers"},
		"a header with a newline":             {"submit", with(good, "branch_headers", object{"a": "b\r\nc: d"}), 400, "branch_headers"},
		"a header without name":               {"submit", with(good, "branch_headers", object{"": "b"}), 400, "branch_headers"},
		"a header of the connection":          {"submit", with(good, "branch_headers", object{"Content-Length": "1"}), 400, "branch_headers"},
		"a header that gRPC can't carry":      {"submit", with(saga("bad", "127.0.0.1:1/a.B/C", ""), "protocol", "grpc", "branch_headers", object{"x-a": "日本"}), 400, "branch_headers"},
		"headers that are none":               {"submit", with(good, "branch_headers", "x"), 400, "branch_headers"},
		"no object for JSON-RPC":              {"submit", with(saga("bad", there+"?method=m", ""), "protocol", "json-rpc", "payloads", []string{"[]"}), 400, "steps[0].action"},
		"null for JSON-RPC":                   {"submit", with(saga("bad", there+"?method=m", ""), "protocol", "json-rpc", "payloads", []string{"null"}), 400, "steps[0].action"},
		"JSON cut in the middle":              {"submit", marshal(t, good)[:60], 500, `{"message":"`},
		"the same cut, prepared":              {"prepare", `{"gid":"bad`, 500, `{"message":"`},
		"the same, registered":                {"registerBranch", `{"gid":"bad`, 400, `{"message":"`},
		"nothing":                             {"submit", "", 500, `{"message":"`},
		"50 MB":                               {"submit", with(good, "payloads", []string{strings.Repeat("x", 50<<20), "", ""}), 400, "the body is longer than"},
		"no result of a workflow":             {"submit", trans("bad", "workflow"), 400, "req_extra.status"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := w.try(limited(t), http.MethodPost, "/api/dtmsvr/"+tt.what, marshal(t, tt.body))
			if name == "50 MB" && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
				return // it does not wait for all of it
			}
			if err != nil {
				t.Fatal(err)
			}
			a.want(t, tt.status, tt.text)
			if strings.Contains(a.body, "secret") || len(a.body) > 1000 {
				t.Errorf("it says too much: %s", a.body)
			}
			if tt.what != "prepareWorkflow" && (a.kind != jsonType || read[object](t, a)["message"] == "") {
				t.Errorf("got %+v", a)
			}
		})
	}
	t.Cleanup(func() {
		if a := w.get(t, "all"); a.body != `{"next_position":"","transactions":[]}` {
			t.Errorf("it has stored %s", a.body)
		}
	})
}

// The same over gRPC is an invalid argument.
func TestBadRequestsOverGRPC(t *testing.T) {
	t.Parallel()
	for _, f := range []func() error{
		func() error { _, err := shared.rpc.Prepare(limited(t), request("", "tcc")); return err },
		func() error { _, err := shared.rpc.Submit(limited(t), request("a\nb", "saga")); return err },
		func() error { _, err := shared.rpc.Abort(limited(t), request("", "tcc")); return err },
		func() error {
			r := request("bad", "saga")
			r.Steps, r.BinPayloads = `[{"action":"h/x"}]`, [][]byte{nil}
			_, err := shared.rpc.Submit(limited(t), r)
			return err
		},
		func() error {
			r := request("bad", "saga")
			r.Steps = `[{"action":"h:1/a.B/C"}]`
			_, err := shared.rpc.Submit(limited(t), r)
			return err
		},
		func() error { _, err := shared.rpc.PrepareWorkflow(limited(t), request("bad", "workflow")); return err },
	} {
		if err := f(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("got %v", err)
		}
	}
	r := request("bad", "saga")
	r.BinPayloads = [][]byte{make([]byte, 5<<20)}
	if _, err := shared.rpc.Submit(limited(t), r); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("5 MiB: got %v", err)
	}
	if got := shared.query(t, "bad").statuses(); got != "unknown" {
		t.Errorf("it is %s", got)
	}
}

// endless answers with a gigabyte, for as long as somebody reads.
type endless struct{ sent int }

func (e *endless) Read(p []byte) (int, error) {
	if e.sent >= 1<<30 {
		return 0, io.EOF
	}
	clear(p)
	e.sent += len(p)
	return len(p), nil
}

// Branches that answer too much, or nothing, hold up nobody but their own transaction.
func TestBadBranches(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	sent := make(chan int, 100)
	gigabyte := newHandler(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusConflict)
		}
		var e endless
		_, _ = io.Copy(w, &e) // whoever called goes away
		sent <- e.sent
	})
	for name, tt := range map[string]struct {
		url, text string
		status    int
		timeout   int // only where nobody answers is it waited for
	}{
		"too much":      {gigabyte + "/yes", "longer than", 425, 60},
		"a no too long": {gigabyte + "/no", "FAILURE", 409, 60},
		"nothing":       {b.at("/a", "hold", "for ever"), " within ", 425, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			shared.post(t, "submit", with(saga(gid, tt.url, ""), "wait_result", true, "request_timeout", tt.timeout, "retry_interval", 100)).want(t, tt.status, tt.text)
			if strings.HasPrefix(tt.url, gigabyte) {
				if n := <-sent; n > 100<<20 {
					t.Errorf("%d bytes were read", n)
				}
			}
			other := shared.gid(t)
			shared.post(t, "submit", with(saga(other, b.at("/b"), ""), "wait_result", true)).ok(t)
		})
	}
}

// A page in a browser of this machine reaches loopback, too: it may not have URLs called.
func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	t.Parallel()
	w := shared
	for origin, want := range map[string]int{"": 200, "http://pages.example": 403, w.url: 200} {
		body := marshal(t, trans(w.gid(t), "tcc"))
		req, err := http.NewRequestWithContext(limited(t), http.MethodPost, w.url+"/api/dtmsvr/prepare", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "text/plain") // as such pages may send it
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("from origin %q: got %d, want %d", origin, resp.StatusCode, want)
		}
	}
}
