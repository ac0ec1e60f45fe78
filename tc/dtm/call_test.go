package dtm_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// identity is what a call over HTTP adds to the query of its URL.
func identity(gid, mode, branch, op string) string {
	return url.Values{"gid": {gid}, "trans_type": {mode}, "branch_id": {branch}, "op": {op}}.Encode()
}

// What is sent over HTTP: method, path, query, body and headers, in every mode.
func TestCallsOverHTTP(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	there := b.at("/b", "x", "1", "op", "theirs")
	for name, tt := range map[string]struct {
		begin func(t *testing.T, gid string)
		want  []string // method, query and body
	}{
		"saga": {func(t *testing.T, gid string) {
			t.Helper()
			s := saga(gid, there, there, there, there, there+"&status=409", there)
			shared.post(t, "submit", with(s, "payloads", []string{"one", "", "\x01 \u00e4 three"}))
		}, []string{
			"POST 01-action one", "GET 02-action ", "POST 03-action \x01 \u00e4 three",
			"POST 03-compensate \x01 \u00e4 three", "GET 02-compensate ", "POST 01-compensate one",
		}},
		"msg": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "submit", with(msg(gid, "", there, there), "payloads", []string{"one", ""})).ok(t)
		}, []string{"POST 01-action one", "GET 02-action "}},
		"msg, asked": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepare", with(msg(gid, there, there), "timeout_to_fail", 1)).ok(t)
		}, []string{"GET 00-msg ", `POST 01-action {"n":1}`}},
		"tcc, confirmed": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			shared.post(t, "registerBranch", tccBranch(gid, "01", there, there)).ok(t)
			shared.post(t, "registerBranch", with(tccBranch(gid, "0101", there, there), "data", "")).ok(t)
			shared.post(t, "submit", trans(gid, "tcc")).ok(t)
		}, []string{"GET 0101-confirm ", `POST 01-confirm {"n":1}`}},
		"tcc, cancelled": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			shared.post(t, "registerBranch", tccBranch(gid, "01", there, there)).ok(t)
			shared.post(t, "registerBranch", with(tccBranch(gid, "0101", there, there), "data", "")).ok(t)
			shared.post(t, "abort", trans(gid, "tcc")).ok(t)
		}, []string{"GET 0101-cancel ", `POST 01-cancel {"n":1}`}},
		"xa, committed": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "xa")).ok(t)
			shared.post(t, "registerBranch", with(xaBranch(gid), "branch_id", "01", "url", there)).ok(t)
			shared.post(t, "submit", trans(gid, "xa")).ok(t)
		}, []string{"POST 01-commit "}},
		"xa, rolled back": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepare", trans(gid, "xa")).ok(t)
			shared.post(t, "registerBranch", with(xaBranch(gid), "branch_id", "01", "url", there)).ok(t)
			shared.post(t, "abort", trans(gid, "xa")).ok(t)
		}, []string{"POST 01-rollback "}},
		"workflow": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepareWorkflow", with(workflow(gid, there), "retry_interval", 1)).want(t, 200)
		}, []string{"POST 00-flow in"}},
		"workflow without data": {func(t *testing.T, gid string) {
			t.Helper()
			shared.post(t, "prepareWorkflow", with(workflow(gid, there), "retry_interval", 1, "custom_data", `{"name":"flow"}`)).want(t, 200)
		}, []string{"POST 00-flow "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			tt.begin(t, gid)
			calls := b.called(t, gid, len(tt.want))
			mode, _, _ := strings.Cut(name, ",")
			mode, _, _ = strings.Cut(mode, " ")
			for i, want := range tt.want {
				c := calls[i]
				op := c.query["op"][len(c.query["op"])-1] // behind theirs
				if got := fmt.Sprintf("%s %s-%s %s", c.method, c.query.Get("branch_id"), op, c.body); got != want {
					t.Errorf("call %d: got %q, want %q", i, got, want)
				}
				_, rest, _ := strings.Cut(want, " ")
				rest, _, _ = strings.Cut(rest, " ")
				branch, op, _ := strings.Cut(rest, "-")
				if !strings.HasPrefix(c.rawQuery, "op=theirs&") || !strings.HasSuffix(c.rawQuery, "x=1&"+identity(gid, mode, branch, op)) &&
					!strings.HasSuffix(c.rawQuery, "&status=409&"+identity(gid, mode, branch, op)) {
					t.Errorf("call %d: the query is %s", i, c.rawQuery)
				}
				if c.path != "/b" || c.header.Get("Content-Type") != "application/json" || len(c.query["dtm"]) > 0 || strings.Contains(fmt.Sprint(c.header), "Handfast-") {
					t.Errorf("call %d: got %+v", i, c)
				}
			}
			if mode != "workflow" && len(b.of(gid)) != len(tt.want) {
				t.Errorf("called %q", b.names(gid))
			}
		})
	}
}

