package undolog_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/undolog"
)

// The tables that both tests of refusals try to damage.
const fragile = `CREATE TYPE mood AS ENUM ('low', 'high'); CREATE TYPE pair AS (x int, y int); CREATE DOMAIN small AS int;
	CREATE TABLE g (id int PRIMARY KEY, v int, w text, u text UNIQUE, s small, m mood, c pair);
	INSERT INTO g SELECT i, i, 'w' || i, 'u' || i, i, 'low', ROW(i, i)::pair FROM generate_series(1, 9) i;
	CREATE TABLE bare (v int); INSERT INTO bare VALUES (1); CREATE TABLE free (id int PRIMARY KEY, v int); INSERT INTO free VALUES (1, 1);
	CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
	INSERT INTO p VALUES (1, 1), (2, 2), (11, 11); CREATE TABLE p3 (id int NOT NULL, v int);
	CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent); INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1);
	CREATE VIEW vw AS SELECT * FROM bare; CREATE MATERIALIZED VIEW mat AS SELECT v FROM bare; CREATE SEQUENCE sq; CREATE INDEX idx ON g (v); CREATE SCHEMA other;
	CREATE FUNCTION fn() RETURNS void LANGUAGE sql AS $$ INSERT INTO bare VALUES (9) $$; CREATE FUNCTION ddl() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE made (v int); END $$;
	CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`

var fragileTables = []string{"g", "parent", "child", "p"}

// protectEach goes on where a table can't be protected, for the others.
func (d *database) protectEach(tables ...string) {
	d.t.Helper()
	for _, name := range tables {
		if _, err := undolog.Protect(context.Background(), d.own, name); err != nil {
			d.t.Errorf("protect %s: %v", name, err)
		}
	}
}

