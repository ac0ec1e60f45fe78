package undolog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
)

// builtinType is a type that is there before anybody makes one.
type builtinType struct {
	Name    string // qualified and quoted
	Key     string // in samples, of itself or of the elements of an array
	Element string // of an array type
}

// builtinTypes asks the server. Pseudo types can't be columns, and the row
// types of the catalogue's own tables are no types that anybody would use.
func builtinTypes(tb testing.TB, conn *pgx.Conn) []builtinType {
	tb.Helper()
	rows, err := conn.Query(context.Background(), `SELECT format('%I.%I', n.nspname, t.typname), coalesce(en.nspname, n.nspname) || '.' || coalesce(e.typname, t.typname),
			CASE WHEN e.oid IS NULL THEN '' ELSE format('%I.%I', en.nspname, e.typname) END
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type e ON e.typarray = t.oid LEFT JOIN pg_namespace en ON en.oid = e.typnamespace
		WHERE n.nspname IN ('pg_catalog', 'information_schema') AND t.typisdefined AND t.typtype NOT IN ('p', 'c')
		AND coalesce(e.typtype, 'b') NOT IN ('p', 'c') ORDER BY 1`)
	if err != nil {
		tb.Fatal(err)
	}
	types, err := pgx.CollectRows(rows, pgx.RowToStructByPos[builtinType])
	if err != nil {
		tb.Fatal(err)
	}
	if len(types) < 150 {
		tb.Fatalf("only %d types: the query is wrong", len(types))
	}
	return types
}

// values are SQL expressions of the type; none where it is not known here.
func (b builtinType) values() []string {
	if b.Element != "" {
		var of []string
		for _, v := range (builtinType{Name: b.Element, Key: b.Key}).values() {
			of = append(of, v)
			if len(of) == 2 {
				break
			}
		}
		if len(of) == 0 {
			return nil
		}
		first, last := of[0], of[len(of)-1]
		return []string{
			fmt.Sprintf("ARRAY[%s, NULL, %s]::%s", first, last, b.Name), fmt.Sprintf("'{}'::%s", b.Name), fmt.Sprintf("array_fill(%s, ARRAY[2, 2], ARRAY[-1, 3])", first),
			fmt.Sprintf("ARRAY[[[%s], [NULL]], [[%s], [%s]]]::%s", first, last, first, b.Name), fmt.Sprintf("ARRAY[NULL]::%s", b.Name), fmt.Sprintf("array_prepend(%s, ARRAY[%s]::%s)", last, first, b.Name),
		}
	}
	var out []string
	for _, s := range samples[b.Key] {
		if e, ok := strings.CutPrefix(s, "SQL:"); ok {
			out = append(out, "("+e+")::"+b.Name)
			continue
		}
		out = append(out, "'"+strings.ReplaceAll(s, "'", "''")+"'::"+b.Name)
	}
	return out
}

// Rows of every type that Postgres has come back as they were. A type that is
// new here has to get a sample first.
func TestEveryBuiltInTypeIsExact(t *testing.T) {
	t.Parallel()
	d := newStage(t, "")
	d.protect()
	for i, b := range builtinTypes(t, d.own) {
		if !some(i) {
			continue
		}
		ok := t.Run(b.Name, func(t *testing.T) {
			values := b.values()
			if values == nil {
				t.Fatal("no sample of this type; add one")
			}
			d := d.in(t)
			rows := []string{"(0, NULL, NULL)"}
			for i, v := range values {
				rows = append(rows, fmt.Sprintf("(%d, %s, %s)", i+1, v, values[0]))
			}
			d.typed("CREATE TABLE t (id int PRIMARY KEY, v "+b.Name+", w "+b.Name+"); INSERT INTO t VALUES "+strings.Join(rows, ", "), !readable[b.Key],
				// The values go round, so that each is a before and an after image.
				fmt.Sprintf("UPDATE t SET v = o.v FROM t o WHERE o.id = (t.id + 1) %% %d", len(rows)),
				"UPDATE t SET w = NULL WHERE id = 1", "UPDATE t SET w = v WHERE id <> 1", "DELETE FROM t WHERE id % 2 = 0", "INSERT INTO t SELECT id + 100, w, v FROM t", "UPDATE t SET id = id + 1000 WHERE id = 1")
		})
		if !ok {
			d = newStage(t, "")
			d.protect()
		}
	}
}

