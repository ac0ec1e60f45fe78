package hftest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/handfast/handfast/target"
)

// Inbox is where messages go: an HTTP server that takes every one of them.
type Inbox struct {
	*httptest.Server
	Got chan string // the payloads, as they come
}

// NewInbox starts one, which ends with the test.
func NewInbox(tb testing.TB) *Inbox {
	tb.Helper()
	i := &Inbox{Got: make(chan string, 100)}
	i.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		i.Got <- string(b)
	}))
	tb.Cleanup(i.Close)
	return i
}

// To is the message of a text.
func (i *Inbox) To(text string) target.Target {
	return target.HTTP(i.URL, target.Payload([]byte(text)))
}

// Messages are one for each text.
func (i *Inbox) Messages(texts ...string) (out []target.Target) {
	for _, text := range texts {
		out = append(out, i.To(text))
	}
	return out
}

// Want compares what has come, in whatever order; nothing may be under way.
func (i *Inbox) Want(tb testing.TB, texts ...string) {
	tb.Helper()
	var got []string
	for len(i.Got) > 0 {
		got = append(got, <-i.Got)
	}
	slices.Sort(got)
	if !slices.Equal(got, texts) {
		tb.Errorf("delivered %q, want %q", got, texts)
	}
}
