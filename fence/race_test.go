package fence_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/undolog"
)

// How the local transaction ends that the other one waits for.
var ends = []string{"commits", "fails", "is killed"}

type answer struct {
	out fence.Outcome
	err error
}

// TestTwoCallsAtOnce holds one call open in its transaction while another call of the
// branch is made on a second connection.
func TestTwoCallsAtOnce(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	const f, c, r = fence.Forward, fence.Commit, fence.Rollback
	for _, tt := range []struct {
		before        []fence.Action
		first, second fence.Action
		then          error  // of the second, after the first has committed
		effects       [3]int // then; forward, commit, rollback
		alone         error  // of the second, after the first came to nothing
		aloneEffects  [3]int
	}{
		{nil, f, f, nil, [3]int{1, 0, 0}, nil, [3]int{1, 0, 0}},
		{nil, f, r, nil, [3]int{1, 0, 1}, nil, [3]int{0, 0, 0}},
		{nil, f, c, nil, [3]int{1, 1, 0}, fence.ErrNoForward, [3]int{0, 0, 0}},
		{nil, r, f, fence.ErrLate, [3]int{0, 0, 0}, nil, [3]int{1, 0, 0}},
		{nil, r, r, nil, [3]int{0, 0, 0}, nil, [3]int{0, 0, 0}},
		{nil, r, c, fence.ErrContradicted, [3]int{0, 0, 0}, fence.ErrNoForward, [3]int{0, 0, 0}},
		{[]fence.Action{f}, c, c, nil, [3]int{1, 1, 0}, nil, [3]int{1, 1, 0}},
		{[]fence.Action{f}, c, r, fence.ErrContradicted, [3]int{1, 1, 0}, nil, [3]int{1, 0, 1}},
		{[]fence.Action{f}, c, f, nil, [3]int{1, 1, 0}, nil, [3]int{1, 0, 0}},
		{[]fence.Action{f}, r, r, nil, [3]int{1, 0, 1}, nil, [3]int{1, 0, 1}},
		{[]fence.Action{f}, r, c, fence.ErrContradicted, [3]int{1, 0, 1}, nil, [3]int{1, 1, 0}},
		{[]fence.Action{f}, r, f, fence.ErrLate, [3]int{1, 0, 1}, nil, [3]int{1, 0, 0}},
	} {
		for _, level := range levels {
			for _, end := range ends {
				call := newCall()
				name := call.Action.String() + " " + tt.first.String() + " | " + tt.second.String() + ", " + level + ", the first " + end
				holder, waiter := d.connect(level), d.connect(level)
				for _, a := range tt.before {
					_, err := run(t, waiter, as(call, a))
					check(t, err)
				}
				tx, err := holder.Begin(limited(t))
				check(t, err)
				_, err = fence.Do(limited(t), tx, as(call, tt.first), func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, as(call, tt.first)) })
				check(t, err)

				done := make(chan answer, 1)
				go func() {
					out, err := run(t, waiter, as(call, tt.second))
					done <- answer{out, err}
				}()
				d.awaitLockWait(waiter.PgConn().PID())
				want, effects := tt.alone, tt.aloneEffects
				switch end {
				case "commits":
					check(t, tx.Commit(limited(t)))
					want, effects = tt.then, tt.effects
				case "fails":
					check(t, tx.Rollback(limited(t)))
				case "is killed":
					d.kill(holder.PgConn().PID())
				}
				got := <-done
				if level != levels[0] && sqlState(got.err) == "40001" && end == "commits" {
					// It saw that it could not see; a new transaction can.
					got.out, got.err = run(t, waiter, as(call, tt.second))
				} else if level != levels[0] && end == "commits" {
					t.Errorf("%s: %v, and no 40001", name, got.err)
				}
				if !errors.Is(got.err, want) {
					t.Errorf("%s: %v, want %v", name, got.err, want)
				}
				if e := [3]int{d.effects(as(call, f)), d.effects(as(call, c)), d.effects(as(call, r))}; e != effects {
					t.Errorf("%s: effects %v, want %v", name, e, effects)
				}
				_ = holder.Close(context.Background())
				_ = waiter.Close(context.Background())
			}
		}
	}
}

