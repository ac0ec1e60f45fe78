package undolog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const rows = "CREATE TABLE g (id int PRIMARY KEY, v int); INSERT INTO g SELECT i, i FROM generate_series(1, 200) i"

func TestSettleIsIdempotentAndRefusesTheOpposite(t *testing.T) {
	t.Parallel()
	for _, commit := range []bool{true, false} {
		t.Run(fmt.Sprintf("commit %t", commit), func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, rows, "g")
			id := newXID()
			l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
			d.mustSettle(id, commit, l)
			d.mustSettle(id, commit, l)
			after := d.dump()
			err := d.settle(d.own, id, !commit, l)
			if _, ok := errors.AsType[*undolog.AlarmError](err); !ok {
				t.Fatalf("the opposite: %v", err)
			}
			if d.dump() != after {
				t.Fatal("the opposite changed rows")
			}
		})
	}
}

func TestTombstoneKeepsALateBranchOut(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, rows, "g")
			l := d.arm(newXID(), level)
			l.exec("SELECT count(*) FROM g") // the snapshot is older than the tombstone
			d.mustSettle(l.id, false, l)
			if _, err := l.conn.Exec(context.Background(), "UPDATE g SET v = 0"); sqlState(err) != undolog.SQLStateDecided {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestSettleWaitsForAnOpenLocalTransactionThenUndoesIt(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	before := d.dump()
	l := d.arm(newXID(), "READ COMMITTED")
	l.exec("UPDATE g SET v = 0 WHERE id = 1")
	err := d.settle(d.own, l.id, false, l)
	blocked, ok := errors.AsType[*undolog.BlockedError](err)
	if !ok || len(blocked.PIDs) != 1 || blocked.PIDs[0] != int32(l.conn.PgConn().PID()) {
		t.Fatalf("want the backend %d named: %v", l.conn.PgConn().PID(), err)
	}
	l.commit()
	d.mustSettle(l.id, false, l)
	if after := d.dump(); after != before {
		t.Fatalf("after rollback:\n%s", after)
	}
}

// The settle that waits for the fence must see what was committed meanwhile.
func TestSettleSeesWhatWasCommittedWhileItWaited(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	before := d.dump()
	l := d.arm(newXID(), "READ COMMITTED")
	l.exec("UPDATE g SET v = 0 WHERE id = 1")
	if wrote, err := l.seal(); err != nil || !wrote {
		t.Fatal(wrote, err)
	}
	settler := d.connect()
	done := make(chan error, 1)
	go func() {
		done <- undolog.Settle(context.Background(), settler, []undolog.Settlement{{XID: l.id, Branches: []undolog.BranchVote{l.vote()}}},
			undolog.SettleOptions{LockTimeout: time.Minute})[0].Err
	}()
	d.awaitLockWait(settler)
	l.exec("COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if after := d.dump(); after != before {
		t.Fatalf("after rollback:\n%s", after)
	}
	if n := d.litter(); n != 0 {
		t.Fatalf("%d rows of ours are left", n)
	}
}

// awaitLockWait returns when the backend of conn waits for a lock.
func (d *database) awaitLockWait(conn *pgx.Conn) {
	d.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var waiting bool
		if err := d.own.QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)",
			int32(conn.PgConn().PID())).Scan(&waiting); err != nil {
			d.t.Fatal(err)
		}
		if waiting {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatal("the settler never waited")
		}
	}
}

