package disk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/message"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
	"github.com/handfast/handfast/xid"
)

// scenario is one transaction of a mode, or of several.
type scenario struct {
	call      func(*service, context.Context) (outcome string)
	committed []string // what is there if it is committed; else nothing, or what was done is undone
	open      bool     // it may be rolled back although nobody refuses
}

var scenarios = map[string]scenario{
	"at":       {call: (*service).at, committed: []string{"a", "b"}},
	"xa":       {call: (*service).xa, committed: []string{"x", "y"}},
	"tcc":      {call: (*service).tcc, committed: []string{"t1 commit", "t1 forward", "t2 commit", "t2 forward"}},
	"saga":     {call: (*service).saga, committed: []string{"last forward", "pivot forward", "s1 forward", "s2 forward"}},
	"message":  {call: (*service).message, committed: []string{"m1 forward", "m2 forward", "sent"}},
	"asked":    {call: (*service).asked, committed: []string{"m1 forward", "m2 forward", "sent"}, open: true},
	"workflow": {call: (*service).workflow, committed: []string{"w1 forward", "w2 forward", "w3 forward"}},
	"mixed": {call: (*service).mixed, committed: []string{
		"a", "last forward", "m1 forward", "m2 forward", "pivot forward", "s1 forward", "s2 forward", "t1 commit", "t1 forward", "y",
	}},
	"dtm": {call: (*service).dtmSaga, committed: []string{"s1 forward", "s2 forward"}},
}

// modes are the names of scenarios, in the order in which they are played.
var modes = []string{"at", "xa", "tcc", "saga", "message", "asked", "workflow", "mixed", "dtm"}

// group is the name under which the handlers are attached.
const group = "disk"

// service is everybody but the coordinator, in one process that lives through it all:
// who calls, who takes part, and who keeps the books.
type service struct {
	*books
	shop   *shop
	dbs    map[string]*database
	refuse bool
	client *client.Client
	m      *tm.Manager
	detach []func()
	http   *http.Server // of the participants of DTM
	own    string       // its URL
	dtm    string       // the URL of DTM's API
}

func newService(mode string, refuse bool, coordinator, dtm string) (s *service, err error) {
	b := newBooks()
	s = &service{books: b, shop: newShop(b), refuse: refuse, dtm: "http://" + dtm + "/api/dtmsvr/", dbs: map[string]*database{}}
	if s.client, err = client.Dial(coordinator, client.WithLogger(quiet), client.WithDialOptions(fastDial)); err != nil {
		return nil, err
	}
	s.m = tm.New(s.client, tm.WithTimeout(timeout), tm.WithRetryLimit(patience))
	for name, mode := range map[string]pb.Mode{"a": pb.Mode_MODE_AT, "b": pb.Mode_MODE_AT, "x": pb.Mode_MODE_XA, "y": pb.Mode_MODE_XA} {
		d := newDatabase(b, name, mode)
		s.dbs[name] = d
		detach, err := s.client.Attach(&pb.AttachedResource{ResourceId: d.id.String(), Name: name}, d)
		if err != nil {
			return nil, err
		}
		s.detach = append(s.detach, detach)
	}
	detach, err := s.group().Attach(s.client)
	if err != nil {
		return nil, err
	}
	s.detach = append(s.detach, detach)
	if mode == "dtm" {
		err = s.listen()
	}
	return s, err
}

func (s *service) close() {
	for _, detach := range s.detach {
		detach()
	}
	_ = s.client.Close()
	if s.http != nil {
		_ = s.http.Close()
	}
}

