package caller_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// one is a Caller that makes one call at a time.
type one struct {
	*caller.Caller
	answers chan core.Called
}

func newOne(f *testing.F) *one {
	f.Helper()
	o := &one{answers: make(chan core.Called, 2)}
	o.Caller = caller.New(caller.Config{
		// A redirect must not lead to what else runs on this machine by another name.
		Allow: func(host string, _ netip.Addr) bool { return host == "127.0.0.1" },
	}, func(a core.Called) { o.answers <- a })
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := o.Close(ctx); err != nil {
			f.Error(err)
		}
	})
	return o
}

// do makes a call, and checks what holds of every answer.
func (o *one) do(t *testing.T, c core.Call) core.Called {
	t.Helper()
	c.Branch, c.XID, c.Attempt = xid.NewBranchID(), testXID, 1
	o.Call(c)
	var a core.Called
	select {
	case a = <-o.answers:
	case <-time.After(patience):
		t.Fatal("no answer")
	}
	switch {
	case len(o.answers) > 0:
		t.Fatalf("two answers: %+v, %+v", a, <-o.answers)
	case a.Branch != c.Branch || a.XID != c.XID || a.Op != c.Op || a.Attempt != 1:
		t.Fatalf("an answer to no call: %+v", a)
	case len(a.Text) > 1<<10 || !utf8.ValidString(a.Text) || strings.ContainsAny(a.Text, "\x00\x1b\x7f\r"):
		t.Fatalf("a text that can't be shown: %q", a.Text)
	case len(a.Result) > caller.MaxResult || a.Result != nil && (a.Verdict != core.Done || c.Action.Dialect != core.DialectHandfast):
		t.Fatalf("a result of %d bytes: %+v", len(a.Result), a)
	case a.Verdict != core.Done && a.Text == "":
		t.Fatalf("it does not say why: %+v", a)
	case a.Verdict != core.Unsure && a.NeedsAttention:
		t.Fatalf("who has answered needs no attention: %+v", a)
	}
	return a
}

// speaker is a service that reads a request and then writes bytes, whatever they are.
type speaker struct {
	net.Listener
	mu  sync.Mutex
	say []byte
	all sync.WaitGroup
}

func newSpeaker(f *testing.F) *speaker {
	f.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	s := &speaker{Listener: l}
	s.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.all.Go(func() { s.serve(c) })
		}
	})
	f.Cleanup(func() { _ = l.Close(); s.all.Wait() })
	return s
}

func (s *speaker) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = c.Write(s.say) // and then the connection ends
}

func (s *speaker) url(say []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say = say
	return "http://" + s.Addr().String() + "/"
}

// Whatever bytes come back, a call is answered once, and done, failed or not yet only
// where a status says so.
func FuzzBytesOfHTTP(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "HTTP/1.1 200 OK\r\n\r\nok",
		"HTTP/1.1 409 Conflict\r\nContent-Length: 10\r\n\r\nsold", "HTTP/1.0 425 X\r\n\r\n", "HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"HTTP/1.1 301 Moved\r\nLocation: http://h.example/\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/2.0 200 OK\r\n\r\n", "", "\x00", "HTTP/1.1 ",
	} {
		f.Add([]byte(s))
	}
	o, s := newOne(f), newSpeaker(f)
	f.Fuzz(func(t *testing.T, say []byte) {
		a := o.do(t, post(s.url(say), "{}"))
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(say)), nil)
		status := 0
		if err == nil {
			status = resp.StatusCode
			_ = resp.Body.Close()
		}
		if status >= 100 && status < 200 {
			return // what comes after one of these is another answer
		}
		want := map[core.Verdict]bool{core.Done: status/100 == 2, core.Failed: status == 409, core.NotYet: status == 425, core.Unsure: true}
		if !want[a.Verdict] {
			t.Fatalf("%q: %+v", say, a)
		}
	})
}

// spoken is an answer of HTTP, and to which kind of call.
type spoken struct {
	kind   uint8 // Handfast's dialect, DTM's, JSON-RPC, workflow
	op     core.Op
	status int
	body   []byte
	broken bool
}

func (s spoken) String() string {
	return fmt.Sprintf("kind %d, op %d: status %d, %d bytes %.200q, broken off: %t", s.kind, s.op, s.status, len(s.body), s.body, s.broken)
}

