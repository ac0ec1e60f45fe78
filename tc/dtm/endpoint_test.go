package dtm_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Those that take a transaction, or something about one, and give nothing back.
func TestEndpointsThatGiveNothingBack(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid, old, wf := shared.gid(t), shared.gid(t), shared.gid(t)
	xa := with(xaBranch(old), "url", b.at("/xa"))
	for _, tt := range []struct {
		endpoint string
		body     object
	}{
		{"prepare", trans(gid, "tcc")},
		{"registerBranch", tccBranch(gid, "01", b.at("/confirm"), b.at("/cancel"))},
		{"registerTccBranch", tccBranch(gid, "02", b.at("/confirm"), b.at("/cancel"))},
		{"resetNextCronTime", object{"gid": gid}},
		{"submit", with(trans(gid, "tcc"), "wait_result", true)},
		{"prepare", trans(old, "xa")},
		{"registerXaBranch", with(xa, "branch_id", "01")},
		{"registerBranch", with(xa, "branch_id", "02")},
		{"abort", with(trans(old, "xa"), "wait_result", true)},
		{"prepareWorkflow", workflow(wf, b.at("/back"))},
		{"registerBranch", progress(wf, "01", "succeed", "R1")},
		{"forceStop", object{"gid": wf}},
	} {
		a := shared.post(t, tt.endpoint, tt.body)
		if tt.endpoint != "prepareWorkflow" {
			a.ok(t)
		}
	}
	b.want(t, gid, "02-confirm", "01-confirm")
	if got := b.names(old); len(got) != 2 || !slices.Contains(got, "01-rollback") || !slices.Contains(got, "02-rollback") {
		t.Errorf("called %q", got)
	}
	shared.await(t, wf, "failed 01-action:succeed")
}

func TestNewGid(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		a := shared.get(t, "newGid").want(t, 200)
		if !regexp.MustCompile(`^\{"dtm_result":"SUCCESS","gid":"[0-9A-Za-z]{20,30}"\}$`).MatchString(a.body) || a.kind != jsonType || seen[a.body] {
			t.Fatalf("got %s %s", a.kind, a.body)
		}
		seen[a.body] = true
	}
}

func TestQueryOfNothing(t *testing.T) {
	t.Parallel()
	if a := shared.get(t, "query", "gid", "never"); a != (answer{200, jsonType, `{"branches":[],"transaction":null}`}) {
		t.Errorf("got %+v", a)
	}
	for _, path := range []string{"/api/dtmsvr/query", "/api/dtmsvr/query?gid="} {
		if a := shared.do(t, http.MethodGet, path, ""); a != (answer{500, jsonType, `{"message":"no gid specified"}`}) {
			t.Errorf("got %+v", a)
		}
	}
}

func TestAbout(t *testing.T) {
	t.Parallel()
	if v := read[map[string]string](t, shared.get(t, "version").want(t, 200)); v["version"] != "v1.19.0" || v["server"] != "handfast test" {
		t.Errorf("the version is %v", v)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if a := shared.do(t, method, "/api/ping", ""); a != (answer{200, jsonType, `{"msg":"pong"}`}) {
			t.Errorf("ping: got %+v", a)
		}
	}
	a := shared.do(t, http.MethodGet, "/api/metrics", "").want(t, 200,
		`dtm_server_process_total{type="http",api="version",status="ok"} `, "handfast_open_transactions ")
	if !strings.HasPrefix(a.kind, "text/plain") {
		t.Errorf("the type of metrics is %s", a.kind)
	}
	shared.do(t, http.MethodGet, "/api/dtmsvr/nothing", "").want(t, 404, "404 page not found")
}

// What was asked with the wrong method is not done.
func TestMethods(t *testing.T) {
	t.Parallel()
	for path, allowed := range map[string]string{
		"/api/dtmsvr/newGid": "GET", "/api/dtmsvr/prepare": "POST", "/api/dtmsvr/submit": "POST", "/api/dtmsvr/abort": "POST",
		"/api/dtmsvr/registerBranch": "POST", "/api/dtmsvr/registerXaBranch": "POST", "/api/dtmsvr/registerTccBranch": "POST",
		"/api/dtmsvr/prepareWorkflow": "POST", "/api/dtmsvr/query": "GET", "/api/dtmsvr/all": "GET",
		"/api/dtmsvr/resetNextCronTime": "POST", "/api/dtmsvr/forceStop": "POST", "/api/dtmsvr/subscribe": "GET",
		"/api/dtmsvr/unsubscribe": "GET", "/api/dtmsvr/topic/x": "DELETE", "/api/dtmsvr/scanKV": "GET",
		"/api/dtmsvr/queryKV": "GET", "/api/dtmsvr/version": "GET", "/api/json-rpc": "POST", "/api/metrics": "GET",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut} {
			a := shared.do(t, method, path, "")
			if (a.status == 404 || a.status == 405) == (method == allowed) {
				t.Errorf("%s %s: got %d %s", method, path, a.status, a.body)
			}
		}
	}
}

