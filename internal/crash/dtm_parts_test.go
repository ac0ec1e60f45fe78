package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
)

// barrierTable is where a participant of DTM remembers what it was asked.
const barrierTable = `CREATE TABLE barrier (gid text, branch_id text, op text, barrier_id text, reason text,
	PRIMARY KEY (gid, branch_id, op, barrier_id))`

// barrier is the identity of a call as DTM sends it.
type barrier struct{ gid, branch, op string }

func barrierOf(r *http.Request) barrier {
	q := r.URL.Query()
	return barrier{q.Get("gid"), q.Get("branch_id"), q.Get("op")}
}

// origins says which operation each of these undoes.
var origins = map[string]string{"cancel": "try", "compensate": "action", "rollback": "action"}

// errDuplicate: somebody said before that the message will not be sent.
var errDuplicate = errors.New("duplicated")

// beginner is a connection, or a pool of them.
type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// insert tells whether the row is new. It waits for whoever has just inserted it.
func (b barrier) insert(ctx context.Context, tx pgx.Tx, op string) (bool, error) {
	tag, err := tx.Exec(ctx, "INSERT INTO barrier VALUES ($1, $2, $3, '01', $4) ON CONFLICT DO NOTHING", b.gid, b.branch, op, b.op)
	return tag.RowsAffected() > 0, err
}

// call does f in a local transaction: once, not after what undoes it, and what undoes
// it only if it was done.
func (b barrier) call(ctx context.Context, db beginner, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var null bool
		var err error
		if origin := origins[b.op]; origin != "" {
			if null, err = b.insert(ctx, tx, origin); err != nil {
				return err
			}
		}
		fresh, err := b.insert(ctx, tx, b.op)
		switch {
		case err != nil:
			return err
		case b.op == "msg" && !fresh:
			return errDuplicate
		case null || !fresh:
			return nil
		}
		return f(tx)
	})
}

// dtmActions says in the words of the other scenes what was done.
var dtmActions = map[string]string{
	"action": "forward", "try": "forward", "confirm": "commit",
	"cancel": "rollback", "compensate": "rollback", "rollback": "rollback",
}

func (s *participant) dtmEffect(r *http.Request) error {
	b := barrierOf(r)
	return b.call(r.Context(), s.plain, func(tx pgx.Tx) error {
		_, err := tx.Exec(r.Context(), "INSERT INTO effect VALUES ($1, $2)", r.PathValue("name"), dtmActions[b.op])
		return err
	})
}

func (s *participant) dtmDo(w http.ResponseWriter, r *http.Request) { answer(w, s.dtmEffect(r)) }

// dtmRefuse says no to the first phase, and has done a part of it: DTM has what said no
// undone, too.
func (s *participant) dtmRefuse(w http.ResponseWriter, r *http.Request) {
	err := s.dtmEffect(r)
	if err == nil && dtmActions[barrierOf(r).op] == "forward" {
		http.Error(w, "no. FAILURE", http.StatusConflict)
		return
	}
	answer(w, err)
}

// dtmSent is asked by the coordinator what became of a message that nobody has submitted.
func (s *participant) dtmSent(w http.ResponseWriter, r *http.Request) {
	b := barrierOf(r)
	sender := barrier{b.gid, b.branch, "rollback"}
	var reason string
	err := pgx.BeginFunc(r.Context(), s.plain, func(tx pgx.Tx) error {
		if _, err := sender.insert(r.Context(), tx, "msg"); err != nil {
			return err
		}
		return tx.QueryRow(r.Context(), "SELECT reason FROM barrier WHERE gid = $1 AND branch_id = $2 AND op = 'msg'", b.gid, b.branch).Scan(&reason)
	})
	if err == nil && reason == sender.op {
		http.Error(w, "never. FAILURE", http.StatusConflict)
		return
	}
	answer(w, err)
}

// dtmFlow is called back where a workflow has no result yet.
func (s *participant) dtmFlow(w http.ResponseWriter, r *http.Request) {
	c := newDTMClient(s.p, &s.points)
	c.Gid = barrierOf(r).gid
	_, err := c.flow(r.Context())
	answer(w, err)
}

// dtmClient does what DTM's client does, with more care: it asks again where an answer
// was lost.
type dtmClient struct {
	part
	http *http.Client
	once bool // it asks "query" instead
}

func newDTMClient(p part, transport http.RoundTripper) *dtmClient {
	return &dtmClient{part: p, http: &http.Client{Transport: transport, Timeout: 8 * time.Second}}
}

// fields is an object of JSON.
type fields map[string]any

// errNoAnswer: nobody knows what became of a request.
var errNoAnswer = errors.New("no answer")

// send sends a request once.
func (c *dtmClient) send(ctx context.Context, method, at string, body []byte) (status int, text []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.Bytes(), err
}

// ask asks the coordinator until it answers. again: it may have heard that before.
func (c *dtmClient) ask(ctx context.Context, method, path string, f fields) (status int, text []byte, again bool, err error) {
	var body []byte
	if f != nil {
		f["gid"] = c.Gid
		if body, err = json.Marshal(f); err != nil {
			return 0, nil, false, err
		}
	}
	for range 50 {
		status, text, err = c.send(ctx, method, c.DTM+path, body)
		if err == nil && status != http.StatusServiceUnavailable {
			return status, text, again, nil
		}
		if again = true; c.once {
			break
		}
		time.Sleep(20 * time.Millisecond) // there is no signal for "it can be asked again"
	}
	return 0, nil, true, fmt.Errorf("%w: %s: %d %w", errNoAnswer, path, status, err)
}

// post is ask for what has no answer but yes or no.
func (c *dtmClient) post(ctx context.Context, path string, f fields) (status int, again bool) {
	status, _, again, err := c.ask(ctx, http.MethodPost, path, f)
	if err != nil {
		return 0, true
	}
	return status, again
}

