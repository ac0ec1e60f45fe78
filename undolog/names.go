package undolog

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ownPath is the path that our functions run with. What is read under it is
// qualified as they need it.
const ownPath = "SET LOCAL search_path = pg_catalog, pg_temp"

// resolve finds the tables, with those that inherit from them. Only their names
// are the caller's, so his path ends here.
func (p *protector) resolve(ctx context.Context, names []string) ([]uint32, error) {
	var oids []uint32
	for _, name := range names {
		found, err := tableOIDs(ctx, p.tx, name)
		if err != nil {
			return nil, err
		}
		oids = append(oids, found...)
	}
	if _, err := p.tx.Exec(ctx, ownPath); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return p.stale(ctx)
	}
	rows, err := p.tx.Query(ctx, `WITH RECURSIVE t (oid) AS (
			SELECT handfast.root(o)::oid FROM unnest($1::oid[]) o
			UNION SELECT i.inhrelid FROM t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition)
		SELECT oid FROM t ORDER BY oid`, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

// stale finds the tables that were altered, or whose neighbour was. Without event
// triggers nobody else forgets those that are gone.
func (p *protector) stale(ctx context.Context) ([]uint32, error) {
	err := p.do(ctx, `WITH gone AS (DELETE FROM handfast.protected p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.rel)
    AND NOT EXISTS (SELECT FROM handfast.undo u WHERE u.tab = p.id) RETURNING p.id)
  SELECT handfast.drop_functions(gone.id) FROM gone`)
	if err != nil {
		return nil, err
	}
	rows, err := p.tx.Query(ctx, `WITH stale AS (SELECT p.rel, p.capture FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel WHERE p.fingerprint <> handfast.fingerprint(p.rel))
		SELECT t.rel::oid FROM handfast.protected t WHERE t.capture AND (t.rel IN (SELECT rel FROM stale) OR EXISTS (
			SELECT FROM pg_constraint k JOIN stale o ON NOT o.capture AND o.rel IN (handfast.root(k.conrelid), handfast.root(k.confrelid))
			 WHERE k.contype = 'f' AND t.rel IN (handfast.root(k.conrelid), handfast.root(k.confrelid)))) ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

// tableOIDs finds the tables that a name or a pattern stands for. A table comes
// before a schema of its name.
func tableOIDs(ctx context.Context, tx pgx.Tx, name string) ([]uint32, error) {
	if strings.ContainsAny(name, "*?") && !strings.Contains(name, `"`) {
		schema, relation, qualified := strings.Cut(name, ".")
		if !qualified {
			schema, relation = "", name
		}
		return matching(ctx, tx, name, like(schema), like(relation))
	}
	var oid *uint32
	// A name that can't be read must not end the transaction.
	err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error {
		return sp.QueryRow(ctx, "SELECT to_regclass($1)::oid", name).Scan(&oid)
	})
	if err == nil && oid != nil {
		return []uint32{*oid}, nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ctx.Err() != nil || ok && pg.Code == "42501" {
		return nil, err
	}
	var schema string
	err = tx.QueryRow(ctx, "SELECT nspname FROM pg_namespace WHERE nspname = $1 OR quote_ident(nspname) = $1", name).Scan(&schema)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, &NoTableError{Table: name}
	case err != nil:
		return nil, err
	}
	return matching(ctx, tx, name, escaper.Replace(schema), "%")
}

var (
	escaper = strings.NewReplacer(`\`, `\\`, "_", `\_`, "%", `\%`)
	stars   = strings.NewReplacer("*", "%", "?", "_")
)

// like turns a pattern of ours into one of SQL.
func like(pattern string) string { return stars.Replace(escaper.Replace(pattern)) }

// matching finds the tables of a pattern. One without a key is left out, unless
// it is protected and lost its key.
func matching(ctx context.Context, tx pgx.Tx, name, schema, relation string) ([]uint32, error) {
	rows, err := tx.Query(ctx, `SELECT c.oid, EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
			OR EXISTS (SELECT FROM handfast.protected p WHERE p.rel = c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
		AND n.nspname NOT IN ('handfast', 'information_schema') AND n.nspname !~ '^pg_'
		AND c.relname LIKE $2 AND CASE WHEN $1 = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname LIKE $1 END ORDER BY c.oid`, schema, relation)
	if err != nil {
		return nil, err
	}
	var oids []uint32
	var oid uint32
	var keyed bool
	keyless := 0
	_, err = pgx.ForEachRow(rows, []any{&oid, &keyed}, func() error {
		if keyed {
			oids = append(oids, oid)
		} else {
			keyless++
		}
		return nil
	})
	if err == nil && len(oids) == 0 {
		return nil, &NoTableError{Table: name, Pattern: true, Keyless: keyless}
	}
	return oids, err
}
