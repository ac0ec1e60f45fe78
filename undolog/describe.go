package undolog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// table is what the templates need to know. Exported names are for them.
type table struct {
	ID      int
	Name    string // as SQL
	Capture bool   // false: only the guard of foreign keys
	Enforce bool   // whether the guard holds for sessions without XID
	RowPath bool   // row triggers: transition tables are not for partitions and heirs, nor for what a subscription feeds

	Columns    []column
	Keys       []column // in key order
	Uniques    []unique
	ChildOf    []foreignKey
	ParentOf   []foreignKey
	References []reference // what foreign keys of others refer to

	oid              uint32
	schema, relation string
	partitioned      bool
	kind             string
	exclusion        bool
	persistence      string // "u" if one of its partitions is
	firesAlways      string // names of triggers and rules

	// Unproven are CHECK constraints that rows may break which were there before:
	// such a row could not be put back.
	Unproven []constraint
	maxNum   int16
}

type column struct {
	Num  int16
	Name string

	kind           string // its type, as SQL
	base           string // the type below its domains, as SQL
	collation      string // as SQL, where it is not the type's own
	operator       string // for keys: that of the index
	safe           bool   // its text form does not depend on settings
	textual        bool   // its text form is equal exactly where its values are
	output         string // the output function of the type, as SQL
	input          string // its input function as a format, where a cast from text is something else
	viaJSON        string // the table, where that function can't be named
	unreadable     bool   // the type has no input
	hashes         bool   // its type has a hash function; known for columns of keys
	generated      string // the expression
	identityAlways bool
}

// constraint is a CHECK constraint.
type constraint struct{ Name, Expr string }

// unique is a unique index that is not the primary key.
type unique struct {
	Deferrable bool
	name       string
	number     int
	columns    []column // empty: expressions or a predicate are in the way
	exprs      string   // its columns as written, for those
	predicate  string
	nullsEqual bool
	// ofPartition is one that only a partition has. It is guarded as if all had
	// it: that costs a needless wait where another one holds the same value.
	ofPartition bool
}

func (p *protector) describe(ctx context.Context, oid uint32) (*table, error) {
	if t := p.tables[oid]; t != nil {
		return t, nil
	}
	t := &table{oid: oid, Enforce: true}
	var byRow bool
	err := p.tx.QueryRow(ctx, `SELECT format('%I.%I', n.nspname, c.relname), n.nspname, c.relname, c.relkind::text,
			EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid) OR EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid),
			EXISTS (SELECT FROM pg_constraint x WHERE handfast.root(x.conrelid) = c.oid AND x.contype = 'x'),
			CASE WHEN EXISTS (SELECT FROM pg_partition_tree(c.oid) m JOIN pg_class mc ON mc.oid = m.relid WHERE mc.relpersistence = 'u') THEN 'u' ELSE c.relpersistence::text END,
			coalesce(handfast.fires_always(c.oid), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`, oid).
		Scan(&t.Name, &t.schema, &t.relation, &t.kind, &byRow, &t.exclusion, &t.persistence, &t.firesAlways)
	if err != nil {
		return nil, err
	}
	t.partitioned = t.kind == "p"
	t.RowPath = t.partitioned || byRow
	if t.kind != "r" && t.kind != "p" {
		return nil, &NotProtectableError{Table: t.Name, Reason: "is " + relationKind(t.kind) + ", not an ordinary table"}
	}
	if err := p.columns(ctx, t); err != nil {
		return nil, err
	}
	rows, err := p.tx.Query(ctx, `SELECT x.conname, pg_get_expr(x.conbin, x.conrelid) FROM pg_constraint x
		WHERE x.conrelid = $1 AND x.contype = 'c' AND NOT x.convalidated ORDER BY x.conname`, oid)
	if err != nil {
		return nil, err
	}
	if t.Unproven, err = pgx.CollectRows(rows, pgx.RowToStructByPos[constraint]); err != nil {
		return nil, err
	}
	p.tables[oid] = t
	return t, nil
}

func relationKind(kind string) string {
	names := map[string]string{
		"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence",
		"i": "an index", "I": "an index", "c": "a composite type",
	}
	if name := names[kind]; name != "" {
		return name
	}
	return "a relation of the kind " + kind
}

