package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/internal/faketc"
	"github.com/handfast/handfast/message/broker"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSubjects(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		"orders.placed": "", "orders/placed-1_x$": "", strings.Repeat("x", broker.MaxSubject): "",
		"":                       `subject: empty; want a subject such as "orders.placed"`,
		strings.Repeat("x", 256): "subject: 256 bytes long; want at most 255",
		"a b":                    `subject: "a b"; want printable ASCII`,
		"a\nb":                   `subject: "a\nb"; want printable ASCII`,
		"ä":                      `subject: "ä"; want printable ASCII`,
	} {
		err := broker.To("brokers", subject, target.Payload(7)).Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%.40q: got %v, want %s", subject, err, want)
		}
	}
	var e *target.Error
	if err := broker.To("", "a").Validate(); !errors.As(err, &e) || e.Field != "group" {
		t.Errorf("got %v", err)
	}
	if err := broker.To("g", "a", target.Header("broker-subject", "b")).Validate(); !errors.As(err, &e) || e.Field != "headers" {
		t.Errorf("got %v", err)
	}
}

// publisher gives each message to its function.
type publisher func(broker.Msg) error

func (f publisher) Publish(_ context.Context, m broker.Msg) error { return f(m) }

// attach starts a coordinator that is none, and a process that has the group.
func attach(t *testing.T, g *handlers.Group) (*faketc.Server, *faketc.Session) {
	t.Helper()
	tc := faketc.Start(t)
	c, err := client.Dial(tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := g.Attach(c); err != nil {
		t.Fatal(err)
	}
	return tc, tc.NextSession()
}

// call is how the coordinator calls a target.
func call(tc *faketc.Server, to target.Target, op pb.Op) *pb.Call {
	a := to.Proto()
	return &pb.Call{
		Xid: tc.NewXID().String(), BranchId: xid.NewBranchID().String(), Op: op, Attempt: 3,
		Handler: a.GetHandler(), HandlerResource: a.GetHandlerResource(), Payload: a.GetPayload(), Headers: a.GetHeaders(),
	}
}

func TestAMessageHasTheIdentityOfItsCall(t *testing.T) {
	t.Parallel()
	got := make(chan broker.Msg, 1)
	tc, n := attach(t, broker.Register(handlers.New("brokers"), publisher(func(m broker.Msg) error {
		got <- m
		return nil
	})))
	for op := pb.Op_OP_FORWARD; op <= pb.Op_OP_ROLLBACK; op++ {
		c := call(tc, broker.To("brokers", "orders.placed", target.Payload(7), target.Header("tenant", "x")), op)
		if r := tc.Call(n, c); r.GetVerdict() != pb.Verdict_VERDICT_DONE || len(r.GetResult()) > 0 {
			t.Errorf("got %v", r)
		}
		m := <-got
		f, err := fence.FromValues(func(name string) []string {
			if v, ok := m.Headers[name]; ok {
				return []string{v}
			}
			return nil
		})
		if err != nil || f.XID.String() != c.GetXid() || f.Branch.String() != c.GetBranchId() || f.Action != fence.Action(op) || f.Attempt != 3 {
			t.Errorf("got %+v, %v", f, err)
		}
		if m.Subject != "orders.placed" || m.ID != f.Key() || string(m.Payload) != "7" || m.Headers["tenant"] != "x" || len(m.Headers) != 6 {
			t.Errorf("got %+v", m)
		}
	}
}

func TestWhatThePublisherSaysBecomesAVerdict(t *testing.T) {
	t.Parallel()
	says := make(chan error, 1)
	tc, n := attach(t, broker.Register(handlers.New("brokers"), publisher(func(broker.Msg) error { return <-says })))
	for _, c := range []struct {
		says      error
		verdict   pb.Verdict
		attention bool
		text      string
	}{
		{errors.New("reset"), pb.Verdict_VERDICT_UNSURE, false, `publish to "a": reset`},
		{fmt.Errorf("too large (%w)", target.ErrAttention), pb.Verdict_VERDICT_UNSURE, true, `publish to "a": too large (a person has to look)`},
		{fmt.Errorf("no: %w", target.ErrFailed), pb.Verdict_VERDICT_UNSURE, true, `publish to "a": no: failed for good (a person has to look)`},
		{target.ErrNotYet, pb.Verdict_VERDICT_NOT_YET, false, `publish to "a": not yet`},
	} {
		says <- c.says
		r := tc.Call(n, call(tc, broker.To("brokers", "a"), pb.Op_OP_FORWARD))
		if r.GetVerdict() != c.verdict || r.GetNeedsAttention() != c.attention || r.GetError() != c.text {
			t.Errorf("%v: got %v", c.says, r)
		}
	}
	r := tc.Call(n, call(tc, target.Handler("brokers", broker.Handler), pb.Op_OP_COMMIT))
	if !r.GetNeedsAttention() || !strings.Contains(r.GetError(), "header Broker-Subject: empty; want a subject") {
		t.Errorf("got %v", r)
	}
}

func TestAGroupHasOnePublisher(t *testing.T) {
	t.Parallel()
	p := publisher(func(broker.Msg) error { return nil })
	for want, g := range map[string]*handlers.Group{
		"the function is nil": broker.Register(handlers.New("g"), nil),
		"there is one":        broker.Register(broker.Register(handlers.New("g"), p), p),
	} {
		if _, err := g.Attach(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
