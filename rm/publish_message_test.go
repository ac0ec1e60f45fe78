package rm_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/message"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// welcome is a message of two receivers, of which the second waits for the first.
func welcome(box *hftest.Inbox) *message.Message {
	to := box.Messages("mail", "points")
	return message.New("welcome").Retry(target.RetryPolicy{AttentionAfter: 3}).
		To(to[0], message.Name("mail")).
		To(to[1], message.Name("points"), message.After("mail"))
}

func TestTheSenderFollowsItsMessage(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(pgx.Tx, context.Context) error{"commit": pgx.Tx.Commit, "rollback": pgx.Tx.Rollback} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			box, m := hftest.NewInbox(t), tm.New(w.tc)
			tx, err := w.pool.Begin(limited(t))
			check(t, err)
			sp, err := tx.Begin(limited(t))
			check(t, err)
			id, err := rm.PublishMessage(limited(t), sp, welcome(box))
			check(t, err)
			check(t, sp.Commit(limited(t)))
			equal(t, "fence", vouched(t, tx)[0], id.String())
			check(t, end(tx, limited(t)))
			err = m.Wait(limited(t), id, tm.WithWaitSettled())
			if name == "rollback" {
				wantError(t, err, tm.ErrRolledBack)
				box.Want(t)
				return
			}
			check(t, err)
			equal(t, "first", <-box.Got, "mail")
			equal(t, "second", <-box.Got, "points")
			got, err := m.Get(limited(t), id)
			check(t, err)
			equal(t, "name", got.GetName(), "welcome")
			for _, b := range got.GetBranches() {
				if b.GetMode() == pb.Mode_MODE_MESSAGE {
					equal(t, b.GetName(), b.GetPlan().GetRetry().GetAttentionAfter(), 3)
				}
			}
		})
	}
}

// The same message may be published again, and is another one then.
func TestAMessageOfAGlobalTransactionHasItsXID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := hftest.NewInbox(t)
	ctx, x := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	m := welcome(box)
	for range 2 {
		id, err := rm.PublishMessage(ctx, tx, m)
		check(t, err)
		equal(t, "XID", id, x)
	}
	check(t, tx.Commit(ctx))
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	box.Want(t, "mail", "mail", "points", "points")
}

func TestAMessageThatCanNotBePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := hftest.NewInbox(t)
	foreign, err := connect(t, w.dsn).Begin(limited(t))
	check(t, err)
	tx, err := w.pool.Begin(limited(t))
	check(t, err)
	for name, tt := range map[string]struct {
		tx   pgx.Tx
		m    *message.Message
		want func(error) bool
	}{
		"a foreign transaction": {foreign, welcome(box), func(err error) bool { return errors.Is(err, rm.ErrForeignTx) }},
		"without receivers":     {tx, message.New("m"), isMessageError},
		"given up": {tx, message.New("m").To(box.Messages("one")[0], message.Retry(target.RetryPolicy{Attempts: 1, First: time.Second})),
			isMessageError},
	} {
		id, err := rm.PublishMessage(limited(t), tt.tx, tt.m)
		if err == nil || !tt.want(err) || id != (xid.ID{}) {
			t.Errorf("%s: got %v, %v", name, id, err)
		}
	}
	equal(t, "fences", len(vouched(t, tx)), 0)
	check(t, tx.Commit(limited(t)))
}

func isMessageError(err error) bool {
	_, ok := errors.AsType[*message.Error](err)
	return ok
}
