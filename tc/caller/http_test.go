package caller_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/action"
	"github.com/handfast/handfast/xid/xidhttp"
)

func serveHTTP(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func hostOf(url string) string {
	_, host, _ := strings.Cut(url, "://")
	host, _, _ = strings.Cut(host, "/")
	return host
}

func TestHTTPStatusIsTheVerdict(t *testing.T) {
	t.Parallel()
	url := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscan(r.URL.Path[1:], &status)
		w.Header().Set("Location", "/200")
		w.WriteHeader(status)
		if status != 204 && status != 304 && r.URL.RawQuery == "" {
			_, _ = io.WriteString(w, "why")
		}
	})
	w := newWorld(t, caller.Config{})
	verdicts := map[int]core.Verdict{409: core.Failed, 425: core.NotYet}
	attention := map[int]bool{501: true, 505: true}
	for _, s := range []int{300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 410, 413, 415, 422, 431, 451} {
		attention[s] = true
	}
	for _, status := range []int{
		200, 201, 202, 204, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413,
		415, 421, 422, 423, 424, 425, 429, 431, 451, 500, 501, 502, 503, 504, 505, 599, 799,
	} {
		a := w.do(post(fmt.Sprintf("%s/%d", url, status), "{}"))
		want := verdicts[status]
		if status < 300 {
			want = core.Done
		}
		if a.Verdict != want || a.NeedsAttention != attention[status] {
			t.Errorf("%d: got %+v", status, a)
		}
		switch {
		case want == core.Done:
			if (string(a.Result) == "why") != (status != 204) {
				t.Errorf("%d: the result is %q", status, a.Result)
			}
		case want != core.Unsure:
			if a.Text != "why" {
				t.Errorf("%d: the text is %q", status, a.Text)
			}
		case !strings.Contains(a.Text, hostOf(url)) || !strings.Contains(a.Text, fmt.Sprint(status)):
			t.Errorf("%d: the text is %q", status, a.Text)
		}
		if a := w.do(post(fmt.Sprintf("%s/%d?empty", url, status), "{}")); a.Verdict != want || a.Result != nil {
			t.Errorf("%d without a body: got %+v", status, a)
		}
	}
}

func TestWhatHTTPSends(t *testing.T) {
	t.Parallel()
	type seen struct {
		r    *http.Request
		body []byte
		xid  bool
	}
	got := make(chan seen, 1)
	url := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		xidhttp.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, ok := xid.FromContext(r.Context())
			got <- seen{r, body, ok}
		})).ServeHTTP(w, r)
	})
	w := newWorld(t, caller.Config{})
	for _, tt := range []struct{ payload, given, contentType, want string }{
		{`{"a" : 1.0}`, "", "application/json", `{"a" : 1.0}`},
		{`{"a":"${steps.s.f}"}`, "", "application/json", `{"a":1e400}`},
		{"\x00\x01", "", "application/octet-stream", "\x00\x01"},
		{"", "", "", ""},
		{"<a/>", "text/xml", "text/xml", "<a/>"},
	} {
		c := post(url+"/p/${steps.s.g}?q=${own}", tt.payload)
		c.Before, c.Own = []core.Result{{Name: "s", Value: []byte(`{"f":1e400,"g":"a/b c"}`)}}, []byte(`"&"`)
		c.Op, c.Attempt, c.Branch = core.OpRollback, 4, xid.NewBranchID()
		c.Action.Header = []core.Header{{Name: "X-Two", Value: "1"}, {Name: "x-two", Value: "2"}}
		if tt.given != "" {
			c.Action.Header = append(c.Action.Header, core.Header{Name: "content-type", Value: tt.given})
		}
		if a := w.do(c); a.Verdict != core.Done {
			t.Fatalf("got %+v", a)
		}
		s := receive(t, got)
		if s.xid || s.r.Header.Get(xid.Header) != "" {
			t.Error("the service joined the transaction")
		}
		want := map[string]string{
			"Content-Type": tt.contentType, "X-Two": "1,2", "Idempotency-Key": "", "Accept-Encoding": "", "User-Agent": "handfast",
			action.HeaderXID: testXID.String(), action.HeaderBranch: c.Branch.String(), action.HeaderAction: "rollback",
			action.HeaderAttempt: "4", action.HeaderKey: action.Call{XID: testXID, Branch: c.Branch, Action: action.Rollback}.Key(),
		}
		for name, v := range want {
			if have := strings.Join(s.r.Header.Values(name), ","); have != v {
				t.Errorf("header %s is %q, want %q", name, have, v)
			}
		}
		if s.r.Method != http.MethodPost || s.r.RequestURI != "/p/a%2Fb%20c?q=%26" || string(s.body) != tt.want {
			t.Errorf("got %s %s %q", s.r.Method, s.r.RequestURI, s.body)
		}
	}
}

