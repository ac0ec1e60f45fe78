package fence_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

// received is what the receiver of a call finds, over HTTP and over gRPC.
func received(t *testing.T, change func(http.Header)) map[string]func() (fence.Call, error) {
	t.Helper()
	h := http.Header{}
	change(h)
	return map[string]func() (fence.Call, error){
		"HTTP": func() (fence.Call, error) {
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			r.Header = h
			return fence.FromHTTP(r)
		},
		"values": func() (fence.Call, error) { return fence.FromValues(h.Values) },
		"gRPC": func() (fence.Call, error) {
			md := metadata.MD{}
			for k, vs := range h {
				md.Append(k, vs...)
			}
			return fence.FromGRPC(metadata.NewIncomingContext(t.Context(), md))
		},
	}
}

func TestCallTravels(t *testing.T) {
	t.Parallel()
	for a := fence.Forward; a <= fence.Rollback; a++ {
		for _, attempt := range []uint32{0, 1, 1<<32 - 1} {
			c := as(newCall(), a)
			c.Attempt = attempt
			for name, read := range received(t, func(h http.Header) {
				as(newCall(), fence.Commit).Set(h) // an earlier one
				h.Set(xid.Header, newCall().XID.String())
				c.Set(h)
				if got := h.Get(fence.HeaderKey); got != c.Key() || strings.Contains(got, " ") || len(got) < 96 || len(got) > 98 {
					t.Errorf("the key is %q", got)
				}
			}) {
				if got, err := read(); err != nil || got != c {
					t.Errorf("%s: %+v %v, want %+v", name, got, err, c)
				}
			}
			ctx := metadata.AppendToOutgoingContext(context.Background(), xid.Header, newCall().XID.String(), "other", "x")
			out, _ := metadata.FromOutgoingContext(c.Outgoing(as(newCall(), fence.Commit).Outgoing(ctx)))
			if got, err := fence.FromGRPC(metadata.NewIncomingContext(t.Context(), out)); err != nil || got != c || len(out.Get("other")) != 1 {
				t.Errorf("%+v %v, want %+v", got, err, c)
			}
			if was, _ := metadata.FromOutgoingContext(ctx); len(was.Get(fence.HeaderXID)) != 0 {
				t.Error("the caller's own context was changed")
			}
		}
	}
}

// A service that passes the XID of a context on must not make its callee take part
// in AT mode with what is compensated.
func TestHeadersAreNotThoseOfTheContext(t *testing.T) {
	t.Parallel()
	for _, name := range []string{fence.HeaderXID, fence.HeaderBranch, fence.HeaderAction, fence.HeaderAttempt, fence.HeaderKey} {
		if strings.EqualFold(name, xid.Header) || http.CanonicalHeaderKey(name) != name {
			t.Errorf("%s", name)
		}
	}
}