// The list of all has pages, newest first, and filters.
func TestAll(t *testing.T) {
	t.Parallel()
	w := own(t)
	type list struct {
		Transactions []object
		Next         *string `json:"next_position"`
	}
	all := func(query ...string) (out []string, next string) {
		a := w.get(t, "all", query...).want(t, 200)
		l := read[list](t, a)
		if l.Next == nil || a.kind != jsonType {
			t.Fatalf("got %s %s", a.kind, a.body)
		}
		for _, o := range l.Transactions {
			out = append(out, fmt.Sprint(o["gid"]))
		}
		return out, *l.Next
	}
	if got, next := all(); got != nil || next != "" {
		t.Errorf("of nothing: got %q %q", got, next)
	}
	var want []string
	b := newBranches(t)
	begin := time.Now()
	var middle time.Time
	for n := range 7 {
		gid := fmt.Sprintf("all-%d", n)
		want = append(want, gid)
		switch n {
		case 3:
			// XIDs are ordered by millisecond.
			for at := time.Now(); time.Since(at) < 3*time.Millisecond; {
				continue
			}
			middle = time.Now()
			w.post(t, "submit", with(saga(gid, b.at("/a"), ""), "wait_result", true)).ok(t)
		case 5:
			w.post(t, "prepare", trans(gid, "xa")).ok(t)
		default:
			w.post(t, "prepare", trans(gid, "tcc")).ok(t)
			if n == 4 {
				w.post(t, "abort", trans(gid, "tcc")).ok(t)
			}
		}
	}
	slices.Reverse(want)
	ms := func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
	for _, tt := range []struct {
		query []string
		want  []string
	}{
		{nil, want},
		{[]string{"limit", "1000"}, want},
		{[]string{"status", "prepared"}, []string{"all-6", "all-5", "all-2", "all-1", "all-0"}},
		{[]string{"status", "failed"}, []string{"all-4"}},
		{[]string{"status", "nonsense"}, nil},
		{[]string{"transType", "xa"}, []string{"all-5"}},
		{[]string{"transType", "tcc", "status", "prepared", "createTimeEnd", ms(middle)}, []string{"all-2", "all-1", "all-0"}},
		{[]string{"createTimeStart", ms(middle)}, want[:4]},
		{[]string{"createTimeStart", ms(begin), "createTimeEnd", ms(begin.Add(-time.Hour))}, nil},
		{[]string{"gid", "all-3"}, []string{"all-3"}},
		{[]string{"gid", "all-"}, nil},
	} {
		got, next := all(tt.query...)
		slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(b, a) }) // within a millisecond, as it comes
		if !slices.Equal(got, tt.want) || next != "" {
			t.Errorf("%q: got %q %q, want %q", tt.query, got, next, tt.want)
		}
	}
	if a := w.get(t, "all", "gid", "never"); a.body != `{"next_position":"","transactions":null}` {
		t.Errorf("of an unknown gid: got %s", a.body)
	}
	var got []string
	position := ""
	for range 10 {
		page, next := all("limit", "2", "position", position)
		got = append(got, page...)
		if len(page) > 2 {
			t.Errorf("a page has %d", len(page))
		}
		if position = next; next == "" {
			break
		}
	}
	slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(b, a) })
	if !slices.Equal(got, want) {
		t.Errorf("in pages: got %q, want %q", got, want)
	}
	if page, next := all("limit", "0"); len(page) != 0 || next != "" {
		t.Errorf("of a page of none: got %q %q", page, next)
	}
	for _, query := range [][2]string{
		{"limit", "x"}, {"limit", "-1"}, {"limit", "1001"}, {"position", "x"}, {"createTimeStart", "-1"}, {"createTimeEnd", "1e3"},
	} {
		w.get(t, "all", query[0], query[1]).want(t, 400, query[0])
	}
}

