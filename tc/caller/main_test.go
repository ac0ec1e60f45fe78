package caller_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		serveBenchmark()
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what has to happen.
const patience = 30 * time.Second

// short is a timeout that is meant to run out.
const short = 300 * time.Millisecond

// world is a Caller that counts its answers.
type world struct {
	*caller.Caller
	t *testing.T

	mu      sync.Mutex
	calls   map[xid.BranchID]core.Call
	answers map[xid.BranchID]chan core.Called
}

// newWorld makes a Caller. At the end it checks that each call had exactly one answer.
func newWorld(t *testing.T, cfg caller.Config) *world {
	t.Helper()
	w := &world{t: t, calls: map[xid.BranchID]core.Call{}, answers: map[xid.BranchID]chan core.Called{}}
	w.Caller = caller.New(cfg, w.take)
	t.Cleanup(func() {
		w.close()
		w.mu.Lock()
		defer w.mu.Unlock()
		for b, ch := range w.answers {
			if len(ch) > 0 {
				t.Errorf("branch %s has an answer that nobody waited for: %+v", b, <-ch)
			}
		}
	})
	return w
}

func (w *world) close() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		w.t.Errorf("close: %v", err)
	}
}

func (w *world) take(a core.Called) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.calls[a.Branch]
	if !ok || c.XID != a.XID || c.Op != a.Op || c.Attempt != a.Attempt {
		w.t.Errorf("an answer to no call: %+v", a)
		return
	}
	if a.Verdict != core.Done && (a.Text == "" || a.Result != nil) || len(a.Text) > 1<<10 {
		w.t.Errorf("a bad answer: %+v", a)
	}
	select {
	case w.answers[a.Branch] <- a:
	default:
		w.t.Errorf("more than one answer: %+v", a)
	}
}

// start calls an action and gives where its answer comes.
func (w *world) start(c core.Call) <-chan core.Called {
	w.t.Helper()
	if c.Branch == (xid.BranchID{}) {
		c.Branch = xid.NewBranchID()
	}
	if c.XID.IsZero() {
		c.XID = testXID
	}
	if c.Op == 0 {
		c.Op = core.OpForward
	}
	if c.Attempt == 0 {
		c.Attempt = 1
	}
	ch := make(chan core.Called, 1)
	w.mu.Lock()
	w.calls[c.Branch], w.answers[c.Branch] = c, ch
	w.mu.Unlock()
	w.Call(c)
	return ch
}

func (w *world) wait(ch <-chan core.Called) core.Called {
	w.t.Helper()
	select {
	case a := <-ch:
		return a
	case <-time.After(patience):
		w.t.Fatal("no answer")
		return core.Called{}
	}
}

// do calls an action and waits for the answer.
func (w *world) do(c core.Call) core.Called {
	w.t.Helper()
	return w.wait(w.start(c))
}

var testXID = xid.New(xid.Parts{Incarnation: 3, Store: xid.StoreID{1}, Counter: 7, Begin: time.UnixMilli(1)})

func post(url, payload string) core.Call {
	return core.Call{Action: &core.Action{Kind: core.TargetHTTP, Address: url, Payload: []byte(payload), Timeout: patience}}
}

func unary(address string, payload []byte) core.Call {
	return core.Call{Action: &core.Action{Kind: core.TargetGRPC, Address: address, Payload: payload, Timeout: patience}}
}

func within(d time.Duration, c core.Call) core.Call {
	c.Action.Timeout = d
	return c
}

// receive waits for a signal of a test.
func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("it did not happen")
		panic("unreachable")
	}
}