func TestWhatIsNotEvenSent(t *testing.T) {
	t.Parallel()
	var arrived atomic.Int32
	url := serveHTTP(t, func(http.ResponseWriter, *http.Request) { arrived.Add(1) })
	w := newWorld(t, caller.Config{})
	header := func(name, value string) core.Call {
		c := post(url, "{}")
		c.Action.Header = []core.Header{{Name: name, Value: value}}
		return c
	}
	for _, tt := range []struct {
		call core.Call
		text string
	}{
		{post(url, `{"a":"${steps.hotel.room}"}`), "${steps.hotel.room}"},
		{post(url+"/${own}", ""), "${own}"},
		{post("http://${own}/", ""), "host"},
		{post("ftp://h/", ""), "http://"},
		{post("h/x", ""), "http://"},
		{post("http:///x", ""), "host"},
		{post("http://h:99999/", ""), "port"},
		{post("http://h:0/", ""), "port"},
		{post("http://bücher.example/", ""), "Punycode"},
		{post(url+"/%zz", ""), "url"},
		{header("Handfast-Xid", "x"), "by the coordinator"},
		{header("handfast-branch", "x"), "by the coordinator"},
		{header("Connection", "close"), "connection"},
		{header("Transfer-Encoding", "chunked"), "connection"},
		{header("a b", "x"), "no name"},
		{header("a", "x\r\nb: y"), "character"},
		{core.Call{}, "no action"},
		{core.Call{Action: &core.Action{Kind: core.TargetHandler, Address: "h"}}, "not called over"},
	} {
		if a := w.do(tt.call); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, tt.text) {
			t.Errorf("got %+v, want %q", a, tt.text)
		}
	}
	if n := arrived.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
	if a := w.do(post("http://user:secret@h:99999/", "")); strings.Contains(a.Text, "secret") {
		t.Errorf("the text tells a password: %s", a.Text)
	}
}

func TestLongAnswers(t *testing.T) {
	t.Parallel()
	url := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		var n, status int
		_, _ = fmt.Sscan(r.URL.Query().Get("n")+" "+r.URL.Query().Get("s"), &n, &status)
		w.WriteHeader(status)
		chunk := bytes.Repeat([]byte("x"), 32<<10)
		for ; n > 0; n -= len(chunk) {
			if _, err := w.Write(chunk[:min(n, len(chunk))]); err != nil {
				return
			}
		}
	})
	w := newWorld(t, caller.Config{})
	for _, tt := range []struct {
		n, status int
		want      core.Verdict
		attention bool
	}{
		{64 << 10, 200, core.Done, false},
		{64<<10 + 1, 200, core.Unsure, true},
		{1 << 30, 200, core.Unsure, true},
		{1 << 30, 409, core.Failed, false},
		{1 << 30, 425, core.NotYet, false},
		{1 << 30, 500, core.Unsure, false},
	} {
		a := w.do(post(fmt.Sprintf("%s?n=%d&s=%d", url, tt.n, tt.status), ""))
		if a.Verdict != tt.want || a.NeedsAttention != tt.attention || (a.Verdict == core.Done && len(a.Result) != tt.n) {
			t.Errorf("%d bytes, %d: got %v, %d bytes, %s", tt.n, tt.status, a.Verdict, len(a.Result), a.Text)
		}
		if tt.attention && !strings.Contains(a.Text, "64 KiB") {
			t.Errorf("the text is %q", a.Text)
		}
	}
}