// What waits for its next attempt is tried again at once: one, or all that wait too long.
func TestTryAgainNow(t *testing.T) {
	t.Parallel()
	w := own(t)
	b := newBranches(t)
	slow := func(gid string, interval int) {
		w.post(t, "submit", with(saga(gid, b.at("/a", "status", "425"), ""), "wait_result", true, "retry_interval", interval)).want(t, 425)
	}
	w.get(t, "resetCronTime").want(t, 200, `{"has_remaining":false,"succeed_count":0}`)
	slow("r1", 1000)
	slow("r2", 130) // more than the 105 s that count as late, as r1
	slow("r3", 90)
	w.post(t, "resetNextCronTime", object{"gid": "r1"}).ok(t)
	b.called(t, "r1", 2)
	for query, want := range map[string]string{
		"":                     `{"has_remaining":false,"succeed_count":2}`,
		"timeout=30":           `{"has_remaining":false,"succeed_count":3}`,
		"timeout=30&limit=1":   `{"has_remaining":true,"succeed_count":1}`,
		"timeout=2000":         `{"has_remaining":false,"succeed_count":0}`,
		"timeout=2000&limit=1": `{"has_remaining":false,"succeed_count":0}`,
	} {
		eventually(t, func() (bool, string) { // what is under way waits for nothing
			calls := len(b.of(""))
			for _, gid := range []string{"r1", "r2", "r3"} {
				next, _ := time.Parse(time.RFC3339Nano, fmt.Sprint(w.query(t, gid).Transaction["next_cron_time"]))
				if time.Until(next) < 45*time.Second {
					return false, gid + " is under way"
				}
			}
			return calls == len(b.of("")), "calls go on"
		})
		before := len(b.of(""))
		a := w.get(t, "resetCronTime?"+query).want(t, 200)
		if a.body != want {
			t.Errorf("%q: got %s, want %s", query, a.body, want)
		}
		b.called(t, "", before+int(read[object](t, a)["succeed_count"].(float64)))
	}
	// What was never tried waits for its time. Counted it would be there for ever, and hide
	// what comes behind it.
	w.post(t, "submit", with(msg("r5", "", b.at("/d")), "custom_data", `{"delay":3600}`)).ok(t)
	w.get(t, "resetCronTime?timeout=2000").want(t, 200, `{"has_remaining":false,"succeed_count":0}`)
	// A workflow is called back at once, not after its interval; nobody asks the sender of a
	// message before its time.
	w.post(t, "prepareWorkflow", with(workflow("r4", b.at("/back")), "retry_interval", 1000)).want(t, 200)
	w.post(t, "resetNextCronTime", object{"gid": "r4"}).ok(t)
	b.called(t, "r4", 1)
	w.post(t, "prepare", msg("r6", b.at("/ask"), b.at("/d"))).ok(t)
	for _, gid := range []string{"r5", "r6"} {
		w.post(t, "resetNextCronTime", object{"gid": gid}).ok(t)
	}
	clock(t, w, b)(2)
	b.want(t, "r5")
	b.want(t, "r6")
	w.get(t, "resetCronTime", "timeout", "x").want(t, 400, "timeout")
	w.get(t, "resetCronTime", "limit", "-1").want(t, 400, "limit")
	w.post(t, "resetNextCronTime", object{"gid": "never"}).want(t, 500, `{"message":"no TransGlobal with gid: never found"}`)
}

