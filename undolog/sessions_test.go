package undolog_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/handfast/handfast/undolog"
)

// The names are those that generated code would like to use itself, and those
// that end a quotation of any kind.
var awkward = []string{
	"Select", "from", `we""ird`, "a'b", "$1", "é ✓", "new", "old", "k", "k2", "me", "gates", "h", "cols", "olds", "news", "t", "r", "u", "c", "xid", "tg_op", "user", "end", "%I %s %%",
	"$handfast$", "x; -- ", "/* ", "line\nbreak", `back\slash`, `b\'s`, "{,}", " lead", strings.Repeat("n", 63), "$f$", "excluded", "value", "seq", "tab", "is_now", "was", "p", "f", "o", "n", "keyed", "same", "cmd",
}

func TestAwkwardNames(t *testing.T) {
	t.Parallel()
	for i, name := range awkward {
		if !some(i) {
			continue
		}
		t.Run(strings.ReplaceAll(name, "/", "|"), func(t *testing.T) {
			t.Parallel()
			q := `"` + name + `"`
			short := name[:min(len(name), 30)]
			// The same name for everything that has one.
			ddl := strings.NewReplacer("{}", q, "{i}", `"i_`+short+`"`, "{f}", `"f_`+short+`"`, "{v}", strings.ReplaceAll(strings.ReplaceAll(name, `""`, `"`), "'", "''")).Replace(
				`CREATE SCHEMA {}; CREATE SCHEMA more; CREATE TYPE more.{} AS ENUM ('{v}', 'other'); CREATE TABLE {}.{} ({} int PRIMARY KEY, v2 text UNIQUE, e more.{}, "V3" more.{}[], g int GENERATED ALWAYS AS ({} * 2) STORED);
				CREATE UNIQUE INDEX {i} ON {}.{} (lower(v2)) WHERE {} > 0; ALTER TABLE {}.{} RENAME v2 TO "v 2"; CREATE TABLE {}.child (id int PRIMARY KEY, {} int, CONSTRAINT {f} FOREIGN KEY ({}) REFERENCES {}.{} ON DELETE CASCADE);
				INSERT INTO {}.{} SELECT i, 'v' || i, '{v}' FROM generate_series(1, 4) i; INSERT INTO {}.child SELECT i, i FROM generate_series(1, 4) i`)
			d := newStage(t, ddl)
			table := q + "." + q
			s := does("UPDATE "+table+` SET "v 2" = "v 2" || '!' WHERE `+q+" < 3", "UPDATE "+table+" SET "+q+" = 50 WHERE "+q+" = 4 AND false", "DELETE FROM "+table+" WHERE "+q+" = 2",
				"INSERT INTO "+table+" VALUES (9, 'v9', 'other', '{other,NULL}')", "INSERT INTO "+q+".child VALUES (9, 9)", "UPDATE "+table+` SET e = NULL, "V3" = NULL`)
			plain, err := d.plainly(s)
			if err != nil {
				t.Fatalf("the case itself is wrong: %v", err)
			}
			d.protect(table, q+".child")
			d.judge(s, plain)
			id := newXID()
			l := d.work(id, "DELETE FROM "+table+" WHERE "+q+" = 1")
			for _, off := range []string{"on", "off"} {
				other := d.connect() // which has not compiled anything yet
				d.exec(other, "SET standard_conforming_strings = "+off)
				_, err = other.Exec(context.Background(), "INSERT INTO "+table+" VALUES (1, 'z')")
				if c, ok := undolog.AsConflict(err); !ok || c.Holder != id {
					t.Fatalf("standard_conforming_strings %s: the conflict does not name its holder: %v", off, err)
				}
			}
			d.mustSettle(id, false, l)
		})
	}
}

