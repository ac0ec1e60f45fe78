package undolog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/handfast/handfast/undolog"
)

// attack is something that a session without XID does to what an undecided
// transaction holds. It has to be refused, or be such that the rollback fits.
type attack struct {
	ddl     string
	protect string   // apart by blanks
	first   []string // by the other session, before the transaction works
	work    []string // of the transaction
	then    []string // by the other session; the last one is to be refused
}

func (a attack) run(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	d := newDatabase(t, a.ddl, strings.Fields(a.protect)...)
	before := snapshot(t, d.own)
	other := d.connect()
	for _, sql := range a.first {
		d.exec(other, sql)
	}
	id := newXID()
	l := d.work(id, a.work...)
	var err error
	for _, sql := range a.then {
		if _, err = other.Exec(ctx, sql); err != nil {
			break
		}
	}
	if err == nil && other.PgConn().TxStatus() != 'I' {
		_, err = other.Exec(ctx, "COMMIT")
	}
	if err == nil {
		err := d.settle(d.own, id, false, l)
		t.Fatalf("not refused; the rollback says: %v; then:\n%s", err, difference(snapshot(t, d.own), before))
	}
	if code := sqlState(err); code != undolog.SQLStateConflict && code != undolog.SQLStateRefused && code != "40001" {
		t.Fatalf("refused by something else: %v", err)
	}
	_ = other.Close(ctx)
	if err := d.settle(d.own, id, false, l); err != nil {
		t.Fatalf("refused, and the rollback does not fit: %v", err)
	}
	if after := snapshot(t, d.own); after != before {
		t.Fatalf("after rollback:\n%s", difference(after, before))
	}
	if n := d.litter(); n != 0 {
		t.Fatalf("%d rows of ours are left", n)
	}
}

const leaves = `CREATE TABLE p (id int PRIMARY KEY, v int, u text) PARTITION BY RANGE (id);
	CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 (gone int, u text, id int NOT NULL, v int); ALTER TABLE p2 DROP gone; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
	INSERT INTO p SELECT i, i, 'u' || i FROM generate_series(1, 12) i;`

