package rm_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/hftest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tc"
)

// vouched gives the XIDs with live fences that the local transaction sees: its own.
func vouched(tb testing.TB, tx pgx.Tx) []string {
	tb.Helper()
	rows, err := tx.Query(limited(tb), "SELECT xid FROM handfast.fence WHERE state = 'L' ORDER BY at")
	check(tb, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(tb, err)
	return ids
}

func publish(tb testing.TB, tx pgx.Tx, m ...target.Target) {
	tb.Helper()
	check(tb, rm.Publish(limited(tb), tx, m...))
}

func TestMessagesFollowTheirLocalTransaction(t *testing.T) {
	t.Parallel()
	// Each gets a local transaction in which "one" and "two" are published, and tells
	// what has to come of it.
	for name, end := range map[string]func(w *world, tx pgx.Tx) []string{
		"commit": func(w *world, tx pgx.Tx) []string {
			check(w.t, tx.Commit(limited(w.t)))
			return []string{"one", "two"}
		},
		"rollback": func(w *world, tx pgx.Tx) []string {
			check(w.t, tx.Rollback(limited(w.t)))
			return nil
		},
		"the pool is closed right after COMMIT": func(w *world, tx pgx.Tx) []string {
			check(w.t, tx.Commit(limited(w.t)))
			w.pool.Close()
			return []string{"one", "two"}
		},
		"the coordinator is out of reach at COMMIT": func(w *world, tx pgx.Tx) []string {
			check(w.t, w.tc.Close())
			check(w.t, tx.Commit(limited(w.t)))
			return []string{"one", "two"}
		},
		"the connection is killed before COMMIT": func(w *world, tx pgx.Tx) []string {
			equal(w.t, "killed", value[bool](w, "SELECT pg_terminate_backend($1, 20000)", int32(tx.Conn().PgConn().PID())), true)
			if tx.Commit(limited(w.t)) == nil {
				w.t.Error("a killed connection has committed")
			}
			return nil
		},
		"the connection is killed after COMMIT": func(w *world, tx pgx.Tx) []string {
			pid := int32(tx.Conn().PgConn().PID())
			check(w.t, tx.Commit(limited(w.t)))
			value[bool](w, "SELECT pg_terminate_backend($1, 20000)", pid)
			return []string{"one", "two"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			other := dialOf(t, w)
			box := hftest.NewInbox(t)
			tx, err := w.pool.Begin(limited(t))
			check(t, err)
			publish(t, tx, box.Messages("one", "two")...)
			ids := vouched(t, tx)
			equal(t, "XIDs", len(ids), 1)
			want := end(w, tx)
			outcome := pb.Outcome_OUTCOME_ROLLED_BACK
			if want != nil {
				outcome = pb.Outcome_OUTCOME_COMMITTED
			}
			equal(t, "outcome", settled(t, other, ids[0]), outcome)
			box.Want(t, want...)
			equal(t, "intents", w.intents(), 0)
		})
	}
}

// settled waits until a transaction that was submitted is over.
func settled(tb testing.TB, c committer, id string) pb.Outcome {
	tb.Helper()
	a, err := c.Commit(limited(tb), &pb.CommitRequest{Xid: id, WaitSettled: true})
	check(tb, err)
	return a.GetOutcome()
}

type committer interface {
	Commit(context.Context, *pb.CommitRequest) (*pb.CommitResponse, error)
}

// dialOf has another service on the same database, and gives its client.
func dialOf(tb testing.TB, w *world) committer {
	tb.Helper()
	c := dial(tb, w.addr)
	open(tb, c, w.dsn)
	return c
}

// The service sends the vote by itself: nobody waits until the coordinator asks.
func TestAMessageIsDeliveredAtOnce(t *testing.T) {
	t.Parallel()
	c := dial(t, coordinator(t, func(c *tc.Config) { c.Engine.Core.CollectGrace = time.Hour }))
	pool := open(t, c, database(t))
	box := hftest.NewInbox(t)
	for _, commits := range []bool{true, false} {
		var id string
		err := pgx.BeginFunc(limited(t), pool, func(tx pgx.Tx) error {
			publish(t, tx, box.Messages("one")...)
			id = vouched(t, tx)[0]
			if commits {
				return nil
			}
			return context.Canceled
		})
		want, got := pb.Outcome_OUTCOME_ROLLED_BACK, settled(t, c, id)
		if commits {
			want = pb.Outcome_OUTCOME_COMMITTED
			box.Want(t, "one")
		}
		equal(t, "committed", err == nil, commits)
		equal(t, "outcome", got, want)
	}
	box.Want(t)
}

func TestTheReplyToCOMMITIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := hftest.NewInbox(t)
	p, dsn := through(t, w.dsn, 0)
	pool := open(t, w.tc, dsn)
	tx, err := pool.Begin(limited(t))
	check(t, err)
	publish(t, tx, box.Messages("one")...)
	ids := vouched(t, tx)
	p.onClient(func(b []byte) (forward, cut bool) {
		is := contains(b, "commit")
		return true, is
	})
	if tx.Commit(limited(t)) == nil {
		t.Error("there was a reply")
	}
	p.onClient(nil)
	equal(t, "outcome", settled(t, w.tc, ids[0]), pb.Outcome_OUTCOME_COMMITTED)
	box.Want(t, "one")
}

func TestMessagesGoWithTheirSavepoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := hftest.NewInbox(t)
	tx, err := w.pool.Begin(limited(t))
	check(t, err)
	publish(t, tx, box.Messages("before")...)
	var ids []string
	for _, keep := range []bool{false, true} {
		sp, err := tx.Begin(limited(t))
		check(t, err)
		if keep {
			publish(t, sp, box.Messages("kept")...)
			check(t, sp.Commit(limited(t)))
		} else {
			publish(t, sp, box.Messages("lost")...)
			ids = vouched(t, tx)
			check(t, sp.Rollback(limited(t)))
		}
	}
	equal(t, "XIDs", len(ids), 2)
	for _, id := range vouched(t, tx) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	equal(t, "XIDs", len(ids), 3)
	check(t, tx.Commit(limited(t)))
	for i, want := range []pb.Outcome{pb.Outcome_OUTCOME_COMMITTED, pb.Outcome_OUTCOME_ROLLED_BACK, pb.Outcome_OUTCOME_COMMITTED} {
		equal(t, "outcome", settled(t, w.tc, ids[i]), want)
	}
	box.Want(t, "before", "kept")
}

func TestMessagesOfAGlobalTransaction(t *testing.T) {
	t.Parallel()
	for name, commits := range map[string]bool{"commit": true, "rollback": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			box := hftest.NewInbox(t)
			ctx, x := w.begin()
			tx, err := w.pool.Begin(ctx)
			check(t, err)
			_, err = tx.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 1")
			check(t, err)
			sp, err := tx.Begin(ctx)
			check(t, err)
			check(t, rm.Publish(ctx, sp, box.Messages("one")...))
			check(t, sp.Commit(ctx))
			check(t, rm.Publish(ctx, tx, box.Messages("two", "three")...))
			check(t, tx.Commit(ctx))
			equal(t, "early", len(box.Got), 0)
			if commits {
				equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
				box.Want(t, "one", "three", "two")
			} else {
				w.rollback(x)
				box.Want(t)
			}
		})
	}
}

// What can't be published says so, and takes nothing with it.
func TestWhatCanNotBePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := hftest.NewInbox(t)
	t.Cleanup(func() { // after all of them
		w.pool.Close()
		box.Want(t)
	})
	plain := connect(t, w.dsn)
	foreign, err := plain.Begin(limited(t))
	check(t, err)
	wantError(t, rm.Publish(limited(t), foreign, box.Messages("one")...), rm.ErrForeignTx)
	for name, tt := range map[string]struct {
		before   string
		messages []target.Target
		want     func(error) bool
	}{
		"a large payload": {"", []target.Target{box.Messages("one")[0], box.Messages(strings.Repeat("x", target.MaxPayload+1))[0]}, isTargetError},
		"too much of it":  {"", box.Messages(slices.Repeat([]string{strings.Repeat("x", target.MaxPayload)}, 4)...), isTargetError},
		"nowhere":         {"", []target.Target{{}}, isTargetError},
		"too many":        {"", box.Messages(slices.Repeat([]string{"x"}, 5000)...), func(error) bool { return true }},
		"armed": {"SELECT handfast.arm('" + xidOf(w) + "', gen_random_uuid(), now(), 0)", box.Messages("one"),
			func(err error) bool { return strings.Contains(err.Error(), "armed") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tx, err := w.pool.Begin(limited(t))
			check(t, err)
			_, err = tx.Exec(limited(t), "CREATE TABLE "+strings.ReplaceAll(name, " ", "_")+" ()")
			check(t, err)
			if tt.before != "" {
				_, err = tx.Exec(limited(t), tt.before)
				check(t, err)
			}
			if err := rm.Publish(limited(t), tx, tt.messages...); err == nil || !tt.want(err) || len(err.Error()) > 600 {
				t.Errorf("error %.700v", err)
			}
			equal(t, "fences", len(vouched(t, tx)), 0)
			check(t, tx.Commit(limited(t)))
			equal(t, "there", value[bool](w, "SELECT to_regclass($1) IS NOT NULL", strings.ReplaceAll(name, " ", "_")), true)
		})
	}
}

func isTargetError(err error) bool {
	_, ok := errors.AsType[*target.Error](err)
	return ok
}

func xidOf(w *world) string {
	_, x := w.begin()
	return x.String()
}
