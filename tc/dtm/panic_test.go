package dtm_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tc/store/pebblestore"
	"github.com/handfast/handfast/xid"
)

// trap is a store that panics when it is asked for one key, within the request.
type trap struct{ store.Store }

func (s trap) Lookup(key string) (xid.ID, bool, error) {
	if key == "trap" {
		panic("it is a trap")
	}
	return s.Store.Lookup(key)
}

// A panic costs the request that brought it about, and tells nobody why.
func TestAPanicIsTheEndOfItsRequestOnly(t *testing.T) {
	t.Parallel()
	st, err := pebblestore.Open(t.TempDir(), pebblestore.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	w := own(t, func(c *tc.Config) { c.StoreDir, c.Store = "", trap{st} })
	for what, o := range map[string]object{
		"prepare": trans("trap", "tcc"), "submit": saga("trap", "http://h/", ""), "abort": trans("trap", "tcc"),
		"registerBranch": tccBranch("trap", "01", "", ""), "prepareWorkflow": workflow("trap", "http://h/"),
	} {
		// No JSON: DTM's client takes that for a workflow, and panics.
		a := w.post(t, what, o).want(t, 500, "internal error")
		if strings.Contains(a.body, "trap") || !strings.HasPrefix(a.kind, "text/plain") {
			t.Errorf("%s: got %+v", what, a)
		}
	}
	w.get(t, "query", "gid", "trap").want(t, 500, "internal error")
	for what, f := range map[string]func(context.Context) error{
		"Prepare": func(ctx context.Context) error { _, err := w.rpc.Prepare(ctx, request("trap", "tcc")); return err },
		"Abort":   func(ctx context.Context) error { _, err := w.rpc.Abort(ctx, request("trap", "tcc")); return err },
		"PrepareWorkflow": func(ctx context.Context) error {
			r := request("trap", "workflow")
			r.QueryPrepared, r.CustomedData = "127.0.0.1:1/a.B/C", `{"name":"flow"}`
			_, err := w.rpc.PrepareWorkflow(ctx, r)
			return err
		},
	} {
		if err := f(limited(t)); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "trap") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	w.post(t, "prepare", trans("free", "tcc")).ok(t)
	w.do(t, http.MethodGet, "/api/metrics", "").want(t, 200, `{type="http",api="prepare",status="fail"} 1`)
}
