package histories

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func newRand(n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(*seedFlag, n))
}

// Numbers of clients in a history that are none.
const (
	settler = 90
	timer   = 91
)

// slack is how much earlier than its time a deadline may come: clocks are read in whole
// milliseconds.
const slack = 3 * time.Millisecond

// contest is one transaction with everybody who has to do with it, at the same time.
type contest struct {
	*history
	w  *world
	mu sync.Mutex // guards rng
	r  *rand.Rand

	all     sync.WaitGroup
	owners  sync.WaitGroup // those of branches
	clients int
}

func (c *contest) intn(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.IntN(n)
}

// chance is true in so many percent.
func (c *contest) chance(percent int) bool { return c.intn(100) < percent }

// someone is one more client of the transaction.
func (c *contest) someone() caller {
	c.mu.Lock()
	c.clients++
	who := c.clients
	c.mu.Unlock()
	return caller{c.history, who, c.w.apis[c.intn(len(c.w.apis))]}
}

// patience is how long a call waits; some callers have hardly any.
func (c *contest) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.chance(15) {
		return context.WithTimeout(ctx, time.Duration(100+c.intn(3000))*time.Microsecond)
	}
	return context.WithTimeout(ctx, 5*time.Second)
}

// sane ends everything where a client was told what nobody should be.
func (c *contest) sane(out *output, err error) *output {
	if err != nil {
		c.w.part.complain("%v", err)
		c.w.giveUp()
	}
	c.w.called(out != nil)
	return out
}

// run plays the transaction to its end. It is nil where ctx ended before.
func (w *world) run(ctx context.Context, n uint64) *history {
	c := &contest{history: &history{crashes: w.crashes}, w: w, r: newRand(n)}
	timeout := 30 * time.Second
	if c.chance(30) {
		timeout = time.Duration(2+c.intn(25)) * time.Millisecond
	}
	for c.id == "" {
		if ctx.Err() != nil {
			return nil
		}
		patient, cancel := c.patience(ctx)
		c.begun = clock()
		r, err := c.someone().a.Begin(patient, &pb.BeginRequest{Name: "contest", Timeout: durationOf(timeout)})
		cancel()
		if err == nil {
			c.id = r.GetXid()
		}
		out, err := c.answer(err, pb.Outcome_OUTCOME_UNDECIDED, 0, "")
		if errors.Is(err, errSilence) {
			err = nil
		}
		c.sane(out, err)
	}
	if !w.unique(c.id) {
		w.part.complain("transaction %s was begun twice", c.id)
	}
	for b := range c.intn(maxBranches + 1) {
		c.branches[b] = xid.NewBranchID().String()
	}
	c.note(timer, c.begun+int64(timeout-slack), endOfTime, input{do: doExpire}, output{})
	w.part.follow(c.history)
	c.play(ctx)
	return c.end()
}

// play lets everybody do what they do, and waits for them.
func (c *contest) play(ctx context.Context) {
	for b, id := range c.branches {
		if id != "" {
			c.owners.Add(1)
			c.all.Go(func() { defer c.owners.Done(); c.own(ctx, b) })
		}
	}
	for range []int{0, 1, 1, 1, 2}[c.intn(5)] {
		early := c.chance(25)
		c.all.Go(func() {
			if !early {
				c.owners.Wait()
			}
			who := c.someone()
			for more := true; more; more = c.chance(30) { // again, although it was answered
				patient, cancel := c.patience(ctx)
				c.sane(who.commit(patient))
				cancel()
			}
		})
	}
	for n := range []int{0, 0, 0, 1, 2}[c.intn(5)] {
		c.all.Go(func() {
			who := c.someone()
			c.look(ctx, who, 1+c.intn(2))
			patient, cancel := c.patience(ctx)
			defer cancel()
			c.sane(who.rollback(patient, n+1))
		})
	}
	for range 1 + c.intn(2) {
		c.all.Go(func() { c.look(ctx, c.someone(), 2+c.intn(4)) })
	}
	c.all.Wait()
}

// own is the life of a branch: registered, maybe twice, and then a fact that is told,
// told twice, or left to be asked for.
func (c *contest) own(ctx context.Context, b int) {
	who := c.someone()
	var out *output
	for again := true; again; again = out == nil && c.chance(70) || out != nil && c.chance(10) {
		patient, cancel := c.patience(ctx)
		out = c.sane(who.register(patient, b))
		cancel()
	}
	v := pb.Vote_VOTE_YES
	if out == nil || c.chance(14) {
		// Without an acknowledgement there is no local commit.
		v = []pb.Vote{pb.Vote_VOTE_NO, pb.Vote_VOTE_WITHDRAWN}[c.intn(2)]
	}
	if out != nil && out.outcome != pb.Outcome_OUTCOME_UNDECIDED {
		return
	}
	since := clock()
	c.w.part.decide(c.branches[b], v)
	c.note(who.who, since, endOfTime, input{do: doVote, branch: b, vote: v}, output{})
	if v == pb.Vote_VOTE_WITHDRAWN && c.crashes {
		// The vote is not forced. If it is lost, the database is asked, which knows only that
		// the branch will never commit.
		c.note(who.who, since, endOfTime, input{do: doDoubt, branch: b}, output{})
	}
	if c.chance(8) {
		return // it dies before it tells
	}
	for again := true; again; again = c.chance(15) {
		patient, cancel := c.patience(ctx)
		c.sane(who.vote(patient, b, v, clock()))
		cancel()
	}
}

func (c *contest) look(ctx context.Context, who caller, times int) {
	for range times {
		patient, cancel := c.patience(ctx)
		if c.chance(25) {
			c.sane(who.wait(patient, time.Duration(1+c.intn(4))*time.Millisecond))
		} else {
			c.sane(who.get(patient))
		}
		cancel()
	}
}

// end makes sure of a decision, whichever it is, and looks at it once more.
func (c *contest) end() *history {
	ctx, cancel := context.WithTimeout(c.w.alive, patience)
	defer cancel()
	who := c.someone()
	for _, last := range []func() (*output, error){
		func() (*output, error) { return who.rollback(ctx, 99) },
		func() (*output, error) { return who.get(ctx) },
	} {
		for c.sane(last()) == nil {
			if ctx.Err() != nil {
				if c.w.alive.Err() == nil {
					c.sane(nil, fmt.Errorf("transaction %s: nobody answers", c.id))
				}
				return nil
			}
		}
	}
	return c.history
}
