package caller_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// asDTM makes a call a saga's, in DTM's dialect.
func asDTM(c core.Call) core.Call {
	c.Action.Dialect, c.Mode, c.Op = core.DialectDTM, core.ModeSaga, core.OpForward
	c.Key, c.Name = "g-1", "01"
	return c
}

// asRPC does so over JSON-RPC.
func asRPC(c core.Call) core.Call {
	c = asDTM(c)
	c.Action.Dialect = core.DialectDTMRPC
	return c
}

// asWorkflow makes a call that which resumes a workflow.
func asWorkflow(c core.Call) core.Call {
	d := c.Action.Dialect
	c = asDTM(c)
	c.Mode, c.Action.Verb = core.ModeWorkflow, "order"
	if d != core.DialectHandfast {
		c.Action.Dialect = d
	}
	return c
}

// says is a service that answers with the status in its path and the body in its query.
func says(t *testing.T) string {
	t.Helper()
	return serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscan(r.URL.Path[1:], &code)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, r.URL.Query().Get("say"))
	})
}

func TestWhatDTMReadsInAnHTTPAnswer(t *testing.T) {
	t.Parallel()
	base := says(t)
	w := newWorld(t, caller.Config{})
	const done, failed, notYet, unsure = core.Done, core.Failed, core.NotYet, core.Unsure
	for _, tt := range []struct {
		code int
		body string
		want core.Verdict
		text string // part of it
	}{
		{200, "", done, ""},
		{200, `{"dtm_result":"SUCCESS"}`, done, ""},
		{200, "failure, ongoing", done, ""},
		{201, "made", unsure, "201 Created: made"},
		{202, "", unsure, "202 Accepted"},
		{409, "", failed, "return failed: FAILURE"},
		{409, "no room", failed, "return failed: no room FAILURE"},
		{409, `{"dtm_result":"FAILURE","message":"no room"}`, failed, `"no room"}`},
		{200, "a FAILURE", failed, "return failed: a FAILURE"},
		{500, "FAILURE", failed, "FAILURE"},
		{404, "FAILURE", failed, "FAILURE"},
		{425, "", notYet, "425 Too Early"},
		{425, "\x00 ", notYet, "425 Too Early"},
		{425, "later", notYet, "later"},
		{425, "FAILURE", notYet, "FAILURE"},
		{200, "ONGOING", notYet, "ONGOING"},
		{409, "ONGOING", notYet, "ONGOING"},
		{500, "ONGOING", notYet, "ONGOING"},
		{200, "FAILURE, and ONGOING", notYet, "FAILURE, and ONGOING"},
		{304, "", unsure, "304"},
		{301, "", unsure, "301"}, // to nowhere
		{400, "why", unsure, "400 Bad Request: why"},
		{404, "", unsure, "404"},
		{429, "", unsure, "429"},
		{500, "oops", unsure, "500 Internal Server Error: oops"},
		{501, "", unsure, "501"},
		{503, "", unsure, "503"},
	} {
		at := fmt.Sprintf("%s/%d?say=%s", base, tt.code, url.QueryEscape(tt.body))
		a := w.do(asDTM(post(at, "{}")))
		if a.Verdict != tt.want || a.NeedsAttention || a.Result != nil || !strings.Contains(a.Text, tt.text) {
			t.Errorf("%d %q: got %+v", tt.code, tt.body, a)
		}
		if tt.want == failed && !strings.HasPrefix(a.Text, "url:"+at+" return failed: ") {
			t.Errorf("%d %q: the reason is %q", tt.code, tt.body, a.Text)
		}
		if tt.want == unsure && !strings.Contains(a.Text, hostOf(base)) {
			t.Errorf("%d %q: the text is %q", tt.code, tt.body, a.Text)
		}
		// Whatever comes back from the service of a workflow is not the workflow's result.
		a = w.do(asWorkflow(post(at, "{}")))
		switch {
		case tt.code == 200 && (a.Verdict != notYet || a.Text != "called back; the workflow has not told its result yet"):
			t.Errorf("workflow, %d %q: got %+v", tt.code, tt.body, a)
		case tt.code != 200 && (a.Verdict != unsure || a.NeedsAttention):
			t.Errorf("workflow, %d %q: got %+v", tt.code, tt.body, a)
		}
	}
}

