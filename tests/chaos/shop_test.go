//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid"
)

// The shop: stock is tried, confirmed and cancelled; a payment goes from a purse in one
// database to a till in the other, step by step; news are delivered to both.
const (
	purse = 1 // money only leaves it, or comes back
	till  = 2 // the other way round, so that a compensation always finds its money
)

var retry = target.RetryPolicy{First: 50 * time.Millisecond, Max: 2 * time.Second, AttentionAfter: 1000}

// sqlOf is what each action does beside its mark.
var sqlOf = map[string]map[fence.Action]string{
	"try": {
		fence.Forward:  "UPDATE stock SET onhand = onhand - 1, held = held + 1 WHERE id = 1",
		fence.Commit:   "UPDATE stock SET held = held - 1, sold = sold + 1 WHERE id = 1",
		fence.Rollback: "UPDATE stock SET onhand = onhand + 1, held = held - 1 WHERE id = 1",
	},
	"pay": {
		fence.Forward:  fmt.Sprintf("UPDATE purse SET balance = balance - 1 WHERE id = %d", purse),
		fence.Rollback: fmt.Sprintf("UPDATE purse SET balance = balance + 1 WHERE id = %d", purse),
	},
	"receive": {
		fence.Forward:  fmt.Sprintf("UPDATE purse SET balance = balance + 1 WHERE id = %d", till),
		fence.Rollback: fmt.Sprintf("UPDATE purse SET balance = balance - 1 WHERE id = %d", till),
	},
	"deliver": {}, "note": {},
}

// leave does what an action is about, and leaves a mark: done twice, it is there twice.
func leave(ctx context.Context, tx pgx.Tx, id, branch, name string, action fence.Action) error {
	_, err := tx.Exec(ctx, "INSERT INTO effect VALUES ($1, $2, $3, $4)", id, branch, name, action.String())
	if sql := sqlOf[name][action]; err == nil && sql != "" {
		_, err = tx.Exec(ctx, sql)
	}
	return err
}

// effect carries an action out, behind the fence.
func (s *service) effect(ctx context.Context, call fence.Call, name string) error {
	if s.p.Planted == plantedDeafCompensation && call.Action == fence.Rollback {
		return nil
	}
	run := func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		return []byte(`"` + name + `"`), leave(ctx, tx, call.XID.String(), call.Branch.String(), name, call.Action)
	}
	if s.p.Planted == plantedNoFence && name != "try" { // without one, a Try would get stuck
		return pgx.BeginFunc(ctx, s.pool.Plain(), func(tx pgx.Tx) error {
			_, err := run(ctx, tx)
			return err
		})
	}
	_, err := fence.Run(ctx, s.pool.Plain(), call, run)
	return err
}

func (s *service) do(w http.ResponseWriter, r *http.Request) {
	call, err := fence.FromHTTP(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, s.effect(r.Context(), call, r.PathValue("name")))
}

// refuse fails for good, and had no effect.
func (s *service) refuse(w http.ResponseWriter, _ *http.Request) { answer(w, target.ErrFailed) }

// group offers the same actions over the session, and the workflow.
func (s *service) group() *handlers.Group {
	g := handlers.New(s.p.Name)
	for name := range sqlOf {
		g.Handle(name, func(ctx context.Context, call handlers.Call) ([]byte, error) {
			return nil, s.effect(ctx, call.Identity, name)
		})
	}
	workflow.Register(g, s.m, "flow", s.flow)
	return g
}

// flow pays at a, receives at b, which is called from here, and notes it at a.
func (s *service) flow(ctx context.Context, w *workflow.W, input []byte) ([]byte, error) {
	var refused bool
	if err := json.Unmarshal(input, &refused); err != nil {
		return nil, err
	}
	for _, name := range []string{"pay", "receive", "note"} {
		compensation := s.target(0, name)
		if name == "receive" {
			compensation = target.Handler("b", name, target.Timeout(callTime))
		}
		_, err := workflow.Step(ctx, w, name, func(ctx context.Context, step workflow.StepCall) (string, error) {
			switch {
			case name == "receive":
				return name, s.call(ctx, step, s.p.Peer+"/do/"+name)
			case name == "note" && refused:
				return "", target.ErrFailed
			default:
				return name, s.effect(ctx, step, name)
			}
		}, workflow.Compensate(compensation), workflow.CompensateRetry(retry))
		if errors.Is(err, target.ErrFailed) {
			return nil, err
		}
		if err != nil {
			return nil, errors.Join(workflow.ErrRetry, err)
		}
	}
	return []byte("1"), nil
}

// call has another service do something, as the step of a workflow.
func (s *service) call(ctx context.Context, id target.Identity, to string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, http.NoBody)
	if err != nil {
		return err
	}
	id.Set(r.Header)
	resp, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusConflict:
		return target.ErrFailed
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s: %s", to, resp.Status)
	}
	return nil
}

