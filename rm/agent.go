package rm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

var errBusy = errors.New("too much waits to be settled already")

// agent answers the coordinator's commands for one database. Commands wait in a
// bounded queue; settlers take what has queued and work on connections of their own.
type agent struct {
	p     *Pool
	items chan *item
	jobs  chan *job
	wg    sync.WaitGroup

	turn      chan struct{} // holds one while a settler collects items
	collected time.Time     // when one last did; belongs to the holder of turn

	mu     sync.Mutex
	queued map[xid.ID]bool // in items, or being settled
}

// item is one XID that was decided.
type item struct {
	undolog.Settlement
	done func(error)
}

// job is anything else that needs a settling connection.
type job struct {
	ctx  context.Context
	run  func(ctx context.Context, s *settler) error
	done chan error // holds one
}

var _ client.Handler = (*agent)(nil)

func newAgent(p *Pool) *agent {
	return &agent{
		p: p, items: make(chan *item, p.cfg.settleQueue), jobs: make(chan *job, 256),
		queued: make(map[xid.ID]bool), turn: make(chan struct{}, 1),
	}
}

func (a *agent) start() {
	for range a.p.cfg.settleConns {
		s := newSettler(a)
		a.wg.Go(s.run)
	}
	a.wg.Go((&janitor{agent: a, told: make(map[string]string)}).run)
}

func (a *agent) wait() { a.wg.Wait() }

// Settle implements client.Handler. It only puts the items into the queue.
func (a *agent) Settle(_ context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	for _, i := range cmd.GetItems() {
		reply := func(err error) { answer(settleResult(cmd, i, err)) }
		if cmd.GetResourceId() != a.p.resource {
			reply(fmt.Errorf("resource %s is not this one, %s", cmd.GetResourceId(), a.p.resource))
			continue
		}
		s, err := settlement(i)
		if err != nil {
			reply(err)
			continue
		}
		if _, err := a.enqueue(&item{Settlement: s, done: reply}); err != nil {
			reply(err)
		}
	}
}

// enqueue queues an item. One whose XID is in the queue already is dropped: it
// came twice, and is answered once.
func (a *agent) enqueue(i *item) (queued bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queued[i.XID] {
		return false, nil
	}
	select {
	case a.items <- i:
		a.queued[i.XID] = true
		return true, nil
	default:
		return false, errBusy
	}
}

func (a *agent) unqueue(batch []*item) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range batch {
		delete(a.queued, i.XID)
	}
}

// settlement reads an item of a command. Only an explicit decision is one.
func settlement(i *pb.SettleItem) (undolog.Settlement, error) {
	var s undolog.Settlement
	var err error
	if s.XID, err = xid.Parse(i.GetXid()); err != nil {
		return s, err
	}
	switch i.GetOutcome() {
	case pb.Outcome_OUTCOME_COMMITTED:
		s.Commit = true
	case pb.Outcome_OUTCOME_ROLLED_BACK:
	case pb.Outcome_OUTCOME_UNSPECIFIED, pb.Outcome_OUTCOME_UNDECIDED:
		return s, errors.New("no decision, so nothing is settled")
	default:
		return s, fmt.Errorf("unknown outcome %d, so nothing is settled", i.GetOutcome())
	}
	for _, b := range i.GetBranches() {
		id, err := xid.ParseBranchID(b.GetBranchId())
		if err != nil {
			return s, err
		}
		mode, err := modeOf(b.GetMode())
		if err != nil {
			return s, err
		}
		s.Branches = append(s.Branches, undolog.BranchVote{ID: id, Yes: b.GetVote() == pb.Vote_VOTE_YES, XA: mode == XA})
	}
	return s, nil
}

func settleResult(cmd *pb.Settle, i *pb.SettleItem, err error) *pb.SettleResult {
	r := &pb.SettleItemResult{Xid: i.GetXid(), Outcome: i.GetOutcome(), Done: err == nil}
	if err != nil {
		r.Error, r.NeedsAttention = err.Error(), needsAttention(err)
	}
	return &pb.SettleResult{ResourceId: cmd.GetResourceId(), Items: []*pb.SettleItemResult{r}}
}

// needsAttention tells whether trying again by itself can't help.
func needsAttention(err error) bool {
	_, misfit := errors.AsType[*undolog.MisfitError](err)
	_, alarm := errors.AsType[*undolog.AlarmError](err)
	return misfit || alarm
}

// AskVotes implements client.Handler.
func (a *agent) AskVotes(ctx context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	if cmd.GetResourceId() != a.p.resource {
		return
	}
	for _, i := range cmd.GetItems() {
		x, err := xid.Parse(i.GetXid())
		if err != nil {
			continue // there can be no fence of it here
		}
		b, err := xid.ParseBranchID(i.GetBranchId())
		if err != nil {
			continue
		}
		mode, err := modeOf(i.GetMode())
		if err != nil {
			continue // another service may know it
		}
		r := &pb.AskItemResult{Xid: i.GetXid(), BranchId: i.GetBranchId()}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		got, err := a.ask(ctx, x, b, mode)
		cancel()
		switch {
		case err != nil:
			// The coordinator asks again, perhaps another service.
			a.p.log.Debug("a vote could not be looked up", "xid", x, "branch", b, "error", err)
			continue
		case got == undolog.AnswerYes:
			r.Vote = pb.Vote_VOTE_YES
		case got == undolog.AnswerNo:
			r.Vote, r.Reason = pb.Vote_VOTE_NO, "the local transaction never committed"
		default:
			r.Vote = pb.Vote_VOTE_OPEN
		}
		answer(&pb.AskVotesResult{ResourceId: cmd.GetResourceId(), Items: []*pb.AskItemResult{r}})
	}
}

// ask finds out from the database how phase one of a branch ended. It waits for
// a settling connection, until ctx ends.
func (a *agent) ask(ctx context.Context, x xid.ID, b xid.BranchID, mode Mode) (answer undolog.Answer, err error) {
	var got undolog.Answer
	err = a.do(ctx, func(ctx context.Context, s *settler) error {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		if mode == XA {
			got, err = undolog.AskPrepared(ctx, conn, x, b, askLockTimeout)
		} else {
			got, err = undolog.Ask(ctx, conn, x, b, askLockTimeout)
		}
		return err
	})
	if err != nil {
		return undolog.AnswerOpen, err
	}
	return got, nil
}

// do runs something on a settling connection.
func (a *agent) do(ctx context.Context, run func(ctx context.Context, s *settler) error) error {
	j := &job{ctx: ctx, run: run, done: make(chan error, 1)}
	select {
	case a.jobs <- j:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.p.ctx.Done():
		return ErrClosed
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.p.ctx.Done():
		return ErrClosed
	}
}
