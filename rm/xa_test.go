package rm_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// newXAWorld is a world whose pool prepares. What is left prepared at the end of a
// test would keep its database.
func newXAWorld(tb testing.TB, opts ...rm.Option) *world {
	tb.Helper()
	w := &world{t: tb, dsn: database(tb)}
	forgetPrepared(tb, w.dsn)
	w.look = connect(tb, w.dsn)
	exec(tb, w.look, "CREATE TABLE bare (n int)")
	w.tc = dial(tb, coordinator(tb))
	w.pool = open(tb, w.tc, w.dsn, append([]rm.Option{rm.WithMode(rm.XA)}, opts...)...)
	return w
}

func forgetPrepared(tb testing.TB, dsn string) {
	tb.Helper()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return // the server is gone, and the database with it
		}
		defer conn.Close(ctx) //nolint:errcheck // the work is done
		left, err := undolog.PreparedBranches(ctx, conn, 0)
		if err != nil {
			tb.Error(err)
		}
		for _, p := range left {
			if _, err := conn.Exec(ctx, "ROLLBACK PREPARED '"+p.GID+"'"); err != nil {
				tb.Error(err)
			}
		}
	})
}

// prepared counts what is prepared in the database.
func (w *world) prepared() int {
	w.t.Helper()
	return value[int](w, "SELECT count(*)::int FROM pg_prepared_xacts WHERE database = current_database()")
}

func (w *world) balance(id int) int {
	w.t.Helper()
	return value[int](w, "SELECT balance FROM account WHERE id = $1", id)
}

const take = "UPDATE account SET balance = balance - 1 WHERE id = $1"

func TestXAWorkIsKeptOrUndone(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	exec(t, w.look, payFunction)
	reset := "TRUNCATE account, entry; INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i"
	for name, work := range works() { //nolint:paralleltest // one database, looked at as a whole
		t.Run(name, func(t *testing.T) {
			before := w.contents()
			ctx, x := w.begin()
			check(t, work(ctx, w.pool))
			equal(t, "before the decision", w.contents(), before)
			if w.prepared() == 0 {
				t.Fatal("nothing is prepared")
			}
			for _, b := range w.branches(x) {
				equal(t, "mode", b.GetMode(), pb.Mode_MODE_XA)
			}
			w.rollback(x)
			equal(t, "after rollback", w.contents(), before)
			equal(t, "prepared", w.prepared(), 0)
			ctx, x = w.begin()
			check(t, work(ctx, w.pool))
			equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
			if w.contents() == before {
				t.Fatal("nothing was done")
			}
			equal(t, "prepared", w.prepared(), 0)
			exec(t, w.look, reset)
		})
	}
	equal(t, "intents", w.intents(), 0)
}

// What AT refuses, because it could not be undone, XA leaves to Postgres.
func TestXANeedsNoProtection(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	work := func(ctx context.Context) {
		t.Helper()
		check(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO bare VALUES (1); TRUNCATE entry; CREATE TABLE made (n int); ALTER TABLE bare ADD COLUMN more int; DROP TABLE made")
			if err == nil {
				_, err = tx.CopyFrom(ctx, pgx.Identifier{"bare"}, []string{"n"}, pgx.CopyFromRows([][]any{{2}, {3}}))
			}
			return err
		}))
	}
	ctx, x := w.begin()
	work(ctx)
	w.rollback(x)
	equal(t, "rows", value[int](w, "SELECT count(*)::int FROM bare"), 0)
	ctx, x = w.begin()
	work(ctx)
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "rows", value[int](w, "SELECT count(*)::int FROM bare WHERE more IS NULL"), 3)
}

