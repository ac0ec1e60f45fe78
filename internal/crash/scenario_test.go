package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid"
	"github.com/handfast/handfast/xid/xidhttp"
)

// caller is the service that begins the transaction.
type caller struct {
	points
	part
	m    *tm.Manager
	http *http.Client
	told func(string)
}

// scenario is one transaction: what the caller does, and what is there if it is
// committed. If not, nothing is, or what was done is undone.
type scenario struct {
	call      func(*caller, context.Context) (outcome string)
	committed []string
	open      bool // it may be rolled back although nobody refuses
	refused   bool // it is of interest only where somebody refuses
	asked     bool // it is rolled back where its sender is asked before it is done
}

// scenarioOf gives a scenario of either kind.
func scenarioOf(name string) scenario {
	if s, ok := dtmScenarios[name]; ok {
		return s
	}
	return scenarios[name]
}

// scenarios are transactions over Handfast's own API.
var scenarios = map[string]scenario{
	"at":       {call: (*caller).at, committed: []string{"a at 1", "b at 1"}},
	"xa":       {call: (*caller).xa, committed: []string{"a xa 1", "b xa 1"}},
	"tcc":      {call: (*caller).tcc, committed: []string{"t1 forward", "t1 commit", "t2 forward", "t2 commit"}},
	"saga":     {call: (*caller).saga, committed: []string{"s1 forward", "s2 forward", "pivot forward", "last forward"}},
	"message":  {call: (*caller).message, committed: []string{"m1 forward", "m2 forward", "sent"}, asked: true},
	"publish":  {call: (*caller).publish, committed: []string{"m1 forward", "m2 forward", "sent"}},
	"workflow": {call: (*caller).workflow, committed: []string{"w1 forward", "w2 forward", "w3 forward"}},
	"mixed": {call: (*caller).mixed, committed: []string{"a at 1", "b xa 1", "t1 forward", "t1 commit", "m1 forward", "m2 forward",
		"s1 forward", "s2 forward", "pivot forward", "last forward"}},
}

// What is told: an XID, and an outcome.
const (
	committed  = "committed"
	rolledBack = "rolled back"
	unknown    = "unknown"
)

// call plays the caller.
func (p part) call(ctx context.Context, told func(string)) (err error) {
	c := &caller{part: p, told: told}
	cc, err := c.dial(p.Coordinator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cc.Close()) }()
	c.m = tm.New(cc, tm.WithTimeout(p.timeout()))
	c.http = &http.Client{Transport: &xidhttp.Transport{Base: &c.points}, Timeout: 5 * time.Second}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	c.arm(p.At)
	told(scenarioOf(p.Scenario).call(c, ctx))
	return nil
}

// outcome sorts an error of the manager.
func outcome(err error) string {
	switch {
	case err == nil:
		return committed
	case errors.Is(err, tm.ErrRolledBack):
		return rolledBack
	default:
		return unknown
	}
}

var errRefused = errors.New("refused")

func (c *caller) post(ctx context.Context, path string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Participant+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	return nil
}

// refused is what the one asked last says.
func (c *caller) refused() error {
	if c.Refuse {
		return errRefused
	}
	return nil
}

func (c *caller) posts(ctx context.Context, paths ...string) string {
	return outcome(c.m.Do(ctx, func(ctx context.Context) error {
		for _, path := range paths {
			if err := c.post(ctx, path); err != nil {
				return err
			}
		}
		return c.refused()
	}))
}

func (c *caller) at(ctx context.Context) string { return c.posts(ctx, "/at/a", "/at/b") }
func (c *caller) xa(ctx context.Context) string { return c.posts(ctx, "/xa/a", "/xa/b") }

func (c *caller) target(name string, opts ...target.Option) target.Target {
	return target.HTTP(c.Participant+"/do/"+name, append(opts, target.Timeout(time.Second))...)
}

// last is the target of what refuses, if anything does.
func (c *caller) last(name string) target.Target {
	if c.Refuse {
		return target.HTTP(c.Participant+"/refuse/"+name, target.Timeout(time.Second))
	}
	return c.target(name)
}

var retry = target.RetryPolicy{First: 10 * time.Millisecond, Max: 100 * time.Millisecond}

func (c *caller) try(ctx context.Context, name, url string) error {
	b := tcc.Branch{Name: name, Confirm: c.target(name), Cancel: c.target(name), Retry: retry}
	_, err := tcc.Call(ctx, c.m, b, tcc.Post(&http.Client{Transport: &c.points, Timeout: 5 * time.Second}, url, nil))
	return err
}

func (c *caller) tcc(ctx context.Context) string {
	return outcome(c.m.Do(ctx, func(ctx context.Context) error {
		if err := c.try(ctx, "t1", c.Participant+"/do/t1"); err != nil {
			return err
		}
		return c.try(ctx, "t2", c.last("t2").HTTP)
	}))
}

func (c *caller) trip() *saga.Definition {
	return saga.New("trip").Step("s1", c.target("s1"), saga.Compensate(c.target("s1")), saga.Retry(retry)).
		Step("s2", c.target("s2"), saga.Compensate(c.target("s2")), saga.Retry(retry)).
		Step("pivot", c.last("pivot"), saga.Pivot(), saga.Retry(retry)).Step("last", c.target("last"), saga.Retry(retry))
}

func (c *caller) saga(ctx context.Context) string {
	_, err := c.trip().Run(ctx, c.m)
	return outcome(err)
}

func (c *caller) news() *message.Message {
	return message.New("news").To(c.target("m1"), message.Retry(retry)).To(c.target("m2"), message.Retry(retry))
}

func (c *caller) message(ctx context.Context) string {
	id := xid.NewBranchID().String() // of the sender's own
	check := message.CheckBack(target.HTTP(c.Participant+"/sent/"+id, target.Timeout(time.Second)), c.patient(300*time.Millisecond))
	p, err := c.news().Prepare(ctx, c.m, check)
	if err != nil {
		return unknown
	}
	if err := c.post(ctx, "/send/"+id); err != nil {
		if c.Refuse {
			_ = p.Drop(ctx, err)
		}
		return unknown // the check will say
	}
	return outcome(p.Send(ctx))
}

func (c *caller) publish(ctx context.Context) string {
	_ = c.post(ctx, "/publish/"+xid.NewBranchID().String())
	return unknown
}

func (c *caller) workflow(ctx context.Context) string {
	id, err := workflow.Start(ctx, c.m, "crash", "flow", nil, workflow.Retry(retry), workflow.Timeout(c.patient(2*time.Second)))
	if err != nil {
		return unknown
	}
	_, err = workflow.Wait(ctx, c.m, id)
	return outcome(err)
}

// mixed is all of them in one transaction. The saga is handed over last, and what
// becomes of it is what becomes of all.
func (c *caller) mixed(ctx context.Context) string {
	t, err := c.m.Begin(ctx)
	if err != nil {
		return unknown
	}
	in := t.Context(ctx)
	err = errors.Join(c.post(in, "/at/a"), c.post(in, "/xa/b"))
	if err == nil {
		err = c.try(in, "t1", c.Participant+"/do/t1")
	}
	if err == nil {
		err = c.news().Enlist(in, c.m)
	}
	if err != nil {
		return outcome(errors.Join(tm.ErrRolledBack, c.m.Rollback(ctx, t, err)))
	}
	if err := c.trip().SubmitAs(ctx, c.m, t); err != nil {
		return unknown
	}
	return outcome(c.m.Wait(ctx, t.XID))
}
