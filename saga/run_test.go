package saga_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// start makes a manager on a coordinator that does what the test says.
func start(t *testing.T, on func(*faketc.Session, *pb.ClientFrame) bool) *tm.Manager {
	t.Helper()
	tc := faketc.Start(t)
	tc.On(on)
	c, err := client.Dial(tc.Addr(), client.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return tm.New(c)
}

func TestRunSubmitsAndWaits(t *testing.T) {
	t.Parallel()
	var seen []string
	m := start(t, func(n *faketc.Session, f *pb.ClientFrame) bool {
		switch k := f.GetKind().(type) {
		case *pb.ClientFrame_Begin:
			seen = append(seen, "begin "+k.Begin.GetName())
		case *pb.ClientFrame_Submit:
			seen = append(seen, "submit", k.Submit.GetBranches()[0].GetName())
		case *pb.ClientFrame_WaitFor:
			seen = append(seen, "wait")
		case *pb.ClientFrame_Get:
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{Transaction: &pb.Transaction{
				Branches: []*pb.Branch{{Name: "hotel", Result: []byte(`{"id":7}`)}, {Name: "pay"}},
			}}}})
			return true
		}
		return false
	})
	id, err := trip().Run(t.Context(), m)
	if err != nil || id.IsZero() || strings.Join(seen, ",") != "begin trip,submit,hotel,wait" {
		t.Fatalf("got %v, %v, %v", id, err, seen)
	}
	got, err := saga.Results(t.Context(), m, id)
	if err != nil || len(got) != 1 || string(got["hotel"]) != `{"id":7}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestNothingIsSentOfWhatIsWrong(t *testing.T) {
	t.Parallel()
	m := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetHello() == nil {
			t.Errorf("sent %v", f)
		}
		return false
	})
	var e *saga.Error
	if id, err := saga.New("x").Run(t.Context(), m); !errors.As(err, &e) || !id.IsZero() {
		t.Errorf("got %v, %v", id, err)
	}
}

func TestWhatCanNotBeEnlisted(t *testing.T) {
	t.Parallel()
	registered := 0
	m := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetRegisterBranch() != nil {
			registered++
		}
		return false
	})
	inside := xid.NewContext(t.Context(), xid.New(xid.Parts{Counter: 1}))
	for name, tt := range map[string]struct {
		ctx  context.Context
		d    *saga.Definition
		want string
	}{
		"outside":    {t.Context(), saga.New("x").Step("a", do, undo), `saga "x": the context belongs to no transaction`},
		"wrong":      {inside, saga.New("x"), `saga "x": it has no steps`},
		"with pivot": {inside, trip(), `saga "trip": step "pay": it is a pivot, which can't be undone`},
	} {
		err := tt.d.Enlist(tt.ctx, m)
		if _, ok := errors.AsType[*saga.Error](err); !ok || !strings.HasPrefix(err.Error(), tt.want) || errors.Is(err, saga.ErrNoTransaction) != (name == "outside") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := saga.New("x").Step("a", do, undo).Enlist(inside, m); err != nil || registered != 1 {
		t.Errorf("got %v after %d registrations", err, registered)
	}
}

func TestSubmitCanBeMadeAgain(t *testing.T) {
	t.Parallel()
	ctx, giveUp := context.WithCancel(t.Context())
	var sent []string
	m := start(t, func(_ *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetSubmit() == nil {
			return false
		}
		sent = append(sent, f.GetSubmit().String())
		giveUp()
		return len(sent) == 1 // the first answer is lost
	})
	id, err := trip().Submit(ctx, m)
	if !errors.Is(err, tm.ErrOutcomeUnknown) || id == (xid.ID{}) {
		t.Fatalf("got %v, %v", id, err)
	}
	if err := trip().SubmitAs(t.Context(), m, tm.Tx{XID: id}); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 2 || sent[0] != sent[1] {
		t.Errorf("sent %v", sent)
	}
}
