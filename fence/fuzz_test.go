package fence_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/xid"
)

// Whatever the headers of a call hold, they name one call, which is that which Set would
// write, or there is an error that names a header; and it is the same over HTTP, over gRPC
// and in a message.
func FuzzHeaders(f *testing.F) {
	c := as(newCall(), fence.Forward)
	id, branch := c.XID.String(), c.Branch.String()
	f.Add(id, branch, "forward", "1", c.Key(), "")
	f.Add(id, branch, "forward", "4294967295", "", "")
	f.Add(id, branch, "rollback", "", c.Key(), "")
	f.Add(id, branch, "commit", "0", "", "")
	f.Add(id, branch, "commit", "-1", "", id)
	f.Add(id, branch, "commit", "1", "", id)
	f.Add(id+"|"+id, branch, "commit|commit", "1|2", "", "")
	f.Add(" "+id, branch+"\t", "Forward", "01", "x", "")
	f.Add("", "", "", "", "", "")
	f.Add("", "", "", "", "", id)
	f.Add(strings.Repeat("0", xid.TextLen), strings.Repeat("0", 32), "forward", "", "", "")
	f.Fuzz(func(t *testing.T, id, branch, action, attempt, key, ambient string) {
		h, md := http.Header{}, metadata.MD{}
		for name, text := range map[string]string{
			fence.HeaderXID: id, fence.HeaderBranch: branch, fence.HeaderAction: action,
			fence.HeaderAttempt: attempt, fence.HeaderKey: key, xid.Header: ambient,
		} {
			if text == "" {
				continue
			}
			for _, v := range strings.Split(text, "|") { // several values
				h.Add(name, v)
				md.Append(name, v)
			}
		}
		got, err := fence.FromHTTP(&http.Request{Header: h})
		overGRPC, errGRPC := fence.FromGRPC(metadata.NewIncomingContext(context.Background(), md))
		message, errMessage := fence.FromValues(h.Values)
		if got != overGRPC || got != message || (err == nil) != (errGRPC == nil) || (err == nil) != (errMessage == nil) {
			t.Fatalf("HTTP %+v %v\ngRPC %+v %v\nmessage %+v %v", got, err, overGRPC, errGRPC, message, errMessage)
		}
		if err != nil {
			if got != (fence.Call{}) || !errors.Is(err, fence.ErrMalformed) && !errors.Is(err, fence.ErrNoCall) ||
				!strings.Contains(err.Error(), "andfast-") || len(err.Error()) > 1000 || fence.HTTPStatus(err) != http.StatusBadRequest {
				t.Fatalf("%+v, %v", got, err)
			}
			return
		}
		if ambient != "" {
			t.Fatalf("%v joins the transaction of %q as well", got, ambient)
		}
		again := http.Header{}
		got.Set(again)
		for name, vs := range again {
			if have := h.Values(name); len(have) > 0 && name != fence.HeaderAttempt && !strings.EqualFold(strings.TrimSpace(have[0]), vs[0]) { // digits may be in capitals
				t.Fatalf("%s: %q was read as %q", name, have, vs)
			}
		}
		if back, err := fence.FromHTTP(&http.Request{Header: again}); err != nil || back != got {
			t.Fatalf("%+v is read again as %+v, %v", got, back, err)
		}
	})
}
