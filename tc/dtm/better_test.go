package dtm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/caller"
)

// clock counts the calls of a saga that is asked again each second, on the same
// coordinator: when it has gone on by n, n-1 seconds have passed there.
func clock(t *testing.T, w *world, b *branches) (wait func(n int)) {
	t.Helper()
	gid := w.gid(t)
	w.post(t, "submit", with(saga(gid, b.at("/clock", "status", "425"), ""), "retry_interval", 1)).ok(t)
	return func(n int) {
		t.Helper()
		b.called(t, gid, len(b.of(gid))+n)
	}
}

// What is not finished is not failed.
func TestUnfinishedIsNoFailure(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	held := b.at("/a", "hold", "all")
	for name, u := range map[string]string{
		"not yet": b.at("/a", "status", "425"), "an error": b.at("/a", "status", "500"), "nobody there": "http://127.0.0.1:1/a", "no answer": held,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := 60 // whoever has answered is not waited for
			if u == held {
				timeout = 1
			}
			for _, mode := range []string{"saga", "msg", "tcc"} {
				gid := shared.gid(t)
				o := map[string]object{"saga": saga(gid, u, ""), "msg": msg(gid, "", u), "tcc": trans(gid, "tcc")}[mode]
				if mode == "tcc" {
					shared.post(t, "prepare", with(o, "request_timeout", timeout)).ok(t)
					shared.post(t, "registerBranch", tccBranch(gid, "01", u, u)).ok(t)
				}
				a := shared.post(t, "submit", with(o, "wait_result", true, "request_timeout", timeout)).want(t, 425, `"dtm_result":"ONGOING"`)
				if strings.Contains(a.body, "FAILURE") {
					t.Errorf("%s: got %s", mode, a.body)
				}
				if got := shared.query(t, gid).Transaction["status"]; got != "submitted" {
					t.Errorf("%s: it is %v", mode, got)
				}
			}
			gid := shared.gid(t)
			r := request(gid, "saga")
			r.Steps, r.BinPayloads = marshal(t, []object{{"action": u}}), [][]byte{nil}
			r.TransOptions.WaitResult, r.TransOptions.RequestTimeout = true, int64(timeout)
			if _, err := shared.rpc.Submit(limited(t), r); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("gRPC: got %v", err)
			}
		})
	}
}

// A submit that is repeated joins what is running, although its call is still out.
func TestARepeatedSubmitJoins(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for _, mode := range []string{"saga", "msg"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			u := b.at("/a", "hold", gid)
			o := with(map[string]object{"saga": saga(gid, u, u), "msg": msg(gid, "", u)}[mode], "request_timeout", 60, "wait_result", true)
			answers := make(chan answer, 20)
			send := func() {
				a, err := shared.try(context.Background(), http.MethodPost, "/api/dtmsvr/submit", marshal(t, o))
				if err != nil {
					t.Error(err)
				}
				answers <- a
			}
			var all sync.WaitGroup
			all.Go(send)
			b.called(t, gid, 1)
			for range cap(answers) - 1 {
				all.Go(send)
			}
			shared.post(t, "submit", with(o, "wait_result", false)).ok(t)
			// Other content is no repetition.
			other := with(o, "payloads", []string{"other"})
			shared.post(t, "submit", other).want(t, 409, `"dtm_result":"FAILURE"`, "other content")
			if mode == "saga" {
				shared.post(t, "submit", with(o, "steps", []object{{"action": u, "compensate": ""}})).want(t, 409, "other content")
				shared.post(t, "submit", with(o, "custom_data", `{"concurrent":true}`)).want(t, 409, "other content")
			}
			r := request(gid, mode)
			r.Steps, r.BinPayloads = marshal(t, []object{{"action": u + "&x"}}), [][]byte{[]byte(`{"n":1}`)}
			if _, err := shared.rpc.Submit(limited(t), r); status.Code(err) != codes.Aborted {
				t.Errorf("gRPC: got %v", err)
			}
			b.open(gid)
			all.Wait()
			for range cap(answers) {
				// Who asks when all is over is told so.
				if a := <-answers; a.status != 200 && (a.status != 409 || !strings.Contains(a.body, "current status 'succeed'")) {
					t.Errorf("got %+v", a)
				}
			}
			b.want(t, gid, "01-action")
		})
	}
	t.Run("the same bytes, divided otherwise", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		u := b.at("/a", "hold", gid)
		o := with(saga(gid, u, "", u, ""), "request_timeout", 60, "payloads", []string{"12", "3"})
		shared.post(t, "submit", o).ok(t)
		shared.post(t, "submit", with(o, "payloads", []string{"1", "23"})).want(t, 409, "other content")
	})
	t.Run("prepare", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		m := msg(gid, b.at("/q"), b.at("/a"))
		shared.post(t, "prepare", m).ok(t)
		for _, what := range []string{"prepare", "submit"} {
			shared.post(t, what, with(m, "payloads", []string{"other"})).want(t, 409, "other content")
		}
		shared.post(t, "prepare", m).ok(t)
	})
}

