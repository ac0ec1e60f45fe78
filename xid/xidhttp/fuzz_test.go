package xidhttp_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidhttp"
)

// idOf tells what the header says, by rules of its own: every value the text of one XID.
func idOf(values []string) (id xid.ID, ok bool) {
	for i, v := range values {
		next, err := xid.Parse(v)
		if err != nil || i > 0 && next != id {
			return xid.ID{}, false
		}
		id = next
	}
	return id, true
}

// split makes the values of a header of one text.
func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// Whatever a header holds, a handler runs under the one XID that is there, or under none
// where none was sent; else it does not run, and the answer names the header. A Transport
// sends the XID of its context, and nothing beside another.
func FuzzHeader(f *testing.F) {
	id := testID(1).String()
	for _, h := range []string{"", id, id + "," + id, id + "," + testID(2).String(), id[1:], strings.ToUpper(id), " " + id, id + "\n", "0", strings.Repeat("0", xid.TextLen), ",", "\xff"} {
		f.Add(h, true)
		f.Add(h, false)
	}
	f.Fuzz(func(t *testing.T, text string, inContext bool) {
		values := split(text)
		want, good := idOf(values)
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		if inContext { // what did not come with the request does not count
			r = r.WithContext(xid.NewContext(r.Context(), testID(3)))
		}
		add(r.Header, values)
		w, ran := httptest.NewRecorder(), false
		xidhttp.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ran = true
			if got, ok := xid.FromContext(r.Context()); ok == want.IsZero() || got != want {
				t.Fatalf("%q: it runs under %s, %t", values, got, ok)
			}
		})).ServeHTTP(w, r)
		switch {
		case ran != good:
			t.Fatalf("%q: it ran: %t", values, ran)
		case !good && (w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), xid.Header) || w.Body.Len() > 500):
			t.Fatalf("%q: %d %q", values, w.Code, w.Body)
		}

		mine := testID(3)
		sent := http.Header(nil)
		out := httptest.NewRequest(http.MethodPost, "http://h.example/", http.NoBody)
		out = out.WithContext(xid.NewContext(out.Context(), mine))
		add(out.Header, values)
		resp, err := (&xidhttp.Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = r.Header
			return &http.Response{Body: http.NoBody}, nil
		})}).RoundTrip(out)
		if err == nil {
			_ = resp.Body.Close()
		}
		if fits := good && (len(values) == 0 || want == mine); fits != (err == nil) || fits != (sent != nil) {
			t.Fatalf("%q: sent %t, %v", values, sent != nil, err)
		}
		if sent == nil {
			return
		}
		if got, ok := idOf(sent.Values(xid.Header)); !ok || got != mine {
			t.Fatalf("%q was sent for %s", sent.Values(xid.Header), mine)
		}
	})
}

func add(h http.Header, values []string) {
	for _, v := range values {
		h.Add(xid.Header, v)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func testID(n uint64) xid.ID { return xid.New(xid.Parts{Incarnation: 1, Counter: n}) }
