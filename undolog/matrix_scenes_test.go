package undolog_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func does(sql ...string) script { return script{sql: sql} }

// Writes that reach a row by another way than its table.
func TestScenesOfPartitionsAndHeirs(t *testing.T) {
	t.Parallel()
	const parts = `CREATE TABLE p (id int, k int, v text, PRIMARY KEY (k, id)) PARTITION BY RANGE (k);
		CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
		CREATE TABLE p2 (v text, junk int, id int NOT NULL, k int NOT NULL); ALTER TABLE p2 DROP junk; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
		CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (100) PARTITION BY LIST (id); CREATE TABLE p31 PARTITION OF p3 FOR VALUES IN (1, 2, 3); CREATE TABLE p32 PARTITION OF p3 DEFAULT;
		INSERT INTO p SELECT i, k, 'v' || i || k FROM generate_series(1, 5) i, unnest(ARRAY[5, 15, 25]) k`
	playAll(t, map[string]scene{
		"straight to a partition":               {ddl: parts, protect: "p", script: does("UPDATE p2 SET v = 'x' WHERE id < 3", "DELETE FROM p1 WHERE id = 1", "INSERT INTO p2 (id, k, v) VALUES (9, 11, 'n')", "INSERT INTO p1 VALUES (9, 1) ON CONFLICT (k, id) DO UPDATE SET v = 'u'")},
		"straight to a partition of two levels": {ddl: parts, protect: "p", script: does("UPDATE p31 SET v = 'x'", "DELETE FROM p3 WHERE id = 5", "UPDATE p3 SET id = 77 WHERE id = 2", "INSERT INTO p32 VALUES (8, 25, 'n')")},
		"row movement":                          {ddl: parts, protect: "p", script: does("UPDATE p SET k = k + 11 WHERE k IN (5, 15) AND id = 1 OR k = 15 AND id = 4", "UPDATE p SET k = 7 WHERE k = 25 AND id = 3")},
		"row movement there and back":           {ddl: parts, protect: "p", script: does("UPDATE p SET k = 90, v = 'a' WHERE k = 5 AND id = 2", "UPDATE p SET v = 'b' WHERE k = 90", "UPDATE p SET k = 5 WHERE k = 90")},
		"row movement, then back to the key":    {ddl: parts, protect: "p", script: does("UPDATE p SET k = 6 WHERE k = 15 AND id = 2", "INSERT INTO p VALUES (2, 15, 'other')", "DELETE FROM p WHERE k = 6")},
		"COPY to a partition": {ddl: parts, protect: "p", script: script{do: func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.PgConn().CopyFrom(ctx, strings.NewReader("91,25,x\n92,25,y\n"), "COPY p32 (id, k, v) FROM STDIN CSV")
			return err
		}}},
		"a partition that comes later": {ddl: parts, protect: "p", late: "CREATE TABLE p4 (v text, k int NOT NULL, x text, id int NOT NULL); INSERT INTO p4 VALUES ('l', 105, 'x', 1), ('m', 106, 'x', 2); ALTER TABLE p4 DROP x; ALTER TABLE p ATTACH PARTITION p4 FOR VALUES FROM (100) TO (200)",
			script: does("UPDATE p SET v = 'x' WHERE id = 1", "DELETE FROM p4 WHERE id = 2", "UPDATE p SET k = 110 WHERE k = 5 AND id = 2")},
		"a partition that left": {ddl: parts + "; INSERT INTO p VALUES (50, 5, 'x')", protect: "p", late: "ALTER TABLE p DETACH PARTITION p1; DROP TABLE p1", script: does("UPDATE p SET v = 'x' WHERE id = 1", "DELETE FROM p WHERE k = 15")},
		"triggers of partitions": {ddl: parts + `; CREATE TABLE log (what text PRIMARY KEY); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (TG_OP || TG_TABLE_NAME || coalesce(NEW.id, OLD.id)); RETURN NULL; END $$;
			CREATE TRIGGER " a" AFTER INSERT OR UPDATE OR DELETE ON p FOR EACH ROW EXECUTE FUNCTION note()`, protect: "p log", script: does("UPDATE p SET k = k + 11 WHERE k < 20 AND id = 3", "DELETE FROM p WHERE id = 4", "INSERT INTO p VALUES (66, 1, '')")},
		"parent in partitions": {ddl: parts + "; CREATE TABLE c (id int PRIMARY KEY, i int, k int, FOREIGN KEY (k, i) REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE); INSERT INTO c SELECT row_number() OVER (), id, k FROM p",
			protect: "p c", script: does("DELETE FROM p WHERE id = 1", "UPDATE p SET id = 99 WHERE k = 5 AND id = 2", "UPDATE p SET k = 9 WHERE k = 5 AND id = 3")},
		"children in partitions": {ddl: `CREATE TABLE f (id int PRIMARY KEY); INSERT INTO f VALUES (1), (2), (3); CREATE TABLE p (id int PRIMARY KEY, f int REFERENCES f ON DELETE CASCADE, g int DEFAULT 3 REFERENCES f ON DELETE SET DEFAULT) PARTITION BY RANGE (id);
			CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (3); CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1, 1, 2), (2, 2, 1), (3, 1, 1), (4, 3, 2)`, protect: "f p", script: does("DELETE FROM f WHERE id = 1", "INSERT INTO p VALUES (9, 2, 2)", "DELETE FROM f WHERE id = 2")},
		"unique values in partitions": {ddl: "CREATE TABLE p (id int, u text, PRIMARY KEY (id), UNIQUE (id, u)) PARTITION BY HASH (id); CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE p2 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1); CREATE UNIQUE INDEX ON p1 (u); INSERT INTO p SELECT i, 'u' || i FROM generate_series(1, 9) i",
			protect: "p", script: does("UPDATE p SET u = 't' WHERE id = 1", "UPDATE p SET u = 'u1' WHERE id = 3", "UPDATE p SET id = id + 100", "DELETE FROM p WHERE id > 107")},
		"heirs": {ddl: `CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (w int, PRIMARY KEY (id)) INHERITS (a); CREATE TABLE c (x int, PRIMARY KEY (id)) INHERITS (b); INSERT INTO a VALUES (1, 'a'), (2, 'a'); INSERT INTO b VALUES (3, 'b', 1), (4, 'b', 2); INSERT INTO c VALUES (5, 'c', 1, 2), (6, 'c', 3, 4)`,
			protect: "a b c", script: does("UPDATE a SET v = v || '!'", "UPDATE ONLY a SET v = 'only' WHERE id < 3", "DELETE FROM b WHERE id IN (3, 6)", "UPDATE c SET x = NULL", "INSERT INTO c VALUES (7, 'n', 1, 1)", "DELETE FROM ONLY a WHERE id = 1")},
		// Nothing keeps an heir from having a key of its parent.
		"heirs with the same key": {ddl: `CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (PRIMARY KEY (id)) INHERITS (a); INSERT INTO a VALUES (1, 'a'), (2, 'a'); INSERT INTO b VALUES (1, 'b'), (2, 'b')`,
			protect: "a b", script: does("UPDATE a SET v = v || '!' WHERE id = 1", "DELETE FROM b WHERE id = 2", "DELETE FROM ONLY a WHERE id = 1", "INSERT INTO a VALUES (1, 'n')")},
	})
}

