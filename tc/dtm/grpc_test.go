package dtm_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handfast/handfast/proto/dtmgimp"
)

// message builds one by the numbers of its fields alone.
type message []byte

func (m message) text(field protowire.Number, v string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), v)
}

func (m message) number(field protowire.Number, v uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func (m message) entry(field protowire.Number, k, v string) message {
	return m.text(field, string(message{}.text(1, k).text(2, v)))
}

// fields gives what a message holds, by number: texts as they are, and numbers in digits.
func fields(t *testing.T, b []byte) map[protowire.Number][]string {
	t.Helper()
	out := map[protowire.Number][]string{}
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatalf("no message: %q", b)
		}
		b = b[n:]
		switch kind { //nolint:exhaustive // there are no others
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				t.Fatalf("no message: %q", b)
			}
			out[field], b = append(out[field], string(v)), b[n:]
		default:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				t.Fatalf("no message: %q", b)
			}
			out[field], b = append(out[field], fmt.Sprint(v)), b[n:]
		}
	}
	return out
}

// raw calls a method by its full name with bytes.
func (w *world) raw(t *testing.T, name string, in message) (map[protowire.Number][]string, error) {
	t.Helper()
	var out []byte
	b := []byte(in)
	err := w.conn.Invoke(limited(t), "/dtmgimp.Dtm/"+name, &b, &out, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return nil, err
	}
	return fields(t, out), nil
}

