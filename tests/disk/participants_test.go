package disk

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/fence"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

// What is told, of a transaction.
const (
	committed  = "committed"
	rolledBack = "rolled back"
	unknown    = "unknown"
)

// books are what anybody was told by a coordinator, whichever life of it.
type books struct {
	mu       sync.Mutex
	outcomes map[string]map[string]string // XID, outcome: who heard it first
	branches map[string]map[string]string // XID, branch: who knows that it is registered
	taken    map[string]bool              // XIDs that were submitted, and that was acknowledged
	alarms   []string                     // what can't be
}

func newBooks() *books {
	return &books{outcomes: map[string]map[string]string{}, branches: map[string]map[string]string{}, taken: map[string]bool{}}
}

func note(m map[string]map[string]string, x, what, who string) {
	if m[x] == nil {
		m[x] = map[string]string{}
	}
	if m[x][what] == "" {
		m[x][what] = who
	}
}

// outcome notes that somebody heard how a transaction ended.
func (b *books) outcome(x, outcome, who string) {
	if outcome != committed && outcome != rolledBack {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	note(b.outcomes, x, outcome, who)
}

// branch notes that somebody heard that a branch is registered, or was called for it.
func (b *books) branch(x, branch, who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	note(b.branches, x, branch, who)
}

// submitted notes that somebody heard that a transaction will be carried out.
func (b *books) submitted(x string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken[x] = true
}

func (b *books) alarm(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alarms = append(b.alarms, fmt.Sprintf(format, args...))
}

func outcomeText(o pb.Outcome) string {
	switch o {
	case pb.Outcome_OUTCOME_COMMITTED:
		return committed
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		return rolledBack
	case pb.Outcome_OUTCOME_UNSPECIFIED, pb.Outcome_OUTCOME_UNDECIDED:
	}
	return unknown
}

type key struct{ x, branch string }

// shop is a service with fenced actions. It keeps what package fence keeps, by the same
// rules, and the effects beside it: both are as durable as its memory, which outlives
// every coordinator.
type shop struct {
	books *books

	mu        sync.Mutex
	rows      map[key]string
	effects   []string
	sent      map[string]bool // of prepared messages: whether the sender's transaction is committed
	careless  bool            // planted: it does what it is told again
	forgetful bool            // planted: it forgets a branch as soon as it is tried
}

func newShop(b *books) *shop { return &shop{books: b, rows: map[key]string{}, sent: map[string]bool{}} }

// act carries out an action. The matrix is that of package fence.
func (s *shop) act(c fence.Call, name string, refuse bool) error {
	k := key{c.XID.String(), c.Branch.String()}
	s.books.branch(k.x, k.branch, c.Action.String()+" of "+name)
	return s.actAs(k, c.Action, name, refuse)
}

// actAs is act for what has another identity.
func (s *shop) actAs(k key, a fence.Action, name string, refuse bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	run := func(state string) error {
		s.rows[k] = state
		s.effects = append(s.effects, name+" "+a.String())
		return nil
	}
	state := s.rows[k]
	switch a {
	case fence.Forward:
		switch state {
		case "":
			if refuse {
				return fmt.Errorf("no: %w", target.ErrFailed)
			}
			if s.forgetful {
				return nil
			}
			return run("forward")
		case "forward", "committed":
			if s.careless {
				return run(state)
			}
			return nil
		}
		return fence.ErrLate
	case fence.Commit:
		s.books.outcome(k.x, committed, "commit of "+name)
		switch state {
		case "forward":
			return run("committed")
		case "committed":
			return nil
		}
		s.books.alarm("commit of %s, which is %q", name, state)
		return fence.ErrNoForward
	case fence.Rollback:
		s.books.outcome(k.x, rolledBack, "rollback of "+name)
		switch state {
		case "":
			s.rows[k] = "tombstone"
			return nil
		case "forward":
			return run("rolled back")
		case "rolled back", "tombstone":
			return nil
		}
		s.books.alarm("rollback of %s, which is %q", name, state)
		return fence.ErrContradicted
	}
	return fence.ErrMalformed
}

// state is every effect, sorted.
func (s *shop) state() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.effects)
	for _, really := range s.sent {
		if really {
			out = append(out, "sent")
		}
	}
	slices.Sort(out)
	return out
}

// send is the local transaction of a sender; asked before is one that must not be any more.
func (s *shop) send(id string, really bool) (is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.sent[id]; !known {
		s.sent[id] = really
	}
	return s.sent[id]
}

// database is a resource manager with its database, in AT or XA mode. It has one number,
// which each branch raises by one, and a fence.
type database struct {
	books *books
	name  string
	mode  pb.Mode
	id    xid.ResourceID

	deaf  atomic.Bool // it hears no decision
	mu    sync.Mutex
	fence map[key]string
	v     int
}

