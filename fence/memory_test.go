package fence_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/undolog"
)

const day = 24 * time.Hour

// age puts back the time at which something happened to a branch.
func (d *database) age(c fence.Call, by time.Duration) {
	d.t.Helper()
	d.exec(d.own, "UPDATE handfast.action SET at = clock_timestamp() - $2::interval WHERE xid = $1", c.XID.String(), by)
}

func (d *database) gc(limit int) int64 {
	d.t.Helper()
	n, err := undolog.GC(limited(d.t), d.own, limit)
	check(d.t, err)
	return n
}

func oldCall(age time.Duration) fence.Call {
	c := newCall()
	c.XID = newXID(time.Now().Add(-age))
	return c
}

func TestOldBranchesAreDroppedAndNotTakenForNew(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	never := oldCall(100 * day) // of it nothing was ever called
	done, ended, empty := oldCall(31*day), oldCall(30*day+time.Minute), oldCall(50*day)
	kept := oldCall(30*day - time.Minute)
	late := oldCall(40 * day) // old, but something happened to it just now
	for _, c := range []fence.Call{done, ended, as(ended, fence.Rollback), as(empty, fence.Rollback), kept, late} {
		_, err := run(t, d.own, c)
		check(t, err)
		d.age(c, 30*day+time.Second)
	}
	_, err := run(t, d.own, as(late, fence.Rollback))
	check(t, err)
	if n := d.gc(2); n != 2 {
		t.Fatalf("%d branches were dropped, want 2", n)
	}
	// The oldest go first, and the horizon follows them.
	_, err = run(t, d.own, never)
	wantError(t, err, fence.ErrForgotten)
	if out, err := run(t, d.own, ended); err == nil || out.Repeated {
		t.Fatal(out, err) // late
	}
	if n := d.gc(1000); n != 1 {
		t.Fatalf("%d branches were dropped, want 1", n)
	}
	if n := d.gc(1000); n != 0 {
		t.Fatalf("%d branches were dropped, want none", n)
	}
	for _, c := range []fence.Call{never, done, ended, empty} {
		for _, a := range []fence.Action{fence.Forward, fence.Commit, fence.Rollback} {
			_, err := run(t, d.own, as(c, a))
			wantError(t, err, fence.ErrForgotten)
		}
	}
	d.wantEffects(done, 1, 0, 0)
	d.wantEffects(ended, 1, 0, 1)
	if out, err := run(t, d.own, kept); err != nil || !out.Repeated {
		t.Fatal(out, err)
	}
	if out, err := run(t, d.own, as(late, fence.Rollback)); err != nil || !out.Repeated {
		t.Fatal(out, err)
	}
	// As old as those that are gone, and younger than the horizon: nothing is lost of it.
	if out, err := run(t, d.own, oldCall(30*day-time.Hour)); err != nil || out.Repeated {
		t.Fatal(out, err)
	}

	d.exec(d.own, "UPDATE handfast.action_memory SET keep = '1 day'")
	check(t, undolog.Install(limited(t), d.own)) // keeps rows, setting and horizon
	d.age(kept, 25*time.Hour)
	if n := d.gc(1000); n != 1 {
		t.Fatalf("%d branches were dropped, want 1", n)
	}
	_, err = run(t, d.own, never)
	wantError(t, err, fence.ErrForgotten)
}

// The horizon must be seen by whoever misses a row that was dropped.
func TestDroppingBesideACall(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	began := 90 * day
	next := func() fence.Call { // younger than the horizon, and old enough to be dropped
		began -= time.Hour
		c := oldCall(began)
		_, err := run(t, d.own, c)
		check(t, err)
		d.age(c, 40*day)
		return c
	}
	for _, level := range levels {
		// A snapshot from before the row was dropped.
		conn := d.connect(level)
		for _, action := range []fence.Action{fence.Forward, fence.Commit, fence.Rollback} {
			c := next()
			err := pgx.BeginFunc(limited(t), conn, func(tx pgx.Tx) error {
				_, err := tx.Exec(limited(t), "SELECT count(*) FROM effect")
				check(t, err)
				if n := d.gc(1000); n != 1 {
					t.Fatalf("%d branches were dropped, want 1", n)
				}
				_, err = fence.Do(limited(t), tx, as(c, action), func(ctx context.Context) ([]byte, error) { return effect(ctx, tx, as(c, action)) })
				return err
			})
			if level == levels[0] {
				wantError(t, err, fence.ErrForgotten)
			} else if sqlState(err) != "40001" {
				t.Errorf("%s, %s: %v, want 40001", level, action, err)
			}

			// A call that waits for the one that drops.
			c = next()
			tx, err := d.own.Begin(limited(t))
			check(t, err)
			if n, err := undolog.GC(limited(t), tx, 1000); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := run(t, conn, as(c, action))
				done <- err
			}()
			look := &database{t: t, own: d.connect("")}
			look.awaitLockWait(conn.PgConn().PID())
			check(t, tx.Commit(limited(t)))
			if err := <-done; level == levels[0] {
				wantError(t, err, fence.ErrForgotten)
			} else if sqlState(err) != "40001" {
				t.Errorf("%s, %s: %v, want 40001", level, action, err)
			}
			d.wantEffects(c, 1, 0, 0)

			// What a call has in hand is not dropped.
			c = next()
			_, err = fence.Run(limited(t), conn, as(c, fence.Rollback), func(context.Context, pgx.Tx) ([]byte, error) {
				if n := d.gc(1000); n != 0 {
					t.Errorf("%d branches were dropped, want none", n)
				}
				return nil, nil
			})
			check(t, err)
		}
	}
}