func TestAttacksOnWhatIsUndecided(t *testing.T) {
	t.Parallel()
	const g = "CREATE TABLE g (id int PRIMARY KEY, v int, u text); INSERT INTO g SELECT i, i, 'u' || i FROM generate_series(1, 4) i;"
	const ci = "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
	old := func(level string) []string {
		return []string{"BEGIN ISOLATION LEVEL " + level, "SELECT count(*) FROM pg_class"}
	}
	tests := map[string]attack{
		"collation of the index":                   {ddl: ci + g + "CREATE UNIQUE INDEX ON g (u COLLATE ci)", protect: "g", work: []string{"UPDATE g SET u = 'x' WHERE id = 1"}, then: []string{"INSERT INTO g VALUES (9, 9, 'U1')"}},
		"collation of the index, with a predicate": {ddl: ci + g + "CREATE UNIQUE INDEX ON g (u COLLATE ci) WHERE id > 0", protect: "g", work: []string{"UPDATE g SET u = 'x' WHERE id = 1"}, then: []string{"INSERT INTO g VALUES (9, 9, 'U1')"}},
		"collation of the index, of an expression": {ddl: ci + g + "CREATE UNIQUE INDEX ON g ((u || 'x') COLLATE ci)", protect: "g", work: []string{"UPDATE g SET u = 'x' WHERE id = 1"}, then: []string{"INSERT INTO g VALUES (9, 9, 'U1')"}},
		"unique index of a partition":              {ddl: leaves + "CREATE UNIQUE INDEX ON p2 (u)", protect: "p", work: []string{"UPDATE p SET u = 'x' WHERE id = 11"}, then: []string{"INSERT INTO p VALUES (19, 9, 'u11')"}},
		"unique index of a partition, expression":  {ddl: leaves + "CREATE UNIQUE INDEX ON p2 (lower(u)) WHERE v > 0", protect: "p", work: []string{"UPDATE p SET u = 'x' WHERE id = 11"}, then: []string{"INSERT INTO p2 (id, v, u) VALUES (19, 9, 'U11')"}},
		"CHECK of a partition":                     {ddl: leaves, protect: "p", work: []string{"UPDATE p SET v = 100 WHERE id > 9"}, then: []string{"ALTER TABLE p2 ADD CHECK (v > 50)"}},
		"SET NOT NULL of a partition":              {ddl: leaves + "UPDATE p SET v = NULL WHERE id = 11", protect: "p", work: []string{"UPDATE p SET v = 100 WHERE id > 9"}, then: []string{"ALTER TABLE p2 ALTER v SET NOT NULL"}},
		"new unique index of a partition":          {ddl: leaves + "UPDATE p SET u = 'same'", protect: "p", work: []string{"UPDATE p SET u = id || '!' WHERE id > 9"}, then: []string{"CREATE UNIQUE INDEX ON p2 (u)"}},
		"a unique index CONCURRENTLY":              {ddl: g, protect: "g", work: []string{"UPDATE g SET v = 100 WHERE id = 1"}, then: []string{"CREATE UNIQUE INDEX CONCURRENTLY ON g (u)"}},
	}
	// A value given up stays taken however it is written.
	for name, tt := range map[string]struct{ column, was, again string }{
		"NULLS NOT DISTINCT": {"text UNIQUE NULLS NOT DISTINCT", "NULL", "NULL"},
		"padded":             {"char(5) UNIQUE", "'ab'", "'ab '"},
		"zeros":              {"float8 UNIQUE", "0.0", "-0.0"},
		"jsonb":              {"jsonb UNIQUE", "'{\"a\": 1.0}'", "'{\"a\": 1}'"},
		"interval":           {"interval UNIQUE", "'1 mon'", "'30 days'"},
		"array":              {"numeric[] UNIQUE", "'{1.0,NULL}'", "'{1.00,NULL}'"},
		"range":              {"int4range UNIQUE", "'[1,2]'", "'[1,3)'"},
		"row":                {"pair UNIQUE", "'(1.0,-0)'", "'(1.00,0)'"},
		"array of rows":      {"pair[] UNIQUE", "'{\"(1.0,-0)\"}'", "'{\"(1.00,0)\"}'"},
		"time with zone":     {"timestamptz UNIQUE", "'2024-01-01 12:00+00'", "'2024-01-01 17:30+05:30'"},
		"network":            {"inet UNIQUE", "'10.0.0.1'", "'10.0.0.1/32'"},
		"ignoring case":      {"text COLLATE ci UNIQUE", "'Ä'", "'ä'"},
		"domain":             {"dom UNIQUE", "'Ä'", "'ä'"},
	} {
		for _, level := range levels {
			tests["the same value: "+name+" at "+level] = attack{protect: "g", ddl: ci + "CREATE DOMAIN dom AS text COLLATE ci; CREATE TYPE pair AS (n numeric, f float8); CREATE TABLE g (id int PRIMARY KEY, u " + tt.column + "); INSERT INTO g VALUES (1, " + tt.was + ")",
				first: old(level), work: []string{"DELETE FROM g"}, then: []string{"INSERT INTO g VALUES (2, " + tt.again + ")"}}
		}
	}
	for _, level := range levels {
		for name, sql := range map[string]string{"TRUNCATE": "TRUNCATE g", "DROP TABLE": "DROP TABLE g", "DETACH": "ALTER TABLE p DETACH PARTITION p2", "DROP of a partition": "DROP TABLE p2", "TRUNCATE of a partition": "TRUNCATE p2",
			"DROP TRIGGER": "DROP TRIGGER handfast_truncate ON g; TRUNCATE g", "DISABLE TRIGGER": "ALTER TABLE g DISABLE TRIGGER ALL; UPDATE g SET v = 7", "DISABLE TRIGGER of a partition": "ALTER TABLE p2 DISABLE TRIGGER USER; UPDATE p SET v = 7 WHERE id > 9"} {
			tests[name+" at "+level] = attack{ddl: g + leaves + "", protect: "g p", first: old(level), work: []string{"UPDATE g SET v = 100 WHERE id = 1", "DELETE FROM p WHERE id = 11", "UPDATE p SET v = 100 WHERE id = 12"}, then: []string{sql}}
		}
	}
	for i, name := range slices.Sorted(maps.Keys(tests)) {
		if !some(i) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tests[name].run(t)
		})
	}
}

