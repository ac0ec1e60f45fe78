package dtm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store/pebblestore"
)

// onDisk is a service that is as quick as its disk.
func onDisk(t *testing.T) *service {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := pebblestore.Open(t.TempDir(), pebblestore.WithLogger(log))
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(t.Context(), st, engine.Config{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	eng.Start(nowhere{})
	t.Cleanup(func() {
		if err := errors.Join(eng.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return newService(eng, st)
}

// together runs all at the same moment, as near as that gets.
func together(fs ...func()) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for _, f := range fs {
		all.Go(func() { <-start; f() })
	}
	close(start)
	all.Wait()
}

// Of a submit and an abort at the same moment one is done, and the other is told so, in
// the words that it would have heard a moment later. On a slow disk both have looked
// before either is written.
func TestSubmitAgainstAbort(t *testing.T) {
	t.Parallel()
	for name, svc := range map[string]*service{"quick": onDisk(t), "slow": onSlowDisk(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var submits atomic.Int64
			const rounds = 200
			var all sync.WaitGroup
			for n := range rounds {
				all.Go(func() {
					if submitOrAbort(t, svc, n) {
						submits.Add(1)
					}
				})
			}
			all.Wait()
			t.Logf("%d of %d were submitted", submits.Load(), rounds)
		})
	}
}

// submitOrAbort makes a TCC or a message of one branch, and tells whether it was submitted.
func submitOrAbort(t *testing.T, svc *service, n int) bool {
	t.Helper()
	r := request{Gid: fmt.Sprintf("g-%d", n), Type: tcc, Protocol: "http"}
	branch := map[string]string{"branch_id": "01", "confirm": "http://a/b", "cancel": "http://a/b"}
	if n%2 == 1 {
		r.Type, r.QueryPrepared, r.Steps, r.Payloads = msg, "http://a/q", []map[string]string{{"action": "http://a/b"}}, [][]byte{nil}
	}
	err := svc.prepare(t.Context(), &r)
	if r.Type == tcc {
		err = errors.Join(err, svc.registerBranch(t.Context(), r.Gid, tcc, branch, nil))
	}
	if err != nil {
		t.Error(err)
		return false
	}
	var toSubmit, toAbort error
	together(
		func() { toSubmit = svc.submit(t.Context(), &r) },
		func() {
			for began := time.Now(); time.Since(began) < time.Duration(n)*time.Microsecond; {
				continue // a submit has more to do before it is there
			}
			toAbort = svc.abort(t.Context(), &r)
		},
	)
	if (toSubmit == nil) == (toAbort == nil) || refusalOf(errors.Join(toSubmit, toAbort)).kind != failure {
		t.Errorf("%s: submit %v, abort %v", r.Gid, toSubmit, toAbort)
	}
	g, err := svc.known(t.Context(), r.Gid)
	if st := g.status(); err != nil || (st == submitted) != (toSubmit == nil) || (st == failed || st == aborting) != (toAbort == nil) {
		t.Errorf("%s: it is %s, %v; submit %v, abort %v", r.Gid, st, err, toSubmit, toAbort)
	}
	return toSubmit == nil
}

// A branch is told yes only where the decision, which comes at the same moment, counts it
// in.
func TestRegisterAgainstTheDecision(t *testing.T) {
	t.Parallel()
	svc := onDisk(t)
	for n := range 200 {
		r := request{Gid: fmt.Sprintf("g-%d", n), Type: tcc, Protocol: "http"}
		if err := svc.prepare(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		var decide, register error
		together(
			func() { decide = []func(context.Context, *request) error{svc.submit, svc.abort}[n%2](t.Context(), &r) },
			func() {
				register = svc.registerBranch(t.Context(), r.Gid, tcc, map[string]string{"branch_id": "01", "confirm": "http://a/b", "cancel": "http://a/b"}, nil)
			},
		)
		g, err := svc.known(t.Context(), r.Gid)
		if err != nil || decide != nil {
			t.Fatal(err, decide)
		}
		if there := len(g.rows()) > 0; there != (register == nil) || register != nil && refusalOf(register).kind != failure {
			t.Errorf("%s: it is there: %t; it was told %v", r.Gid, there, register)
		}
	}
}

// Many who prepare the same at the same moment begin one.
func TestPrepareAgainstItself(t *testing.T) {
	t.Parallel()
	svc := onDisk(t)
	for n := range 20 {
		r := request{Gid: fmt.Sprintf("g-%d", n), Type: xa, Protocol: "http"}
		prepare := func() {
			if err := svc.prepare(t.Context(), &r); err != nil {
				t.Error(err)
			}
		}
		together(prepare, prepare, prepare, prepare)
		if all := svc.of(t, r.Gid); len(all) != 1 {
			t.Errorf("there are %d transactions for one gid: %v", len(all), all)
		}
	}
}

// Of two executions of a workflow only one tells the result, and the other is told so.
func TestResultAgainstAnother(t *testing.T) {
	t.Parallel()
	svc := onDisk(t)
	for n := range 100 {
		r := request{Gid: fmt.Sprintf("g-%d", n), Type: workflow, Protocol: "http", QueryPrepared: "http://a/b", CustomData: `{"name":"w"}`}
		if _, err := svc.prepareWorkflow(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		answers := make(chan error, 4)
		submit := func(st status) func() {
			r := r
			r.Extra = map[string]string{"status": string(st), "result": fmt.Sprint(st)}
			return func() { answers <- svc.submit(t.Context(), &r) }
		}
		together(submit(succeed), submit(failed), submit(succeed), submit(failed))
		taken := 0
		for range cap(answers) {
			switch err := <-answers; {
			case err == nil:
				taken++
			case refusalOf(err).kind != other || !strings.HasPrefix(err.Error(), "storage: NotFound"):
				t.Errorf("%s: %v", r.Gid, err)
			}
		}
		if taken != 1 {
			t.Errorf("%s: %d results were taken", r.Gid, taken)
		}
	}
}
