package crash

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

// dtmScenarios are transactions over DTM's API.
var dtmScenarios = map[string]scenario{
	"dtm-saga":     {call: (*caller).dtmSaga, committed: []string{"s1 forward", "s2 forward"}},
	"dtm-side":     {call: (*caller).dtmSideBySide, committed: []string{"s1 forward", "s2 forward", "s3 forward"}},
	"dtm-twice":    {call: (*caller).dtmTwice, committed: []string{"s1 forward", "s2 forward"}},
	"dtm-tcc":      {call: (*caller).dtmTCC, committed: []string{"t1 forward", "t1 commit", "t2 forward", "t2 commit"}},
	"dtm-regret":   {call: (*caller).dtmRegret, refused: true},
	"dtm-race":     {call: (*caller).dtmRace, committed: []string{"t1 forward", "t1 commit"}, open: true},
	"dtm-message":  {call: (*caller).dtmMessage, committed: []string{"m1 forward", "m2 forward", "sent"}, asked: true},
	"dtm-silent":   {call: (*caller).dtmSilent, committed: []string{"m1 forward", "m2 forward", "sent"}, asked: true},
	"dtm-called":   {call: (*caller).dtmCalled, refused: true},
	"dtm-workflow": {call: (*caller).dtmWorkflow, committed: []string{"w1 forward", "w2 forward"}},
}

func (c *caller) dtm() *dtmClient { return newDTMClient(c.part, &c.points) }

// steps of a saga or a message, the one with refuser in place of one that agrees.
func (c *dtmClient) steps(refuser string, names ...string) (steps []map[string]string, payloads []string) {
	for i, name := range names {
		at := c.Participant + c.path(name, name == refuser)
		steps = append(steps, map[string]string{"action": at, "compensate": at})
		payload := "{}"
		if i == 0 {
			payload = "" // a GET
		}
		payloads = append(payloads, payload)
	}
	return steps, payloads
}

// saga submits a saga, and waits for its end if it has to.
func (c *dtmClient) saga(ctx context.Context, side, wait bool, refuser string, names ...string) (status int, again bool) {
	steps, payloads := c.steps(refuser, names...)
	f := fields{
		"trans_type": "saga", "steps": steps, "payloads": payloads, "wait_result": wait,
		"retry_interval": 1, "request_timeout": 1, "concurrent": side,
	}
	if side {
		f["custom_data"] = `{"orders":{},"concurrent":true}`
	}
	return c.post(ctx, "submit", f)
}

func (c *caller) dtmSaga(ctx context.Context) string {
	d := c.dtm()
	status, again := d.saga(ctx, false, true, "s2", "s1", "s2")
	return d.either(ctx, committed, rolledBack, status, again, false)
}

func (c *caller) dtmSideBySide(ctx context.Context) string {
	d := c.dtm()
	status, again := d.saga(ctx, true, true, "s2", "s1", "s2", "s3")
	return d.either(ctx, committed, rolledBack, status, again, false)
}

// both gives what two say that do something at the same time: the same, or it is wrong.
func both(ctx context.Context, one, other func(context.Context) string) string {
	said := make(chan string, 1)
	go func() { said <- other(ctx) }()
	a := one(ctx)
	b := <-said
	switch {
	case a == unknown:
		return b
	case b == unknown || a == b:
		return a
	default:
		return fmt.Sprintf("both %s and %s", a, b)
	}
}

// dtmTwice is two who submit the same saga. Who is told that it was taken is sure of it.
func (c *caller) dtmTwice(ctx context.Context) string {
	submit := func(ctx context.Context) string {
		d := c.dtm()
		status, _ := d.saga(ctx, false, false, "s2", "s1", "s2")
		if status == http.StatusOK && !c.Refuse {
			return committed
		}
		return d.end(ctx, false)
	}
	return both(ctx, submit, submit)
}

// try registers a branch of TCC and tries it.
func (c *dtmClient) try(ctx context.Context, id, name string, refuse bool) error {
	path := c.path(name, refuse)
	status, _ := c.post(ctx, "registerBranch", fields{
		"trans_type": "tcc", "branch_id": id, "data": "{}", "confirm": c.Participant + path, "cancel": c.Participant + path,
	})
	if status != http.StatusOK {
		return fmt.Errorf("registerBranch: %d", status)
	}
	status, err := c.branch(ctx, "tcc", id, "try", path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("try: %d", status)
	}
	return err
}

