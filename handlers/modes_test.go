package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid"
)

// company is a real coordinator and one service with handlers for everything,
// which write down how they were called.
type company struct {
	t *testing.T
	m *tm.Manager

	mu    sync.Mutex
	fails map[string]error // by step
	calls []string
	more  chan struct{}
}

func newCompany(t *testing.T) *company {
	t.Helper()
	c := hftest.Dial(t, hftest.Coordinator(t))
	co := &company{t: t, m: tm.New(c), fails: map[string]error{}, more: make(chan struct{}, 1000)}
	g := handlers.New("company")
	for _, name := range []string{"do", "undo", "confirm", "cancel", "deliver", "check"} {
		g.Handle(name, func(_ context.Context, call handlers.Call) ([]byte, error) {
			if err := co.note(call.Step, "%s:%s:%s:%s", call.Handler, call.Step, call.Payload, call.Own); err != nil && name != "undo" {
				return nil, err
			}
			return []byte(`{"id":"` + call.Step + `"}`), nil
		})
	}
	workflow.Register(g, co.m, "three", co.three)
	if _, err := g.Attach(c); err != nil {
		t.Fatal(err)
	}
	return co
}

// three is a workflow of three steps, of which the second has no compensation.
func (co *company) three(ctx context.Context, w *workflow.W, in []byte) ([]byte, error) {
	for _, name := range []string{"one", "two", "three"} {
		opts := []workflow.StepOption{workflow.Compensate(at("undo"))}
		if name == "two" {
			opts = nil
		}
		step := func(context.Context, workflow.StepCall) (string, error) { return name, co.note(name, "%s", name) }
		if _, err := workflow.Step(ctx, w, name, step, opts...); err != nil {
			return nil, err
		}
	}
	return in, nil
}

func at(name string, opts ...target.Option) target.Target {
	return target.Handler("company", name, opts...)
}

// note writes a call down and tells how its step is to end.
func (co *company) note(step, format string, args ...any) error {
	co.mu.Lock()
	defer co.mu.Unlock()
	co.calls = append(co.calls, fmt.Sprintf(format, args...))
	co.more <- struct{}{}
	return co.fails[step]
}

func (co *company) fail(step string, err error) {
	co.mu.Lock()
	defer co.mu.Unlock()
	co.fails[step] = err
}

// want waits for so many calls and compares them.
func (co *company) want(calls ...string) {
	co.t.Helper()
	for range calls {
		select {
		case <-co.more:
		case <-time.After(20 * time.Second):
			co.t.Error("a call did not come")
		}
	}
	co.mu.Lock()
	defer co.mu.Unlock()
	if !slices.Equal(co.calls, calls) {
		co.t.Errorf("calls\n%s\nwant\n%s", strings.Join(co.calls, "\n"), strings.Join(calls, "\n"))
	}
	co.calls = nil
}

func TestASagaOfHandlers(t *testing.T) {
	t.Parallel()
	co := newCompany(t)
	undo := saga.Compensate(at("undo"))
	trip := saga.New("trip").Step("a", at("do"), undo, saga.Input(map[string]int{"n": 1})).Step("b", at("do"), saga.NoCompensation()).
		Step("c", at("do"), undo).Step("p", at("do"), saga.Pivot()).Step("d", at("do"), saga.Input("${steps.p.id}"))
	id, err := trip.Run(t.Context(), co.m, tm.WithWaitSettled())
	if err != nil {
		t.Fatal(err)
	}
	co.want(`do:a:{"n":1}:`, "do:b::", "do:c::", "do:p::", `do:d:"p":`)
	if err := trip.SubmitAs(t.Context(), co.m, tm.Tx{XID: id}); err != nil {
		t.Errorf("submitted again after its end: %v", err)
	}
	co.fail("p", fmt.Errorf("no money: %w", handlers.ErrFailed))
	id, err = trip.Run(t.Context(), co.m)
	rolledBack(t, err, id, "p voted no", "no money: failed for good")
	co.want(`do:a:{"n":1}:`, "do:b::", "do:c::", "do:p::", `undo:c::{"id":"c"}`, `undo:a:{"n":1}:{"id":"a"}`)
}