// Which URL is called over what, in which protocol of a transaction.
func TestChoosingAProtocol(t *testing.T) {
	t.Parallel()
	b, g := newBranches(t), newRPCBranches(t)
	plain, method := b.at("/p"), b.at("/p", "method", "m", "body", "{}")
	for _, tt := range []struct{ protocol, url, want string }{
		{"", plain, "http"},
		{"http", plain, "http"},
		{"http", method, "http"},
		{"grpc", plain, "http"},
		{"grpc", method, "http"},
		{"json-rpc", plain, "http"},
		{"json-rpc", method, "json-rpc"},
		{"grpc", g.at("In"), "grpc"},
		{"json-rpc", g.at("In"), "grpc"},
		{"http", g.at("In"), "refused"},
		{"", g.at("In"), "refused"},
		{"smoke", plain, "refused"},
	} {
		t.Run(tt.protocol+" "+tt.want, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			a := shared.post(t, "submit", with(saga(gid, tt.url, ""), "protocol", tt.protocol, "wait_result", true))
			got := "nothing"
			switch {
			case a.status == 400:
				got = "refused"
			case len(g.of(gid)) == 1:
				got = "grpc"
			case len(b.of(gid)) == 1:
				got = "http"
			default:
				for _, c := range b.of("") {
					if strings.Contains(c.body, `"`+gid+`"`) {
						got = "json-rpc"
					}
				}
			}
			if got != tt.want {
				t.Errorf("%s over %q: %s, want %s; %s", tt.url, tt.protocol, got, tt.want, a.body)
			}
		})
	}
}

func TestCallsOverGRPC(t *testing.T) {
	t.Parallel()
	g := newRPCBranches(t)
	gid := shared.gid(t)
	r := request(gid, "saga")
	r.Steps = marshal(t, []object{{"action": g.at("Aborted_FAILURE"), "compensate": g.at("Undo")}})
	r.BinPayloads, r.TransOptions.WaitResult = [][]byte{[]byte("\x00\xff verbatim")}, true
	r.TransOptions.BranchHeaders = map[string]string{"X-Name": "value"}
	_, err := shared.rpc.Submit(limited(t), r)
	if err == nil || !strings.Contains(err.Error(), "url:"+g.at("Aborted_FAILURE")+" return failed: FAILURE") {
		t.Errorf("got %v", err)
	}
	shared.await(t, gid, "failed 01-compensate:succeed 01-action:failed")
	calls := g.of(gid)
	if len(calls) != 2 {
		t.Fatalf("called %+v", calls)
	}
	for i, op := range []string{"action", "compensate"} {
		c := calls[i]
		if c.method != "/busi.Busi/"+[]string{"Aborted_FAILURE", "Undo"}[i] || string(c.body) != "\x00\xff verbatim" {
			t.Errorf("called %+v", c)
		}
		for name, want := range map[string][]string{
			"dtm-gid": {gid}, "dtm-trans_type": {"saga"}, "dtm-branch_id": {"01"}, "dtm-op": {op}, "dtm-dtm": {""},
			"x-name": {"value"}, "content-type": {"application/grpc"},
		} {
			if got := c.md.Get(name); !slices.Equal(got, want) {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		for name := range c.md {
			if strings.HasPrefix(name, "handfast") {
				t.Errorf("it knows of %s", name)
			}
		}
	}
}

// A workflow that came over gRPC is called back over gRPC, with workflow.WorkflowData.
func TestAWorkflowIsCalledBackOverGRPC(t *testing.T) {
	t.Parallel()
	g := newRPCBranches(t)
	for _, data := range []string{"", "in\x00"} {
		gid := shared.gid(t)
		r := request(gid, "workflow")
		r.QueryPrepared, r.TransOptions.RetryInterval = g.host+"/workflow.Workflow/Execute", 1
		r.CustomedData = marshal(t, object{"name": "flow", "data": []byte(data)})
		if _, err := shared.rpc.PrepareWorkflow(limited(t), r); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() (bool, string) { return len(g.of(gid)) > 0, "not called back" })
		c := g.of(gid)[0]
		want := message(nil)
		if data != "" {
			want = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), data)
		}
		if c.method != "/workflow.Workflow/Execute" || string(c.body) != string(want) || c.md.Get("dtm-op")[0] != "flow" ||
			c.md.Get("dtm-branch_id")[0] != "00" || c.md.Get("dtm-trans_type")[0] != "workflow" {
			t.Errorf("called %+v", c)
		}
	}
}