// A branch that can't be prepared has withdrawn; Postgres says why, and the rest
// of the global transaction may commit.
func TestXAThatCanNotBePreparedWithdraws(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	exec(t, w.look, `ALTER TABLE entry ADD CONSTRAINT later FOREIGN KEY (account) REFERENCES account DEFERRABLE INITIALLY DEFERRED`)
	for name, tt := range map[string]struct{ sql, state string }{ //nolint:paralleltest // they share the row
		"temporary table":     {"CREATE TEMP TABLE t (n int)", "0A000"},
		"notify":              {"NOTIFY someone", "0A000"},
		"notify by function":  {"SELECT pg_notify('someone', '')", "0A000"},
		"cursor with hold":    {"INSERT INTO bare VALUES (1); DECLARE c CURSOR WITH HOLD FOR SELECT 1", "0A000"},
		"deferred constraint": {"INSERT INTO entry VALUES (1000, 1, '')", "23503"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, x := w.begin()
			err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, tt.sql)
				return err
			})
			pg, ok := errors.AsType[*pgconn.PgError](err)
			if !ok || pg.Code != tt.state {
				t.Fatalf("got %v, want SQLSTATE %s", err, tt.state)
			}
			_, err = w.pool.Exec(ctx, take, 1)
			check(t, err)
			before := w.balance(1)
			equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
			equal(t, "balance", w.balance(1), before-1)
		})
	}
	ctx, x := w.begin()
	if _, err := w.pool.Exec(ctx, "SELECT pg_notify('someone', '')"); err == nil {
		t.Error("a statement of its own notifies")
	}
	var nothing string
	if err := w.pool.QueryRow(ctx, "SELECT pg_notify('someone', '')::text").Scan(&nothing); err == nil {
		t.Error("a query of its own notifies")
	}
	w.rollback(x)
	// One that only reads leaves nothing to settle, and needs no place.
	ctx, x = w.begin()
	check(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		var n int
		return tx.QueryRow(ctx, "SELECT count(*) FROM account").Scan(&n)
	}))
	equal(t, "prepared", w.prepared(), 0)
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "vote", w.branches(x)[0].GetVote(), pb.Vote_VOTE_WITHDRAWN)
	// A lock that was taken is kept, as if it had written.
	ctx, x = w.begin()
	check(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT FROM account WHERE id = 1 FOR UPDATE")
		return err
	}))
	equal(t, "prepared", w.prepared(), 1)
	w.rollback(x)
}

// Branches of both modes in one XID and one database.
func TestXAAndATInOneTransaction(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t, rm.WithLockTimeout(long))
	at := open(t, w.tc, w.dsn)
	before := w.contents()
	work := func() xid.ID {
		t.Helper()
		ctx, x := w.begin()
		_, err := at.Exec(ctx, take, 1)
		check(t, err)
		_, err = at.Exec(ctx, take, 2)
		check(t, err)
		// It locks rows that the undo of the AT branches needs.
		check(t, beginXA(ctx, at, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT FROM account WHERE id = 1 FOR UPDATE"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, take, 3)
			return err
		}))
		_, err = at.Exec(rm.ContextWithMode(ctx, rm.XA), "INSERT INTO bare VALUES (1)")
		check(t, err)
		_, err = w.pool.Exec(rm.ContextWithMode(ctx, rm.AT), take, 4)
		check(t, err)
		modes := ""
		for _, b := range w.branches(x) {
			modes += strings.TrimPrefix(b.GetMode().String(), "MODE_") + " "
		}
		equal(t, "modes", modes, "AT AT XA XA AT ")
		return x
	}
	w.rollback(work())
	equal(t, "after rollback", w.contents(), before)
	equal(t, "left", w.prepared()+w.intents(), 0)
	equal(t, "outcome", w.commit(work()), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "left", w.prepared()+w.intents(), 0)
	equal(t, "balances", value[int](w, "SELECT sum(balance)::int FROM account WHERE id < 5"), 396)
	equal(t, "rows", value[int](w, "SELECT count(*)::int FROM bare"), 1)

	// A row of the own AT branch: waiting can't help, so the error comes at once.
	ctx, x := w.begin()
	_, err := at.Exec(ctx, take, 1)
	check(t, err)
	began := time.Now()
	_, err = w.pool.Exec(ctx, take, 1)
	wantError(t, err, rm.ErrMixedModes)
	if c, ok := errors.AsType[*rm.LockConflictError](err); !ok || c.Holder != x || errors.Is(err, rm.ErrDeadlock) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(began); d > patience/2 {
		t.Errorf("it took %v", d)
	}
	w.rollback(x)
}

func beginXA(ctx context.Context, p *rm.Pool, f func(pgx.Tx) error) error {
	tx, err := p.BeginXA(ctx, pgx.TxOptions{})
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

func TestXAWaitsForOthersAndOthersWaitForXA(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	at := open(t, w.tc, w.dsn)
	for name, tt := range map[string]struct { //nolint:paralleltest // what is waited for is one at a time
		holder, waiter *rm.Pool
		row            int
	}{"for AT": {at, w.pool, 1}, "for XA": {w.pool, at, 2}, "XA for XA": {w.pool, w.pool, 3}} {
		t.Run(name, func(t *testing.T) {
			ctx, x := w.begin()
			_, err := tt.holder.Exec(ctx, take, tt.row)
			check(t, err)
			other, y := w.begin()
			done := make(chan error, 2)
			go func() {
				_, err := tt.waiter.Exec(other, take, tt.row)
				done <- err
			}()
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(200 * time.Millisecond):
			}
			w.rollback(x)
			check(t, receive(t, done))
			equal(t, "outcome", w.commit(y), pb.Outcome_OUTCOME_COMMITTED)
			equal(t, "balance", w.balance(tt.row), 99)
		})
	}
	// The wait for a row lock ends with the lock timeout.
	short := open(t, w.tc, w.dsn, rm.WithLockTimeout(50*time.Millisecond))
	ctx, x := w.begin()
	_, err := w.pool.Exec(ctx, take, 9)
	check(t, err)
	other, y := w.begin()
	_, err = short.Exec(other, take, 9)
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "55P03" {
		t.Errorf("got %v", err)
	}
	w.rollback(x)
	w.rollback(y)
}

