package tc_test

import (
	"strings"
	"testing"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// documented are the reasons of refusals with the code that the contract gives each, but
// those which say that the coordinator, or a store, is in no order.
var documented = map[string]codes.Code{
	"INVALID_FIELD": codes.InvalidArgument, "UNKNOWN_XID": codes.NotFound, "EXPIRED_XID": codes.NotFound, "FOREIGN_STORE": codes.FailedPrecondition,
	"ROLLED_BACK": codes.Aborted, "COMMITTED": codes.FailedPrecondition, "BRANCH_CONFLICT": codes.AlreadyExists, "UNKNOWN_BRANCH": codes.NotFound,
	"LIMIT": codes.ResourceExhausted, "WRONG_STATE": codes.FailedPrecondition, "NOT_ATTACHED": codes.Unavailable,
}

// judgeRefusal checks that an error is a refusal as the contract has it; a field that it
// names is one of the messages.
func judgeRefusal(t *testing.T, err error, of ...proto.Message) {
	t.Helper()
	name, field, meta := reason(err)
	code, ok := documented[name]
	switch {
	case name == "INVALID_FIELD" && field == "kind" && status.Code(err) == codes.Unimplemented: // a frame of a later version
	case !ok || status.Code(err) != code:
		t.Fatalf("%v has the reason %q", err, name)
	case len(err.Error()) > 4<<10:
		t.Fatalf("an error of %d bytes: %.200v", len(err.Error()), err)
	case name == "LIMIT" && meta["limit"] == "":
		t.Fatalf("%v does not say which limit: %v", err, meta)
	case name == "INVALID_FIELD" && field != meta["field"]:
		t.Fatalf("%v names %q and %q", err, field, meta["field"])
	case name != "INVALID_FIELD":
		return
	}
	for _, m := range of {
		if hasField(m.ProtoReflect().Descriptor(), field) {
			return
		}
	}
	t.Fatalf("%v: there is no field %q in %T", err, field, of[len(of)-1])
}

// hasField follows a path such as branches[0].plan.after[1].
func hasField(d protoreflect.MessageDescriptor, path string) bool {
	for d != nil {
		name, rest, more := strings.Cut(path, ".")
		name, _, _ = strings.Cut(name, "[")
		f := d.Fields().ByName(protoreflect.Name(name))
		switch {
		case f == nil:
			return !more && d.Oneofs().ByName(protoreflect.Name(name)) != nil
		case !more:
			return true
		}
		d, path = f.Message(), rest
	}
	return false
}

// content is the message in a frame; nil where there is none.
func content(f *pb.ClientFrame) proto.Message {
	r := f.ProtoReflect()
	set := r.WhichOneof(r.Descriptor().Oneofs().ByName("kind"))
	if set == nil {
		return nil
	}
	return r.Get(set).Message().Interface()
}

func wireError(e *pb.Error) error {
	return status.FromProto(&spb.Status{Code: e.GetCode(), Message: e.GetMessage(), Details: e.GetDetails()}).Err()
}

func TestFieldsAreFoundByTheirPaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"xid": true, "branches[0].plan.after[1]": true, "branches[12].plan.forward.headers[3].name": true, "timeout": true,
		"": false, "x": false, "xid.x": false, "branches[0].plans": false, "branches.": false,
	} {
		if got := hasField(new(pb.SubmitRequest).ProtoReflect().Descriptor(), path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	if !hasField(new(pb.ClientFrame).ProtoReflect().Descriptor(), "kind") {
		t.Error("a oneof has a name, too")
	}
}