func TestAWorkflowOfThreeSteps(t *testing.T) {
	t.Parallel()
	co := newCompany(t)
	id, err := workflow.Start(t.Context(), co.m, "company", "three", 7)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := workflow.Wait(t.Context(), co.m, id); err != nil || string(out) != "7" {
		t.Errorf("%s, %v", out, err)
	}
	co.want("one", "two", "three")
	co.fail("three", errors.New("odd"))
	if id, err = workflow.Start(t.Context(), co.m, "company", "three", 7); err != nil {
		t.Fatal(err)
	}
	_, err = workflow.Wait(t.Context(), co.m, id)
	rolledBack(t, err, id, "workflow voted no", `step "three": odd`)
	co.want("one", "two", "three", "undo:three::", `undo:one::"one"`)
}

func TestTCCAndAMessageInOneTransaction(t *testing.T) {
	t.Parallel()
	co := newCompany(t)
	stock := tcc.Branch{Name: "stock", Confirm: at("confirm"), Cancel: at("cancel")}
	reserve := func(ctx context.Context, err error) error {
		_, err = tcc.Call(ctx, co.m, stock, func(context.Context, target.Identity) ([]byte, error) { return []byte("r"), err })
		return errors.Join(err, message.New("m").To(at("deliver")).Enlist(ctx, co.m))
	}
	if err := co.m.Do(t.Context(), func(ctx context.Context) error { return reserve(ctx, nil) }, tm.WithWaitSettled()); err != nil {
		t.Fatal(err)
	}
	<-co.more
	<-co.more
	co.mu.Lock()
	slices.Sort(co.calls) // they go out together
	if got := strings.Join(co.calls, " "); got != "confirm:stock::r deliver:to-1::" {
		t.Errorf("calls %s", got)
	}
	co.calls = nil
	co.mu.Unlock()
	if err := co.m.Do(t.Context(), func(ctx context.Context) error { return reserve(ctx, errors.New("odd")) }); err == nil {
		t.Error("it committed")
	}
	co.want("cancel:stock::")
	var id xid.ID
	err := co.m.Do(t.Context(), func(ctx context.Context) error {
		id, _ = xid.FromContext(ctx)
		_, err := tcc.Call(ctx, co.m, stock, func(context.Context, target.Identity) ([]byte, error) {
			return nil, fmt.Errorf("sold out: %w", target.ErrFailed)
		})
		return err
	})
	rolledBack(t, err, id, "stock voted no", "sold out: failed for good")
}

// rolledBack compares the whole text of an error.
func rolledBack(t *testing.T, err error, id xid.ID, why, cause string) {
	t.Helper()
	if want := fmt.Sprintf("transaction %s: rolled back (%s): %s", id, why, cause); !errors.Is(err, tm.ErrRolledBack) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestAMessageWithCheckBack(t *testing.T) {
	t.Parallel()
	co := newCompany(t)
	msg := message.New("m").To(at("deliver"))
	prepare := func(after time.Duration) message.Prepared {
		t.Helper()
		p, err := msg.Prepare(t.Context(), co.m, message.CheckBack(at("check"), after))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := prepare(time.Hour)
	if err := p.Send(t.Context()); err != nil {
		t.Error(err)
	}
	co.want("deliver:to-1::")
	if err := prepare(time.Hour).Drop(t.Context(), errors.New("changed my mind")); err != nil {
		t.Error(err)
	}
	// Its sender says nothing any more, so it is asked.
	prepare(10 * time.Millisecond)
	co.want("check:check-back::", "deliver:to-1::")
	co.fail("check-back", handlers.ErrFailed)
	p = prepare(10 * time.Millisecond)
	co.want("check:check-back::")
	if err := co.m.Wait(t.Context(), p.XID); !errors.Is(err, tm.ErrRolledBack) {
		t.Error(err)
	}
}