// What a global transaction could not undo is refused before it happens, by the
// reason's own SQLSTATE and with a text that a person understands.
func TestGlobalTransactionsAreRefusedWhatTheyCouldNotUndo(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, fragile)
	d.protectEach(fragileTables...)
	before := snapshot(t, d.own)
	for _, sql := range []string{
		// rows without capture
		"INSERT INTO bare VALUES (1)", "UPDATE bare SET v = 2", "DELETE FROM bare", "COPY bare FROM PROGRAM 'echo 1'", "INSERT INTO vw VALUES (3)",
		"MERGE INTO bare USING (VALUES (1)) x (v) ON bare.v = x.v WHEN MATCHED THEN DELETE", "WITH x AS (DELETE FROM bare RETURNING v) UPDATE g SET v = 0 FROM x",
		"SELECT fn()", "DO $$ BEGIN INSERT INTO bare VALUES (1); END $$", "INSERT INTO free VALUES (2, 2) ON CONFLICT (id) DO NOTHING", "UPDATE free SET v = 1 WHERE false",
		// all rows at once
		"TRUNCATE g", "TRUNCATE bare", "TRUNCATE p", "TRUNCATE p1", "TRUNCATE parent CASCADE", "TRUNCATE g, free RESTART IDENTITY",
		// definitions
		"CREATE TABLE n (v int)", "CREATE TABLE n AS SELECT 1 AS v", "SELECT 1 AS v INTO n", "CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (20) TO (30)",
		"ALTER TABLE g ADD x int", "ALTER TABLE g DROP w", "ALTER TABLE g ALTER v TYPE bigint", "ALTER TABLE g RENAME v TO vv", "ALTER TABLE g RENAME TO gg", "ALTER TABLE g SET SCHEMA other",
		"ALTER TABLE g ADD CHECK (v > 0)", "ALTER TABLE g ALTER v SET NOT NULL", "ALTER TABLE g ALTER v SET DEFAULT 5", "ALTER TABLE g DISABLE TRIGGER ALL", "ALTER TABLE bare ADD x int",
		"ALTER TABLE p DETACH PARTITION p2", "ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (20) TO (30)", "DROP TABLE g CASCADE", "DROP TABLE bare CASCADE", "DROP TABLE p2",
		"CREATE INDEX ON g (w)", "CREATE UNIQUE INDEX ON g (w)", "DROP INDEX idx", "CREATE VIEW v2 AS SELECT 1 AS x", "DROP VIEW vw", "CREATE OR REPLACE VIEW vw AS SELECT * FROM bare",
		"REFRESH MATERIALIZED VIEW mat", "CREATE MATERIALIZED VIEW m2 AS SELECT 1 AS x", "CREATE SEQUENCE s2", "ALTER SEQUENCE sq RESTART", "DROP SEQUENCE sq", "CREATE SCHEMA s2", "DROP SCHEMA other",
		"CREATE TYPE t2 AS ENUM ('a')", "ALTER TYPE mood ADD VALUE 'mid'", "ALTER TYPE mood RENAME VALUE 'low' TO 'down'", "ALTER TYPE pair ADD ATTRIBUTE z int", "ALTER DOMAIN small ADD CHECK (VALUE > 0)", "DROP TYPE mood CASCADE",
		"CREATE TRIGGER tr AFTER INSERT ON g FOR EACH ROW EXECUTE FUNCTION nop()", "CREATE RULE r AS ON INSERT TO g DO ALSO NOTHING", "CREATE FUNCTION f2() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION fn()",
		"ALTER TABLE g ENABLE ROW LEVEL SECURITY", "CREATE POLICY pol ON g", "GRANT SELECT ON g TO PUBLIC", "COMMENT ON TABLE g IS 'x'", "DO $$ BEGIN EXECUTE 'DROP TABLE free'; END $$", "SELECT ddl()",
	} {
		// Once as the first statement of the branch, and once after a write.
		for _, first := range []string{"", "UPDATE g SET v = v + 1 WHERE id = 1"} {
			l := d.arm(newXID(), "READ COMMITTED")
			if first != "" {
				l.exec(first)
			}
			_, err := l.conn.Exec(ctx, sql)
			pg, ok := errors.AsType[*pgconn.PgError](err)
			switch {
			case !ok || pg.Code != undolog.SQLStateRefused:
				t.Errorf("after %q: %s: %v, want SQLSTATE %s", first, sql, err, undolog.SQLStateRefused)
			case !strings.Contains(pg.Message, "global transaction"):
				t.Errorf("%s: no reason is given: %s", sql, pg.Message)
			}
			_ = l.conn.Close(ctx)
		}
	}
	if after := snapshot(t, d.own); after != before {
		t.Fatalf("something was written:\n%s", difference(after, before))
	}
	if n := d.litter(); n != 0 {
		t.Fatalf("%d rows of ours are left", n)
	}
	// What is only read or only temporary is nobody's business.
	l := d.arm(newXID(), "READ COMMITTED")
	for _, sql := range []string{"SELECT * FROM bare", "SELECT nextval('sq')", "SET LOCAL work_mem = '1MB'", "LOCK TABLE g IN ROW SHARE MODE", "SELECT * FROM bare FOR UPDATE", "ANALYZE g", "UPDATE g SET v = v + 1 WHERE id = 1"} {
		l.exec(sql)
	}
	l.commit()
	d.mustSettle(l.id, false, l)
}

