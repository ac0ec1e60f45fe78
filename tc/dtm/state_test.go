package dtm_test

import (
	"testing"
)

// What is asked about a gid in which state, and what the answer is.
func TestDuplicatesAndWrongStates(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	later, no, a := b.at("/later", "status", "425"), b.at("/no", "status", "409"), b.at("/a")
	post := func(t *testing.T, what string, o object) {
		t.Helper()
		shared.post(t, what, o).ok(t)
	}
	prepared := func(t *testing.T, gid, mode string) {
		t.Helper()
		switch mode {
		case "msg":
			post(t, "prepare", msg(gid, a, later))
		case "workflow":
			shared.post(t, "prepareWorkflow", workflow(gid, a)).want(t, 200)
		case "tcc":
			post(t, "prepare", trans(gid, "tcc"))
			post(t, "registerBranch", tccBranch(gid, "01", later, later))
		case "xa":
			post(t, "prepare", trans(gid, "xa"))
			post(t, "registerBranch", with(xaBranch(gid), "branch_id", "01", "url", later))
		}
	}
	// The same content whenever it is asked: the request of a mode about a gid.
	content := func(gid, mode string) object {
		switch mode {
		case "saga":
			return saga(gid, later, later)
		case "msg":
			return msg(gid, a, later)
		default:
			return trans(gid, mode)
		}
	}
	states := map[string]func(t *testing.T, gid, mode string){
		"unknown":  func(*testing.T, string, string) {},
		"prepared": prepared,
		"submitted": func(t *testing.T, gid, mode string) {
			t.Helper()
			prepared(t, gid, mode)
			post(t, "submit", content(gid, mode))
			b.called(t, gid, 1)
		},
		"aborting": func(t *testing.T, gid, mode string) {
			t.Helper()
			if mode == "saga" {
				post(t, "submit", saga(gid, no, later))
				b.called(t, gid, 2)
				return
			}
			prepared(t, gid, mode)
			post(t, "abort", content(gid, mode))
		},
		"failed": func(t *testing.T, gid, mode string) {
			t.Helper()
			prepared(t, gid, mode)
			if mode == "saga" {
				post(t, "submit", content(gid, mode))
			}
			post(t, "forceStop", object{"gid": gid})
		},
		"succeed": func(t *testing.T, gid, mode string) {
			t.Helper()
			switch mode {
			case "saga":
				post(t, "submit", with(saga(gid, a, ""), "wait_result", true))
			case "msg":
				post(t, "submit", with(msg(gid, "", a), "wait_result", true))
			case "workflow":
				prepared(t, gid, mode)
				post(t, "submit", ended(gid, "succeed", "", ""))
			default:
				post(t, "submit", trans(gid, mode))
			}
		},
	}
	const (
		unknown     = "no TransGlobal with gid: "
		cantPrepare = "', cannot prepare. FAILURE"
		cantSubmit  = "', cannot sumbmit. FAILURE"
		cantAbort   = "', cannot abort. FAILURE"
		forced      = "error: FAILURE"
	)
	for _, tt := range []struct {
		what, mode, state string
		status            int
		text              string // beside the name of the state, where it is refused for that
		after             string // empty: as before
	}{
		{"prepare", "tcc", "unknown", 200, success, "prepared"},
		{"prepare", "tcc", "prepared", 200, success, ""},
		{"prepare", "msg", "prepared", 200, success, ""},
		{"prepare", "xa", "prepared", 200, success, ""},
		{"prepare", "tcc", "submitted", 409, "'submitted" + cantPrepare, ""},
		{"prepare", "tcc", "aborting", 409, "'aborting" + cantPrepare, ""},
		{"prepare", "tcc", "failed", 409, "'failed" + cantPrepare, ""},
		{"prepare", "tcc", "succeed", 409, "'succeed" + cantPrepare, ""},
		{"prepare", "msg", "submitted", 409, "'submitted" + cantPrepare, ""},
		{"prepare", "msg", "failed", 409, "'failed" + cantPrepare, ""},
		{"prepare", "msg", "succeed", 409, "'succeed" + cantPrepare, ""},

		{"submit", "saga", "unknown", 200, success, "submitted"},
		{"submit", "saga", "submitted", 200, success, ""},
		{"submit", "saga", "aborting", 409, "'aborting" + cantSubmit, ""},
		{"submit", "saga", "failed", 409, "'failed" + cantSubmit, ""},
		{"submit", "saga", "succeed", 409, "'succeed" + cantSubmit, ""},
		{"submit", "msg", "unknown", 200, success, "submitted"},
		{"submit", "msg", "prepared", 200, success, "submitted"},
		{"submit", "msg", "submitted", 200, success, ""},
		{"submit", "msg", "failed", 409, "'failed" + cantSubmit, ""},
		{"submit", "msg", "succeed", 409, "'succeed" + cantSubmit, ""},
		{"submit", "tcc", "unknown", 200, success, "succeed"},
		{"submit", "tcc", "prepared", 200, success, "submitted"},
		{"submit", "tcc", "submitted", 200, success, ""},
		{"submit", "tcc", "aborting", 409, "'aborting" + cantSubmit, ""},
		{"submit", "tcc", "failed", 409, "'failed" + cantSubmit, ""},
		{"submit", "tcc", "succeed", 409, "'succeed" + cantSubmit, ""},
		{"submit", "xa", "prepared", 200, success, "submitted"},
		{"submit", "xa", "aborting", 409, "'aborting" + cantSubmit, ""},
		{"submit", "workflow", "unknown", 500, "storage: NotFound", ""},
		{"submit", "workflow", "prepared", 200, success, "succeed"},
		{"submit", "workflow", "succeed", 500, "storage: NotFound", ""},
		{"submit", "workflow", "failed", 500, "storage: NotFound", ""},

		{"abort", "tcc", "unknown", 500, unknown, ""},
		{"abort", "tcc", "prepared", 200, success, "aborting"},
		{"abort", "tcc", "aborting", 200, success, ""},
		{"abort", "tcc", "submitted", 409, "trans type: 'tcc' current status 'submitted" + cantAbort, ""},
		{"abort", "tcc", "failed", 409, "'failed" + cantAbort, ""},
		{"abort", "tcc", "succeed", 409, "'succeed" + cantAbort, ""},
		{"abort", "xa", "prepared", 200, success, "aborting"},
		{"abort", "xa", "aborting", 200, success, ""},
		{"abort", "xa", "succeed", 409, "trans type: 'xa' current status 'succeed" + cantAbort, ""},
		{"abort", "msg", "unknown", 500, unknown, ""},
		{"abort", "msg", "prepared", 200, success, "failed"},
		{"abort", "msg", "submitted", 409, "trans type: 'msg' current status 'submitted" + cantAbort, ""},
		{"abort", "msg", "failed", 409, "'failed" + cantAbort, ""},
		{"abort", "msg", "succeed", 409, "'succeed" + cantAbort, ""},
		{"abort", "saga", "submitted", 409, "trans type: 'saga' current status 'submitted" + cantAbort, ""},
		{"abort", "saga", "aborting", 409, "'aborting" + cantAbort, ""},
		{"abort", "workflow", "prepared", 409, "trans type: 'workflow' current status 'prepared" + cantAbort, ""},

		{"forceStop", "tcc", "unknown", 500, unknown, ""},
		{"forceStop", "tcc", "prepared", 200, success, "failed"},
		{"forceStop", "msg", "prepared", 200, success, "failed"},
		{"forceStop", "workflow", "prepared", 200, success, "failed"},
		{"forceStop", "saga", "submitted", 200, success, "failed"},
		{"forceStop", "saga", "aborting", 200, success, "failed"},
		{"forceStop", "tcc", "submitted", 200, success, "failed"},
		{"forceStop", "tcc", "aborting", 200, success, "failed"},
		{"forceStop", "msg", "submitted", 200, success, "failed"},
		{"forceStop", "tcc", "failed", 409, forced, ""},
		{"forceStop", "saga", "succeed", 409, forced, ""},

		{"resetNextCronTime", "tcc", "unknown", 500, unknown, ""},
		{"resetNextCronTime", "saga", "submitted", 200, success, ""},

		{"prepareWorkflow", "workflow", "unknown", 200, `"status":"prepared"`, "prepared"},
		{"prepareWorkflow", "workflow", "prepared", 200, `"status":"prepared"`, ""},
		{"prepareWorkflow", "workflow", "succeed", 200, `"status":"succeed"`, ""},
		{"prepareWorkflow", "workflow", "failed", 200, `"status":"failed"`, ""},
	} {
		t.Run(tt.what+" "+tt.mode+" "+tt.state, func(t *testing.T) {
			t.Parallel()
			gid := shared.gid(t)
			states[tt.state](t, gid, tt.mode)
			if got := shared.query(t, gid).Transaction["status"]; got != tt.state && (tt.state != "unknown" || got != nil) {
				t.Fatalf("it is %v to begin with", got)
			}
			o := content(gid, tt.mode)
			switch {
			case tt.what == "forceStop", tt.what == "resetNextCronTime":
				o = object{"gid": gid}
			case tt.what == "prepareWorkflow":
				o = workflow(gid, a)
			case tt.mode == "workflow" && tt.what == "submit":
				o = ended(gid, "succeed", "", "")
			}
			shared.post(t, tt.what, o).want(t, tt.status, tt.text)
			want := tt.after
			if want == "" {
				want = tt.state
			}
			if got := shared.query(t, gid).Transaction["status"]; got != want && (want != "unknown" || got != nil) {
				t.Errorf("it is %v afterwards, want %s", got, want)
			}
		})
	}
}

