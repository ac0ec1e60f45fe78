package rm_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/faketc"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// left counts the rows of every table of the schema that has any.
func (w *world) left() string {
	w.t.Helper()
	tables := strings.Fields(value[string](w, `SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c
		WHERE c.relnamespace = 'handfast'::regnamespace AND c.relkind IN ('r', 'p', 'm')`))
	var rows []string
	for _, name := range tables {
		if n := value[int](w, "SELECT count(*) FROM handfast."+pgx.Identifier{name}.Sanitize()); n > 0 {
			rows = append(rows, fmt.Sprintf("%s %d", name, n))
		}
	}
	return strings.Join(rows, ", ")
}

// TestNothingIsLeftAfterARun: after commits, rollbacks and conflicts there is the
// empty schema (with two tables of one row), what is protected, and the fences of settled branches, until they
// are twice as old as an XID that may still join.
func TestNothingIsLeftAfterARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rm.WithJanitorInterval(20*time.Millisecond), rm.WithJanitorAge(time.Second))
	empty := w.left()
	equal(t, "before", empty, "action_memory 1, meta 1, protected 2")
	const workers, rounds = 4, 12
	var wg sync.WaitGroup
	errs := make(chan error, workers*rounds)
	for id := range workers {
		wg.Go(func() {
			for n := range rounds {
				errs <- w.mixed(id, n)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		check(t, err)
	}
	until(t, func() bool { return w.intents() == 0 })
	fences := value[int](w, "SELECT count(*) FROM handfast.fence WHERE state IN ('C', 'R', 'T')")
	if fences < workers*rounds {
		t.Errorf("%d fences of %d transactions", fences, workers*rounds)
	}
	equal(t, "after the run", w.left(), strings.Replace(empty, "meta", fmt.Sprintf("fence %d, meta", fences), 1))

	// They are kept for 48 hours by default, and then nothing is.
	exec(t, w.look, "UPDATE handfast.fence SET at = at - interval '47 hours 50 minutes'")
	equal(t, "fences before their time", value[int](w, "SELECT handfast.gc(1000)"), 0)
	exec(t, w.look, "UPDATE handfast.fence SET at = at - interval '10 minutes'")
	until(t, func() bool { return w.left() == empty })
	check(t, undolog.Unprotect(limited(t), w.look, protected...))
	equal(t, "without protection", w.left(), "action_memory 1, meta 1")
}

// mixed is one global transaction with inserts, updates and deletes in two
// branches, which often wants what another one has.
func (w *world) mixed(id, n int) error {
	ctx, x := w.begin()
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE account SET balance = balance - 1 WHERE id = $1", n%3+1); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO entry VALUES ($1, $2, 'x')", id, n)
		return err
	})
	if err == nil {
		_, err = w.pool.Exec(ctx, "DELETE FROM entry WHERE account = $1 AND n < $2 - 1", id, n)
	}
	if err == nil && n%3 > 0 {
		_, err = w.tc.Commit(ctx, &pb.CommitRequest{Xid: x.String(), WaitSettled: true})
		return err
	}
	_, err = w.tc.Rollback(ctx, &pb.RollbackRequest{Xid: x.String(), WaitSettled: true})
	return err
}

// die leaves many dead rows in a table that autovacuum leaves alone.
func (w *world) die() {
	w.t.Helper()
	for _, sql := range []string{
		"ALTER TABLE handfast.gate SET (autovacuum_enabled = off)",
		fmt.Sprintf("INSERT INTO handfast.gate (k, xid) SELECT i, 'x' FROM generate_series(1, %d) i", undolog.VacuumDead+5000),
		"DELETE FROM handfast.gate",
		"SELECT pg_stat_force_next_flush()",
	} {
		exec(w.t, w.look, sql)
	}
}

func (w *world) vacuums() int {
	w.t.Helper()
	return value[int](w, "SELECT vacuum_count::int FROM pg_stat_all_tables WHERE relid = 'handfast.gate'::regclass")
}

