package dtm_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/proto/dtmgimp"
)

// register registers the same branch over one of the protocols.
var register = map[string]func(t *testing.T, o object) error{
	"http": func(t *testing.T, o object) error {
		t.Helper()
		if a := shared.post(t, "registerBranch", o); a.status != 200 || a.body != success {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	},
	"json-rpc": func(t *testing.T, o object) error {
		t.Helper()
		if r := read[rpcAnswer](t, shared.jsonRPC(t, "registerBranch", o)); r.Error != nil {
			return fmt.Errorf("%d %s", r.Error.Code, r.Error.Message)
		}
		return nil
	},
	"grpc": func(t *testing.T, o object) error {
		t.Helper()
		in := &dtmgimp.DtmBranchRequest{Data: map[string]string{}}
		for k, v := range o {
			switch s := v.(string); k {
			case "gid":
				in.Gid = s
			case "trans_type":
				in.TransType = s
			case "branch_id":
				in.BranchID = s
			case "data":
				in.BusiPayload = []byte(s)
			default:
				in.Data[k] = s
			}
		}
		_, err := shared.rpc.RegisterBranch(limited(t), in)
		return err
	},
}

func TestTheRowsOfABranch(t *testing.T) {
	t.Parallel()
	for protocol, f := range register {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			must := func(o object) {
				t.Helper()
				if err := f(t, o); err != nil {
					t.Fatal(err)
				}
			}
			rows := func(gid, statuses string, want ...string) {
				t.Helper()
				q := shared.query(t, gid)
				if got := q.statuses(); got != statuses {
					t.Errorf("got %s, want %s", got, statuses)
				}
				for i, w := range want {
					data, _ := base64.StdEncoding.DecodeString(fmt.Sprint(q.Branches[i]["bin_data"]))
					if got := fmt.Sprintf("%v %s", q.Branches[i]["url"], data); got != w {
						t.Errorf("row %d: got %s, want %s", i, got, w)
					}
				}
			}
			gid := shared.gid(t)
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			must(tccBranch(gid, "01", "http://h/confirm", "http://h/cancel"))
			must(tccBranch(gid, "0101", "http://h/confirm2", ""))
			rows(gid, "prepared 01-cancel:prepared 01-confirm:prepared 0101-cancel:prepared 0101-confirm:prepared",
				`http://h/cancel {"n":1}`, `http://h/confirm {"n":1}`, "<nil> ", `http://h/confirm2 {"n":1}`)

			gid = shared.gid(t)
			shared.post(t, "prepare", trans(gid, "xa")).ok(t)
			must(object{"gid": gid, "trans_type": "xa", "branch_id": "01", "url": "http://h/xa"})
			must(object{"gid": gid, "trans_type": "xa", "branch_id": "02", "url": "http://h/xa"})
			rows(gid, "prepared 01-rollback:prepared 01-commit:prepared 02-rollback:prepared 02-commit:prepared")
			for _, r := range shared.query(t, gid).Branches {
				if r["url"] != "http://h/xa" || r["bin_data"] != nil {
					t.Errorf("row %v", r)
				}
			}

			gid = shared.gid(t)
			shared.post(t, "prepareWorkflow", workflow(gid, "http://127.0.0.1:1/")).want(t, 200)
			must(progress(gid, "01", "succeed", "R1"))
			must(with(progress(gid, "02", "failed", "text"), "sync", "true"))
			must(with(progress(gid, "02", "succeed", ""), "op", "rollback"))
			rows(gid, "prepared 01-action:succeed 02-action:failed 02-rollback:succeed", "<nil> R1", "<nil> text")
		})
	}
}

