package xidhttp

import (
	"context"
	"fmt"
	"net/http"

	"github.com/handfast/handfast/xid"
)

// Middleware puts the XID that came with a request into its context. A
// malformed XID, or several different ones, are answered with 400 and a text
// that names the header, before next runs.
func Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, err := incoming(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if ctx != r.Context() {
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

func incoming(r *http.Request) (context.Context, error) {
	ctx := r.Context()
	id, err := read(r.Header)
	if err != nil {
		return nil, err
	}
	// What the context holds from elsewhere does not count: the caller did not send it.
	if have, ok := xid.FromContext(ctx); ok == !id.IsZero() && have == id {
		return ctx, nil
	}
	return xid.NewContext(ctx, id), nil
}

// read gives the one XID of a header; the zero ID where there is none.
func read(h http.Header) (xid.ID, error) {
	var id xid.ID
	for i, s := range h.Values(xid.Header) {
		next, err := xid.Parse(s)
		if err != nil {
			return xid.ID{}, fmt.Errorf("header %s: %w", xid.Header, err)
		}
		if i > 0 && next != id {
			return xid.ID{}, fmt.Errorf("header %s: two different XIDs, %s and %s", xid.Header, id, next)
		}
		id = next
	}
	return id, nil
}

// Transport is an http.RoundTripper that sends the XID of a request's context
// along. A request that holds the same XID already is left as it is; another
// one is an error, for a request belongs to one transaction.
type Transport struct {
	// Base does the work; nil is http.DefaultTransport.
	Base http.RoundTripper
}

var _ http.RoundTripper = (*Transport)(nil)

// RoundTrip sends a copy of the request; the caller's own is not changed.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	base := t.Base
	if base == nil {
		base = http.DefaultTransport
	}
	id, ok := xid.FromContext(r.Context())
	if !ok {
		return base.RoundTrip(r)
	}
	there, err := read(r.Header)
	if err == nil && !there.IsZero() && there != id {
		err = fmt.Errorf("header %s holds %s, but the context belongs to %s", xid.Header, there, id)
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper closes the body also when it fails
		}
		return nil, err
	}
	if there.IsZero() {
		r = r.Clone(r.Context())
		r.Header.Set(xid.Header, id.String())
	}
	return base.RoundTrip(r)
}