// The RM that prepared may be gone: any other of the resource finishes it.
func TestXAIsFinishedByAnyServiceOfTheDatabase(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	for _, commit := range []bool{true, false} {
		before := w.balance(1)
		ctx, x := w.begin()
		_, err := w.pool.Exec(ctx, take, 1)
		check(t, err)
		w.pool.Close()
		// Nobody is there at the moment of the decision.
		if commit {
			a, err := w.tc.Commit(limited(t), &pb.CommitRequest{Xid: x.String()})
			check(t, err)
			equal(t, "outcome", a.GetOutcome(), pb.Outcome_OUTCOME_COMMITTED)
		} else {
			_, err := w.tc.Rollback(limited(t), &pb.RollbackRequest{Xid: x.String()})
			check(t, err)
		}
		equal(t, "prepared", w.prepared(), 1)
		w.pool = open(t, w.tc, w.dsn) // of the other mode
		until(t, func() bool { return w.prepared() == 0 })
		want := before
		if commit {
			want--
		}
		until(t, func() bool { return w.balance(1) == want })
		second := open(t, w.tc, w.dsn, rm.WithMode(rm.XA))
		w.pool.Close()
		w.pool = second
	}
}

// The connection of the branch ends, at each step of phase one.
func TestXAPhaseOneIsCutAnywhere(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	proxy, dsn := through(t, w.dsn, 0)
	pool := open(t, w.tc, dsn, rm.WithMode(rm.XA))
	_, err := pool.Exec(context.Background(), "SELECT 1")
	check(t, err)
	for name, tt := range map[string]struct { //nolint:paralleltest // they share the proxy
		at        string
		forward   bool
		committed bool
	}{
		"before the work":     {"update account", false, false},
		"after the work":      {"update account", true, false},
		"before the look":     {"pg_current_xact_id_if_assigned", false, false},
		"after the look":      {"pg_current_xact_id_if_assigned", true, false},
		"before PREPARE":      {"prepare transaction", false, false},
		"reply of PREPARE":    {"prepare transaction", true, true},
		"before the rollback": {"rollback", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.balance(1)
			proxy.onClient(func(b []byte) (forward, cut bool) {
				if contains(b, tt.at) && !contains(b, "rollback prepared") {
					return tt.forward, true
				}
				return true, false
			})
			ctx, x := w.begin()
			tx, err := pool.BeginXA(ctx, pgx.TxOptions{})
			check(t, err)
			_, err = tx.Exec(ctx, take, 1)
			switch {
			case err != nil:
				_ = tx.Rollback(ctx)
			case tt.at == "rollback":
				err = tx.Rollback(ctx)
			default:
				err = tx.Commit(ctx)
			}
			proxy.onClient(nil)
			if tt.committed != (err == nil) {
				t.Fatalf("got %v", err)
			}
			if tt.committed {
				equal(t, "prepared", w.prepared(), 1)
			}
			o := w.commit(x)
			want := before
			if tt.committed {
				want--
				equal(t, "outcome", o, pb.Outcome_OUTCOME_COMMITTED)
			}
			until(t, func() bool { return w.prepared() == 0 })
			equal(t, "balance", w.balance(1), want)
		})
	}
}

// Settling is cut before and after COMMIT PREPARED and ROLLBACK PREPARED.
func TestXAPhaseTwoIsCutAnywhere(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	proxy, dsn := through(t, w.dsn, 0)
	pool := open(t, w.tc, dsn, rm.WithMode(rm.XA))
	for _, at := range []string{"commit prepared", "commit_batch", "rollback prepared", "rollback_undo"} {
		for _, forward := range []bool{false, true} {
			before := w.balance(1)
			ctx, x := w.begin()
			_, err := pool.Exec(ctx, take, 1)
			check(t, err)
			if w.pool != nil {
				w.pool.Close() // from now on there is only the one that is cut
			}
			var once sync.Once
			proxy.onClient(func(b []byte) (ok, cut bool) {
				ok = true
				if contains(b, at) {
					once.Do(func() { ok, cut = forward, true })
				}
				return ok, cut
			})
			want := before
			if strings.HasPrefix(at, "commit") {
				equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
				want--
			} else {
				w.rollback(x)
			}
			proxy.onClient(nil)
			equal(t, "prepared", w.prepared(), 0)
			equal(t, "balance", w.balance(1), want)
		}
	}
}