// After the decision a branch comes too late, and is told so for good.
func TestLateBranches(t *testing.T) {
	t.Parallel()
	for protocol, f := range register {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			tell := map[string]string{"http": "409 ", "json-rpc": "-32901 ", "grpc": codes.Aborted.String()}[protocol]
			b := newBranches(t)
			for name, before := range map[string]func(gid string){
				"unknown": func(string) {},
				"submitted": func(gid string) {
					shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
					shared.post(t, "registerBranch", tccBranch(gid, "01", b.at("/a", "status", "425"), "")).ok(t)
					shared.post(t, "submit", trans(gid, "tcc")).ok(t)
				},
				"succeed": func(gid string) { shared.post(t, "submit", trans(gid, "tcc")).ok(t) },
				"aborting": func(gid string) {
					shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
					shared.post(t, "registerBranch", tccBranch(gid, "01", "", b.at("/a", "status", "425"))).ok(t)
					shared.post(t, "abort", trans(gid, "tcc")).ok(t)
				},
				"failed": func(gid string) {
					shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
					shared.post(t, "abort", trans(gid, "tcc")).ok(t)
				},
			} {
				gid := shared.gid(t)
				before(gid)
				was := shared.query(t, gid).statuses()
				err := f(t, tccBranch(gid, "02", "", ""))
				if want := "no trans with gid: " + gid + " status: prepared found FAILURE"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), tell) {
					t.Errorf("%s: got %v, want %s %s", name, err, tell, want)
				}
				if name == "aborting" || name == "submitted" { // the same again is as late
					same := tccBranch(gid, "01", b.at("/a", "status", "425"), "")
					if name == "aborting" {
						same = tccBranch(gid, "01", "", b.at("/a", "status", "425"))
					}
					if err := f(t, same); err == nil || !strings.Contains(err.Error(), tell) {
						t.Errorf("%s, again: got %v", name, err)
					}
				}
				if got := shared.query(t, gid).statuses(); got != was {
					t.Errorf("%s: it is %s, and was %s", name, got, was)
				}
			}
			gid := shared.gid(t)
			shared.post(t, "prepareWorkflow", workflow(gid, "http://127.0.0.1:1/")).want(t, 200)
			shared.post(t, "submit", ended(gid, "succeed", "", "")).ok(t)
			if err := f(t, progress(gid, "01", "succeed", "R")); err == nil || !strings.Contains(err.Error(), "FAILURE") || !strings.Contains(err.Error(), tell) {
				t.Errorf("workflow: got %v", err)
			}
		})
	}
}

// Who registers again as it was, has not heard the answer. All else is refused, and for
// workflows that too: it is what keeps two executions of one apart.
func TestDoubledBranches(t *testing.T) {
	t.Parallel()
	for protocol, f := range register {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			tell := map[string]string{"http": "500 ", "json-rpc": "-32603 ", "grpc": codes.Unknown.String()}[protocol]
			refused := func(o object) {
				t.Helper()
				if err := f(t, o); err == nil || !strings.Contains(err.Error(), tell) || !strings.Contains(err.Error(), "is registered already") {
					t.Errorf("%v: got %v", o, err)
				}
			}
			gid := shared.gid(t)
			shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
			one := tccBranch(gid, "01", "http://h/confirm", "http://h/cancel")
			for range 2 {
				if err := f(t, one); err != nil {
					t.Fatal(err)
				}
			}
			refused(with(one, "confirm", "http://h/other"))
			refused(with(one, "cancel", "http://h/other"))
			refused(with(one, "data", "other"))
			if got := shared.query(t, gid).statuses(); got != "prepared 01-cancel:prepared 01-confirm:prepared" {
				t.Errorf("it is %s", got)
			}

			gid = shared.gid(t)
			shared.post(t, "prepare", trans(gid, "xa")).ok(t)
			one = object{"gid": gid, "trans_type": "xa", "branch_id": "01", "url": "http://h/xa"}
			for range 2 {
				if err := f(t, one); err != nil {
					t.Fatal(err)
				}
			}
			refused(with(one, "url", "http://h/other"))

			gid = shared.gid(t)
			shared.post(t, "prepareWorkflow", workflow(gid, "http://127.0.0.1:1/")).want(t, 200)
			if err := f(t, progress(gid, "01", "succeed", "R1")); err != nil {
				t.Fatal(err)
			}
			refused(progress(gid, "01", "succeed", "R1"))
			refused(progress(gid, "01", "failed", "R2"))
			// The names of others do not stand in the way.
			for _, o := range []object{
				progress(gid, "00", "succeed", ""), progress(gid, "01-action", "succeed", ""), with(progress(gid, "01", "succeed", ""), "op", "commit"),
			} {
				if err := f(t, o); err != nil {
					t.Error(err)
				}
			}
			if got := shared.query(t, gid).statuses(); got != "prepared 01-action:succeed 00-action:succeed 01-action-action:succeed 01-commit:succeed" {
				t.Errorf("it is %s", got)
			}
		})
	}
}

