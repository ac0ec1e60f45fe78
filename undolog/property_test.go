package undolog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// world is one run of the property. Sessions take their steps one at a time;
// one that waits for a lock stays where it is until another lets it go on. So a
// run depends on what was drawn alone, and still has every wait there is.
type world struct {
	*rapid.T
	d      *database
	schema string

	sessions []*session
	xids     []*global // in use
	ended    []*global
	// committed is what every row would be if all undecided transactions were
	// rolled back; now is what is there. A row is its table and key.
	committed, now map[string]string
	trace          []string
	changed        bool // what is committed, since it was last compared
	tableCount     int
}

// global is a global transaction as its coordinator knows it.
type global struct {
	name     string
	id       xid.ID
	branches []undolog.BranchVote
	decided  bool
	commit   bool
	settled  bool
	touched  map[string]bool // rows that its committed branches wrote
}

// session is a connection, and the local transaction on it.
type session struct {
	number int
	conn   *pgx.Conn
	open   bool
	of     *global // nil: plain
	branch xid.BranchID
	level  string
	saved  int    // savepoints
	doing  string // the statement that has not come back, if any
	done   chan error
	wrote  bool
	writes []string // rows, told by the audit before COMMIT
}

func (w *world) say(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// wrong fails the run with its history.
func (w *world) wrong(format string, args ...any) {
	w.Fatalf("%s\n\nwhat was done:\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
}

// look reads every row that is committed.
func (w *world) look() map[string]string {
	rows, err := w.d.own.Query(context.Background(), fmt.Sprintf("SELECT * FROM (%s) r (k, v)", w.union()))
	if err != nil {
		w.Fatalf("look: %v", err)
	}
	out := map[string]string{}
	var k, v string
	if _, err := pgx.ForEachRow(rows, []any{&k, &v}, func() error { out[k] = v; return nil }); err != nil {
		w.Fatalf("look: %v", err)
	}
	return out
}

func (w *world) union() string {
	var parts []string
	for i := range w.tableCount {
		parts = append(parts, fmt.Sprintf("SELECT 't%d ' || id, t::text FROM %s.t%d t", i, w.schema, i))
	}
	return strings.Join(parts, " UNION ALL ")
}

// start sends a statement and returns when it is back or waits for a lock.
func (w *world) start(s *session, sql string, args ...any) (err error, back bool) { //nolint:revive // the error is the statement's, not the function's
	s.doing, s.done = sql, make(chan error, 1)
	done := s.done
	go func() {
		_, err := s.conn.Exec(context.Background(), sql, args...)
		done <- err
	}()
	return w.await(s)
}

// await asks Postgres whether the statement waits, until it does or is back. A
// deadlock is no state to leave it in: Postgres is about to end it.
func (w *world) await(s *session) (error, bool) { //nolint:revive // as above
	deadline := time.Now().Add(20 * time.Second)
	for {
		select {
		case err := <-s.done:
			s.doing = ""
			return err, true
		case <-time.After(time.Millisecond): // most are back by then, and need not be asked about
		}
		if w.waits(s, map[*session]bool{}) {
			return nil, false
		}
		if time.Now().After(deadline) {
			w.wrong("session %d has neither come back nor waits: %s", s.number, s.doing)
		}
	}
}

// waits tells whether a session waits for one that has a step to take, or whose
// statement is back and was not looked at yet.
func (w *world) waits(s *session, seen map[*session]bool) bool {
	var pids []int32
	if err := w.d.own.QueryRow(context.Background(), "SELECT pg_blocking_pids($1)", int32(s.conn.PgConn().PID())).Scan(&pids); err != nil {
		w.Fatalf("ask who waits: %v", err)
	}
	seen[s] = true
	for _, other := range w.sessions {
		if slices.Contains(pids, int32(other.conn.PgConn().PID())) && !seen[other] && (other.doing == "" || len(other.done) > 0 || w.waits(other, seen)) {
			return true
		}
	}
	return false
}

// expected errors are those of a conflict or of the application's constraints.
func expected(err error) bool {
	code := sqlState(err)
	return strings.HasPrefix(code, "23") || slices.Contains([]string{
		undolog.SQLStateConflict, undolog.SQLStateDecided, "40001", "40P01", "55P03", "27000", "21000",
	}, code) || strings.Contains(err.Error(), "ON CONFLICT does not support deferrable")
}

// finish handles a statement that is back.
func (w *world) finish(s *session, sql string, err error) {
	w.say("  %d: %s: %v", s.number, sql, err)
	switch {
	case err != nil && !expected(err):
		w.wrong("session %d: %s: %v", s.number, sql, err)
	case err != nil && sql == "COMMIT":
		// Postgres has rolled back.
		s.open = false
	case err != nil:
		back := "ROLLBACK"
		if s.saved > 0 && sqlState(err) == undolog.SQLStateConflict {
			back = "ROLLBACK TO s"
		}
		if _, err := s.conn.Exec(context.Background(), back); err != nil {
			w.wrong("session %d: %s: %v", s.number, back, err)
		}
		s.open = back != "ROLLBACK"
	case sql == "COMMIT":
		s.open, w.changed = false, true
		w.landed(s)
	case sql == "ROLLBACK":
		s.open = false
	}
}

// goOn lets those go on that waited for what has just ended. Several may, and
// one may let others go on.
func (w *world) goOn() {
	for again := true; again; {
		again = false
		for _, s := range w.sessions {
			if s.doing == "" {
				continue
			}
			sql := s.doing
			if err, back := w.await(s); back {
				again = true
				w.finish(s, sql, err)
			}
		}
	}
	if w.changed {
		w.compare()
	}
}

// landed is a local commit. The rows it wrote belong to nobody else.
func (w *world) landed(s *session) {
	for _, g := range w.xids {
		if g == s.of {
			continue
		}
		for _, row := range s.writes {
			if g.touched[row] {
				w.wrong("dirty write: session %d wrote row %s, which %s holds", s.number, row, g.name)
			}
		}
	}
	if s.of == nil {
		now := w.look()
		for _, row := range s.writes {
			w.set(w.committed, row, now)
		}
		return
	}
	if s.wrote {
		i := slices.IndexFunc(s.of.branches, func(b undolog.BranchVote) bool { return b.ID == s.branch })
		s.of.branches[i].Yes = true
	}
	for _, row := range s.writes {
		s.of.touched[row] = true
	}
}

func (w *world) set(m map[string]string, row string, from map[string]string) {
	if v, ok := from[row]; ok {
		m[row] = v
	} else {
		delete(m, row)
	}
}

// compare holds the database against the model: what no undecided transaction
// touched is as committed.
func (w *world) compare() {
	w.now, w.changed = w.look(), false
	held := map[string]bool{}
	for _, g := range w.xids {
		maps.Copy(held, g.touched)
	}
	for _, m := range []map[string]string{w.now, w.committed} {
		for row := range m {
			if w.now[row] != w.committed[row] && !held[row] {
				w.wrong("row %s is %q and should be %q", row, w.now[row], w.committed[row])
			}
		}
	}
}

func (w *world) step(x deed) {
	s := w.sessions[x.Session%len(w.sessions)]
	switch {
	case x.Kind == "settle":
		if x.XID >= 0 {
			w.settle(w.xids[x.XID], x.Yes)
		}
		return
	case s.doing != "":
		return // it waits
	}
	if x.Fresh && s.open {
		w.step(deed{Session: x.Session, Kind: "abort", XID: -1})
	}
	if !s.open && !w.begin(s, x) {
		return
	}
	sql := ""
	switch x.Kind {
	case "whole": // a short transaction
		for _, kind := range []string{"write", "commit"} {
			if s.open && s.doing == "" {
				x.Kind = kind
				w.step(x)
			}
		}
		return
	case "write":
		sql = strings.ReplaceAll(x.SQL, "{s}", w.schema)
		for i := range 3 { // whatever number of tables there is
			sql = strings.ReplaceAll(sql, fmt.Sprintf("{%d}", i), fmt.Sprint(i%w.tableCount))
		}
	case "read": // and have a snapshot from now on
		sql = fmt.Sprintf("SELECT count(*) FROM %s.t0", w.schema)
	case "savepoint":
		sql = "SAVEPOINT s"
		s.saved++
	case "back":
		if s.saved == 0 {
			return
		}
		sql = "ROLLBACK TO s"
	case "immediate":
		sql = "SET CONSTRAINTS ALL IMMEDIATE"
	case "abort":
		sql = "ROLLBACK"
	case "commit":
		if !w.prepare(s) {
			return
		}
		sql = "COMMIT"
	}
	if err, back := w.start(s, sql); back {
		w.finish(s, sql, err)
	} else {
		w.say("  %d waits: %s", s.number, sql)
	}
	w.goOn()
}

// begin opens a local transaction. A decided XID gets no new branch: the
// coordinator would not register one.
func (w *world) begin(s *session, x deed) bool {
	s.of, s.saved, s.wrote, s.writes, s.level = nil, 0, false, nil, x.Level
	if x.XID >= 0 {
		if s.of = w.xids[x.XID]; s.of.decided {
			return false
		}
	}
	var b pgx.Batch
	b.Queue("BEGIN ISOLATION LEVEL " + x.Level)
	what := ""
	switch {
	case s.of != nil:
		s.branch, what = newBranch(), " for "+s.of.name
		s.of.branches = append(s.of.branches, undolog.BranchVote{ID: s.branch})
		sql, args := undolog.Arm(s.of.id, s.branch, undolog.ArmOptions{})
		b.Queue(sql, args...)
	case x.Level != "READ COMMITTED":
		b.Queue("SELECT 1") // or the snapshot would be as young as the first statement
	}
	s.open = true
	if err := s.conn.SendBatch(context.Background(), &b).Close(); err != nil {
		w.Fatalf("BEGIN %s%s: %v", x.Level, what, err)
	}
	w.say("%d: BEGIN %s%s", s.number, x.Level, what)
	return true
}

// prepare reads what the transaction wrote, and seals it. It may fail as
// statements do: a serializable transaction at any of its statements.
func (w *world) prepare(s *session) bool {
	var b pgx.Batch
	b.Queue("SELECT DISTINCT tab || ' ' || id FROM pg_temp.audit WHERE xact = pg_current_xact_id_if_assigned()").Query(func(rows pgx.Rows) (err error) {
		s.writes, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if s.of != nil {
		sql, args := undolog.Seal(witness)
		b.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&s.wrote) })
	}
	err := s.conn.SendBatch(context.Background(), &b).Close()
	if err != nil {
		w.finish(s, "seal", err)
		w.goOn()
		return false
	}
	if s.of != nil && !s.wrote && len(s.writes) > 0 {
		w.wrong("session %d wrote %v, and seal says that it did not", s.number, s.writes)
	}
	return true
}

// settle decides, and carries out what was decided before.
func (w *world) settle(g *global, commit bool) {
	open := slices.ContainsFunc(w.sessions, func(s *session) bool { return s.open && s.of == g })
	if g.settled || len(g.branches) == 0 || !g.decided && commit && open {
		return
	}
	if !g.decided {
		g.decided, g.commit = true, commit
	}
	err := undolog.Settle(context.Background(), w.d.own, []undolog.Settlement{{XID: g.id, Commit: g.commit, Branches: g.branches}},
		undolog.SettleOptions{LockTimeout: 10 * time.Millisecond})[0].Err
	w.say("settle %s, commit %t: %v", g.name, g.commit, err)
	if _, blocked := errors.AsType[*undolog.BlockedError](err); blocked {
		w.changed = true // which it must not be
		w.goOn()         // somebody may have been thrown out meanwhile
		return
	}
	if err != nil {
		w.wrong("settle %s: %v", g.name, err)
	}
	g.settled = true
	now := w.look()
	for row := range g.touched {
		if g.commit {
			w.set(w.committed, row, w.now)
		}
		if now[row] != w.committed[row] {
			w.wrong("settle %s, commit %t: row %s is %q and should be %q", g.name, g.commit, row, now[row], w.committed[row])
		}
	}
	w.changed = true
	i := slices.Index(w.xids, g)
	w.ended = append(w.ended, g)
	w.xids[i] = w.fresh()
	w.goOn()
}

func (w *world) fresh() *global {
	return &global{name: fmt.Sprintf("X%d", len(w.ended)+len(w.xids)), id: newXID(), touched: map[string]bool{}}
}

// drain ends everything: sessions that wait come later than those they wait for.
func (w *world) drain(last []bool) {
	for round := range 50 {
		busy := false
		w.goOn()
		for i, s := range w.sessions {
			if !s.open {
				continue
			}
			busy = true
			if s.doing == "" {
				kind := "abort"
				if last[i] {
					kind = "commit"
				}
				w.step(deed{Session: i, Kind: kind, XID: -1})
			}
		}
		for i, g := range slices.Clone(w.xids) {
			w.settle(g, last[len(w.sessions)+i])
			busy = busy || len(g.branches) > 0 && !g.settled
		}
		if !busy {
			return
		}
		if round == 49 {
			w.wrong("it does not come to an end")
		}
	}
}

func (w *world) verdict() {
	w.compare()
	var ids []string
	for _, g := range w.ended {
		ids = append(ids, g.id.String())
	}
	var n int
	if err := w.d.own.QueryRow(context.Background(), `SELECT (SELECT count(*) FROM handfast.undo WHERE xid = ANY ($1)) + (SELECT count(*) FROM handfast.gate WHERE xid = ANY ($1))
		+ (SELECT count(*) FROM handfast.gate WHERE xid = '') + (SELECT count(*) FROM handfast.fence WHERE state = 'L' AND xid = ANY ($1))`, ids).Scan(&n); err != nil {
		w.Fatalf("%v", err)
	}
	if n != 0 {
		w.wrong("%d rows of ours are left", n)
	}
	if _, err := w.d.own.Exec(context.Background(), recheck(w.schema)); err != nil {
		w.wrong("a constraint does not hold: %v", err)
	}
}

func TestPropertyOfUniqueKeys(t *testing.T) {
	t.Parallel()
	check(t, extent{})
}

func TestPropertyOfTriggers(t *testing.T) {
	t.Parallel()
	check(t, extent{triggers: true})
}

func TestPropertyOfForeignKeys(t *testing.T) {
	t.Parallel()
	check(t, extent{foreignKeys: true})
}

func TestPropertyOfEverything(t *testing.T) {
	t.Parallel()
	check(t, extent{foreignKeys: true, triggers: true})
}