// group has a handler for every name, and one for the sender of a message.
func (s *service) group() *handlers.Group {
	g := handlers.New(group)
	for _, name := range []string{"t1", "t2", "s1", "s2", "pivot", "last", "m1", "m2", "w1", "w2", "w3"} {
		for _, refuse := range []bool{false, true} {
			g.Handle(path(name, refuse), func(_ context.Context, c handlers.Call) ([]byte, error) {
				if c.Mode == pb.Mode_MODE_MESSAGE {
					s.outcome(c.XID.String(), committed, "delivery to "+name)
				}
				return nil, s.shop.act(c.Identity, name, refuse)
			})
		}
	}
	g.Handle("sent", func(_ context.Context, c handlers.Call) ([]byte, error) {
		if !s.shop.send(c.XID.String(), false) {
			return nil, fmt.Errorf("it never will: %w", target.ErrFailed)
		}
		return nil, nil
	})
	workflow.Register(g, s.m, "flow", s.flow)
	return g
}

func path(name string, refuse bool) string {
	if refuse {
		return "refuse/" + name
	}
	return "do/" + name
}

var errRefused = errors.New("refused")

// refused is what the one asked last says.
func (s *service) refused() error {
	if s.refuse {
		return errRefused
	}
	return nil
}

func (s *service) target(name string) target.Target {
	return target.Handler(group, path(name, false), target.Timeout(time.Second))
}

// last is the target of what refuses, if anything does.
func (s *service) last(name string) target.Target {
	return target.Handler(group, path(name, s.refuse), target.Timeout(time.Second))
}

var retry = target.RetryPolicy{First: 5 * time.Millisecond, Max: 50 * time.Millisecond}

// heard sorts an error of the manager, and notes what it says.
func (s *service) heard(x xid.ID, err error) string {
	out := unknown
	switch {
	case err == nil, errors.Is(err, tm.ErrCommitted):
		out = committed
	case errors.Is(err, tm.ErrRolledBack):
		out = rolledBack
	}
	s.outcome(x.String(), out, "the caller")
	return out
}

// do is tm.Manager.Do by hand, to know the XID whatever happens.
func (s *service) do(ctx context.Context, f func(ctx context.Context, x xid.ID) error) string {
	t, err := s.m.Begin(ctx)
	if err != nil {
		return unknown
	}
	if err := f(t.Context(ctx), t.XID); err != nil {
		err = s.m.Rollback(ctx, t, err)
		switch {
		case err == nil:
			s.outcome(t.XID.String(), rolledBack, "the caller")
			return rolledBack
		case errors.Is(err, tm.ErrCommitted):
			return s.heard(t.XID, err)
		}
		return unknown
	}
	return s.heard(t.XID, s.m.Commit(ctx, t))
}

func (s *service) local(ctx context.Context, names ...string) string {
	return s.do(ctx, func(ctx context.Context, x xid.ID) error {
		for _, name := range names {
			if err := s.dbs[name].exec(ctx, s.client, x); err != nil {
				return err
			}
		}
		return s.refused()
	})
}

func (s *service) at(ctx context.Context) string { return s.local(ctx, "a", "b") }
func (s *service) xa(ctx context.Context) string { return s.local(ctx, "x", "y") }

func (s *service) try(ctx context.Context, name string, refuse bool) error {
	b := tcc.Branch{Name: name, Confirm: s.target(name), Cancel: s.target(name), Retry: retry}
	_, err := tcc.Call(ctx, s.m, b, func(_ context.Context, id target.Identity) ([]byte, error) {
		return nil, s.shop.act(id, name, refuse)
	})
	return err
}

func (s *service) tcc(ctx context.Context) string {
	return s.do(ctx, func(ctx context.Context, _ xid.ID) error {
		if err := s.try(ctx, "t1", false); err != nil {
			return err
		}
		return s.try(ctx, "t2", s.refuse)
	})
}

func (s *service) trip() *saga.Definition {
	return saga.New("trip").Step("s1", s.target("s1"), saga.Compensate(s.target("s1")), saga.Retry(retry)).
		Step("s2", s.target("s2"), saga.Compensate(s.target("s2")), saga.Retry(retry)).
		Step("pivot", s.last("pivot"), saga.Pivot(), saga.Retry(retry)).Step("last", s.target("last"), saga.Retry(retry))
}