func TestScenesOfViewsRulesAndTriggers(t *testing.T) {
	t.Parallel()
	const base = "CREATE TABLE t (id int PRIMARY KEY, v int, w text); INSERT INTO t SELECT i, i, 'w' || i FROM generate_series(1, 6) i; CREATE TABLE log (id int PRIMARY KEY, n int, what text); INSERT INTO log VALUES (1, 0, 'x'), (2, 0, 'y');"
	trigger := func(when, level, body string) string {
		return base + fmt.Sprintf(`CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %s END $$; CREATE TRIGGER " a" %s ON t %s EXECUTE FUNCTION f()`, body, when, level)
	}
	const row, all = "FOR EACH ROW", "FOR EACH STATEMENT"
	playAll(t, map[string]scene{
		"view of a view":                           {ddl: base + "CREATE VIEW a AS SELECT id AS i, v * 2 AS dbl, w FROM t WHERE id > 1; CREATE VIEW b AS SELECT * FROM a WHERE i < 6 WITH CASCADED CHECK OPTION", protect: "t", script: does("UPDATE b SET w = 'b' WHERE i < 4", "DELETE FROM b WHERE i = 5", "INSERT INTO a (i, w) VALUES (9, 'n')")},
		"view of a join":                           {ddl: base + "CREATE VIEW j AS SELECT t.id, t.v, log.what FROM t JOIN log USING (id); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = NEW.v WHERE id = OLD.id; UPDATE log SET what = NEW.what WHERE id = OLD.id; RETURN NEW; END $$; CREATE TRIGGER i INSTEAD OF UPDATE ON j FOR EACH ROW EXECUTE FUNCTION f()", protect: "t log", script: does("UPDATE j SET v = v + 10, what = what || '+'")},
		"rules":                                    {ddl: base + "CREATE RULE r AS ON UPDATE TO t DO ALSO UPDATE log SET n = n + 1 WHERE id = 1; CREATE RULE d AS ON DELETE TO t DO INSTEAD UPDATE t SET w = 'gone' WHERE id = OLD.id", protect: "t log", script: does("UPDATE t SET v = 0 WHERE id < 3", "DELETE FROM t WHERE id = 4")},
		"before row, skips":                        {ddl: trigger("BEFORE INSERT OR UPDATE OR DELETE", row, "IF coalesce(OLD.id, NEW.id) % 2 = 0 THEN RETURN NULL; END IF; IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW;"), protect: "t", script: does("UPDATE t SET v = 0", "DELETE FROM t WHERE id IN (3, 4)", "INSERT INTO t VALUES (11), (12)")},
		"before row, new key":                      {ddl: trigger("BEFORE INSERT OR UPDATE", row, "NEW.id := NEW.id + 100; NEW.w := 'by trigger'; RETURN NEW;"), protect: "t", script: does("UPDATE t SET v = 0 WHERE id < 3", "INSERT INTO t VALUES (7, 7)", "UPDATE t SET v = 1 WHERE id = 101")},
		"before row, elsewhere":                    {ddl: trigger("BEFORE UPDATE OR DELETE", row, "UPDATE log SET n = n + 1; IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW;"), protect: "t log", script: does("UPDATE t SET v = 0 WHERE id < 4", "DELETE FROM t WHERE id = 1")},
		"before statement":                         {ddl: trigger("BEFORE UPDATE", all, "UPDATE log SET n = n + 1; INSERT INTO log SELECT max(id) + 1 FROM log; RETURN NULL;"), protect: "t log", script: does("UPDATE t SET v = 0 WHERE id < 4", "UPDATE t SET v = 1 WHERE false")},
		"after row, same row":                      {ddl: trigger("AFTER UPDATE OR INSERT", row+" WHEN (pg_trigger_depth() < 1)", "UPDATE t SET v = v * 10, w = 'after' WHERE id = NEW.id; RETURN NULL;"), protect: "t", script: does("UPDATE t SET v = v + 1", "INSERT INTO t VALUES (7, 7), (8, 8)")},
		"after row, other row of the statement":    {ddl: trigger("AFTER UPDATE", row+" WHEN (pg_trigger_depth() < 1)", "UPDATE t SET v = v * 10 WHERE id <> NEW.id; RETURN NULL;"), protect: "t", script: does("UPDATE t SET v = v + 1")},
		"after row, deletes rows of the statement": {ddl: trigger("AFTER UPDATE", row+" WHEN (pg_trigger_depth() < 1)", "DELETE FROM t WHERE id = 7 - NEW.id; RETURN NULL;"), protect: "t", script: does("UPDATE t SET v = v + 1")},
		"after row, puts deleted rows back":        {ddl: trigger("AFTER DELETE", row+" WHEN (pg_trigger_depth() < 1)", "INSERT INTO t SELECT 7 - OLD.id, 99, 'back' ON CONFLICT DO NOTHING; RETURN NULL;"), protect: "t", script: does("DELETE FROM t")},
		"after row, moves keys of the statement":   {ddl: trigger("AFTER UPDATE", row+" WHEN (pg_trigger_depth() < 1 AND NEW.id < 4)", "UPDATE t SET id = id + 100 WHERE id = NEW.id + 3; RETURN NULL;"), protect: "t", script: does("UPDATE t SET v = v + 1")},
		"after row, recursion":                     {ddl: trigger("AFTER UPDATE", row+" WHEN (NEW.v < 50)", "UPDATE t SET v = v * 2 WHERE id = NEW.id; RETURN NULL;"), protect: "t", script: does("UPDATE t SET v = v + 1 WHERE id < 5")},
		"after row, exception":                     {ddl: trigger("AFTER UPDATE", row+" WHEN (pg_trigger_depth() < 1)", "BEGIN UPDATE log SET n = n + 1; UPDATE t SET v = -1 WHERE id = NEW.id; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN UPDATE log SET what = 'caught'; END; RETURN NULL;"), protect: "t log", script: does("UPDATE t SET v = v + 1")},
		"after statement, transition tables": {ddl: base + `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log SELECT n.id + 10, n.v - o.v, o.w || n.w FROM n JOIN o USING (id); UPDATE t SET w = 'st' WHERE id IN (SELECT id FROM n); RETURN NULL; END $$;
			CREATE TRIGGER " a" AFTER UPDATE ON t REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT WHEN (pg_trigger_depth() < 1) EXECUTE FUNCTION f()`, protect: "t log", script: does("UPDATE t SET v = v + 1 WHERE id < 4")},
		"a deferred trigger that writes": {ddl: base + `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE log SET n = n + 1 WHERE id = 1; RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()`, protect: "t log", script: does("UPDATE t SET v = v + 1 WHERE id < 4")},
		"triggers that call each other": {ddl: base + `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE log SET n = n + 1 WHERE id = 1 + NEW.id % 2; RETURN NULL; END $$; CREATE TRIGGER a AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();
			CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n < 3 THEN UPDATE t SET v = v + 100 WHERE id = NEW.id; END IF; RETURN NULL; END $$; CREATE TRIGGER b AFTER UPDATE ON log FOR EACH ROW EXECUTE FUNCTION g()`, protect: "t log", script: does("UPDATE t SET w = 'x' WHERE id IN (3, 4)", "UPDATE t SET w = 'y'")},
		"suppress_redundant_updates": {ddl: base + "CREATE TRIGGER z BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", protect: "t", script: does("UPDATE t SET v = 1", "UPDATE t SET v = 1")},
	})
}