// protectable reads what only a table with capture needs, and refuses what could
// not be kept exact.
func (p *protector) protectable(ctx context.Context, t *table) error {
	switch {
	case t.schema == "handfast" || t.schema == "information_schema" || strings.HasPrefix(t.schema, "pg_"):
		return &NotProtectableError{Table: t.Name, Reason: "belongs to Handfast or to Postgres"}
	case t.persistence == "t":
		return &NotProtectableError{Table: t.Name, Reason: "is temporary: nobody else could settle it"}
	case t.persistence == "u":
		return &NotProtectableError{Table: t.Name, Reason: "is UNLOGGED: a crash empties it, and what was voted for is gone"}
	case t.exclusion:
		return &NotProtectableError{Table: t.Name, Reason: "has an exclusion constraint, which can't be guarded"}
	case t.firesAlways != "":
		return &NotProtectableError{Table: t.Name, Reason: "has the " + t.firesAlways + " enabled ALWAYS or REPLICA, which would act on what a rollback restores"}
	}
	var domain string
	err := p.tx.QueryRow(ctx, `WITH RECURSIVE d (oid) AS (
			SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
			UNION SELECT n.oid FROM d JOIN pg_type y ON y.oid = d.oid CROSS JOIN LATERAL (SELECT y.typbasetype UNION SELECT y.typelem
				UNION SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0) n (oid) WHERE n.oid >= 16384)
		SELECT coalesce(min(format_type(d.oid, NULL)), '') FROM d JOIN pg_constraint x ON x.contypid = d.oid AND NOT x.convalidated`, t.oid).Scan(&domain)
	if err != nil {
		return err
	}
	if domain != "" {
		return &NotProtectableError{Table: t.Name, Reason: "has values of the domain " + domain + ", of which a constraint is not validated: what breaks it could not be put back"}
	}
	for _, c := range t.Columns {
		if c.unreadable {
			return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("has the column %s of the type %s, which Postgres takes no values for", c.Name, c.kind)}
		}
	}
	if t.Keys != nil {
		return nil // read already
	}
	if err := p.indexes(ctx, t); err != nil {
		return err
	}
	if err := p.expressions(ctx, t); err != nil {
		return err
	}
	if err := p.resolveHashes(ctx, t, t.Keys); err != nil {
		return err
	}
	for _, u := range t.Uniques {
		if err := p.resolveHashes(ctx, t, u.columns); err != nil {
			return err
		}
		if u.columns != nil {
			continue
		}
		err := try(ctx, p.tx, fmt.Sprintf("SELECT hash_record_extended(ROW(%s), 0) FROM (SELECT (NULL::%s).*) r", u.exprs, t.Name))
		if isUndefined(err) {
			return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("has the unique index %s, which can't be guarded: %v", u.name, err)}
		}
	}
	return nil
}

// safeTypes have a text form that no setting changes.
const safeTypes = `'int2','int4','int8','text','varchar','bpchar','name','bool','uuid','numeric','jsonb','json','oid','inet','cidr','macaddr','bit','varbit','char'`

// textualTypes have no hash function; their text form, and that of their
// arrays, is equal exactly where the values are.
const textualTypes = `'bit','varbit','money','tsvector','tsquery'`