func (c *dtmClient) submit(ctx context.Context) string {
	status, again := c.post(ctx, "submit", fields{"trans_type": "tcc"})
	return c.either(ctx, committed, rolledBack, status, again, true)
}

func (c *dtmClient) abort(ctx context.Context, transType string) string {
	status, again := c.post(ctx, "abort", fields{"trans_type": transType, "rollback_reason": "no"})
	return c.either(ctx, rolledBack, committed, status, again, true)
}

// tries is TCC up to its second phase.
func (c *dtmClient) tries(ctx context.Context, refuser string, names ...string) error {
	status, _ := c.post(ctx, "prepare", fields{
		"trans_type": "tcc", "timeout_to_fail": c.seconds(), "retry_interval": 1, "request_timeout": 1,
	})
	if status != http.StatusOK {
		return fmt.Errorf("prepare: %d", status)
	}
	for i, name := range names {
		if err := c.try(ctx, fmt.Sprintf("%02d", i+1), name, name == refuser); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) dtmTCC(ctx context.Context) string {
	d := c.dtm()
	if d.tries(ctx, "t2", "t1", "t2") != nil {
		return d.abort(ctx, "tcc")
	}
	return d.submit(ctx)
}

// dtmRegret is TCC that is aborted although all went well: it is the caller who refuses.
func (c *caller) dtmRegret(ctx context.Context) string {
	d := c.dtm()
	_ = d.tries(ctx, "", "t1", "t2")
	return d.abort(ctx, "tcc")
}

// dtmRace is one who submits while another aborts. Either may be first, and where that
// gets no answer it does not say it again: what the other is told has to be true without.
func (c *caller) dtmRace(ctx context.Context) string {
	d := c.dtm()
	if d.tries(ctx, "", "t1") != nil {
		return d.abort(ctx, "tcc")
	}
	d.once = true
	return both(ctx, d.submit, func(ctx context.Context) string { return d.abort(ctx, "tcc") })
}

// message is one that is prepared, and then submitted by the same words.
func (c *dtmClient) message() fields {
	steps, payloads := c.steps("", "m1", "m2")
	return fields{
		"trans_type": "msg", "steps": steps, "payloads": payloads, "query_prepared": c.Participant + "/dtm/sent",
		"timeout_to_fail": int(c.patient(time.Second).Seconds()), "retry_interval": 1, "request_timeout": 1,
	}
}

// dtmMessage sends a message with a local transaction of the sender's own.
func (c *caller) dtmMessage(ctx context.Context) string {
	d := c.dtm()
	if status, _ := d.post(ctx, "prepare", d.message()); status != http.StatusOK {
		return d.end(ctx, true)
	}
	switch err := c.dtmLocal(ctx, d.Gid); {
	case errors.Is(err, errRefused):
		return d.abort(ctx, "msg")
	case err != nil: // asked before it was done
		return d.end(ctx, true)
	}
	status, again := d.post(ctx, "submit", d.message())
	return d.either(ctx, committed, rolledBack, status, again, true)
}

// dtmSilent is a sender who never says what became of the message, and has to be asked.
func (c *caller) dtmSilent(ctx context.Context) string {
	d := c.dtm()
	if status, _ := d.post(ctx, "prepare", d.message()); status == http.StatusOK {
		_ = c.dtmLocal(ctx, d.Gid)
	}
	return d.end(ctx, true)
}

// dtmLocal is the local transaction of the sender.
func (c *caller) dtmLocal(ctx context.Context, gid string) (err error) {
	c.pass()
	defer c.pass()
	conn, err := pgx.Connect(ctx, c.DSN[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return barrier{gid, "00", "msg"}.call(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO sent VALUES ($1, true)", gid); err != nil {
			return err
		}
		return c.refused()
	})
}

// dtmWorkflow runs a workflow, and once more where it can't tell how that went.
func (c *caller) dtmWorkflow(ctx context.Context) string {
	d := c.dtm()
	for range 50 {
		if outcome, err := d.flow(ctx); err == nil {
			return outcome
		}
		time.Sleep(20 * time.Millisecond) // there is no signal for "it can be run again"
	}
	return d.end(ctx, true)
}

// dtmCalled is a workflow that nobody runs before it is called back. Up to where somebody
// refuses it is as if nobody did.
func (c *caller) dtmCalled(ctx context.Context) string {
	d := c.dtm()
	for range 50 {
		if p, err := d.prepareWorkflow(ctx); err == nil && p.Transaction.Status != "" {
			return d.end(ctx, true)
		}
	}
	return unknown
}
