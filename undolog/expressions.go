package undolog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// usedFunctions are the functions of people that a write to a table, or to one of
// its partitions, evaluates in expressions: of indexes, CHECK constraints,
// domains and generated columns. (A table with a primary key is partitioned by
// columns.) Those of Postgres itself are in no pg_depend. Whoever is a member of the role that protects has its rights anyway.
const usedFunctions = `WITH RECURSIVE m (oid) AS (
		SELECT $1::oid UNION SELECT p.relid FROM pg_partition_tree($1) p),
	y (oid) AS (
		SELECT a.atttypid FROM m JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum > 0 AND NOT a.attisdropped
		UNION SELECT n.oid FROM y JOIN pg_type d ON d.oid = y.oid CROSS JOIN LATERAL (SELECT d.typbasetype UNION SELECT d.typelem
			UNION SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = d.typrelid AND a.attnum > 0) n (oid) WHERE n.oid >= 16384),
	e (classid, objid) AS (
		SELECT 'pg_class'::regclass::oid, i.indexrelid FROM m JOIN pg_index i ON i.indrelid = m.oid
		UNION SELECT 'pg_constraint'::regclass, c.oid FROM m JOIN pg_constraint c ON c.conrelid = m.oid
		UNION SELECT 'pg_constraint'::regclass, c.oid FROM y JOIN pg_constraint c ON c.contypid = y.oid
		UNION SELECT 'pg_attrdef'::regclass, d.oid FROM m JOIN pg_attrdef d ON d.adrelid = m.oid
			JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum = d.adnum AND a.attgenerated <> '')
	SELECT DISTINCT f.oid::regprocedure::text, pg_get_userbyid(f.proowner), pg_has_role(f.proowner, current_user::regrole, 'MEMBER')
	  FROM e JOIN pg_depend d ON d.classid = e.classid AND d.objid = e.objid AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
	  LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
	  JOIN pg_proc f ON f.oid = coalesce(o.oprcode::oid, d.refobjid) ORDER BY 1`

type usedFunction struct {
	Name, Owner string
	Trusted     bool
}

// expressions refuses a table whose expressions our functions could not evaluate,
// or must not: they run with the rights of whoever protects, and with a
// search_path of their own.
func (p *protector) expressions(ctx context.Context, t *table) error {
	rows, err := p.tx.Query(ctx, usedFunctions, t.oid)
	if err != nil {
		return err
	}
	used, err := pgx.CollectRows(rows, pgx.RowToStructByPos[usedFunction])
	if err != nil || len(used) == 0 {
		return err
	}
	for _, f := range used {
		if !f.Trusted {
			return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("uses the function %s of the role %s in its expressions, which would run with the rights of the role that protects the table; "+
				"look at what it does, then make it yours: ALTER FUNCTION %s OWNER TO CURRENT_USER", f.Name, f.Owner, f.Name)}
		}
	}
	sample, err := p.sample(ctx, t)
	if err != nil {
		return err
	}
	rows, err = p.tx.Query(ctx, `SELECT pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
			WHERE c.contype = 'c' AND (c.conrelid = $1 OR c.conrelid IN (SELECT p.relid FROM pg_partition_tree($1) p))`, t.oid)
	if err != nil {
		return err
	}
	exprs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, c := range t.Columns {
		exprs = append(exprs, c.generated)
	}
	for _, u := range t.Uniques {
		exprs = append(exprs, u.exprs, u.predicate)
	}
	for _, expr := range exprs {
		if expr == "" {
			continue
		}
		// A row of the table is the better sample, where there is one.
		for _, from := range []string{sample, t.Name + " LIMIT 1"} {
			if err := try(ctx, p.tx, "SELECT ROW("+expr+") FROM "+from); rests(err) {
				return restsOnPath(t, expr, err)
			}
		}
	}
	return nil
}

// sample gives a row without NULLs, as far as values can be guessed, for FROM. A
// STRICT function is not even called with NULL, and PL/pgSQL looks at what it
// names only then.
func (p *protector) sample(ctx context.Context, t *table) (string, error) {
	values := ""
	for i, c := range t.Columns {
		value := "NULL::" + c.kind
		guesses := []string{"(enum_range(NULL::" + c.base + "))[1]::" + c.kind}
		for _, text := range []string{"1", "a", "2000-01-01", "{}", "[1,2]", "(1,1)", "1.1.1.1", "00:00:00:00:00:00", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"} {
			guesses = append(guesses, "'"+text+"'::"+c.kind)
		}
		for _, guess := range guesses {
			err := try(ctx, p.tx, "SELECT "+guess)
			if err == nil {
				value = guess
				break
			}
			// A domain evaluates its constraints. enum_range is missing for what is no enum.
			if rests(err) && guess != guesses[0] {
				return "", restsOnPath(t, c.kind, err)
			}
		}
		if i > 0 {
			values += ", "
		}
		values += value
	}
	// Not a sub-query: an expression may name the whole row.
	return fmt.Sprintf("unnest(ARRAY[ROW(%s)::%s]) %s", values, t.Name, pgx.Identifier{t.relation}.Sanitize()), nil
}

func restsOnPath(t *table, expr string, err error) error {
	return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("has the expression %s, which our functions evaluate with search_path = pg_catalog and can not: %v; "+
		"qualify the names in its functions, or give them a SET search_path", expr, err)}
}

// rests tells whether something is not found.
func rests(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pg.Code {
	case "42883", "42704", "42P01", "42703", "3F000", "3F001":
		return true
	}
	return false
}
