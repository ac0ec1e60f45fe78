package dtm_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A submit as DTM's Go client sends it, byte for byte but for the addresses.
func TestASagaAsTheGoClientSendsIt(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	body := strings.NewReplacer("GID", gid, "HOST", b.URL).Replace(`{"gid":"GID","trans_type":"saga","wait_result":true,"concurrent":false,` +
		`"steps":[{"action":"HOST/busi/Out","compensate":"HOST/busi/OutRevert"},` +
		`{"action":"HOST/busi/In","compensate":"HOST/busi/InRevert"}],` +
		`"payloads":["{\"t\":\"179..\"}","{\"t\":\"179..\"}"],"protocol":""}`)
	shared.do(t, http.MethodPost, "/api/dtmsvr/submit", body).ok(t)
	b.want(t, gid, "01-action", "02-action")
	for i, path := range []string{"/busi/Out", "/busi/In"} {
		want := fmt.Sprintf("branch_id=0%d&gid=%s&op=action&trans_type=saga", i+1, gid)
		if c := b.of(gid)[i]; c.method != http.MethodPost || c.path != path || c.rawQuery != want || c.body != `{"t":"179.."}` || c.header.Get("Content-Type") != "application/json" {
			t.Errorf("called %+v", c)
		}
	}
	shared.await(t, gid, "succeed 01-compensate:prepared 01-action:succeed 02-compensate:prepared 02-action:succeed")
}

// The Python client sends null for what it has no text for.
func TestNulls(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	shared.do(t, http.MethodPost, "/api/dtmsvr/submit", strings.NewReplacer("GID", gid, "HOST", b.URL).Replace(
		`{"gid":"GID","trans_type":"saga","steps":[{"action":"HOST/a","compensate":null}],"payloads":["x"],"query_prepared":null,"protocol":null,
		"custom_data":null,"rollback_reason":null,"wait_result":true,"timeout_to_fail":null,"request_timeout":null,"retry_interval":null,
		"branch_headers":null,"concurrent":null,"retry_limit":null,"req_extra":null}`)).ok(t)
	b.want(t, gid, "01-action")
	gid = shared.gid(t)
	null := strings.NewReplacer("GID", gid, "HOST", b.URL)
	for _, r := range [][2]string{
		{"prepare", `{"gid":"GID","trans_type":"tcc","steps":null,"payloads":null,"custom_data":null}`},
		{"registerBranch", `{"gid":"GID","trans_type":"tcc","branch_id":"01","confirm":"HOST/confirm","cancel":null,"data":null,"status":null,"url":null}`},
		{"submit", `{"gid":"GID","trans_type":"tcc","wait_result":true,"rollback_reason":null}`},
	} {
		shared.do(t, http.MethodPost, "/api/dtmsvr/"+r[0], null.Replace(r[1])).ok(t)
	}
	b.want(t, gid, "01-confirm")
}

func TestUnknownFields(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	shared.post(t, "submit", with(saga(gid, b.at("/a"), ""), "wait_result", true, "passthrough_headers", []string{"a"}, "new", object{"x": nil},
		"steps", []object{{"action": b.at("/a"), "compensate": "", "more": "x"}})).ok(t)
	b.want(t, gid, "01-action")
}

// Old clients have the payloads in the steps.
func TestPayloadsInSteps(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for mode, o := range map[string]object{"saga": saga("", "", ""), "msg": msg("", "", "")} {
		gid := shared.gid(t)
		shared.post(t, "submit", with(o, "gid", gid, "payloads", nil, "wait_result", true, "steps", []object{
			{"action": b.at("/a"), "data": "one"}, {"action": b.at("/b"), "data": `{"two":2}`},
		})).ok(t)
		if c := b.called(t, gid, 2); c[0].body != "one" || c[1].body != `{"two":2}` || len(c) != 2 {
			t.Errorf("%s: called %+v", mode, c)
		}
	}
}

