package caller_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
)

// stream is what a service writes on a stream of HTTP/2 that should be an answer of gRPC.
type stream struct {
	http          int    // the status of HTTP
	contentType   string // application/grpc where all is well
	body          []byte // a frame: a flag, a length, and as many bytes
	code, message string // trailers grpc-status and grpc-message, as they are
	details       []byte // trailer grpc-status-details-bin, before it is encoded
	name, value   string // one more trailer
}

func (s *stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	h := w.Header()
	if s.contentType != "" && httpguts.ValidHeaderFieldValue(s.contentType) {
		h.Set("Content-Type", s.contentType)
	}
	trailer := func(name, value string) {
		if httpguts.ValidTrailerHeader(http.CanonicalHeaderKey(name)) && httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value) {
			h.Set(http.TrailerPrefix+name, value)
		}
	}
	w.WriteHeader(s.http)
	_, _ = w.Write(s.body)
	trailer(s.name, s.value)
	if s.code != "" {
		trailer("Grpc-Status", s.code)
	}
	if s.message != "" {
		trailer("Grpc-Message", s.message)
	}
	if len(s.details) > 0 {
		trailer("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(s.details))
	}
}

// served keeps an HTTP/2 server that answers all in one way at a time.
type served struct {
	mu  sync.Mutex
	now *stream
}

func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.ServeHTTP(w, r)
}

func newServed(f *testing.F) (s *served, host string) {
	f.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	s = new(served)
	srv := &http.Server{Handler: s, Protocols: new(http.Protocols), ReadHeaderTimeout: patience}
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	f.Cleanup(func() { _ = srv.Close(); <-done })
	return s, l.Addr().String()
}

// framed puts bytes into a frame of gRPC.
func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

func (s *stream) String() string {
	return fmt.Sprintf("HTTP %d %q, %d bytes %.80q, status %q %q, details %.80q, %q: %q", s.http, s.contentType, len(s.body), s.body, s.code, s.message, s.details, s.name, s.value)
}

// isFrame tells whether bytes are one message, which is not compressed.
func isFrame(b []byte) bool {
	return len(b) >= 5 && b[0] == 0 && int(binary.BigEndian.Uint32(b[1:5])) == len(b)-5
}

// whole tells whether all but the status of gRPC is as it should be.
func (s *stream) whole() bool { return s.http == 200 && s.contentType == "application/grpc" }

// ofHandfast tells whether the details say that it is an error of Handfast.
func (s *stream) ofHandfast() bool {
	var p spb.Status
	if proto.Unmarshal(s.details, &p) != nil {
		return false
	}
	for _, d := range status.FromProto(&p).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "handfast" {
			return true
		}
	}
	return false
}

func (s *stream) check(t *testing.T, a core.Called, dtm bool) {
	t.Helper()
	code, err := strconv.ParseUint(s.code, 10, 32)
	// The status of HTTP does not count where one of gRPC can be expected.
	said := func(c codes.Code) bool {
		return err == nil && codes.Code(code) == c && strings.HasPrefix(strings.ToLower(s.contentType), "application/grpc")
	}
	ours := s.ofHandfast()
	switch a.Verdict {
	case core.Done:
		if !said(codes.OK) || !isFrame(s.body) || !dtm && !bytes.Equal(a.Result, s.body[5:]) {
			t.Fatalf("%v\nwas taken for done: %+v", s, a)
		}
	case core.Failed:
		if !said(codes.Aborted) || ours || dtm && s.message == "ONGOING" {
			t.Fatalf("%v\nwas taken for failed: %+v", s, a)
		}
	case core.NotYet:
		if word := said(codes.FailedPrecondition) || dtm && said(codes.Aborted); ours || !word {
			t.Fatalf("%v\nwas taken for not yet: %+v", s, a)
		}
	case core.Unsure:
		if !dtm && !strings.Contains(a.Text, "127.0.0.1:") {
			t.Fatalf("it does not name the host: %+v", a)
		}
	}
	// And what is said in the one right way is heard.
	if !s.whole() || len(s.details) > 0 || s.name != "" || strconv.FormatUint(code, 10) != s.code {
		return
	}
	want := core.Unsure
	switch {
	case said(codes.OK) && isFrame(s.body) && (dtm || len(s.body) <= 5+caller.MaxResult):
		want = core.Done
	case (len(s.body) == 0 || isFrame(s.body) && len(s.body) <= 5+caller.MaxResult) && said(codes.FailedPrecondition), dtm && len(s.body) == 0 && said(codes.Aborted) && s.message == "ONGOING":
		want = core.NotYet
	case len(s.body) == 0 && said(codes.Aborted):
		want = core.Failed
	case len(s.body) > 0 && !said(codes.OK):
		return // a message and an error: how much of the first is read does not matter
	}
	if a.Verdict != want {
		t.Fatalf("%v\nwas taken for %+v, want %d", s, a, want)
	}
}