func (p *protector) columns(ctx context.Context, t *table) error {
	rows, err := p.tx.Query(ctx, `SELECT a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), format_type(b.oid, NULL),
			coalesce((SELECT format('%I.%I', n.nspname, c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
			           WHERE c.oid = a.attcollation AND c.oid <> b.typcollation), ''),
			b.typname IN (`+safeTypes+`) AND b.typnamespace = 'pg_catalog'::regnamespace OR b.typtype = 'e',
			coalesce(e.typname, b.typname) IN (`+textualTypes+`) AND coalesce(e.typnamespace, b.typnamespace) = 'pg_catalog'::regnamespace,
			CASE WHEN f.proargtypes[0] = b.oid OR a0.typtype = 'p' THEN format('%I.%I', fn.nspname, f.proname) ELSE '' END, CASE WHEN odd AND NOT poly THEN format('%I.%I(%%s%s)', inn.nspname, i.proname, CASE i.pronargs WHEN 3 THEN format(', %s::oid, -1', CASE WHEN b.typelem <> 0 AND b.typcategory = 'A' THEN b.typelem ELSE b.oid END) ELSE '' END) ELSE '' END,
			odd AND poly, b.typname IN ('pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary') AND b.typnamespace = 'pg_catalog'::regnamespace,
			CASE WHEN a.attgenerated <> '' THEN (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) ELSE '' END,
			a.attidentity = 'a'
		FROM pg_attribute a JOIN pg_type b ON b.oid = handfast.base_type(a.atttypid)
		LEFT JOIN pg_type e ON b.typcategory = 'A' AND e.oid = b.typelem
		JOIN pg_proc f ON f.oid = b.typoutput JOIN pg_namespace fn ON fn.oid = f.pronamespace JOIN pg_type a0 ON a0.oid = f.proargtypes[0]
		JOIN pg_proc i ON i.oid = b.typinput JOIN pg_namespace inn ON inn.oid = i.pronamespace
		CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_cast x WHERE x.castsource = 'text'::regtype AND x.casttarget = b.oid AND x.castmethod = 'f') AS odd,
			i.prorettype <> b.oid AS poly) k
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, t.oid)
	if err != nil {
		return err
	}
	t.Columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (column, error) {
		var c column
		var viaJSON bool
		err := row.Scan(&c.Num, &c.Name, &c.kind, &c.base, &c.collation, &c.safe, &c.textual, &c.output, &c.input, &viaJSON, &c.unreadable, &c.generated, &c.identityAlways)
		if viaJSON {
			c.viaJSON = t.Name
		}
		t.maxNum = max(t.maxNum, c.Num)
		return c, err
	})
	return err
}

// resolveHashes finds out which columns of keys have a hash function, by trying:
// whether an array or a row has one depends on what is in it.
func (p *protector) resolveHashes(ctx context.Context, t *table, cols []column) error {
	for i := range cols {
		c := &cols[i]
		err := try(ctx, p.tx, fmt.Sprintf("SELECT hash_record_extended(ROW(NULL::%s), 0)", c.base))
		if err != nil && !isUndefined(err) {
			return err
		}
		if c.hashes = err == nil; !c.hashes && !c.textual {
			return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf(
				"has the column %s in a key, whose type %s has no hash function", c.Name, c.kind)}
		}
	}
	return nil
}

// try runs a statement that may fail without harm to the transaction.
func try(ctx context.Context, tx pgx.Tx, sql string) error {
	return pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error {
		_, err := sp.Exec(ctx, sql)
		return err
	})
}

// isUndefined tells whether a function, operator or type is missing.
func isUndefined(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "42883" || pg.Code == "42704")
}

func (p *protector) indexes(ctx context.Context, t *table) error {
	rows, err := p.tx.Query(ctx, `SELECT i.indisprimary, NOT i.indimmediate, i.indnullsnotdistinct, i.indrelid <> $1, c.relname,
			ARRAY(SELECT coalesce(CASE WHEN u.coll IN (0, a.attcollation) THEN a.attname::text END, '')
			        FROM unnest(i.indkey::int2[], i.indcollation::oid[]) WITH ORDINALITY u (k, coll, n)
			        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.k WHERE n <= i.indnkeyatts ORDER BY n),
			ARRAY(SELECT format('%I.%s', n.nspname, o.oprname)
			        FROM unnest(i.indclass::oid[]) WITH ORDINALITY k (c, n2) JOIN pg_opclass oc ON oc.oid = k.c
			        JOIN pg_amop m ON m.amopfamily = oc.opcfamily AND m.amopstrategy = 3 AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype
			        JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace ORDER BY k.n2),
			(SELECT string_agg(pg_get_indexdef(i.indexrelid, n::int, true) || coalesce((SELECT format(' COLLATE %I.%I', s.nspname, l.collname)
			          FROM pg_collation l JOIN pg_namespace s ON s.oid = l.collnamespace WHERE l.oid = i.indcollation[n - 1]), ''), ', ' ORDER BY n) FROM generate_series(1, i.indnkeyatts) n),
			coalesce(pg_get_expr(i.indpred, i.indrelid, true), '')
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indisunique AND i.indisvalid AND (i.indrelid = $1 OR i.indrelid IN (SELECT p.relid FROM pg_partition_tree($1) p)
			AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)) ORDER BY c.relname, c.oid`, t.oid)
	if err != nil {
		return err
	}
	var primary, deferrable, nullsEqual, ofPartition bool
	var name, exprs, predicate string
	var names, operators []string
	_, err = pgx.ForEachRow(rows, []any{&primary, &deferrable, &nullsEqual, &ofPartition, &name, &names, &operators, &exprs, &predicate}, func() error {
		var cols []column
		plain := predicate == ""
		for i, n := range names {
			j := slices.IndexFunc(t.Columns, func(c column) bool { return c.Name == n }) // of an expression: none
			if j < 0 {
				plain = false
				continue
			}
			c := t.Columns[j]
			c.operator = operators[i]
			cols = append(cols, c)
		}
		switch {
		case primary && deferrable:
			return &NoKeyError{Table: t.Name, Reason: "has a deferrable primary key, which does not identify a row within a statement"}
		case primary:
			t.Keys = cols
			return nil
		}
		u := unique{name: name, number: len(t.Uniques) + 1, Deferrable: deferrable, nullsEqual: nullsEqual, ofPartition: ofPartition}
		if plain {
			u.columns = cols
		} else {
			u.exprs, u.predicate = exprs, predicate
		}
		t.Uniques = append(t.Uniques, u)
		return nil
	})
	if err != nil {
		return err
	}
	if len(t.Keys) == 0 {
		return &NoKeyError{Table: t.Name, Reason: "has no primary key; add one, rows can't be identified without"}
	}
	return nil
}

// named are columns by their names, which are there.
func (t *table) named(names []string) []column {
	var out []column
	for _, name := range names {
		i := slices.IndexFunc(t.Columns, func(c column) bool { return c.Name == name })
		out = append(out, t.Columns[max(i, 0)])
	}
	return out
}

func (t *table) keyNames() []string {
	var names []string
	for _, c := range t.Keys {
		names = append(names, c.Name)
	}
	return names
}