func TestMalformedHeaders(t *testing.T) {
	t.Parallel()
	c := newCall()
	for _, tt := range []struct {
		name   string
		change func(http.Header)
		want   error
		text   string
	}{
		{"none", func(h http.Header) { clear(h) }, fence.ErrNoCall, fence.HeaderXID},
		{"only the XID of a context", func(h http.Header) { clear(h); h.Set(xid.Header, c.XID.String()) }, fence.ErrNoCall, fence.HeaderXID},
		{"no XID", func(h http.Header) { h.Del(fence.HeaderXID) }, fence.ErrMalformed, fence.HeaderXID + ": missing; want an XID"},
		{"no branch", func(h http.Header) { h.Del(fence.HeaderBranch) }, fence.ErrMalformed, fence.HeaderBranch + ": missing; want a branch"},
		{"no action", func(h http.Header) { h.Del(fence.HeaderAction) }, fence.ErrMalformed, fence.HeaderAction + ": missing; want forward, commit or rollback"},
		{"only a key", func(h http.Header) { clear(h); h.Set(fence.HeaderKey, c.Key()) }, fence.ErrMalformed, fence.HeaderXID + ": missing"},
		{"junk XID", func(h http.Header) { h.Set(fence.HeaderXID, "junk") }, fence.ErrMalformed, fence.HeaderXID},
		{"junk branch", func(h http.Header) { h.Set(fence.HeaderBranch, "junk") }, fence.ErrMalformed, fence.HeaderBranch},
		{"junk action", func(h http.Header) { h.Set(fence.HeaderAction, "Forward") }, fence.ErrMalformed, "want forward, commit or rollback"},
		{"junk attempt", func(h http.Header) { h.Set(fence.HeaderAttempt, "-1") }, fence.ErrMalformed, fence.HeaderAttempt},
		{"attempt 0", func(h http.Header) { h.Set(fence.HeaderAttempt, "0") }, fence.ErrMalformed, "from 1 to"},
		{"attempt too large", func(h http.Header) { h.Set(fence.HeaderAttempt, "4294967296") }, fence.ErrMalformed, fence.HeaderAttempt},
		{"empty attempt", func(h http.Header) { h.Set(fence.HeaderAttempt, "") }, fence.ErrMalformed, fence.HeaderAttempt},
		{"key of another", func(h http.Header) { h.Set(fence.HeaderKey, newCall().Key()) }, fence.ErrMalformed, fence.HeaderKey},
		{"two XIDs", func(h http.Header) { h.Add(fence.HeaderXID, newCall().XID.String()) }, fence.ErrMalformed, fence.HeaderXID + ": 2 different values"},
		{"two actions", func(h http.Header) { h.Add(fence.HeaderAction, "rollback") }, fence.ErrMalformed, fence.HeaderAction},
		{"the XID of a context, too", func(h http.Header) { h.Set(xid.Header, c.XID.String()) }, fence.ErrMalformed, xid.Header},
		{"ten kilobytes", func(h http.Header) { h.Set(fence.HeaderKey, strings.Repeat("x", 10<<10)) }, fence.ErrMalformed, fence.HeaderKey},
	} {
		for kind, read := range received(t, func(h http.Header) { c.Set(h); tt.change(h) }) {
			got, err := read()
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || got != (fence.Call{}) || len(err.Error()) > 400 {
				t.Errorf("%s: %s: %+v %v, want %v with %q", kind, tt.name, got, err, tt.want, tt.text)
			}
		}
	}
	for kind, read := range received(t, func(h http.Header) {
		c.Set(h)
		h.Add(fence.HeaderXID, c.XID.String()) // the same again
		h.Del(fence.HeaderKey)
		h.Del(fence.HeaderAttempt)
	}) {
		want := c
		want.Attempt = 0
		if got, err := read(); err != nil || got != want {
			t.Errorf("%s: %+v %v", kind, got, err)
		}
	}
}

// One handler, called as a coordinator does: again, and in the wrong order.
func TestHandlerOverHTTP(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	pool := d.pool()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call, err := fence.FromHTTP(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := run(t, pool, call)
		if errors.Is(err, fence.ErrLate) {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(out.Result)
	}))
	t.Cleanup(srv.Close)
	post := func(c fence.Call) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(limited(t), http.MethodPost, srv.URL, nil)
		check(t, err)
		if c.Action != 0 {
			c.Set(r.Header)
		}
		resp, err := srv.Client().Do(r)
		check(t, err)
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		check(t, err)
		return resp.StatusCode, string(b)
	}
	c := newCall()
	code, first := post(c)
	if code != http.StatusOK || first == "" {
		t.Fatal(code, first)
	}
	for _, step := range []struct {
		call fence.Call
		code int
		body string // "": any
	}{
		{c, http.StatusOK, first}, {as(c, fence.Rollback), http.StatusOK, ""}, {c, http.StatusConflict, ""},
		{as(newCall(), fence.Rollback), http.StatusOK, ""}, {fence.Call{}, http.StatusBadRequest, ""},
	} {
		if code, body := post(step.call); code != step.code || step.body != "" && body != step.body {
			t.Errorf("%s: %d %q, want %d %q", step.call, code, body, step.code, step.body)
		}
	}
	d.wantEffects(c, 1, 0, 1)
}

func TestHTTPStatusIsWhatTheCoordinatorTakesItFor(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{
		nil: 200, fence.ErrLate: 409, fmt.Errorf("no room: %w", target.ErrFailed): 409, target.ErrNotYet: 425,
		fence.ErrNoCall: 400, fence.ErrMalformed: 400, fence.ErrBusy: 503, fence.ErrContradicted: 503, errors.New("odd"): 503,
	} {
		if got := fence.HTTPStatus(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
	for _, err := range []error{fence.ErrNoForward, fence.ErrContradicted, fence.ErrForgotten} {
		if !errors.Is(err, target.ErrAttention) {
			t.Errorf("%v calls nobody", err)
		}
	}
}