// Scenes that the matrix does not have.
func TestScenesOfACritic(t *testing.T) {
	t.Parallel()
	const g = "CREATE TABLE g (id int PRIMARY KEY, v int, u text); INSERT INTO g SELECT i, i, 'u' || i FROM generate_series(1, 4) i;"
	playAll(t, map[string]scene{
		"a FOREIGN KEY that is not valid": {ddl: g + "CREATE TABLE h (id int PRIMARY KEY); ALTER TABLE g ADD FOREIGN KEY (v) REFERENCES h NOT VALID", protect: "g h", script: does("UPDATE g SET u = 'x' WHERE id = 1")},
		"a long key of bytes":             {ddl: "CREATE TABLE g (id bytea PRIMARY KEY, v int); INSERT INTO g SELECT string_agg(sha512(i::text::bytea), ''), 1 FROM generate_series(1, 40) i", protect: "g", script: does("UPDATE g SET v = 2")},
		"a long key of text":              {ddl: "CREATE TABLE g (id text, i2 text, v int, PRIMARY KEY (id, i2)); INSERT INTO g SELECT string_agg(encode(sha512(i::text::bytea), 'base64'), ''), 'x', 1 FROM generate_series(1, 28) i", protect: "g", script: does("UPDATE g SET v = 2")},
		"a column named as ours":          {ddl: "CREATE TABLE g (id int PRIMARY KEY, hf_me text, hf_nth int, hf_holder text, hf_takes int, hf_key int); INSERT INTO g VALUES (1, 'x', 1, 'y', 1, 1)", protect: "g", script: does("UPDATE g SET hf_me = 'z', hf_key = 5", "INSERT INTO g VALUES (2, 'q')")},
		"wide":                            {ddl: "DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE g (id int PRIMARY KEY,' || string_agg('c' || i || ' int DEFAULT ' || i, ',') || ')' FROM generate_series(1, 1500) i); END $$; INSERT INTO g VALUES (1), (2), (3)", protect: "g", script: does("UPDATE g SET c5 = 0", "DELETE FROM g WHERE id = 2", "INSERT INTO g VALUES (5)")},
		"wide partitions":                 {ddl: "DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE g (id int PRIMARY KEY,' || string_agg('c' || i || ' int DEFAULT ' || i, ',') || ') PARTITION BY RANGE (id)' FROM generate_series(1, 1500) i); END $$; CREATE TABLE g1 PARTITION OF g DEFAULT; INSERT INTO g VALUES (1), (2), (3)", protect: "g", script: does("UPDATE g SET c5 = 0", "DELETE FROM g WHERE id = 2", "INSERT INTO g VALUES (5)")},
		"lastval":                         {ddl: "CREATE TABLE g (id serial PRIMARY KEY, v int)", protect: "g", script: does("INSERT INTO g (v) VALUES (1)", "INSERT INTO g SELECT lastval() + 100, 5")},
		"a generated key":                 {ddl: "CREATE TABLE g (a int, id int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY, u text UNIQUE); INSERT INTO g VALUES (1), (2), (3)", protect: "g", script: does("UPDATE g SET a = 7 WHERE a = 1", "DELETE FROM g WHERE a = 2", "INSERT INTO g VALUES (1)")},
	})
}

// What acts in replica mode would act on what a rollback restores.
func TestTablesThatActInReplicaModeAreRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const ddl = `CREATE TABLE g (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE g1 PARTITION OF g DEFAULT; CREATE TABLE h (id int PRIMARY KEY, v int); INSERT INTO g VALUES (1, 1);
		CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v + 1000; RETURN NEW; END $$; CREATE TRIGGER a BEFORE INSERT OR UPDATE ON g FOR EACH ROW EXECUTE FUNCTION f();
		CREATE TRIGGER b BEFORE INSERT OR UPDATE ON h FOR EACH ROW EXECUTE FUNCTION f(); CREATE RULE r AS ON DELETE TO h DO ALSO DELETE FROM g`
	for _, tt := range []struct{ table, alter, back string }{
		{"g", "ALTER TABLE g ENABLE ALWAYS TRIGGER a", "ALTER TABLE g ENABLE TRIGGER a"},
		{"g", "ALTER TABLE g1 ENABLE REPLICA TRIGGER a", "ALTER TABLE g1 ENABLE TRIGGER a"},
		{"h", "ALTER TABLE h ENABLE REPLICA TRIGGER b", "ALTER TABLE h ENABLE TRIGGER b"},
		{"h", "ALTER TABLE h ENABLE ALWAYS RULE r", "ALTER TABLE h ENABLE RULE r"},
	} {
		t.Run(tt.alter, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, ddl+";"+tt.alter)
			refused := func() {
				t.Helper()
				if _, err := undolog.Protect(ctx, d.own, tt.table); !strings.Contains(fmt.Sprint(err), "enabled ALWAYS or REPLICA") {
					t.Fatalf("protected: %v", err)
				}
			}
			refused()
			d.exec(d.own, tt.back)
			if _, err := undolog.Protect(ctx, d.own, "g", "h"); err != nil {
				t.Fatal(err)
			}
			id := newXID()
			l := d.work(id, "INSERT INTO "+tt.table+" VALUES (5, 5)")
			if _, err := d.own.Exec(ctx, tt.alter); sqlState(err) != undolog.SQLStateConflict {
				t.Fatalf("with intents: %v", err)
			}
			d.mustSettle(id, false, l)
			d.exec(d.own, tt.alter)
			refused()
			if _, err := d.arm(newXID(), "READ COMMITTED").conn.Exec(ctx, "INSERT INTO "+tt.table+" VALUES (6, 6)"); sqlState(err) != undolog.SQLStateRefused {
				t.Fatalf("written without capture: %v", err)
			}
		})
	}
}

