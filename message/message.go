package message

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// The bounds of the coordinator, checked by Validate.
const (
	MaxReceivers = 255
	MaxAfter     = 32
	MaxSize      = 2<<20 - 4<<10 // of a message with all its receivers, in bytes
)

// checkBack is the name of the branch that stands for the sender's transaction.
const checkBack = "check-back"

// ErrNoTransaction is Enlist with a context that carries no XID.
var ErrNoTransaction = errors.New("the context belongs to no transaction; call it inside of tm.Manager.Do")

// Message says who gets what. It is data and may be sent any number of times, at the
// same time, too, as long as nobody changes it.
type Message struct {
	name      string
	retry     target.RetryPolicy
	receivers []receiver
}

type receiver struct {
	name  string
	to    target.Target
	after []string
	retry target.RetryPolicy
}

// New makes a message without receivers. name is for people, at most 256 bytes.
func New(name string) *Message { return &Message{name: name} }

// Retry sets how deliveries are tried again to all receivers that have no policy of
// their own, and gives the message back. There is no limit of attempts.
func (m *Message) Retry(p target.RetryPolicy) *Message { m.retry = p; return m }

// Option changes how one receiver gets the message.
type Option func(*receiver)

// To adds a receiver, and gives the message back. target.Payload is what it gets,
// target.Delay how long after the decision, and target.Timeout how long one delivery may
// take. Receivers are named "to-1", "to-2", ... unless Name says otherwise.
func (m *Message) To(t target.Target, opts ...Option) *Message {
	r := receiver{name: fmt.Sprintf("to-%d", len(m.receivers)+1), to: t}
	for _, o := range opts {
		o(&r)
	}
	m.receivers = append(m.receivers, r)
	return m
}

// Name names a receiver, for After, for people, and for "${steps.NAME}".
func Name(name string) Option { return func(r *receiver) { r.name = name } }

// After lets a receiver get the message once others have it; these have to be added
// before. At most MaxAfter.
func After(names ...string) Option {
	return func(r *receiver) { r.after = append([]string(nil), names...) }
}

// Retry sets how the delivery is tried again, instead of what Message.Retry says. There
// is no limit of attempts.
func Retry(p target.RetryPolicy) Option { return func(r *receiver) { r.retry = p } }

// Error is what is wrong with a message.
type Error struct {
	Message  string
	Receiver string // empty where it is about the message
	Err      error
}

// Error names the message and the receiver, and says what would be right.
func (e *Error) Error() string {
	if e.Receiver == "" {
		return fmt.Sprintf("message %.40q: %v", e.Message, e.Err)
	}
	return fmt.Sprintf("message %.40q: receiver %.40q: %v", e.Message, e.Receiver, e.Err)
}

// Unwrap gives Err, such as a *target.Error.
func (e *Error) Unwrap() error { return e.Err }

const unlimited = "retry: a message is delivered until that succeeds, so it has no limit of attempts"