func TestTwoSettlersAtOnce(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	before := d.dump()
	for range 20 {
		id := newXID()
		a := d.work(id, "UPDATE g SET v = v + 1 WHERE id < 20")
		b := d.work(id, "DELETE FROM g WHERE id < 10")
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, conn := range []*pgx.Conn{d.connect(), d.connect()} {
			wg.Go(func() {
				errs[i] = undolog.Settle(context.Background(), conn, []undolog.Settlement{{XID: id, Branches: []undolog.BranchVote{a.vote(), b.vote()}}},
					undolog.SettleOptions{LockTimeout: time.Minute})[0].Err
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if d.dump() != before {
			t.Fatal("not restored")
		}
	}
}

func TestContradictionsRaiseAnAlarmAndChangeNothing(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
	now := d.dump()
	ghost := undolog.BranchVote{ID: newBranch(), Yes: true}
	tests := map[string]undolog.Settlement{
		"commit without the fence of a yes":  {XID: id, Commit: true, Branches: []undolog.BranchVote{l.vote(), ghost}},
		"commit with a fence not registered": {XID: id, Commit: true, Branches: []undolog.BranchVote{{ID: newBranch()}}},
		"commit of a branch that withdrew":   {XID: id, Commit: true, Branches: []undolog.BranchVote{{ID: l.branch}}},
		"rollback with one not registered":   {XID: id, Branches: []undolog.BranchVote{{ID: newBranch()}}},
	}
	for name, s := range tests {
		err := undolog.Settle(context.Background(), d.own, []undolog.Settlement{s}, undolog.SettleOptions{})[0].Err
		if _, ok := errors.AsType[*undolog.AlarmError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		if d.dump() != now || d.litter() == 0 {
			t.Fatalf("%s: something was changed", name)
		}
	}
	d.mustSettle(id, false, l)
}

func TestRowThatIsNotItsAfterImageIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ work, damage string }{
		"updated row":          {"UPDATE g SET v = 0 WHERE id < 5", "UPDATE g SET v = 77 WHERE id = 2"},
		"updated row is gone":  {"UPDATE g SET v = 0 WHERE id < 5", "DELETE FROM g WHERE id = 2"},
		"inserted row":         {"INSERT INTO g VALUES (900, 1), (901, 1)", "UPDATE g SET v = 77 WHERE id = 900"},
		"deleted row is there": {"DELETE FROM g WHERE id < 5", "INSERT INTO g VALUES (2, 9)"},
		"column renamed":       {"UPDATE g SET v = 0 WHERE id < 5", "ALTER TABLE g RENAME v TO w"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, rows, "g")
			id := newXID()
			l := d.work(id, tt.work)
			d.exec(d.own, "ALTER EVENT TRIGGER handfast_ddl DISABLE; ALTER TABLE g DISABLE TRIGGER ALL; "+tt.damage+"; ALTER TABLE g ENABLE TRIGGER ALL")
			now := d.dump()
			err := d.settle(d.own, id, false, l)
			misfit, ok := errors.AsType[*undolog.MisfitError](err)
			if !ok || misfit.Table == "" || misfit.Key == "" || misfit.What == "" {
				t.Fatalf("%v", err)
			}
			if d.dump() != now || d.litter() == 0 {
				t.Fatal("half applied")
			}
		})
	}
}

func TestCommitsAreSettledInBatchesAndABadOneHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	var batch []undolog.Settlement
	for i := range 50 {
		id := newXID()
		l := d.work(id, fmt.Sprintf("UPDATE g SET v = -1 WHERE id = %d", i+1))
		branches := []undolog.BranchVote{l.vote()}
		if i == 17 {
			branches = append(branches, undolog.BranchVote{ID: newBranch(), Yes: true})
		}
		batch = append(batch, undolog.Settlement{XID: id, Commit: true, Branches: branches})
	}
	for i, r := range undolog.Settle(context.Background(), d.own, batch, undolog.SettleOptions{}) {
		if (r.Err != nil) != (i == 17) || r.XID != batch[i].XID {
			t.Errorf("%d: %v", i, r.Err)
		}
	}
	left, err := undolog.Pending(context.Background(), d.own, 0)
	if err != nil || len(left) != 1 || left[0].XID != batch[17].XID || left[0].Intents != 1 || len(left[0].Branches) != 1 {
		t.Fatalf("%+v %v", left, err)
	}
}

