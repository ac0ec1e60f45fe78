package rmsql_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/handfast/handfast/internal/hftest"
)

func stdlibDB(tb testing.TB, w *world) *sql.DB {
	tb.Helper()
	db := stdlib.OpenDBFromPool(w.Pool.Plain())
	tb.Cleanup(func() { w.Check(db.Close()) })
	return db
}

// literals have one value of every kind.
var literals = []string{
	"true", "7::int2", "7::int4", "7::int8", "1.5::float4", "1.5::float8", "1.50::numeric(10,2)", "'NaN'::numeric",
	"'a'::text", "'b'::varchar(9)", "'c'::char(3)", `'\x00ff'::bytea`, "'{\"a\": 1}'::json", "'{\"a\": 1}'::jsonb",
	"'<a/>'::xml", "date '2026-02-03'", "date 'infinity'", "time '12:30'", "timestamp '2026-02-03 04:05:06'", "timestamptz '2026-02-03 04:05:06Z'",
	"interval '1 month 2 days'", "'10.0.0.1/8'::inet", "'aabbccddeeff0011aabbccddeeff0011'::uuid", "'{1,2}'::int[]", "'{a,NULL}'::text[]",
	"'[1,5)'::int4range", "B'101'", "B'101'::varbit", "'(1,2)'::point", "'n'::name", "4711::oid", "NULL", "NULL::int", "1.0::money",
}

// look describes a query's columns and values as database/sql shows them.
func look(ctx context.Context, d db, query string) (string, error) {
	rows, err := d.QueryContext(ctx, query)
	if err != nil {
		return "", err
	}
	defer rows.Close() //nolint:errcheck // read to the end
	types, err := rows.ColumnTypes()
	if err != nil {
		return "", err
	}
	s := ""
	for _, c := range types {
		length, hasLength := c.Length()
		precision, scale, hasScale := c.DecimalSize()
		nullable, hasNullable := c.Nullable()
		s += fmt.Sprintln(c.Name(), c.DatabaseTypeName(), c.ScanType(), length, hasLength, precision, scale, hasScale, nullable, hasNullable)
	}
	for rows.Next() {
		values := make([]any, len(types))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return "", err
		}
		for _, v := range values {
			s += fmt.Sprintf("%T %#v\n", *v.(*any), *v.(*any))
		}
	}
	return s, rows.Err()
}

func TestValuesAndColumnTypesAreThoseOfStdlib(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	std := stdlibDB(t, w)
	list := ""
	for i, l := range literals {
		list += fmt.Sprintf(", %s AS c%d", l, i)
	}
	list = list[2:]
	for name, query := range map[string]string{ //nolint:paralleltest // they share the plain session
		"read":       "SELECT " + list,
		"no rows":    "SELECT " + list + " WHERE false",
		"many rows":  "SELECT g, " + list + " FROM generate_series(1, 50) g",
		"write":      "UPDATE account SET balance = balance WHERE id = 1 RETURNING *, " + list,
		"no write":   "UPDATE account SET balance = balance WHERE id = 0 RETURNING *, " + list,
		"no columns": "UPDATE account SET balance = balance WHERE id = 1",
	} {
		t.Run(name, func(t *testing.T) {
			want, err := look(w.Limited(), std, query)
			w.Check(err)
			same := func(ctx context.Context, d db) error {
				got, err := look(ctx, d, query)
				if err == nil && got != want {
					return fmt.Errorf("got\n%s\nwant\n%s", got, want)
				}
				return err
			}
			ctx, x := w.Begin()
			for _, run := range []work{same, inTx("", same), inTx("SELECT 1", same)} {
				if err := run(ctx, w.db); err != nil {
					t.Error(err)
				}
			}
			w.Rollback(x)
			hftest.Equal(t, "balance", w.balance(1), 100)
		})
	}
}