// callTime is how long the coordinator gives an action.
const callTime = 3 * time.Second

// target is an action of a service (0: a, 1: b) over HTTP.
func (p part) target(i int, name string) target.Target {
	return target.HTTP(p.Targets[i]+"/do/"+name, target.Timeout(callTime))
}

// handler is the same over the session, or, by chance, over HTTP.
func (c *caller) handler(i int, name string) target.Target {
	if c.intn(2) == 0 {
		return c.p.target(i, name)
	}
	return target.Handler([]string{"a", "b"}[i], name, target.Timeout(callTime))
}

func (c *caller) try(ctx context.Context, i int) error {
	b := tcc.Branch{Name: "try", Confirm: c.handler(i, "try"), Cancel: c.handler(i, "try"), Retry: retry}
	_, err := tcc.Call(ctx, c.m, b, tcc.Post(c.http, c.p.Services[i]+"/do/try", nil))
	return err
}

func (c *caller) reserve(ctx context.Context) error {
	for i := range 2 {
		if err := c.try(ctx, i); err != nil {
			return err
		}
	}
	return c.maybe()
}

// payment is a saga. With a pivot, nothing is undone from there on.
func (c *caller) payment(pivot, refused bool) *saga.Definition {
	d := saga.New("saga").Retry(retry).Step("pay", c.handler(0, "pay"), saga.Compensate(c.handler(0, "pay")))
	switch {
	case refused:
		d.Step("receive", target.HTTP(c.p.Targets[1]+"/refuse/receive", target.Timeout(callTime)), saga.Compensate(c.handler(1, "receive")))
	case pivot:
		d.Step("receive", c.handler(1, "receive"), saga.Pivot()).Step("deliver", c.handler(0, "deliver"))
	default:
		d.Step("receive", c.handler(1, "receive"), saga.Compensate(c.handler(1, "receive")))
	}
	return d
}

func (c *caller) news(name string) *message.Message {
	return message.New(name).Retry(retry).To(c.handler(0, "deliver")).To(c.handler(1, "deliver"))
}

// all is every mode in one transaction.
func (c *caller) all(ctx context.Context) error {
	refused := c.refused()
	q := func(delta int) url.Values {
		return url.Values{"account": {strconv.Itoa(1 + c.intn(crossAccounts))}, "delta": {strconv.Itoa(delta)}}
	}
	noted := q(-1)
	noted.Set("note", "1")
	if err := c.post(ctx, c.p.Services[0]+"/at", noted); err != nil {
		return err
	}
	if err := c.post(ctx, c.p.Services[1]+"/xa", q(1)); err != nil {
		return err
	}
	if err := c.try(ctx, 0); err != nil {
		return err
	}
	if err := c.news("all").Enlist(ctx, c.m); err != nil {
		return err
	}
	return c.payment(false, refused).Enlist(ctx, c.m)
}

// The rest begins transactions of its own, and says what it was told.

func (c *caller) saga(ctx context.Context) (xid.ID, error) {
	return c.payment(true, c.refused()).Run(ctx, c.m)
}

func (c *caller) message(ctx context.Context) (xid.ID, error) {
	id, err := c.news("message").Send(ctx, c.m)
	if err != nil {
		return id, err
	}
	return id, c.m.Wait(ctx, id)
}

func (c *caller) prepared(ctx context.Context) (xid.ID, error) {
	check := message.CheckBack(target.HTTP(c.p.Targets[0]+"/check", target.Timeout(callTime)), 2*time.Second)
	p, err := c.news("prepared").Prepare(ctx, c.m, check)
	if err != nil {
		return p.XID, err
	}
	if c.refused() {
		if err := p.Drop(ctx, errRefused); err != nil {
			return p.XID, err
		}
		return p.XID, tm.ErrRolledBack
	}
	if err := c.post(ctx, c.p.Services[0]+"/send/"+p.XID.String(), nil); err != nil {
		return p.XID, c.m.Wait(ctx, p.XID) // the check will say
	}
	return p.XID, p.Send(ctx)
}

func (c *caller) workflow(ctx context.Context) (xid.ID, error) {
	id, err := workflow.Start(ctx, c.m, "a", "flow", c.refused(), workflow.Retry(retry), workflow.Timeout(5*time.Second),
		workflow.Options(tm.WithName("workflow")))
	if err != nil {
		return id, err
	}
	_, err = workflow.Wait(ctx, c.m, id)
	return id, err
}

func (c *caller) published(ctx context.Context) error {
	q := url.Values{}
	if c.refused() {
		q.Set("refuse", "1")
	}
	return c.post(ctx, c.p.Services[0]+"/publish", q)
}
