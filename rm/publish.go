package rm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/message"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const (
	// maxPublished bounds the payloads of one Publish: they travel together.
	maxPublished = 3 << 20
	undoTimeout  = 5 * time.Second
)

// Publish has messages delivered exactly if a local transaction commits. tx was begun
// by a Pool, or is a savepoint of such a one. Each message is called at least once,
// until it succeeds, and carries the same identity each time (package fence).
//
// In a local transaction of a global one the messages belong to that one: they go out
// exactly if it commits, whatever becomes of the local transaction. In a plain one they
// are handed over to the coordinator before Publish returns; it finds out from the
// database whether the local transaction has committed, also where this process dies.
// Messages that are published inside of a savepoint go with it.
//
// Where Publish fails in a plain local transaction nothing is delivered, and that
// transaction can go on. In a global one some of several messages may be registered
// then, and would go out with it.
//
// Errors: *target.Error for a message that can't be sent; ErrForeignTx; *RegisterError
// in a global transaction; otherwise those of the coordinator and of the database.
//
// PublishMessage is for what needs a name, an order, a retry policy, or to be followed.
func Publish(ctx context.Context, tx pgx.Tx, messages ...target.Target) error {
	size := 0
	branches := make([]*pb.RegisterBranchRequest, 0, len(messages))
	for i, m := range messages {
		if m.IsZero() {
			return fmt.Errorf("handfast: publish: message %d of %d: %w", i+1, len(messages), &target.Error{Field: "target", Text: "there is none"})
		}
		if err := m.Validate(); err != nil {
			return fmt.Errorf("handfast: publish: message %d of %d: %w", i+1, len(messages), err)
		}
		size += len(m.Payload)
		branches = append(branches, &pb.RegisterBranchRequest{
			BranchId: xid.NewBranchID().String(), Mode: pb.Mode_MODE_MESSAGE, Vote: pb.Vote_VOTE_YES,
			Plan: &pb.Plan{Commit: m.Proto()},
		})
	}
	if size > maxPublished {
		return fmt.Errorf("handfast: publish: %w", &target.Error{Field: "payload", Text: fmt.Sprintf("%d bytes in %d messages; want at most %d at a time", size, len(messages), maxPublished)})
	}
	_, err := publish(ctx, tx, "publish", branches)
	return err
}

// PublishMessage is Publish for a message with its receivers, their names, order and
// retry policies. It gives the XID under which the message is delivered, which
// tm.Manager.Wait and Get follow: that of the global transaction, and in a plain local
// transaction one of its own, with the name of the message. Wait gives nil once the local
// transaction is known to have committed, and with tm.WithWaitSettled once all is
// delivered; tm.ErrRolledBack where nothing will be.
//
// A message may be published several times, and each time is another one. Errors are
// those of Publish, and *message.Error instead of *target.Error; the XID is zero then.
func PublishMessage(ctx context.Context, tx pgx.Tx, m *message.Message) (xid.ID, error) {
	branches, err := m.Branches()
	if err != nil {
		return xid.ID{}, fmt.Errorf("handfast: publish: %w", err)
	}
	return publish(ctx, tx, m.Name(), branches)
}

// publish gives the XID that the deliveries belong to.
func publish(ctx context.Context, tx pgx.Tx, name string, deliveries []*pb.RegisterBranchRequest) (xid.ID, error) {
	switch tx := tx.(type) {
	case *Tx:
		return tx.publish(ctx, deliveries)
	case *nested:
		if tx.closed {
			return xid.ID{}, pgx.ErrTxClosed
		}
		return tx.tx.publish(ctx, deliveries)
	case *plainTx:
		return tx.publish(ctx, name, deliveries)
	default:
		return xid.ID{}, fmt.Errorf("handfast: publish: %w: it is a %T", ErrForeignTx, tx)
	}
}

// ErrForeignTx is a transaction that no Pool of this package has begun.
var ErrForeignTx = errors.New("the transaction was not begun by a pool of package rm")

// publish registers the deliveries under the XID.
func (tx *Tx) publish(ctx context.Context, deliveries []*pb.RegisterBranchRequest) (xid.ID, error) {
	if err := tx.check(ctx); err != nil {
		return xid.ID{}, err
	}
	for _, r := range deliveries {
		r.Xid = tx.x.String()
		if _, err := tx.p.client.RegisterBranch(ctx, r); err != nil {
			id, _ := xid.ParseBranchID(r.GetBranchId()) // it was one before it was text
			return xid.ID{}, &RegisterError{XID: tx.x, Branch: id, Err: err}
		}
	}
	return tx.x, nil
}