// branch calls a participant as DTM's client does: once.
func (c *dtmClient) branch(ctx context.Context, transType, id, op, path string) (status int, err error) {
	q := url.Values{"gid": {c.Gid}, "trans_type": {transType}, "branch_id": {id}, "op": {op}, "dtm": {c.DTM}}
	status, _, err = c.send(ctx, http.MethodPost, c.Participant+path+"?"+q.Encode(), []byte("{}"))
	return status, err
}

// seconds is the transaction's timeout in the unit of DTM.
func (c *dtmClient) seconds() int { return int((c.timeout() + time.Second - 1) / time.Second) }

// status is that of the transaction, as "query" shows it; empty: there is none.
func (c *dtmClient) status(ctx context.Context) (string, error) {
	code, text, _, err := c.ask(ctx, http.MethodGet, "query?gid="+c.Gid, nil)
	if err != nil {
		return "", err
	}
	var r struct{ Transaction *struct{ Status string } }
	if err := json.Unmarshal(text, &r); err != nil || code != http.StatusOK {
		return "", fmt.Errorf("query: %d %s: %w", code, text, err)
	}
	if r.Transaction == nil {
		return "", nil
	}
	return r.Transaction.Status, nil
}

// end asks until the outcome is known, which may be often: nobody dies of that. decided:
// submitted says that it is committed.
func (c *dtmClient) end(ctx context.Context, decided bool) string {
	c = newDTMClient(c.part, http.DefaultTransport)
	for range 400 {
		st, err := c.status(ctx)
		switch {
		case err != nil:
			return unknown
		case st == "succeed", st == "submitted" && decided:
			return committed
		case st == "failed", st == "aborting", st == "":
			return rolledBack
		}
		time.Sleep(50 * time.Millisecond) // there is no signal for it
	}
	return unknown
}

// either gives what a yes stands for, or what query says where it is no yes, or where
// it may be one about an earlier request.
func (c *dtmClient) either(ctx context.Context, yes, no string, status int, again, decided bool) string {
	switch {
	case status == http.StatusOK:
		return yes
	case status == http.StatusConflict && !again:
		return no
	default:
		return c.end(ctx, decided)
	}
}

// progress is what the coordinator knows of a workflow.
type progress struct {
	Transaction struct{ Status string }
	Progresses  []struct {
		BranchID string `json:"branch_id"`
		Op       string
		Status   string
	}
}

// flowSteps are the actions of the workflow. The last may refuse.
var flowSteps = []string{"w1", "w2"}

// prepareWorkflow begins the workflow, or asks how far it is.
func (c *dtmClient) prepareWorkflow(ctx context.Context) (p progress, err error) {
	code, text, _, err := c.ask(ctx, http.MethodPost, "prepareWorkflow", fields{
		"trans_type": "workflow", "query_prepared": c.Participant + "/dtm/flow", "protocol": "http",
		"custom_data": `{"name":"flow","data":"e30="}`, "retry_interval": 1,
	})
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("prepareWorkflow: %d %s", code, text)
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	return p, err
}

// flow runs the workflow, or what is left of it, and submits its result. An error: it is
// not known how it ends.
func (c *dtmClient) flow(ctx context.Context) (string, error) {
	p, err := c.prepareWorkflow(ctx)
	switch {
	case err != nil:
		return unknown, err
	case p.Transaction.Status == "succeed":
		return committed, nil
	case p.Transaction.Status == "failed":
		return rolledBack, nil
	}
	outcome, result := committed, fields{"status": "succeed", "result": "MQ=="}
	tried := 0
	for _, name := range flowSteps {
		tried++
		no, err := c.step(ctx, &p, tried, "action", name)
		if err != nil {
			return unknown, err
		}
		if no {
			outcome, result = rolledBack, fields{"status": "failed", "rollback_reason": "no. FAILURE"}
			break
		}
	}
	for i := tried; i > 0 && outcome == rolledBack; i-- {
		if _, err := c.step(ctx, &p, i, "rollback", flowSteps[i-1]); err != nil {
			return unknown, err
		}
	}
	code, _, _, err := c.ask(ctx, http.MethodPost, "submit", fields{"trans_type": "workflow", "req_extra": result})
	if err != nil || code != http.StatusOK {
		return unknown, fmt.Errorf("submit: %d: %w", code, err)
	}
	return outcome, nil
}

// step does a step, or takes what is known of it, and has its result remembered.
func (c *dtmClient) step(ctx context.Context, p *progress, n int, op, name string) (no bool, err error) {
	id := fmt.Sprintf("%02d", n)
	for _, known := range p.Progresses {
		if known.BranchID == id && known.Op == op {
			return known.Status == "failed", nil
		}
	}
	status := "succeed"
	code, err := c.branch(ctx, "workflow", id, op, c.path(name, n == len(flowSteps)))
	switch {
	case err != nil:
		return false, err
	case code == http.StatusConflict:
		status = "failed"
	case code != http.StatusOK:
		return false, fmt.Errorf("%s of %s: %d", op, name, code)
	}
	code, _, _, err = c.ask(ctx, http.MethodPost, "registerBranch", fields{
		"trans_type": "workflow", "branch_id": id, "op": op, "status": status, "data": "R" + id,
	})
	if err == nil && code != http.StatusOK { // also where it is remembered already
		err = fmt.Errorf("registerBranch: %d", code)
	}
	return status == "failed", err
}

// path is where a participant does something, or does not want to.
func (c *dtmClient) path(name string, last bool) string {
	if c.Refuse && last {
		return "/dtm/refuse/" + name
	}
	return "/dtm/do/" + name
}
