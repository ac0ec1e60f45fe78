package tm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// Manager starts global transactions. It is safe for concurrent use.
type Manager struct {
	c        *client.Client
	defaults []Option
}

// New makes a Manager on a connection to the coordinator. The caller closes
// the connection. The options hold for every transaction.
func New(c *client.Client, defaults ...Option) *Manager {
	return &Manager{c: c, defaults: append([]Option(nil), defaults...)}
}

// Tx is a transaction begun by hand, for those who do not want Do.
type Tx struct {
	XID xid.ID

	timeout     time.Duration
	waitSettled bool
	retryLimit  time.Duration
	deadline    time.Time // by the clock of this process; zero: not known
}

// Context gives a context whose calls belong to the transaction.
func (t Tx) Context(ctx context.Context) context.Context { return xid.NewContext(ctx, t.XID) }

func (t Tx) limit() time.Duration {
	if t.retryLimit > 0 {
		return t.retryLimit
	}
	return DefaultRetryLimit
}

// Do runs fn in a global transaction.
//
// It begins one, runs fn with a context that carries its XID, and commits when
// fn returns nil. When fn returns an error, panics, or ends its goroutine, or
// when ctx has ended, it rolls back; a panic goes on with its value. Where ctx
// carries a transaction already, fn joins it: Do then only returns fn's error,
// and whoever began the transaction decides.
//
// The package's documentation lists the errors. An error of fn is always found
// in what Do returns.
func (m *Manager) Do(ctx context.Context, fn func(ctx context.Context) error, opts ...Option) error {
	o, err := m.options(opts)
	if err != nil {
		return err
	}
	_, inside := xid.FromContext(ctx)
	switch {
	case o.mode == notSupported:
		return fn(xid.NewContext(ctx, xid.ID{}))
	case o.mode == required && inside:
		return fn(ctx)
	}
	t, err := m.begin(ctx, o)
	if err != nil {
		return err
	}
	if err := m.run(ctx, t, fn); err != nil {
		return m.abort(ctx, t, err)
	}
	err = m.Commit(ctx, t)
	if neverAsked(err) {
		return m.abort(ctx, t, err)
	}
	return err
}

// neverAsked tells whether a failed Commit left no trace: the request did not
// leave this process, or the coordinator had no room for it.
func neverAsked(err error) bool {
	if err == nil || errors.Is(err, ErrNotSettled) || errors.Is(err, ErrOutcomeUnknown) {
		return false
	}
	i, ok := errors.AsType[*client.InterruptedError](err)
	return (ok && !i.Sent) || client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_LIMIT
}

// run calls fn. When fn does not return, by a panic or runtime.Goexit, it rolls
// back on the way out; not recovering keeps the panic's value and stack.
func (m *Manager) run(ctx context.Context, t Tx, fn func(context.Context) error) error {
	inner := t.Context(ctx)
	if !t.deadline.IsZero() {
		var cancel context.CancelFunc
		inner, cancel = context.WithDeadlineCause(inner, t.deadline, fmt.Errorf("transaction %s: %w", t.XID, ErrTimedOut))
		defer cancel()
	}
	returned := false
	defer func() {
		if !returned {
			// There is nobody to hand an error to; the deadline is the fallback.
			_, _, _ = m.rollback(ctx, t, "fn did not return: it panicked or ended its goroutine")
		}
	}()
	err := fn(inner)
	returned = true
	if err == nil {
		err = context.Cause(ctx) // nobody waits for the result any more
	}
	return err
}