// Many who begin the same at the same moment begin one.
func TestOneGidIsOneTransaction(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for range 20 {
		gid := shared.gid(t)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				a, err := shared.try(context.Background(), http.MethodPost, "/api/dtmsvr/submit", marshal(t, saga(gid, b.at("/a", "hold", gid), "")))
				if err != nil || a.status != 200 {
					t.Errorf("got %+v, %v", a, err)
				}
			})
		}
		all.Wait()
		b.called(t, gid, 1)
		b.open(gid)
		shared.await(t, gid, "succeed")
		b.want(t, gid, "01-action")
	}
}

// Where one gid begins with another, or ends with what could be a branch, nothing mixes.
func TestGidsThatLookAlike(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	base := shared.gid(t)
	all := []string{base, base + "-01", base + "-", base + "-01-action", base + "-02", base + "01", base[:len(base)-1] + "%", base + ".", base + "*", base + " "}
	for _, gid := range all {
		shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
		shared.post(t, "registerBranch", tccBranch(gid, "01", b.at("/confirm"), b.at("/cancel"))).ok(t)
	}
	shared.post(t, "registerBranch", tccBranch(base, "02", b.at("/confirm"), b.at("/cancel"))).ok(t)
	for i, gid := range all {
		f := shared.query(t, gid)
		if n := len(f.Branches); f.Transaction["gid"] != gid || n != 2 && (i > 0 || n != 4) {
			t.Errorf("%q: got %s", gid, f.statuses())
		}
	}
	shared.post(t, "submit", with(trans(base, "tcc"), "wait_result", true)).ok(t)
	b.want(t, base, "02-confirm", "01-confirm")
	for _, gid := range all[1:] {
		b.want(t, gid)
		shared.await(t, gid, "prepared")
		shared.post(t, "abort", with(trans(gid, "tcc"), "wait_result", true)).ok(t)
		b.want(t, gid, "01-cancel")
	}
	shared.await(t, base, "succeed")
}

// DTM's tables have room for 1,024 characters.
func TestLongValues(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	long := func(n int) string { return strings.Repeat("long ", n/5) }
	gid := shared.gid(t)
	payload, custom := long(1<<20), `{"x":"`+long(100_000)+`"}`
	action, ask := b.at("/a", "x", strings.Repeat("a", 6000)), b.at("/ask", "x", strings.Repeat("q", 6000))
	shared.post(t, "submit", with(saga(gid, action, b.at("/c")), "payloads", []string{payload}, "custom_data", custom, "query_prepared", ask,
		"branch_headers", object{"X-Long": long(8000)}, "wait_result", true)).ok(t)
	c := b.of(gid)[0]
	if c.body != payload || c.query.Get("x") != strings.Repeat("a", 6000) || c.header.Get("X-Long") != strings.TrimSpace(long(8000)) {
		t.Errorf("called with %d bytes, %d in the query, %d in the header", len(c.body), len(c.rawQuery), len(c.header.Get("X-Long")))
	}
	f := shared.query(t, gid)
	if f.Transaction["custom_data"] != custom || f.Transaction["query_prepared"] != ask || f.Branches[1]["url"] != action {
		t.Error("something was cut")
	}
	gid = shared.gid(t)
	shared.post(t, "prepare", with(msg(gid, ask, action), "payloads", []string{payload}, "timeout_to_fail", 1)).ok(t)
	shared.await(t, gid, "succeed")
	if c := b.of(gid); len(c) != 2 || c[0].query.Get("x") != strings.Repeat("q", 6000) || c[1].body != payload {
		t.Errorf("%d calls", len(c))
	}
	gid = shared.gid(t)
	shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
	shared.post(t, "registerBranch", with(tccBranch(gid, "01", action, action), "data", payload)).ok(t)
	shared.post(t, "abort", with(trans(gid, "tcc"), "rollback_reason", long(50_000))).ok(t)
	f = shared.await(t, gid, "failed")
	if f.Transaction["rollback_reason"] != long(50_000) || b.of(gid)[0].body != payload {
		t.Error("something was cut")
	}
	topic, remark := shared.gid(t)+strings.Repeat("t", 100), strings.Repeat("r", 1024)
	shared.get(t, "subscribe", "topic", topic, "url", action, "remark", remark).ok(t)
	if a := shared.get(t, "queryKV", "cat", "topics", "key", topic); !strings.Contains(a.body, remark) {
		t.Error("something was cut")
	}
	gid = shared.gid(t)
	shared.post(t, "submit", with(msg(gid, "", "topic://"+topic), "wait_result", true)).ok(t)
	if b.of(gid)[0].query.Get("x") != strings.Repeat("a", 6000) {
		t.Error("something was cut")
	}
	gid = shared.gid(t)
	shared.post(t, "prepareWorkflow", workflow(gid, ask)).want(t, 200)
	shared.post(t, "registerBranch", progress(gid, "01", "succeed", payload)).ok(t)
	shared.post(t, "submit", ended(gid, "failed", long(50_000), long(100_000))).ok(t)
	if f := read[flowAnswer](t, shared.post(t, "prepareWorkflow", workflow(gid, ask))); string(f.Progresses[0].BinData) != payload ||
		f.Transaction.RollbackReason != long(50_000) || f.Transaction.Result != long(100_000) {
		t.Error("something was cut")
	}
}