func (s spoken) bytes(name, value string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %03d X\r\nConnection: close\r\n", s.status)
	switch http.CanonicalHeaderKey(name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Location", "Trailer", "Upgrade":
	default:
		if httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value) {
			_, _ = fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	length := len(s.body)
	if s.broken {
		length++
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", length, s.body)
	return b.Bytes()
}

// verdict is what the table in doc.go says of it, written a second time.
func (s spoken) verdict() core.Verdict {
	if s.status == http.StatusNoContent || s.status == http.StatusNotModified { // these have no body
		s.body, s.broken = nil, false
	}
	if s.kind == 0 {
		switch {
		case s.status == 409:
			return core.Failed
		case s.status == 425:
			return core.NotYet
		case s.status >= 200 && s.status < 300 && !s.broken && len(s.body) <= caller.MaxResult:
			return core.Done
		}
		return core.Unsure
	}
	v := s.ofDTM()
	switch {
	case s.kind == 3 && s.status == http.StatusOK:
		return core.NotYet
	case s.kind == 3, v == core.Failed && s.op != core.OpForward:
		return core.Unsure
	}
	return v
}

func (s spoken) ofDTM() core.Verdict {
	word := s.status == 409 || s.status == 425
	switch {
	case s.broken && !word:
		return core.Unsure
	case bytes.Contains(s.body, []byte("ONGOING")), s.status == 425:
		return core.NotYet
	case bytes.Contains(s.body, []byte("FAILURE")), s.status == 409:
		return core.Failed
	case s.status != 200:
		return core.Unsure
	case s.kind != 2:
		return core.Done
	}
	var answer map[string]json.RawMessage
	if json.Unmarshal(s.body, &answer) != nil || answer == nil {
		return core.Unsure
	}
	if e := string(answer["error"]); e == "" || e == "null" {
		return core.Done
	}
	var e struct{ Code float64 }
	_ = json.Unmarshal(answer["error"], &e)
	return map[float64]core.Verdict{-32901: core.Failed, -32902: core.NotYet}[e.Code]
}

// What an answer means is what the documentation says, in each dialect, whatever status,
// headers and bodies services think of.
func FuzzAnswersOverHTTP(f *testing.F) {
	for kind := range uint8(4) {
		for _, status := range []uint16{200, 204, 299, 302, 404, 408, 409, 425, 429, 500, 501, 599} {
			f.Add(kind, status, uint8(1), "X-A", "b", []byte(`{"result":"x"}`), uint16(0), false)
		}
		for _, body := range []string{"ONGOING", "FAILURE", "FAILURE ONGOING", `{"error":{"code":-32901}}`, `{"error":{"code":-32902}}`, `{"error":null}`, `{"error":7}`, "null", "\xff\x00\x1b[2J"} {
			f.Add(kind, uint16(200), uint8(3), "Content-Encoding", "gzip", []byte(body), uint16(0), false)
			f.Add(kind, uint16(409), uint8(1), "Content-Type", "a/b", []byte(body), uint16(0), true)
		}
		f.Add(kind, uint16(200), uint8(1), "", "", []byte("x"), uint16(caller.MaxResult%(1<<16-1)), false)
		f.Add(kind, uint16(200), uint8(1), "", "", []byte("FAIL"), uint16(5000), true)
	}
	o, s := newOne(f), newSpeaker(f)
	f.Fuzz(func(t *testing.T, kind uint8, status uint16, op uint8, name, value string, body []byte, times uint16, broken bool) {
		in := spoken{kind: kind % 4, op: core.Op(1 + op%3), status: int(status), body: body, broken: broken}
		if in.status < 200 || in.status > 999 {
			in.status = 200 + in.status%400
		}
		if len(body) > 0 && len(body)*int(times) < 1<<18 {
			in.body = bytes.Repeat(body, 1+int(times))
		}
		if in.kind != 0 && in.status/100 == 3 {
			return // followed, which tests of their own look at
		}
		c := post(s.url(in.bytes(name, value)), "{}")
		switch in.kind {
		case 1:
			c = asDTM(c)
		case 2:
			c = asRPC(c)
		case 3:
			c = asWorkflow(c)
		}
		if c.Op = in.op; in.kind == 1 || in.kind == 2 {
			c.Mode = core.ModeTCC // each of its actions has a name
		}
		a := o.do(t, c)
		if a.Verdict != in.verdict() {
			t.Fatalf("%s\nmeans %d, and was taken for %+v", in, in.verdict(), a)
		}
		if in.kind == 0 && a.Verdict == core.Done && in.status != http.StatusNoContent && !bytes.Equal(a.Result, in.body) {
			t.Fatalf("the result of %q is %q", in.body, a.Result)
		}
	})
}
