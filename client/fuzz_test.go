package client

import (
	"maps"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// Whatever status comes, it is taken for a refusal of a coordinator only where it says so;
// and one that a service passes on is the same one after that.
func FuzzStatus(f *testing.F) {
	id := xid.New(xid.Parts{Incarnation: 1, Counter: 1})
	for _, e := range []*Error{
		{Code: codes.Aborted, Message: "held", Reason: pb.ErrorReason_ERROR_REASON_LOCK_CONFLICT, XID: id, Metadata: map[string]string{"row": "1"}},
		{Code: codes.InvalidArgument, Message: "x", Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Field: "xid"},
		{Code: codes.Unavailable, Message: "ü"},
	} {
		b, err := proto.Marshal(e.GRPCStatus().Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	other := status.New(codes.Aborted, "sold out")
	other, _ = other.WithDetails(&errdetails.ErrorInfo{Domain: "shop.example", Reason: "LOCK_CONFLICT"}, &errdetails.BadRequest{})
	b, err := proto.Marshal(other.Proto())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p spb.Status
		if proto.Unmarshal(b, &p) != nil || p.GetCode() == 0 {
			return
		}
		st := status.FromProto(&p)
		e, refused := AsError(st.Err())
		said := false
		for _, d := range st.Details() {
			info, ok := d.(*errdetails.ErrorInfo)
			said = said || ok && info.GetDomain() == ErrorDomain
		}
		switch {
		case e.Code != st.Code() || e.Message != st.Message() || e.Error() == "":
			t.Fatalf("%v of %v", e, st)
		case refused && !said:
			t.Fatalf("%v is an error of somebody else: %v", e, st)
		case !refused:
			return
		}
		again, ok := AsError(e.GRPCStatus().Err())
		if !ok || again.Reason != e.Reason || again.Code != e.Code || again.Message != e.Message || again.XID != e.XID || again.Field != e.Field {
			t.Fatalf("passed on, %+v is %+v", e, again)
		}
		// A text that names no XID is not made one.
		if len(e.Metadata)+len(again.Metadata) > 0 && !maps.Equal(again.Metadata, e.Metadata) && !strings.Contains(string(b), "xid") {
			t.Fatalf("passed on, %v is %v", e.Metadata, again.Metadata)
		}
	})
}
