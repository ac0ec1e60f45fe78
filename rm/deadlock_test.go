package rm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// long is a lock timeout that no test waits for: what ends earlier was found.
const long = 5 * patience

// beside gives another database, with a service that uses the same coordinator.
func (w *world) beside(opts ...rm.Option) *world {
	w.t.Helper()
	o := &world{t: w.t, tc: w.tc, dsn: database(w.t)}
	o.pool = open(w.t, w.tc, o.dsn, opts...)
	o.look = connect(w.t, o.dsn)
	return o
}

const addOne = "UPDATE account SET balance = balance + 1 WHERE id = $1"

// TestACycleIsBrokenByItsYoungest: n transactions, each with a row that the one
// before wants, over one or more databases.
func TestACycleIsBrokenByItsYoungest(t *testing.T) {
	t.Parallel()
	first := newWorld(t, rm.WithLockTimeout(long))
	second := first.beside(rm.WithLockTimeout(long))
	for _, tt := range []struct { //nolint:paralleltest // they share the rows
		name     string
		n        int
		dbs      []*world
		explicit bool
	}{
		{"two in one database", 2, []*world{first}, false},
		{"two in one database, explicit", 2, []*world{first}, true},
		{"two over two databases", 2, []*world{first, second}, false},
		{"three over two databases", 3, []*world{first, second}, false},
		{"three over two databases, explicit", 3, []*world{first, second}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := func(i int) *world { return tt.dbs[i%tt.n%len(tt.dbs)] }
			var all sync.WaitGroup // until everybody has a row
			all.Add(tt.n)
			ids, errs := make([]xid.ID, tt.n), make([]error, tt.n)
			var ends sync.WaitGroup
			for i := range tt.n {
				ends.Go(func() {
					errs[i] = tm.New(first.tc).Do(limited(t), func(ctx context.Context) error {
						ids[i], _ = xid.FromContext(ctx)
						_, err := db(i).pool.Exec(ctx, addOne, i+1)
						all.Done()
						if err != nil {
							return err
						}
						all.Wait()
						want := (i+1)%tt.n + 1
						if !tt.explicit {
							_, err = db(i+1).pool.Exec(ctx, addOne, want)
							return err
						}
						return pgx.BeginFunc(ctx, db(i+1).pool, func(tx pgx.Tx) error {
							if _, err := tx.Exec(ctx, addOne, 50+i); err != nil {
								return err
							}
							_, err := tx.Exec(ctx, addOne, want)
							return err
						})
					}, tm.WithWaitSettled())
				})
			}
			ends.Wait()
			youngest := 0
			for i := range ids {
				if ids[i].String() > ids[youngest].String() {
					youngest = i
				}
			}
			for i, err := range errs {
				if i != youngest {
					check(t, err)
					continue
				}
				wantError(t, err, tm.ErrDeadlock)
				wantError(t, err, tm.ErrRolledBack)
				wantError(t, err, rm.ErrDeadlock)
				wantError(t, err, rm.ErrDecided)
				for _, id := range ids {
					if !strings.Contains(err.Error(), id.String()) {
						t.Errorf("%s is not named in: %v", id, err)
					}
				}
			}
		})
	}
	first.settled()
	second.settled()
}

// settled waits until nothing is undecided.
func (w *world) settled() {
	w.t.Helper()
	ctx := limited(w.t)
	for w.intents() > 0 {
		check(w.t, ctx.Err())
	}
}

// TestANewTransactionThatNeedsARowOfItsParent can never get it: the parent waits
// for its call to return.
func TestANewTransactionThatNeedsARowOfItsParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long))
	var outer, inner xid.ID
	check(t, tm.New(w.tc).Do(limited(t), func(ctx context.Context) error {
		outer, _ = xid.FromContext(ctx)
		if _, err := w.pool.Exec(ctx, addOne, 1); err != nil {
			return err
		}
		err := tm.New(w.tc).Do(ctx, func(ctx context.Context) error {
			inner, _ = xid.FromContext(ctx)
			_, err := w.pool.Exec(ctx, addOne, 1)
			return err
		}, tm.RequiresNew())
		wantError(t, err, tm.ErrDeadlock)
		if !strings.Contains(err.Error(), fmt.Sprintf("%s waits for its child %s, which waits for %s", outer, inner, outer)) {
			t.Errorf("got %v", err)
		}
		return nil // the outer one may go on without
	}, tm.WithWaitSettled()))
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 101)
	w.settled()
}

