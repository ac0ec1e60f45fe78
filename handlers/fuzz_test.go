package handlers

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// Whatever call comes, a function gets exactly that one, or is not called, and then nothing
// is said to have happened, or to have failed for good.
func FuzzCall(f *testing.F) {
	id, branch := xid.New(xid.Parts{Incarnation: 1, Counter: 1}).String(), xid.BranchID{1}.String()
	for _, c := range []*pb.Call{
		{}, {Handler: "x"}, {Handler: "y", Xid: id, BranchId: branch, Op: pb.Op_OP_FORWARD},
		{Handler: "x", Xid: id, BranchId: branch, Op: pb.Op_OP_COMMIT, Attempt: 1<<32 - 1, Mode: pb.Mode_MODE_TCC, Payload: []byte(`{"a":1}`), Own: []byte("1"),
			Headers: []*pb.Header{{Name: "a", Value: "b"}, {Name: "a", Value: "c"}, {}}, Before: []*pb.StepResult{{Name: "s", Value: []byte("2")}, {}}},
		{Handler: "x", Xid: id, BranchId: branch, Op: 9}, {Handler: "x", Xid: id + "0", BranchId: branch, Op: pb.Op_OP_ROLLBACK}, {Handler: "x", Xid: id, BranchId: "0", Op: pb.Op_OP_ROLLBACK},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := new(pb.Call)
		if proto.Unmarshal(b, p) != nil {
			return
		}
		var got []Call
		g := New("g").Handle("x", func(_ context.Context, c Call) ([]byte, error) {
			got = append(got, c)
			var v any
			if err := c.Decode(&v); err != nil && err.Error() == "" {
				t.Error("an error without a text")
			}
			return []byte("r"), nil
		})
		r := g.call(context.Background(), p)
		if len(got) == 0 {
			if r.GetVerdict() != pb.Verdict_VERDICT_UNSURE || r.GetError() == "" || len(r.GetError()) > 4<<10 || r.GetNeedsAttention() != (p.GetHandler() == "x") {
				t.Fatalf("%v: %v", p, r)
			}
			return
		}
		c := got[0]
		x, errX := xid.Parse(p.GetXid())
		branch, errB := xid.ParseBranchID(p.GetBranchId())
		switch {
		case r.GetVerdict() != pb.Verdict_VERDICT_DONE || string(r.GetResult()) != "r" || len(got) > 1 || p.GetHandler() != "x":
			t.Fatalf("%v: called %d times, %v", p, len(got), r)
		case errX != nil || errB != nil || c.XID != x || c.Branch != branch || pb.Op(c.Action) != p.GetOp() || c.Attempt != p.GetAttempt() || c.Mode != p.GetMode() || c.Step != p.GetName():
			t.Fatalf("%v is called as %+v", p, c)
		case p.GetOp() < pb.Op_OP_FORWARD || p.GetOp() > pb.Op_OP_ROLLBACK:
			t.Fatalf("%v has no action", p)
		case !bytes.Equal(c.Payload, p.GetPayload()) || !bytes.Equal(c.Own, p.GetOwn()) || len(c.Before) != len(p.GetBefore()) || len(c.Headers) > len(p.GetHeaders()):
			t.Fatalf("%v is called as %+v", p, c)
		}
	})
}