// Every type that can be a key, as one. Types without a hash function may be
// refused, with that reason; nothing else may.
func TestEveryBuiltInTypeAsAKey(t *testing.T) {
	t.Parallel()
	d := newStage(t, "")
	d.protect()
	for i, b := range builtinTypes(t, d.own) {
		values := b.values()
		if len(values) < 2 || !some(i) {
			continue
		}
		if _, err := d.own.Exec(context.Background(), fmt.Sprintf("BEGIN; CREATE TABLE t (k %s PRIMARY KEY); INSERT INTO t VALUES (%s), (%s)", b.Name, values[0], values[1])); sqlState(err) == "42704" || sqlState(err) == "42883" {
			d.exec(d.own, "ROLLBACK")
			continue // Postgres has no order for it
		}
		d.exec(d.own, "ROLLBACK")
		ok := t.Run(b.Name, func(t *testing.T) {
			d := d.in(t)
			ddl := "CREATE TABLE t (k " + b.Name + " PRIMARY KEY, n int, u " + b.Name + " UNIQUE, p " + b.Name + "); CREATE UNIQUE INDEX ON t (p) WHERE n > 1"
			for i, v := range values {
				ddl += fmt.Sprintf("; INSERT INTO t VALUES (%[1]s, %[2]d, %[1]s, %[1]s) ON CONFLICT DO NOTHING", v, i)
			}
			first, second := values[0], values[1]
			d.typed(ddl, true, "UPDATE t SET n = n + 100", fmt.Sprintf("DELETE FROM t WHERE k = %s", first), fmt.Sprintf("UPDATE t SET k = %s, u = NULL WHERE k = %s", first, second),
				fmt.Sprintf("UPDATE t SET u = %s WHERE k = %s", second, first), fmt.Sprintf("INSERT INTO t VALUES (%s, 7, NULL, NULL)", second), fmt.Sprintf("UPDATE t SET n = 1, p = NULL WHERE k = %s", first))
		})
		if !ok {
			d = newStage(t, "")
			d.protect()
		}
	}
}

// typed judges statements on the table t, and takes it away.
func (d *stage) typed(ddl string, refusable bool, sql ...string) {
	d.t.Helper()
	ctx := context.Background()
	d.exec(d.own, ddl)
	defer d.exec(d.own, "DROP TABLE IF EXISTS t")
	plain, err := d.plainly(script{sql: sql})
	if err != nil {
		d.t.Fatalf("the case itself is wrong: %v", err)
	}
	if _, err := undolog.Protect(ctx, d.own, "t"); err != nil {
		no, ok := errors.AsType[*undolog.NotProtectableError](err)
		if !ok || !refusable || !strings.Contains(no.Reason, "type") {
			d.t.Fatal(err)
		}
		d.t.Logf("refused: %v", err)
		return
	}
	d.judge(script{sql: sql}, plain)
	if err := undolog.Unprotect(ctx, d.own, "t"); err != nil {
		d.t.Fatal(err)
	}
}