// All but a step, a try and the question to a sender has to happen in the end.
func TestOnlyWhatMayBeRefusedIsRefused(t *testing.T) {
	t.Parallel()
	base := says(t)
	w := newWorld(t, caller.Config{})
	for _, tt := range []struct {
		mode core.Mode
		op   core.Op
		verb string
		may  bool
	}{
		{core.ModeSaga, core.OpForward, "", true},
		{core.ModeSaga, core.OpRollback, "", false},
		{core.ModeTCC, core.OpForward, "", true},
		{core.ModeTCC, core.OpCommit, "", false},
		{core.ModeTCC, core.OpRollback, "", false},
		{core.ModeXA, core.OpCommit, "", false},
		{core.ModeXA, core.OpRollback, "", false},
		{core.ModeMessage, core.OpForward, "", false},
		{core.ModeMessage, core.OpForward, "msg", true},
	} {
		c := asDTM(post(base+"/409?say=no", "{}"))
		c.Mode, c.Op, c.Action.Verb = tt.mode, tt.op, tt.verb
		want := map[bool]core.Verdict{true: core.Failed, false: core.Unsure}[tt.may]
		if a := w.do(c); a.Verdict != want || a.NeedsAttention || !strings.Contains(a.Text, "no") {
			t.Errorf("%+v: got %+v", tt, a)
		}
	}
}

func TestTheReasonOfARefusalIsBounded(t *testing.T) {
	t.Parallel()
	base := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusConflict)
		if say, loud := r.Header["X-Say"]; loud {
			_, _ = io.WriteString(w, say[0]+strings.Repeat("ä", 900))
		}
	})
	w := newWorld(t, caller.Config{}) // which looks at the length
	for _, at := range []string{base, base + "/" + strings.Repeat("x", 1010-len(base)), base + "/" + strings.Repeat("x", 3000)} {
		for _, say := range []string{"", "FAILURE"} {
			c := asDTM(post(at, ""))
			c.Action.Header = []core.Header{{Name: "X-Say", Value: say}}
			a := w.do(c)
			if a.Verdict != core.Failed || strings.Count(a.Text, "FAILURE") != 1 || !strings.HasPrefix(a.Text, "url:"+base) {
				t.Errorf("%d bytes of URL, %q: got %v, %q", len(at), say, a.Verdict, a.Text)
			}
		}
	}
	// With the word it is longer than a text, and without it is not.
	if a := w.do(asDTM(post(base+"/"+strings.Repeat("x", 1000-len(base)), ""))); !strings.HasSuffix(a.Text, " FAILURE") {
		t.Errorf("got %v, %q", a.Verdict, a.Text)
	}
}

// A word may come in pieces, and stand anywhere.
func TestDTMsWordsAreFoundWhereverTheyStand(t *testing.T) {
	t.Parallel()
	base := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		var n int
		word := r.URL.Query().Get("word")
		_, _ = fmt.Sscan(r.URL.Query().Get("n"), &n)
		_, _ = io.WriteString(w, strings.Repeat(" ", n)+word[:3])
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, word[3:]+"!")
	})
	w := newWorld(t, caller.Config{})
	places := []int{0, 1, 1 << 20, 4<<20 - 8}
	for n := 4080; n < 4110; n++ {
		places = append(places, n, n+4096)
	}
	for _, n := range places {
		for word, want := range map[string]core.Verdict{"FAILURE": core.Failed, "ONGOING": core.NotYet, "FAILUREONGOING": core.NotYet, "SUCCESS": core.Done} {
			if len(word) > 7 && n > 1<<20 {
				continue
			}
			if a := w.do(asDTM(post(fmt.Sprintf("%s?n=%d&word=%s", base, n, word), ""))); a.Verdict != want || a.NeedsAttention {
				t.Fatalf("%s behind %d bytes: got %+v", word, n, a)
			}
		}
	}
	if a := w.do(asDTM(post(fmt.Sprintf("%s?n=%d&word=SUCCESS", base, 4<<20-7), ""))); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "4 MiB") {
		t.Errorf("more than 4 MiB: got %+v", a)
	}
}