// A row that breaks a constraint which is NOT VALID could not be put back.
func TestRowsThatCouldNotBePutBackAreRefused(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{"plain": "", "partitioned": " PARTITION BY RANGE (id)"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ddl := "CREATE TABLE g (id int PRIMARY KEY, v int)" + table
			if table != "" {
				ddl += "; CREATE TABLE g1 PARTITION OF g DEFAULT"
			}
			d := newDatabase(t, ddl+"; INSERT INTO g VALUES (1, 1), (2, 2); ALTER TABLE g ADD CHECK (v <> 1) NOT VALID", "g")
			before := d.dump()
			for _, sql := range []string{"UPDATE g SET v = 5", "DELETE FROM g WHERE id = 1"} {
				l := d.arm(newXID(), "READ COMMITTED")
				if _, err := l.conn.Exec(context.Background(), sql); sqlState(err) != undolog.SQLStateRefused {
					t.Errorf("%s: %v", sql, err)
				}
				_ = l.conn.Close(context.Background())
			}
			id := newXID()
			l := d.work(id, "UPDATE g SET v = 6 WHERE id = 2", "INSERT INTO g VALUES (3, NULL)", "DELETE FROM g WHERE id = 3")
			d.mustSettle(id, false, l)
			if after := d.dump(); after != before {
				t.Fatalf("after rollback:\n%s", after)
			}
			d.exec(d.own, "UPDATE g SET v = 5")
		})
	}
}

func TestDomainsThatAreNotValidatedAreRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, "CREATE DOMAIN pos AS int; CREATE DOMAIN more AS pos; CREATE TABLE g (id int PRIMARY KEY, v more); INSERT INTO g VALUES (1, -1)", "g")
	d.exec(d.own, "ALTER DOMAIN pos ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID")
	if _, err := undolog.Protect(ctx, d.own, "g"); !strings.Contains(fmt.Sprint(err), "not validated") {
		t.Fatalf("protected: %v", err)
	}
	d.exec(d.own, "UPDATE g SET v = 1; ALTER DOMAIN pos VALIDATE CONSTRAINT c")
	if _, err := undolog.Protect(ctx, d.own, "g"); err != nil {
		t.Fatal(err)
	}
}

// READ UNCOMMITTED is READ COMMITTED under another name: a waiter may try again.
func TestConflictsAtReadUncommitted(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
	_, err := d.own.Exec(context.Background(), "BEGIN ISOLATION LEVEL READ UNCOMMITTED; UPDATE g SET v = 1 WHERE id = 1")
	if sqlState(err) != undolog.SQLStateConflict {
		t.Error(err)
	}
	d.exec(d.own, "ROLLBACK")
	d.mustSettle(id, false, l)
}

// DDL on one end of a foreign key takes our triggers off both. The other end may
// have a writer that is waited for, and has intents when it is done.
func TestDDLDoesNotTakeTheGuardOffAnOpenNeighbour(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{"ALTER TABLE c ADD x int", "CREATE UNIQUE INDEX ON c (p)", "ALTER TABLE c DROP CONSTRAINT c_p_fkey", "DROP TABLE c", "CREATE TABLE c2 (p int REFERENCES p)"} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, "CREATE TABLE p (id int PRIMARY KEY, v int); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p); INSERT INTO p VALUES (1, 1); INSERT INTO c VALUES (1, 1)", "p", "c")
			before := d.dump()
			l := d.arm(newXID(), "READ COMMITTED")
			l.exec("UPDATE p SET v = 2")
			other := d.connect()
			done := make(chan error, 1)
			go func() { _, err := other.Exec(context.Background(), sql); done <- err }()
			d.awaitLockWait(other)
			l.commit()
			ddl := <-done
			_, err := d.own.Exec(context.Background(), "UPDATE p SET v = 3")
			if sqlState(err) != undolog.SQLStateConflict {
				t.Errorf("dirty write after %v: %v", ddl, err)
			}
			d.mustSettle(l.id, false, l)
			if after := d.dump(); after != before && ddl != nil {
				t.Fatalf("after rollback:\n%s", after)
			}
		})
	}
}

