package undolog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// captureTrigger sorts before every name that a person gives: triggers fire by
// name, and a change that another trigger makes has to be captured after the
// change that made it fire.
const captureTrigger = "\x01handfast"

const truncateTrigger = "handfast_truncate"

// ProtectedTable is a table with capture and guard.
type ProtectedTable struct {
	ID   int
	Name string   // qualified and quoted as Postgres does it
	Keys []string // columns of the primary key, in its order
}

// Protect puts capture and guard on tables, named as "table" or "schema.table",
// in one transaction. It may be called again, and has to be after the columns
// or unique indexes of a table changed. It waits for open writers of a table.
// Errors, for errors.As: *NoTableError, *NoKeyError, *NotProtectableError.
func Protect(ctx context.Context, conn *pgx.Conn, tables ...string) ([]ProtectedTable, error) {
	var out []ProtectedTable
	err := locked(ctx, conn, func(tx pgx.Tx) error {
		out = nil // a repeated attempt
		for _, name := range tables {
			t, err := describe(ctx, tx, name)
			if err != nil {
				return err
			}
			if err := t.register(ctx, tx); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, t.sql()); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			out = append(out, ProtectedTable{ID: t.id, Name: t.name, Keys: t.keyNames()})
		}
		return nil
	})
	if err != nil {
		return nil, explain("protect", err)
	}
	return out, nil
}

// ProtectSQL gives the SQL that Protect would run for one table, for reading.
func ProtectSQL(ctx context.Context, conn *pgx.Conn, name string) (string, error) {
	var sql string
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		t, err := describe(ctx, tx, name)
		if err != nil {
			return err
		}
		if err := t.register(ctx, tx); err != nil {
			return err
		}
		sql = t.sql()
		return errOnlyPrint
	})
	if !errors.Is(err, errOnlyPrint) {
		return "", explain("protect", err)
	}
	return sql, nil
}

var errOnlyPrint = errors.New("only printed")

// Unprotect takes capture and guard off tables. It is refused while a table has
// intents: without them nothing would keep their rows as they are.
func Unprotect(ctx context.Context, conn *pgx.Conn, tables ...string) error {
	return explain("unprotect", locked(ctx, conn, func(tx pgx.Tx) error {
		for _, name := range tables {
			t, err := describe(ctx, tx, name)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "LOCK TABLE "+t.name+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
				return err
			}
			var id int
			var intents int64
			err = tx.QueryRow(ctx, `SELECT p.id, (SELECT count(*) FROM handfast.undo u WHERE u.tab = p.id)
				FROM handfast.protected p WHERE p.rel = $1`, t.oid).Scan(&id, &intents)
			if errors.Is(err, pgx.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			if intents > 0 {
				return &NotProtectableError{Table: t.name, Reason: fmt.Sprintf("has %d intents of undecided transactions; wait until they are settled", intents)}
			}
			sql := fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s; DROP TRIGGER IF EXISTS %s ON %s; DROP FUNCTION IF EXISTS handfast.row_%d(); DELETE FROM handfast.protected WHERE id = %d; SELECT handfast.refuse_rest()",
				quote(captureTrigger), t.name, truncateTrigger, t.name, id, id)
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	}))
}

// table is what the generator needs to know.
type table struct {
	id      int
	oid     uint32
	name    string
	columns []column
	keys    []column // in key order
	uniques []unique
}

type column struct {
	num       int16
	name      string
	kind      string // its type, as SQL
	safe      bool   // its text form does not depend on settings
	textual   bool   // its text form is equal exactly where its values are
	blank     bool   // bpchar
	hashes    bool   // its type has a hash function; known for columns of keys
	generated bool
}

// unique is a unique index that is not the primary key.
type unique struct {
	name       string
	columns    []column // empty: expressions or a predicate are in the way
	exprs      string   // its columns as written, for those
	predicate  string
	deferrable bool
	nullsEqual bool
}

