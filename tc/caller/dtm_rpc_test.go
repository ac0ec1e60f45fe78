package caller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

func TestWhatDTMSendsOverGRPC(t *testing.T) {
	t.Parallel()
	type call struct {
		md   metadata.MD
		body []byte
	}
	got := make(chan call, 1)
	reply := make([]byte, 0)
	host := serveGRPC(t, nil, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var in, out emptypb.Empty
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		md, _ := metadata.FromIncomingContext(s.Context())
		got <- call{md, in.ProtoReflect().GetUnknown()}
		out.ProtoReflect().SetUnknown(reply)
		return s.SendMsg(&out)
	}))
	w := newWorld(t, caller.Config{})
	payload := []byte{0x7a, 0x80, 0x02} // field 15 of 256 bytes
	for i := range 256 {
		payload = append(payload, byte(i))
	}
	base := metadata.MD{":authority": {host}, "content-type": {"application/grpc"}}
	c := asDTM(unary(host+"/busi.Busi/TransIn", payload))
	c.Op, c.Mode = core.OpRollback, core.ModeTCC
	c.Action.Header = []core.Header{{Name: "X-Two", Value: "1"}, {Name: "x-two", Value: "${own}"}, {Name: "x-bin", Value: "\x00ä"}}
	for n := range 2 {
		want := base.Copy()
		for name, v := range map[string]string{"gid": "g-1", "trans_type": "tcc", "branch_id": "01", "op": "cancel", "dtm": ""} {
			want.Set("dtm-"+name, v)
		}
		if n == 0 {
			want.Append("x-two", "1", "${own}")
			want.Set("x-bin", "\x00ä")
		} else {
			c.Action.Header, c.Key = nil, ""
			c.Branch = xid.NewBranchID()
			want.Set("dtm-gid", testXID.String())
			want.Set("dtm-branch_id", c.Branch.String())
		}
		if a := w.do(c); a.Verdict != core.Done || a.Result != nil {
			t.Fatalf("got %+v", a)
		}
		r := receive(t, got)
		if !strings.HasPrefix(strings.Join(r.md.Get("user-agent"), ","), "handfast") {
			t.Errorf("the user agent is %q", r.md.Get("user-agent"))
		}
		r.md.Delete("user-agent")
		if !maps.EqualFunc(r.md, want, func(a, b []string) bool { return strings.Join(a, ",") == strings.Join(b, ",") && len(a) == len(b) }) {
			t.Errorf("the metadata is %v\nwant %v", r.md, want)
		}
		if string(r.body) != string(payload) {
			t.Errorf("the payload is %x", r.body)
		}
	}
	// A reply is not looked at, whether it is short or long.
	for _, tt := range []struct {
		field, size int
		want        core.Verdict
	}{{15, 100, core.Done}, {15, 3 << 20, core.Done}, {15, 4<<20 + 1, core.Unsure}} {
		reply = append([]byte{byte(tt.field<<3 | 2)}, varint(tt.size)...)
		reply = append(reply, make([]byte, tt.size)...)
		a := w.do(asDTM(unary(host+"/busi.Busi/TransIn", nil)))
		receive(t, got)
		if a.Verdict != tt.want || a.Result != nil || a.NeedsAttention != (tt.want == core.Unsure) {
			t.Errorf("%d bytes: got %+v", tt.size, a)
		}
		if tt.want == core.Unsure && !strings.Contains(a.Text, "4 MiB") {
			t.Errorf("the text is %q", a.Text)
		}
	}
}

func varint(n int) (out []byte) {
	for ; n > 127; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

func TestWhatDTMReadsInAStatusOfGRPC(t *testing.T) {
	t.Parallel()
	host := serveGRPC(t, func(_ context.Context, service string) (*grpc_health_v1.HealthCheckResponse, error) {
		kind, message, _ := strings.Cut(service, " ")
		for c := codes.OK; c <= codes.Unauthenticated; c++ {
			st := status.New(c, message)
			switch kind {
			case "ours" + c.String():
				st, _ = st.WithDetails(&errdetails.ErrorInfo{Domain: "handfast", Reason: "LOCK_CONFLICT"})
				return nil, st.Err()
			case c.String():
				return serving, st.Err()
			}
		}
		return serving, nil
	})
	w := newWorld(t, caller.Config{})
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		for _, message := range []string{"", "why", "FAILURE", "ONGOING", "ONGOING now"} {
			want, text := core.Unsure, c.String()
			reason := strings.TrimSpace(fmt.Sprintf("url:%s return failed: %s", host+check, message))
			switch {
			case c == codes.OK:
				want, text = core.Done, ""
			case c == codes.Aborted && message == "ONGOING":
				want, text = core.NotYet, "ONGOING"
			case c == codes.Aborted:
				want, text = core.Failed, reason
				if message != "FAILURE" {
					text += " FAILURE"
				}
			case c == codes.FailedPrecondition && message == "":
				want, text = core.NotYet, host+" answered FailedPrecondition"
			case c == codes.FailedPrecondition:
				want, text = core.NotYet, message
			}
			call := func() core.Call { return asDTM(unary(host+check, encoded(t, c.String()+" "+message))) }
			a := w.do(call())
			if a.Verdict != want || a.NeedsAttention || a.Result != nil ||
				(want == core.Unsure && !strings.Contains(a.Text, text)) || (want != core.Unsure && a.Text != text) {
				t.Errorf("%s %q: got %+v, want %q", c, message, a, text)
			}
			if a = w.do(asWorkflow(call())); a.Verdict != core.Unsure && (c != codes.OK || a.Verdict != core.NotYet) || a.NeedsAttention {
				t.Errorf("workflow, %s %q: got %+v", c, message, a)
			}
		}
		if a := w.do(asDTM(unary(host+check, encoded(t, "ours"+c.String()+" ONGOING")))); c != codes.OK && a.Verdict != core.Unsure {
			t.Errorf("an error of Handfast, %s: got %+v", c, a)
		}
	}
}

