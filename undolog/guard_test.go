package undolog_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/undolog"
)

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

var levels = []string{"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}

// Between phase one and the end of phase two nobody else changes a captured
// row, takes its primary key, or takes a unique value it held: neither another
// global transaction nor a plain session, at any level, whether its snapshot is
// older or newer than the intent.
func TestGuardRefusesEveryNeighbour(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE g (id int PRIMARY KEY, email text UNIQUE, v int); INSERT INTO g VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);
		CREATE DOMAIN d1 AS numeric; CREATE DOMAIN d2 AS d1; CREATE TABLE n (id d2 PRIMARY KEY, v int); INSERT INTO n VALUES (1.0, 1);
		CREATE TABLE f (id int PRIMARY KEY, email text UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO f VALUES (1, 'a'), (2, 'b')`
	tests := map[string]struct{ holder, other string }{
		"update of an updated row":         {"UPDATE g SET v = 10 WHERE id = 1", "UPDATE g SET v = 11 WHERE id = 1"},
		"delete of an updated row":         {"UPDATE g SET v = 10 WHERE id = 1", "DELETE FROM g WHERE id = 1"},
		"update of an inserted row":        {"INSERT INTO g VALUES (9, 'z', 9)", "UPDATE g SET v = 1 WHERE id = 9"},
		"insert of a deleted key":          {"DELETE FROM g WHERE id = 1", "INSERT INTO g VALUES (1, 'q', 1)"},
		"insert of a key moved away from":  {"UPDATE g SET id = 50 WHERE id = 1", "INSERT INTO g VALUES (1, 'q', 1)"},
		"a deleted key written otherwise":  {"DELETE FROM n WHERE id = 1", "INSERT INTO n VALUES (1.00, 9)"},
		"move to a deleted key":            {"DELETE FROM g WHERE id = 1", "UPDATE g SET id = 1 WHERE id = 2"},
		"unique value given up by update":  {"UPDATE g SET email = 'x' WHERE id = 1", "INSERT INTO g VALUES (9, 'a', 9)"},
		"unique value given up by delete":  {"DELETE FROM g WHERE id = 1", "UPDATE g SET email = 'a' WHERE id = 2"},
		"on conflict do update":            {"UPDATE g SET v = 10 WHERE id = 1", "INSERT INTO g VALUES (1, 'q', 1) ON CONFLICT (id) DO UPDATE SET v = 5"},
		"deferrable unique value given up": {"UPDATE f SET email = 'x' WHERE id = 1", "INSERT INTO f VALUES (9, 'a')"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, ddl, "g", "f", "n")
			before := d.dump()
			for _, level := range levels {
				for _, armed := range []bool{false, true} {
					for _, oldSnapshot := range []bool{false, true} {
						other := d.connect()
						if armed {
							other = d.arm(newXID(), level).conn
						} else {
							d.exec(other, "BEGIN ISOLATION LEVEL "+level)
						}
						if oldSnapshot {
							d.exec(other, "SELECT count(*) FROM g")
						}
						id := newXID()
						holder := d.work(id, tt.holder)
						_, err := other.Exec(context.Background(), tt.other)
						if err == nil {
							_, err = other.Exec(context.Background(), "COMMIT")
						}
						want := undolog.SQLStateConflict
						if level != "READ COMMITTED" {
							want = "40001"
						}
						// Above READ COMMITTED an old snapshot does not see a new row at
						// all; arming takes one.
						invisible := (oldSnapshot || armed) && level != "READ COMMITTED" && name == "update of an inserted row"
						if got := sqlState(err); got != want && (!invisible || err != nil) {
							t.Errorf("%s, armed %t, old snapshot %t: %v, want SQLSTATE %s", level, armed, oldSnapshot, err, want)
						}
						if c, ok := undolog.AsConflict(err); ok && (c.Holder != id || c.Table == "" || c.Key == "") {
							t.Errorf("the conflict does not name its holder: %+v", c)
						}
						_ = other.Close(context.Background())
						d.mustSettle(id, false, holder)
						if after := d.dump(); after != before {
							t.Fatalf("%s, armed %t, old snapshot %t: after rollback:\n%s", level, armed, oldSnapshot, after)
						}
					}
				}
			}
		})
	}
}

// What an undecided transaction does not hold stays free for everybody.
func TestGuardLetsOthersPass(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, "CREATE TABLE g (id int PRIMARY KEY, email text UNIQUE, v int); INSERT INTO g VALUES (1, 'a', 1), (2, NULL, 2), (3, NULL, 3)", "g")
			id := newXID()
			holder := d.work(id, "UPDATE g SET v = 9, email = 'x' WHERE id = 1", "UPDATE g SET email = 'y' WHERE id = 2")
			plain := d.connect()
			d.exec(plain, "BEGIN ISOLATION LEVEL "+level)
			for _, sql := range []string{"UPDATE g SET v = 1 WHERE id = 3", "INSERT INTO g VALUES (7, NULL, 1), (8, 'free', 1)", "DELETE FROM g WHERE id = 3"} {
				d.exec(plain, sql)
			}
			d.exec(plain, "COMMIT")
			again := d.work(id, "UPDATE g SET v = 10, email = 'a' WHERE id = 1")
			d.mustSettle(id, true, holder, again)
			d.exec(plain, "UPDATE g SET v = 11 WHERE id = 1")
			if n := d.litter(); n != 0 {
				t.Fatalf("%d rows of ours are left", n)
			}
		})
	}
}

// With the guard off, plain sessions are not kept from an undecided row, and
// nothing else changes: global transactions are, and what a plain session
// overwrote is found by the rollback and kept.
func TestGuardOffIsForPlainSessionsAlone(t *testing.T) {
	t.Parallel()
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, "CREATE TABLE g (id int PRIMARY KEY, v int); CREATE TABLE c (id int PRIMARY KEY, g int REFERENCES g); INSERT INTO g VALUES (1, 1), (2, 2)", "c")
			if _, err := undolog.ProtectTables(context.Background(), d.own, []string{"g"}, undolog.WithGuard(false)); err != nil {
				t.Fatal(err)
			}
			id := newXID()
			holder := d.work(id, "UPDATE g SET v = 10 WHERE id < 3")
			other := d.arm(newXID(), level)
			_, err := other.conn.Exec(context.Background(), "UPDATE g SET v = 11 WHERE id = 1")
			if _, ok := undolog.AsConflict(err); !ok {
				t.Errorf("a global transaction: %v", err)
			}
			other.exec("ROLLBACK")
			plain := d.connect()
			d.exec(plain, "BEGIN ISOLATION LEVEL "+level)
			d.exec(plain, "UPDATE g SET v = 77 WHERE id = 1")
			d.exec(plain, "COMMIT")
			if err := d.settle(d.own, id, false, holder); err == nil {
				t.Error("the rollback overwrote what a plain session wrote")
			}
			if got := d.lines("SELECT v::text FROM g ORDER BY id"); got != "77\n10" {
				t.Errorf("g is %s", got)
			}
			// Back to the default, which open intents do not keep from being set.
			if _, err := undolog.ProtectTables(context.Background(), d.own, []string{"g"}, undolog.WithGuard(true)); err != nil {
				t.Fatal(err)
			}
			if _, err := plain.Exec(context.Background(), "UPDATE g SET v = 78 WHERE id = 1"); sqlState(err) != undolog.SQLStateConflict {
				t.Errorf("with the guard on again: %v", err)
			}
		})
	}
}

func TestArmingThatIsLostForgedOrStaleIsRefused(t *testing.T) {
	t.Parallel()
	const ddl = "CREATE TABLE g (id int PRIMARY KEY, v int); INSERT INTO g VALUES (1, 1)"
	ctx := context.Background()
	t.Run("undone by a savepoint before it", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, ddl, "g")
		conn := d.connect()
		d.exec(conn, "BEGIN; SAVEPOINT s")
		sql, args := undolog.Arm(newXID(), newBranch(), undolog.ArmOptions{})
		d.exec(conn, sql, args...)
		d.exec(conn, "ROLLBACK TO s")
		d.exec(conn, "UPDATE g SET v = 2")
		sql, args = undolog.Seal(witness)
		if _, err := conn.Exec(ctx, sql, args...); sqlState(err) != undolog.SQLStateNotArmed {
			t.Fatalf("%v", err)
		}
	})
	t.Run("COMMIT AND CHAIN", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, ddl, "g")
		l := d.arm(newXID(), "READ COMMITTED")
		l.exec("COMMIT AND CHAIN")
		if _, err := l.seal(); sqlState(err) != undolog.SQLStateNotArmed {
			t.Fatalf("%v", err)
		}
	})
	t.Run("a setting of the session", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, ddl, "g")
		conn := d.connect()
		d.exec(conn, "SELECT set_config('handfast.xid', $1, false)", newXID().String())
		if _, err := conn.Exec(ctx, "UPDATE g SET v = 2"); sqlState(err) != undolog.SQLStateNotArmed {
			t.Fatalf("%v", err)
		}
	})
	t.Run("the XID of somebody else", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, ddl, "g")
		victim := newXID()
		holder := d.work(victim, "UPDATE g SET v = 5")
		l := d.arm(newXID(), "READ COMMITTED")
		l.exec("INSERT INTO g VALUES (2, 2)") // the fence now says whose work this is
		l.exec("SELECT set_config('handfast.xid', $1, true)", victim.String())
		if _, err := l.conn.Exec(ctx, "UPDATE g SET v = 6 WHERE id = 1"); sqlState(err) != undolog.SQLStateNotArmed {
			t.Fatalf("%v", err)
		}
		_ = l.conn.Close(ctx)
		d.mustSettle(victim, false, holder)
	})
	t.Run("twice, for two XIDs", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, ddl, "g")
		l := d.arm(newXID(), "READ COMMITTED")
		sql, args := undolog.Arm(newXID(), newBranch(), undolog.ArmOptions{})
		if _, err := l.conn.Exec(ctx, sql, args...); sqlState(err) != undolog.SQLStateNotArmed {
			t.Fatalf("%v", err)
		}
	})
	t.Run("a read-only transaction is fine and writes no fence", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, ddl, "g")
		l := d.arm(newXID(), "READ COMMITTED READ ONLY")
		l.exec("SELECT * FROM g")
		l.exec("COMMIT")
		if n := d.litter(); n != 0 {
			t.Fatalf("%d rows of ours", n)
		}
	})
}

func TestWritesThatCanNotBeUndoneAreRefused(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, "CREATE TABLE g (id int PRIMARY KEY, v int); CREATE TABLE bare (v int); INSERT INTO g VALUES (1, 1); INSERT INTO bare VALUES (1)", "g")
	ctx := context.Background()
	d.exec(d.own, "CREATE TABLE later (v int); CREATE TABLE copied AS SELECT 1 AS v")
	for _, sql := range []string{
		"TRUNCATE g", "TRUNCATE bare", "INSERT INTO bare VALUES (1)", "UPDATE bare SET v = 2", "DELETE FROM bare",
		"INSERT INTO later VALUES (1)", "UPDATE copied SET v = 2", "WITH x AS (DELETE FROM bare RETURNING 1) SELECT * FROM x",
	} {
		l := d.arm(newXID(), "READ COMMITTED")
		if _, err := l.conn.Exec(ctx, sql); sqlState(err) != undolog.SQLStateRefused {
			t.Errorf("%s: %v", sql, err)
		}
		l.exec("ROLLBACK")
		d.exec(d.own, "BEGIN; "+sql+"; ROLLBACK") // a plain session may
	}
	id := newXID()
	holder := d.work(id, "DELETE FROM g")
	if _, err := d.own.Exec(ctx, "TRUNCATE g"); sqlState(err) != undolog.SQLStateConflict {
		t.Fatalf("TRUNCATE by a plain session: %v", err)
	}
	d.mustSettle(id, false, holder)
	d.exec(d.own, "TRUNCATE g")
	if err := undolog.Unprotect(ctx, d.own, "g"); err != nil {
		t.Fatal(err)
	}
	l := d.arm(newXID(), "READ COMMITTED")
	if _, err := l.conn.Exec(ctx, "INSERT INTO g VALUES (5, 5)"); sqlState(err) != undolog.SQLStateRefused {
		t.Fatalf("a table that is not protected any more: %v", err)
	}
}

// Where new tables do not get a refuse trigger, seal finds the write.
func TestSealFindsWritesWhereTriggersAreMissing(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, "CREATE TABLE g (id int PRIMARY KEY, v int)", "g")
	d.exec(d.own, "DROP EVENT TRIGGER handfast_ddl; UPDATE handfast.meta SET refusing = false; CREATE TABLE later (v int)")
	l := d.arm(newXID(), "READ COMMITTED")
	l.exec("INSERT INTO later VALUES (1)")
	if _, err := l.seal(); sqlState(err) != undolog.SQLStateRefused {
		t.Fatalf("%v", err)
	}
}

// At SERIALIZABLE a look at one of our tables would be a conflict with everybody
// else who writes to it, and make transactions fail that have nothing in common.
func TestGuardTakesNoPredicateLocks(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, `CREATE TABLE g (id int PRIMARY KEY, email text UNIQUE, v int); CREATE TABLE c (id int PRIMARY KEY, g int REFERENCES g, d text UNIQUE DEFERRABLE INITIALLY DEFERRED);
		INSERT INTO g SELECT i, 'm' || i, i FROM generate_series(1, 100) i; INSERT INTO c SELECT i, i, i FROM generate_series(1, 50) i`, "g", "c")
	for _, sql := range []string{
		"UPDATE g SET v = 0 WHERE id = 1", "UPDATE g SET email = 'x' WHERE id = 2", "INSERT INTO g VALUES (200, 'y', 1)", "DELETE FROM g WHERE id = 77",
		"UPDATE g SET id = 300 WHERE id = 78", "INSERT INTO c VALUES (200, 5, 'z')", "UPDATE c SET g = 6, d = 'zz' WHERE id = 1", "DELETE FROM c WHERE id = 2",
		"UPDATE g SET v = 1 WHERE id BETWEEN 10 AND 40",
	} {
		d.exec(d.own, "BEGIN ISOLATION LEVEL SERIALIZABLE")
		d.exec(d.own, sql)
		d.exec(d.own, "SET CONSTRAINTS ALL IMMEDIATE")
		if got := d.lines("SELECT l.relation::regclass || ' ' || l.locktype FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace WHERE l.mode = 'SIReadLock' AND l.pid = pg_backend_pid() AND n.nspname = 'handfast'"); got != "" {
			t.Errorf("%s: locks %s", sql, got)
		}
		d.exec(d.own, "ROLLBACK")
	}
}
