package undolog_test

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
)

// imaged are types whose text holds what is easily lost: quotes, blanks, digits, bounds,
// time zones, and what looks like JSON.
var imaged = []string{
	"text", "varchar(7)", "char(5)", `"char"`, "name", "bytea", "json", "jsonb", "jsonpath", "xml", "numeric", "numeric(9,3)", "float4", "float8", "money", "int8", "oid",
	"timestamptz", "timestamp", "timetz", "date", "interval", "uuid", "inet", "cidr", "macaddr8", "bit varying", "bit(6)", "tsvector", "tsquery", "point", "path", "circle",
	"int4range", "nummultirange", "int4[]", "text[]", "jsonb[]", "pair", "word", "colour", "pg_lsn",
}

// Whatever value a column of such a type takes, an update, a deletion and a change of it
// back and forth are undone byte by byte.
func FuzzImages(f *testing.F) {
	ddl := `CREATE TYPE pair AS (a int, b text); CREATE DOMAIN word AS text CHECK (length(VALUE) < 100); CREATE TYPE colour AS ENUM ('red', 'a b', '"', 'ü'); CREATE TABLE t (id int PRIMARY KEY`
	for i, typ := range imaged {
		ddl += fmt.Sprintf(", v%d %s, w%d %s", i, typ, i, typ)
	}
	db := newDatabase(f, ddl+")", "public.t")
	for i, v := range [][2]string{
		{"", " a'\"\\ "}, {"ü", "1234567"}, {"a  ", ""}, {"x", ""}, {"a b", `"`}, {`\x00ff`, `\\`}, {`{"a":1.0, "a":null}`, "null"}, {`{"a":1.0, "a":null}`, "[1e400]"}, {"$.a", "strict $[*]"}, {"<a/>", "b"},
		{"1e400", "NaN"}, {"0.1", "-0"}, {"-0", "0.1"}, {"1.7976931348623157e308", "NaN"}, {"1", "-0.01"}, {"1", "-9223372036854775808"}, {"0", "4294967295"},
		{"2000-01-01 00:00:00.000001+00", "infinity"}, {"0044-03-15 BC", "-infinity"}, {"04:05:06-08", "24:00:00+15"}, {"infinity", "0044-03-15 BC"}, {"1 mon -1 day 00:00:00.1", "-1 year"},
		{"123e4567-e89b-12d3-a456-426614174000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}, {"127.0.0.1/8", "::1"}, {"10.0.0.0/8", "::/0"}, {"08:00:2b:01:02:03:04:05", "080020fffe112233"}, {"101", ""}, {"101010", "000000"},
		{"'a':1A 'b'", ""}, {"a & !b", "'a b' <-> c:*"}, {"(1,2)", "(-0,NaN)"}, {"[(0,0),(1,1)]", "((0,0),(1,1))"}, {"<(0,0),1>", "<(1,1),0>"},
		{"[1,5)", "empty"}, {"{[1,2),(5,)}", "{}"}, {"[2:3]={7,8}", "{1,NULL,3}"}, {`{"NULL",NULL,"a\"b"}`, "{}"}, {`{"{\"a\": 1}"}`, "{null}"}, {`(1,"a ""b""")`, "(,)"}, {"a", "b"}, {"red", "ü"}, {"0/1", "F/FF"},
	} {
		if !some(i) && flag.Lookup("test.fuzz").Value.String() == "" {
			continue
		}
		f.Add(uint8(i), v[0], v[1], uint8(i))
		f.Add(uint8(i), v[1], v[0], uint8(i+1))
	}
	f.Fuzz(func(t *testing.T, typ uint8, before, after string, how uint8) {
		n := int(typ) % len(imaged)
		d := *db
		d.t = t
		look := func() (s string) {
			if err := d.own.QueryRow(context.Background(), "SELECT string_agg(t::text, ';' ORDER BY id) FROM t").Scan(&s); err != nil {
				t.Fatal(err)
			}
			return s
		}
		say := strings.NewReplacer("VALUE", "$1::text::"+imaged[n], "V", fmt.Sprintf("v%d", n), "W", fmt.Sprintf("w%d", n)).Replace
		d.exec(d.own, "DELETE FROM t")
		if _, err := d.own.Exec(context.Background(), say("insert into t (id, V, W) values (1, VALUE, null), (2, null, VALUE)"), before); err != nil {
			return // no value of the type
		}
		want := look()
		id := newXID()
		l := d.arm(id, "READ COMMITTED")
		write := func(sql, arg string) {
			if _, err := l.conn.Exec(context.Background(), "SAVEPOINT s"); err != nil {
				t.Fatal(err)
			}
			if _, err := l.conn.Exec(context.Background(), sql, arg); err != nil {
				l.exec("ROLLBACK TO s") // no value of the type, or nothing that can be kept
			}
		}
		write(say("update t set V = VALUE where id = 1"), after)
		switch how % 4 {
		case 0:
			write("delete from t where $1::text is not null", "")
		case 1:
			write(say("update t set V = VALUE, W = V"), before)
		case 2:
			write(say("insert into t (id, V) values (3, VALUE)"), after)
			write(say("update t set id = id + 10, W = V where $1::text is not null"), "")
		default:
			l.exec(say("update t set W = null, V = null"))
		}
		l.exec("delete from t where id = 2; insert into t (id) values (2) on conflict do nothing")
		l.commit()
		d.mustSettle(id, false, l)
		if got := look(); got != want {
			t.Fatalf("%s, from %q to %q: %q became %q", imaged[n], before, after, want, got)
		}
		if left := d.litter(); left != 0 {
			t.Fatalf("%d rows are left", left)
		}
		if err := l.conn.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}
