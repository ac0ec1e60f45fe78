package dtm

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/go-resty/resty/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/handfast/handfast/tests/figures"
)

// transfer moves money from one account to another, in one of many ways.
type transfer struct {
	From, To int
	Amount   int
	Refuse   string // the service that refuses

	gid      string
	way      string
	protocol protocol
	known    bool // the coordinator has said that it has it
}

const (
	customers = 40
	riches    = 1_000_000
)

// teller is one who has transfers made, and tries again what may not have been
// heard, as a careful caller does.
type teller struct {
	*world
	b       *bank
	workers map[protocol]*process
	ctx     context.Context //nolint:containedctx // of the whole test
}

func (x *transfer) text() string {
	text, err := json.Marshal(x)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// guard makes one part of a transfer in a call, behind a barrier. n is by how much
// of the amount, and whose.
func (r *teller) guard(who func(transfer) int, n int) func(call) error {
	return func(c call) error {
		var x transfer
		if err := json.Unmarshal([]byte(c.Body), &x); err != nil {
			return err
		}
		if x.Refuse == c.Name && (c.Op == "action" || c.Op == "try") {
			return dtmcli.ErrFailure
		}
		return r.b.guarded(c, `UPDATE customer SET balance = balance + $2 WHERE id = $1`, who(x), n*x.Amount)
	}
}

func (r *teller) open() {
	from, to := func(x transfer) int { return x.From }, func(x transfer) int { return x.To }
	for what, f := range map[string]func(call) error{
		"out action": r.guard(from, -1), "out compensate": r.guard(from, 1), "out rollback": r.guard(from, 1),
		"in action": r.guard(to, 1), "in compensate": r.guard(to, -1), "in rollback": r.guard(to, -1),
		"out try": r.guard(from, -1), "out cancel": r.guard(from, 1), "out confirm": r.guard(from, 0),
		"in try": r.guard(to, 0), "in cancel": r.guard(to, 0), "in confirm": r.guard(to, 1),
		"sent msg": func(c call) error {
			bb, err := barrier(c)
			if err != nil {
				return err
			}
			return bb.QueryPrepared(r.b.db)
		},
	} {
		r.on(what, f)
	}
}

// make makes a transfer, until the coordinator has heard of it.
func (r *teller) make(x *transfer) error {
	ways := map[string]func(*transfer) error{"saga": r.saga, "concurrent saga": r.saga, "tcc": r.tcc, "message": r.message, "workflow": r.workflow}
	for {
		err := ways[x.way](x)
		if err == nil {
			x.known = true
			return nil
		}
		if x.way == "message" && errors.Is(err, dtmcli.ErrFailure) {
			return nil // the sender itself refused
		}
		if q, err := ask(r.ctx, r.HTTP, x.gid); err == nil && q.Transaction != nil {
			x.known = true
			return nil // it will end in one way or the other
		}
		select {
		case <-time.After(50 * time.Millisecond): // it is starting
		case <-r.ctx.Done():
			return fmt.Errorf("%s over %s: %w", x.way, x.protocol, err)
		}
	}
}

func (r *teller) saga(x *transfer) error {
	concurrent := x.way == "concurrent saga"
	if x.protocol == overGRPC {
		s := dtmgrpc.NewSagaGrpc(r.GRPC, x.gid)
		for _, name := range []string{"out", "in"} {
			s.Add(r.url(overGRPC, name), r.url(overGRPC, name), wrapperspb.String(x.text()))
		}
		s.RetryInterval, s.Concurrent = 1, concurrent
		return s.Submit()
	}
	s := dtmcli.NewSaga(r.HTTP, x.gid)
	for _, name := range []string{"out", "in"} {
		s.Add(r.url(overHTTP, name), r.url(overHTTP, name), x)
	}
	s.RetryInterval, s.Concurrent = 1, concurrent
	return s.Submit()
}

func (r *teller) tcc(x *transfer) error {
	options := func(b *dtmimp.TransBase) { b.RetryInterval, b.TimeoutToFail = 1, 5 }
	if x.protocol == overGRPC {
		return dtmgrpc.TccGlobalTransaction2(r.GRPC, x.gid, func(t *dtmgrpc.TccGrpc) { options(&t.TransBase) }, func(t *dtmgrpc.TccGrpc) error {
			return inTurn(func(name string) error {
				u := r.url(overGRPC, name)
				return t.CallBranch(wrapperspb.String(x.text()), u, u, u, &wrapperspb.StringValue{})
			}, "out", "in")
		})
	}
	return dtmcli.TccGlobalTransaction2(r.HTTP, x.gid, func(t *dtmcli.Tcc) { options(&t.TransBase) }, func(t *dtmcli.Tcc) (*resty.Response, error) {
		return nil, inTurn(func(name string) error {
			u := r.url(overHTTP, name)
			_, err := t.CallBranch(x, u, u, u)
			return err
		}, "out", "in")
	})
}

// message takes in a local transaction, and gives by a message.
func (r *teller) message(x *transfer) error {
	take := func(tx *sql.Tx) error {
		if x.Refuse != "" {
			return dtmcli.ErrFailure
		}
		return change(tx, `UPDATE customer SET balance = balance - $2 WHERE id = $1`, x.From, x.Amount)
	}
	options := func(m *dtmcli.Msg) { m.RetryInterval, m.TimeoutToFail = 1, 5 }
	sent := r.sent(x.protocol)
	if x.protocol == overGRPC {
		m := dtmgrpc.NewMsgGrpc(r.GRPC, x.gid).Add(r.url(overGRPC, "in"), wrapperspb.String(x.text()))
		options(&m.Msg)
		return m.DoAndSubmitDB(sent, r.b.db, take)
	}
	m := dtmcli.NewMsg(r.HTTP, x.gid).Add(r.url(overHTTP, "in"), x)
	options(m)
	return m.DoAndSubmitDB(sent, r.b.db, take)
}

func (r *teller) workflow(x *transfer) error {
	o, err := r.workers[x.protocol].execute(r.ctx, "transfer", x.gid, x.text())
	if err == nil && o.Err != "" {
		err = errors.New(o.Err)
	}
	return err
}

// TestEndurance has many transfers made while the coordinator is killed again and
// again. In the end each account has what the outcomes say.
func TestEndurance(t *testing.T) {
	t.Parallel()
	betterThanDTM(t, "loses transactions with its embedded store")
	transfers, kills, limit := 1000, 2, 6*time.Minute
	if *long {
		transfers, kills, limit = 10_000, 20, 28*time.Minute
	}
	start := time.Now()
	r, all := newTeller(t, limit), make([]*transfer, transfers)
	ways := []string{"saga", "concurrent saga", "tcc", "message", "workflow"}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	for i := range all {
		x := &transfer{From: dice.IntN(customers), To: dice.IntN(customers), Amount: 1 + dice.IntN(100),
			gid: fmt.Sprintf("endurance-%d", i), way: ways[i%len(ways)], protocol: bothWays[i/len(ways)%2]}
		if dice.IntN(5) == 0 {
			x.Refuse = []string{"out", "in"}[dice.IntN(2)]
		}
		all[i] = x
	}

	var begun atomic.Int64
	var tellers sync.WaitGroup
	for range 16 {
		tellers.Go(func() {
			for n := begun.Add(1); int(n) <= transfers; n = begun.Add(1) {
				if err := r.make(all[n-1]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := 1; n <= kills; n++ {
		for int(begun.Load()) < n*transfers/(kills+1) {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-r.ctx.Done():
				t.Fatalf("%d transfers begun before the time was over", begun.Load())
			}
		}
		r.Restart() // after a SIGKILL
	}
	tellers.Wait()
	outcomes := r.settle(all)
	keep(t, start, kills, outcomes)
}

// keep writes what was counted, if that is asked for.
func keep(t *testing.T, begun time.Time, kills int, outcomes map[string]int) {
	t.Helper()
	run := figures.Run{
		Name: "dtm", Command: "cd tests/dtm && go test . -run Endurance", Counts: map[string]int64{"deaths of the coordinator": int64(kills)},
	}
	if *long {
		run.Command += " -long -timeout 30m"
	}
	for how, n := range outcomes {
		run.Counts[how] = int64(n)
		run.Counts["transactions"] += int64(n)
	}
	if t.Failed() {
		run.Failures = []string{"the test failed"}
	}
	check(t, figures.Keep(*reportDir, begun, run))
}

func newTeller(t *testing.T, limit time.Duration) *teller {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	r := &teller{world: newWorldToKill(t), b: newBank(t), workers: map[protocol]*process{}, ctx: ctx}
	r.forget = true
	r.b.db.SetMaxOpenConns(24)
	r.b.db.SetMaxIdleConns(24)
	r.b.exec(`CREATE TABLE customer (id int PRIMARY KEY, balance bigint NOT NULL)`)
	r.b.exec(`INSERT INTO customer SELECT i, $1 FROM generate_series(0, $2) i`, riches, customers-1)
	r.open()
	for _, p := range bothWays {
		r.workers[p] = r.works(p, func(k *worker) { k.Bank, k.Again = r.b.conf, 1 })
	}
	return r
}

// settle waits until each transfer is over, and compares the accounts with their
// outcomes.
func (r *teller) settle(all []*transfer) (outcomes map[string]int) {
	r.t.Helper()
	want := make([]int, customers)
	count := map[string]int{}
	for _, x := range all {
		status := r.outcome(x)
		count[x.way+" "+status]++
		if status == "succeed" {
			want[x.From] -= x.Amount
			want[x.To] += x.Amount
		}
		switch {
		case status == "succeed" && x.Refuse != "":
			r.t.Errorf("%s over %s succeeded, though %s refused", x.way, x.protocol, x.Refuse)
		case status != "succeed" && x.Refuse == "" && x.way != "tcc" && x.way != "message": // those may run into their timeout
			r.t.Errorf("%s over %s is %s", x.way, x.protocol, status)
		case status == "unknown" && x.known:
			r.t.Errorf("%s over %s is forgotten", x.way, x.protocol)
		}
	}
	r.t.Logf("outcomes: %v", count)
	for _, status := range []string{"prepared", "submitted", "aborting"} {
		if n := r.listed(status); n != 0 {
			r.t.Errorf("%d transactions are %s in the end", n, status)
		}
	}
	rows, err := r.b.db.QueryContext(r.ctx, `SELECT id, balance FROM customer ORDER BY id`)
	check(r.t, err)
	defer rows.Close() //nolint:errcheck // it is read to its end
	sum := 0
	for rows.Next() {
		var id, balance int
		check(r.t, rows.Scan(&id, &balance))
		sum += balance
		if balance != riches+want[id] {
			r.t.Errorf("account %d has %d, want %d", id, balance, riches+want[id])
		}
	}
	check(r.t, rows.Err())
	equal(r.t, "sum of all accounts", sum, customers*riches)
	return count
}

// outcome waits for the end of a transfer.
func (r *teller) outcome(x *transfer) string {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		q, err := ask(r.ctx, r.HTTP, x.gid)
		if s := q.status(); err == nil && (s == "succeed" || s == "failed" || s == "unknown") {
			return s
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("%s over %s is %s, %v: %v", x.way, x.protocol, q.status(), err, q.rows())
		}
	}
}

// listed counts the transactions with a status.
func (r *teller) listed(status string) int {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, r.HTTP+"/all?limit=100&status="+status, http.NoBody)
	check(r.t, err)
	resp, err := http.DefaultClient.Do(req)
	check(r.t, err)
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	var list struct{ Transactions []any }
	check(r.t, json.NewDecoder(resp.Body).Decode(&list))
	return len(list.Transactions)
}
