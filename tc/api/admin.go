package api

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// admin serves operators.
type admin struct {
	pb.UnimplementedAdminServer
	*API
}

// maxListBytes bounds one page: a client of gRPC refuses more than 4 MiB
// unless told otherwise.
const maxListBytes = 3 << 20

// List implements the service.
func (a *admin) List(ctx context.Context, r *pb.ListRequest) (*pb.ListResponse, error) {
	match, err := listFilter(r)
	if err != nil {
		return nil, err
	}
	size := int(r.GetPageSize())
	switch {
	case size == 0:
		size = defaultListPage
	case size < 0 || size > maxListPage:
		return nil, invalid("page_size", "%d is outside of 0 to %d", size, maxListPage)
	}
	var before xid.ID
	if r.GetPageToken() != "" {
		if before, err = parseXID("page_token", r.GetPageToken()); err != nil {
			return nil, err
		}
	}
	found, next, err := a.eng.List(ctx, before, size, match)
	if err != nil {
		return nil, engineError(err)
	}
	resp := &pb.ListResponse{NextPageToken: next.String()}
	bytes := 0
	for i := range found {
		tx := wireTransaction(&found[i])
		if bytes += proto.Size(tx) + 8; bytes > maxListBytes && i > 0 {
			resp.NextPageToken = found[i-1].XID.String()
			break
		}
		resp.Transactions = append(resp.Transactions, tx)
	}
	return resp, nil
}

// listFilter makes the condition that a request states.
func listFilter(r *pb.ListRequest) (func(*core.Transaction) bool, error) {
	phases := uint64(0)
	for _, p := range r.GetPhases() {
		if p < pb.Phase_PHASE_ACTIVE || p > pb.Phase_PHASE_FINISHED {
			return nil, invalid("phases", "%s is no phase to look for", p)
		}
		phases |= 1 << p
	}
	outcome := r.GetOutcome()
	if outcome < pb.Outcome_OUTCOME_UNSPECIFIED || outcome > pb.Outcome_OUTCOME_ROLLED_BACK {
		return nil, invalid("outcome", "%s is no outcome to look for", outcome)
	}
	var resource xid.ResourceID
	var err error
	if r.GetResourceId() != "" {
		if resource, err = parseResource("resource_id", r.GetResourceId()); err != nil {
			return nil, err
		}
	}
	if err := checkName("name_prefix", r.GetNamePrefix()); err != nil {
		return nil, err
	}
	after, before := r.GetBegunAfter(), r.GetBegunBefore()
	if after != nil && after.CheckValid() != nil {
		return nil, invalid("begun_after", "is not a valid time")
	}
	if before != nil && before.CheckValid() != nil {
		return nil, invalid("begun_before", "is not a valid time")
	}
	return func(t *core.Transaction) bool {
		switch {
		case phases != 0 && phases&(1<<wirePhase(t.Phase)) == 0,
			outcome != pb.Outcome_OUTCOME_UNSPECIFIED && outcome != wireOutcome(t.Outcome),
			resource != (xid.ResourceID{}) && !hasBranchIn(t, resource),
			!strings.HasPrefix(t.Name, r.GetNamePrefix()),
			r.GetAttention() && !t.Attention(),
			after != nil && !t.XID.Begin().After(after.AsTime()),
			before != nil && !t.XID.Begin().Before(before.AsTime()):
			return false
		}
		return true
	}, nil
}

func hasBranchIn(t *core.Transaction, r xid.ResourceID) bool {
	for i := range t.Branches {
		if t.Branches[i].Resource == r {
			return true
		}
	}
	return false
}

// Show implements the service.
func (a *admin) Show(ctx context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	got, err := a.call(ctx, func(ref core.Ref) (core.Input, error) {
		id, err := a.shown(r)
		return core.Get{Ref: ref, XID: id, Operator: true}, err
	})
	if err != nil {
		return nil, err
	}
	return &pb.GetResponse{Transaction: wireTransaction(&got.Tx)}, nil
}

// shown is the transaction that a request is about, by its XID or its key.
func (a *admin) shown(r *pb.GetRequest) (xid.ID, error) {
	if r.GetKey() == "" {
		return parseXID("xid", r.GetXid())
	}
	if r.GetXid() != "" {
		return xid.ID{}, invalid("key", "is set, and so is xid; want one of them")
	}
	id, found, err := a.eng.Lookup(r.GetKey())
	switch {
	case err != nil:
		return id, engineError(err)
	case !found:
		return id, refusal(codes.NotFound, pb.ErrorReason_ERROR_REASON_UNKNOWN_XID,
			fmt.Sprintf("no transaction that is kept has the key %.200q", r.GetKey())).Err()
	}
	return id, nil
}

