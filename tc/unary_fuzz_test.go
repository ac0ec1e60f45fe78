package tc_test

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc"
	calling "github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/xid"
)

// requests are those of all unary calls, by method.
func requests() (methods []string, of []proto.Message) {
	add := func(service string, names ...string) {
		for _, n := range names {
			methods = append(methods, "/handfast.v1."+service+"/"+n)
		}
	}
	add("Coordinator", "Begin", "RegisterBranch", "Submit", "Vote", "Commit", "Rollback", "Get", "WaitFor")
	add("Admin", "List", "Show", "Commit", "Rollback", "Abandon", "Diff", "Resolve", "RetryNow", "Status", "Adopt")
	of = []proto.Message{
		&pb.BeginRequest{}, &pb.RegisterBranchRequest{}, &pb.SubmitRequest{}, &pb.VoteRequest{}, &pb.CommitRequest{}, &pb.RollbackRequest{}, &pb.GetRequest{}, &pb.WaitForRequest{},
		&pb.ListRequest{}, &pb.GetRequest{}, &pb.AdminCommitRequest{}, &pb.AdminRollbackRequest{}, &pb.AbandonRequest{}, &pb.DiffRequest{}, &pb.ResolveRequest{}, &pb.RetryNowRequest{}, &pb.StatusRequest{}, &pb.AdoptRequest{},
	}
	return methods, of
}

// mayWait tells whether a request asks to be answered later, so that time may end it.
func mayWait(in proto.Message) bool {
	switch in := in.(type) {
	case *pb.WaitForRequest, *pb.DiffRequest, *pb.ResolveRequest:
		return true
	case *pb.GetRequest:
		return in.GetWaits()
	case *pb.CommitRequest, *pb.SubmitRequest:
		return true
	case *pb.RollbackRequest:
		return in.GetWaitSettled()
	}
	return false
}

// Whatever bytes arrive as the request of a unary call, of services or of operators, it is
// answered, a refusal says in a machine's words why, and the coordinator goes on.
func FuzzUnary(f *testing.F) {
	r := start(f, f.TempDir(), func(c *tc.Config) {
		c.Calls = calling.Config{Allow: func(string, netip.Addr) bool { return false }}
	})
	cc := r.conn(f)
	methods, of := requests()
	seed := func(n int, m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(n), b)
	}
	// A process that fuzzes has a store of its own, so its XIDs are put in place of this.
	id, branch := strings.Repeat("x", xid.TextLen), strings.Repeat("0a", 16)
	for n, m := range []proto.Message{
		&pb.BeginRequest{Timeout: durationpb.New(time.Second), Name: "n"},
		&pb.RegisterBranchRequest{Xid: id, BranchId: branch, ResourceId: goodResource, Mode: pb.Mode_MODE_AT},
		&pb.SubmitRequest{Timeout: durationpb.New(time.Second), Branches: []*pb.RegisterBranchRequest{{
			BranchId: branch, Mode: pb.Mode_MODE_SAGA, Plan: &pb.Plan{Forward: &pb.Action{Url: "http://h.example/"}},
		}}},
		&pb.VoteRequest{Xid: id, BranchId: branch, Vote: pb.Vote_VOTE_YES},
		&pb.CommitRequest{Xid: id}, &pb.RollbackRequest{Xid: id}, &pb.GetRequest{Xid: id},
		&pb.WaitForRequest{Xid: id, ResourceId: goodResource, Timeout: durationpb.New(time.Millisecond)},
		&pb.ListRequest{PageSize: 5, Outcome: pb.Outcome_OUTCOME_COMMITTED, NamePrefix: "n"}, &pb.GetRequest{Key: "k"},
		&pb.AdminCommitRequest{Xid: id, Operator: "o"}, &pb.AdminRollbackRequest{Xid: id, Operator: "o"}, &pb.AbandonRequest{Xid: id, Operator: "o"},
		&pb.DiffRequest{Xid: id}, &pb.ResolveRequest{Xid: id}, &pb.RetryNowRequest{Xid: id}, &pb.StatusRequest{}, &pb.AdoptRequest{Operator: "o"},
	} {
		seed(n, m)
		seed(n, &emptypb.Empty{})
		f.Add(uint8(n), []byte("\x0a\x01x\x12\x01y\x1a\x00\x20\xff\xff\xff\xff\x0f\x2a\x02\x08\x01"))
	}
	f.Fuzz(func(t *testing.T, method uint8, b []byte) {
		fresh, err := pb.NewCoordinatorClient(cc).Begin(limited(t), &pb.BeginRequest{Timeout: durationpb.New(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte(id), []byte(fresh.GetXid()))
		n := int(method) % len(methods)
		in := proto.Clone(of[n])
		if proto.Unmarshal(b, in) != nil {
			return // refused before anybody looks
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if mayWait(in) {
			ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
		}
		raw := new(emptypb.Empty)
		raw.ProtoReflect().SetUnknown(b) // goes over the wire as it is
		err = cc.Invoke(ctx, methods[n], raw, new(emptypb.Empty))
		name, field, _ := reason(err)
		switch code := status.Code(err); {
		case err == nil:
		case code == codes.DeadlineExceeded && mayWait(in):
		case len(err.Error()) > 4<<10:
			t.Fatalf("%s: an error of %d bytes", methods[n], len(err.Error()))
		case code == codes.Internal || code == codes.Unknown || name == "":
			t.Fatalf("%s %v: %v, reason %q", methods[n], in, err, name)
		case code == codes.InvalidArgument && field == "":
			t.Fatalf("%s %v: %v names no field", methods[n], in, err)
		}
		if _, err := pb.NewAdminClient(cc).Status(limited(t), &pb.StatusRequest{}); err != nil {
			t.Fatalf("it does not go on: %v", err)
		}
	})
}
