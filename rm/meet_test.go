package rm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/xid"
)

// The coordinator here has decided and never tells: no delivery comes, and no
// answer to a question for the end of the wait. Whoever meets the row needs none.
func TestAWriterSettlesWhatIsDecided(t *testing.T) {
	t.Parallel()
	for _, outcome := range []pb.Outcome{pb.Outcome_OUTCOME_COMMITTED, pb.Outcome_OUTCOME_ROLLED_BACK} {
		t.Run(outcome.String(), func(t *testing.T) {
			t.Parallel()
			s, _, w := scripted(t, rm.WithLockTimeout(time.Minute))
			branches := make(chan *pb.RegisterBranchRequest, 16)
			var decided *pb.Transaction
			holder := freshXID(s)
			s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
				if r := f.GetRegisterBranch(); r != nil {
					branches <- r
				}
				if f.GetGet().GetXid() == holder.String() {
					n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{Transaction: decided}}})
					return true
				}
				return f.GetWaitFor() != nil
			})
			_, err := w.pool.Exec(xid.NewContext(limited(t), holder), "UPDATE account SET balance = balance + 1000 WHERE id < 4")
			check(t, err)
			decided = &pb.Transaction{Xid: holder.String(), Outcome: outcome, Branches: []*pb.Branch{
				{BranchId: (<-branches).GetBranchId(), ResourceId: w.pool.Resource().String(), Vote: pb.Vote_VOTE_YES},
			}}
			want := 101
			if outcome == pb.Outcome_OUTCOME_COMMITTED {
				want = 1101
			}
			ctx := xid.NewContext(limited(t), freshXID(s))
			check(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
				// With something done before, so that it is a savepoint that it goes back to.
				if _, err := tx.Exec(ctx, "UPDATE account SET balance = 0 WHERE id = 9"); err != nil {
					return err
				}
				var got int
				if err := tx.QueryRow(ctx, "UPDATE account SET balance = balance + 1 WHERE id = 1 RETURNING balance").Scan(&got); err != nil {
					return err
				}
				if got != want {
					return fmt.Errorf("it saw %d, want %d", got, want)
				}
				return nil
			}))
			equal(t, "a row that nobody met", value[int](w, "SELECT balance FROM account WHERE id = 3"), want-1)
		})
	}
}

// The row lock of a waiter holds up the rollback that it has begun itself, as nobody else
// settles the holder here. It gives way, and does not try until its time is up.
func TestAWaiterInItsOwnWayGivesWay(t *testing.T) {
	t.Parallel()
	s, _, w := scripted(t, rm.WithLockTimeout(long))
	branches := make(chan *pb.RegisterBranchRequest, 16)
	var decided *pb.Transaction
	holder := freshXID(s)
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetRegisterBranch(); r != nil {
			branches <- r
		}
		switch {
		case f.GetGet().GetXid() == holder.String() && decided != nil:
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{Transaction: decided}}})
			return true
		case f.GetWaitFor() != nil: // it is never settled
			n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: &pb.ServerFrame_WaitFor{WaitFor: &pb.WaitForResponse{}}})
			return true
		}
		return false
	})
	_, err := w.pool.Exec(xid.NewContext(limited(t), holder), addOne, 1)
	check(t, err)
	decided = &pb.Transaction{Xid: holder.String(), Outcome: pb.Outcome_OUTCOME_ROLLED_BACK, Branches: []*pb.Branch{
		{BranchId: (<-branches).GetBranchId(), ResourceId: w.pool.Resource().String(), Vote: pb.Vote_VOTE_YES},
	}}
	x := freshXID(s)
	ctx := xid.NewContext(limited(t), x)
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "SELECT FROM account WHERE id = 1 FOR UPDATE") // no trigger sees that
	check(t, err)
	_, err = tx.Exec(ctx, addOne, 1)
	wantGaveWay(t, err, x, holder)
	wantError(t, tx.Commit(ctx), pgx.ErrTxCommitRollback)
}

// A reader that demands settled rows waits for them like a writer.
func TestAReaderWaitsUntilItsRowIsSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(time.Minute))
	for _, inTx := range []bool{true, false} {
		first, holder := w.begin()
		_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
		check(t, err)
		ctx, x := w.begin()
		type answer struct {
			balance int
			err     error
		}
		answers := make(chan answer, 1)
		go func() {
			const ask = "SELECT balance FROM account a WHERE id = 1 AND handfast.settled(a) FOR UPDATE"
			var a answer
			if inTx {
				a.err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return tx.QueryRow(ctx, ask).Scan(&a.balance) })
			} else {
				a.err = w.pool.QueryRow(ctx, ask).Scan(&a.balance)
			}
			answers <- a
		}()
		w.waitsFor(x)
		w.rollback(holder)
		a := receive(t, answers)
		check(t, a.err)
		equal(t, "balance", a.balance, 100)
		equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	}
}

// waitsFor waits until the coordinator knows that x waits.
func (w *world) waitsFor(x xid.ID) {
	w.t.Helper()
	for {
		a, err := w.tc.Get(limited(w.t), &pb.GetRequest{Xid: x.String(), Waits: true})
		check(w.t, err)
		if len(a.GetWaitsFor()) > 0 {
			return
		}
	}
}