func describe(ctx context.Context, tx pgx.Tx, name string) (*table, error) {
	t := &table{}
	var kind string
	var partition, children, exclusion bool
	var schema string
	err := tx.QueryRow(ctx, `SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relispartition, n.nspname,
			EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid),
			EXISTS (SELECT FROM pg_constraint x WHERE x.conrelid = c.oid AND x.contype = 'x')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)`, name).
		Scan(&t.oid, &t.name, &kind, &partition, &schema, &children, &exclusion)
	if pg, ok := errors.AsType[*pgconn.PgError](err); errors.Is(err, pgx.ErrNoRows) || ok && pg.Code == "42602" {
		return nil, &NoTableError{Table: name}
	}
	if err != nil {
		return nil, err
	}
	switch {
	case kind != "r":
		return nil, &NotProtectableError{Table: t.name, Reason: "is not an ordinary table"}
	case schema == "handfast" || strings.HasPrefix(schema, "pg_"):
		return nil, &NotProtectableError{Table: t.name, Reason: "belongs to Handfast or to Postgres"}
	case children:
		return nil, &NotProtectableError{Table: t.name, Reason: "takes part in inheritance or partitioning"}
	case exclusion:
		return nil, &NotProtectableError{Table: t.name, Reason: "has an exclusion constraint, which can't be guarded"}
	}
	// The functions run with this path; what is read here has to be qualified
	// for it. Only the name of the table is the caller's.
	var path string
	if err := tx.QueryRow(ctx, "SELECT current_setting('search_path')").Scan(&path); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
		return nil, err
	}
	for _, read := range []func(context.Context, pgx.Tx) error{t.readColumns, t.readIndexes, t.resolveHashes} {
		if err := read(ctx, tx); err != nil {
			return nil, err
		}
	}
	_, err = tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", path)
	return t, err
}

// safeTypes have a text form that no setting changes.
const safeTypes = `'int2','int4','int8','text','varchar','bpchar','name','bool','uuid','numeric','jsonb','json','oid','inet','cidr','macaddr','bit','varbit','char'`

// textualTypes have no hash function; their text form, and that of their
// arrays, is equal exactly where the values are.
const textualTypes = `'bit','varbit','money','tsvector','tsquery'`

func (t *table) readColumns(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
			b.typname IN (`+safeTypes+`) AND b.typnamespace = 'pg_catalog'::regnamespace OR b.typtype = 'e',
			coalesce(e.typname, b.typname) IN (`+textualTypes+`) AND coalesce(e.typnamespace, b.typnamespace) = 'pg_catalog'::regnamespace,
			b.oid = 'bpchar'::regtype, a.attgenerated <> ''
		FROM pg_attribute a JOIN pg_type b ON b.oid = handfast.base_type(a.atttypid)
		LEFT JOIN pg_type e ON b.typcategory = 'A' AND e.oid = b.typelem
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, t.oid)
	if err != nil {
		return err
	}
	t.columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (column, error) {
		var c column
		err := row.Scan(&c.num, &c.name, &c.kind, &c.safe, &c.textual, &c.blank, &c.generated)
		return c, err
	})
	return err
}

