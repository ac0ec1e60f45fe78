package action_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
)

func TestNamesAreTheCoordinatorsAndNotThatOfAContext(t *testing.T) {
	t.Parallel()
	for _, name := range []string{action.HeaderXID, action.HeaderBranch, action.HeaderAction, action.HeaderAttempt, action.HeaderKey} {
		if strings.EqualFold(name, xid.Header) {
			t.Errorf("%s would make a service join the transaction", name)
		}
		if !strings.HasPrefix(strings.ToLower(name), action.Prefix) {
			t.Errorf("%s does not begin with %s", name, action.Prefix)
		}
	}
	if !strings.HasPrefix(xid.Header, action.Prefix) {
		t.Errorf("the header of a context, %s, does not begin with %s", xid.Header, action.Prefix)
	}
}

func TestACallGoesIntoHeadersWithoutTheXIDOfAContext(t *testing.T) {
	t.Parallel()
	c := action.Call{XID: xid.New(xid.Parts{Incarnation: 1, Counter: 2}), Branch: xid.BranchID{15: 1}, Action: action.Rollback, Attempt: 3}
	want := map[string]string{
		action.HeaderXID: c.XID.String(), action.HeaderBranch: c.Branch.String(), action.HeaderAction: "rollback",
		action.HeaderAttempt: "3", action.HeaderKey: c.XID.String() + "-00000000000000000000000000000001-rollback",
	}
	h := http.Header{}
	h.Set(xid.Header, "x")
	c.Set(h)
	ctx := metadata.AppendToOutgoingContext(xid.NewContext(t.Context(), c.XID), xid.Header, "x", "other", "y")
	ctx = c.Outgoing(ctx)
	md, _ := metadata.FromOutgoingContext(ctx)
	for k, v := range want {
		if h.Get(k) != v || !slices.Equal(md.Get(k), []string{v}) {
			t.Errorf("%s: got %q and %q, want %q", k, h.Get(k), md.Get(k), v)
		}
	}
	if h.Get(xid.Header) != "" || len(md.Get(xid.Header)) > 0 || len(md.Get("other")) != 1 {
		t.Errorf("got %v and %v", h, md)
	}
	if _, ok := xid.FromContext(ctx); ok {
		t.Error("the context still belongs to the transaction")
	}
	c.Attempt = 0
	if c.Set(h); h.Get(action.HeaderAttempt) != "" {
		t.Errorf("an attempt that is not known is told as %s", h.Get(action.HeaderAttempt))
	}
}

func TestActionText(t *testing.T) {
	t.Parallel()
	for _, a := range []action.Action{action.Forward, action.Commit, action.Rollback} {
		if got, err := action.Parse(a.String()); err != nil || got != a {
			t.Errorf("%s: %v %v", a, got, err)
		}
	}
	for _, s := range []string{"", "Forward", "try", "Action(0)", strings.Repeat("x", 1000)} {
		if _, err := action.Parse(s); err == nil || len(err.Error()) > 200 {
			t.Errorf("%.10s: %v", s, err)
		}
	}
	if s := action.Action(9).String(); s != "Action(9)" {
		t.Error(s)
	}
}