// Foreign keys: every action, every timing, both directions.
func TestScenesOfForeignKeys(t *testing.T) {
	t.Parallel()
	for i, timing := range []string{"", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"} {
		for j, action := range []string{"NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"} {
			if !some(i + j) {
				continue
			}
			t.Run(action+" "+timing, func(t *testing.T) {
				t.Parallel()
				on := fmt.Sprintf("ON DELETE %s ON UPDATE %s %s", action, action, timing)
				c := course{protect: "p c g", ddl: fmt.Sprintf(`CREATE TABLE p (id int PRIMARY KEY, a int DEFAULT 0, b text DEFAULT 'z', v int, UNIQUE (b, a));
					CREATE TABLE c (id int PRIMARY KEY, p int DEFAULT 99 REFERENCES p %[1]s, a int DEFAULT 0, b text DEFAULT 'z', CONSTRAINT two FOREIGN KEY (a, b) REFERENCES p (a, b) %[1]s);
					CREATE TABLE g (id int PRIMARY KEY, c int DEFAULT 99 REFERENCES c %[1]s, up int REFERENCES g %[1]s)`, on),
					fill: `INSERT INTO p VALUES (99, 0, 'z', 0); INSERT INTO p SELECT i, i, 'b' || i, i FROM generate_series(1, 6) i;
					INSERT INTO c VALUES (99, 99, 0, 'z'); INSERT INTO c SELECT i, 1 + i % 4, 1 + i % 3, 'b' || (1 + i % 3) FROM generate_series(1, 8) i; INSERT INTO c VALUES (20, NULL, NULL, NULL);
					INSERT INTO g SELECT i, 1 + i % 8, NULLIF(i - 1, 0) FROM generate_series(1, 9) i`,
					scripts: []script{
						{name: "children first", sql: []string{"DELETE FROM g", "DELETE FROM c WHERE p = 1 OR a = 1", "DELETE FROM p WHERE id = 1"}},
						{name: "new parent, new children", sql: []string{"INSERT INTO p VALUES (7, 7, 'b7')", "INSERT INTO c VALUES (30, 7, 7, 'b7')", "INSERT INTO g VALUES (30, 30, 30), (31, 30, 30)"}},
						{name: "children move", sql: []string{"INSERT INTO p VALUES (7, 7, 'b7')", "UPDATE c SET p = 7, a = 7, b = 'b7' WHERE p = 1", "UPDATE g SET up = id", "UPDATE c SET p = NULL WHERE id = 5"}},
						{name: "children move, parent goes", sql: []string{"UPDATE c SET p = 5 WHERE p = 1", "UPDATE c SET a = 5, b = 'b5' WHERE a = 1", "DELETE FROM p WHERE id = 1", "UPDATE p SET id = 70 WHERE id = 6"}},
						{name: "parent comes back", sql: []string{"UPDATE c SET p = 5 WHERE p = 4", "DELETE FROM p WHERE id = 4", "INSERT INTO p VALUES (4, 4, 'b4', 4)", "UPDATE c SET p = 4 WHERE p = 5"}},
					}}
				if action != "NO ACTION" && action != "RESTRICT" {
					c.scripts = append(c.scripts,
						script{name: "parent deleted", sql: []string{"DELETE FROM p WHERE id = 1"}},
						script{name: "all parents but one deleted", sql: []string{"DELETE FROM p WHERE id < 99"}},
						script{name: "parent deleted, children changed before", sql: []string{"UPDATE c SET id = id + 100 WHERE id < 4", "DELETE FROM p WHERE id < 3", "UPDATE p SET v = 5"}},
						script{name: "key of the parent", sql: []string{"UPDATE p SET id = id + 10 WHERE id < 5"}},
						script{name: "both keys of the parent", sql: []string{"UPDATE p SET id = id + 10, a = a + 10, b = b || '!' WHERE id < 5", "UPDATE p SET v = 0"}},
						script{name: "key there and back", sql: []string{"UPDATE p SET id = 50 WHERE id = 2", "DELETE FROM c WHERE id = 3", "UPDATE p SET id = 2 WHERE id = 50"}},
						script{name: "middle deleted", sql: []string{"DELETE FROM c WHERE id < 6", "DELETE FROM g WHERE id = 2"}})
				}
				if action != "RESTRICT" && strings.HasSuffix(timing, "DEFERRED") {
					c.scripts = append(c.scripts,
						script{name: "child before its parent", sql: []string{"INSERT INTO g VALUES (40, 40, 41), (41, 40, 40)", "INSERT INTO c VALUES (40, 40, 40, 'b40')", "INSERT INTO p VALUES (40, 40, 'b40', 0)"}})
				}
				c.run(t)
			})
		}
	}
	playAll(t, map[string]scene{
		"a cycle": {ddl: `CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
			ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED;
			BEGIN; INSERT INTO a VALUES (1, 1), (2, 2), (3, 1); INSERT INTO b VALUES (1, 2), (2, 1), (3, 3); COMMIT`, protect: "a b",
			script: does("UPDATE a SET id = 10 WHERE id = 1", "DELETE FROM a WHERE id = 3", "INSERT INTO a VALUES (7, 7)", "INSERT INTO b VALUES (7, 7)", "DELETE FROM b WHERE id = 1")},
		"a cycle that is not deferrable": {ddl: `CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE SET NULL); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE SET NULL;
			INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1, 2), (2, 1); UPDATE a SET b = id`, protect: "a b",
			script: does("DELETE FROM a WHERE id = 1", "DELETE FROM b WHERE id = 2", "WITH x AS (INSERT INTO a VALUES (5, 5)) INSERT INTO b VALUES (5, 5)")},
		"a tree deleted by its root": {ddl: "CREATE TABLE n (id int PRIMARY KEY, up int REFERENCES n ON DELETE CASCADE ON UPDATE CASCADE, v text); INSERT INTO n SELECT i, NULLIF(i / 2, 0), 'n' || i FROM generate_series(1, 31) i", protect: "n",
			script: does("UPDATE n SET v = 'x' WHERE id % 3 = 0", "DELETE FROM n WHERE id = 2", "UPDATE n SET id = 100 WHERE id = 3", "DELETE FROM n WHERE id = 1")},
		"a diamond": {ddl: `CREATE TABLE r (id int PRIMARY KEY); CREATE TABLE x (id int PRIMARY KEY, r int REFERENCES r ON DELETE CASCADE); CREATE TABLE y (id int PRIMARY KEY, r int REFERENCES r ON DELETE CASCADE);
			CREATE TABLE z (id int PRIMARY KEY, x int REFERENCES x ON DELETE CASCADE, y int REFERENCES y ON DELETE SET NULL); INSERT INTO r VALUES (1), (2); INSERT INTO x VALUES (1, 1), (2, 2); INSERT INTO y VALUES (1, 1), (2, 2); INSERT INTO z VALUES (1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2)`, protect: "r x y z", script: does("DELETE FROM r WHERE id = 1")},
		"SET NULL of some columns": {ddl: "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE c (id int PRIMARY KEY, a int NOT NULL, b int, FOREIGN KEY (a, b) REFERENCES p ON DELETE SET NULL (b)); INSERT INTO p VALUES (1, 1), (1, 2); INSERT INTO c VALUES (1, 1, 1), (2, 1, 2)", protect: "p c", script: does("DELETE FROM p WHERE b = 1")},
		"MATCH FULL":               {ddl: "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE c (id int PRIMARY KEY, a int, b int, FOREIGN KEY (b, a) REFERENCES p (b, a) MATCH FULL ON DELETE SET NULL ON UPDATE CASCADE); INSERT INTO p VALUES (1, 1), (1, 2); INSERT INTO c VALUES (1, 1, 1), (2, 1, 2), (3, NULL, NULL)", protect: "p c", script: does("DELETE FROM p WHERE b = 1", "UPDATE p SET a = 5", "UPDATE c SET a = 5, b = 2 WHERE id = 3")},
		"types that differ":        {ddl: "CREATE TABLE p (id numeric PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p bigint REFERENCES p ON DELETE CASCADE); INSERT INTO p VALUES (1.00), (2.0); INSERT INTO c VALUES (1, 1), (2, 2)", protect: "p c", script: does("DELETE FROM p WHERE id = 1", "UPDATE p SET id = 2.000", "INSERT INTO c VALUES (3, 2)")},
		"triggers beside cascades": {ddl: `CREATE TABLE p (id int PRIMARY KEY, n int DEFAULT 0); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE); INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 1), (3, 2);
			CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE p SET n = n + 1 WHERE id IN (OLD.p, 2); RETURN NULL; END $$; CREATE TRIGGER a AFTER UPDATE OR DELETE ON c FOR EACH ROW EXECUTE FUNCTION f()`, protect: "p c", script: does("UPDATE p SET id = 10 WHERE id = 1", "DELETE FROM p WHERE id = 10", "DELETE FROM c")},
	})
}