// Whatever comes back on a stream of HTTP/2, a call over gRPC is answered once, as the
// documentation says; a service's own errors and those of Handfast stay apart.
func FuzzAnswersOverGRPC(f *testing.F) {
	details := func(domain string) []byte {
		st, err := status.New(codes.Aborted, "x").WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: "LOCK_CONFLICT"})
		if err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(st.Proto())
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	const grpcType = "application/grpc"
	for _, dtm := range []bool{false, true} {
		for code := range 20 {
			f.Add(dtm, uint16(200), grpcType, []byte{}, strconv.Itoa(code), "why", []byte{}, "", "")
		}
		f.Add(dtm, uint16(200), grpcType, framed([]byte("result")), "0", "", []byte{}, "", "")
		f.Add(dtm, uint16(200), grpcType+"+proto", framed(nil), "0", "", []byte{}, "X-A", "b")
		f.Add(dtm, uint16(200), grpcType, framed(bytes.Repeat([]byte("x"), caller.MaxResult+1)), "0", "", []byte{}, "", "")
		f.Add(dtm, uint16(200), grpcType, framed(bytes.Repeat([]byte("x"), caller.MaxResult+1)), "9", "", []byte{}, "", "") // too long whatever it says
		f.Add(dtm, uint16(200), grpcType, []byte("\x01\x00\x00\x00\x01x"), "0", "", []byte{}, "Grpc-Encoding", "gzip")
		f.Add(dtm, uint16(200), grpcType, []byte("\x00\xff\xff\xff\xffx"), "0", "", []byte{}, "", "")
		f.Add(dtm, uint16(200), grpcType, append(framed(nil), framed(nil)...), "0", "", []byte{}, "", "")
		f.Add(dtm, uint16(200), grpcType, []byte{}, "10", "ONGOING", []byte{}, "", "")
		f.Add(dtm, uint16(200), grpcType, []byte{}, "10", "%00%ff", []byte{}, "", "") // a reason of nothing
		f.Add(dtm, uint16(200), grpcType, []byte{}, "10", "x", details("handfast"), "", "")
		f.Add(dtm, uint16(200), grpcType, []byte{}, "9", "x", details("shop.example"), "", "")
		f.Add(dtm, uint16(200), grpcType, []byte{}, "010", "x", []byte("\x12\x02"), "", "")
		f.Add(dtm, uint16(409), "text/plain", []byte("sold out"), "", "", []byte{}, "", "")
		f.Add(dtm, uint16(503), grpcType, []byte{}, "10", "", []byte{}, "", "")
	}
	o := newOne(f)
	s, host := newServed(f)
	f.Fuzz(func(t *testing.T, dtm bool, status uint16, contentType string, body []byte, code, message string, details []byte, name, value string) {
		in := &stream{
			http: int(status), contentType: contentType, body: body, code: code, message: message,
			details: details[:min(len(details), 4<<10)], name: name, value: value,
		}
		if in.http < 200 || in.http > 999 {
			in.http = 200 + in.http%400
		}
		if strings.HasPrefix(strings.ToLower(name), "grpc-") {
			in.name = "" // said above
		}
		s.mu.Lock()
		s.now = in
		s.mu.Unlock()
		c := unary(host+check, []byte{})
		if dtm {
			c = asDTM(c)
		}
		c.Op = core.OpForward
		in.check(t, o.do(t, c), dtm)
	})
}
