package fence_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
)

var errAction = errors.New("sold out")

// An action that fails leaves nothing, even where its caller takes the transaction
// for a good one.
func TestFailedActionCanNotBeCommitted(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	db, conn := d.sql(), d.connect("")
	for name, fail := range map[string]func(cancel func()) ([]byte, error){
		"error":               func(func()) ([]byte, error) { return nil, errAction },
		"too large a result":  func(func()) ([]byte, error) { return make([]byte, fence.MaxResult+1), nil },
		"context has ended":   func(cancel func()) ([]byte, error) { cancel(); return []byte("x"), nil },
		"error, context gone": func(cancel func()) ([]byte, error) { cancel(); return nil, errAction },
		"panic":               func(func()) ([]byte, error) { panic(errAction) },
	} {
		for _, before := range [][]fence.Action{nil, {fence.Forward}} {
			c := newCall()
			for _, a := range before {
				_, err := run(t, d.own, as(c, a))
				check(t, err)
				c.Action = fence.Rollback
			}
			if conn.IsClosed() {
				conn = d.connect("")
			}
			ctx, cancel := context.WithCancel(limited(t))
			tx, err := conn.Begin(limited(t))
			check(t, err)
			err = recovered(func() error {
				_, err := fence.Do(ctx, tx, c, func(context.Context) ([]byte, error) {
					if _, err := effect(limited(t), tx, c); err != nil {
						return nil, err
					}
					return fail(cancel)
				})
				return err
			})
			if err == nil {
				t.Fatalf("%s: no error", name)
			}
			if err := tx.Commit(limited(t)); err == nil {
				t.Errorf("%s: committed", name)
			}

			ctx, cancel = context.WithCancel(limited(t))
			stx, err := db.BeginTx(limited(t), nil)
			check(t, err)
			err = recovered(func() error {
				_, err := fence.DoSQL(ctx, stx, c, func(context.Context) ([]byte, error) {
					if _, err := stx.ExecContext(limited(t), "INSERT INTO effect (call) VALUES ($1)", c.Key()); err != nil {
						return nil, err
					}
					return fail(cancel)
				})
				return err
			})
			if err == nil {
				t.Fatalf("%s: no error", name)
			}
			if err := stx.Commit(); err == nil {
				t.Errorf("%s: database/sql committed", name)
			}

			_ = recovered(func() error {
				_, err := fence.Run(limited(t), d.own, c, func(_ context.Context, tx pgx.Tx) ([]byte, error) {
					if _, err := effect(limited(t), tx, c); err != nil {
						return nil, err
					}
					return fail(func() {})
				})
				return err
			})
			if name == "context has ended" {
				continue // Run's own context has not, so it was done
			}
			if n := d.effects(c); n != 0 {
				t.Errorf("%s: %d effects", name, n)
			}
			if out, err := run(t, d.own, c); err != nil || out.Repeated {
				t.Errorf("%s: then: %+v %v", name, out, err)
			}
		}
	}
}

func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = p.(error)
		}
	}()
	return f()
}

// A savepoint that is rolled back takes the memory of the action with it.
func TestFailedActionInASavepoint(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	failed, done := newCall(), newCall()
	check(t, pgx.BeginFunc(limited(t), d.own, func(outer pgx.Tx) error {
		err := pgx.BeginFunc(limited(t), outer, func(tx pgx.Tx) error {
			_, err := fence.Do(limited(t), tx, failed, func(ctx context.Context) ([]byte, error) {
				if _, err := effect(ctx, tx, failed); err != nil {
					return nil, err
				}
				return nil, errAction
			})
			return err
		})
		wantError(t, err, errAction)
		_, err = fence.Do(limited(t), outer, done, func(ctx context.Context) ([]byte, error) { return effect(ctx, outer, done) })
		return err
	}))
	d.wantEffects(failed, 0, 0, 0)
	d.wantEffects(done, 1, 0, 0)
	if out, err := run(t, d.own, failed); err != nil || out.Repeated {
		t.Fatal(out, err)
	}
}

// TestKilledBackends ends the backend at each point of a call.
func TestKilledBackends(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, driver := range []string{"pgx", "database/sql"} {
		for _, action := range []fence.Action{fence.Forward, fence.Commit, fence.Rollback} {
			for _, point := range []string{"before the effect", "after the effect", "before COMMIT", "after COMMIT"} {
				c := newCall()
				if action != fence.Forward {
					_, err := run(t, d.own, c)
					check(t, err)
				}
				c.Action = action
				at := func(p string, pid uint32) {
					if p == point {
						d.kill(pid)
					}
				}
				work := killed
				if driver != "pgx" {
					work = killedSQL
				}
				first, err := work(d, c, at)
				stands := point == "after COMMIT"
				if (err == nil) != stands {
					t.Fatalf("%s, %s killed %s: %v", driver, action, point, err)
				}
				out, err := run(t, d.own, c) // as the coordinator does without an answer
				if err != nil || out.Repeated != stands {
					t.Errorf("%s, %s killed %s: then %+v %v", driver, action, point, out, err)
				}
				if stands && !bytes.Equal(out.Result, first) {
					t.Errorf("%s, %s killed %s: the result became %q, it was %q", driver, action, point, out.Result, first)
				}
				if n := d.effects(c); n != 1 {
					t.Errorf("%s, %s killed %s: %d effects", driver, action, point, n)
				}
			}
		}
	}
}

func killed(d *database, c fence.Call, at func(string, uint32)) ([]byte, error) {
	ctx := limited(d.t)
	conn := d.connect("")
	pid := conn.PgConn().PID()
	tx, err := conn.Begin(ctx)
	check(d.t, err)
	out, err := fence.Do(ctx, tx, c, func(ctx context.Context) ([]byte, error) {
		at("before the effect", pid)
		res, err := effect(ctx, tx, c)
		if err == nil {
			at("after the effect", pid)
		}
		return res, err
	})
	if err != nil {
		return nil, err
	}
	at("before COMMIT", pid)
	err = tx.Commit(ctx)
	at("after COMMIT", pid)
	return out.Result, err
}

func killedSQL(d *database, c fence.Call, at func(string, uint32)) ([]byte, error) {
	ctx := limited(d.t)
	tx, err := d.sql().BeginTx(ctx, nil)
	check(d.t, err)
	defer func() { _ = tx.Rollback() }()
	var pid uint32
	check(d.t, tx.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid))
	out, err := fence.DoSQL(ctx, tx, c, func(ctx context.Context) ([]byte, error) {
		at("before the effect", pid)
		_, err := tx.ExecContext(ctx, "INSERT INTO effect (call) VALUES ($1)", c.Key())
		if err == nil {
			at("after the effect", pid)
		}
		return result(), err
	})
	if err != nil {
		return nil, err
	}
	at("before COMMIT", pid)
	err = tx.Commit()
	at("after COMMIT", pid)
	return out.Result, err
}

// What is answered as done has to survive a crash of the server.
func TestCommitsAreDurable(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec(d.own, "SET synchronous_commit = off")
	_, err := fence.Run(limited(t), d.own, newCall(), func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		var got string
		check(t, tx.QueryRow(ctx, "SHOW synchronous_commit").Scan(&got))
		if got != "on" {
			t.Errorf("synchronous_commit is %s", got)
		}
		return nil, nil
	})
	check(t, err)
}
