package rm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
)

// touches are statements that need row 1 of account and add one to it.
func touches() map[string]func(ctx context.Context, tx pgx.Tx) error {
	const returning = addOne + " RETURNING balance"
	return map[string]func(ctx context.Context, tx pgx.Tx) error{
		"Exec": func(ctx context.Context, tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, addOne, 1)
			if err == nil && tag.RowsAffected() != 1 {
				return fmt.Errorf("tag %q", tag)
			}
			return err
		},
		"text": func(ctx context.Context, tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, "UPDATE account SET owner = 'x;' WHERE id = 9; UPDATE account SET balance = balance + 1 WHERE id = 1")
			if err == nil && tag.RowsAffected() != 1 {
				return fmt.Errorf("tag %q", tag)
			}
			return err
		},
		"Query": func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, returning, 1)
			if err != nil {
				return err
			}
			got, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err == nil && len(got) != 1 {
				return fmt.Errorf("rows %v", got)
			}
			return err
		},
		"Query closed at once": func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, returning, 1)
			if err != nil {
				return err
			}
			rows.Close()
			return rows.Err()
		},
		"QueryRow": func(ctx context.Context, tx pgx.Tx) error {
			var n int
			return tx.QueryRow(ctx, returning, 1).Scan(&n)
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue("UPDATE account SET owner = $1 WHERE id = 8", "b")
			b.Queue("UPDATE account SET balance = balance + @n WHERE id = 1", pgx.NamedArgs{"n": 1})
			return tx.SendBatch(ctx, b).Close()
		},
		"SendBatch read": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(addOne, 1)
			b.Queue("SELECT id FROM account WHERE id = $1", 5)
			br := tx.SendBatch(ctx, b)
			defer br.Close() //nolint:errcheck // closed below, too
			if _, err := br.Exec(); err != nil {
				return err
			}
			var id int
			if err := br.QueryRow().Scan(&id); err != nil || id != 5 {
				return fmt.Errorf("%d, %w", id, err)
			}
			return br.Close()
		},
		"SendBatch queried": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(returning, 1)
			br := tx.SendBatch(ctx, b)
			var n int
			return errors.Join(br.QueryRow().Scan(&n), br.Close())
		},
		"nested": func(ctx context.Context, tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, addOne, 1)
				return err
			})
		},
	}
}

// TestAnExplicitTransactionWaitsAndKeepsItsWork: a conflict costs the statement
// a wait and the transaction nothing.
func TestAnExplicitTransactionWaitsAndKeepsItsWork(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pool := open(t, w.tc, w.dsn+"&default_query_exec_mode="+mode, rm.WithLockTimeout(long))
			for name, touch := range touches() {
				for _, commit := range []bool{true, false} {
					before := w.contents()
					balance := func(id int) int { return value[int](w, "SELECT balance FROM account WHERE id = $1", id) }
					was1, was2 := balance(1), balance(2)
					first, holder := w.begin()
					_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
					check(t, err)
					ctx, x := w.begin()
					done := make(chan error, 1)
					go func() {
						done <- pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
							for range 2 {
								if _, err := tx.Exec(ctx, addOne, 2); err != nil {
									return err
								}
							}
							if err := touch(ctx, tx); err != nil {
								return fmt.Errorf("%s: %w", name, err)
							}
							_, err := tx.Exec(ctx, addOne, 2)
							return err
						})
					}()
					w.waitsInside()
					w.rollback(holder)
					check(t, <-done)
					equal(t, "branches", len(w.branches(x)), 1)
					if !commit {
						w.rollback(x)
						equal(t, name+": contents", w.contents(), before)
						continue
					}
					equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
					equal(t, name+": balance of 1", balance(1), was1+1)
					equal(t, name+": balance of 2", balance(2), was2+3)
				}
			}
		})
	}
}

// TestAFirstStatementWaitsWithNothingLocked: it goes back to before BEGIN, and
// its branch is used again.
func TestAFirstStatementWaitsWithNothingLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long), rm.WithSavepoints(false))
	for name, touch := range touches() {
		if name == "nested" {
			continue // its first statement is SAVEPOINT
		}
		was := value[int](w, "SELECT balance FROM account WHERE id = 1")
		first, holder := w.begin()
		_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
		check(t, err)
		ctx, x := w.begin()
		done := make(chan error, 1)
		go func() {
			done <- pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
				if err := touch(ctx, tx); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		}()
		w.waitsOutside()
		w.rollback(holder)
		check(t, <-done)
		equal(t, "branches", len(w.branches(x)), 1)
		equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
		equal(t, name+": balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), was+1)
	}
}