func TestTopics(t *testing.T) {
	t.Parallel()
	w := own(t)
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "subscribe?topic=a&url=http://h/1&remark=one", 200, success},
		{"GET", "subscribe?topic=a&url=http://h/1&remark=two", 500, `{"message":"this url exists"}`},
		{"GET", "subscribe?topic=a&url=h:1/busi.Busi/In", 200, success},
		{"GET", "subscribe?topic=b&url=http://h/2", 200, success},
		{"GET", "subscribe?url=http://h/1", 500, `{"message":"empty topic"}`},
		{"GET", "subscribe?topic=a", 500, `{"message":"empty url"}`},
		{"GET", "subscribe?topic=a&url=ftp://h/1", 400, `{"message":"url: `},
		{"GET", "subscribe?topic=a%FF&url=http://h/1", 400, `{"message":"topic: `},
		{"GET", "unsubscribe?url=http://h/1", 500, `{"message":"empty topic"}`},
		{"GET", "unsubscribe?topic=a", 500, `{"message":"empty url"}`},
		{"GET", "unsubscribe?topic=never&url=http://h/1", 500, `{"message":"no such a topic"}`},
		{"GET", "unsubscribe?topic=a&url=http://h/9", 500, `{"message":"no such an url "}`},
		{"GET", "unsubscribe?topic=b&url=http://h/2", 200, success},
		{"GET", "unsubscribe?topic=b&url=http://h/2", 500, `{"message":"this topic is empty"}`},
		{"DELETE", "topic/b", 200, success},
		{"DELETE", "topic/b", 500, `{"message":"storage: NotFound"}`},
		{"DELETE", "topic/a%2Fb", 500, `{"message":"storage: NotFound"}`},
	} {
		a := w.do(t, tt.method, "/api/dtmsvr/"+tt.path, "")
		if a.status != tt.status || !strings.HasPrefix(a.body, tt.body) || a.kind != jsonType {
			t.Errorf("%s %s: got %+v, want %d %s", tt.method, tt.path, a, tt.status, tt.body)
		}
	}
	type kvs struct {
		KV   []object
		Next *string `json:"next_position"`
	}
	l := read[kvs](t, w.get(t, "scanKV", "cat", "topics").want(t, 200))
	if len(l.KV) != 1 || l.Next == nil || *l.Next != "" {
		t.Fatalf("got %+v", l)
	}
	k := l.KV[0]
	var subs []map[string]string
	if err := json.Unmarshal([]byte(fmt.Sprint(k["v"])), &subs); err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{{"url": "http://h/1", "remark": "one"}, {"url": "h:1/busi.Busi/In", "remark": ""}}
	if k["cat"] != "topics" || k["k"] != "a" || k["version"] != 2.0 || k["id"] == nil || k["id"] == 0.0 || !utc(k["create_time"]) || !utc(k["update_time"]) || fmt.Sprint(subs) != fmt.Sprint(want) {
		t.Errorf("got %v", k)
	}
	for name := range strings.SplitSeq("c d e f", " ") {
		w.get(t, "subscribe", "topic", name, "url", "http://h/"+name).ok(t)
	}
	var names []string
	for position := ""; ; {
		l := read[kvs](t, w.get(t, "scanKV", "cat", "topics", "limit", "2", "position", position))
		if len(l.KV) > 2 {
			t.Errorf("a page has %d", len(l.KV))
		}
		for _, k := range l.KV {
			names = append(names, fmt.Sprint(k["k"]))
		}
		if position = *l.Next; position == "" || len(names) > 9 {
			break
		}
	}
	if got := strings.Join(names, ""); got != "acdef" {
		t.Errorf("in pages: got %s", got)
	}
	for query, n := range map[string]int{"cat=topics&key=c": 1, "cat=topics&key=never": 0, "cat=topics": 5, "cat=other&key=c": 0, "": 0} {
		a := w.get(t, "queryKV?"+query).want(t, 200, `"kv":[`)
		if l := read[kvs](t, a); len(l.KV) != n || l.Next != nil {
			t.Errorf("%s: got %s", query, a.body)
		}
	}
	w.get(t, "scanKV", "cat", "other").want(t, 200, `{"kv":[],"next_position":""}`)
}

// utc tells whether a time is one that says the same everywhere.
func utc(v any) bool {
	s, _ := v.(string)
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil && strings.HasSuffix(s, "Z")
}