// TestANewTransactionThatNeedsARowThatItsParentHasLocked waits inside Postgres,
// where only the lock timeout ends it: the parent's local transaction is open.
func TestANewTransactionThatNeedsARowThatItsParentHasLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(100*time.Millisecond))
	check(t, tm.New(w.tc).Do(limited(t), func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, addOne, 1); err != nil {
				return err
			}
			err := tm.New(w.tc).Do(ctx, func(ctx context.Context) error {
				_, err := w.pool.Exec(ctx, addOne, 1)
				return err
			}, tm.RequiresNew())
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "55P03" {
				t.Errorf("got %v", err)
			}
			return nil
		})
	}, tm.WithWaitSettled()))
	equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 101)
}

// wantGaveWay checks the error of a statement whose transaction held up the
// one that it waited for.
func wantGaveWay(t *testing.T, err error, waiter, holder xid.ID) {
	t.Helper()
	wantError(t, err, rm.ErrDeadlock)
	var c *rm.LockConflictError
	if !errors.As(err, &c) || c.Holder != holder || !strings.Contains(c.Deadlock, waiter.String()) || !strings.Contains(c.Deadlock, holder.String()) {
		t.Errorf("got %v", err)
	}
	if f, ok := tm.FindLockConflict(err); !ok || !errors.Is(f, tm.ErrDeadlock) {
		t.Errorf("tm finds %v", f)
	}
}

// TestAWaiterWhoseRowLockHoldsUpARollbackGivesWay (protocol H1): the holder is
// rolled back, and putting its row back waits for the row lock of the waiter.
func TestAWaiterWhoseRowLockHoldsUpARollbackGivesWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long))
	before := w.contents()
	first, holder := w.begin()
	_, err := w.pool.Exec(first, addOne, 1)
	check(t, err)

	ctx, x := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, "SELECT FROM account WHERE id = 1 FOR UPDATE") // no trigger sees that
	check(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := tx.Exec(ctx, addOne, 1)
		done <- err
	}()
	w.waitsInside()
	w.rollback(holder) // returns when it is settled
	wantGaveWay(t, <-done, x, holder)
	// Its own transaction is not decided; only the local one is over.
	_, err = tx.Exec(ctx, "SELECT 1")
	wantError(t, err, rm.ErrDeadlock)
	wantError(t, tx.Commit(ctx), pgx.ErrTxCommitRollback)
	_, err = w.pool.Exec(ctx, addOne, 1)
	check(t, err)
	w.rollback(x)
	equal(t, "contents", w.contents(), before)
}

// waitsInside waits until a local transaction has gone back to its savepoint
// and does nothing: it waits at the coordinator.
func (w *world) waitsInside() {
	w.t.Helper()
	w.waits("idle in transaction", "rollback to savepoint %")
}

// waitsOutside is the same for one that has gone back to before BEGIN.
func (w *world) waitsOutside() { w.t.Helper(); w.waits("idle", "rollback") }

func (w *world) waits(state, query string) {
	w.t.Helper()
	ctx := limited(w.t)
	for value[int](w, `SELECT count(*)::int FROM pg_stat_activity
		WHERE datname = current_database() AND state = $1 AND query LIKE $2`, state, query) == 0 {
		check(w.t, ctx.Err())
	}
}

// blocked waits until so many sessions wait for a lock inside Postgres.
func (w *world) blocked(n int) {
	w.t.Helper()
	ctx := limited(w.t)
	for w.waiting() < n {
		check(w.t, ctx.Err())
	}
}

