package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/engine"
)

// scenario is one story with an end that can be checked.
type scenario struct {
	family string // what --scenario names; several may share one
	name   string
	what   string
	act    func(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error)
	want   string // the outcome
	xa     bool   // it needs places for prepared transactions
}

const (
	committed  = "committed"
	rolledBack = "rolled back"
)

func scenarios() []scenario {
	return []scenario{
		{"commit", "commit", "an order changes three databases", actCommit, committed, false},
		{"rollback", "rollback", "the last service refuses: the account is too small", actRollback, rolledBack, false},
		{"crash-participant", "crash-participant", "kill -9 of stock between its local commit and phase two", actCrashParticipant, committed, false},
		{"crash-coordinator", "crash-coordinator-after-decision", "kill -9 of the coordinator right after the decision, before anybody hears of it",
			actCrashCoordinator(engine.AfterDecision), committed, false},
		{"crash-coordinator", "crash-coordinator-before-decision", "kill -9 of the coordinator right before the decision is durable",
			actCrashCoordinator(engine.BeforeDecision), committed, false},
		{"contention", "contention", "a second order and a plain session want a row that is undecided", actContention, committed, false},
		{"xa", "xa", "prepared transactions; kill -9 of stock between prepare and phase two", actXA, committed, true},
		{"tcc", "tcc-confirm", "kill -9 of stock before Confirm, and again before it has answered", actTCCConfirm, committed, false},
		{"tcc", "tcc-cancel", "stock is reserved, the account is too small, so stock is cancelled", actTCCCancel, rolledBack, false},
		{"saga", "saga-crash", "kill -9 of the coordinator in the middle of a saga, and of whoever had submitted it", actSagaCrash, committed, false},
		{"saga", "saga-compensate", "the charge fails for good, so stock is put back", actSagaCompensate, rolledBack, false},
		{"message", "message-crash", "the coordinator is dead at COMMIT, and kill -9 of the sender right after it", actMessageCrash, committed, false},
		{"message", "message-rollback", "messages are published, and then the local transaction is refused", actMessageRollback, rolledBack, false},
		{"workflow", "workflow", "kill -9 of orders in the second step of a workflow", actWorkflow, committed, false},
		{"mixed", "mixed-crash", "AT, XA, TCC, a message and a saga in one transaction; kill -9 of accounts before the commit", actMixedCrash, committed, true},
		{"mixed", "mixed-rollback", "the same, and the step of the saga fails for good", actMixedRollback, rolledBack, true},
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios() {
		if !slices.Contains(names, s.family) {
			names = append(names, s.family)
		}
	}
	return names
}

// storyLines are the scenarios for a person who asks for help.
func storyLines() string {
	var b strings.Builder
	for _, s := range scenarios() {
		fmt.Fprintf(&b, "  %-34s %s\n", s.name, s.what)
	}
	return b.String()
}

const (
	// scenarioLimit bounds one scenario: longer than any retry inside of it.
	scenarioLimit = 90 * time.Second
	// healLimit bounds what is done about one that did not hold. Where that does not
	// help, those that follow should fail soon.
	healLimit = 20 * time.Second
)

// play runs one scenario from fresh rows and judges it by what is in the
// databases when nothing is undecided any more.
func (c *cluster) play(ctx context.Context, p *printer, sc scenario) result {
	p.say("\n%s: %s", sc.name, sc.what)
	r := result{Scenario: sc.name}
	if sc.xa && c.slots == 0 {
		r.Skipped = noSlots
		p.say("  SKIPPED: %s", noSlots)
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, scenarioLimit)
	s := &stage{cluster: c, p: p, told: "the caller"}
	begun := time.Now()
	defer func() {
		cancel()
		s.background.Wait()
	}()
	err := func() (err error) {
		if err := c.heal(ctx); err != nil {
			return err
		}
		if err := c.reset(ctx); err != nil {
			return err
		}
		if r.Before, err = c.rows(ctx); err != nil {
			return err
		}
		p.rows("before", r.Before)
		resp, err := sc.act(ctx, s)
		if err != nil {
			return err
		}
		r.XID, r.Outcome = resp.GetXid(), resp.GetOutcome()
		s.event("%s is told: %s", s.told, resp.GetOutcome())
		if err := c.quiet(ctx); err != nil {
			return err
		}
		if r.XID == "" {
			if r.XID, err = c.newest(ctx, begun); err != nil {
				return err
			}
		}
		if r.After, err = c.rows(ctx); err != nil {
			return err
		}
		p.rows("after", r.After)
		return judge(sc, r)
	}()
	r.Events = s.events
	if r.Held = err == nil; r.Held {
		p.say("  HELD")
	} else {
		r.Problem = err.Error()
		p.say("  DID NOT HOLD: %v", err)
	}
	return r
}

// judge compares the rows with those of the outcome.
func judge(sc scenario, r result) error {
	if r.Outcome != sc.want {
		return fmt.Errorf("outcome %q, want %q", r.Outcome, sc.want)
	}
	want := fresh
	if sc.want == committed {
		want = ordered
	}
	if !slices.Equal(r.After, want) {
		return fmt.Errorf("rows %q, want %q", r.After, want)
	}
	return nil
}

// fresh are the rows before each scenario, ordered those after the one order.
var (
	fresh   = []string{"stock     (tea,10)", "accounts  (ann,100)"}
	ordered = []string{"orders    (1,tea,3,ann,30)", "stock     (tea,7)", "accounts  (ann,70)"}
)

func order(m shopv1.Mode) *shopv1.PlaceRequest {
	return &shopv1.PlaceRequest{Id: 1, Item: "tea", Count: 3, Account: "ann", Amount: 30, Mode: m}
}

// tooDear is an order that the account can't pay.
func tooDear(m shopv1.Mode) *shopv1.PlaceRequest {
	o := order(m)
	o.Amount = 1000
	return o
}

// heal starts what a scenario that did not hold has left dead, and waits until
// its transaction is out of the way.
func (c *cluster) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	for _, n := range c.nodes() {
		if n.proc != nil {
			continue
		}
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return c.quiet(ctx)
}

func (c *cluster) reset(ctx context.Context) error {
	for service, sql := range map[string]string{
		"orders":   "DELETE FROM orders",
		"stock":    "DELETE FROM reserved; DELETE FROM stock; INSERT INTO stock VALUES ('tea', 10)",
		"accounts": "DELETE FROM reserved; DELETE FROM accounts; INSERT INTO accounts VALUES ('ann', 100)",
	} {
		if _, err := c.db[service].Exec(ctx, sql); err != nil {
			return fmt.Errorf("reset %s: %w", service, err)
		}
	}
	return nil
}

// rows are all that the services keep, reservations too.
func (c *cluster) rows(ctx context.Context) ([]string, error) {
	var out []string
	for _, t := range []struct{ service, table string }{
		{"orders", "orders"}, {"stock", "stock"}, {"stock", "reserved"}, {"accounts", "accounts"}, {"accounts", "reserved"},
	} {
		label := t.service
		if t.table != t.service {
			label += " " + t.table
		}
		rows, err := c.db[t.service].Query(ctx, fmt.Sprintf("SELECT format('%%-9s %%s', '%s', t) FROM %s t ORDER BY 1", label, t.table))
		if err != nil {
			return nil, err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	return out, nil
}

// intents counts what is undecided or unsettled in one database.
func (c *cluster) intents(ctx context.Context, service string) (n int, err error) {
	err = c.db[service].QueryRow(ctx, `SELECT (SELECT count(*) FROM handfast.undo) + (SELECT count(*) FROM handfast.gate)
		+ (SELECT count(*) FROM handfast.fence WHERE state = 'L')
		+ (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())`).Scan(&n)
	return n, err
}

// quiet waits until the coordinator has nothing left to do, and no database holds
// an intent.
func (c *cluster) quiet(ctx context.Context) error {
	var last []string
	for {
		left, err := c.unsettled(ctx)
		switch {
		case err != nil && (ctx.Err() == nil || last == nil):
			return err
		case err == nil && len(left) == 0:
			return nil
		case err == nil:
			last = left
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not settled: %s: %w", strings.Join(last, ", "), ctx.Err())
		}
	}
}

func (c *cluster) unsettled(ctx context.Context) (left []string, err error) {
	// The coordinator first: what it finishes is settled in the databases by then.
	list, err := c.transactions(ctx, &pb.ListRequest{Phases: []pb.Phase{pb.Phase_PHASE_ACTIVE, pb.Phase_PHASE_COLLECTING, pb.Phase_PHASE_SETTLING}})
	if err != nil {
		return nil, err
	}
	for _, t := range list {
		left = append(left, fmt.Sprintf("%s is %s", t.GetXid(), t.GetPhase()))
	}
	for _, service := range databases {
		n, err := c.intents(ctx, service)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			left = append(left, fmt.Sprintf("%d intents in %s", n, service))
		}
	}
	return left, nil
}

// newest is the transaction of a caller who was not told its XID.
func (c *cluster) newest(ctx context.Context, since time.Time) (string, error) {
	list, err := c.transactions(ctx, &pb.ListRequest{BegunAfter: timestamppb.New(since)})
	if err != nil {
		return "", err
	}
	if len(list) != 1 {
		return "", fmt.Errorf("%d transactions were begun, want 1", len(list))
	}
	return list[0].GetXid(), nil
}

func (c *cluster) transactions(ctx context.Context, r *pb.ListRequest) ([]*pb.Transaction, error) {
	resp, err := pb.NewAdminClient(c.conns["coordinator"]).List(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("ask the coordinator: %w", err)
	}
	return resp.GetTransactions(), nil
}