// abort rolls back because of cause, and says how that went.
func (m *Manager) abort(ctx context.Context, t Tx, cause error) error {
	conflict, _ := FindLockConflict(cause)
	told, decision, err := m.rollback(ctx, t, cause.Error())
	switch {
	case err == nil, client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_ROLLED_BACK:
		if told == pb.RollbackReason_ROLLBACK_REASON_REQUESTED {
			decision = "" // it was this request, or one that failed like it
		}
		return m.settled(ctx, t, &RolledBackError{
			XID: t.XID, Reason: t.reason(told, cause, err), Cause: cause, Decision: decision, Conflict: conflict,
		})
	case client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_COMMITTED:
		return &CommittedError{XID: t.XID, Cause: cause}
	default:
		return &RollbackPendingError{XID: t.XID, Cause: cause, Conflict: conflict, Err: err}
	}
}

// reason finds out why the transaction was rolled back: because of an earlier
// decision, which the coordinator or a branch told of, or because its time was
// up, or because fn asked for it.
func (t Tx) reason(told pb.RollbackReason, errs ...error) pb.RollbackReason {
	if told != pb.RollbackReason_ROLLBACK_REASON_UNSPECIFIED && told != pb.RollbackReason_ROLLBACK_REASON_REQUESTED {
		return told
	}
	for _, err := range errs {
		e, ok := client.AsError(err)
		if !ok || e.Reason != pb.ErrorReason_ERROR_REASON_ROLLED_BACK || (e.XID != t.XID && !e.XID.IsZero()) {
			continue
		}
		if r := parseReason(e.Metadata["rollback_reason"]); r != pb.RollbackReason_ROLLBACK_REASON_UNSPECIFIED {
			return r
		}
	}
	if !t.deadline.IsZero() && !time.Now().Before(t.deadline) {
		return pb.RollbackReason_ROLLBACK_REASON_TIMEOUT
	}
	return pb.RollbackReason_ROLLBACK_REASON_REQUESTED
}

// Begin starts a transaction that ends with Commit, Rollback, or its deadline.
// Where ctx carries a transaction, that one becomes the parent.
func (m *Manager) Begin(ctx context.Context, opts ...Option) (Tx, error) {
	o, err := m.options(opts)
	if err != nil {
		return Tx{}, err
	}
	return m.begin(ctx, o)
}

func (m *Manager) begin(ctx context.Context, o options) (Tx, error) {
	req := &pb.BeginRequest{Name: o.name}
	if o.timeout > 0 {
		req.Timeout = durationpb.New(o.timeout)
	}
	if parent, ok := xid.FromContext(ctx); ok {
		req.ParentXid = parent.String()
	}
	limited, cancel := context.WithTimeout(ctx, o.retryLimit)
	defer cancel()
	// The coordinator's clock starts later than this one, so the context of fn
	// ends no later than the transaction.
	start := time.Now()
	resp, err := m.c.Begin(limited, req)
	if err != nil {
		return Tx{}, fmt.Errorf("begin transaction: %w", err)
	}
	id, err := xid.Parse(resp.GetXid())
	if err != nil {
		return Tx{}, fmt.Errorf("begin transaction: the coordinator's answer: %w", err)
	}
	t := Tx{XID: id, timeout: o.timeout, waitSettled: o.waitSettled, retryLimit: o.retryLimit}
	if o.timeout > 0 {
		t.deadline = start.Add(o.timeout)
	}
	return t, nil
}

// Commit asks for the decision to commit and returns nil when that was made.
// Where the answer is lost it asks again, until ctx ends or the coordinator
// was out of reach for the retry limit; then the outcome is unknown. An
// *client.InterruptedError that is not Sent means that nothing was asked. Where
// the transaction was begun with WithWaitSettled it then waits as that says.
func (m *Manager) Commit(ctx context.Context, t Tx) error {
	if t.XID.IsZero() {
		return invalid("xid", "empty")
	}
	resp, err := m.commit(ctx, t, false)
	if err != nil {
		return m.settled(ctx, t, commitFailed(t, err))
	}
	switch resp.GetOutcome() {
	case pb.Outcome_OUTCOME_COMMITTED:
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		return m.settled(ctx, t, rolledBack(t, resp.GetRollbackReason(), resp.GetRollbackCause()))
	case pb.Outcome_OUTCOME_UNSPECIFIED, pb.Outcome_OUTCOME_UNDECIDED:
		return &OutcomeUnknownError{XID: t.XID, Err: fmt.Errorf("the coordinator answered %s", resp.GetOutcome())}
	}
	return m.settled(ctx, t, nil)
}

