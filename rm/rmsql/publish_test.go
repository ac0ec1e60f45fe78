package rmsql_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // a driver that is not ours

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/rm/rmsql"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// prepared is a library that prepares every statement, as GORM can.
type prepared struct{ *sql.Tx }

func (p prepared) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	r, err := s.ExecContext(ctx, args...)
	return r, errors.Join(err, s.Close())
}

func TestMessagesFollowASQLTransaction(t *testing.T) {
	t.Parallel()
	// Each gives what is published in, the transaction that it belongs to, and what is to
	// be closed afterwards.
	ways := map[string]func(ctx context.Context, d *sql.DB) (rmsql.Execer, *sql.Tx, func() error, error){
		"in a Tx": func(ctx context.Context, d *sql.DB) (rmsql.Execer, *sql.Tx, func() error, error) {
			tx, err := d.BeginTx(ctx, nil)
			return tx, tx, func() error { return nil }, err
		},
		"in a Conn": func(ctx context.Context, d *sql.DB) (rmsql.Execer, *sql.Tx, func() error, error) {
			c, err := d.Conn(ctx)
			if err != nil {
				return nil, nil, nil, err
			}
			tx, err := c.BeginTx(ctx, nil)
			return c, tx, c.Close, err
		},
		"in a library that prepares": func(ctx context.Context, d *sql.DB) (rmsql.Execer, *sql.Tx, func() error, error) {
			tx, err := d.BeginTx(ctx, nil)
			return prepared{tx}, tx, func() error { return nil }, err
		},
	}
	for name, begin := range ways {
		for _, commits := range []bool{true, false} {
			t.Run(map[bool]string{true: "commit ", false: "roll back "}[commits]+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				box, m := hftest.NewInbox(t), tm.New(w.Client)
				ctx := w.Limited()
				in, tx, done, err := begin(ctx, w.db)
				w.Check(err)
				_, err = tx.ExecContext(ctx, move, 1, 1)
				w.Check(err)
				w.Check(rmsql.Publish(ctx, in, box.To("one"), box.To("two")))
				id, err := rmsql.PublishMessage(ctx, in, message.New("three").To(box.To("three")))
				w.Check(err)
				if commits {
					w.Check(tx.Commit())
				} else {
					w.Check(tx.Rollback())
				}
				w.Check(done())
				err = m.Wait(ctx, id, tm.WithWaitSettled())
				if !commits {
					wantError(t, err, tm.ErrRolledBack)
					w.Settled()
					box.Want(t)
					return
				}
				w.Check(err)
				var got []string
				for range 3 {
					got = append(got, <-box.Got)
				}
				slices.Sort(got)
				if !slices.Equal(got, []string{"one", "three", "two"}) || w.balance(1) != 99 {
					t.Errorf("delivered %q, the balance is %d", got, w.balance(1))
				}
			})
		}
	}
}

func TestMessagesOfAGlobalTransactionFollowThat(t *testing.T) {
	t.Parallel()
	for name, commits := range map[string]bool{"commit": true, "roll back": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			box := hftest.NewInbox(t)
			ctx, x := w.Begin()
			tx, err := w.db.BeginTx(ctx, nil)
			w.Check(err)
			_, err = tx.ExecContext(ctx, move, 1, 1)
			w.Check(err)
			w.Check(rmsql.Publish(ctx, tx, box.To("one")))
			// Methods without the XID belong to the transaction all the same.
			id, err := rmsql.PublishMessage(w.Limited(), tx, message.New("m").To(box.To("two")))
			w.Check(err)
			if id != x {
				t.Errorf("published under %v, want %v", id, x)
			}
			w.Check(tx.Commit())
			if commits {
				w.Commit(x)
				box.Want(t, "one", "two")
			} else {
				w.Rollback(x)
				box.Want(t)
			}
		})
	}
}

func TestMessagesGoWithTheirSavepoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box, ctx := hftest.NewInbox(t), w.Limited()
	tx, err := w.db.BeginTx(ctx, nil)
	w.Check(err)
	var ids []xid.ID
	for _, step := range []string{"SAVEPOINT a", "lost", "ROLLBACK TO SAVEPOINT a", "kept"} {
		if step != "lost" && step != "kept" {
			_, err = tx.ExecContext(ctx, step)
			w.Check(err)
			continue
		}
		id, err := rmsql.PublishMessage(ctx, tx, message.New(step).To(box.To(step)))
		w.Check(err)
		ids = append(ids, id)
	}
	w.Check(tx.Commit())
	m := tm.New(w.Client)
	wantError(t, m.Wait(ctx, ids[0], tm.WithWaitSettled()), tm.ErrRolledBack)
	w.Check(m.Wait(ctx, ids[1], tm.WithWaitSettled()))
	box.Want(t, "kept")
}

// What can't be published says so, and the local transaction goes on.
func TestWhatCanNotBePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := hftest.NewInbox(t)
	under, _ := w.Begin()
	other, err := sql.Open("pgx", w.DSN)
	w.Check(err)
	t.Cleanup(func() { _ = other.Close() })
	conn, err := w.db.Conn(w.Limited())
	w.Check(err)
	t.Cleanup(func() { _ = conn.Close() })
	ours, err := w.db.Begin()
	w.Check(err)
	theirs, err := other.Begin()
	w.Check(err)
	ended, err := w.db.Begin()
	w.Check(err)
	w.Check(ended.Rollback())
	for name, tt := range map[string]struct {
		ctx  context.Context
		tx   rmsql.Execer
		want error
	}{
		"the DB":                      {w.Limited(), w.db, rm.ErrForeignTx},
		"a Conn without transaction":  {w.Limited(), conn, rm.ErrForeignTx},
		"a Tx of another driver":      {w.Limited(), theirs, rm.ErrForeignTx},
		"a Tx that is over":           {w.Limited(), ended, sql.ErrTxDone},
		"an XID that came afterwards": {under, ours, rm.ErrOtherTransaction},
	} {
		err := rmsql.Publish(tt.ctx, tt.tx, box.To("one"))
		id, merr := rmsql.PublishMessage(tt.ctx, tt.tx, message.New("m").To(box.To("one")))
		if !errors.Is(err, tt.want) || !errors.Is(merr, tt.want) || id != (xid.ID{}) {
			t.Errorf("%s: got %v and %v", name, err, merr)
		}
	}
	if err, ok := errors.AsType[*target.Error](rmsql.Publish(w.Limited(), ours, target.Target{})); !ok {
		t.Errorf("got %v", err)
	}
	for _, tx := range []*sql.Tx{ours, theirs} {
		_, err := tx.ExecContext(w.Limited(), "UPDATE account SET owner = owner WHERE id = 7")
		w.Check(err)
		w.Check(tx.Commit())
	}
	w.Settled()
	box.Want(t)
}