// plainTx is a local transaction of no global one, or a savepoint of it.
type plainTx struct {
	pgx.Tx
	p    *Pool
	root *plainTx // itself, unless it is a savepoint

	vouched []vouched // of the root
}

// vouched is a branch whose fence lies in a plain local transaction.
type vouched struct {
	x  xid.ID
	id xid.BranchID
}

func (p *Pool) wrap(tx pgx.Tx, err error) (pgx.Tx, error) {
	if err != nil {
		return tx, err
	}
	t := &plainTx{Tx: tx, p: p}
	t.root = t
	return t, nil
}

// Begin implements pgx.Tx: it sets a savepoint.
func (t *plainTx) Begin(ctx context.Context) (pgx.Tx, error) {
	sp, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &plainTx{Tx: sp, p: t.p, root: t.root}, nil
}

// Commit implements pgx.Tx.
func (t *plainTx) Commit(ctx context.Context) error {
	err := t.Tx.Commit(ctx)
	t.ended()
	return err
}

// Rollback implements pgx.Tx.
func (t *plainTx) Rollback(ctx context.Context) error {
	err := t.Tx.Rollback(ctx)
	t.ended()
	return err
}

// ended has the votes of what was published looked up and sent. The database knows
// them in any case, so it does not matter how the transaction ended.
func (t *plainTx) ended() {
	if t.root != t {
		return
	}
	for _, v := range t.vouched {
		t.p.tell(v)
	}
	t.vouched = nil
}

// publish submits a transaction whose one vote is this local transaction. The fence
// comes first: a question that comes before the end of the local transaction waits
// for it.
func (t *plainTx) publish(ctx context.Context, name string, deliveries []*pb.RegisterBranchRequest) (xid.ID, error) {
	if len(deliveries) == 0 {
		return xid.ID{}, nil
	}
	fail := func(err error) (xid.ID, error) { return xid.ID{}, fmt.Errorf("handfast: publish: %w", err) }
	begun, err := t.p.client.Begin(ctx, &pb.BeginRequest{Name: name})
	if err != nil {
		return fail(err)
	}
	v := vouched{id: xid.NewBranchID()}
	if v.x, err = xid.Parse(begun.GetXid()); err != nil {
		return fail(err)
	}
	r := &pb.SubmitRequest{Xid: begun.GetXid(), Branches: append([]*pb.RegisterBranchRequest{
		{BranchId: v.id.String(), ResourceId: t.p.resource, Mode: pb.Mode_MODE_AT},
	}, deliveries...)}
	sp, err := t.Tx.Begin(ctx)
	if err != nil {
		return fail(err)
	}
	_, err = sp.Exec(ctx, "SELECT handfast.vouch($1, $2)", begun.GetXid(), [16]byte(v.id))
	if err == nil {
		// Whatever comes of it, somebody has to tell how it ended.
		t.root.vouched = append(t.root.vouched, v)
		_, err = t.p.client.Submit(ctx, r)
	}
	if err == nil {
		err = sp.Commit(ctx)
	}
	if err == nil {
		return v.x, nil
	}
	// The fence must not stay, or what the caller was told to have failed would be
	// delivered after all. ctx may be over.
	uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if uerr := sp.Rollback(uctx); uerr != nil {
		err = errors.Join(err, uerr, t.Conn().Close(uctx))
	}
	return fail(err)
}

// tell sends the vote of a branch off the caller's path. Where it can't, the
// coordinator asks for it.
func (p *Pool) tell(v vouched) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.branches.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, voteTimeout)
		defer cancel()
		r := &pb.VoteRequest{Xid: v.x.String(), BranchId: v.id.String(), Vote: pb.Vote_VOTE_YES}
		answer, err := p.agent.ask(ctx, v.x, v.id, AT)
		switch {
		case err != nil || answer == undolog.AnswerOpen:
			p.log.Debug("how a transaction with messages ended could not be looked up; the coordinator asks for it", "xid", v.x, "error", err)
			return
		case answer == undolog.AnswerNo:
			r.Vote, r.Reason = pb.Vote_VOTE_NO, "the local transaction was rolled back"
		}
		if _, err := p.client.Vote(ctx, r); err != nil {
			p.log.Debug("a vote was not delivered; the coordinator asks for it", "xid", v.x, "branch", v.id, "error", err)
		}
	})
}