func TestAnAnswerOfOneGigabyteCostsDTMsDialectNothing(t *testing.T) { //nolint:paralleltest // it counts memory
	var written atomic.Int64
	chunk := []byte(strings.Repeat("x", 32<<10))
	base := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscan(r.URL.Path[1:], &code)
		w.WriteHeader(code)
		for range (1 << 30) / len(chunk) {
			n, err := w.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	w := newWorld(t, caller.Config{})
	w.do(asDTM(post(base+"/409", ""))) // warm
	for code, want := range map[int]core.Verdict{200: core.Unsure, 404: core.Unsure, 409: core.Failed, 425: core.NotYet} {
		written.Store(0)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		a := w.do(asDTM(post(fmt.Sprintf("%s/%d", base, code), "")))
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if a.Verdict != want || a.NeedsAttention != (want == core.Unsure) {
			t.Errorf("%d: got %+v", code, a)
		}
		if made := after.TotalAlloc - before.TotalAlloc; made > 1<<20 {
			t.Errorf("%d: %d bytes were allocated", code, made)
		}
		if n := written.Load(); n > 1<<28 || took > patience/2 {
			t.Errorf("%d: %d bytes and %s", code, n, took)
		}
	}
	if a := w.do(asWorkflow(post(base+"/200", ""))); a.Verdict != core.NotYet {
		t.Errorf("workflow: got %+v", a)
	}
}

func TestBodiesWithoutTheirEndAndDTM(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{})
	var looks []func()
	for _, tt := range []struct {
		head, body string
		want       core.Verdict
	}{
		{"200 OK", "half", core.Unsure},
		{"200 OK", "FAILURE", core.Unsure},
		{"500 Oops", "FAILURE", core.Unsure},
		{"500 Oops", "ONGOING", core.Unsure},
		{"409 Conflict", "half", core.Failed},
		{"409 Conflict", "ONGOING", core.NotYet},
		{"425 Too Early", "FAILURE", core.NotYet},
	} {
		for _, hangs := range []bool{false, true} {
			host := raw(t, func(c net.Conn) {
				request(c)
				_, _ = io.WriteString(c, "HTTP/1.1 "+tt.head+"\r\nContent-Length: 10\r\n\r\n"+tt.body)
				if hangs {
					drain(c)
				}
			})
			timeout := patience
			if hangs {
				timeout = short
				if tt.want != core.Unsure { // its answer has to come before
					timeout = 10 * short
				}
			}
			answer := w.start(within(timeout, asDTM(post("http://"+host, "{}"))))
			looks = append(looks, func() {
				a := w.wait(answer)
				if a.Verdict != tt.want || a.NeedsAttention {
					t.Errorf("%s, %s, hangs %t: got %+v", tt.head, tt.body, hangs, a)
				}
				if hangs && tt.want == core.Unsure && !strings.Contains(a.Text, "within 300ms") {
					t.Errorf("%s, %s: the text is %q", tt.head, tt.body, a.Text)
				}
			})
		}
	}
	for _, look := range looks {
		look()
	}
}

// sent is a request that has arrived.
type sent struct {
	*http.Request
	body string
}

// sink is a service that says yes and shows what came.
func sink(t *testing.T) (base string, got chan sent) {
	t.Helper()
	got = make(chan sent, 100)
	return serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- sent{r, string(body)}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}), got
}

func TestHowDTMNamesWhatItCallsFor(t *testing.T) {
	t.Parallel()
	base, got := sink(t)
	w := newWorld(t, caller.Config{})
	branch := xid.NewBranchID()
	for _, tt := range []struct {
		mode      core.Mode
		op        core.Op
		verb      string
		key, name string
		want      string // gid, trans_type, branch_id, op
		post      bool
	}{
		{core.ModeSaga, core.OpForward, "", "g", "01", "g saga 01 action", false},
		{core.ModeSaga, core.OpRollback, "", "g", "02", "g saga 02 compensate", false},
		{core.ModeMessage, core.OpForward, "", "g", "01-02", "g msg 01-02 action", false},
		{core.ModeMessage, core.OpForward, "msg", "g", "00", "g msg 00 msg", false},
		{core.ModeTCC, core.OpForward, "", "g", "01", "g tcc 01 try", false},
		{core.ModeTCC, core.OpCommit, "", "g", "01", "g tcc 01 confirm", false},
		{core.ModeTCC, core.OpRollback, "", "g", "0101", "g tcc 0101 cancel", false},
		{core.ModeXA, core.OpCommit, "", "g", "01", "g xa 01 commit", true},
		{core.ModeXA, core.OpRollback, "", "g", "01", "g xa 01 rollback", true},
		{core.ModeWorkflow, core.OpForward, "my wf", "g", "00", "g workflow 00 my wf", true},
		{core.ModeSaga, core.OpForward, "", "", "hotel", testXID.String() + " saga " + branch.String() + " action", false},
		{core.ModeTCC, core.OpCommit, "", "", "", testXID.String() + " tcc " + branch.String() + " confirm", false},
		{core.ModeTCC, core.OpCommit, "", "g&h=1 ä", "", "g&h=1 ä tcc " + branch.String() + " confirm", false},
	} {
		for _, payload := range []string{"", "x"} {
			c := asDTM(post(base+"/b", payload))
			c.Mode, c.Op, c.Action.Verb, c.Key, c.Name, c.Branch = tt.mode, tt.op, tt.verb, tt.key, tt.name, branch
			if a := w.do(c); (a.Verdict != core.Done) != (tt.mode == core.ModeWorkflow) {
				t.Fatalf("%s: got %+v", tt.want, a)
			}
			r := receive(t, got)
			q := r.URL.Query()
			if have := fmt.Sprintf("%s %s %s %s", q.Get("gid"), q.Get("trans_type"), q.Get("branch_id"), q.Get("op")); have != tt.want || len(q) != 4 {
				t.Errorf("got %q, want %q of %v", have, tt.want, q)
			}
			if (r.Method == http.MethodPost) != (tt.post || payload != "") || !tt.post && payload == "" && r.Method != http.MethodGet || r.body != payload {
				t.Errorf("%s: %s %q", tt.want, r.Method, r.body)
			}
		}
	}
}