func TestWhatDTMSendsOverJSONRPC(t *testing.T) {
	t.Parallel()
	base, got := sink(t)
	w := newWorld(t, caller.Config{})
	const identity = `"branch_id":"01","gid":"g-1"`
	ids := map[string]bool{}
	for _, tt := range []struct{ payload, want string }{
		{"", `{` + identity + `,"op":"action","trans_type":"saga"}`},
		{`{ }`, `{` + identity + `,"op":"action","trans_type":"saga"}`},
		{`{"n": 12345678901234567890.10, "e":1E400, "o":{"x":[1.0]}}`,
			`{"branch_id":"01","e":1E400,"gid":"g-1","n":12345678901234567890.10,"o":{"x":[1.0]},"op":"action","trans_type":"saga"}`},
		{`{"gid":"theirs","s":"${own}"}`, `{` + identity + `,"op":"action","s":"${own}","trans_type":"saga"}`},
	} {
		c := asRPC(post(base+"/rpc?method=Busi.In%20x&y=${own}", tt.payload))
		c.Own = []byte("1")
		c.Action.Header = []core.Header{{Name: "X-A", Value: "b"}}
		if a := w.do(c); a.Verdict != core.Done || a.Result != nil {
			t.Fatalf("got %+v", a)
		}
		r := receive(t, got)
		var body struct {
			ID      string
			JSONRPC string
			Method  string
			Params  json.RawMessage
		}
		if err := json.Unmarshal([]byte(r.body), &body); err != nil {
			t.Fatalf("%s: %v", r.body, err)
		}
		if body.JSONRPC != "2.0" || body.Method != "Busi.In x" || string(body.Params) != tt.want || len(body.ID) < 16 || ids[body.ID] {
			t.Errorf("got %s\nwant %s", r.body, tt.want)
		}
		ids[body.ID] = true
		if r.Method != http.MethodPost || r.RequestURI != "/rpc?method=Busi.In%20x&y=${own}" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-A") != "b" {
			t.Errorf("got %s %s %v", r.Method, r.RequestURI, r.Header)
		}
	}
}

func TestWhatDTMReadsInAnAnswerOfJSONRPC(t *testing.T) {
	t.Parallel()
	base := says(t)
	w := newWorld(t, caller.Config{})
	for _, tt := range []struct {
		code int
		body string
		want core.Verdict
	}{
		{200, `{"jsonrpc":"2.0","result":{}}`, core.Done},
		{200, `{"error":null}`, core.Done},
		{200, `{"error":{"code":-32901,"message":"no room"}}`, core.Failed},
		{200, `{"error":{"code":-32902}}`, core.NotYet},
		{200, `{"error":{"code":-32603,"message":"oops"}}`, core.Unsure},
		{200, `{"error":{}}`, core.Unsure},
		{200, `{"error":{"code":"-32901"}}`, core.Unsure},
		{200, `{"error":"-32901"}`, core.Unsure},
		{200, `{"error":{"code":-32901,"message":"ONGOING"}}`, core.NotYet},
		{200, `{"error":{"code":-32902,"message":"FAILURE"}}`, core.Failed},
		{200, `<html>`, core.Unsure},
		{200, ``, core.Unsure},
		{200, `null`, core.Unsure},
		{200, `[]`, core.Unsure},
		{200, `{} {}`, core.Unsure},
		{409, `{}`, core.Failed},
		{425, `{}`, core.NotYet},
		{500, `{"error":{"code":-32901}}`, core.Unsure},
		{201, `{}`, core.Unsure},
	} {
		at := fmt.Sprintf("%s/%d?method=m&say=%s", base, tt.code, url.QueryEscape(tt.body))
		a := w.do(asRPC(post(at, "{}")))
		if a.Verdict != tt.want || a.Result != nil || a.NeedsAttention {
			t.Errorf("%d %s: got %+v", tt.code, tt.body, a)
		}
		if tt.want == core.Failed && (!strings.HasPrefix(a.Text, "url:"+at+" return failed: {") || !strings.Contains(a.Text, "FAILURE")) {
			t.Errorf("%d %s: the reason is %q", tt.code, tt.body, a.Text)
		}
		c := post(at, "{}")
		c.Action.Dialect = core.DialectDTMRPC
		if a = w.do(asWorkflow(c)); (a.Verdict == core.NotYet) != (tt.code == 200) || a.Verdict == core.Done || a.Verdict == core.Failed {
			t.Errorf("workflow, %d %s: got %+v", tt.code, tt.body, a)
		}
	}
}