// What is none of the modes, and one gid for two.
func TestWrongModes(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	for _, what := range []string{"prepare", "submit", "prepareWorkflow"} {
		shared.post(t, what, with(saga(gid, "http://h/", ""), "trans_type", "zz")).want(t, 400, "trans_type")
	}
	for _, mode := range []string{"saga", "workflow"} {
		shared.post(t, "prepare", trans(gid, mode)).want(t, 400, "trans_type")
	}
	shared.post(t, "prepareWorkflow", trans(gid, "tcc")).want(t, 400, "trans_type")
	if got := shared.query(t, gid).statuses(); got != "unknown" {
		t.Errorf("it is %s", got)
	}
	shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
	const not = "that of a tcc, not of a "
	shared.post(t, "prepare", trans(gid, "xa")).want(t, 409, not+"xa. FAILURE")
	shared.post(t, "submit", trans(gid, "xa")).want(t, 409, not+"xa. FAILURE")
	shared.post(t, "submit", msg(gid, "", "http://h/")).want(t, 409, not+"msg. FAILURE")
	shared.post(t, "submit", saga(gid, "http://h/", "")).want(t, 409, not+"saga. FAILURE")
	shared.post(t, "submit", ended(gid, "succeed", "", "")).want(t, 500, "storage: NotFound")
	shared.post(t, "prepareWorkflow", workflow(gid, "http://h/")).want(t, 409, not+"workflow. FAILURE")
	for _, mode := range []string{"xa", "msg", "saga", "workflow", "zz"} {
		shared.post(t, "abort", trans(gid, mode)).want(t, 409, `"dtm_result":"FAILURE"`, not+mode+". FAILURE")
	}
	if got := shared.query(t, gid).statuses(); got != "prepared" {
		t.Errorf("it is %s", got)
	}
	// Some clients do not say it again.
	shared.post(t, "abort", object{"gid": gid}).ok(t)
	shared.await(t, gid, "failed")
}