func TestCallsOverJSONRPC(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	at := b.URL + "/rpc?method=Busi.In&body={}"
	shared.post(t, "submit", with(saga(gid, at, "", at, ""), "payloads", []string{`{"n":12345678901234567890,"gid":"theirs"}`, ""},
		"protocol", "json-rpc", "wait_result", true)).ok(t)
	calls := b.of("")
	if len(calls) != 2 {
		t.Fatalf("called %+v", calls)
	}
	ids := map[string]bool{}
	for i, c := range calls {
		var in struct {
			ID, Jsonrpc, Method string
			Params              map[string]json.RawMessage
		}
		if err := json.Unmarshal([]byte(c.body), &in); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"gid": `"` + gid + `"`, "trans_type": `"saga"`, "branch_id": fmt.Sprintf(`"0%d"`, i+1), "op": `"action"`}
		if i == 0 {
			want["n"] = "12345678901234567890"
		}
		for name, v := range want {
			if string(in.Params[name]) != v {
				t.Errorf("call %d, %s: got %s, want %s", i, name, in.Params[name], v)
			}
		}
		if c.method != http.MethodPost || c.rawQuery != "method=Busi.In&body={}" || in.Jsonrpc != "2.0" || in.Method != "Busi.In" || in.ID == "" || ids[in.ID] || len(in.Params) != len(want) {
			t.Errorf("call %d: got %+v", i, c)
		}
		ids[in.ID] = true
	}
}

// An empty URL is success without a call, of whatever.
func TestEmptyURLs(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	shared.post(t, "submit", with(saga(gid, b.at("/a"), "", b.at("/a", "status", "409"), "", b.at("/a"), ""), "wait_result", true)).want(t, 409)
	shared.await(t, gid, "failed 01-compensate:succeed 01-action:succeed 02-compensate:succeed 02-action:failed 03-compensate:prepared 03-action:prepared")
	b.want(t, gid, "01-action", "02-action")
	gid = shared.gid(t)
	shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
	shared.post(t, "registerBranch", tccBranch(gid, "01", "", b.at("/cancel"))).ok(t)
	shared.post(t, "registerBranch", tccBranch(gid, "02", b.at("/confirm"), "")).ok(t)
	shared.post(t, "submit", with(trans(gid, "tcc"), "wait_result", true)).ok(t)
	b.want(t, gid, "02-confirm")
	shared.await(t, gid, "succeed 01-cancel:prepared 01-confirm:succeed 02-cancel:prepared 02-confirm:succeed")
	// Whom nobody can be asked about is submitted when its time has come.
	gid = shared.gid(t)
	shared.post(t, "prepare", with(msg(gid, "", b.at("/a")), "timeout_to_fail", 1)).ok(t)
	shared.await(t, gid, "succeed 01-action:succeed")
	b.want(t, gid, "01-action")
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, b.URL+"/there?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(r.Close)
	gid := shared.gid(t)
	shared.post(t, "submit", with(saga(gid, r.URL+"/here", ""), "wait_result", true)).ok(t)
	if c := b.of(gid); len(c) != 1 || c[0].path != "/there" || c[0].method != http.MethodPost || c[0].body != `{"n":1}` {
		t.Errorf("called %+v", c)
	}
}