// waiting counts the sessions that wait for a lock inside Postgres.
func (w *world) waiting() int {
	w.t.Helper()
	return value[int](w, "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
}

// TestACycleThroughARowLockIsFound: A waits at the coordinator for B, and B
// inside Postgres for A.
func TestACycleThroughARowLockIsFound(t *testing.T) {
	t.Parallel()
	for _, between := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a plain session between=%v", between), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rm.WithLockTimeout(long))
			ctxB, b := w.begin()
			_, err := w.pool.Exec(ctxB, addOne, 1)
			check(t, err)
			ctxA, a := w.begin()
			tx, err := w.pool.Begin(ctxA)
			check(t, err)
			_, err = tx.Exec(ctxA, addOne, 2)
			check(t, err)

			others, rowOfB := make(chan error, 2), 2
			if between {
				rowOfB = 3
				plain := connect(t, w.dsn)
				exec(t, plain, "BEGIN; SELECT FROM account WHERE id = 3 FOR UPDATE")
				go func() {
					// Only locks it: writing is refused, which ends the wait for no one.
					_, err := plain.Exec(limited(t), "SELECT FROM account WHERE id = 2 FOR UPDATE; COMMIT")
					others <- err
				}()
				w.blocked(1)
			}
			go func() {
				_, err := w.pool.Exec(ctxB, addOne, rowOfB)
				others <- err
			}()
			if between {
				w.blocked(2)
			} else {
				w.blocked(1)
			}
			_, err = tx.Exec(ctxA, addOne, 1)
			wantGaveWay(t, err, a, b)
			check(t, <-others) // B goes on before A's Tx is even closed
			if between {
				check(t, <-others)
			}
			check(t, tx.Rollback(ctxA))
			equal(t, "outcome", w.commit(b), pb.Outcome_OUTCOME_COMMITTED)
			equal(t, "outcome", w.commit(a), pb.Outcome_OUTCOME_COMMITTED) // of nothing
		})
	}
}

// TestALongerCycleThroughARowLockIsFound: A waits at the coordinator for C, C for
// B in another database, and B inside Postgres for A.
func TestALongerCycleThroughARowLockIsFound(t *testing.T) {
	t.Parallel()
	first := newWorld(t, rm.WithLockTimeout(long))
	second := first.beside(rm.WithLockTimeout(long))
	ctxA, a := first.begin()
	ctxB, b := first.begin()
	ctxC, c := first.begin()
	_, err := first.pool.Exec(ctxC, addOne, 1)
	check(t, err)
	_, err = second.pool.Exec(ctxB, addOne, 1)
	check(t, err)
	tx, err := first.pool.Begin(ctxA)
	check(t, err)
	_, err = tx.Exec(ctxA, addOne, 2)
	check(t, err)
	endB, endC := make(chan error, 1), make(chan error, 1)
	go func() { _, err := first.pool.Exec(ctxB, addOne, 2); endB <- err }()
	first.blocked(1)
	go func() { _, err := second.pool.Exec(ctxC, addOne, 1); endC <- err }()
	_, err = tx.Exec(ctxA, addOne, 1)
	wantGaveWay(t, err, a, c)
	if !strings.Contains(err.Error(), b.String()) {
		t.Errorf("B is not named: %v", err)
	}
	check(t, <-endB)
	equal(t, "outcome", first.commit(b), pb.Outcome_OUTCOME_COMMITTED)
	check(t, <-endC)
	equal(t, "outcome", first.commit(c), pb.Outcome_OUTCOME_COMMITTED)
	check(t, tx.Rollback(ctxA))
	first.rollback(a)
}

// TestACycleThroughTwoRowLocksIsBounded: A waits at the coordinator for B, which
// waits inside Postgres for C, which waits at the coordinator of the other
// database for D, which waits inside Postgres for A. Nobody sees all of that, so
// the lock timeout ends it.
func TestACycleThroughTwoRowLocksIsBounded(t *testing.T) {
	t.Parallel()
	first := newWorld(t, rm.WithLockTimeout(500*time.Millisecond))
	second := first.beside(rm.WithLockTimeout(500 * time.Millisecond))
	ctxA, a := first.begin()
	ctxB, b := first.begin()
	ctxC, c := first.begin()
	ctxD, d := first.begin()
	_, err := first.pool.Exec(ctxB, addOne, 1)
	check(t, err)
	_, err = second.pool.Exec(ctxD, addOne, 1)
	check(t, err)
	inA, err := first.pool.Begin(ctxA)
	check(t, err)
	_, err = inA.Exec(ctxA, addOne, 2)
	check(t, err)
	inC, err := second.pool.Begin(ctxC)
	check(t, err)
	_, err = inC.Exec(ctxC, addOne, 2)
	check(t, err)
	errs := make(chan error, 4)
	go func() { _, err := second.pool.Exec(ctxB, addOne, 2); errs <- err }()
	go func() { _, err := first.pool.Exec(ctxD, addOne, 2); errs <- err }()
	// Or it has waited in vain already.
	until(t, func() bool { return len(errs) > 0 || first.waiting() > 0 && second.waiting() > 0 })
	go func() { _, err := inA.Exec(ctxA, addOne, 1); errs <- errors.Join(err, inA.Rollback(ctxA)) }()
	go func() { _, err := inC.Exec(ctxC, addOne, 1); errs <- errors.Join(err, inC.Rollback(ctxC)) }()
	failed := 0
	for range 4 {
		if err := <-errs; err != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("there was no cycle")
	}
	for _, id := range []xid.ID{a, b, c, d} {
		first.rollback(id)
	}
}