// A rollback that comes while the branch is open: the late PREPARE is refused.
func TestXADecidedBeforeItIsPrepared(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	ctx, x := w.begin()
	tx, err := w.pool.BeginTx(ctx, pgx.TxOptions{})
	check(t, err)
	_, err = tx.Exec(ctx, take, 1)
	check(t, err)
	until(t, func() bool { return len(w.branches(x)) == 1 }) // registered
	w.rollback(x)                                            // settled, beside an open local transaction
	wantError(t, tx.Commit(ctx), rm.ErrDecided)
	equal(t, "prepared", w.prepared(), 0)
	equal(t, "balance", w.balance(1), 100)
}

func TestXARoleThatCouldNotFinishIsRefused(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	// Roles are of the whole server.
	exec(t, w.look, "CREATE ROLE xa_app_test LOGIN; CREATE ROLE xa_work_test; GRANT xa_work_test TO xa_app_test; GRANT ALL ON account, entry TO xa_app_test, xa_work_test")
	t.Cleanup(func() {
		exec(t, connect(t, w.dsn), "DROP OWNED BY xa_app_test, xa_work_test; DROP ROLE xa_app_test, xa_work_test")
	})
	check(t, undolog.Grant(limited(t), w.look, "xa_app_test"))
	cfg, err := pgxpool.ParseConfig(w.dsn)
	check(t, err)
	cfg.ConnConfig.User = "xa_app_test"
	plain, err := pgxpool.NewWithConfig(limited(t), cfg)
	check(t, err)
	t.Cleanup(plain.Close)
	var log lockedBuffer
	ctx, x := w.begin()
	_, err = w.pool.Exec(ctx, take, 1) // by the superuser
	check(t, err)
	app, err := rm.New(limited(t), w.tc, plain, rm.WithMode(rm.XA), rm.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	check(t, err)
	t.Cleanup(app.Close)
	if !strings.Contains(log.String(), "can't finish") {
		t.Errorf("no word about the role in %q", log.String())
	}
	w.rollback(x) // the coordinator tries both, until one may

	ctx, x = w.begin()
	err = beginXA(ctx, app, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SET LOCAL ROLE xa_work_test; "+strings.Replace(take, "$1", "2", 1))
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "xa_work_test") {
		t.Fatalf("got %v", err)
	}
	_, err = app.Exec(ctx, take, 3)
	check(t, err)
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "balance", w.balance(2)+w.balance(3), 199)
}

func TestXAOptions(t *testing.T) {
	t.Parallel()
	w := newXAWorld(t)
	if _, err := rm.Open(limited(t), w.tc, w.dsn, rm.WithMode(7)); err == nil {
		t.Error("an unknown mode is accepted")
	}
	ctx, x := w.begin()
	if _, err := w.pool.Begin(rm.ContextWithMode(ctx, 7)); err == nil {
		t.Error("an unknown mode is accepted")
	}
	if _, err := w.pool.BeginTx(ctx, pgx.TxOptions{CommitQuery: "commit and chain"}); err == nil {
		t.Error("CommitQuery is accepted")
	}
	w.rollback(x)
	// Without an XID it is an ordinary transaction.
	check(t, beginXA(limited(t), w.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(limited(t), take, 1)
		return err
	}))
	equal(t, "balance", w.balance(1), 99)
}

func TestXABehindPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w, dsn := behindPgBouncer(t, mode)
			forgetPrepared(t, w.dsn)
			w.pool = open(t, w.tc, dsn+"&pool_max_conns=8", rm.WithMode(rm.XA))
			var wg sync.WaitGroup
			for id := range 4 {
				wg.Go(func() {
					for n := range 4 {
						ctx, x := w.begin()
						for i := range 2 {
							if _, err := w.pool.Exec(ctx, take, 10*id+i+1); err != nil {
								t.Error(err)
								return
							}
						}
						var err error
						if n%2 == 0 {
							_, err = w.tc.Commit(ctx, &pb.CommitRequest{Xid: x.String(), WaitSettled: true})
						} else {
							_, err = w.tc.Rollback(ctx, &pb.RollbackRequest{Xid: x.String(), WaitSettled: true})
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			equal(t, "sum", value[int](w, "SELECT sum(balance)::int FROM account"), 100*100-4*2*2)
			equal(t, "prepared", w.prepared(), 0)
		})
	}
}