var _ client.Handler = (*database)(nil)

func newDatabase(b *books, name string, mode pb.Mode) *database {
	return &database{books: b, name: name, mode: mode, id: xid.ResourceID{0xd, 15: name[0]}, fence: map[key]string{}}
}

// exec is one local transaction: it registers its branch, and is committed or prepared
// once that is acknowledged.
func (d *database) exec(ctx context.Context, c *client.Client, x xid.ID) error {
	k := key{x.String(), xid.NewBranchID().String()}
	_, err := c.RegisterBranch(ctx, &pb.RegisterBranchRequest{Xid: k.x, BranchId: k.branch, ResourceId: d.id.String(), Mode: d.mode})
	if err != nil {
		return err
	}
	d.books.branch(k.x, k.branch, "registration at "+d.name)
	d.mu.Lock()
	if d.fence[k] != "" {
		d.mu.Unlock()
		return fmt.Errorf("%s: the branch is %s", d.name, d.fence[k])
	}
	d.fence[k] = "live"
	if d.mode == pb.Mode_MODE_AT {
		d.v++
	}
	d.mu.Unlock()
	// Where that does not arrive the coordinator asks.
	_, err = c.Vote(ctx, &pb.VoteRequest{Xid: k.x, BranchId: k.branch, Vote: pb.Vote_VOTE_YES})
	return err
}

// Settle implements client.Handler.
func (d *database) Settle(_ context.Context, cmd *pb.Settle, answer func(*pb.SettleResult)) {
	if d.deaf.Load() {
		return // it will be told again
	}
	res := &pb.SettleResult{ResourceId: cmd.GetResourceId()}
	for _, i := range cmd.GetItems() {
		d.books.outcome(i.GetXid(), outcomeText(i.GetOutcome()), "settling at "+d.name)
		r := &pb.SettleItemResult{Xid: i.GetXid(), Outcome: i.GetOutcome(), Done: true}
		if err := d.settle(i); err != nil {
			d.books.alarm("%s: %v", d.name, err)
			r.Done, r.Error, r.NeedsAttention = false, err.Error(), true
		}
		res.Items = append(res.Items, r)
	}
	answer(res)
}

// settle settles all branches of an XID, or none.
func (d *database) settle(i *pb.SettleItem) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	commit := i.GetOutcome() == pb.Outcome_OUTCOME_COMMITTED
	listed := map[key]bool{}
	for _, b := range i.GetBranches() {
		k := key{i.GetXid(), b.GetBranchId()}
		listed[k] = true
		state := d.fence[k]
		switch {
		case commit && b.GetVote() == pb.Vote_VOTE_YES && state != "live" && state != committed:
			return fmt.Errorf("a branch that is to be committed is %q", state)
		case !commit && state == committed:
			return fmt.Errorf("a branch that is to be rolled back is committed")
		}
	}
	for k := range d.fence {
		if k.x == i.GetXid() && !listed[k] {
			return fmt.Errorf("the coordinator does not know of branch %s, which is %s", k.branch, d.fence[k])
		}
	}
	for k := range listed {
		switch state := d.fence[k]; {
		case commit && state == "live":
			d.fence[k] = committed
			if d.mode == pb.Mode_MODE_XA {
				d.v++
			}
		case !commit && state == "live":
			d.fence[k] = rolledBack
			if d.mode == pb.Mode_MODE_AT {
				d.v--
			}
		case !commit && state == "":
			d.fence[k] = "tombstone"
		}
	}
	return nil
}

// AskVotes implements client.Handler.
func (d *database) AskVotes(_ context.Context, cmd *pb.AskVotes, answer func(*pb.AskVotesResult)) {
	res := &pb.AskVotesResult{ResourceId: cmd.GetResourceId()}
	d.mu.Lock()
	for _, i := range cmd.GetItems() {
		d.books.branch(i.GetXid(), i.GetBranchId(), "question at "+d.name)
		k := key{i.GetXid(), i.GetBranchId()}
		v := pb.Vote_VOTE_YES
		switch d.fence[k] {
		case "":
			d.fence[k] = "tombstone"
			v = pb.Vote_VOTE_NO
		case "tombstone", rolledBack:
			v = pb.Vote_VOTE_NO
		}
		res.Items = append(res.Items, &pb.AskItemResult{Xid: i.GetXid(), BranchId: i.GetBranchId(), Vote: v})
	}
	d.mu.Unlock()
	answer(res)
}

// state is what is there, and what is undecided.
func (d *database) state() (lines []string, undecided int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range d.v {
		lines = append(lines, d.name)
	}
	if d.v < 0 {
		lines = append(lines, fmt.Sprintf("%s is %d", d.name, d.v))
	}
	for _, state := range d.fence {
		if state == "live" {
			undecided++
		}
	}
	return lines, undecided
}
