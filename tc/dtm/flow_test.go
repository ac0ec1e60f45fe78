package dtm_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestSagas(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	a, c := b.at("/a"), b.at("/c")
	shared.post(t, "submit", with(saga(gid, a, c, a, c), "wait_result", true)).ok(t)
	b.want(t, gid, "01-action", "02-action")
	shared.await(t, gid, "succeed 01-compensate:prepared 01-action:succeed 02-compensate:prepared 02-action:succeed")
	gid = shared.gid(t)
	no := b.at("/no", "status", "409", "body", "out of stock")
	shared.post(t, "submit", with(saga(gid, a, c, no, c, a, c), "wait_result", true)).want(t, 409,
		`"dtm_result":"FAILURE"`, "url:"+no+" return failed: out of stock FAILURE")
	b.want(t, gid, "01-action", "02-action", "02-compensate", "01-compensate")
	f := shared.await(t, gid,
		"failed 01-compensate:succeed 01-action:succeed 02-compensate:succeed 02-action:failed 03-compensate:prepared 03-action:prepared")
	if f.Transaction["rollback_reason"] != "url:"+no+" return failed: out of stock FAILURE" {
		t.Errorf("the reason is %v", f.Transaction["rollback_reason"])
	}
}

// What is rolled back has failed, although a compensation is not done yet.
func TestARolledBackSagaHasFailedBeforeItIsUndone(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	no := b.at("/no", "status", "409")
	shared.post(t, "submit", with(saga(gid, no, b.at("/c", "status", "425")), "wait_result", true)).want(t, 409,
		`"dtm_result":"FAILURE"`, "url:"+no+" return failed: FAILURE")
	shared.await(t, gid, "aborting 01-compensate:prepared 01-action:failed")
}

func TestMessages(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	a, ask := b.at("/a"), b.at("/ask")
	for name, tt := range map[string]struct {
		run   func(t *testing.T, gid string, m object)
		query string
		want  string
		calls []string
	}{
		"submitted": {func(t *testing.T, _ string, m object) {
			t.Helper()
			shared.post(t, "prepare", m).ok(t)
			shared.post(t, "submit", with(m, "wait_result", true)).ok(t)
		}, ask, "succeed 01-action:succeed 02-action:succeed", []string{"01-action", "02-action"}},
		"submitted without a prepare": {func(t *testing.T, _ string, m object) {
			t.Helper()
			shared.post(t, "submit", with(m, "wait_result", true)).ok(t)
		}, ask, "succeed 01-action:succeed 02-action:succeed", []string{"01-action", "02-action"}},
		"aborted": {func(t *testing.T, gid string, m object) {
			t.Helper()
			shared.post(t, "prepare", m).ok(t)
			shared.post(t, "abort", trans(gid, "msg")).ok(t)
		}, ask, "failed 01-action:prepared 02-action:prepared", nil},
		"asked: yes": {func(t *testing.T, _ string, m object) {
			t.Helper()
			shared.post(t, "prepare", with(m, "timeout_to_fail", 1)).ok(t)
		}, ask, "succeed 01-action:succeed 02-action:succeed", []string{"00-msg", "01-action", "02-action"}},
		"asked: no": {func(t *testing.T, _ string, m object) {
			t.Helper()
			shared.post(t, "prepare", with(m, "timeout_to_fail", 1)).ok(t)
		}, b.at("/ask", "status", "409"), "failed 01-action:prepared 02-action:prepared", []string{"00-msg"}},
		"asked: not yet": {func(t *testing.T, gid string, m object) {
			t.Helper()
			shared.post(t, "prepare", with(m, "timeout_to_fail", 1)).ok(t)
			b.called(t, gid, 2) // it is asked again
			shared.await(t, gid, "prepared 01-action:prepared 02-action:prepared")
			shared.post(t, "submit", with(m, "timeout_to_fail", 1, "wait_result", true)).ok(t)
		}, b.at("/ask", "status", "425"), "succeed 01-action:succeed 02-action:succeed", nil},
		"asked: whatever": {func(t *testing.T, gid string, m object) {
			t.Helper()
			shared.post(t, "prepare", with(m, "timeout_to_fail", 1)).ok(t)
			b.called(t, gid, 2) // it is asked again
			shared.await(t, gid, "prepared 01-action:prepared 02-action:prepared")
			shared.post(t, "abort", trans(gid, "msg")).ok(t)
		}, b.at("/ask", "status", "500"), "failed 01-action:prepared 02-action:prepared", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			tt.run(t, gid, msg(gid, tt.query, a, a))
			shared.await(t, gid, tt.want)
			if tt.calls != nil {
				b.want(t, gid, tt.calls...)
			}
		})
	}
	t.Run("delivered all at once", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		held := b.at("/a", "hold", gid)
		shared.post(t, "submit", with(msg(gid, "", held, held), "concurrent", true, "request_timeout", 60)).ok(t)
		b.called(t, gid, 2)
		b.open(gid)
		shared.await(t, gid, "succeed")
	})
}