// TestWhatIsNotTriedAgain fails at once, with the conflict.
func TestWhatIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long))
	without := open(t, w.tc, w.dsn, rm.WithLockTimeout(long), rm.WithSavepoints(false))
	first, holder := w.begin()
	_, err := w.pool.Exec(first, "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	_, err = w.pool.Exec(first, "DELETE FROM account WHERE id = 2")
	check(t, err)
	exec1 := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, addOne, 1)
		return err
	}
	for name, tt := range map[string]struct { //nolint:paralleltest // they share the rows
		pool  *rm.Pool
		iso   pgx.TxIsoLevel
		state string
		do    func(ctx context.Context, tx pgx.Tx) error
	}{
		"repeatable read": {w.pool, pgx.RepeatableRead, "40001", exec1},
		"serializable":    {w.pool, pgx.Serializable, "40001", exec1},
		"no savepoints":   {without, "", "HF001", exec1},
		"CopyFrom": {w.pool, pgx.ReadCommitted, "HF001", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"account"}, []string{"id", "owner", "balance"}, pgx.CopyFromRows([][]any{{2, "x", 1}}))
			return err
		}},
		"options": {w.pool, "", "HF001", func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, addOne, pgx.QueryExecModeExec, 1)
			return err
		}},
		"the connection was given out": {w.pool, "", "HF001", func(ctx context.Context, tx pgx.Tx) error {
			_ = tx.Conn()
			return exec1(ctx, tx)
		}},
		"results were given out": {w.pool, "", "HF001", func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(addOne, 7)
			b.Queue(addOne, 1)
			br := tx.SendBatch(ctx, b)
			_, err := br.Exec()
			check(t, err)
			_, err = br.Exec()
			return errors.Join(err, br.Close())
		}},
		"callbacks": {w.pool, "", "HF001", func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(addOne, 7).Exec(func(pgconn.CommandTag) error { return nil })
			b.Queue(addOne, 1)
			return tx.SendBatch(ctx, b).Close()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, x := w.begin()
			tx, err := tt.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: tt.iso})
			check(t, err)
			_, err = tx.Exec(ctx, addOne, 3)
			check(t, err)
			err = tt.do(ctx, tx)
			var c *rm.LockConflictError
			var pg *pgconn.PgError
			if !errors.As(err, &c) || c.Holder != holder || !errors.As(err, &pg) || pg.Code != tt.state {
				t.Errorf("got %v", err)
			}
			// As in Postgres: after an error nothing can be committed.
			wantError(t, tx.Commit(ctx), pgx.ErrTxCommitRollback)
			w.rollback(x)
		})
	}
	w.rollback(holder)
}

func TestWaitingInATransactionEndsWithTheLockTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(60*time.Millisecond))
	first, holder := w.begin()
	_, err := w.pool.Exec(first, addOne, 1)
	check(t, err)
	for _, before := range []int{0, 1} { // as the first statement, and later
		ctx, _ := w.begin()
		tx, err := w.pool.Begin(ctx)
		check(t, err)
		for range before {
			_, err = tx.Exec(ctx, addOne, 2)
			check(t, err)
		}
		began := time.Now()
		_, err = tx.Exec(ctx, addOne, 1)
		var c *rm.LockConflictError
		if !errors.As(err, &c) || c.Holder != holder || errors.Is(err, rm.ErrDeadlock) {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(began); took < 60*time.Millisecond {
			t.Errorf("it waited %v", took)
		}
		_, err = tx.Exec(ctx, addOne, 3)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "25P02" {
			t.Errorf("the transaction goes on: %v", err)
		}
		wantError(t, tx.Commit(ctx), pgx.ErrTxCommitRollback)
	}
	w.rollback(holder)
}

