package undolog_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/handfast/handfast/undolog"
)

var schemas atomic.Uint64

// rig is a database and the sessions of runs, which follow each other.
type rig struct {
	d     *database
	conns []*pgx.Conn
	alter func(schema string) error // damages what was installed for the tables
	tried tally
}

// connect makes the sessions anew where a run has left them in its middle.
func (r *rig) connect(rt *rapid.T) []*session {
	ctx := context.Background()
	for len(r.conns) < 4 {
		conn, err := pgx.Connect(ctx, r.d.dsn)
		if err != nil {
			rt.Fatalf("%v", err)
		}
		// Deadlocks between sessions are ordinary here, and to be found at once.
		if _, err := conn.Exec(ctx, "SET deadlock_timeout = '5ms'; CREATE TEMP TABLE audit (tab text, id int, xact xid8 DEFAULT pg_current_xact_id())"); err != nil {
			rt.Fatalf("%v", err)
		}
		r.conns = append(r.conns, conn)
	}
	var out []*session
	for i, conn := range r.conns {
		out = append(out, &session{number: i, conn: conn})
	}
	return out
}

func (r *rig) close(sessions []*session) {
	for _, s := range sessions {
		if s.doing != "" {
			// The statement has the connection for itself.
			_ = s.conn.PgConn().CancelRequest(context.Background())
			<-s.done //nolint:errcheck // whatever it says
		}
		_ = s.conn.Close(context.Background())
	}
	r.conns = nil
}

// property is promises 2, 3 and 4 of the design over one drawn run.
func (r *rig) property(rt *rapid.T, e extent) {
	if !r.tried.failed {
		r.tried.cases++
	}
	p := planGen(e).Draw(rt, "plan")
	// Protecting the tables takes longer than a round of what is done to them.
	rounds := rapid.SliceOfN(roundGen(e), 2, 10).Draw(rt, "rounds")
	last := rapid.SliceOfN(rapid.Bool(), 7, 7).Draw(rt, "last")
	ctx := context.Background()
	w := &world{T: rt, d: r.d, schema: fmt.Sprintf("s%d", schemas.Add(1)), tableCount: len(p.tables), sessions: r.connect(rt)}
	whole := false
	defer func() {
		if !whole {
			r.close(w.sessions)
		}
	}()
	must := func(sql string) {
		if _, err := r.d.own.Exec(ctx, sql); err != nil {
			rt.Fatalf("%s: %v", sql, err)
		}
	}
	must("BEGIN; " + p.ddl(w.schema) + "; COMMIT")
	w.trace = append(w.trace, p.ddl(w.schema))
	if _, err := undolog.Protect(ctx, r.d.own, p.names(w.schema)...); err != nil {
		rt.Fatalf("%v", err)
	}
	if r.alter != nil {
		if err := r.alter(w.schema); err != nil {
			rt.Fatalf("%v", err)
		}
	}
	for i, round := range rounds {
		if i > 0 && round.Anew {
			must(p.anew(w.schema))
			w.say("all rows anew")
		}
		for _, s := range w.sessions {
			r.d.exec(s.conn, "TRUNCATE pg_temp.audit")
		}
		w.xids = nil
		for range 3 {
			w.xids = append(w.xids, w.fresh())
		}
		w.committed, w.now = w.look(), w.look()
		if !r.tried.failed {
			r.tried.rounds++
			r.tried.deeds += len(round.Deeds)
		}
		for _, x := range round.Deeds {
			w.step(x)
		}
		w.drain(last)
		w.verdict()
	}
	if err := undolog.Unprotect(ctx, r.d.own, p.names(w.schema)...); err != nil {
		rt.Fatalf("%v", err)
	}
	must("SET client_min_messages = error; DROP SCHEMA " + w.schema + " CASCADE")
	whole = true
}

// tally is how much was tried until the first failure.
type tally struct {
	cases, rounds, deeds int
	failed               bool // what follows makes the failure smaller
}

func (y *tally) String() string {
	return fmt.Sprintf("tried %d cases, %d rounds, %d deeds", y.cases, y.rounds, y.deeds)
}

// Cases are bounded by their number, so that a slow machine checks as much as a fast
// one. The time is there so that one which hangs ends.
const (
	fewCases   = 4
	manyCases  = 40 // with -undolog.all
	longestRun = 5 * time.Minute
)

// check draws cases, as many as -rapid.checks says or else some.
func check(t *testing.T, e extent) {
	t.Helper()
	r := &rig{d: newDatabase(t, "")}
	if name := os.Getenv(plantedEnvironment); name != "" {
		r.alter = func(schema string) error { return faults[name].plant(r.d.own, schema) }
	}
	cases, end, late := fewCases, time.Now().Add(longestRun), false
	if *everything {
		cases = manyCases
	}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "rapid.checks" {
			cases = math.MaxInt // it counts them itself
		}
	})
	defer func() { t.Log(&r.tried) }()
	rapid.Check(t, func(rt *rapid.T) {
		switch {
		case r.tried.failed: // it is made smaller, however long that takes
		case r.tried.cases == cases:
			return
		case cases < math.MaxInt && time.Now().After(end):
			late = true
			return
		}
		whole := false
		defer func() { r.tried.failed = r.tried.failed || !whole }()
		r.property(rt, e)
		whole = true
	})
	if late {
		t.Fatalf("only that in %s", longestRun)
	}
}