// Whatever a session has set, the images say the same, and whatever the session
// that settles has set, they are read the same.
func TestSettingsOfASessionChangeNothing(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE SCHEMA evil; CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('lo', 'hi'); CREATE TYPE app.pair AS (d date, x xml, r regclass);
		CREATE TABLE app.t (id timestamptz PRIMARY KEY, n int UNIQUE, d date, i interval, f float8, r float4, a int[], s text[], m money, b bytea, x xml, c regclass, y regtype, e app.mood, p app.pair, o app.mood[], ts tsrange, q jsonb, tz timetz, v bpchar, k "char", g text GENERATED ALWAYS AS (n || '!') STORED);
		INSERT INTO app.t VALUES ('2024-02-29 12:00:00.123456+05:30', 1, '0044-03-15 BC', '1 mon -2 days 03:04:05.6', 0.1::float8 + 0.2, 'NaN', '[2:3]={1,NULL}', '{NULL,"NULL","",é}', 12.34, '\xdeadbeef', '<a/><b/>', 'app.t', 'app.mood', 'hi', ROW('0044-03-15 BC', 'plain', 'app.t')::app.pair, '{hi,NULL}', '[2024-01-02,infinity)', '{"a": 1.10}', '12:00+05:30', 'a  ', 'z'),
			('infinity', 2, '-infinity', '-1 day -00:00:00.1', 1e-300, -0.0, '{}', '{}', 0, '', '', 'pg_class', 'int[]', 'lo', NULL, '{}', 'empty', 'null', '24:00-3', '', ''),
			('0001-01-01 00:00:00 BC', 3, '2024-02-03', '178000000 years', 'Infinity', 16777217, '{{1},{2}}', '{a}', -1, '\\', 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL); INSERT INTO app.t (id, n) VALUES ('2024-01-01', 4);
		CREATE TABLE app.log (id int PRIMARY KEY); GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA app TO PUBLIC;
		CREATE FUNCTION evil.lie(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'; CREATE OPERATOR evil.= (FUNCTION = evil.lie, LEFTARG = text, RIGHTARG = text); CREATE OPERATOR evil.<> (FUNCTION = evil.lie, LEFTARG = text, RIGHTARG = text);
		CREATE FUNCTION evil.lie(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false'; CREATE OPERATOR evil.<> (FUNCTION = evil.lie, LEFTARG = bigint, RIGHTARG = bigint);
		CREATE FUNCTION evil.hash_record_extended(record, bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'; CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT ''''::text'; CREATE TYPE evil.text AS ENUM ('evil'); CREATE DOMAIN evil.int4 AS bool;
		CREATE FUNCTION evil.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS 'SELECT ''5''::xid8'; CREATE TABLE evil.undo (id int PRIMARY KEY); CREATE FUNCTION evil.cardinality(anyarray) RETURNS int LANGUAGE sql AS 'SELECT 0'; GRANT USAGE ON SCHEMA evil TO PUBLIC`
	work := []string{"UPDATE app.t SET n = n + 10, d = d + 1, i = i * 1, f = f * 3, a = a || 1, s = s || NULL::pg_catalog.text, m = m * 2, b = b || '\\x01', e = 'lo', q = '[]' WHERE n < 3",
		"DELETE FROM app.t WHERE n = 3", "UPDATE app.t SET id = '-infinity' WHERE n = 4", "INSERT INTO app.t (id, n, c, x) VALUES ('epoch', 20, 'app.t', '<v/>')"}
	settings := []string{
		"DateStyle = 'SQL, DMY'", "DateStyle = 'German'", "DateStyle = 'Postgres, MDY'", "IntervalStyle = 'sql_standard'", "IntervalStyle = 'iso_8601'", "IntervalStyle = 'postgres_verbose'", "extra_float_digits = -15", "extra_float_digits = 0",
		"TimeZone = 'Asia/Kolkata'", "TimeZone = 'America/New_York'", "bytea_output = 'escape'", "search_path = evil, pg_catalog", "search_path = app, evil", "search_path = ''", "xmloption = 'document'", "array_nulls = off", "transform_null_equals = on",
		"standard_conforming_strings = off", "quote_all_identifiers = on", "backslash_quote = off", "default_transaction_isolation = 'serializable'", "default_transaction_read_only = on", "default_transaction_deferrable = on", "enable_seqscan = off", "enable_indexscan = off",
		"plan_cache_mode = 'force_generic_plan'", "plan_cache_mode = 'force_custom_plan'", "row_security = off", "check_function_bodies = off", "synchronous_commit = off", "force_parallel_mode = on", "client_min_messages = 'debug1'", "work_mem = '64kB'", "default_text_search_config = 'simple'",
		"statement_timeout = '20s'", "xmlbinary = 'hex'", "plpgsql.variable_conflict = 'use_variable'", "plpgsql.variable_conflict = 'use_column'", "plpgsql.extra_errors = 'all'", "client_encoding = 'LATIN1'", "default_tablespace = ''", "session_replication_role = 'local'", "ROLE pg_monitor",
	}
	for i, set := range settings {
		if !some(i) {
			continue
		}
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			d := newStage(t, ddl)
			local := "SET LOCAL " + set
			if strings.HasPrefix(set, "default_transaction") || strings.HasPrefix(set, "session_rep") {
				local = "SELECT set_config('" + strings.Replace(strings.ReplaceAll(set, "'", ""), " = ", "', '", 1) + "', true)"
			}
			s := does(append([]string{local}, work...)...)
			plain, err := d.plainly(s)
			if err != nil {
				t.Fatalf("the case itself is wrong: %v", err)
			}
			d.protect("app.t", "app.log")
			before := snapshot(t, d.own)
			d.judge(s, plain)
			// Now the one that settles has it, and not only for a transaction.
			d.exec(d.own, "TRUNCATE app.t")
			d.exec(d.own, strings.ReplaceAll(ddl[strings.Index(ddl, "INSERT"):strings.Index(ddl, "CREATE TABLE app.log")], "\n", " "))
			if now := snapshot(t, d.own); now != before {
				t.Fatalf("not the beginning:\n%s", difference(now, before))
			}
			id := newXID()
			l := d.work(id, work...)
			settler := d.connect()
			if set == "ROLE pg_monitor" {
				d.exec(d.own, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA handfast TO pg_monitor")
			}
			d.exec(settler, "SET "+set)
			if err := d.settle(settler, id, false, l); err != nil {
				t.Fatalf("settled with %s: %v", set, err)
			}
			if now := snapshot(t, d.own); now != before {
				t.Fatalf("settled with %s:\n%s", set, difference(now, before))
			}
		})
	}
}

// Replica mode switches ordinary triggers off: what is written in it by a
// session that may, is captured or refused all the same.
func TestReplicaModeIsNoWayAroundCapture(t *testing.T) {
	t.Parallel()
	d := newStage(t, "CREATE TABLE g (id int PRIMARY KEY, v int); INSERT INTO g VALUES (1, 1), (2, 2); CREATE TABLE bare (v int)")
	d.protect("g")
	before := snapshot(t, d.own)
	ctx := context.Background()
	for _, sql := range []string{"UPDATE g SET v = 5", "DELETE FROM g", "TRUNCATE g", "INSERT INTO bare VALUES (1)"} {
		_, err := d.globally(does("SET LOCAL session_replication_role = replica", sql), false)
		if now := snapshot(t, d.own); now != before && err == nil {
			t.Errorf("%s: neither refused nor captured:\n%s", sql, difference(now, before))
			d.exec(d.own, "TRUNCATE g, bare; INSERT INTO g VALUES (1, 1), (2, 2)")
		}
	}
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 7 WHERE id = 1", "DELETE FROM g WHERE id = 2")
	d.exec(d.worker, "SET session_replication_role = replica")
	for _, sql := range []string{"UPDATE g SET v = 8 WHERE id = 1", "INSERT INTO g VALUES (2, 9)", "DELETE FROM g WHERE id = 1", "TRUNCATE g"} {
		if _, err := d.worker.Exec(ctx, "BEGIN; "+sql); sqlState(err) != undolog.SQLStateConflict {
			t.Errorf("%s of another's row: %v", sql, err)
		}
		d.exec(d.worker, "ROLLBACK")
	}
	d.mustSettle(id, false, l)
}

// Policies hide rows from the application, and must not from us.
func TestRowLevelSecurity(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"} {
		for _, who := range []string{"superuser", "owner", "application"} {
			t.Run(who+": "+mode, func(t *testing.T) {
				t.Parallel()
				d := newStage(t, "")
				tag := strings.ToLower(newXID().String()[40:])
				roles := map[string]string{"owner": "own_" + tag, "application": "app_" + tag}
				for _, role := range roles {
					d.exec(d.own, "CREATE ROLE "+role)
					t.Cleanup(func() { d.exec(d.own, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
				}
				d.exec(d.own, fmt.Sprintf(`CREATE TABLE t (id int PRIMARY KEY, tenant text, v int, u text UNIQUE); INSERT INTO t SELECT i, CASE WHEN i %% 2 = 0 THEN 'a' ELSE 'b' END, i, 'u' || i FROM generate_series(1, 8) i;
					CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE); INSERT INTO c SELECT i, 1 + i %% 8 FROM generate_series(1, 20) i;
					CREATE POLICY p ON t USING (tenant = current_setting('app.tenant', true)); CREATE POLICY p ON c USING (t %% 2 = 0); ALTER TABLE t %[1]s; ALTER TABLE c %[1]s; ALTER TABLE t OWNER TO %[2]s; ALTER TABLE c OWNER TO %[2]s;
					GRANT SELECT, INSERT, UPDATE, DELETE ON t, c TO %[3]s`, mode, roles["owner"], roles["application"]))
				s := does("SET LOCAL app.tenant = 'a'", "UPDATE t SET v = v + 1", "DELETE FROM t WHERE id < 4", "INSERT INTO t VALUES (10, 'a', 1, 'u10')", "UPDATE t SET id = 70 WHERE id = 6", "INSERT INTO c VALUES (30, 10)", "DELETE FROM c WHERE id = 11")
				if role, ok := roles[who]; ok {
					s.sql = append([]string{"SET LOCAL ROLE " + role}, s.sql...)
				}
				plain, err := d.plainly(s)
				if err != nil {
					t.Fatalf("the case itself is wrong: %v", err)
				}
				d.protect("t", "c")
				d.judge(s, plain)
			})
		}
	}
}