// Every option does what it says; their values are looked at in TestWhatQueryShows.
func TestOptions(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	t.Run("wait_result", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		// Without it the answer does not wait for a branch that does not answer.
		shared.post(t, "submit", saga(gid, b.at("/a", "hold", gid), "")).ok(t)
		b.called(t, gid, 1)
		shared.await(t, gid, "submitted")
		b.open(gid)
		shared.await(t, gid, "succeed")
	})
	t.Run("timeout_to_fail", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		shared.post(t, "submit", with(saga(gid, b.at("/a", "status", "425"), b.at("/c")), "timeout_to_fail", 1)).ok(t)
		f := shared.await(t, gid, "failed 01-compensate:succeed 01-action:prepared")
		if f.Transaction["rollback_reason"] != "Timeout after 1 seconds" {
			t.Errorf("the reason is %v", f.Transaction["rollback_reason"])
		}
	})
	t.Run("timeout_to_fail while a call is out", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		answers := make(chan answer, 1)
		go func() {
			a, err := shared.try(context.Background(), http.MethodPost, "/api/dtmsvr/submit", marshal(t, with(saga(gid, b.at("/a", "hold", gid), b.at("/c")),
				"timeout_to_fail", 1, "request_timeout", 60, "wait_result", true)))
			if err != nil {
				t.Error(err)
			}
			answers <- a
		}()
		shared.await(t, gid, "aborting")
		b.open(gid)
		(<-answers).want(t, 409, `"dtm_result":"FAILURE"`, "Timeout after 1 seconds FAILURE")
	})
	for _, seconds := range []int{0, 1} { // 0: 3
		t.Run(fmt.Sprintf("request_timeout of %d s", seconds), func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			began := time.Now()
			shared.post(t, "submit", with(saga(gid, b.at("/a", "hold", gid), ""), "request_timeout", seconds, "retry_interval", 100, "wait_result", true)).
				want(t, 425, fmt.Sprintf(" within %ds", cmp.Or(seconds, 3)), "ONGOING")
			if took, least := time.Since(began).Seconds(), float64(cmp.Or(seconds, 3)); took < least-0.1 || took > least+2+slack {
				t.Errorf("it took %v s", took)
			}
			b.open(gid)
		})
	}
	t.Run("branch_headers", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		shared.post(t, "submit", with(saga(gid, b.at("/a"), ""), "branch_headers", object{"X-One": "1", "x-two": "zwei", "Content-Type": "text/plain"}, "wait_result", true)).ok(t)
		if h := b.of(gid)[0].header; h.Get("X-One") != "1" || h.Get("X-Two") != "zwei" || h.Get("Content-Type") != "text/plain" {
			t.Errorf("the headers are %v", h)
		}
	})
	t.Run("delay", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		shared.post(t, "submit", with(msg(gid, "", b.at("/a")), "custom_data", `{"delay":1000}`)).ok(t)
		both := shared.gid(t) // only the submit says so
		shared.post(t, "prepare", msg(both, "", b.at("/a"))).ok(t)
		shared.post(t, "submit", with(msg(both, "", b.at("/a")), "custom_data", `{"delay":1000}`)).ok(t)
		soon := shared.gid(t)
		shared.post(t, "submit", with(msg(soon, "", b.at("/a")), "custom_data", `{"delay":1}`)).ok(t)
		b.called(t, soon, 1)
		b.want(t, gid)
		b.want(t, both)
	})
}

// Steps of a saga go one after another, or side by side, or as orders say.
func TestTheOrderOfSteps(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		custom string
		free   string // the steps that are called while all are held
	}{
		"one after another":             {``, "01"},
		"side by side":                  {`{"concurrent":true}`, "01 02 03"},
		"orders":                        {`{"concurrent":true,"orders":{"0":[2],"1":[2]}}`, "03"},
		"orders, of no importance here": {`{"orders":{"2":[0]}}`, "01"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBranches(t)
			gid := shared.gid(t)
			a := b.at("/a", "hold", "all")
			shared.post(t, "submit", with(saga(gid, a, "", a, "", a, ""), "custom_data", tt.custom, "request_timeout", 60)).ok(t)
			free := strings.Fields(tt.free)
			b.called(t, gid, len(free))
			got := map[string]bool{}
			for _, c := range b.of(gid) {
				got[c.query.Get("branch_id")] = true
			}
			for _, id := range free {
				if !got[id] || len(got) != len(free) {
					t.Errorf("called %v, want %s", got, tt.free)
				}
			}
			b.open("all")
			// The rows stand in the order of the steps, whatever the order of the calls is.
			shared.await(t, gid, "succeed 01-compensate:prepared 01-action:succeed 02-compensate:prepared 02-action:succeed "+
				"03-compensate:prepared 03-action:succeed")
			if n := len(b.of(gid)); n != 3 {
				t.Errorf("%d calls", n)
			}
		})
	}
}