// resolveHashes finds out which columns of keys have a hash function, by trying:
// whether an array or a row has one depends on what is in it.
func (t *table) resolveHashes(ctx context.Context, tx pgx.Tx) error {
	all := [][]column{t.keys}
	for _, u := range t.uniques {
		all = append(all, u.columns)
	}
	for _, cols := range all {
		for i := range cols {
			c := &cols[i]
			err := try(ctx, tx, fmt.Sprintf("SELECT hash_record_extended(ROW(NULL::%s), 0)", c.kind))
			if err != nil && !isUndefined(err) {
				return err
			}
			if c.hashes = err == nil; !c.hashes && !c.textual {
				return &NotProtectableError{Table: t.name, Reason: fmt.Sprintf(
					"has the column %s in a key, whose type %s has no hash function", c.name, c.kind)}
			}
		}
	}
	for i, u := range t.uniques {
		if u.columns != nil {
			continue
		}
		err := try(ctx, tx, fmt.Sprintf("SELECT hash_record_extended(ROW(%s), 0) FROM (SELECT (NULL::%s).*) r", u.exprs, t.name))
		if isUndefined(err) {
			return &NotProtectableError{Table: t.name, Reason: fmt.Sprintf(
				"has the unique index %s, which can't be guarded: %v", t.uniques[i].name, err)}
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

func (t *table) readIndexes(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT i.indisprimary, NOT i.indimmediate, i.indnullsnotdistinct, c.relname,
			ARRAY(SELECT k FROM unnest(i.indkey::int2[]) WITH ORDINALITY u (k, n) WHERE n <= i.indnkeyatts ORDER BY n),
			(SELECT string_agg(pg_get_indexdef(i.indexrelid, n::int, true), ', ' ORDER BY n) FROM generate_series(1, i.indnkeyatts) n),
			coalesce(pg_get_expr(i.indpred, i.indrelid, true), '')
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid ORDER BY c.relname`, t.oid)
	if err != nil {
		return err
	}
	var primary, deferrable, nullsEqual bool
	var name, exprs, predicate string
	var nums []int16
	_, err = pgx.ForEachRow(rows, []any{&primary, &deferrable, &nullsEqual, &name, &nums, &exprs, &predicate}, func() error {
		var cols []column
		plain := predicate == ""
		for _, n := range nums {
			c, ok := t.column(n)
			plain = plain && ok
			cols = append(cols, c)
		}
		switch {
		case primary && deferrable:
			return &NoKeyError{Table: t.name, Reason: "has a deferrable primary key, which does not identify a row within a statement"}
		case primary:
			t.keys = cols
			return nil
		}
		u := unique{name: name, deferrable: deferrable, nullsEqual: nullsEqual}
		if plain {
			u.columns = cols
		} else {
			u.exprs, u.predicate = exprs, predicate
		}
		t.uniques = append(t.uniques, u)
		return nil
	})
	if err != nil {
		return err
	}
	if len(t.keys) == 0 {
		return &NoKeyError{Table: t.name, Reason: "has no primary key; add one, rows can't be identified without"}
	}
	return nil
}

func (t *table) column(num int16) (column, bool) {
	for _, c := range t.columns {
		if c.num == num {
			return c, true
		}
	}
	return column{}, false
}

func (t *table) keyNames() []string {
	var names []string
	for _, c := range t.keys {
		names = append(names, c.name)
	}
	return names
}

// register gives the table its id. The fingerprint must not change under open
// intents: their images are made for the old columns.
func (t *table) register(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "LOCK TABLE "+t.name+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	var nums []int16
	for _, c := range t.keys {
		nums = append(nums, c.num)
	}
	var intents int64
	var changed bool
	err := tx.QueryRow(ctx, `SELECT p.id, p.fingerprint <> handfast.fingerprint(p.rel), (SELECT count(*) FROM handfast.undo u WHERE u.tab = p.id)
		FROM handfast.protected p WHERE p.rel = $1`, t.oid).Scan(&t.id, &changed, &intents)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return tx.QueryRow(ctx, `INSERT INTO handfast.protected (rel, keys, fingerprint)
			VALUES ($1, $2, handfast.fingerprint($1)) RETURNING id`, t.oid, nums).Scan(&t.id)
	case err != nil:
		return err
	case changed && intents > 0:
		return &NotProtectableError{Table: t.name, Reason: fmt.Sprintf("was altered and has %d intents made before; wait until they are settled", intents)}
	}
	_, err = tx.Exec(ctx, `UPDATE handfast.protected SET keys = $2, fingerprint = handfast.fingerprint(rel) WHERE rel = $1`, t.oid, nums)
	return err
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
