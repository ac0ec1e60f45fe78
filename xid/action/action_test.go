package action_test

import (
	"strings"
	"testing"

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

func TestKey(t *testing.T) {
	t.Parallel()
	id := xid.New(xid.Parts{Incarnation: 1, Counter: 2})
	got := action.Key(id, xid.BranchID{15: 1}, action.Rollback)
	want := id.String() + "-00000000000000000000000000000001-rollback"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
