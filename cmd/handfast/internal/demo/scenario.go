package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/undolog"
)

// scenario is one story with an end that can be checked.
type scenario struct {
	family string // what --scenario names; several may share one
	name   string
	what   string
	act    func(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error)
	want   string // the outcome
}

const (
	committed  = "committed"
	rolledBack = "rolled back"
)

func scenarios() []scenario {
	return []scenario{
		{"commit", "commit", "an order changes three databases", actCommit, committed},
		{"rollback", "rollback", "the last service refuses: the account is too small", actRollback, rolledBack},
		{"crash-participant", "crash-participant", "kill -9 of stock between its local commit and phase two", actCrashParticipant, committed},
		{"crash-coordinator", "crash-coordinator-after-decision", "kill -9 of the coordinator right after the decision, before anybody hears of it",
			actCrashCoordinator(engine.AfterDecision), committed},
		{"crash-coordinator", "crash-coordinator-before-decision", "kill -9 of the coordinator right before the decision is durable",
			actCrashCoordinator(engine.BeforeDecision), committed},
		{"contention", "contention", "a second order and a plain session want a row that is undecided", actContention, committed},
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

// stage is what a scenario acts on.
type stage struct {
	*cluster
	p      *printer
	events []string
}

func (s *stage) event(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.events = append(s.events, text)
	s.p.say("  - %s", text)
}

// scenarioLimit bounds one scenario: longer than any retry inside of it.
const scenarioLimit = 90 * time.Second

// play runs one scenario from fresh rows and judges it by what is in the
// databases when nothing is undecided any more.
func (c *cluster) play(ctx context.Context, p *printer, sc scenario) result {
	ctx, cancel := context.WithTimeout(ctx, scenarioLimit)
	defer cancel()
	p.say("\n%s: %s", sc.name, sc.what)
	s := &stage{cluster: c, p: p}
	r := result{Scenario: sc.name}
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
		s.event("the caller is told: %s", resp.GetOutcome())
		if err := c.quiet(ctx); err != nil {
			return err
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

func order() *shopv1.PlaceRequest {
	return &shopv1.PlaceRequest{Id: 1, Item: "tea", Count: 3, Account: "ann", Amount: 30}
}

// heal starts what a scenario that did not hold has left dead, and waits until
// its transaction is out of the way.
func (c *cluster) heal(ctx context.Context) error {
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
		"orders": "DELETE FROM orders", "stock": "DELETE FROM stock; INSERT INTO stock VALUES ('tea', 10)",
		"accounts": "DELETE FROM accounts; INSERT INTO accounts VALUES ('ann', 100)",
	} {
		if _, err := c.db[service].Exec(ctx, sql); err != nil {
			return fmt.Errorf("reset %s: %w", service, err)
		}
	}
	return nil
}

func (c *cluster) rows(ctx context.Context) ([]string, error) {
	var out []string
	for _, service := range databases {
		rows, err := c.db[service].Query(ctx, fmt.Sprintf("SELECT format('%%-9s %%s', '%s', t) FROM %s t ORDER BY 1", service, service))
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
		+ (SELECT count(*) FROM handfast.fence WHERE state = 'L')`).Scan(&n)
	return n, err
}

// quiet waits until no database holds an intent.
func (c *cluster) quiet(ctx context.Context) error {
	for _, service := range databases {
		for {
			n, err := c.intents(ctx, service)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("%d intents are left in %s: %w", n, service, ctx.Err())
			}
		}
	}
	return nil
}

func actCommit(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	return s.orders.Place(ctx, order())
}

func actRollback(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	o := order()
	o.Amount = 1000
	resp, err := s.orders.Place(ctx, o)
	if err == nil {
		s.event("%s", resp.GetError())
	}
	return resp, err
}

// held places the order and returns when only its commit is missing. finish
// lets it commit and gives the answer.
func (s *stage) held(ctx context.Context) (id string, finish func() (*shopv1.PlaceResponse, error), err error) {
	type answer struct {
		resp *shopv1.PlaceResponse
		err  error
	}
	answered := make(chan answer, 1)
	go func() { // ends with ctx at the latest
		o := order()
		o.Hold = true
		resp, err := s.orders.Place(ctx, o)
		answered <- answer{resp, err}
	}()
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	holding := make(chan answer, 1)
	go func() { // ends with wait
		h, err := s.orders.AwaitHeld(wait, &shopv1.AwaitHeldRequest{})
		holding <- answer{&shopv1.PlaceResponse{Xid: h.GetXid()}, err}
	}()
	select {
	case h := <-holding:
		if h.err != nil {
			return "", nil, h.err
		}
		id = h.resp.GetXid()
	case a := <-answered:
		if a.err != nil {
			return "", nil, fmt.Errorf("the order ended before it was held: %w", a.err)
		}
		return "", nil, fmt.Errorf("the order ended before it was held: %s", a.resp.GetError())
	}
	return id, func() (*shopv1.PlaceResponse, error) {
		if _, err := s.orders.Release(ctx, &shopv1.ReleaseRequest{}); err != nil {
			return nil, err
		}
		a := <-answered
		return a.resp, a.err
	}, nil
}

func actCrashParticipant(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	_, finish, err := s.held(ctx)
	if err != nil {
		return nil, err
	}
	s.event("every service has committed locally; kill -9 of stock (pid %d)", s.services["stock"].pid())
	s.services["stock"].kill()
	resp, err := finish()
	if err != nil {
		return nil, err
	}
	n, err := s.intents(ctx, "stock")
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("stock was settled although its service is dead")
	}
	s.event("decided: %s; stock is not settled, its rows are guarded by their intents", resp.GetOutcome())
	if err := s.services["stock"].start(ctx); err != nil {
		return nil, err
	}
	s.event("stock is started again (pid %d)", s.services["stock"].pid())
	return resp, nil
}

func actCrashCoordinator(point string) func(context.Context, *stage) (*shopv1.PlaceResponse, error) {
	return func(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
		s.tc.kill()
		if err := s.tc.start(ctx, tc.CrashPointEnv+"="+point); err != nil {
			return nil, err
		}
		_, finish, err := s.held(ctx)
		if err != nil {
			return nil, err
		}
		s.event("every service has committed locally; the coordinator (pid %d) is set to die %s", s.tc.pid(), point)
		type answer struct {
			resp *shopv1.PlaceResponse
			err  error
		}
		answered := make(chan answer, 1)
		go func() { // ends with ctx at the latest
			resp, err := finish()
			answered <- answer{resp, err}
		}()
		if err := s.tc.awaitEnd(ctx); err != nil {
			return nil, err
		}
		n := 0
		for _, service := range databases {
			in, err := s.intents(ctx, service)
			if err != nil {
				return nil, err
			}
			if in > 0 {
				n++
			}
		}
		if n != len(databases) {
			return nil, fmt.Errorf("only %d of %d databases hold intents while the coordinator is dead", n, len(databases))
		}
		s.event("the coordinator is dead; all databases hold their intents, the caller waits")
		if err := s.tc.start(ctx); err != nil {
			return nil, err
		}
		s.event("the coordinator is started again (pid %d)", s.tc.pid())
		a := <-answered
		return a.resp, a.err
	}
}

func actContention(ctx context.Context, s *stage) (*shopv1.PlaceResponse, error) {
	id, finish, err := s.held(ctx)
	if err != nil {
		return nil, err
	}
	s.event("order 1 is undecided and holds the row of tea")
	second := order()
	second.Id = 2
	resp, err := s.orders.Place(ctx, second)
	if err != nil {
		return nil, err
	}
	if resp.GetOutcome() != rolledBack || resp.GetConflictHolder() != id {
		return nil, fmt.Errorf("order 2: outcome %q, holder %q, want a rollback because of %s: %s", resp.GetOutcome(), resp.GetConflictHolder(), id, resp.GetError())
	}
	s.event("order 2 is refused at its statement, and told who holds the row")
	_, err = s.db["stock"].Exec(ctx, "UPDATE stock SET count = 999 WHERE item = 'tea'")
	if err == nil {
		return nil, errors.New("a plain session overwrote an undecided row")
	}
	if conflict, ok := undolog.AsConflict(err); !ok || conflict.Holder.String() != id {
		return nil, fmt.Errorf("a plain session is refused, but not because of %s: %w", id, err)
	}
	s.event("a plain session is refused: %v", err)
	return finish()
}