// Our functions know no search_path but their own.
func TestExpressionsThatRestOnTheSearchPathAreRefused(t *testing.T) {
	t.Parallel()
	const funcs = "CREATE FUNCTION inner_(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1'; " +
		"CREATE FUNCTION outer_(text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN RETURN inner_($1); END'; "
	for name, ddl := range map[string]string{
		"index":           "CREATE TABLE g (id int PRIMARY KEY, u text); CREATE UNIQUE INDEX ON g (outer_(u))",
		"predicate":       "CREATE TABLE g (id int PRIMARY KEY, u text); CREATE UNIQUE INDEX ON g (u) WHERE outer_(u) > ''",
		"check":           "CREATE TABLE g (id int PRIMARY KEY, u text CHECK (outer_(u) > ''))",
		"generated":       "CREATE TABLE g (id int PRIMARY KEY, u varchar(9), e text GENERATED ALWAYS AS (outer_(u)) STORED)",
		"domain":          "CREATE DOMAIN d AS text CHECK (outer_(VALUE) > ''); CREATE TABLE g (id int PRIMARY KEY, u d)",
		"partition":       "CREATE TABLE g (id int PRIMARY KEY, u text) PARTITION BY RANGE (id); CREATE TABLE g1 PARTITION OF g (CHECK (outer_(u) > '')) DEFAULT",
		"an odd type":     "CREATE TYPE mood AS ENUM ('lo', 'hi'); CREATE TABLE g (id int PRIMARY KEY, m mood CHECK (outer_(m::text) > ''))",
		"only with a row": "CREATE DOMAIN d AS text CHECK (VALUE ~ '^x+$'); CREATE TABLE g (id int PRIMARY KEY, u d, CHECK (outer_(u) > '')); INSERT INTO g VALUES (1, 'xx')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, funcs+ddl)
			if err := undolog.Install(t.Context(), d.own); err != nil {
				t.Fatal(err)
			}
			_, err := undolog.Protect(t.Context(), d.own, "g")
			if _, ok := errors.AsType[*undolog.NotProtectableError](err); !ok || !strings.Contains(err.Error(), "search_path") {
				t.Fatalf("%v", err)
			}
			d.exec(d.own, "ALTER FUNCTION outer_(text) SET search_path = public")
			d.protect("g")
		})
	}
}

func TestDetachConcurrentlyIsRefused(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, leaves, "p")
	id := newXID()
	l := d.work(id, "UPDATE p SET v = 100 WHERE id > 9")
	// Whether something is undecided at its start says nothing of its end.
	for _, sql := range []string{"ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", `-- it goes
		/* now */ alter table "public"."p" detach /* all */ partition p2
		concurrently`} {
		if _, err := d.own.Exec(context.Background(), sql); sqlState(err) != undolog.SQLStateRefused {
			t.Errorf("%s: %v", sql, err)
		}
	}
	d.mustSettle(id, false, l)
	if n := d.lines("SELECT count(*)::text FROM pg_inherits WHERE inhrelid::regclass::text ~ '^p' AND inhparent = 'p'::regclass AND NOT inhdetachpending"); n != "2" {
		t.Errorf("%s partitions are left", n)
	}
	d.exec(d.own, "CREATE TABLE q (id int) PARTITION BY RANGE (id); CREATE TABLE q1 PARTITION OF q DEFAULT")
	d.exec(d.own, "ALTER TABLE q DETACH PARTITION q1")
	// What only speaks of it is none.
	d.exec(d.own, "ALTER TABLE q ADD COLUMN v text DEFAULT 'p DETACH CONCURRENTLY'")
	if err := undolog.Install(context.Background(), d.own); err != nil {
		t.Error(err)
	}
}