func TestTCC(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	begin := func(t *testing.T, gid string, fields ...any) {
		t.Helper()
		shared.post(t, "prepare", with(trans(gid, "tcc"), fields...)).ok(t)
		for _, id := range []string{"01", "02", "0201"} {
			shared.post(t, "registerBranch", tccBranch(gid, id, b.at("/confirm"), b.at("/cancel"))).ok(t)
		}
	}
	const rows = "01-cancel:%[1]s 01-confirm:%[2]s 02-cancel:%[1]s 02-confirm:%[2]s 0201-cancel:%[1]s 0201-confirm:%[2]s"
	t.Run("submitted", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		begin(t, gid)
		shared.post(t, "submit", with(trans(gid, "tcc"), "wait_result", true)).ok(t)
		b.want(t, gid, "0201-confirm", "02-confirm", "01-confirm")
		shared.await(t, gid, "succeed "+fmt.Sprintf(rows, "prepared", "succeed"))
	})
	t.Run("aborted", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		begin(t, gid)
		shared.post(t, "abort", with(trans(gid, "tcc"), "wait_result", true, "rollback_reason", "no more")).ok(t)
		b.want(t, gid, "0201-cancel", "02-cancel", "01-cancel")
		if f := shared.await(t, gid, "failed "+fmt.Sprintf(rows, "succeed", "prepared")); f.Transaction["rollback_reason"] != "no more" {
			t.Errorf("the reason is %v", f.Transaction["rollback_reason"])
		}
	})
	t.Run("aborted, to be waited for since its prepare", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		begin(t, gid, "wait_result", true)
		shared.post(t, "abort", trans(gid, "tcc")).ok(t)
		b.want(t, gid, "0201-cancel", "02-cancel", "01-cancel")
	})
	t.Run("forgotten", func(t *testing.T) {
		t.Parallel()
		for seconds := 2; ; seconds *= 2 {
			gid := shared.gid(t)
			shared.post(t, "prepare", with(trans(gid, "tcc"), "timeout_to_fail", seconds)).ok(t)
			late := false
			for _, id := range []string{"01", "02", "0201"} {
				a := shared.post(t, "registerBranch", tccBranch(gid, id, b.at("/confirm"), b.at("/cancel")))
				late = late || a.status != 200
			}
			if late && seconds < 16 {
				continue // a slow machine: its branches have to come before
			}
			f := shared.await(t, gid, "failed "+fmt.Sprintf(rows, "succeed", "prepared"))
			if f.Transaction["rollback_reason"] != fmt.Sprintf("Timeout after %d seconds", seconds) {
				t.Errorf("the reason is %v", f.Transaction["rollback_reason"])
			}
			return
		}
	})
	t.Run("never prepared", func(t *testing.T) {
		t.Parallel()
		gid := shared.gid(t)
		shared.post(t, "submit", trans(gid, "tcc")).ok(t)
		shared.await(t, gid, "succeed")
	})
	t.Run("not finished", func(t *testing.T) {
		t.Parallel()
		for status, method := range map[string]string{"425": "submit", "500": "submit", "409": "submit", "404": "abort"} {
			gid := shared.gid(t)
			u := b.at("/b", "status", status)
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			shared.post(t, "registerBranch", tccBranch(gid, "01", u, u)).ok(t)
			shared.post(t, method, with(trans(gid, "tcc"), "wait_result", true)).want(t, 425, `"dtm_result":"ONGOING"`)
		}
	})
}

