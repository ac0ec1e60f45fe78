package undolog_test

import (
	"testing"
)

// Whatever a global transaction did, rolling it back leaves every row as it
// was, and committing it leaves what plain Postgres would have left.
func TestRollbackIsExactAndCommitKeeps(t *testing.T) {
	t.Parallel()
	const accounts = `CREATE TABLE accounts (id int PRIMARY KEY, email text UNIQUE, balance numeric(12,2), note text);
		INSERT INTO accounts VALUES (1, 'a@x', 10.00, NULL), (2, 'b@x', 20.50, ''), (3, NULL, 0, 'three')`
	tests := map[string]struct {
		ddl     string
		tables  []string
		actions []string
	}{
		"update":                   {accounts, []string{"accounts"}, []string{"UPDATE accounts SET balance = balance - 1, note = 'x' WHERE id < 3"}},
		"update to NULL and back":  {accounts, []string{"accounts"}, []string{"UPDATE accounts SET note = NULL", "UPDATE accounts SET note = 'z' WHERE id = 1"}},
		"update of nothing":        {accounts, []string{"accounts"}, []string{"UPDATE accounts SET note = note"}},
		"insert":                   {accounts, []string{"accounts"}, []string{"INSERT INTO accounts VALUES (4, 'd@x', 4, NULL), (5, NULL, NULL, NULL)"}},
		"delete":                   {accounts, []string{"accounts"}, []string{"DELETE FROM accounts WHERE id <> 2"}},
		"delete and insert again":  {accounts, []string{"accounts"}, []string{"DELETE FROM accounts WHERE id = 1", "INSERT INTO accounts VALUES (1, 'new', 1, 'n')"}},
		"insert and delete":        {accounts, []string{"accounts"}, []string{"INSERT INTO accounts VALUES (9)", "DELETE FROM accounts WHERE id = 9"}},
		"primary key changed":      {accounts, []string{"accounts"}, []string{"UPDATE accounts SET id = 7 WHERE id = 1", "UPDATE accounts SET note = 'moved' WHERE id = 7"}},
		"primary keys rotated":     {accounts, []string{"accounts"}, []string{"UPDATE accounts SET id = 10 WHERE id = 1", "UPDATE accounts SET id = 1 WHERE id = 2", "UPDATE accounts SET id = 2 WHERE id = 10"}},
		"unique values swapped":    {accounts, []string{"accounts"}, []string{"UPDATE accounts SET email = 't' WHERE id = 1", "UPDATE accounts SET email = 'a@x' WHERE id = 2", "UPDATE accounts SET email = 'b@x' WHERE id = 1"}},
		"on conflict do update":    {accounts, []string{"accounts"}, []string{"INSERT INTO accounts VALUES (1, 'q', 1, 'q'), (8, 'r', 1, 'r') ON CONFLICT (id) DO UPDATE SET note = EXCLUDED.note"}},
		"on conflict do nothing":   {accounts, []string{"accounts"}, []string{"INSERT INTO accounts VALUES (1, 'q', 1, 'q'), (8, 'r', 1, 'r') ON CONFLICT DO NOTHING"}},
		"data-modifying CTE":       {accounts, []string{"accounts"}, []string{"WITH gone AS (DELETE FROM accounts WHERE id = 1 RETURNING *) INSERT INTO accounts SELECT id + 100, email, balance, note FROM gone"}},
		"many changes of one row":  {accounts, []string{"accounts"}, []string{"UPDATE accounts SET balance = 1 WHERE id = 1", "UPDATE accounts SET balance = 2 WHERE id = 1", "UPDATE accounts SET balance = 3, email = 'n' WHERE id = 1"}},
		"savepoint in the middle":  {accounts, []string{"accounts"}, []string{"SAVEPOINT a", "UPDATE accounts SET note = 'lost' WHERE id = 1", "ROLLBACK TO a", "UPDATE accounts SET note = 'kept' WHERE id = 2"}},
		"composite key":            {`CREATE TABLE lines (ord bigint, pos smallint, sku text, PRIMARY KEY (pos, ord)); INSERT INTO lines VALUES (1, 1, 'a'), (1, 2, 'b'), (2, 1, 'c')`, []string{"lines"}, []string{"UPDATE lines SET sku = 'z' WHERE ord = 1", "DELETE FROM lines WHERE ord = 1 AND pos = 2", "INSERT INTO lines VALUES (3, 1, 'n')"}},
		"text key with separators": {`CREATE TABLE k (a text, b text, v int, PRIMARY KEY (a, b)); INSERT INTO k VALUES ('x;y', 'z', 1), ('x', 'y;z', 2), ('x_y', '', 3), ('''quo"ted\', '{},NULL', 4), ('', 'é ✓', 5)`, []string{"k"}, []string{"UPDATE k SET v = v * 10", "DELETE FROM k WHERE v > 30"}},
		"uuid key":                 {`CREATE TABLE u (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), v int); INSERT INTO u (v) SELECT g FROM generate_series(1, 5) g`, []string{"u"}, []string{"UPDATE u SET v = v + 1", "DELETE FROM u WHERE v = 3", "INSERT INTO u (v) VALUES (9)"}},
		"mixed case and keywords":  {`CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Order" ("Select" int PRIMARY KEY, "from" text UNIQUE, "we""ird" text); INSERT INTO "My Schema"."Order" VALUES (1, 'a', 'b')`, []string{`"My Schema"."Order"`}, []string{`UPDATE "My Schema"."Order" SET "from" = 'c', "we""ird" = NULL`, `INSERT INTO "My Schema"."Order" VALUES (2, 'a', 'x')`}},
		"large values":             {`CREATE TABLE big (id int PRIMARY KEY, doc text, n int); INSERT INTO big SELECT g, repeat(md5(g::text), 32768), g FROM generate_series(1, 3) g`, []string{"big"}, []string{"UPDATE big SET n = n + 1", "UPDATE big SET doc = doc || '!' WHERE id = 1", "DELETE FROM big WHERE id = 2"}},
		"identity and generated":   {`CREATE TABLE g (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO g (a) VALUES (1), (2)`, []string{"g"}, []string{"UPDATE g SET a = a + 1", "DELETE FROM g WHERE a = 3", "INSERT INTO g (a) VALUES (7)"}},
		"dropped and added column": {`CREATE TABLE c (id int PRIMARY KEY, gone text, v text); ALTER TABLE c DROP COLUMN gone; ALTER TABLE c ADD w int DEFAULT 5; INSERT INTO c VALUES (1, 'a', 5), (2, 'b', 6)`, []string{"c"}, []string{"UPDATE c SET v = 'z'", "DELETE FROM c WHERE id = 2", "INSERT INTO c VALUES (3)"}},
		"types that settings change": {`CREATE TABLE y (id timestamptz PRIMARY KEY, d date, i interval, f float8, r float4, a int[], m money, b bytea, j jsonb);
			INSERT INTO y VALUES ('2024-02-29 12:00:00.123456+05:30', '0044-03-15 BC', '1 mon -2 days 03:04:05.6', 0.1::float8 + 0.2, 'NaN', '[2:3]={1,NULL}', 12.34, '\xdeadbeef', '{"a": 1.10}'),
			('infinity', '-infinity', '-1 day', 'Infinity', -0.0, '{}', 0, '', 'null')`, []string{"y"},
			[]string{"SET LOCAL DateStyle = 'SQL, DMY'", "SET LOCAL IntervalStyle = 'iso_8601'", "SET LOCAL extra_float_digits = -5", "SET LOCAL TimeZone = 'Asia/Kolkata'", "UPDATE y SET d = d + 1, f = f * 3, i = i * 2, a = a || 1", "DELETE FROM y WHERE id < 'infinity'"}},
		"another TimeZone and bytea_output": {`CREATE TABLE z (id int PRIMARY KEY, ts timestamptz, b bytea); INSERT INTO z VALUES (1, now(), '\xbeef')`, []string{"z"},
			[]string{"SET LOCAL TimeZone = 'Asia/Kolkata'", "SET LOCAL bytea_output = 'escape'", "UPDATE z SET ts = ts + '1 day', b = '\\x00ff'"}},
		"a collation that ignores case": {`CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
			CREATE TABLE i (k text COLLATE ci PRIMARY KEY, v text COLLATE ci); INSERT INTO i VALUES ('Ab', 'x')`, []string{"i"},
			[]string{"UPDATE i SET k = 'aB', v = 'X'", "UPDATE i SET v = 'y' WHERE k = 'AB'"}},
		"trailing blanks": {`CREATE TABLE c (id int PRIMARY KEY, a bpchar, b char(5)); INSERT INTO c VALUES (1, 'a   ', 'b'), (2, 'c  ', 'd')`, []string{"c"},
			[]string{"UPDATE c SET a = 'a' WHERE id = 1", "DELETE FROM c WHERE id = 2"}},
		"keys without a hash function": {`CREATE TABLE h (a money[], b bit(3), PRIMARY KEY (a, b)); INSERT INTO h VALUES ('{1.50}', '101'), ('{}', '000')`, []string{"h"},
			[]string{"UPDATE h SET b = '111' WHERE b = '101'", "DELETE FROM h WHERE b = '000'"}},
		"domains over domains": {`CREATE DOMAIN d1 AS numeric; CREATE DOMAIN d2 AS d1; CREATE TABLE d (id d2 PRIMARY KEY, v d2 UNIQUE); INSERT INTO d VALUES (1.0, 2.0)`, []string{"d"},
			[]string{"UPDATE d SET id = 1.00, v = 3", "DELETE FROM d"}},
		"index on a function of the user": {`CREATE FUNCTION nrm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)'; CREATE TYPE st AS ENUM ('o', 'c');
			CREATE TABLE f (id int PRIMARY KEY, v text, s st); CREATE UNIQUE INDEX ON f (nrm(v)) WHERE s = 'o'; INSERT INTO f VALUES (1, 'a', 'o'), (2, 'b', 'c')`, []string{"f"},
			[]string{"UPDATE f SET v = 'z' WHERE id = 1", "UPDATE f SET s = 'o' WHERE id = 2"}},
		"key type of an extension": {`CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE TABLE x (id ext.citext PRIMARY KEY, v int); INSERT INTO x VALUES ('Ann', 1), ('Bob', 2)`, []string{"x"},
			[]string{"UPDATE x SET v = 3", "UPDATE x SET id = 'aNN' WHERE v = 3 AND id::text = 'Ann'", "DELETE FROM x WHERE id::text = 'Bob'"}},
		"a trigger of the user": {accounts + `; CREATE TABLE log (n bigserial PRIMARY KEY, what text);
			CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log (what) VALUES (TG_OP || coalesce(NEW.id, OLD.id)); UPDATE accounts SET note = 'touched' WHERE id = 3 AND note <> 'touched'; RETURN NULL; END $$;
			CREATE TRIGGER " a" AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW WHEN (pg_trigger_depth() < 1) EXECUTE FUNCTION note()`,
			[]string{"accounts", "log"}, []string{"UPDATE accounts SET balance = 0 WHERE id = 1", "DELETE FROM accounts WHERE id = 2"}},
		"cascades": {`CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, q int REFERENCES parent ON DELETE SET NULL);
			INSERT INTO parent VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO child VALUES (1, 1, 2), (2, 1, 3), (3, 3, 1)`,
			[]string{"parent", "child"}, []string{"DELETE FROM parent WHERE id = 1", "UPDATE parent SET id = 30 WHERE id = 3"}},
		"unique index on an expression": {`CREATE TABLE e (id int PRIMARY KEY, name text, live bool); CREATE UNIQUE INDEX e_name ON e (lower(name)) WHERE live; INSERT INTO e VALUES (1, 'Ann', true), (2, 'ANN', false), (3, 'Bob', true)`,
			[]string{"e"}, []string{"UPDATE e SET name = 'Zoe' WHERE id = 1", "UPDATE e SET live = true WHERE id = 2", "DELETE FROM e WHERE id = 3"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, tt.ddl, tt.tables...)
			before := d.dump()
			id := newXID()
			l := d.work(id, tt.actions...)
			changed := d.dump()
			if changed == before && len(tt.actions) == 1 && name != "update of nothing" {
				t.Fatal("the statements changed nothing")
			}
			d.mustSettle(id, false, l)
			if after := d.dump(); after != before {
				t.Fatalf("after rollback:\n%s\nbefore:\n%s", after, before)
			}
			id = newXID()
			l = d.work(id, tt.actions...)
			after := d.dump()
			d.mustSettle(id, true, l)
			if now := d.dump(); now != after {
				t.Fatalf("after commit:\n%s\nwant:\n%s", now, after)
			}
			if n := d.litter(); n != 0 {
				t.Fatalf("%d rows of ours are left", n)
			}
		})
	}
}

// Two branches of one XID on one row are undone together, newest change first,
// whatever the order in which they are named.
func TestBranchesOfOneXIDAreSettledTogether(t *testing.T) {
	t.Parallel()
	for name, commit := range map[string]bool{"rollback": false, "commit": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, "CREATE TABLE r (id int PRIMARY KEY, v int); INSERT INTO r VALUES (1, 0)", "r")
			before := d.dump()
			id := newXID()
			first := d.work(id, "UPDATE r SET v = 1 WHERE id = 1")
			second := d.work(id, "UPDATE r SET v = 2 WHERE id = 1")
			third := d.work(id, "DELETE FROM r")
			after := d.dump()
			d.mustSettle(id, commit, second, third, first)
			want := before
			if commit {
				want = after
			}
			if got := d.dump(); got != want {
				t.Fatalf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