// What any role can do with an XID that it makes up, or reads in an error.
func TestStrangersWithAnXID(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("one that is none", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, rows, "g")
		for _, sql := range []string{"SELECT handfast.arm(repeat('x', 56), gen_random_uuid(), now(), 0)",
			"SELECT set_config('handfast.xid', 'x', true), set_config('handfast.branch', gen_random_uuid()::text, true), set_config('handfast.lxid', pg_current_xact_id()::text, true)"} {
			_, err := d.own.Exec(ctx, "BEGIN;"+sql+"; UPDATE g SET v = 0 WHERE id = 1; COMMIT")
			if sqlState(err) != undolog.SQLStateNotArmed {
				t.Errorf("%s: %v", sql, err)
				d.exec(d.own, "ROLLBACK")
			} else {
				d.exec(d.own, "ROLLBACK")
			}
		}
		if _, err := undolog.Pending(ctx, d.own, 0); err != nil {
			t.Errorf("%v", err)
		}
	})
	t.Run("an error tells none", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t, rows, "g")
		role := "use_" + strings.ToLower(newXID().String()[40:])
		d.exec(d.own, "CREATE ROLE "+role)
		t.Cleanup(func() { d.exec(d.own, "RESET ROLE; DROP OWNED BY "+role+"; DROP ROLE "+role) })
		d.exec(d.own, "GRANT ALL ON g TO "+role)
		id := newXID()
		l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
		d.exec(d.own, "SET ROLE "+role)
		_, err := d.own.Exec(ctx, "UPDATE g SET v = 1 WHERE id = 1")
		if c, ok := undolog.AsConflict(err); !ok || !c.Holder.IsZero() || c.Key == "" || strings.Contains(fmt.Sprintf("%+v", c.Err), id.String()) {
			t.Errorf("a stranger is told: %+v", c)
		}
		d.exec(d.own, "RESET ROLE")
		if err := undolog.Grant(ctx, d.own, role); err != nil {
			t.Fatal(err)
		}
		d.exec(d.own, "SET ROLE "+role)
		_, err = d.own.Exec(ctx, "UPDATE g SET v = 1 WHERE id = 1")
		if c, ok := undolog.AsConflict(err); !ok || c.Holder != id {
			t.Errorf("who may settle is told: %v", err)
		}
		d.exec(d.own, "RESET ROLE")
		d.mustSettle(id, true, l)
	})
}

// What the owner of a table has written does not run with the rights of whoever
// protects the table.
func TestFunctionsOfOthersDoNotRunWithOurRights(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, ddl := range map[string]string{
		"index":     "CREATE TABLE g (id int PRIMARY KEY, u text); CREATE UNIQUE INDEX ON g (f(u))",
		"check":     "CREATE TABLE g (id int PRIMARY KEY, u text CHECK (f(u) > ''))",
		"generated": "CREATE TABLE g (id int PRIMARY KEY, u text, e text GENERATED ALWAYS AS (f(u)) STORED)",
		"domain":    "CREATE DOMAIN d AS text CHECK (f(VALUE) > ''); CREATE TABLE g (id int PRIMARY KEY, u d[])",
		"operator":  "CREATE OPERATOR !!! (RIGHTARG = text, FUNCTION = f); CREATE TABLE g (id int PRIMARY KEY, u text CHECK ((!!! u) > ''))",
		"partition": "CREATE TABLE g (id int PRIMARY KEY, u text) PARTITION BY RANGE (id); CREATE TABLE g1 PARTITION OF g (CHECK (f(u) > '')) DEFAULT",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			role := "own_" + strings.ToLower(newXID().String()[40:])
			d := newDatabase(t, "")
			d.exec(d.own, "CREATE ROLE "+role)
			t.Cleanup(func() { d.exec(d.own, "RESET ROLE; DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role) })
			d.exec(d.own, "GRANT ALL ON SCHEMA public TO "+role+"; SET ROLE "+role+"; CREATE FUNCTION f(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'; "+ddl+"; RESET ROLE")
			if err := undolog.Install(ctx, d.own); err != nil {
				t.Fatal(err)
			}
			_, err := undolog.Protect(ctx, d.own, "g")
			if _, ok := errors.AsType[*undolog.NotProtectableError](err); !ok || !strings.Contains(err.Error(), role) {
				t.Errorf("%v", err)
			}
			d.exec(d.own, "ALTER FUNCTION f(text) OWNER TO CURRENT_USER")
			d.protect("g")
			d.exec(d.own, "SET ROLE "+role)
			if _, err := d.own.Exec(ctx, "CREATE OR REPLACE FUNCTION f(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'"); err == nil {
				t.Error("it is still the owner's to replace")
			}
		})
	}
}

// A foreign table is no less a table.
func TestForeignTablesAreRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, "CREATE TABLE bare (v int); CREATE EXTENSION postgres_fdw")
	cfg := d.own.Config()
	d.exec(d.own, "CREATE SERVER me FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '"+cfg.Host+"', port '"+strconv.Itoa(int(cfg.Port))+"', dbname '"+cfg.Database+"'); CREATE USER MAPPING FOR PUBLIC SERVER me OPTIONS (user '"+cfg.User+"', password '"+cfg.Password+"', password_required 'false'); CREATE FOREIGN TABLE f (v int) SERVER me OPTIONS (table_name 'bare');"+
		"CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)")
	l := d.arm(newXID(), "READ COMMITTED")
	_, err := l.conn.Exec(ctx, "INSERT INTO f VALUES (1)")
	if sqlState(err) != undolog.SQLStateRefused {
		t.Errorf("%v", err)
	}
	d.exec(d.own, "INSERT INTO f VALUES (1)") // a plain session may
}