// Validate tells all that is wrong with the message, one *Error for each, joined.
func (m *Message) Validate() error {
	wrong := func(r string, format string, args ...any) error {
		return &Error{Message: m.name, Receiver: r, Err: fmt.Errorf(format, args...)}
	}
	if n := len(m.receivers); n == 0 || n > MaxReceivers {
		return wrong("", "it has %d receivers; want from 1 to %d", n, MaxReceivers)
	}
	var errs []error
	if err := m.retry.Validate(); err != nil {
		errs = append(errs, wrong("", "%w", err))
	}
	if m.retry.Attempts > 0 {
		errs = append(errs, wrong("", unlimited))
	}
	var before []string
	for i := range m.receivers {
		r := &m.receivers[i]
		fail := func(format string, args ...any) { errs = append(errs, wrong(r.name, format, args...)) }
		switch err := target.CheckName(r.name); {
		case err != nil:
			fail("%w", err)
		case r.name == checkBack || slices.Contains(before, r.name):
			fail("there is another one of that name")
		}
		if err := r.to.Validate(); err != nil {
			fail("%w", err)
		}
		if err := r.retry.Validate(); err != nil {
			fail("%w", err)
		}
		if r.retry.Attempts > 0 {
			fail(unlimited)
		}
		if len(r.after) > MaxAfter {
			fail("after: %d names; want at most %d", len(r.after), MaxAfter)
		}
		for _, a := range r.after {
			if !slices.Contains(before, a) {
				fail("after: there is no receiver %.40q added before this one", a)
			}
		}
		steps, own, _ := r.to.References()
		for _, s := range steps {
			switch {
			case !slices.Contains(r.after, s):
				fail("it uses the result of %.40q; want that name in After", s)
			case slices.ContainsFunc(m.receivers[:i], func(o receiver) bool { return o.name == s && o.to.DTM }):
				fail("it uses the result of %.40q, which has none: it is called as DTM would", s)
			}
		}
		if own {
			fail("it uses its own result, which there is none before it is called")
		}
		before = append(before, r.name)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	size := proto.Size(&pb.SubmitRequest{Branches: m.branches(func(string) xid.BranchID { return xid.BranchID{1} })})
	if size > MaxSize {
		return wrong("", "it is %d bytes long as a whole; want at most %d", size, MaxSize)
	}
	return nil
}

// branches are the deliveries. id names the branch of a receiver.
func (m *Message) branches(id func(name string) xid.BranchID) []*pb.RegisterBranchRequest {
	out := make([]*pb.RegisterBranchRequest, 0, len(m.receivers))
	ids := make(map[string]string, len(m.receivers))
	for i := range m.receivers {
		r := &m.receivers[i]
		ids[r.name] = id(r.name).String()
		b := &pb.RegisterBranchRequest{
			BranchId: ids[r.name], Mode: pb.Mode_MODE_MESSAGE, Name: r.name, Vote: pb.Vote_VOTE_YES,
			Plan: &pb.Plan{Commit: r.to.Proto(), Retry: r.retry.Or(m.retry).Proto()},
		}
		for _, a := range r.after {
			b.Plan.After = append(b.Plan.After, ids[a])
		}
		out = append(out, b)
	}
	return out
}

// Name is what New was called with.
func (m *Message) Name() string { return m.name }

// Branches are the deliveries as the coordinator is told them, with new ids each time:
// for those who register or submit them another way, as package rm does with a local
// transaction. Each comes behind those that it comes after. Errors are those of Validate.
func (m *Message) Branches() ([]*pb.RegisterBranchRequest, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m.branches(func(string) xid.BranchID { return xid.NewBranchID() }), nil
}

// Send delivers the message without a condition: when it returns without an error the
// coordinator will. The XID tells how far it is, with tm.Manager.Wait and Get.
//
// Errors: what Validate says, before anything is sent; those of tm.Manager.Begin and
// Submit. With tm.ErrOutcomeUnknown the answer was lost, and SendAs is how to go on.
func (m *Message) Send(ctx context.Context, mgr *tm.Manager, opts ...tm.Option) (xid.ID, error) {
	if err := m.Validate(); err != nil {
		return xid.ID{}, err
	}
	t, err := mgr.Begin(ctx, append([]tm.Option{tm.WithName(m.name)}, opts...)...)
	if err != nil {
		return xid.ID{}, err
	}
	return t.XID, m.SendAs(ctx, mgr, t)
}

// SendAs is Send under a transaction that was begun, or again under one whose answer was
// lost: tm.Tx{XID: id}. The same again changes nothing.
func (m *Message) SendAs(ctx context.Context, mgr *tm.Manager, t tm.Tx) error {
	if err := m.Validate(); err != nil {
		return err
	}
	return mgr.Submit(ctx, t, &pb.SubmitRequest{Branches: m.branches(func(name string) xid.BranchID { return xid.BranchOf(t.XID, name) })})
}

// Enlist adds the message to the transaction of ctx: it is delivered if that commits.
// It may be called several times, for the same message, too.
//
// Errors: ErrNoTransaction; what Validate says; those of tm.Manager.Register. After
// these the transaction should be rolled back: some receivers may be registered.
func (m *Message) Enlist(ctx context.Context, mgr *tm.Manager) error {
	id, ok := xid.FromContext(ctx)
	if !ok {
		return &Error{Message: m.name, Err: ErrNoTransaction}
	}
	branches, err := m.Branches()
	if err != nil {
		return err
	}
	for _, b := range branches {
		if err := mgr.Register(ctx, id, b); err != nil {
			return err
		}
	}
	return nil
}

// CheckBack asks the sender what became of its local transaction, once after has passed
// since Prepare without a word. DONE: deliver. FAILED: drop. NOT_YET and everything
// else: ask again. Its payload says which one is meant; XID and branch are in its
// identity. after should be longer than the local transaction takes; 0 asks at once.
func CheckBack(t target.Target, after time.Duration) Check {
	t.Delay = after
	return Check{target: t}
}

// Check is what CheckBack makes.
type Check struct{ target target.Target }

// Prepared is a message that waits for a word of its sender.
type Prepared struct {
	XID xid.ID
	m   *tm.Manager
}

// Prepare hands the message over, to be delivered when Send says so, or when the check
// does. It has to return before the sender's local transaction commits. tm.WithTimeout
// bounds only the time until it is handed over.
//
// Errors: what Validate says, *Error for the check; those of tm.Manager.Begin and
// Submit. After an error the local transaction must not commit, or without the
// message; where the answer was lost (tm.ErrOutcomeUnknown) the check drops it.
func (m *Message) Prepare(ctx context.Context, mgr *tm.Manager, check Check, opts ...tm.Option) (Prepared, error) {
	if err := m.Validate(); err != nil {
		return Prepared{}, err
	}
	if err := check.target.Validate(); err != nil {
		return Prepared{}, &Error{Message: m.name, Receiver: checkBack, Err: err}
	}
	t, err := mgr.Begin(ctx, append([]tm.Option{tm.WithName(m.name)}, opts...)...)
	if err != nil {
		return Prepared{}, err
	}
	p := Resume(mgr, t.XID)
	id := func(name string) xid.BranchID { return xid.BranchOf(t.XID, name) }
	r := &pb.SubmitRequest{Branches: []*pb.RegisterBranchRequest{{
		BranchId: id(checkBack).String(), Mode: pb.Mode_MODE_MESSAGE, Name: checkBack, Plan: &pb.Plan{Forward: check.target.Proto()},
	}}}
	r.Branches = append(r.Branches, m.branches(id)...)
	return p, mgr.Submit(ctx, t, r)
}

// Resume gives what Prepare gave, to a sender that remembers the XID.
func Resume(mgr *tm.Manager, id xid.ID) Prepared { return Prepared{XID: id, m: mgr} }

// Send says that the sender's local transaction is committed: the message is delivered.
// The same again is safe. Where it can't be said the check will find out, so an error
// need not fail the sender; but an error that Is tm.ErrRolledBack says that it was
// dropped, because Drop or the check said so.
func (p Prepared) Send(ctx context.Context) error {
	return p.vote(ctx, &pb.VoteRequest{Vote: pb.Vote_VOTE_YES})
}

// Drop says that the sender's local transaction will never commit: nothing is
// delivered. reason may be nil. The same again is safe. An error that Is tm.ErrCommitted
// says that it is delivered, because Send or the check said so.
func (p Prepared) Drop(ctx context.Context, reason error) error {
	r := &pb.VoteRequest{Vote: pb.Vote_VOTE_NO, Reason: "dropped by the sender"}
	if reason != nil {
		r.Reason += ": " + reason.Error()
	}
	return p.vote(ctx, r)
}

func (p Prepared) vote(ctx context.Context, r *pb.VoteRequest) error {
	if p.m == nil {
		return errors.New("message: the Prepared is empty; want one of Prepare or Resume")
	}
	r.BranchId = xid.BranchOf(p.XID, checkBack).String()
	return p.m.Vote(ctx, p.XID, r)
}