// A branch that is slow is not called again while its call is out.
func TestASlowBranchIsCalledOnce(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	s := with(saga(gid, b.at("/a", "hold", gid), ""), "request_timeout", 60, "retry_interval", 1)
	shared.post(t, "submit", s).ok(t)
	b.called(t, gid, 1)
	answers := make(chan answer, 1) // who waits for the result waits as long
	go func() {
		a, err := shared.try(limited(t), http.MethodPost, "/api/dtmsvr/submit", marshal(t, with(s, "wait_result", true)))
		if err != nil {
			t.Error(err)
		}
		answers <- a
	}()
	clock(t, shared, b)(6)
	b.want(t, gid, "01-action")
	b.open(gid)
	(<-answers).ok(t)
	shared.await(t, gid, "succeed")
	b.want(t, gid, "01-action")
}

// The compensation of an action that is under way waits for its end.
func TestCompensationWaitsForTheAction(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	c := b.at("/c")
	shared.post(t, "submit", with(saga(gid, b.at("/slow", "hold", gid), c, b.at("/no", "status", "409", "hold", gid+"-2"), c),
		"custom_data", `{"concurrent":true}`, "request_timeout", 60, "retry_interval", 1)).ok(t)
	b.called(t, gid, 2) // both actions are under way
	b.open(gid + "-2")
	b.called(t, gid, 3) // the second is undone, but not the first
	shared.await(t, gid, "aborting 01-compensate:prepared 01-action:prepared 02-compensate:succeed 02-action:failed")
	clock(t, shared, b)(2)
	if got := b.names(gid); len(got) != 3 || got[2] != "02-compensate" {
		t.Errorf("called %q", got)
	}
	b.open(gid)
	shared.await(t, gid, "failed")
	b.mu.Lock()
	ends := slices.DeleteFunc(slices.Clone(b.ends), func(s string) bool { return !strings.HasPrefix(s, gid+" end of 01-") })
	b.mu.Unlock()
	if got := b.names(gid); len(got) != 4 || got[3] != "01-compensate" || !slices.Equal(ends, []string{gid + " end of 01-action", gid + " end of 01-compensate"}) {
		t.Errorf("called %q, %q", got, ends)
	}
}

