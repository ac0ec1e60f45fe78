package histories

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// gidContest is one gid with everybody who has to do with it, at the same time.
type gidContest struct {
	*gidHistory
	w  *gidWorld
	mu sync.Mutex // guards r and clients
	r  *rand.Rand

	all     sync.WaitGroup
	clients int
}

func (c *gidContest) intn(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.IntN(n)
}

func (c *gidContest) chance(percent int) bool { return c.intn(100) < percent }

func (c *gidContest) someone() gidCaller {
	door := c.w.doors[c.intn(len(c.w.doors))]
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients++
	return gidCaller{c.gidHistory, c.clients, door}
}

// try makes a call with some patience, or hardly any, and ends everything where a client
// was told what nobody should be.
func (c *gidContest) try(ctx context.Context, f func(context.Context) (bool, error)) bool {
	patience := 5 * time.Second
	if c.chance(10) {
		patience = time.Duration(200+c.intn(3000)) * time.Microsecond
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answered, err := f(ctx)
	if err != nil {
		c.w.part.complain("%v", err)
		c.w.giveUp()
	}
	c.w.called(answered)
	return answered
}

// insist makes a call until it is answered.
func (c *gidContest) insist(ctx context.Context, f func(context.Context) (bool, error)) bool {
	for ctx.Err() == nil {
		if c.try(ctx, f) {
			return true
		}
	}
	return false
}

// Every so many seconds a gid may have, in DTM's words: the shortest there is, and one that
// does not pass.
const (
	shortTimeout = time.Second
	longTimeout  = time.Minute
)

// run plays a gid to a decision, and some to their end. It is nil where ctx ended before.
func (w *gidWorld) run(ctx context.Context, n uint64) *gidHistory {
	c := &gidContest{w: w, r: newRand(n), gidHistory: &gidHistory{
		crashes: w.crashes, at: w.branches.URL, seen: map[gidInput]bool{}, timeout: longTimeout, refuses: -1,
	}}
	c.mode = []gidMode{modeTCC, modeMsg, modeSaga}[c.intn(3)]
	if c.mode != modeTCC {
		c.steps = 1 + c.intn(maxSteps)
	}
	if c.chance(30) {
		c.refuses = c.intn(maxSteps)
	}
	c.says = c.chance(60)
	late := c.chance(w.late)
	if late {
		c.timeout = shortTimeout
	}
	if !c.insist(ctx, func(ctx context.Context) (bool, error) {
		gid, err := c.w.doors[c.intn(len(c.w.doors))].newGid(ctx)
		c.gid = gid
		if errors.Is(err, errSilence) {
			err = nil
		}
		return gid != "", err
	}) {
		return nil
	}
	if !w.unique(c.gid) {
		w.part.complain("gid %s was given twice", c.gid)
	}
	w.branches.follow(c.gidHistory)
	c.begun = clock()
	c.note(timer, c.begun+int64(c.timeout-slack), endOfTime, gidInput{do: gidExpire}, gidOutput{})
	switch {
	case late:
		c.isLate(ctx)
	default:
		c.play(ctx)
	}
	return c.end()
}

// again repeats a call although it was answered, now and then.
func (c *gidContest) again(ctx context.Context, f func(context.Context) (bool, error)) {
	for more := true; more; more = c.chance(25) {
		c.try(ctx, f)
	}
}

// play lets everybody do what they do, and waits for them.
func (c *gidContest) play(ctx context.Context) {
	who := c.someone()
	if c.mode == modeSaga {
		c.all.Go(func() { c.again(ctx, func(ctx context.Context) (bool, error) { return who.submit(ctx, c.chance(20)) }) })
	} else if c.chance(85) {
		if c.chance(80) {
			c.insist(ctx, who.prepare)
		} else {
			c.all.Go(func() { c.again(ctx, who.prepare) })
		}
	}
	var owners sync.WaitGroup
	if c.mode == modeTCC {
		for b := range c.intn(maxSteps + 1) {
			c.all.Add(1)
			owners.Go(func() {
				defer c.all.Done()
				who := c.someone()
				c.again(ctx, func(ctx context.Context) (bool, error) { return who.register(ctx, b) })
			})
		}
	}
	for range c.intn(3) {
		early := c.chance(25)
		c.all.Go(func() {
			if !early {
				owners.Wait()
			}
			who := c.someone()
			c.again(ctx, func(ctx context.Context) (bool, error) { return who.submit(ctx, c.chance(10)) })
		})
	}
	for range []int{0, 0, 1, 1, 2}[c.intn(5)] {
		c.all.Go(func() {
			who := c.someone()
			c.look(ctx, who, 1+c.intn(2))
			c.again(ctx, who.abort)
		})
	}
	for range 1 + c.intn(2) {
		c.all.Go(func() { c.look(ctx, c.someone(), 2+c.intn(4)) })
	}
	c.all.Wait()
}

// isLate prepares, or submits what can't end, and lets the timeout pass.
func (c *gidContest) isLate(ctx context.Context) {
	who := c.someone()
	if c.mode == modeSaga {
		c.insist(ctx, func(ctx context.Context) (bool, error) { return who.submit(ctx, false) })
	} else {
		c.insist(ctx, who.prepare)
	}
	if c.mode == modeTCC {
		c.insist(ctx, func(ctx context.Context) (bool, error) { return who.register(ctx, 0) })
	}
	over := c.begun + int64(c.timeout) + int64(time.Duration(c.intn(400))*time.Millisecond)
	for clock() < over && ctx.Err() == nil {
		c.look(ctx, who, 1)
		select { // it is the time that this is about
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *gidContest) look(ctx context.Context, who gidCaller, times int) {
	for range times {
		c.try(ctx, who.query)
	}
}

// end makes sure of a decision, whichever it is, and looks at it once more.
func (c *gidContest) end() *gidHistory {
	ctx, cancel := context.WithTimeout(c.w.alive, patience)
	defer cancel()
	who := c.someone()
	calls := []func(context.Context) (bool, error){who.abort, who.query}
	if c.mode == modeSaga {
		calls = []func(context.Context) (bool, error){
			func(ctx context.Context) (bool, error) { return who.submit(ctx, false) }, who.abort, who.other, who.query,
		}
	}
	if c.mode != modeSaga && c.chance(25) {
		calls = append(calls, who.prepare)
	}
	if c.chance(15) {
		calls = append(calls, func(ctx context.Context) (bool, error) { return who.submit(ctx, true) }, who.query)
	}
	for _, f := range calls {
		if !c.insist(ctx, f) {
			if c.w.alive.Err() == nil {
				c.w.part.complain("%v", fmt.Errorf("gid %s: nobody answers", c.gid))
				c.w.giveUp()
			}
			return nil
		}
	}
	return c.gidHistory
}