// wait waits for the end of what was submitted.
func (s *service) wait(ctx context.Context, x xid.ID, err error) string {
	if err != nil {
		return unknown
	}
	s.submitted(x.String())
	return s.heard(x, s.m.Wait(ctx, x))
}

func (s *service) saga(ctx context.Context) string {
	x, err := s.trip().Submit(ctx, s.m)
	return s.wait(ctx, x, err)
}

func (s *service) news() *message.Message {
	return message.New("news").To(s.target("m1"), message.Retry(retry)).To(s.target("m2"), message.Retry(retry))
}

// prepare prepares a message whose sender is asked after some time.
func (s *service) prepare(ctx context.Context, after time.Duration) (message.Prepared, error) {
	check := message.CheckBack(target.Handler(group, "sent", target.Timeout(time.Second)), after)
	p, err := s.news().Prepare(ctx, s.m, check)
	if err == nil {
		s.branch(p.XID.String(), xid.BranchOf(p.XID, "check-back").String(), "preparation")
	}
	return p, err
}

// asked is a message whose sender never says what became of it.
func (s *service) asked(ctx context.Context) string {
	p, err := s.prepare(ctx, 50*time.Millisecond)
	if err != nil {
		return unknown
	}
	s.shop.send(p.XID.String(), !s.refuse)
	return s.heard(p.XID, s.m.Wait(ctx, p.XID))
}

// message is prepared, and sent with a local transaction.
func (s *service) message(ctx context.Context) string {
	p, err := s.prepare(ctx, 5*time.Second)
	if err != nil {
		return unknown
	}
	if s.refuse {
		if err = p.Drop(ctx, errRefused); err == nil {
			s.outcome(p.XID.String(), rolledBack, "the sender")
			return rolledBack
		}
		return s.heard(p.XID, err)
	}
	if !s.shop.send(p.XID.String(), true) {
		return unknown // asked before it was done
	}
	return s.heard(p.XID, p.Send(ctx))
}

func (s *service) workflow(ctx context.Context) string {
	x, err := workflow.Start(ctx, s.m, group, "flow", nil, workflow.Retry(retry), workflow.Timeout(2*time.Second))
	if err != nil {
		return unknown
	}
	s.submitted(x.String())
	_, err = workflow.Wait(ctx, s.m, x)
	return s.heard(x, err)
}

// flow is a workflow of three steps.
func (s *service) flow(ctx context.Context, w *workflow.W, _ []byte) ([]byte, error) {
	for _, name := range []string{"w1", "w2", "w3"} {
		_, err := workflow.Step(ctx, w, name, func(_ context.Context, step workflow.StepCall) (string, error) {
			return name, s.shop.act(step, name, s.refuse && name == "w3")
		}, workflow.Compensate(s.target(name)), workflow.CompensateRetry(retry))
		if errors.Is(err, target.ErrFailed) {
			return nil, err
		}
		if err != nil {
			return nil, errors.Join(workflow.ErrRetry, err)
		}
	}
	return []byte("1"), nil
}

// mixed is all of them in one transaction. The saga is handed over last, and what
// becomes of it is what becomes of all.
func (s *service) mixed(ctx context.Context) string {
	t, err := s.m.Begin(ctx)
	if err != nil {
		return unknown
	}
	in := t.Context(ctx)
	err = errors.Join(s.dbs["a"].exec(in, s.client, t.XID), s.dbs["y"].exec(in, s.client, t.XID))
	if err == nil {
		err = s.try(in, "t1", false)
	}
	if err == nil {
		err = s.news().Enlist(in, s.m)
	}
	if err != nil {
		if err := s.m.Rollback(ctx, t, err); err != nil {
			return s.heard(t.XID, err)
		}
		s.outcome(t.XID.String(), rolledBack, "the caller")
		return rolledBack
	}
	return s.wait(ctx, t.XID, s.trip().SubmitAs(ctx, s.m, t))
}
