package dtm

import (
	"context"
	"maps"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handfast/handfast/proto/dtmgimp"
)

// rpc serves DTM's gRPC service.
type rpc struct {
	dtmgimp.UnimplementedDtmServer
	svc *service
}

// grpcRefusal is what DTM's clients understand.
func grpcRefusal(err error) error {
	if err == nil {
		return nil
	}
	r := refusalOf(err)
	code := codes.Unknown
	switch r.kind {
	case failure:
		code = codes.Aborted
	case ongoing:
		code = codes.FailedPrecondition
	case invalid:
		code = codes.InvalidArgument
	case busy:
		code = codes.ResourceExhausted
	case other:
	}
	return grpcstatus.Error(code, r.text)
}

func (g *rpc) trans(ctx context.Context, in *dtmgimp.DtmRequest, f func(context.Context, *request) error) (*emptypb.Empty, error) {
	r, err := parseProto(in)
	if err == nil {
		err = f(ctx, r)
	}
	if err != nil {
		return nil, grpcRefusal(err)
	}
	return &emptypb.Empty{}, nil
}

// NewGid implements the service.
func (g *rpc) NewGid(context.Context, *emptypb.Empty) (*dtmgimp.DtmGidReply, error) {
	return &dtmgimp.DtmGidReply{Gid: newGid()}, nil
}

// Submit implements the service.
func (g *rpc) Submit(ctx context.Context, in *dtmgimp.DtmRequest) (*emptypb.Empty, error) {
	return g.trans(ctx, in, g.svc.submit)
}

// Prepare implements the service.
func (g *rpc) Prepare(ctx context.Context, in *dtmgimp.DtmRequest) (*emptypb.Empty, error) {
	return g.trans(ctx, in, g.svc.prepare)
}

// Abort implements the service.
func (g *rpc) Abort(ctx context.Context, in *dtmgimp.DtmRequest) (*emptypb.Empty, error) {
	return g.trans(ctx, in, g.svc.abort)
}

// RegisterBranch implements the service.
func (g *rpc) RegisterBranch(ctx context.Context, in *dtmgimp.DtmBranchRequest) (*emptypb.Empty, error) {
	d := maps.Clone(in.GetData())
	if d == nil {
		d = make(map[string]string)
	}
	d["branch_id"] = in.GetBranchID()
	err := g.svc.registerBranch(ctx, in.GetGid(), transType(in.GetTransType()), d, in.GetBusiPayload())
	return &emptypb.Empty{}, grpcRefusal(err)
}

// PrepareWorkflow implements the service.
func (g *rpc) PrepareWorkflow(ctx context.Context, in *dtmgimp.DtmRequest) (*dtmgimp.DtmProgressesReply, error) {
	r, err := parseProto(in)
	if err != nil {
		return nil, grpcRefusal(err)
	}
	found, err := g.svc.prepareWorkflow(ctx, r)
	if err != nil {
		return nil, grpcRefusal(err)
	}
	v := found.view()
	out := &dtmgimp.DtmProgressesReply{Transaction: &dtmgimp.DtmTransaction{
		Gid: v.Gid, Status: string(v.Status), RollbackReason: v.RollbackReason, Result: v.Result,
	}}
	for _, row := range found.rows() {
		out.Progresses = append(out.Progresses, &dtmgimp.DtmProgress{
			Status: string(row.Status), BinData: row.BinData, BranchID: row.BranchID, Op: row.Op,
		})
	}
	return out, nil
}

// Subscribe implements the service.
func (g *rpc) Subscribe(_ context.Context, in *dtmgimp.DtmTopicRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, grpcRefusal(g.svc.topics.subscribe(in.GetTopic(), in.GetURL(), in.GetRemark()))
}

// Unsubscribe implements the service.
func (g *rpc) Unsubscribe(_ context.Context, in *dtmgimp.DtmTopicRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, grpcRefusal(g.svc.topics.unsubscribe(in.GetTopic(), in.GetURL()))
}

// DeleteTopic implements the service.
func (g *rpc) DeleteTopic(_ context.Context, in *dtmgimp.DtmTopicRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, grpcRefusal(g.svc.topics.remove(in.GetTopic()))
}

// count counts the calls of the service.
func (s *Server) count(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	s.counts.of("grpc", info.FullMethod).add(err == nil)
	return resp, err
}