// What is done to the table of an intent by anybody, so that the intent could
// not be undone, is refused; afterwards it is not.
func TestNothingIsDoneToTablesThatHaveIntents(t *testing.T) {
	t.Parallel()
	const (
		g      = "UPDATE g SET v = NULL, w = NULL, u = 'x', m = 'high', s = 70, c = (7, 7) WHERE id = 1;DELETE FROM g WHERE id IN (2, 3);INSERT INTO g (id) VALUES (50)"
		parted = "UPDATE p SET v = 0 WHERE id = 1;DELETE FROM p WHERE id = 11;INSERT INTO p VALUES (5, 5)"
		family = "INSERT INTO parent VALUES (9);DELETE FROM child"
	)
	tests := map[string]struct {
		work, sql string
		harmless  bool // may also pass, if the rollback is exact all the same
	}{
		"TRUNCATE":                   {work: g, sql: "TRUNCATE g"},
		"TRUNCATE of two":            {work: g, sql: "TRUNCATE free, g"},
		"TRUNCATE of a partition":    {work: parted, sql: "TRUNCATE p1"},
		"TRUNCATE of all partitions": {work: parted, sql: "TRUNCATE p"},
		"TRUNCATE CASCADE":           {work: family, sql: "TRUNCATE parent CASCADE"},
		"DETACH":                     {work: parted, sql: "ALTER TABLE p DETACH PARTITION p1"},
		"DETACH of the deleted":      {work: parted, sql: "ALTER TABLE p DETACH PARTITION p2"},
		"DROP of a partition":        {work: parted, sql: "DROP TABLE p2"},
		"DROP TABLE":                 {work: g, sql: "DROP TABLE g CASCADE"},
		"DROP of all":                {work: parted, sql: "DROP TABLE p"},
		"DROP SCHEMA":                {work: g, sql: "DROP SCHEMA public CASCADE"},
		"DROP TYPE":                  {work: g, sql: "DROP TYPE pair, mood, small CASCADE"},
		"DROP COLUMN":                {work: g, sql: "ALTER TABLE g DROP w"},
		"DROP of a key":              {work: g, sql: "ALTER TABLE g DROP CONSTRAINT g_pkey"},
		"ALTER TYPE":                 {work: g, sql: "ALTER TABLE g ALTER v TYPE smallint"},
		"ALTER TYPE, rewritten":      {work: g, sql: "ALTER TABLE g ALTER v TYPE text USING 'v' || v"},
		"CHECK":                      {work: g, sql: "ALTER TABLE g ADD CHECK (w IS NULL OR id > 3)"},
		"CHECK NOT VALID":            {work: g, sql: "ALTER TABLE g ADD CHECK (id > 3) NOT VALID"},
		"CHECK of a domain":          {work: g, sql: "ALTER DOMAIN small ADD CHECK (VALUE > 3)"},
		"UNIQUE":                     {work: g, sql: "ALTER TABLE g ADD UNIQUE (w)"},
		"UNIQUE index":               {work: "DELETE FROM g WHERE id = 3", sql: "CREATE UNIQUE INDEX ON g ((CASE WHEN id = 3 THEN 4 ELSE id END))"},
		"EXCLUDE":                    {work: g, sql: "ALTER TABLE g ADD EXCLUDE USING btree (s WITH =)"},
		"FOREIGN KEY":                {work: "UPDATE g SET s = NULL", sql: "ALTER TABLE g ADD FOREIGN KEY (s) REFERENCES parent"},
		"FOREIGN KEY to it":          {work: g, sql: "ALTER TABLE free ADD FOREIGN KEY (id) REFERENCES g"},
		"SET NOT NULL":               {work: "UPDATE free SET v = 3;DELETE FROM g WHERE w IS NULL", sql: "ALTER TABLE g ALTER w SET NOT NULL"},
		"SET NOT NULL of all":        {work: parted, sql: "ALTER TABLE p ALTER v SET NOT NULL"},
		"RENAME COLUMN":              {work: g, sql: "ALTER TABLE g RENAME v TO vv", harmless: true},
		"RENAME of a label":          {work: g, sql: "ALTER TYPE mood RENAME VALUE 'low' TO 'down'", harmless: true},
		"attribute of a type":        {work: g, sql: "ALTER TYPE pair ADD ATTRIBUTE z int", harmless: true},
		"attribute of a type, gone":  {work: g, sql: "ALTER TYPE pair DROP ATTRIBUTE y"},
		"ADD COLUMN":                 {work: g, sql: "ALTER TABLE g ADD x int", harmless: true},
		"ADD COLUMN NOT NULL":        {work: g, sql: "ALTER TABLE g ADD x int NOT NULL DEFAULT 5", harmless: true},
		"ADD COLUMN to partitions":   {work: parted, sql: "ALTER TABLE p ADD x int", harmless: true},
		"RENAME":                     {work: g, sql: "ALTER TABLE g RENAME TO gg", harmless: true},
		"SET SCHEMA":                 {work: g, sql: "ALTER TABLE g SET SCHEMA other", harmless: true},
		"CREATE INDEX":               {work: g, sql: "CREATE INDEX ON g (w)", harmless: true},
		"ATTACH":                     {work: parted, sql: "ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (20) TO (30)", harmless: true},
		"CREATE PARTITION":           {work: parted, sql: "CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (20) TO (30)", harmless: true},
		"DEFAULT":                    {work: g, sql: "ALTER TABLE g ALTER v SET DEFAULT 99", harmless: true},
		"VACUUM FULL":                {work: g, sql: "VACUUM FULL g", harmless: true},
		"CLUSTER":                    {work: g, sql: "CLUSTER g USING idx", harmless: true},
		"row level security":         {work: g, sql: "ALTER TABLE g ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", harmless: true},
		"another table":              {work: g, sql: "ALTER TABLE bare ADD x int NOT NULL DEFAULT 1", harmless: true},
	}
	for i, name := range slices.Sorted(maps.Keys(tests)) {
		tt := tests[name]
		if !some(i) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, fragile)
			tables := slices.DeleteFunc(slices.Clone(fragileTables), func(s string) bool {
				// So that one that can't be protected fails only its own cases.
				return (s == "p") != strings.Contains(tt.work, "INTO p VALUES")
			})
			if strings.Contains(tt.work, "free") {
				tables = append(tables, "free")
			}
			if name == "SET NOT NULL" {
				d.exec(d.own, "UPDATE g SET w = NULL WHERE id = 4")
			}
			if name == "FOREIGN KEY" {
				d.exec(d.own, "UPDATE g SET s = 77 WHERE id = 4")
			}
			d.protectEach(tables...)
			if t.Failed() {
				return
			}
			before := snapshot(t, d.own)
			id := newXID()
			l := d.work(id, strings.Split(tt.work, ";")...)
			changed := snapshot(t, d.own)
			_, err := d.own.Exec(context.Background(), tt.sql)
			switch code := sqlState(err); {
			case code == undolog.SQLStateConflict || code == undolog.SQLStateRefused || code == "40001":
				if now := snapshot(t, d.own); now != changed {
					t.Fatalf("refused, and done all the same:\n%s", difference(now, changed))
				}
				d.mustSettle(id, false, l)
				if after := snapshot(t, d.own); after != before {
					t.Fatalf("after rollback:\n%s", difference(after, before))
				}
				if _, err := d.own.Exec(context.Background(), tt.sql); strings.HasPrefix(sqlState(err), "HF") {
					t.Fatalf("still refused: %v", err)
				}
			case err != nil:
				t.Fatalf("neither done nor refused by us: %v", err)
			case !tt.harmless:
				err := d.settle(d.own, id, false, l)
				t.Fatalf("not refused; the rollback says: %v", err)
			default:
				if err := d.settle(d.own, id, false, l); err != nil {
					t.Fatalf("allowed, and then the rollback does not fit: %v", err)
				}
				// Columns may have come, tables may have moved: the rows that were
				// there have to be found again.
				if strings.Count(snapshot(t, d.own), "\n") != strings.Count(before, "\n") {
					t.Fatalf("allowed, and then rows are lost:\n%s", difference(snapshot(t, d.own), before))
				}
			}
		})
	}
}

// A table that can't be guarded is refused when it is to be protected, with the reason.
func TestExclusionConstraintsAreRefusedAtProtect(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := newDatabase(t, `CREATE TABLE a (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
		CREATE TABLE b (id int PRIMARY KEY, r int, EXCLUDE USING btree (r WITH =) WHERE (r > 0)); CREATE TABLE c (id int PRIMARY KEY, r circle, EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE p (id int PRIMARY KEY, r int4range) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT; ALTER TABLE p1 ADD EXCLUDE USING gist (r WITH &&);
		CREATE TABLE ok (id int PRIMARY KEY)`)
	for _, name := range []string{"a", "b", "c", "p"} {
		_, err := undolog.Protect(ctx, d.own, "ok", name)
		no, ok := errors.AsType[*undolog.NotProtectableError](err)
		if !ok || !strings.Contains(no.Reason, "exclusion constraint") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// All or nothing.
	l := d.arm(newXID(), "READ COMMITTED")
	if _, err := l.conn.Exec(ctx, "INSERT INTO ok VALUES (1)"); sqlState(err) != undolog.SQLStateRefused {
		t.Errorf("the table before the refused one was protected: %v", err)
	}
}