// Whatever comes over the wire, from clients or branches, the coordinator lives on.
func TestGarbage(t *testing.T) {
	t.Parallel()
	w := own(t)
	b := newBranches(t)
	junk := []string{"\x00\x01\x02", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100), "POST /api/dtmsvr/submit HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"}
	for _, addr := range []string{strings.TrimPrefix(w.url, "http://"), w.host} {
		for _, s := range junk {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte(s)) // it may have been cut off already
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("%q: %v", s, err)
			}
			_ = c.Close()
		}
	}
	for _, body := range []string{"", "null", "[]", `"x"`, "1", "{", strings.Repeat("[", 100_000), `{"gid":{}}`, `{"steps":[null]}`, `{"gid":"g","trans_type":"saga","steps":[null],"payloads":[null]}`, "\xff\xfe"} {
		for _, what := range []string{"prepare", "submit", "abort", "registerBranch", "prepareWorkflow", "forceStop", "resetNextCronTime"} {
			if a := w.post(t, what, body); a.status < 400 || a.status > 500 {
				t.Errorf("%s %.40q: got %+v", what, body, a)
			}
		}
	}
	for field, in := range map[string]message{"a": {0xff, 0xff}, "b": message{}.number(1, 7), "c": message{}.text(3, "\xff"), "d": message{}.text(1, "\xff\xfe")} {
		for _, what := range []string{"Prepare", "Submit", "Abort", "RegisterBranch", "PrepareWorkflow", "Subscribe", "Unsubscribe", "DeleteTopic"} {
			if _, err := w.raw(t, what, in); err == nil {
				t.Errorf("%s of %s was done", what, field)
			}
		}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var speakers sync.WaitGroup
	speakers.Go(func() {
		for n := 0; ; n++ {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // it has something to answer
			_, _ = c.Write([]byte([]string{
				"\x00\x01\x02", "HTTP/1.1 999999 x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
				"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), "",
			}[n%6]))
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		speakers.Wait()
	})
	for _, u := range []string{"http://" + lis.Addr().String() + "/a", lis.Addr().String() + "/a.B/C"} {
		for range 6 {
			w.post(t, "submit", with(saga(w.gid(t), u, ""), "protocol", "grpc", "wait_result", true, "request_timeout", 3)).want(t, 425)
		}
	}
	gid := w.gid(t)
	w.post(t, "submit", with(saga(gid, b.at("/a"), ""), "wait_result", true)).ok(t)
}

// Retries of many run side by side, with so many at one host at most; other hosts do not
// notice.
func TestRetriesRunSideBySide(t *testing.T) {
	t.Parallel()
	const limit, many = 8, 100
	w := own(t, func(c *tc.Config) { c.Calls = caller.Config{CallsPerHost: limit} })
	var mu sync.Mutex
	first := map[string]bool{}
	now, most := 0, 0
	go1 := make(chan struct{})
	open := sync.OnceFunc(func() { close(go1) })
	t.Cleanup(open)
	slow := newHandler(t, func(rw http.ResponseWriter, r *http.Request) {
		gid := r.URL.Query().Get("gid")
		mu.Lock()
		seen := first[gid]
		first[gid] = true
		if seen {
			now++
			most = max(most, now)
		}
		mu.Unlock()
		if !seen {
			rw.WriteHeader(http.StatusTooEarly)
			return
		}
		<-go1
		mu.Lock()
		now--
		mu.Unlock()
	})
	b := newBranches(t)
	gidOf := func(n int) string { return fmt.Sprintf("many-%d", n) }
	for n := range many {
		w.post(t, "submit", with(saga(gidOf(n), slow+"/a", ""), "request_timeout", 60, "retry_interval", 1)).ok(t)
	}
	eventually(t, func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		return now == limit, fmt.Sprintf("%d retries are under way, of %d", now, len(first))
	})
	w.post(t, "submit", with(saga("other", b.at("/a"), ""), "wait_result", true)).ok(t)
	open()
	for n := range many {
		w.await(t, gidOf(n), "succeed")
	}
	mu.Lock()
	defer mu.Unlock()
	if most != limit {
		t.Errorf("%d at most were under way", most)
	}
}

// The pauses after failures grow, up to a minute, and those of no two are the same.
func TestPausesGrowAndDiffer(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	const many = 30
	gids := make([]string, many)
	u := b.at("/a", "status", "500")
	for i := range gids {
		gids[i] = shared.gid(t)
		shared.post(t, "submit", with(saga(gids[i], u, ""), "wait_result", true)).want(t, 425)
	}
	const attempts = 11 // 1 s, and twice that 10 times, would be a quarter of an hour
	for n := 1; n < attempts; n++ {
		for _, gid := range gids {
			shared.post(t, "resetNextCronTime", object{"gid": gid}).ok(t)
			b.called(t, gid, n+1)
		}
	}
	pauses := map[float64]int{}
	for _, gid := range gids {
		var every float64
		eventually(t, func() (bool, string) {
			every, _ = shared.query(t, gid).Transaction["next_cron_interval"].(float64)
			return every >= 29, fmt.Sprintf("the pause is %v s", every) // while the call is out it is its timeout
		})
		if every > 60+slack {
			t.Errorf("the pause is %v s", every)
		}
		pauses[every]++
	}
	if len(pauses) < 8 {
		t.Errorf("they are too much alike: %v", pauses)
	}
}

