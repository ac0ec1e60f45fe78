package xidhttp_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidhttp"
)

func newID(n uint64) xid.ID {
	return xid.New(xid.Parts{Incarnation: 1, Store: xid.StoreID{1}, Counter: n})
}

// serve answers with the XID of the request's context.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) (*httptest.Server, *[]http.Header) {
	t.Helper()
	var headers []http.Header // written and read by turns: one request at a time
	srv := httptest.NewServer(wrap(xidhttp.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = append(headers, r.Header)
		id, _ := xid.FromContext(r.Context())
		_, _ = io.WriteString(w, id.String())
	}))))
	t.Cleanup(srv.Close)
	return srv, &headers
}

func plain(h http.Handler) http.Handler { return h }

func get(t *testing.T, rt http.RoundTripper, r *http.Request) (int, string) {
	t.Helper()
	c := http.Client{Transport: rt}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func request(t *testing.T, url string, id xid.ID, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(xid.NewContext(t.Context(), id), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		r.Header.Add(xid.Header, h)
	}
	return r
}

func TestXIDTravelsWithTheRequest(t *testing.T) {
	t.Parallel()
	srv, headers := serve(t, plain)
	want := newID(1)
	r := request(t, srv.URL, want)
	r.Header["Accept-Language"] = []string{"de", "en"}
	if code, body := get(t, &xidhttp.Transport{}, r); code != http.StatusOK || body != want.String() {
		t.Errorf("the handler saw %d %q, want %v", code, body, want)
	}
	if v := (*headers)[0]["Accept-Language"]; !slices.Equal(v, []string{"de", "en"}) {
		t.Errorf("another header became %v", v)
	}
	if _, ok := r.Header[http.CanonicalHeaderKey(xid.Header)]; ok {
		t.Error("the caller's own request was changed")
	}
}

func TestRequestWithoutXIDIsLeftAlone(t *testing.T) {
	t.Parallel()
	srv, headers := serve(t, plain)
	if code, body := get(t, &xidhttp.Transport{Base: http.DefaultTransport}, request(t, srv.URL, xid.ID{})); code != http.StatusOK || body != "" {
		t.Errorf("the handler saw %d %q", code, body)
	}
	if v := (*headers)[0].Values(xid.Header); len(v) != 0 {
		t.Errorf("the header holds %v", v)
	}
}

func TestXIDAlreadyInTheHeader(t *testing.T) {
	t.Parallel()
	srv, headers := serve(t, plain)
	a, b := newID(1), newID(2)
	if code, body := get(t, &xidhttp.Transport{}, request(t, srv.URL, a, a.String())); code != http.StatusOK || body != a.String() {
		t.Errorf("the same: got %d %q", code, body)
	}
	if v := (*headers)[0].Values(xid.Header); len(v) != 1 {
		t.Errorf("the header holds %v, want one XID", v)
	}
	for _, other := range []string{b.String(), "junk"} {
		r := request(t, srv.URL, a, other)
		body := &closable{Reader: strings.NewReader("x")}
		r.Body = body
		_, err := (&xidhttp.Transport{}).RoundTrip(r) //nolint:bodyclose // there is none
		if err == nil || !strings.Contains(err.Error(), xid.Header) {
			t.Errorf("%.20s: got %v, want an error that names the header", other, err)
		}
		if !body.closed {
			t.Errorf("%.20s: the body was left open", other)
		}
	}
	if len(*headers) != 1 {
		t.Errorf("%d requests arrived, want 1", len(*headers))
	}
}

type closable struct {
	io.Reader
	closed bool
}

func (c *closable) Close() error { c.closed = true; return nil }

func TestMiddlewareJudgesTheXIDsOfARequest(t *testing.T) {
	t.Parallel()
	a, b := newID(1), newID(2)
	for _, tt := range []struct {
		name string
		sent []string
		want int
	}{
		{"one", []string{a.String()}, http.StatusOK},
		{"the same twice", []string{a.String(), a.String()}, http.StatusOK},
		{"two different", []string{a.String(), b.String()}, http.StatusBadRequest},
		{"malformed", []string{"junk"}, http.StatusBadRequest},
		{"empty", []string{""}, http.StatusBadRequest},
		{"ten kilobytes", []string{strings.Repeat("0", 10<<10)}, http.StatusBadRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv, headers := serve(t, plain)
			code, body := get(t, nil, request(t, srv.URL, xid.ID{}, tt.sent...))
			if code != tt.want {
				t.Fatalf("got %d %q, want %d", code, body, tt.want)
			}
			if tt.want == http.StatusOK {
				if body != a.String() {
					t.Errorf("the handler saw %q", body)
				}
				return
			}
			if len(*headers) != 0 {
				t.Error("the handler ran")
			}
			if !strings.Contains(body, xid.Header) {
				t.Errorf("the answer does not name the header: %q", body)
			}
		})
	}
}

func TestXIDFromElsewhereDoesNotLeakIntoTheHandler(t *testing.T) {
	t.Parallel()
	srv, _ := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(xid.NewContext(r.Context(), newID(9))))
		})
	})
	if code, body := get(t, nil, request(t, srv.URL, xid.ID{})); code != http.StatusOK || body != "" {
		t.Errorf("a request without an XID ran under %q (%d)", body, code)
	}
}

type failing struct{}

var errBase = errors.New("base")

func (failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, errBase }

func TestErrorOfTheBasePassesThrough(t *testing.T) {
	t.Parallel()
	_, err := (&xidhttp.Transport{Base: failing{}}).RoundTrip(request(t, "http://127.0.0.1/", newID(1))) //nolint:bodyclose // there is none
	if !errors.Is(err, errBase) {
		t.Errorf("got %v", err)
	}
}