// Types that people make, of each kind and within each other.
func TestUsersTypesAreExact(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		ddl    string
		kind   string
		values []string
		key    bool
	}{
		"domain":                   {"CREATE DOMAIN d AS int CHECK (VALUE <> 13)", "d", []string{"1", "-5"}, true},
		"domain that is not null":  {"CREATE DOMAIN d AS text NOT NULL", "d", []string{"''", "'NULL'"}, true},
		"domain over an array":     {"CREATE DOMAIN d AS int[] CHECK (cardinality(VALUE) < 9)", "d", []string{"'{}'", "'[5:6]={1,NULL}'"}, true},
		"domain over a composite":  {"CREATE TYPE c AS (a int, b text); CREATE DOMAIN d AS c CHECK ((VALUE).a <> 0)", "d", []string{`'(1,"x,y")'`, "'(2,)'"}, true},
		"domain over char":         {"CREATE DOMAIN d AS char(5)", "d", []string{"'a '", "'b'"}, true},
		"domain over bpchar":       {"CREATE DOMAIN e AS bpchar; CREATE DOMAIN d AS e", "d", []string{"'a '", "'b  '"}, true},
		"array of domains":         {"CREATE DOMAIN d AS numeric(9,2)", "d[]", []string{"'{1.10,NULL}'", "'{}'"}, true},
		"composite":                {"CREATE TYPE c AS (a int, \"B \"\"b\" text, t timestamptz, n numeric[])", "c", []string{`'(1,"a""b\\c,(",2024-01-01,"{1.0,NULL}")'`, "'(,,,)'", `'(,"",,)'`, "ROW(NULL, 'NULL', '-infinity', '{}')::c"}, false},
		"composite with a dropped": {"CREATE TYPE c AS (a int, b text, z int); ALTER TYPE c DROP ATTRIBUTE b; ALTER TYPE c ADD ATTRIBUTE b date", "c", []string{"'(1,2,2024-01-01)'", "'(,,)'"}, true},
		"composite in a composite": {"CREATE TYPE c AS (a int, b text); CREATE TYPE o AS (x c, y c[])", "o", []string{`'("(1,q)","{""(2,\\""\\"")"",NULL}")'`, "'(,)'"}, true},
		"array of composites":      {"CREATE TYPE c AS (a int, b text)", "c[]", []string{`'[0:1]={"(1,a)",NULL}'`, "'{}'"}, true},
		"row type of a table":      {"CREATE TABLE r (a int, gone int, b text); ALTER TABLE r DROP gone", "r", []string{"'(1,x)'", "'(,)'"}, true},
		"enum":                     {"CREATE TYPE e AS ENUM ('a b', 'it''s', 'NULL', '', '\u00e9'); ALTER TYPE e ADD VALUE 'zz' BEFORE 'a b'", "e", []string{"'a b'", "'it''s'", "''", "'zz'", "'\u00e9'"}, true},
		"array of enums":           {"CREATE TYPE e AS ENUM ('a b', 'NULL', '')", "e[]", []string{`'{a b,"NULL",NULL,""}'`, "'{}'"}, true},
		"range of an own subtype":  {"CREATE TYPE fr AS RANGE (subtype = float8, subtype_diff = float8mi)", "fr", []string{"'[0.1,NaN)'", "'empty'", "'(,)'", "'[-Infinity,1e-300]'"}, true},
		"multirange of an own":     {"CREATE TYPE fr AS RANGE (subtype = text, multirange_type_name = frm)", "frm", []string{`'{["a, ","b\"")}'`, "'{}'", `'{(,"a"),["b","c,"]}'`}, true},
		"range of a domain":        {"CREATE DOMAIN d AS int; CREATE TYPE dr AS RANGE (subtype = d)", "dr", []string{"'[1,5)'", "'empty'"}, true},
		"casts of the user": {`CREATE TYPE e AS ENUM ('lo', 'hi'); CREATE FUNCTION said(e) RETURNS text LANGUAGE sql AS $$ SELECT 'it is ' || CASE WHEN $1 > 'lo' THEN 'much' ELSE 'little' END $$; CREATE CAST (e AS text) WITH FUNCTION said(e);
			CREATE FUNCTION read(text) RETURNS e LANGUAGE sql AS $$ SELECT 'lo'::public.e $$; CREATE CAST (text AS e) WITH FUNCTION read(text)`, "e", []string{"'lo'", "'hi'"}, true},
		"type modifiers":            {"", "timestamp(2)", []string{"'2024-01-01 00:00:00.129'", "'infinity'"}, true},
		"interval with fields":      {"", "interval day to second(1)", []string{"'1 day 02:03:04.56'", "'-3 days'"}, true},
		"bit(3)":                    {"", "bit(3)", []string{"'101'", "'000'"}, true},
		"varbit(3)":                 {"", "varbit(3)", []string{"'1'", "''"}, true},
		"numeric of negative scale": {"", "numeric(5,-2)", []string{"12345", "'NaN'"}, true},
		"arrays of char":            {"", "char(4)[]", []string{"'{a,\"b \"}'", "'{}'"}, true},
		"arrays of bpchar":          {"", "bpchar[]", []string{"'{a,\"b \"}'", "'{\"b\"}'"}, true},
		"big arrays":                {"", "numeric[]", []string{"array_fill(1.0000::numeric, ARRAY[20000])", "'{}'"}, false},
		"a megabyte of text":        {"", "text", []string{"repeat('0123456789abcdef', 65536)", "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 32768) i)"}, false},
		"a megabyte of bytes":       {"", "bytea", []string{"decode(repeat('00ff5c27', 262144), 'hex')", "'\\x'"}, false},
		"a megabyte of JSON":        {"", "jsonb", []string{"(SELECT jsonb_object_agg(i, md5(i::text)) FROM generate_series(1, 20000) i)", "'{}'"}, false},
	}
	for i, name := range slices.Sorted(maps.Keys(tests)) {
		tt := tests[name]
		if !some(i) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newStage(t, tt.ddl)
			d.protect()
			kind := tt.kind
			var rows []string
			for i, v := range tt.values {
				rows = append(rows, fmt.Sprintf("(%d, (%s)::%s, 0)", i, v, kind))
			}
			all := strings.Join(rows, ", ")
			d.typed("CREATE TABLE t (id int PRIMARY KEY, v "+kind+", n int); INSERT INTO t VALUES "+all, false,
				fmt.Sprintf("UPDATE t SET v = o.v FROM t o WHERE o.id = (t.id + 1) %% %d", len(rows)), "UPDATE t SET n = 5", "DELETE FROM t WHERE id = 0", "INSERT INTO t SELECT id + 100, v, 1 FROM t")
			if !tt.key || t.Failed() {
				return
			}
			d.typed("CREATE TABLE t (id int, v "+kind+" PRIMARY KEY, n int); INSERT INTO t VALUES "+all, true,
				"UPDATE t SET n = 5", "DELETE FROM t WHERE id = 0", fmt.Sprintf("UPDATE t SET v = (%s)::%s, n = 6 WHERE id = 1", tt.values[0], kind))
		})
	}
}