// raw is a server that does to each connection what it is told.
func raw(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			done2 := make(chan struct{})
			go func() {
				defer close(done2)
				defer func() { _ = c.Close() }()
				serve(c)
			}()
			t.Cleanup(func() { _ = c.Close(); <-done2 })
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// request reads a request's header and the two bytes of its body.
func request(c net.Conn) {
	var b []byte
	for one := make([]byte, 1); !bytes.HasSuffix(b, []byte("\r\n\r\n{}")); b = append(b, one...) {
		if _, err := c.Read(one); err != nil {
			return
		}
	}
}

// drain reads until the other side closes.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// A reason that holds nothing to read is none: operators see what the status was then.
func TestAReasonOfNothingIsTheStatus(t *testing.T) {
	t.Parallel()
	base := says(t)
	w := newWorld(t, caller.Config{})
	for _, body := range []string{"", "%00", "%20%0a", "%ff"} {
		for _, status := range []string{"409", "425"} {
			if a := w.do(post(base+"/"+status+"?say="+body, "")); !strings.Contains(a.Text, "answered "+status) {
				t.Errorf("%s with %q: %+v", status, body, a)
			}
		}
	}
}

func TestServersThatMisbehave(t *testing.T) {
	t.Parallel()
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, text)
		}
	}
	trickle := func(head, text string) func(net.Conn) {
		return func(c net.Conn) {
			request(c)
			gone := make(chan struct{})
			go func() { defer close(gone); drain(c) }()
			_, err := io.WriteString(c, head)
			for err == nil {
				_, err = io.WriteString(c, text)
				select {
				case <-gone:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
	}
	for _, tt := range []struct {
		name  string
		serve func(net.Conn)
		runs  bool // into the timeout
		want  core.Verdict
	}{
		{"hardly reads", func(c net.Conn) {
			for b := make([]byte, 1); ; <-time.After(20 * time.Millisecond) {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}, true, core.Unsure},
		{"never answers", drain, true, core.Unsure},
		{"closes at once", func(net.Conn) {}, false, core.Unsure},
		{"closes after the request", request, false, core.Unsure},
		{"closes in the header", say("HTTP/1.1 200 OK\r\nContent-"), false, core.Unsure},
		{"closes in the body", say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), false, core.Unsure},
		{"closes in a chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), false, core.Unsure},
		{"closes in the body of 409", say("HTTP/1.1 409 Conflict\r\nContent-Length: 10\r\n\r\nhalf"), false, core.Failed},
		{"body up to the close", say("HTTP/1.0 200 OK\r\n\r\nall"), false, core.Done},
		{"byte for byte for ever", trickle("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", "x"), true, core.Unsure},
		{"header for ever", trickle("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"), true, core.Unsure},
		{"trickling 409", trickle("HTTP/1.1 409 Conflict\r\nContent-Length: 60000\r\n\r\n", "x"), true, core.Failed},
		{"1xx for ever", trickle("", "HTTP/1.1 103 Early Hints\r\n\r\n"), true, core.Unsure},
		{"switches protocols", say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), false, core.Unsure},
		{"huge header", say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), false, core.Unsure},
		{"no HTTP", say("SSH-2.0-OpenSSH_9\r\n\x00\xff"), false, core.Unsure},
		{"two lengths", say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), false, core.Unsure},
		{"more than its length", say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 409 Conflict\r\n\r\n"), false, core.Done},
		{"control characters", say("HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\n\x00a\xff\x1b"), false, core.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, caller.Config{})
			host := raw(t, tt.serve)
			timeout := patience
			payload := "{}"
			if tt.runs {
				timeout = short
				if tt.want != core.Unsure { // its answer has to come before
					timeout = 10 * short
				}
			}
			if tt.name == "hardly reads" {
				payload = strings.Repeat("x", 16<<20) // more than the kernels of both sides keep
			}
			a := w.do(within(timeout, post("http://"+host+"/", payload)))
			if a.Verdict != tt.want || (a.Verdict == core.Unsure && !strings.Contains(a.Text, host)) {
				t.Errorf("got %+v", a)
			}
			if tt.runs && tt.want == core.Unsure && !strings.Contains(a.Text, "within 300ms") {
				t.Errorf("the text is %q", a.Text)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{})
	const host = "127.0.0.1:1" // no test can be given this port
	for _, c := range []core.Call{post("http://"+host, ""), unary(host+"/a.B/C", nil)} {
		if a := w.do(c); a.Verdict != core.Unsure || a.NeedsAttention || !strings.Contains(a.Text, host) || !strings.Contains(a.Text, "refused") {
			t.Errorf("got %+v", a)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s with %d certificates", r.Proto, len(r.TLS.PeerCertificates))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	w := newWorld(t, caller.Config{TLS: &tls.Config{RootCAs: roots, Certificates: s.TLS.Certificates, MinVersion: tls.VersionTLS12}})
	if a := w.do(post(s.URL, "{}")); a.Verdict != core.Done || string(a.Result) != "HTTP/2.0 with 1 certificates" {
		t.Errorf("got %+v %s", a, a.Result)
	}
	stranger := newWorld(t, caller.Config{})
	if a := stranger.do(post(s.URL, "{}")); a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "certificate") {
		t.Errorf("an unknown certificate: got %+v", a)
	}
	for name, serve := range map[string]func(net.Conn){
		"no TLS":   func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); drain(c) },
		"bad TLS":  func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 3, 0, 4, 99, 0, 0, 0}); drain(c) },
		"mute TLS": drain,
	} {
		host := raw(t, serve)
		for _, c := range []core.Call{post("https://"+host, "{}"), unary("grpcs://"+host+"/a.B/C", nil)} {
			if a := w.do(within(2*short, c)); a.Verdict != core.Unsure || !strings.Contains(a.Text, host) {
				t.Errorf("%s: got %+v", name, a)
			}
		}
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/500" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, "ok")
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	w := newWorld(t, caller.Config{})
	for i := range 20 {
		w.do(post(s.URL+[]string{"/", "/500"}[i%2], "{}"))
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for calls one after another", n)
	}
	// What the server closes while nobody looks is no failed attempt.
	s.CloseClientConnections()
	if a := w.do(post(s.URL, "{}")); a.Verdict != core.Done {
		t.Errorf("after the server closed the connection: got %+v", a)
	}
}

func TestProxyIsUsedOnlyWhereConfigured(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("no proxy today") }})
	if a := w.do(post("http://h.example/", "")); a.Verdict != core.Unsure || !strings.Contains(a.Text, "no proxy today") {
		t.Errorf("got %+v", a)
	}
	proxy := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.String()) })
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	w = newWorld(t, caller.Config{Proxy: http.ProxyURL(u)})
	if a := w.do(post("http://h.example/x", "")); a.Verdict != core.Done || string(a.Result) != "http://h.example/x" {
		t.Errorf("got %+v", a)
	}
}