func TestXA(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for method, want := range map[string]string{
		"submit": "succeed 01-rollback:prepared 01-commit:succeed 02-rollback:prepared 02-commit:succeed",
		"abort":  "failed 01-rollback:succeed 01-commit:prepared 02-rollback:succeed 02-commit:prepared",
	} {
		gid := shared.gid(t)
		shared.post(t, "prepare", trans(gid, "xa")).ok(t)
		for _, id := range []string{"01", "02"} {
			shared.post(t, "registerBranch", with(xaBranch(gid), "branch_id", id, "url", b.at("/xa"))).ok(t)
		}
		shared.post(t, method, with(trans(gid, "xa"), "wait_result", true)).ok(t)
		shared.await(t, gid, want)
		if n := len(b.of(gid)); n != 2 {
			t.Errorf("called %q", b.names(gid))
		}
	}
}

// Who looks for a workflow over HTTP.
type flowAnswer struct {
	Transaction struct {
		Gid, Status    string
		RollbackReason string `json:"rollback_reason"`
		Result         string
	}
	Progresses []struct {
		Status   string
		BinData  []byte `json:"bin_data"`
		BranchID string `json:"branch_id"`
		Op       string
	}
}

func TestWorkflows(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	result := base64.StdEncoding.EncodeToString([]byte("the result"))
	for _, tt := range []struct{ status, reason, result string }{{"succeed", "", result}, {"failed", "no FAILURE", ""}} {
		t.Run(tt.status, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			w := workflow(gid, b.at("/back"))
			look := func() flowAnswer {
				t.Helper()
				a := shared.post(t, "prepareWorkflow", w).want(t, 200)
				if a.kind != jsonType {
					t.Errorf("the type is %s", a.kind)
				}
				return read[flowAnswer](t, a)
			}
			if f := look(); f.Transaction.Gid != gid || f.Transaction.Status != "prepared" || f.Progresses == nil || len(f.Progresses) != 0 {
				t.Errorf("new: got %+v", f)
			}
			shared.post(t, "registerBranch", progress(gid, "01", "succeed", "R1")).ok(t)
			shared.post(t, "registerBranch", progress(gid, "02", "failed", "no room FAILURE")).ok(t)
			shared.post(t, "registerBranch", with(progress(gid, "01", "succeed", "B"), "op", "business")).ok(t)
			rows := func(f flowAnswer) {
				t.Helper()
				if got := fmt.Sprintf("%q", f.Progresses); got != `[{"succeed" "R1" "01" "action"} {"failed" "no room FAILURE" "02" "action"} {"succeed" "B" "01" "business"}]` {
					t.Errorf("the progresses are %s", got)
				}
			}
			f := look()
			rows(f)
			shared.post(t, "submit", ended(gid, tt.status, tt.reason, tt.result)).ok(t)
			if f = look(); f.Transaction.Status != tt.status || f.Transaction.RollbackReason != tt.reason || f.Transaction.Result != tt.result {
				t.Errorf("afterwards: got %+v", f)
			}
			rows(f)
			shared.post(t, "submit", ended(gid, tt.status, tt.reason, tt.result)).want(t, 500, `{"message":"storage: NotFound`)
			shared.await(t, gid, tt.status+" 01-action:succeed 02-action:failed 01-business:succeed")
		})
	}
	t.Run("called back", func(t *testing.T) {
		t.Parallel()
		// Again and again, and whatever the answer is, only its client ends it.
		for _, status := range []string{"200", "409", "500"} {
			gid := shared.gid(t)
			shared.post(t, "prepareWorkflow", with(workflow(gid, b.at("/back", "status", status)), "retry_interval", 1)).want(t, 200)
			b.called(t, gid, 1)
			shared.post(t, "resetNextCronTime", object{"gid": gid}).ok(t)
			b.called(t, gid, 2)
			shared.await(t, gid, "prepared")
			shared.post(t, "submit", ended(gid, "succeed", "", "")).ok(t)
			shared.await(t, gid, "succeed")
		}
	})
	t.Run("nobody's", func(t *testing.T) {
		t.Parallel()
		shared.post(t, "submit", ended("never", "succeed", "", "")).want(t, 500, `{"message":"storage: NotFound`)
		shared.post(t, "submit", ended(shared.gid(t), "prepared", "", "")).want(t, 400, "req_extra.status")
	})
}