// What the functions name may be renamed: then they are taken off.
func TestRenamedFunctionsAreNoticed(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows+"; CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'; CREATE UNIQUE INDEX ON g (f(id))", "g")
	d.exec(d.own, "ALTER FUNCTION f(int) RENAME TO f2")
	d.exec(d.own, "UPDATE g SET v = 5 WHERE id = 1")
	l := d.arm(newXID(), "READ COMMITTED")
	if _, err := l.conn.Exec(context.Background(), "UPDATE g SET v = 6 WHERE id = 1"); sqlState(err) != undolog.SQLStateRefused {
		t.Errorf("%v", err)
	}
}

// Large objects have no triggers; the local commit finds out.
func TestLargeObjectsAreRefused(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{"SELECT lo_from_bytea(0, 'x')", "SELECT lo_put(4263, 0, 'y')", "SELECT lo_unlink(4263)", "SELECT lo_get(4263)"} {
		for _, before := range []bool{true, false} {
			if !before && strings.Contains(sql, "4263") {
				continue
			}
			d := newDatabase(t, rows, "g")
			if before {
				d.exec(d.own, "SELECT lo_from_bytea(4263, 'x')")
			}
			l := d.arm(newXID(), "READ COMMITTED")
			l.exec("UPDATE g SET v = 9 WHERE id = 1")
			l.exec(sql)
			if _, err := l.seal(); sqlState(err) != undolog.SQLStateRefused {
				t.Errorf("%s: %v", sql, err)
			}
			l.exec("ROLLBACK")
			id := newXID()
			d.mustSettle(id, false, d.work(id, "UPDATE g SET v = 9 WHERE id = 1"))
			d.exec(d.own, "SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
		}
	}
}

// The worker of a subscription fires no triggers for statements, so its tables
// have some for rows.
func TestTablesOfSubscriptionsAreGuardedByRow(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, rows+"; CREATE TABLE h (id int PRIMARY KEY)", "g", "h")
	byRow := func() (n int) {
		t.Helper()
		if err := d.own.QueryRow(ctx, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'g'::regclass AND tgname LIKE '%handfast__' AND tgtype & 1 = 1").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := byRow(); n != 0 {
		t.Fatalf("%d triggers for rows", n)
	}
	d.exec(d.own, "SET allow_system_table_mods = on; INSERT INTO pg_subscription_rel VALUES (4263, 'g'::regclass, 'r', NULL)")
	d.exec(d.own, "CREATE TABLE any_ddl (v int)") // as CREATE SUBSCRIPTION would be, which needs a publisher
	l := d.arm(newXID(), "READ COMMITTED")
	if _, err := l.conn.Exec(ctx, "UPDATE g SET v = 6 WHERE id = 1"); sqlState(err) != undolog.SQLStateRefused {
		t.Errorf("%v", err)
	}
	l.exec("ROLLBACK")
	if _, err := undolog.ProtectTables(ctx, d.own, nil); err != nil {
		t.Fatal(err)
	}
	if n := byRow(); n != 3 {
		t.Errorf("%d triggers for rows", n)
	}
	d.exec(d.own, "DELETE FROM pg_subscription_rel")
}