// TestFirstComeFirstServed: whoever began to wait first gets the row first,
// also when somebody else had it in between. The pauses that keep the order are long
// here, so that a busy machine does not outlast them.
func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long), rm.WithTurn(long))
	if got := queueForOneRow(w); got != "01234" {
		t.Errorf("the order is %s", got)
	}
}

func queueForOneRow(w *world) (order string) {
	w.t.Helper()
	exec(w.t, w.look, "UPDATE account SET owner = '' WHERE id = 1")
	first, holder := w.begin()
	_, err := w.pool.Exec(first, addOne, 1)
	check(w.t, err)
	const n = 5
	errs := make(chan error, n)
	for i := range n {
		ctx, x := w.begin()
		go func() {
			_, err := w.pool.Exec(ctx, "UPDATE account SET owner = owner || $1 WHERE id = 1", fmt.Sprint(i))
			if err == nil {
				_, err = w.tc.Commit(ctx, &pb.CommitRequest{Xid: x.String()})
			}
			errs <- err
		}()
		w.waitsFor(x)
	}
	w.rollback(holder)
	for range n {
		check(w.t, <-errs)
	}
	w.settled()
	return value[string](w, "SELECT owner FROM account WHERE id = 1")
}

// TestTransfersInAnyOrderAllGetThrough: many transactions go for few rows in two
// databases, each in its own order. Whatever waits for each other is found, or
// ended by the lock timeout, and run anew; and no money is lost.
func TestTransfersInAnyOrderAllGetThrough(t *testing.T) {
	t.Parallel()
	const workers, transfers, rows = 6, 8, 3
	first := newWorld(t)
	second := first.beside()
	var pools []*rm.Pool
	for _, w := range []*world{first, second} {
		// Who waits in a transaction keeps its connection, so there is one for each.
		pools = append(pools, open(t, first.tc, w.dsn+"&pool_max_conns=12", rm.WithLockTimeout(700*time.Millisecond)))
	}
	manager := tm.New(first.tc)
	var mu sync.Mutex
	found, expired, other := 0, 0, []error(nil)
	var work sync.WaitGroup
	for worker := range workers {
		rng := rand.New(rand.NewPCG(uint64(worker), 5))
		work.Go(func() {
			for range transfers {
				from, to := rng.IntN(2*rows), rng.IntN(2*rows)
				explicit := rng.IntN(2) == 0
				for {
					err := manager.Do(limited(t), func(ctx context.Context) error {
						return errors.Join(
							transfer(ctx, pools[from%2], 1+from/2, -1, explicit),
							transfer(ctx, pools[to%2], 1+to/2, 1, explicit))
					})
					if err == nil {
						break
					}
					mu.Lock()
					switch {
					case errors.Is(err, tm.ErrDeadlock), hasState(err, "40P01"):
						found++
					case errors.Is(err, tm.ErrLockConflict), hasState(err, "55P03"):
						expired++
					default:
						other = append(other, err)
					}
					stop := len(other) > 0
					mu.Unlock()
					if stop {
						return
					}
				}
			}
		})
	}
	work.Wait()
	for _, err := range other {
		t.Error(err)
	}
	first.settled()
	second.settled()
	const sum = "SELECT sum(balance)::int FROM account"
	equal(t, "money", value[int](first, sum)+value[int](second, sum), 2*100*100)
	t.Logf("%d transfers; %d deadlocks were found, %d waits expired", workers*transfers, found, expired)
}

// transfer changes one account, and another that only this database has to itself.
func transfer(ctx context.Context, p *rm.Pool, id, by int, explicit bool) error {
	const change = "UPDATE account SET balance = balance + $1 WHERE id = $2"
	if !explicit {
		_, err := p.Exec(ctx, change, by, id)
		return err
	}
	return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, change, by, id); err != nil {
			return err
		}
		// Two more rows that others want, in the order of the day.
		if _, err := tx.Exec(ctx, change, 0, 1+(id+1)%3); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, change, 0, 1+(id+2)%3)
		return err
	})
}

func hasState(err error, state string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == state
}