// Of two executions of a workflow only one registers a step, and only one tells the
// result. Of two branches under one branch_id only one is there.
func TestWhoIsFirstWins(t *testing.T) {
	t.Parallel()
	flow, tcc, xa := shared.gid(t), shared.gid(t), shared.gid(t)
	shared.post(t, "prepareWorkflow", workflow(flow, "http://127.0.0.1:1/")).want(t, 200)
	shared.post(t, "prepare", trans(tcc, "tcc")).ok(t)
	shared.post(t, "prepare", trans(xa, "xa")).ok(t)
	for _, tt := range []struct {
		what string
		of   func(n int) object
	}{
		{"registerBranch", func(n int) object { return progress(flow, "01", "succeed", fmt.Sprint(n)) }},
		{"registerBranch", func(n int) object { return tccBranch(tcc, "01", fmt.Sprintf("http://h/%d", n), "") }},
		{"registerBranch", func(n int) object {
			return with(xaBranch(xa), "branch_id", "01", "url", fmt.Sprintf("http://h/%d", n))
		}},
		{"submit", func(n int) object { return ended(flow, []string{"succeed", "failed"}[n%2], "", fmt.Sprint(n)) }},
	} {
		answers := make(chan int, 20)
		var all sync.WaitGroup
		for n := range cap(answers) {
			all.Go(func() {
				a, err := shared.try(t.Context(), "POST", "/api/dtmsvr/"+tt.what, marshal(t, tt.of(n)))
				if err != nil {
					t.Error(err)
				}
				answers <- a.status
			})
		}
		all.Wait()
		count := map[int]int{}
		for range cap(answers) {
			count[<-answers]++
		}
		if count[200] != 1 || count[500] != cap(answers)-1 {
			t.Errorf("%s of a %s: the answers are %v", tt.what, tt.of(0)["trans_type"], count)
		}
	}
}

// A branch that was told yes is part of what is decided, however close that is.
func TestBranchesAgainstTheDecision(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	for n := range 10 {
		gid := shared.gid(t)
		shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
		var told sync.Map
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				id := fmt.Sprintf("%02d", i+1)
				a, err := shared.try(t.Context(), "POST", "/api/dtmsvr/registerBranch", marshal(t, tccBranch(gid, id, b.at("/a"), b.at("/a"))))
				switch {
				case err == nil && a.status == 200:
					told.Store(id, true)
				case err != nil || a.status != 409:
					t.Errorf("got %+v, %v", a, err)
				}
			})
		}
		what := []string{"submit", "abort"}[n%2]
		shared.post(t, what, with(trans(gid, "tcc"), "wait_result", true)).ok(t)
		all.Wait()
		called := map[string]int{}
		for _, name := range b.names(gid) {
			called[strings.TrimSuffix(strings.TrimSuffix(name, "-confirm"), "-cancel")]++
		}
		told.Range(func(id, _ any) bool {
			if called[id.(string)] != 1 {
				t.Errorf("%s of %s was called %d times", id, gid, called[id.(string)])
			}
			delete(called, id.(string))
			return true
		})
		if len(called) > 0 {
			t.Errorf("called without a yes: %v", called)
		}
	}
}

