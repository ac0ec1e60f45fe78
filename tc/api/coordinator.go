package api

import (
	"context"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
)

// coordinator has the unary calls; session.go has the stream.
type coordinator struct {
	pb.UnimplementedCoordinatorServer
	*API
}

// Begin implements the service.
func (c *coordinator) Begin(ctx context.Context, r *pb.BeginRequest) (*pb.BeginResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return c.begin(ref, r) })
	if err != nil {
		return nil, err
	}
	return &pb.BeginResponse{Xid: got.Tx.XID.String()}, nil
}

// RegisterBranch implements the service.
func (c *coordinator) RegisterBranch(ctx context.Context, r *pb.RegisterBranchRequest) (*pb.RegisterBranchResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return register(ref, r) })
	if err != nil {
		return nil, err
	}
	return c.registered(got.Durable), nil
}

// Submit implements the service.
func (c *coordinator) Submit(ctx context.Context, r *pb.SubmitRequest) (*pb.SubmitResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return c.submit(ref, r) })
	if err != nil {
		return nil, err
	}
	return &pb.SubmitResponse{Outcome: wireOutcome(got.Tx.Outcome)}, nil
}

// Vote implements the service.
func (c *coordinator) Vote(ctx context.Context, r *pb.VoteRequest) (*pb.VoteResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return vote(ref, r) })
	if err != nil {
		return nil, err
	}
	return &pb.VoteResponse{Outcome: wireOutcome(got.Tx.Outcome)}, nil
}

// Commit implements the service.
func (c *coordinator) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return commit(ref, r) })
	if err != nil {
		return nil, err
	}
	return committed(&got.Reply), nil
}

// Rollback implements the service.
func (c *coordinator) Rollback(ctx context.Context, r *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return rollback(ref, r) })
	if err != nil {
		return nil, err
	}
	return rolledBack(&got.Reply), nil
}

// Get implements the service.
func (c *coordinator) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return get(ref, r) })
	if err != nil {
		return nil, err
	}
	return c.got(&got.Reply, r.GetWaits()), nil
}

// WaitFor implements the service.
func (c *coordinator) WaitFor(ctx context.Context, r *pb.WaitForRequest) (*pb.WaitForResponse, error) {
	got, err := c.call(ctx, func(ref core.Ref) (core.Input, error) { return c.waitFor(ref, r) })
	if err != nil {
		return nil, err
	}
	return waited(&got.Reply), nil
}
