//go:build unix

package chaos

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// gidPrefix is that of the gids of DTM's transactions. No XID begins with it.
const gidPrefix = "dtm-"

func isGid(id string) bool { return strings.HasPrefix(id, gidPrefix) }

// trans is a new transaction over a protocol of chance. A call that failed is made again
// after a second, as DTM has no shorter pause.
func (c *caller) trans(of string) *trans {
	return &trans{
		Gid: gidPrefix + rand.Text(), TransType: of, RequestTimeout: int64(callTime / time.Second), RetryInterval: 1,
		protocol: []string{overHTTP, overRPC, overGRPC}[c.intn(3)],
	}
}

// askFront repeats a request until there is an answer. first tells whether that was the answer
// to the first one: none before it can have been carried out unheard.
func (c *caller) askFront(ctx context.Context, method string, t *trans, branch map[string]string) (r reply, first bool) {
	for n := 0; ctx.Err() == nil; n++ {
		// Some have little patience, so that what was carried out is sent again.
		limited, cancel := context.WithTimeout(ctx, time.Duration(1+c.intn(6))*time.Second)
		r, text := c.front.call(limited, method, t, branch)
		cancel()
		switch {
		case r == yes, r == no:
			if n > 0 {
				c.told("dtm-" + method + " - repeated")
			}
			return r, n == 0
		case r == wrong:
			c.told(fmt.Sprintf("%s %s of %s was refused as wrong: %s", t.TransType, method, t.Gid, text))
			return lost, false
		case method == "abort" && strings.Contains(text, "no TransGlobal"): // it was never begun
			return lost, false
		}
		wait(ctx, time.Duration(50+c.intn(200))*time.Millisecond)
	}
	return lost, false
}

// resolve waits for the outcome of what others decide.
func (c *caller) resolve(ctx context.Context, gid string) string {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, 3*time.Second)
		o := c.front.query(limited, gid)
		cancel()
		if o != "" {
			return o
		}
		wait(ctx, time.Duration(100+c.intn(200))*time.Millisecond)
	}
	return unknown
}

// end submits or aborts, and gives what that comes to. As with DTM, FAILURE may mean that
// it has succeeded already, by the first copy of a repeated submit, or because the sender
// of a message was asked before it had submitted: then the outcome is asked for.
func (c *caller) end(ctx context.Context, method string, t *trans) string {
	r, first := c.askFront(ctx, method, t, nil)
	switch {
	case r == lost:
		return unknown
	case r == no && (!first || method == "abort" || t.TransType == "msg"):
		return c.resolve(ctx, t.Gid)
	case r == no || method == "abort":
		return rolledBack
	case t.TransType == "saga" && !t.WaitResult:
		return c.resolve(ctx, t.Gid)
	default:
		return committed
	}
}

func (c *caller) branchURL(i int, path string) string { return c.p.Targets[i] + "/dtm/" + path }

// dtmSaga is a payment in two steps, one after the other or both at once.
func (c *caller) dtmSaga(ctx context.Context) (gid, outcome string) {
	t := c.trans("saga")
	t.WaitResult = c.intn(3) > 0
	if c.intn(3) == 0 {
		t.CustomData = `{"concurrent":true}`
	}
	receive := c.branchURL(1, "do/receive")
	if c.refused() {
		receive = c.branchURL(1, "refuse/receive")
	}
	t.Steps = []map[string]string{
		{"action": c.branchURL(0, "do/pay"), "compensate": c.branchURL(0, "do/pay")},
		{"action": receive, "compensate": c.branchURL(1, "do/receive")},
	}
	t.Payloads = []string{"{}", "{}"}
	return t.Gid, c.end(ctx, "submit", t)
}

// dtmMessage goes out with a local transaction at a. Some senders fall silent, or do not
// hear what became of theirs: then it is the coordinator who asks.
func (c *caller) dtmMessage(ctx context.Context) (gid, outcome string) {
	t := c.trans("msg")
	t.TimeoutToFail, t.QueryPrepared = 2, c.branchURL(0, "query")
	t.Steps = []map[string]string{{"action": c.branchURL(0, "do/deliver")}, {"action": c.branchURL(1, "do/deliver")}}
	t.Payloads = []string{"{}", "{}"}
	switch r, _ := c.askFront(ctx, "prepare", t, nil); {
	case r == lost:
		return t.Gid, unknown
	case r == no: // it was asked already
		return t.Gid, c.resolve(ctx, t.Gid)
	case c.refused():
		return t.Gid, c.end(ctx, "abort", t)
	case c.intn(12) == 0:
		return t.Gid, c.resolve(ctx, t.Gid) // nothing was done, nothing is said
	}
	if err := c.post(ctx, c.p.Services[0]+"/dtm/local/"+t.Gid, nil); err != nil || c.intn(6) == 0 {
		return t.Gid, c.resolve(ctx, t.Gid)
	}
	c.dawdle(ctx, t)
	return t.Gid, c.end(ctx, "submit", t)
}

// dtmTCC tries at both.
func (c *caller) dtmTCC(ctx context.Context) (gid, outcome string) {
	t := c.trans("tcc")
	t.TimeoutToFail = int64(2 + c.intn(5))
	switch r, _ := c.askFront(ctx, "prepare", t, nil); r { //nolint:exhaustive // the others do not come
	case lost:
		return t.Gid, unknown
	case no:
		return t.Gid, c.resolve(ctx, t.Gid)
	}
	for i := range 2 {
		if !c.dtmTry(ctx, t, i) {
			return t.Gid, c.end(ctx, "abort", t)
		}
	}
	if c.refused() {
		return t.Gid, c.end(ctx, "abort", t)
	}
	c.dawdle(ctx, t)
	return t.Gid, c.end(ctx, "submit", t)
}

// dawdle has some submit at about the time at which the coordinator acts by itself.
func (c *caller) dawdle(ctx context.Context, t *trans) {
	if c.intn(4) == 0 {
		wait(ctx, time.Duration(t.TimeoutToFail)*time.Second-time.Duration(c.intn(200))*time.Millisecond)
	}
}

// dtmTry registers a branch and tries, once more where there is no answer.
func (c *caller) dtmTry(ctx context.Context, t *trans, i int) bool {
	id := fmt.Sprintf("%02d", i+1)
	to := c.branchURL(i, "do/try")
	if r, _ := c.askFront(ctx, "registerBranch", t, map[string]string{"branch_id": id, "confirm": to, "cancel": to}); r != yes {
		return false
	}
	q := url.Values{"gid": {t.Gid}, "trans_type": {t.TransType}, "branch_id": {id}, "op": {"try"}}
	err := c.post(ctx, c.p.Services[i]+"/dtm/do/try", q)
	if err != nil {
		err = c.post(ctx, c.p.Services[i]+"/dtm/do/try", q)
	}
	return err == nil
}

// dtmRoutes are those of a service with DTM's barrier.
func (s *service) dtmRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /dtm/do/{name}", s.branch)
	mux.HandleFunc("POST /dtm/refuse/{name}", s.refuse)
	mux.HandleFunc("POST /dtm/local/{gid}", s.local)
	mux.HandleFunc("/dtm/query", s.queryPrepared)
}
