package dtm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handfast/handfast/proto/dtmgimp"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/dtm"
)

// alarm notes that something panicked: the server itself goes on.
type alarm struct {
	slog.Handler
	text atomic.Pointer[string]
}

func (a *alarm) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		text := r.Message
		r.Attrs(func(at slog.Attr) bool { text += " " + at.String(); return true })
		a.text.Store(&text)
	}
	return nil
}

// fresh starts a coordinator that calls nobody.
func fresh(f *testing.F) (*tc.Server, *alarm) {
	f.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	a := &alarm{Handler: slog.DiscardHandler}
	s, err := tc.NewServer(context.Background(), tc.Config{
		Listener: lis, StoreDir: f.TempDir(), Log: slog.New(always{a}), DrainTimeout: time.Second,
		DTM:   &dtm.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0"},
		Calls: caller.Config{Allow: func(string, netip.Addr) bool { return false }},
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			f.Error(err)
		}
	})
	return s, a
}

// always is a handler of every level.
type always struct{ *alarm }

func (always) Enabled(context.Context, slog.Level) bool { return true }

var bodies = []string{
	`{"gid":"g","trans_type":"saga","steps":[{"action":"http://h.example/a","compensate":"http://h.example/b"}],"payloads":["{}"]}`,
	`{"gid":"g","trans_type":"msg","steps":[{"action":"http://h.example/a"}],"payloads":["{}"],"query_prepared":"http://h.example/q"}`,
	`{"gid":"g","trans_type":"tcc","branch_id":"01","op":"try","confirm":"http://h.example/c","cancel":"http://h.example/d","data":"{}"}`,
	`{"gid":"g","trans_type":"xa","branch_id":"01","url":"http://h.example/x"}`,
	`{"gid":"g","trans_type":"workflow","custom_data":"{\"name\":\"w\"}","query_prepared":"http://h.example/w"}`,
	`{"gid":"g","trans_type":"saga","concurrent":true,"custom_data":"{\"orders\":{\"1\":[0]},\"concurrent\":true}","steps":[{},{}],"retry_limit":-1}`,
	`{"gid":1}`, `[]`, `null`, `{`, `{"gid":"g","trans_type":"saga","timeout_to_fail":1e300}`,
}

// Whatever an HTTP client of DTM sends, it is answered with JSON and the coordinator goes on.
func FuzzHTTP(f *testing.F) {
	s, a := fresh(f)
	addr, _ := s.DTMAddrs()
	paths := []string{
		"prepare", "submit", "abort", "forceStop", "resetNextCronTime", "registerBranch", "registerXaBranch", "registerTccBranch",
		"prepareWorkflow", "query", "all", "subscribe", "unsubscribe", "topic/x", "scanKV", "queryKV", "resetCronTime",
	}
	for i, b := range bodies {
		f.Add(uint8(i), "gid=g&limit=1&position=x&topic=t&url=http://h.example", []byte(b))
		f.Add(uint8(1), "", []byte(b))
	}
	f.Fuzz(func(t *testing.T, path uint8, query string, body []byte) {
		p := paths[int(path)%len(paths)]
		method := http.MethodPost
		switch p {
		case "query", "all", "subscribe", "unsubscribe", "scanKV", "queryKV", "resetCronTime":
			method = http.MethodGet
		case "topic/x":
			method = http.MethodDelete
		}
		post(t, a, method, "http://"+addr.String()+"/api/dtmsvr/"+p+"?"+clean(query), body)
	})
}

// clean leaves a query that can be sent.
func clean(q string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || r == '#' {
			return -1
		}
		return r
	}, q)
}