// Abandon implements the service.
func (a *admin) Abandon(ctx context.Context, r *pb.AbandonRequest) (*pb.AbandonResponse, error) {
	got, err := a.call(ctx, func(ref core.Ref) (core.Input, error) {
		id, err := parseXID("xid", r.GetXid())
		if err != nil {
			return nil, err
		}
		return core.Abandon{Ref: ref, XID: id, Cause: cut(r.GetCause()), Operator: r.GetOperator()}, checkOperator(r.GetOperator())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("an operator gave calls up", "xid", r.GetXid(), "operator", r.GetOperator(),
		"outcome", wireOutcome(got.Tx.Outcome).String(), "calls", got.Count)
	return &pb.AbandonResponse{Outcome: wireOutcome(got.Tx.Outcome), Calls: int32(got.Count)}, nil
}

func checkOperator(s string) error {
	if strings.TrimSpace(s) == "" {
		return invalid("operator", "is empty")
	}
	return checkName("operator", s)
}

// Commit implements the service.
func (a *admin) Commit(ctx context.Context, r *pb.AdminCommitRequest) (*pb.CommitResponse, error) {
	got, err := a.call(ctx, func(ref core.Ref) (core.Input, error) {
		id, err := parseXID("xid", r.GetXid())
		if err != nil {
			return nil, err
		}
		return core.Commit{Ref: ref, XID: id, Operator: r.GetOperator()}, checkOperator(r.GetOperator())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("an operator asked to commit", "xid", r.GetXid(), "operator", r.GetOperator(),
		"outcome", wireOutcome(got.Tx.Outcome).String())
	return committed(&got.Reply), nil
}

// Rollback implements the service.
func (a *admin) Rollback(ctx context.Context, r *pb.AdminRollbackRequest) (*pb.RollbackResponse, error) {
	got, err := a.call(ctx, func(ref core.Ref) (core.Input, error) {
		id, err := parseXID("xid", r.GetXid())
		if err != nil {
			return nil, err
		}
		return core.Rollback{Ref: ref, XID: id, Cause: cut(r.GetCause()), Operator: r.GetOperator()}, checkOperator(r.GetOperator())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("an operator asked to roll back", "xid", r.GetXid(), "operator", r.GetOperator(),
		"outcome", wireOutcome(got.Tx.Outcome).String())
	return rolledBack(&got.Reply), nil
}

// RetryNow implements the service.
func (a *admin) RetryNow(ctx context.Context, r *pb.RetryNowRequest) (*pb.RetryNowResponse, error) {
	got, err := a.call(ctx, func(ref core.Ref) (core.Input, error) {
		id, err := parseXID("xid", r.GetXid())
		return core.RetryNow{Ref: ref, XID: id}, err
	})
	if err != nil {
		return nil, err
	}
	return &pb.RetryNowResponse{Resources: int32(got.Count)}, nil
}

// Watch implements the service.
func (a *admin) Watch(r *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchEvent]) error {
	var only xid.ID
	if r.GetXid() != "" {
		var err error
		if only, err = parseXID("xid", r.GetXid()); err != nil {
			return err
		}
	}
	w, err := a.watch.add(only)
	if err != nil {
		return err
	}
	defer a.watch.remove(w)
	// The header tells that every change from now on is seen.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case ev := <-w.events:
			if err := stream.Send(ev); err != nil {
				return err
			}
		case <-a.watch.done:
			return draining()
		case <-a.eng.Dead():
			return engineError(a.eng.Err())
		case <-stream.Context().Done():
			return engineError(context.Cause(stream.Context()))
		}
	}
}

// Status implements the service.
func (a *admin) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	meta := a.eng.Meta()
	held, limit := a.eng.Held()
	return &pb.StatusResponse{
		Version:          a.cfg.Version,
		StoreId:          meta.Store.String(),
		Incarnation:      meta.Incarnation,
		OpenTransactions: uint64(a.eng.Open()),
		Quarantined:      meta.QuarantineBelow != 0,
		QuarantineReason: meta.QuarantineReason,
		Clients:          a.hub.clients(),
		HeldBytes:        uint64(held),
		HeldBytesLimit:   uint64(limit),
	}, nil
}

// Adopt implements the service.
func (a *admin) Adopt(_ context.Context, r *pb.AdoptRequest) (*pb.AdoptResponse, error) {
	if err := checkOperator(r.GetOperator()); err != nil {
		return nil, err
	}
	if err := a.eng.Adopt(r.GetOperator()); err != nil {
		return nil, engineError(err)
	}
	return &pb.AdoptResponse{}, nil
}