// An option may ask for longer pauses than those.
func TestALongRetryInterval(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for status, least := range map[string]float64{"500": 100, "425": 200} {
		gid := shared.gid(t)
		shared.post(t, "submit", with(saga(gid, b.at("/a", "status", status), ""), "wait_result", true, "retry_interval", 200)).want(t, 425)
		if every, _ := shared.query(t, gid).Transaction["next_cron_interval"].(float64); every < least || every > 200+slack {
			t.Errorf("after %s the pause is %v s", status, every)
		}
	}
}

// Between the attempts that retry_limit allows there are pauses, and then it is undone.
func TestRetryLimit(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	shared.post(t, "submit", with(saga(gid, b.at("/a", "status", "500"), b.at("/c")), "retry_limit", 2, "retry_interval", 1)).ok(t)
	f := shared.await(t, gid, "failed 01-compensate:succeed 01-action:prepared")
	b.want(t, gid, "01-action", "01-action", "01-action", "01-compensate")
	c := b.of(gid)
	for i, least := range []time.Duration{time.Second / 2, time.Second} { // half of 1 s and of 2 s: they are spread
		if pause := c[i+1].at.Sub(c[i].at); pause < least-50*time.Millisecond {
			t.Errorf("pause %d is %s", i, pause)
		}
	}
	if reason := f.Transaction["rollback_reason"]; reason != "RetryCount is greater than RetryLimit, RetryLimit: 2" {
		t.Errorf("the reason is %v", reason)
	}
	// "Not yet" is no failure.
	gid = shared.gid(t)
	shared.post(t, "submit", with(saga(gid, b.at("/a", "status", "425"), b.at("/c")), "retry_limit", 1, "retry_interval", 1)).ok(t)
	for n := range 5 {
		b.called(t, gid, n+1)
		shared.post(t, "resetNextCronTime", object{"gid": gid}).ok(t)
	}
	shared.await(t, gid, "submitted")
}

// What was stopped by force is not called any more.
func TestForceStopStops(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	wait := clock(t, shared, b)
	later := b.at("/a", "status", "425")
	var all []string
	add := func(gid string) string { all = append(all, gid); return gid }
	shared.post(t, "submit", with(saga(add(shared.gid(t)), later, b.at("/c"), later, b.at("/c")), "retry_interval", 1)).ok(t)
	shared.post(t, "submit", with(saga(add(shared.gid(t)), b.at("/a", "status", "409"), later), "retry_interval", 1)).ok(t)
	shared.post(t, "submit", with(msg(add(shared.gid(t)), "", later, later), "retry_interval", 1)).ok(t)
	shared.post(t, "prepare", with(msg(add(shared.gid(t)), later, later), "retry_interval", 1, "timeout_to_fail", 1)).ok(t)
	held := add(shared.gid(t))
	shared.post(t, "submit", with(saga(held, b.at("/a", "hold", held), b.at("/c"), b.at("/a"), b.at("/c")), "request_timeout", 60)).ok(t)
	flow := add(shared.gid(t))
	shared.post(t, "prepareWorkflow", with(workflow(flow, b.at("/back")), "retry_interval", 1)).want(t, 200)
	tcc := add(shared.gid(t))
	shared.post(t, "prepare", with(trans(tcc, "tcc"), "retry_interval", 1)).ok(t)
	shared.post(t, "registerBranch", tccBranch(tcc, "01", later, later)).ok(t)
	shared.post(t, "abort", trans(tcc, "tcc")).ok(t)
	for i, gid := range all {
		b.called(t, gid, []int{1, 2, 1, 1, 1, 1, 1}[i])
		shared.post(t, "forceStop", object{"gid": gid}).ok(t)
	}
	count := func() string {
		var n []int
		for _, gid := range all {
			n = append(n, len(b.of(gid)))
		}
		return fmt.Sprint(n)
	}
	wait(2) // what was on its way when it was stopped has come
	was := count()
	b.open(held)
	wait(3)
	if now := count(); now != was {
		t.Errorf("called %s times, and then %s", was, now)
	}
	for _, gid := range all {
		f := shared.query(t, gid)
		if f.Transaction["status"] != "failed" || !utc(f.Transaction["rollback_time"]) {
			t.Errorf("%s is %v", gid, f.Transaction)
		}
		if got := f.statuses(); gid == tcc && got != "failed 01-cancel:prepared 01-confirm:prepared" {
			t.Errorf("what was given up is not done: %s", got)
		}
	}
}

// newHandler starts a server of HTTP and gives its URL.
func newHandler(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: f, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + lis.Addr().String()
}