// Whatever is sent as JSON-RPC, it is answered as such.
func FuzzJSONRPC(f *testing.F) {
	s, a := fresh(f)
	addr, _ := s.DTMAddrs()
	for _, m := range []string{"newGid", "prepare", "submit", "abort", "registerBranch", "query", "x"} {
		for _, b := range bodies {
			f.Add([]byte(`{"jsonrpc":"2.0","id":"1","method":"` + m + `","params":` + b + `}`))
		}
	}
	f.Add([]byte(`{"jsonrpc":"2.0","id":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		post(t, a, http.MethodPost, "http://"+addr.String()+"/api/json-rpc", body)
	})
}

func post(t *testing.T, a *alarm, method, url string, body []byte) {
	t.Helper()
	limit := patience
	if waits(body) {
		limit = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		t.Skip(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		if ctx.Err() != nil && waits(body) {
			return // it asked to wait for an end that nobody brings about
		}
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusMovedPermanently && resp.StatusCode != http.StatusTemporaryRedirect && !json.Valid(answer) && !strings.Contains(url, "/prepareWorkflow?") {
		t.Fatalf("status %d: %q, %v", resp.StatusCode, answer, err)
	}
	if p := a.text.Swap(nil); p != nil {
		t.Fatal(*p)
	}
}

func waits(body []byte) bool { return bytes.Contains(bytes.ToLower(body), []byte("wait_result")) }

// Whatever a gRPC client of DTM sends, it is answered with a code that means something.
func FuzzGRPC(f *testing.F) {
	s, a := fresh(f)
	_, addr := s.DTMAddrs()
	cc, err := grpc.NewClient(addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = cc.Close() })
	for i, m := range []proto.Message{
		&dtmgimp.DtmRequest{Gid: "g", TransType: "saga", Steps: `[{"action":"h.example:1/s/m","compensate":"h.example:1/s/n"}]`, BinPayloads: [][]byte{{1}}},
		&dtmgimp.DtmRequest{Gid: "g", TransType: "msg", Steps: `[{"action":"h.example:1/s/m"}]`, BinPayloads: [][]byte{{1}}, QueryPrepared: "h.example:1/s/q"},
		&dtmgimp.DtmRequest{Gid: "g", TransType: "workflow", TransOptions: &dtmgimp.DtmTransOptions{TimeoutToFail: -1, BranchHeaders: map[string]string{"a": "b"}}},
		&dtmgimp.DtmBranchRequest{Gid: "g", TransType: "tcc", BranchID: "01", Op: "try", Data: map[string]string{"confirm": "h.example:1/s/c", "cancel": "h.example:1/s/d"}},
		&dtmgimp.DtmTopicRequest{Topic: "t", URL: "h.example:1/s/m"},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
		f.Add(uint8(0), b)
	}
	methods := []string{"Submit", "Prepare", "Abort", "RegisterBranch", "PrepareWorkflow", "Subscribe", "Unsubscribe", "DeleteTopic"}
	f.Fuzz(func(t *testing.T, method uint8, b []byte) {
		in := new(emptypb.Empty) // what is sent is what it does not know
		if in.ProtoReflect().SetUnknown(b); !valid(b) {
			return
		}
		var r dtmgimp.DtmRequest
		limit := patience
		if proto.Unmarshal(b, &r) == nil && r.GetTransOptions().GetWaitResult() {
			limit = 5 * time.Second
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err := cc.Invoke(ctx, "/dtmgimp.Dtm/"+methods[int(method)%len(methods)], in, new(emptypb.Empty))
		switch code := status.Code(err); code { //nolint:exhaustive // no other is right
		case codes.OK, codes.Aborted, codes.FailedPrecondition, codes.InvalidArgument, codes.ResourceExhausted:
		case codes.Unknown: // DTM's own answer to what it does not take
			if status.Convert(err).Message() == "" {
				t.Fatal("an error without a word")
			}
		case codes.DeadlineExceeded:
			if limit == patience {
				t.Fatal(err)
			}
		case codes.Internal:
			if !strings.Contains(err.Error(), "failed to unmarshal") {
				t.Fatal(err)
			}
		default:
			t.Fatal(err)
		}
		if p := a.text.Swap(nil); p != nil {
			t.Fatal(*p)
		}
	})
}

// valid tells whether bytes are fields at all.
func valid(b []byte) bool { return proto.Unmarshal(b, new(emptypb.Empty)) == nil }