func TestAskIsAFact(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	ctx := context.Background()
	ask := func(id xid.ID, l *local) undolog.Answer {
		t.Helper()
		a, err := undolog.Ask(ctx, d.own, id, l.branch, 0)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	l := d.arm(newXID(), "READ COMMITTED")
	l.exec("UPDATE g SET v = 0 WHERE id = 1")
	if a := ask(l.id, l); a != undolog.AnswerOpen {
		t.Fatalf("open: %d", a)
	}
	l.commit()
	if a := ask(l.id, l); a != undolog.AnswerYes {
		t.Fatalf("committed: %d", a)
	}
	d.mustSettle(l.id, true, l)
	if a := ask(l.id, l); a != undolog.AnswerYes {
		t.Fatalf("settled: %d", a)
	}
	late := d.arm(newXID(), "READ COMMITTED")
	if a := ask(late.id, late); a != undolog.AnswerNo {
		t.Fatalf("never wrote: %d", a)
	}
	if _, err := late.conn.Exec(ctx, "UPDATE g SET v = 0 WHERE id = 2"); sqlState(err) != undolog.SQLStateDecided {
		t.Fatalf("a no that can still become a yes: %v", err)
	}
}

func TestWitnessesComeBackHighestFirst(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	for range 2 {
		d.work(newXID(), "UPDATE g SET v = v + 1 WHERE id = "+fmt.Sprint(counter.Add(1)%200+1))
	}
	ws, err := undolog.Witnesses(context.Background(), d.own)
	if err != nil || len(ws) != 1 || ws[0] != witness {
		t.Fatalf("%+v %v", ws, err)
	}
}

// What a neighbour must not do to foreign keys while their other end is
// undecided: it is refused, by guards at both ends, protected or not. Where the
// guard is stepped around, the rollback stops, visibly; it never makes an orphan.
func TestForeignKeysAreGuardedAtBothEnds(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE, v int);
		CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent, c text REFERENCES parent (code));
		INSERT INTO parent VALUES (1, 'one', 0), (2, 'two', 0); INSERT INTO child VALUES (1, 1, 'one')`
	tests := map[string]struct{ work, neighbour, mend string }{
		"a child of an inserted parent":    {"INSERT INTO parent VALUES (9, 'nine', 0)", "INSERT INTO child VALUES (2, 9, NULL)", "DELETE FROM child WHERE id = 2"},
		"a child of a renamed parent":      {"UPDATE parent SET code = 'zwei' WHERE id = 2", "INSERT INTO child VALUES (2, NULL, 'zwei')", "DELETE FROM child WHERE id = 2"},
		"a child of a moved parent":        {"UPDATE parent SET id = 20 WHERE id = 2", "INSERT INTO child VALUES (2, 20, NULL)", "DELETE FROM child WHERE id = 2"},
		"the parent of a deleted child":    {"DELETE FROM child", "DELETE FROM parent WHERE id = 1", "INSERT INTO parent VALUES (1, 'one', 0)"},
		"the parent of a child that moved": {"UPDATE child SET p = 2, c = NULL", "DELETE FROM parent WHERE id = 1", "INSERT INTO parent VALUES (1, 'one', 0)"},
		"a child that moves to it":         {"INSERT INTO parent VALUES (9, 'nine', 0)", "UPDATE child SET p = 9", "UPDATE child SET p = 1"},
		"a parent that renames itself":     {"DELETE FROM child", "UPDATE parent SET code = 'eins' WHERE id = 1", "UPDATE parent SET code = 'one' WHERE id = 1"},
	}
	for i, name := range slices.Sorted(maps.Keys(tests)) {
		tt := tests[name]
		for j, level := range []string{"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"} {
			for _, both := range []bool{true, false} {
				if !some(i + j) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/both=%t", name, level, both), func(t *testing.T) {
					t.Parallel()
					protect := []string{"parent", "child"}
					if !both && strings.Contains(tt.work, "parent") {
						protect = protect[:1]
					} else if !both {
						protect = protect[1:]
					}
					d := newDatabase(t, ddl, protect...)
					before := d.dump()
					id := newXID()
					early := d.connect() // its snapshot is from before
					d.exec(early, "BEGIN ISOLATION LEVEL "+level+"; SELECT 1")
					d.exec(early, "SELECT count(*) FROM child")
					l := d.work(id, tt.work)
					for _, conn := range []*pgx.Conn{early, d.own} {
						_, err := conn.Exec(context.Background(), tt.neighbour)
						if s := sqlState(err); s != undolog.SQLStateConflict && s != "40001" && (conn != early || s != "23503") {
							t.Fatalf("%s: %v", tt.neighbour, err)
						}
					}
					d.exec(early, "ROLLBACK")
					// A superuser can step around every trigger.
					disabled := func(sql string) {
						d.exec(d.own, "ALTER EVENT TRIGGER handfast_ddl DISABLE; ALTER TABLE parent DISABLE TRIGGER ALL; ALTER TABLE child DISABLE TRIGGER ALL; "+sql+
							"; ALTER TABLE parent ENABLE TRIGGER ALL; ALTER TABLE child ENABLE TRIGGER ALL; ALTER EVENT TRIGGER handfast_ddl ENABLE")
					}
					disabled(tt.neighbour)
					now := d.dump()
					err := d.settle(d.own, id, false, l)
					if _, ok := errors.AsType[*undolog.MisfitError](err); !ok {
						t.Fatalf("%v", err)
					}
					if d.dump() != now || d.litter() == 0 {
						t.Fatal("half applied")
					}
					disabled(tt.mend)
					d.mustSettle(id, false, l)
					if after := d.dump(); after != before {
						t.Fatalf("after rollback:\n%s\nbefore:\n%s", after, before)
					}
					d.exec(d.own, "UPDATE parent SET v = v + 1; DELETE FROM child; INSERT INTO child VALUES (5, 2, 'one'); DELETE FROM parent WHERE id > 2")
				})
			}
		}
	}
}