// TestTheJanitorVacuums: where it may, through PgBouncer too.
func TestTheJanitorVacuums(t *testing.T) {
	t.Parallel()
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("pgbouncer=%t", pooled), func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, dsn: database(t)}
			dsn := w.dsn
			if pooled {
				dsn = pgbouncer(t, w.dsn) + "&default_query_exec_mode=cache_describe"
			}
			w.tc = dial(t, coordinator(t))
			w.look = connect(t, w.dsn)
			w.die()
			w.pool = open(t, w.tc, dsn, rm.WithJanitorInterval(5*time.Millisecond))
			until(t, func() bool { return w.vacuums() > 0 })
			until(t, func() bool {
				return value[bool](w, "SELECT n_dead_tup < 1000 FROM pg_stat_all_tables WHERE relid = 'handfast.gate'::regclass")
			})
		})
	}
}

// TestTheJanitorLeavesVacuumToTheOwner: a service that only may settle does
// everything else.
func TestTheJanitorLeavesVacuumToTheOwner(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dsn: database(t)}
	w.tc = dial(t, coordinator(t))
	w.look = connect(t, w.dsn)
	role := "janitor_" + w.look.Config().Database
	exec(t, w.look, "CREATE ROLE "+role+" LOGIN")
	t.Cleanup(func() { exec(t, w.look, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	check(t, undolog.Grant(limited(t), w.look, role))
	u, err := url.Parse(w.dsn)
	check(t, err)
	u.User = url.User(role)
	q := u.Query()
	q.Del("user")
	u.RawQuery = q.Encode()
	w.die()
	w.pool = open(t, w.tc, u.String(), rm.WithJanitorInterval(5*time.Millisecond))
	t.Cleanup(w.pool.Close) // before the role goes
	for range 3 {           // each time a round has begun and ended
		exec(t, w.look, "INSERT INTO handfast.fence (xid, branch, state, at) VALUES ('old', gen_random_uuid(), 'C', now() - interval '3 days')")
		until(t, func() bool { return value[int](w, "SELECT count(*) FROM handfast.fence") == 0 })
	}
	equal(t, "vacuums", w.vacuums(), 0)
	// Not tried either: Postgres would put a warning into its log each time.
	due, err := undolog.VacuumDue(limited(t), connect(t, u.String()), 0)
	check(t, err)
	equal(t, "due for the role", len(due), 0)
	due, err = undolog.VacuumDue(limited(t), w.look, undolog.VacuumDead)
	check(t, err)
	equal(t, "due for the owner", strings.Join(due, " "), "handfast.gate")
}

// TestTheJanitorCatchesUp: more old fences than one round drops go in that round. Each
// round asks once for what is undecided, after its first drop and before the others.
func TestTheJanitorCatchesUp(t *testing.T) {
	t.Parallel()
	s, _, w := scripted(t)
	x := freshXID(s)
	_, err := w.pool.Exec(xid.NewContext(limited(t), x), "UPDATE account SET balance = 0 WHERE id = 1")
	check(t, err)
	w.pool.Close()
	exec(t, w.look, "INSERT INTO handfast.fence (xid, branch, state, at) SELECT 'old' || i, gen_random_uuid(), 'C', now() - interval '3 days' FROM generate_series(1, 120000) i")
	asked, answered := make(chan struct{}), make(chan struct{})
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if f.GetGet() == nil {
			return false
		}
		go func() {
			select {
			case asked <- struct{}{}:
				<-answered
				n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: transaction(pb.Outcome_OUTCOME_UNDECIDED, x).GetKind()})
			case <-t.Context().Done():
			}
		}()
		return true
	})
	w.pool = open(t, w.tc, w.dsn, rm.WithJanitorInterval(5*time.Millisecond), rm.WithJanitorAge(0))
	for _, want := range []int{70000, 0} { // a third round without more would leave 20000
		receive(t, asked)
		equal(t, "old fences", value[int](w, "SELECT count(*) FROM handfast.fence WHERE xid LIKE 'old%'"), want)
		answered <- struct{}{}
	}
}
