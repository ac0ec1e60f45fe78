package histories

import (
	"context"
	"fmt"
	"sync"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

const resource = "aaaaaaaa-0000-4000-8000-000000000001"

// participant stands for a database with its services: it knows how each branch ended,
// answers for it, and notes what it is told to settle.
type participant struct {
	mu    sync.Mutex
	facts map[string]pb.Vote // of branches; OPEN: its local transaction goes on
	all   map[string]*history
	wrong []string
}

var _ client.Handler = (*participant)(nil)

// follow notes a transaction until forget.
func (p *participant) follow(h *history) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[h.id] = h
	for _, b := range h.branches {
		if b != "" {
			p.facts[b] = pb.Vote_VOTE_OPEN
		}
	}
}

func (p *participant) forget(h *history) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, h.id)
	for _, b := range h.branches {
		delete(p.facts, b)
	}
}

// decide makes the end of a branch a fact.
func (p *participant) decide(branch string, v pb.Vote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.facts[branch] = v
}

// Settle implements client.Handler.
func (p *participant) Settle(_ context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	r := &pb.SettleResult{ResourceId: cmd.GetResourceId()}
	for _, i := range cmd.GetItems() {
		p.mu.Lock()
		h := p.all[i.GetXid()]
		p.mu.Unlock()
		if h != nil {
			now := clock()
			h.note(settler, now, now, input{do: toldOutcome}, output{outcome: i.GetOutcome(), reason: untold, cause: untold})
		}
		r.Items = append(r.Items, &pb.SettleItemResult{Xid: i.GetXid(), Outcome: i.GetOutcome(), Done: true})
	}
	answer(r)
}

// AskVotes implements client.Handler. What is rolled back can never commit; what is
// not known gets no answer here, as its transaction is over.
func (p *participant) AskVotes(_ context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	r := &pb.AskVotesResult{ResourceId: cmd.GetResourceId()}
	p.mu.Lock()
	for _, i := range cmd.GetItems() {
		v, ok := p.facts[i.GetBranchId()]
		switch {
		case !ok:
			v = pb.Vote_VOTE_OPEN
		case v == pb.Vote_VOTE_WITHDRAWN:
			v = pb.Vote_VOTE_NO
		}
		r.Items = append(r.Items, &pb.AskItemResult{Xid: i.GetXid(), BranchId: i.GetBranchId(), Vote: v})
	}
	p.mu.Unlock()
	answer(r)
}

// complain keeps what must not have happened.
func (p *participant) complain(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

func (p *participant) complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wrong
}
