package dtm_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// pauseOf is how long after its begin a transaction is called first, in seconds.
func pauseOf(t *testing.T, f found) float64 {
	t.Helper()
	begin, err := time.Parse(time.RFC3339Nano, fmt.Sprint(f.Transaction["create_time"]))
	if err != nil {
		t.Fatal(err)
	}
	next, err := time.Parse(time.RFC3339Nano, fmt.Sprint(f.Transaction["next_cron_time"]))
	if err != nil {
		t.Fatal(err)
	}
	return next.Sub(begin).Seconds()
}

// The sender of a message is asked at timeout_to_fail, and a workflow is called back
// after retry_interval: not sooner, and not later.
func TestWhenTheFirstCallIsDue(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for name, tt := range map[string]struct {
		what    string
		options []any
		want    float64
	}{
		"a message":                         {"prepare", nil, 35},
		"a message with a timeout":          {"prepare", []any{"timeout_to_fail", 100, "retry_interval", 7}, 100},
		"a workflow":                        {"prepareWorkflow", nil, 10},
		"a workflow with an interval":       {"prepareWorkflow", []any{"retry_interval", 100}, 100},
		"a workflow with a timeout":         {"prepareWorkflow", []any{"timeout_to_fail", 8}, 8},
		"a workflow with a longer timeout":  {"prepareWorkflow", []any{"timeout_to_fail", 80}, 10},
		"a workflow with both":              {"prepareWorkflow", []any{"timeout_to_fail", 8, "retry_interval", 100}, 100},
		"a message with nothing but a wait": {"prepare", []any{"retry_interval", 7}, 35},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			o := msg(gid, b.at("/ask"), b.at("/a"))
			if tt.what == "prepareWorkflow" {
				o = workflow(gid, b.at("/back"))
			}
			shared.post(t, tt.what, with(o, tt.options...)).want(t, 200)
			if got := pauseOf(t, shared.query(t, gid)); got < tt.want || got > tt.want+slack {
				t.Errorf("after %v s, want %v", got, tt.want)
			}
			b.want(t, gid)
		})
	}
}

// A workflow is called back at a steady pace.
func TestTheNextCallBackIsDueAfterTheInterval(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	shared.post(t, "prepareWorkflow", with(workflow(gid, b.at("/back")), "retry_interval", 100)).want(t, 200)
	for n := range 3 {
		shared.post(t, "resetNextCronTime", object{"gid": gid}).ok(t)
		b.called(t, gid, n+1)
		eventually(t, func() (bool, string) { // while the call is out, it is its timeout
			every, _ := shared.query(t, gid).Transaction["next_cron_interval"].(float64)
			return every >= 100 && every <= 100+slack, fmt.Sprintf("after call %d the pause is %v s", n+1, every)
		})
	}
}

// What is not done yet is asked again at the timeout, where that is shorter than 10 s.
func TestAShortTimeoutIsTheInterval(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	o := msg(gid, "", b.at("/a", "status", "425")) // a saga is rolled back then
	shared.post(t, "submit", with(o, "timeout_to_fail", 4, "wait_result", true)).want(t, 425)
	eventually(t, func() (bool, string) { // while the call is out, it is its timeout
		every, _ := shared.query(t, gid).Transaction["next_cron_interval"].(float64)
		return every >= 4 && every <= 8, fmt.Sprintf("the pause is %v s", every)
	})
}

// What the sender of a message answers after it has decided counts for nothing.
func TestAnAnswerAfterTheDecisionIsTooLate(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct{ status, want string }{
		"submit": {"409", "succeed 01-action:succeed"}, "abort": {"200", "failed 01-action:prepared"}, "forceStop": {"200", "failed 01-action:prepared"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b, gid := newBranches(t), shared.gid(t)
			m := with(msg(gid, b.at("/ask", "hold", gid, "status", tt.status), b.at("/a")), "timeout_to_fail", 1, "request_timeout", 60)
			shared.post(t, "prepare", m).ok(t)
			b.called(t, gid, 1)
			shared.post(t, what, m).ok(t)
			b.open(gid)
			eventually(t, func() (bool, string) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return slices.Contains(b.ends, gid+" end of 00-msg"), "it has not answered"
			})
			shared.await(t, gid, tt.want)
			clock(t, shared, b)(2)
			shared.await(t, gid, tt.want)
		})
	}
}
