package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, tc *faketc.Server) *client.Client {
	t.Helper()
	c, err := client.Dial(tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestWhatAFunctionReturnsBecomesAVerdict(t *testing.T) {
	t.Parallel()
	tc := faketc.Start(t)
	g := handlers.New("payments")
	for name, f := range map[string]handlers.Func{
		"done": func(context.Context, handlers.Call) ([]byte, error) { return []byte("paid"), nil },
		"failed": func(context.Context, handlers.Call) ([]byte, error) {
			return nil, fmt.Errorf("no money: %w", handlers.ErrFailed)
		},
		"later":  func(context.Context, handlers.Call) ([]byte, error) { return []byte("x"), handlers.ErrNotYet },
		"unsure": func(context.Context, handlers.Call) ([]byte, error) { return nil, errors.New("connection reset") },
		"stuck": func(context.Context, handlers.Call) ([]byte, error) {
			return nil, fmt.Errorf("odd: %w", handlers.ErrAttention)
		},
		"panic/all": func(context.Context, handlers.Call) ([]byte, error) { panic("oh") },
	} {
		g.Handle(name, f)
	}
	detach, err := g.Attach(dial(t, tc))
	if err != nil {
		t.Fatal(err)
	}
	defer detach()
	n := tc.NextSession()
	call := func(handler string) *pb.Call {
		return &pb.Call{
			Xid: tc.NewXID().String(), BranchId: xid.NewBranchID().String(), Op: pb.Op_OP_FORWARD, Attempt: 1,
			Handler: handler, HandlerResource: xid.ResourceOf("payments").String(),
		}
	}
	for _, c := range []struct {
		call      *pb.Call
		verdict   pb.Verdict
		attention bool
		text      string
	}{
		{call("done"), pb.Verdict_VERDICT_DONE, false, ""},
		{call("failed"), pb.Verdict_VERDICT_FAILED, false, "no money: failed for good"},
		{call("later"), pb.Verdict_VERDICT_NOT_YET, false, "not yet"},
		{call("unsure"), pb.Verdict_VERDICT_UNSURE, false, "connection reset"},
		{call("stuck"), pb.Verdict_VERDICT_UNSURE, true, "odd: a person has to look"},
		{call("panic/all"), pb.Verdict_VERDICT_UNSURE, true, "the handler panicked"},
		{call("gone"), pb.Verdict_VERDICT_UNSURE, false, `no handler "gone" in "payments", but done, failed, later, panic/all, stuck, unsure`},
		{func() *pb.Call { c := call("done"); c.Xid = "x"; return c }(), pb.Verdict_VERDICT_UNSURE, true, "malformed call: malformed XID"},
		{func() *pb.Call { c := call("done"); c.BranchId = "x"; return c }(), pb.Verdict_VERDICT_UNSURE, true, "malformed call: branch id"},
		{func() *pb.Call { c := call("done"); c.Op = 0; return c }(), pb.Verdict_VERDICT_UNSURE, true, "names no action"},
		{func() *pb.Call { c := call("done"); c.Op = 9; return c }(), pb.Verdict_VERDICT_UNSURE, true, "does not know the action 9"},
	} {
		r := tc.Call(n, c.call)
		if r.GetVerdict() != c.verdict || r.GetNeedsAttention() != c.attention || !strings.Contains(r.GetError(), c.text) {
			t.Errorf("%s: got %v", c.call.GetHandler(), r)
		}
		if want := map[bool]string{true: "paid"}[c.verdict == pb.Verdict_VERDICT_DONE]; string(r.GetResult()) != want {
			t.Errorf("%s: the result is %q", c.call.GetHandler(), r.GetResult())
		}
	}
}

func TestCallHasAllThatIsKnown(t *testing.T) {
	t.Parallel()
	tc := faketc.Start(t)
	resource := xid.ResourceID{15: 7}
	got := make(chan handlers.Call, 1)
	g := handlers.ForDatabase(resource, "payments on db1").Handle("refund", func(ctx context.Context, c handlers.Call) ([]byte, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the call has no deadline")
		}
		got <- c
		return nil, nil
	})
	if _, err := g.Attach(dial(t, tc)); err != nil {
		t.Fatal(err)
	}
	id, branch := tc.NewXID(), xid.NewBranchID()
	tc.Call(tc.NextSession(), &pb.Call{
		Xid: id.String(), BranchId: branch.String(), Op: pb.Op_OP_ROLLBACK, Attempt: 4, Mode: pb.Mode_MODE_SAGA, Name: "pay",
		Handler: "refund", HandlerResource: resource.String(), Payload: []byte(`{"amount":5}`),
		Headers: []*pb.Header{{Name: "tenant", Value: "7"}}, Own: []byte(`"receipt"`),
		Before: []*pb.StepResult{{Name: "hotel", Value: []byte("{}")}},
	})
	want := handlers.Call{
		Identity: target.Identity{XID: id, Branch: branch, Action: target.Rollback, Attempt: 4},
		Handler:  "refund", Mode: pb.Mode_MODE_SAGA, Step: "pay", Payload: []byte(`{"amount":5}`), Own: []byte(`"receipt"`),
		Headers: map[string]string{"tenant": "7"}, Before: []handlers.Result{{Step: "hotel", Value: []byte("{}")}},
	}
	c := <-got
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	var p struct{ Amount int }
	if err := c.Decode(&p); err != nil || p.Amount != 5 {
		t.Errorf("got %+v, %v", p, err)
	}
	c.Payload = []byte("{")
	if err := c.Decode(&p); err == nil || !strings.Contains(err.Error(), "payload of rollback of branch") {
		t.Errorf("got %v", err)
	}
}

func TestAttachTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := dial(t, faketc.Start(t))
	f := func(context.Context, handlers.Call) ([]byte, error) { return nil, nil }
	for want, g := range map[string]*handlers.Group{
		`handlers of "": group: empty`:       handlers.New(""),
		`handler: "a b"; want at most`:       handlers.New("g").Handle("a b", f),
		`handler "a": the function is nil`:   handlers.New("g").Handle("a", nil),
		`handler "a": there is one already`:  handlers.New("g").Handle("a", f).Handle("a", f),
		`want one line of at most 128 bytes`: handlers.New("a\nb"),
	} {
		if _, err := g.Attach(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