func TestTooManyBranches(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	shared.post(t, "prepare", with(trans(gid, "tcc"), "timeout_to_fail", 1000)).ok(t) // 35 s are too few for so many on a busy machine
	for n := range 256 {
		shared.post(t, "registerBranch", tccBranch(gid, fmt.Sprintf("%03d", n), "", "")).ok(t)
	}
	shared.post(t, "registerBranch", tccBranch(gid, "256", "", "")).want(t, 409, "256 branches", "FAILURE")
	shared.post(t, "submit", with(trans(gid, "tcc"), "wait_result", true)).ok(t)
}

func TestBranchesThatAreNone(t *testing.T) {
	t.Parallel()
	gid := shared.gid(t)
	shared.post(t, "prepare", trans(gid, "tcc")).ok(t)
	wf := shared.gid(t)
	shared.post(t, "prepareWorkflow", workflow(wf, "http://127.0.0.1:1/")).want(t, 200)
	for _, tt := range []struct {
		o      object
		status int
		text   string
	}{
		{tccBranch(gid, "", "", ""), 400, "branch_id"},
		{tccBranch(gid, "a b", "", ""), 400, "branch_id"},
		{tccBranch(gid, strings.Repeat("0", 65), "", ""), 400, "branch_id"},
		{tccBranch("", "01", "", ""), 400, "gid"},
		{with(tccBranch(gid, "01", "", ""), "trans_type", "zz"), 500, "unknow trans type: zz"},
		{with(tccBranch(gid, "01", "", ""), "trans_type", "saga"), 400, "trans_type"},
		{with(tccBranch(gid, "01", "", ""), "trans_type", "xa"), 409, "FAILURE"},
		{tccBranch(gid, "01", "ftp://h/", ""), 400, "confirm"},
		{tccBranch(gid, "01", "http://h/", "http://u:secret@h/"), 400, "cancel"},
		{with(progress(wf, "01", "succeed", ""), "status", "prepared"), 400, "status"},
		{with(progress(wf, "01", "succeed", ""), "op", ""), 400, "op"},
		{with(progress(wf, "01", "succeed", ""), "op", "a-b"), 400, "op"},
		{with(tccBranch(gid, "01", "", ""), "data", object{}), 400, "data"},
	} {
		a := shared.post(t, "registerBranch", tt.o).want(t, tt.status, tt.text)
		if strings.Contains(a.body, "secret") || a.kind != jsonType {
			t.Errorf("%v: got %+v", tt.o, a)
		}
	}
	shared.do(t, "POST", "/api/dtmsvr/registerBranch", `{"gid":`).want(t, 400, `{"message":"`)
	for _, gid := range []string{gid, wf} {
		if got := shared.query(t, gid).statuses(); got != "prepared" {
			t.Errorf("it is %s", got)
		}
	}
	_, err := shared.rpc.RegisterBranch(limited(t), &dtmgimp.DtmBranchRequest{Gid: gid, TransType: "tcc"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// A client may call its branch what asking the sender of a message is called.
func TestBranchOfTheNameZeroIsShown(t *testing.T) {
	t.Parallel()
	w := shared
	for mode, want := range map[string]string{"tcc": "00-cancel", "xa": "00-rollback"} {
		gid := w.gid(t)
		w.post(t, "prepare", trans(gid, mode)).ok(t)
		w.post(t, "registerBranch", object{
			"gid": gid, "trans_type": mode, "branch_id": "00", "confirm": "http://h/1", "cancel": "http://h/2", "url": "http://h/3",
		}).ok(t)
		rows := w.query(t, gid).Branches
		if len(rows) != 2 || fmt.Sprint(rows[0]["branch_id"], "-", rows[0]["op"]) != want {
			t.Errorf("%s: got %v", mode, rows)
		}
	}
}
