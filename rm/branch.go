package rm

import (
	"context"
	"errors"
	"time"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// voteTimeout bounds the delivery of one vote. Later the coordinator asks.
const voteTimeout = 30 * time.Second

// branch is one local transaction as the coordinator knows it. One goroutine
// registers it and then delivers its vote; the transaction itself waits only
// for the registration, and only before it commits.
type branch struct {
	p    *Pool
	id   xid.BranchID
	x    xid.ID
	mode Mode

	registered chan struct{} // closed once witness and err are set
	witness    undolog.Witness
	err        error

	verdict chan pb.Vote // holds one; UNSPECIFIED: say nothing
}

// startBranch draws a branch id and begins to register it.
func (p *Pool) startBranch(x xid.ID, mode Mode) (*branch, error) {
	b := &branch{
		p: p, x: x, id: xid.NewBranchID(), mode: mode,
		registered: make(chan struct{}), verdict: make(chan pb.Vote, 1),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	p.branches.Go(b.run)
	return b, nil
}

func (b *branch) run() {
	b.register()
	close(b.registered)
	var v pb.Vote
	select {
	case v = <-b.verdict:
	case <-b.p.ctx.Done():
		return
	}
	if v == pb.Vote_VOTE_UNSPECIFIED {
		return
	}
	if _, refused := errors.AsType[*client.Error](b.err); refused {
		return // the coordinator knows no such branch
	}
	ctx, cancel := context.WithTimeout(b.p.ctx, voteTimeout)
	defer cancel()
	_, err := b.p.client.Vote(ctx, &pb.VoteRequest{Xid: b.x.String(), BranchId: b.id.String(), Vote: v})
	if err != nil {
		b.p.log.Debug("a vote was not delivered; the coordinator asks for it", "xid", b.x, "branch", b.id, "vote", v, "error", err)
	}
}

func (b *branch) register() {
	ctx, cancel := context.WithTimeout(b.p.ctx, b.p.cfg.registerTimeout)
	defer cancel()
	a, err := b.p.client.RegisterBranch(ctx, &pb.RegisterBranchRequest{
		Xid: b.x.String(), BranchId: b.id.String(), ResourceId: b.p.resource, Mode: b.mode.wire(),
	})
	if err != nil {
		b.err = err
		return
	}
	b.witness, b.err = parseWitness(a.GetWitness())
}

// wait returns when the registration is durable.
func (b *branch) wait(ctx context.Context) error {
	select {
	case <-b.registered:
		return b.err
	default:
	}
	select {
	case <-b.registered:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// vote says how phase one ended. Only the first call counts.
func (b *branch) vote(v pb.Vote) {
	select {
	case b.verdict <- v:
	default:
	}
}

func parseWitness(w *pb.Witness) (undolog.Witness, error) {
	store, err := xid.ParseStoreID(w.GetStoreId())
	if err != nil {
		return undolog.Witness{}, err
	}
	return undolog.Witness{Store: store, Incarnation: w.GetIncarnation(), Position: w.GetPosition()}, nil
}