// An application needs no rights on the schema, and gets none by calling.
func TestApplicationRoleNeedsNoRights(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	role := "app_" + strings.ToLower(newCall().XID.String()[40:])
	d.exec(d.own, "CREATE ROLE "+role+"; GRANT SELECT, INSERT ON effect TO "+role)
	t.Cleanup(func() { d.exec(d.own, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	conn := d.connect("")
	d.exec(conn, "SET SESSION AUTHORIZATION "+role)
	c := newCall()
	for _, a := range []fence.Action{fence.Forward, fence.Rollback} {
		if out, err := run(t, conn, as(c, a)); err != nil || out.Repeated {
			t.Fatal(out, err)
		}
	}
	for _, sql := range []string{
		"SELECT * FROM handfast.action", "DELETE FROM handfast.action", "UPDATE handfast.action_memory SET keep = '0'", "SELECT handfast.action_gc(1)",
		"SELECT handfast.action_unarmed()",
	} {
		if _, err := conn.Exec(limited(t), sql); sqlState(err) != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	// The result of another transaction's call can't be written.
	if _, err := conn.Exec(limited(t), "SELECT handfast.action_leave($1, $2, 'rollback', 'x')", c.XID.String(), c.Branch.String()); sqlState(err) != "HF005" {
		t.Errorf("%v", err)
	}
}

func TestNotInstalled(t *testing.T) {
	t.Parallel()
	d := &database{t: t, dsn: cluster.DSN(t)}
	conn := d.connect("")
	_, err := run(t, conn, newCall())
	wantError(t, err, undolog.ErrNotInstalled)
}

func TestMalformedCalls(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, spoil := range []func(*fence.Call){
		func(c *fence.Call) { *c = fence.Call{} },
		func(c *fence.Call) { c.XID = fence.Call{}.XID },
		func(c *fence.Call) { c.Branch = fence.Call{}.Branch },
		func(c *fence.Call) { c.Action = 0 },
		func(c *fence.Call) { c.Action = 4 },
	} {
		c := newCall()
		spoil(&c)
		_, err := run(t, d.own, c)
		wantError(t, err, fence.ErrMalformed)
		_, err = fence.RunSQL(limited(t), d.sql(), c, nil)
		wantError(t, err, fence.ErrMalformed)
	}
	for _, sql := range []string{
		"SELECT handfast.action_enter('x', gen_random_uuid(), 'forward', 0)",
		"SELECT handfast.action_enter(NULL, gen_random_uuid(), 'forward', 0)",
		"SELECT handfast.action_enter(repeat('0', 56), NULL, 'forward', 0)",
		"SELECT handfast.action_enter(repeat('0', 56), gen_random_uuid(), 'f', 0)",
		"SELECT handfast.action_enter(repeat('0', 56), gen_random_uuid(), NULL, 0)",
	} {
		if _, err := d.own.Exec(limited(t), sql); sqlState(err) != "22023" {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Behind poolers pgx is told to prepare nothing.
func TestEveryModeOfPgx(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		cfg := d.own.Config().Copy()
		cfg.DefaultQueryExecMode = mode
		conn, err := pgx.ConnectConfig(limited(t), cfg)
		check(t, err)
		c := newCall()
		first, err := run(t, conn, c)
		check(t, err)
		again, err := run(t, conn, c)
		check(t, err)
		if !again.Repeated || string(again.Result) != string(first.Result) {
			t.Errorf("%s: %q, then %q", mode, first.Result, again.Result)
		}
		check(t, conn.Close(limited(t)))
	}
}