func TestWhatDTMSends(t *testing.T) {
	t.Parallel()
	base, got := sink(t)
	w := newWorld(t, caller.Config{})
	const ours = "branch_id=01&gid=g-1&op=action&trans_type=saga"
	for _, tt := range []struct{ at, want string }{
		{"", "/?" + ours},
		{"/b?", "/b?" + ours},
		{"/b?x=1", "/b?x=1&" + ours},
		{"/b?z=1&a=%2F;&z=+&e", "/b?z=1&a=%2F;&z=+&e&" + ours},
		{"/b?gid=theirs&op=o", "/b?gid=theirs&op=o&" + ours}, // both, theirs first
		{"/b?x=${steps.a}&y=${own}", "/b?x=${steps.a}&y=${own}&" + ours},
		{"/b/../${own}/$${x?q=${", "/b/../$%7Bown%7D/$$%7Bx?q=${&" + ours},
		{"/b?x=1#there", "/b?x=1&" + ours},
	} {
		payload := "{\"a\" : \"${steps.s.f}\", \"b\":1e400}\x00\xff"
		c := asDTM(post(base+tt.at, payload))
		c.Before, c.Own = []core.Result{{Name: "s", Value: []byte(`{"f":1}`)}}, []byte("1")
		c.Action.Header = []core.Header{{Name: "X-Two", Value: "1"}, {Name: "x-two", Value: "${own}"}, {Name: "X-Name", Value: "日本"}}
		if a := w.do(c); a.Verdict != core.Done || a.Result != nil {
			t.Fatalf("%s: got %+v", tt.at, a)
		}
		r := receive(t, got)
		if r.Method != http.MethodPost || r.RequestURI != tt.want || r.body != payload {
			t.Errorf("%s: got %s %s %q", tt.at, r.Method, r.RequestURI, r.body)
		}
		r.Header.Del("Content-Length")
		want := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"handfast"}, "X-Two": {"1", "${own}"}, "X-Name": {"日本"}}
		if !maps.EqualFunc(r.Header, want, func(a, b []string) bool { return strings.Join(a, ",") == strings.Join(b, ",") }) {
			t.Errorf("%s: the header is %v", tt.at, r.Header)
		}
	}
	c := asDTM(post(base, "<a/>"))
	c.Action.Header = []core.Header{{Name: "content-type", Value: "text/xml"}, {Name: "user-agent", Value: "us"}}
	w.do(c)
	if r := receive(t, got); strings.Join(r.Header.Values("Content-Type"), ",") != "text/xml" || r.UserAgent() != "us" {
		t.Errorf("what the action says does not go before ours: %v", r.Header)
	}
}