// TestAWaitEndsWithItsContext: the local transaction is over then, and holds up
// nobody.
func TestAWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long))
	first, holder := w.begin()
	_, err := w.pool.Exec(first, addOne, 1)
	check(t, err)
	ctx, x := w.begin()
	tx, err := w.pool.Begin(ctx)
	check(t, err)
	_, err = tx.Exec(ctx, addOne, 2)
	check(t, err)
	short, cancel := context.WithCancelCause(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := tx.Exec(short, addOne, 1)
		done <- err
	}()
	w.waitsInside()
	why := errors.New("the customer left")
	cancel(why)
	err = <-done
	wantError(t, err, why)
	var c *rm.LockConflictError
	if !errors.As(err, &c) || !strings.Contains(err.Error(), why.Error()) {
		t.Errorf("got %v", err)
	}
	exec(t, w.look, "UPDATE account SET owner = 'free' WHERE id = 2")
	wantError(t, tx.Commit(ctx), pgx.ErrTxCommitRollback)
	w.rollback(x)
	w.rollback(holder)
}

// TestAWaiterThatIsDecidedMeanwhileEnds, by its deadline or by hand.
func TestAWaiterThatIsDecidedMeanwhileEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithLockTimeout(long))
	first, holder := w.begin()
	_, err := w.pool.Exec(first, addOne, 1)
	check(t, err)
	ctx, x := w.begin()
	done := make(chan error, 1)
	go func() {
		done <- pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, addOne, 2); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, addOne, 1)
			return err
		})
	}()
	w.waitsInside()
	w.rollback(x)
	err = <-done
	wantError(t, err, rm.ErrDecided)
	if errors.Is(err, rm.ErrDeadlock) {
		t.Errorf("got %v", err)
	}
	w.rollback(holder)
}

// TestOwnSavepointsNeverShow: a random course of statements and savepoints ends
// the same as with plain pgx.
func TestOwnSavepointsNeverShow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.contents()
	for seed := range uint64(60) {
		ctx, x := w.begin()
		plain := course(limited(t), seed, w.pool.Plain())
		w.restore(before)
		ours := course(ctx, seed, w.pool)
		if plain != ours {
			t.Fatalf("seed %d:\nplain %s\nours  %s", seed, plain, ours)
		}
		w.rollback(x)
		equal(t, "contents", w.contents(), before)
	}
}

// restore puts the accounts back after plain work.
func (w *world) restore(before string) {
	w.t.Helper()
	exec(w.t, w.look, "UPDATE account SET balance = 100 WHERE balance <> 100")
	equal(w.t, "contents", w.contents(), before)
}

// course runs one random course and tells what came of each step.
func course(ctx context.Context, seed uint64, db interface {
	Begin(ctx context.Context) (pgx.Tx, error)
},
) string {
	rng := rand.New(rand.NewPCG(seed, 3))
	tx, err := db.Begin(ctx)
	if err != nil {
		return err.Error()
	}
	var told strings.Builder
	tell := func(op string, err error) {
		code := ""
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
			code = pg.Code
		} else if err != nil {
			code = "failed"
		}
		fmt.Fprintf(&told, "%s %s, ", op, code)
	}
	stack := []pgx.Tx{tx}
	for range 25 {
		top := stack[len(stack)-1]
		n := 1 + rng.IntN(5)
		switch op := rng.IntN(12); op {
		case 0, 1:
			_, err := top.Exec(ctx, addOne, n)
			tell("exec", err)
		case 2:
			_, err := top.Exec(ctx, fmt.Sprintf("UPDATE account SET balance = balance + 1 WHERE id = %d", n))
			tell("text", err)
		case 3:
			var sum int
			err := top.QueryRow(ctx, "SELECT sum(balance)::int FROM account").Scan(&sum)
			tell(fmt.Sprint("sum ", sum), err)
		case 4:
			b := &pgx.Batch{}
			b.Queue(addOne, n)
			b.Queue(addOne, n+1)
			tell("batch", top.SendBatch(ctx, b).Close())
		case 5, 6:
			next, err := top.Begin(ctx)
			tell("begin", err)
			if err == nil {
				stack = append(stack, next)
			}
		case 7, 8:
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
				if op == 7 {
					tell("release", top.Commit(ctx))
				} else {
					tell("back", top.Rollback(ctx))
				}
			}
		case 9:
			_, err := top.Exec(ctx, fmt.Sprintf("SAVEPOINT s%d", n%2))
			tell("savepoint", err)
		case 10:
			_, err := top.Exec(ctx, fmt.Sprintf("ROLLBACK TO s%d", n%2))
			tell("rollback to", err)
		case 11:
			if rng.IntN(3) == 0 {
				_, err := top.Exec(ctx, "UPDATE account SET balance = 1 / (id - $1) WHERE id = $1", n)
				tell("fail", err)
			}
		}
	}
	tell("commit", tx.Commit(ctx))
	return told.String()
}