// settled waits, where the transaction is to be awaited, until phase two is done
// everywhere after err told the decision, and adds to err that it was not. It is
// asked separately, so that the decision is known when the wait fails.
func (m *Manager) settled(ctx context.Context, t Tx, err error) error {
	r, isRolledBack := errors.AsType[*RolledBackError](err)
	switch {
	case !t.waitSettled || (err != nil && !isRolledBack):
		return err
	case isRolledBack:
		r.NotSettled = m.settle(ctx, t, pb.Outcome_OUTCOME_ROLLED_BACK)
		return err
	}
	if e := m.settle(ctx, t, pb.Outcome_OUTCOME_COMMITTED); e != nil {
		return e
	}
	return nil
}

// settle waits until the decision, which is known, is carried out.
func (m *Manager) settle(ctx context.Context, t Tx, decided pb.Outcome) *NotSettledError {
	var err error
	if decided == pb.Outcome_OUTCOME_COMMITTED {
		_, err = m.commit(ctx, t, true)
	} else {
		err = m.awaited(ctx, t, "Rollback", func(ctx context.Context) error {
			_, err := m.c.Rollback(ctx, &pb.RollbackRequest{Xid: t.XID.String(), WaitSettled: true})
			return err
		})
	}
	if err != nil {
		return &NotSettledError{XID: t.XID, Outcome: decided, Err: err}
	}
	return nil
}

func (m *Manager) commit(ctx context.Context, t Tx, settled bool) (resp *pb.CommitResponse, err error) {
	req := &pb.CommitRequest{Xid: t.XID.String(), WaitSettled: settled}
	err = m.awaited(ctx, t, "Commit", func(ctx context.Context) (err error) {
		resp, err = m.c.Commit(ctx, req)
		return err
	})
	return resp, err
}

// awaited repeats a request for as long as there is a session: the coordinator
// is then alive, and waits for votes or for phase two.
func (m *Manager) awaited(ctx context.Context, t Tx, op string, request func(context.Context) error) error {
	sent := false
	for {
		err := whileFull(ctx, t.limit(), request)
		i, ok := errors.AsType[*client.InterruptedError](err)
		switch {
		case !ok && sent && client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_LIMIT:
			return &client.InterruptedError{Op: op, Sent: true, Err: err}
		case !ok:
			return err
		}
		sent = sent || i.Sent
		if ctx.Err() != nil || i.Conn != nil || !errors.Is(i.Err, context.DeadlineExceeded) {
			i.Sent = sent
			return i
		}
	}
}

// whileFull repeats a request that the coordinator has no room for, after
// pauses that double, until the limit is over. Each request has the limit for
// itself: one that the end of it cut off would leave the outcome open, and the
// refusals before it are a clear answer.
func whileFull(ctx context.Context, limit time.Duration, request func(context.Context) error) error {
	paused, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := once(ctx, limit, request)
		if client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_LIMIT {
			return err
		}
		wait := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter is no secret
		select {
		case <-wait.C:
		case <-paused.Done():
			wait.Stop()
			return err
		}
		if paused.Err() != nil {
			return err
		}
	}
}

func once(ctx context.Context, limit time.Duration, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return request(ctx)
}