// The names of the methods and the numbers of the fields are DTM's, whatever our own
// generated code says.
func TestTheWireOfGRPC(t *testing.T) {
	t.Parallel()
	b := newBranches(t)
	g := newRPCBranches(t)
	must := func(name string, in message) map[protowire.Number][]string {
		t.Helper()
		out, err := shared.raw(t, name, in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	if out := must("NewGid", nil); len(out[1]) != 1 || len(out[1][0]) < 20 {
		t.Errorf("NewGid: got %q", out)
	}
	gid := shared.gid(t)
	options := message{}.number(1, 1).number(2, 1001).number(3, 1002).entry(5, "name", "value").number(6, 1003).number(7, 1004)
	must("Submit", message{}.text(1, gid).text(2, "saga").text(3, string(options)).text(4, `{"c":1}`).text(5, "\x00\xff 1").text(5, "p2").
		text(6, g.at("Query")).text(7, fmt.Sprintf(`[{"action":%q,"compensate":%q},{"action":%q}]`, g.at("One"), g.at("Undo"), g.at("Two"))))
	f := shared.await(t, gid, "succeed 01-compensate:prepared 01-action:succeed 02-compensate:prepared 02-action:succeed")
	for name, want := range map[string]string{
		"wait_result": "true", "timeout_to_fail": "1001", "retry_interval": "1002", "branch_headers": "map[name:value]",
		"request_timeout": "1003", "retry_limit": "1004", "custom_data": `{"c":1}`, "query_prepared": g.at("Query"), "protocol": "grpc", "concurrent": "false",
	} {
		if got := fmt.Sprint(f.Transaction[name]); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	calls := g.of(gid)
	if len(calls) != 2 || calls[0].method != "/busi.Busi/One" || string(calls[0].body) != "\x00\xff 1" || calls[1].method != "/busi.Busi/Two" || string(calls[1].body) != "p2" {
		t.Errorf("called %+v", calls)
	}

	gid = shared.gid(t)
	must("Prepare", message{}.text(1, gid).text(2, "tcc").text(7, "null"))
	must("RegisterBranch", message{}.text(1, gid).text(2, "tcc").text(3, "01").text(4, "unused").
		entry(5, "confirm", b.at("/confirm")).entry(5, "cancel", b.at("/cancel")).text(6, "payload"))
	must("Abort", message{}.text(1, gid).text(2, "tcc").text(9, "changed my mind").text(3, string(message{}.number(1, 1))))
	f = shared.await(t, gid, "failed 01-cancel:succeed 01-confirm:prepared")
	if f.Transaction["rollback_reason"] != "changed my mind" {
		t.Errorf("the reason is %v", f.Transaction["rollback_reason"])
	}
	if c := b.of(gid); len(c) != 1 || c[0].path != "/cancel" || c[0].body != "payload" {
		t.Errorf("called %+v", c)
	}

	gid = shared.gid(t)
	flow := message{}.text(1, gid).text(2, "workflow").text(6, g.host+"/workflow.Workflow/Execute").text(4, `{"name":"flow","data":"aW4="}`)
	must("PrepareWorkflow", flow)
	must("RegisterBranch", message{}.text(1, gid).text(2, "workflow").text(3, "01").entry(5, "status", "succeed").entry(5, "op", "action").text(6, "\x00R"))
	must("Submit", message{}.text(1, gid).text(2, "workflow").entry(8, "status", "failed").entry(8, "rollback_reason", "no").entry(8, "result", "UjI="))
	out := must("PrepareWorkflow", flow)
	tx := fields(t, []byte(out[1][0]))
	row := fields(t, []byte(out[2][0]))
	for field, want := range map[protowire.Number]string{1: gid, 2: "failed", 3: "no", 4: "UjI="} {
		if got := strings.Join(tx[field], ","); got != want {
			t.Errorf("transaction, field %d: got %q, want %q", field, got, want)
		}
	}
	for field, want := range map[protowire.Number]string{1: "succeed", 2: "\x00R", 3: "01", 4: "action"} {
		if got := strings.Join(row[field], ","); got != want {
			t.Errorf("progress, field %d: got %q, want %q", field, got, want)
		}
	}
	if len(out[2]) != 1 {
		t.Errorf("%d progresses", len(out[2]))
	}

	topic := "topic of " + gid
	must("Subscribe", message{}.text(1, topic).text(2, "http://h/1").text(3, "remark"))
	if a := shared.get(t, "queryKV", "cat", "topics", "key", topic); !strings.Contains(a.body, `{\"url\":\"http://h/1\",\"remark\":\"remark\"}`) {
		t.Errorf("the topic is %s", a.body)
	}
	must("Unsubscribe", message{}.text(1, topic).text(2, "http://h/1"))
	must("DeleteTopic", message{}.text(1, topic))
	if _, err := shared.raw(t, "DeleteTopic", message{}.text(1, topic)); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "storage: NotFound" {
		t.Errorf("deleted twice: got %v", err)
	}
	for _, name := range []string{"Subscribe", "Unsubscribe", "DeleteTopic"} {
		if _, err := shared.raw(t, name, message{}.text(2, "http://h/1")); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "empty topic" {
			t.Errorf("%s of no topic: got %v", name, err)
		}
	}
	// Fields of other versions are passed over.
	must("Prepare", message{}.text(1, shared.gid(t)).text(2, "tcc").text(99, "x").text(3, string(message{}.text(4, "old"))))
}

func TestStepsOverGRPC(t *testing.T) {
	t.Parallel()
	for _, steps := range []string{"", "null", "[]"} {
		for _, mode := range []string{"tcc", "xa"} {
			r := request(shared.gid(t), mode)
			r.Steps = steps
			if _, err := shared.rpc.Prepare(limited(t), r); err != nil {
				t.Errorf("%s with %q: %v", mode, steps, err)
			}
		}
	}
	for _, steps := range []string{"{}", "[", "[1]", `[{"action":1}]`, "x"} {
		r := request(shared.gid(t), "saga")
		r.Steps = steps
		if _, err := shared.rpc.Submit(limited(t), r); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "Steps") {
			t.Errorf("%q: got %v", steps, err)
		}
	}
	// There may be no options at all.
	gid := shared.gid(t)
	if _, err := shared.rpc.Prepare(limited(t), &dtmgimp.DtmRequest{Gid: gid, TransType: "tcc"}); err != nil {
		t.Error(err)
	}
}

// Tools find out what there is.
func TestReflection(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	s, err := grpc_reflection_v1.NewServerReflectionClient(shared.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil || !strings.Contains(r.String(), "dtmgimp.Dtm") {
		t.Errorf("got %v, %v", r, err)
	}
	if err := shared.conn.Invoke(limited(t), "/dtmgimp.Dtm/Nothing", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}