// A snapshot that is older than what another connection did to the branch must not
// be what the call is judged by.
func TestOldSnapshots(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range levels[1:] {
		conn := d.connect(level)
		for _, tt := range []struct{ before, then, call []fence.Action }{
			{nil, []fence.Action{fence.Forward}, []fence.Action{fence.Forward, fence.Commit, fence.Rollback}},
			{nil, []fence.Action{fence.Rollback}, []fence.Action{fence.Forward, fence.Commit, fence.Rollback}},
			{[]fence.Action{fence.Forward}, []fence.Action{fence.Rollback}, []fence.Action{fence.Forward, fence.Commit, fence.Rollback}},
			{[]fence.Action{fence.Forward}, []fence.Action{fence.Commit}, []fence.Action{fence.Forward, fence.Commit, fence.Rollback}},
		} {
			for _, action := range tt.call {
				c := newCall()
				for _, a := range tt.before {
					_, err := run(t, d.own, as(c, a))
					check(t, err)
				}
				err := pgx.BeginFunc(limited(t), conn, func(tx pgx.Tx) error {
					_, err := tx.Exec(limited(t), "SELECT count(*) FROM effect") // takes the snapshot
					check(t, err)
					for _, a := range tt.then {
						_, err := run(t, d.own, as(c, a))
						check(t, err)
					}
					_, err = fence.Do(limited(t), tx, as(c, action), func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, as(c, action)) })
					return err
				})
				if sqlState(err) != "40001" {
					t.Errorf("%s: %v, then %v beside it, then %s: %v, want 40001", level, tt.before, tt.then, action, err)
				}
			}
		}
	}
}

func TestWaitingForAnotherCallEnds(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	c := newCall()
	holder := d.connect("")
	tx, err := holder.Begin(limited(t))
	check(t, err)
	_, err = fence.Do(limited(t), tx, c, func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, c) })
	check(t, err)

	waiter := d.connect("")
	start := time.Now()
	_, err = run(t, waiter, c)
	wantError(t, err, fence.ErrBusy)
	if took := time.Since(start); took < fence.LockTimeout {
		t.Errorf("gave up after %s", took)
	}
	d.exec(waiter, "SET lock_timeout = '10ms'")
	start = time.Now()
	_, err = run(t, waiter, c)
	wantError(t, err, fence.ErrBusy)
	if took := time.Since(start); took >= fence.LockTimeout {
		t.Errorf("the session's own lock_timeout was overruled: %s", took)
	}
	check(t, tx.Commit(limited(t)))
	if out, err := run(t, waiter, c); err != nil || !out.Repeated {
		t.Fatal(out, err)
	}

	// Neither bound is left behind for the statements of the action.
	for _, setting := range []string{"0", "10ms"} {
		d.exec(waiter, "SET lock_timeout = '"+setting+"'")
		_, err = fence.Run(limited(t), waiter, newCall(), func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			var got string
			check(t, tx.QueryRow(ctx, "SHOW lock_timeout").Scan(&got))
			if got != setting {
				t.Errorf("lock_timeout is %s in the action, want %s", got, setting)
			}
			return nil, nil
		})
		check(t, err)
	}
}

func TestArmedOrFencedNeverBoth(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range levels {
		conn := d.connect(level)
		c := newCall()
		sql, args := undolog.Arm(newXID(time.Now()), newCall().Branch, undolog.ArmOptions{})
		err := pgx.BeginFunc(limited(t), conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(limited(t), sql, args...)
			check(t, err)
			_, err = fence.Do(limited(t), tx, c, func(context.Context) ([]byte, error) { panic("it is armed") })
			return err
		})
		wantError(t, err, fence.ErrArmed)
		_, err = fence.Run(limited(t), conn, c, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			if _, err := effect(ctx, tx, c); err != nil {
				return nil, err
			}
			_, err := tx.Exec(ctx, sql, args...)
			return nil, err
		})
		wantError(t, err, fence.ErrArmed)
		d.wantEffects(c, 0, 0, 0)
		if out, err := run(t, conn, c); err != nil || out.Repeated {
			t.Fatal(out, err)
		}
	}
}