func commitFailed(t Tx, err error) error {
	if i, ok := errors.AsType[*client.InterruptedError](err); ok {
		if i.Sent {
			return &OutcomeUnknownError{XID: t.XID, Err: err}
		}
		return fmt.Errorf("commit transaction %s: %w", t.XID, err)
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return &OutcomeUnknownError{XID: t.XID, Err: err}
	}
	switch e.Reason { //nolint:exhaustive // everything else leaves open what an earlier request did
	case pb.ErrorReason_ERROR_REASON_ROLLED_BACK:
		return &RolledBackError{XID: t.XID, Reason: parseReason(e.Metadata["rollback_reason"]), Cause: err}
	case pb.ErrorReason_ERROR_REASON_INVALID_FIELD, pb.ErrorReason_ERROR_REASON_UNKNOWN_XID,
		pb.ErrorReason_ERROR_REASON_LIMIT, pb.ErrorReason_ERROR_REASON_WRONG_STATE:
		return fmt.Errorf("commit transaction %s: %w", t.XID, err)
	default:
		return &OutcomeUnknownError{XID: t.XID, Err: err}
	}
}

// Rollback asks for the decision to roll back and returns nil when that was
// made, now or earlier. cause may be nil. It is sent even when ctx has ended,
// and bounded by twice the retry limit. A *client.Error with the reason COMMITTED
// says that the decision was the other one. Where the transaction was begun with
// WithWaitSettled it then waits as that says, and ends with ctx: a *NotSettledError.
func (m *Manager) Rollback(ctx context.Context, t Tx, cause error) error {
	if t.XID.IsZero() {
		return invalid("xid", "empty")
	}
	text := ""
	if cause != nil {
		text = cause.Error()
	}
	_, _, err := m.rollback(ctx, t, text)
	if err != nil && client.ReasonOf(err) != pb.ErrorReason_ERROR_REASON_ROLLED_BACK {
		return fmt.Errorf("roll back transaction %s: %w", t.XID, err)
	}
	if !t.waitSettled {
		return nil
	}
	if e := m.settle(ctx, t, pb.Outcome_OUTCOME_ROLLED_BACK); e != nil {
		return e
	}
	return nil
}

// rollback gives the reason and the cause of the decision, which may have been
// made before.
func (m *Manager) rollback(ctx context.Context, t Tx, cause string) (reason pb.RollbackReason, decision string, err error) {
	err = whileFull(context.WithoutCancel(ctx), t.limit(), func(ctx context.Context) error {
		resp, err := m.c.Rollback(ctx, &pb.RollbackRequest{Xid: t.XID.String(), Cause: cause})
		reason, decision = resp.GetRollbackReason(), resp.GetRollbackCause()
		return err
	})
	return reason, decision, err
}

// Outcome asks what was decided; OUTCOME_UNDECIDED while nothing is. It is how
// to go on after ErrOutcomeUnknown.
func (m *Manager) Outcome(ctx context.Context, id xid.ID) (pb.Outcome, error) {
	resp, err := m.c.Get(ctx, &pb.GetRequest{Xid: id.String()})
	if err != nil {
		return pb.Outcome_OUTCOME_UNSPECIFIED, fmt.Errorf("outcome of transaction %s: %w", id, err)
	}
	return resp.GetTransaction().GetOutcome(), nil
}

// rolledBack is the coordinator's answer that it rolled back instead.
func rolledBack(t Tx, reason pb.RollbackReason, cause string) error {
	message := reasonName(reason)
	if who, reason, ok := votedNo(cause); ok {
		message = who + " voted no: " + reason
	} else if cause != "" {
		message = cause
	}
	return &RolledBackError{XID: t.XID, Reason: reason, Cause: &client.Error{
		Reason: pb.ErrorReason_ERROR_REASON_ROLLED_BACK, Code: codes.Aborted, XID: t.XID, Message: message,
		Metadata: map[string]string{"rollback_reason": reason.String(), "cause": cause},
	}}
}

const reasonPrefix = "ROLLBACK_REASON_"

func parseReason(s string) pb.RollbackReason {
	if v, ok := pb.RollbackReason_value[s]; ok {
		return pb.RollbackReason(v)
	}
	return pb.RollbackReason(pb.RollbackReason_value[reasonPrefix+s])
}