// A message to a topic goes to all who have subscribed, each under a number of its own.
func TestTheBranchesOfTopics(t *testing.T) {
	t.Parallel()
	b, g := newBranches(t), newRPCBranches(t)
	topic := "topic-" + shared.gid(t)
	for _, u := range []string{b.at("/one"), b.at("/two")} {
		shared.get(t, "subscribe", "topic", topic, "url", u).ok(t)
	}
	shared.get(t, "subscribe", "topic", topic+"-1", "url", b.at("/alone")).ok(t)
	gid := shared.gid(t)
	shared.post(t, "submit", with(msg(gid, "", b.at("/first"), "topic://"+topic, "topic://"+topic+"-1"), "wait_result", true)).ok(t)
	b.want(t, gid, "01-action", "02-01-action", "02-02-action", "03-action")
	for i, path := range []string{"/first", "/one", "/two", "/alone"} {
		if c := b.of(gid)[i]; c.path != path || c.body != `{"n":1}` {
			t.Errorf("called %+v", c)
		}
	}
	// The subscribers of one topic may be of both kinds where it came over gRPC.
	shared.get(t, "subscribe", "topic", topic+"-1", "url", g.at("In")).ok(t)
	gid = shared.gid(t)
	r := request(gid, "msg")
	r.Steps, r.BinPayloads, r.TransOptions.WaitResult = marshal(t, []object{{"action": "topic://" + topic + "-1"}}), [][]byte{[]byte("x")}, true
	if _, err := shared.rpc.Submit(limited(t), r); err != nil {
		t.Fatal(err)
	}
	b.want(t, gid, "01-01-action")
	if c := g.of(gid); len(c) != 1 || c[0].md.Get("dtm-branch_id")[0] != "01-02" {
		t.Errorf("called %+v", c)
	}
	for _, method := range []string{"prepare", "submit"} {
		shared.post(t, method, msg(shared.gid(t), "", "topic://never")).want(t, 500, `{"message":"topic not found`)
	}
}

// A change of a topic counts at once; who has prepared before is not concerned.
func TestTopicsChangeAtOnce(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	topic := "topic-" + shared.gid(t)
	to := func(want ...string) {
		t.Helper()
		gid := shared.gid(t)
		shared.post(t, "submit", with(msg(gid, "", "topic://"+topic), "wait_result", true)).ok(t)
		var got []string
		for _, c := range b.of(gid) {
			got = append(got, c.path)
		}
		if !slices.Equal(got, want) {
			t.Errorf("went to %q, want %q", got, want)
		}
	}
	for range 20 {
		shared.get(t, "subscribe", "topic", topic, "url", b.at("/one")).ok(t)
		to("/one")
		before := shared.gid(t)
		shared.post(t, "prepare", msg(before, "", "topic://"+topic)).ok(t)
		shared.get(t, "subscribe", "topic", topic, "url", b.at("/two")).ok(t)
		to("/one", "/two")
		shared.get(t, "unsubscribe", "topic", topic, "url", b.at("/one")).ok(t)
		to("/two")
		shared.do(t, http.MethodDelete, "/api/dtmsvr/topic/"+topic, "").ok(t)
		shared.post(t, "prepare", msg(before, "", "topic://"+topic)).ok(t)
		shared.post(t, "submit", with(msg(before, "", "topic://"+topic), "wait_result", true)).ok(t)
		if c := b.of(before); len(c) != 1 || c[0].path != "/one" {
			t.Errorf("what was prepared before went to %+v", c)
		}
		shared.post(t, "submit", msg(shared.gid(t), "", "topic://"+topic)).want(t, 500, "topic not found")
	}
}