// The same over gRPC, where all of the request comes with the submit.
func TestWorkflowsOverGRPC(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	r := request(gid, "workflow")
	r.QueryPrepared, r.CustomedData = "127.0.0.1:1/workflow.Workflow/Execute", `{"name":"flow","data":null}`
	out, err := shared.rpc.PrepareWorkflow(limited(t), r)
	if err != nil || out.GetTransaction().GetStatus() != "prepared" || out.GetTransaction().GetGid() != gid {
		t.Fatalf("got %v, %v", out, err)
	}
	r.ReqExtra = map[string]string{"status": "succeed", "result": "UjE=", "rollback_reason": ""}
	if _, err := shared.rpc.Submit(limited(t), r); err != nil {
		t.Fatal(err)
	}
	out, err = shared.rpc.PrepareWorkflow(limited(t), r)
	if err != nil || out.GetTransaction().GetStatus() != "succeed" || out.GetTransaction().GetResult() != "UjE=" {
		t.Fatalf("got %v, %v", out, err)
	}
	if _, err := shared.rpc.Submit(limited(t), r); status.Code(err) != codes.Unknown {
		t.Errorf("submitted twice: got %v", err)
	}
}

// A workflow under the gid of another one is refused while that goes on, and when it is over:
// it would take the other's steps for its own, or the other's result. It may be executed by
// another process, with other options, and be written in another way.
func TestAWorkflowDoesNotGoOnAsAnother(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	gid := shared.gid(t)
	w := workflow(gid, b.at("/q"))
	others := []string{`{"name":"other","data":"aW4="}`, `{"name":"flow","data":"aW5u"}`, `{"name":"flow"}`}
	check := func() {
		t.Helper()
		for _, custom := range others {
			a := shared.post(t, "prepareWorkflow", with(w, "custom_data", custom)).want(t, 409, "other content")
			if json.Valid([]byte(a.body)) {
				t.Errorf("%s would be taken for a transaction", a.body)
			}
			r := request(gid, "workflow")
			r.QueryPrepared, r.CustomedData = "127.0.0.1:1/a.B/C", custom
			if _, err := shared.rpc.PrepareWorkflow(limited(t), r); status.Code(err) != codes.Aborted {
				t.Errorf("gRPC: got %v", err)
			}
		}
		same := with(w, "custom_data", `{ "data": "aW4=", "name": "flow", "more": 1 }`, "query_prepared", b.at("/elsewhere"), "retry_interval", 7)
		shared.post(t, "prepareWorkflow", same).want(t, 200)
	}
	shared.post(t, "prepareWorkflow", w).want(t, 200)
	check()
	shared.post(t, "submit", ended(gid, "succeed", "", "")).ok(t)
	check()
}