func TestDTMFollowsRedirects(t *testing.T) {
	t.Parallel()
	target, got := sink(t)
	base := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		var code, n int
		_, _ = fmt.Sscan(r.URL.Query().Get("code")+" "+r.URL.Query().Get("n"), &code, &n)
		to := r.URL.Query().Get("to")
		if n > 1 {
			to = fmt.Sprintf("/?code=%d&n=%d&to=%s", code, n-1, url.QueryEscape(to))
		}
		w.Header().Set("Location", to)
		w.WriteHeader(code)
	})
	w := newWorld(t, caller.Config{})
	hop := func(code, n int, to string) core.Call {
		c := asDTM(post(fmt.Sprintf("%s/?code=%d&n=%d&to=%s", base, code, n, url.QueryEscape(to)), "{}"))
		c.Action.Header = []core.Header{{Name: "X-A", Value: "b"}}
		return c
	}
	for code, want := range map[int]string{301: "GET ", 302: "GET ", 303: "GET ", 307: "POST {}", 308: "POST {}"} {
		if a := w.do(hop(code, 1, target+"/there?x=1")); a.Verdict != core.Done {
			t.Fatalf("%d: got %+v", code, a)
		}
		if r := receive(t, got); r.Method+" "+r.body != want || r.RequestURI != "/there?x=1" || r.Header.Get("X-A") != "b" {
			t.Errorf("%d: got %s %s %q %v", code, r.Method, r.RequestURI, r.body, r.Header)
		}
	}
	if a := w.do(hop(307, 9, target)); a.Verdict != core.Done {
		t.Errorf("9 redirects: got %+v", a)
	}
	if a := w.do(hop(307, 11, target)); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "stopped after 10 redirects") {
		t.Errorf("11 redirects: got %+v", a)
	}
	for _, to := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/"} {
		if a := w.do(hop(302, 2, to)); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "not allowed") || !strings.Contains(a.Text, to) {
			t.Errorf("%s: got %+v", to, a)
		}
	}
	slow := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if a := w.do(within(short, hop(302, 1, slow))); a.Verdict != core.Unsure || !strings.Contains(a.Text, "within 300ms") {
		t.Errorf("to who never answers: got %+v", a)
	}
	// The other calls follow none.
	if a := w.do(post(fmt.Sprintf("%s/?code=307&n=1&to=%s", base, url.QueryEscape(target)), "{}")); a.Verdict != core.Unsure || !strings.Contains(a.Text, "307") {
		t.Errorf("in Handfast's own dialect: got %+v", a)
	}
}

func TestDTMCallsNobodyWhereThereIsNoAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{})
	for _, c := range []core.Call{asDTM(post("", "{}")), asRPC(post("", "{}")), asDTM(unary("", nil))} {
		if a := w.do(c); a.Verdict != core.Done || a.Text != "" || a.Result != nil {
			t.Errorf("got %+v", a)
		}
		c.Mode = core.ModeWorkflow
		if a := w.do(c); a.Verdict != core.NotYet {
			t.Errorf("workflow: got %+v", a)
		}
	}
	none := asDTM(post("", ""))
	none.Action.Kind = core.TargetHandler
	for _, c := range []core.Call{post("", ""), none} {
		if a := w.do(c); a.Verdict != core.Unsure || !a.NeedsAttention {
			t.Errorf("got %+v", a)
		}
	}
}

func TestWhatDTMCannotSend(t *testing.T) {
	t.Parallel()
	base, got := sink(t)
	w := newWorld(t, caller.Config{})
	header := func(c core.Call, name, value string) core.Call {
		c.Action.Header = []core.Header{{Name: name, Value: value}}
		return c
	}
	change := func(c core.Call, f func(*core.Call)) core.Call { f(&c); return c }
	there := unary(hostOf(base)+check, nil).Action.Address
	for _, tt := range []struct {
		call core.Call
		text string
	}{
		{header(asDTM(post(base, "")), "X-A", "x\r\nb: y"), "character"},
		{header(asDTM(post(base, "")), "Handfast-Xid", "x"), "by the coordinator"},
		{header(asDTM(post(base, "")), "Connection", "x"), "connection"},
		{header(asDTM(unary(there, nil)), "x-a", "日本"), "no header may hold"},
		{header(asDTM(unary(there, nil)), "grpc-timeout", "1S"), "belongs to gRPC"},
		{change(asDTM(unary(there, nil)), func(c *core.Call) { c.Key = "日本" }), "gid"},
		{change(asWorkflow(unary(there, nil)), func(c *core.Call) { c.Action.Verb = "日本" }), "op"},
		{change(asDTM(post(base, "")), func(c *core.Call) { c.Op = core.OpCommit }), "no name"},
		{change(asDTM(post(base, "")), func(c *core.Call) { c.Mode = core.ModeAT }), "no name"},
		{change(asWorkflow(post(base, "")), func(c *core.Call) { c.Action.Verb = "" }), "no name"},
		{asDTM(post("ftp://h/", "")), "want a URL"},
		{asDTM(post("http://u:secret@h/", "")), "credentials"},
		{asDTM(unary("h/x", nil)), "host:port"},
		{asRPC(unary(there, nil)), "JSON-RPC"},
		{asRPC(post(base, "[]")), "JSON object"},
		{asRPC(post(base, "null")), "JSON object"},
		{asRPC(post(base, "{")), "JSON object"},
		{asRPC(post(base, "{}x")), "JSON object"},
	} {
		if a := w.do(tt.call); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, tt.text) || strings.Contains(a.Text, "secret") {
			t.Errorf("got %+v, want %q", a, tt.text)
		}
	}
	if len(got) != 0 {
		t.Errorf("something was sent: %s", (<-got).RequestURI)
	}
}