// A cast that people make is not the type's own way to read and write a value:
// it may lose something, and then nobody would notice.
func TestCastsOfUsersAreNotUsed(t *testing.T) {
	t.Parallel()
	playAll(t, map[string]scene{
		"to text": {ddl: `CREATE TYPE e AS ENUM ('lo', 'hi'); CREATE FUNCTION said(e) RETURNS text LANGUAGE sql AS $$ SELECT 'lo' $$; CREATE CAST (e AS text) WITH FUNCTION said(e);
			CREATE TABLE t (id int PRIMARY KEY, v e, n int); INSERT INTO t VALUES (1, 'hi', 1), (2, 'hi', 2)`, protect: "t", script: does("UPDATE t SET v = 'lo' WHERE id = 1", "DELETE FROM t WHERE id = 2")},
		"from text": {ddl: `CREATE TYPE e AS ENUM ('lo', 'hi'); CREATE FUNCTION read(text) RETURNS e LANGUAGE sql AS $$ SELECT 'lo'::public.e $$; CREATE CAST (text AS e) WITH FUNCTION read(text);
			CREATE TABLE t (id int PRIMARY KEY, v e, n int); INSERT INTO t VALUES (1, 'hi', 1), (2, 'hi', 2)`, protect: "t", script: does("UPDATE t SET v = 'lo' WHERE id = 1", "DELETE FROM t WHERE id = 2")},
	})
}

// Types of extensions, wherever their schema is.
func TestTypesOfExtensionsAreExact(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"hstore": {`"a"=>"1, \"x\"", "b"=>NULL, ""=>""`, "", `"=>"=>"'"`}, "citext": {"Ann", "BOB", ""}, "ltree": {"a.b_1.C", "", "x"},
		"cube": {"(1,2),(3,4.5)", "0"}, "isn": {"978-0-393-04002-9"}, "seg": {"1 .. 2.50", "~3"},
	} {
		kind := name
		if name == "isn" {
			kind = "isbn13"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newStage(t, "CREATE SCHEMA \"Ext s\"")
			var there bool
			if err := d.own.QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)", name).Scan(&there); err != nil {
				t.Fatal(err)
			}
			if !there {
				t.Skipf("THE SERVER HAS NO EXTENSION %s: its types are not tested", name)
			}
			d.exec(d.own, "CREATE EXTENSION "+name+" SCHEMA \"Ext s\"")
			d.protect()
			var rows, keys []string
			for i, v := range values {
				rows = append(rows, fmt.Sprintf(`(%d, '%s'::"Ext s".%s, 0)`, i, strings.ReplaceAll(v, "'", "''"), kind))
				keys = append(keys, fmt.Sprint(i))
			}
			slices.Reverse(keys)
			ddl := fmt.Sprintf("CREATE TABLE t (id int PRIMARY KEY, v \"Ext s\".%s, n int); INSERT INTO t VALUES %s", kind, strings.Join(rows, ", "))
			d.typed(ddl, false, fmt.Sprintf("UPDATE t SET v = o.v FROM t o WHERE o.id = (t.id + 1) %% %d", len(rows)), "UPDATE t SET n = 5", "DELETE FROM t WHERE id = 0", "INSERT INTO t SELECT id + 100, v, 1 FROM t")
			d.typed(strings.Replace(strings.Replace(ddl, " PRIMARY KEY", "", 1), ", n int", " PRIMARY KEY, n int", 1), true, "UPDATE t SET n = 5", "DELETE FROM t WHERE id = 0", "INSERT INTO t (id, v) SELECT 0, v FROM t WHERE false")
		})
	}
}