// What the transaction and its rows look like: the admin page of DTM, and tests of its
// users, read them.
func TestWhatQueryShows(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	out, back := b.at("/out", "status", "425"), b.at("/back")
	shared.post(t, "submit", with(saga(gid, out, back, b.at("/in"), ""), "wait_result", true, "retry_interval", 100, "timeout_to_fail", 1000,
		"request_timeout", 77, "retry_limit", 9, "branch_headers", object{"a": "b"}, "custom_data", `{"x":1}`)).want(t, 425)
	a := shared.get(t, "query", "gid", gid).want(t, 200)
	f := read[found](t, a)
	tx := f.Transaction
	for name, want := range map[string]any{
		"gid": gid, "trans_type": "saga", "status": "submitted", "protocol": "http", "custom_data": `{"x":1}`, "concurrent": false,
		"wait_result": true, "retry_interval": 100.0, "timeout_to_fail": 1000.0, "request_timeout": 77.0, "retry_limit": 9.0,
		"branch_headers": object{"a": "b"},
		// What has nothing to say is left out.
		"query_prepared": nil, "finish_time": nil, "rollback_time": nil, "result": nil, "rollback_reason": nil, "owner": nil, "ext_data": nil,
	} {
		if got := tx[name]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"create_time", "update_time", "next_cron_time"} {
		if !utc(tx[name]) {
			t.Errorf("%s: got %v", name, tx[name])
		}
	}
	if every, _ := tx["next_cron_interval"].(float64); every < 100 || every > 100+slack {
		t.Errorf("next_cron_interval: got %v", every)
	}
	if id, _ := tx["xid"].(string); id == "" { // which DTM does not have
		t.Errorf("the xid is %v", tx["xid"])
	}
	if id, _ := tx["id"].(float64); id < 1 {
		t.Errorf("the id is %v", tx["id"])
	}
	text, _ := tx["options"].(string)
	var options object
	if err := json.Unmarshal([]byte(text), &options); err != nil || options["retry_limit"] != 9.0 || options["concurrent"] != false {
		t.Errorf("options: got %v, %v", tx["options"], err)
	}
	if got := f.statuses(); got != "submitted 01-compensate:prepared 01-action:prepared 02-compensate:prepared 02-action:prepared" {
		t.Errorf("the rows are %s", got)
	}
	payload := base64.StdEncoding.EncodeToString([]byte(`{"n":1}`))
	ids := map[any]bool{}
	for i, want := range []object{
		{"branch_id": "01", "op": "compensate", "url": back}, {"branch_id": "01", "op": "action", "url": out},
		{"branch_id": "02", "op": "compensate", "url": nil}, {"branch_id": "02", "op": "action", "url": b.at("/in")},
	} {
		row := f.Branches[i]
		for name, v := range want {
			if row[name] != v {
				t.Errorf("row %d, %s: got %v, want %v", i, name, row[name], v)
			}
		}
		if row["gid"] != gid || row["status"] != "prepared" || !utc(row["create_time"]) || !utc(row["update_time"]) ||
			row["finish_time"] != nil || row["rollback_time"] != nil || ids[row["id"]] || row["id"] == nil {
			t.Errorf("row %d: got %v", i, row)
		}
		if want["url"] != nil && row["bin_data"] != payload {
			t.Errorf("row %d: the data is %v", i, row["bin_data"])
		}
		ids[row["id"]] = true
	}
	if again := shared.query(t, gid); fmt.Sprint(again) != fmt.Sprint(f) {
		t.Errorf("it changed without a reason: %v and %v", f, again)
	}
}

// The times of the end, and what is left of the rows then.
func TestWhatQueryShowsOfWhatIsOver(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for name, tt := range map[string]struct {
		action       string
		status, want string
		there, gone  string
	}{
		"succeed": {b.at("/a"), "200", "succeed 01-compensate:prepared 01-action:succeed", "finish_time", "rollback_time"},
		"failed":  {b.at("/a", "status", "409"), "409", "failed 01-compensate:succeed 01-action:failed", "rollback_time", "finish_time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			shared.post(t, "submit", with(saga(gid, tt.action, b.at("/c")), "wait_result", true)).want(t, map[string]int{"200": 200, "409": 409}[tt.status])
			f := shared.await(t, gid, tt.want)
			if tx := f.Transaction; !utc(tx[tt.there]) || tx[tt.gone] != nil || !utc(tx["update_time"]) || tx["next_cron_time"] != nil || tx["next_cron_interval"] != nil {
				t.Errorf("got %v", tx)
			}
			if reason, _ := f.Transaction["rollback_reason"].(string); (reason == "url:"+tt.action+" return failed: FAILURE") != (name == "failed") {
				t.Errorf("the reason is %q", reason)
			}
			if row := f.Branches[1]; row["url"] != tt.action || !utc(row["finish_time"]) {
				t.Errorf("the action is %v", row)
			}
		})
	}
}

func TestQueryKeepsItsOrder(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	a := shared.post(t, "prepareWorkflow", workflow(gid, "http://127.0.0.1:1/")).want(t, 200)
	q := shared.get(t, "query", "gid", gid)
	order := func(body string, names ...string) {
		at := -1
		for _, n := range names {
			i := strings.Index(body, `"`+n+`":`)
			if i <= at {
				t.Errorf("%s stands at %d in %s", n, i, body)
			}
			at = i
		}
	}
	order(q.body, "id", "create_time", "update_time", "gid", "trans_type", "status", "query_prepared", "protocol", "options", "custom_data", "concurrent")
	order(a.body, "progresses", "transaction")
}
