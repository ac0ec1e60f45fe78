package undolog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// VacuumDead is how many dead rows are left to autovacuum: some megabytes.
const VacuumDead = 20_000

// vacuumWorth finds those of our tables that have many dead rows. That of the
// fences is left to autovacuum once it is large: going through it takes long, and
// most of it is alive. Whoever may not vacuum a table gets a warning in the
// server's log each time, so it is not tried then.
const vacuumWorth = `SELECT c.oid::regclass::text
	FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid
	WHERE c.relnamespace = 'handfast'::regnamespace AND c.relkind = 'r'
	AND s.n_dead_tup > $1 AND (c.relname IN ('undo', 'gate', 'step')
		OR c.relname = 'fence' AND s.n_live_tup < 1000000 AND s.n_dead_tup > s.n_live_tup / 5)
	AND CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN')
		ELSE pg_has_role(c.relowner, 'USAGE') END
	ORDER BY 1`

// VacuumDue finds those of our tables in which more than dead rows wait for
// VACUUM. It finds none for a role that neither owns the schema's tables nor, from
// Postgres 17 on, has MAINTAIN on them.
func VacuumDue(ctx context.Context, db DB, dead int64) ([]string, error) {
	rows, err := db.Query(ctx, vacuumWorth, dead)
	if err != nil {
		return nil, fmt.Errorf("look for dead rows: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for dead rows: %w", err)
	}
	return tables, nil
}

// Vacuum has Postgres reuse the room of rows that are gone, in tables that
// VacuumDue found. Autovacuum looks once in autovacuum_naptime, a minute by
// default, in which these tables can be filled a hundred times over. It waits for
// no lock, holds up nobody, and leaves files as long as they are. conn must be
// outside of a transaction.
func Vacuum(ctx context.Context, conn *pgx.Conn, tables ...string) error {
	var err error
	for _, name := range tables {
		// Not prepared: behind a pooler nobody would ask for it again.
		if _, verr := conn.Exec(ctx, "VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF, SKIP_LOCKED) "+name, pgx.QueryExecModeSimpleProtocol); verr != nil {
			err = errors.Join(err, fmt.Errorf("vacuum %s: %w", name, verr))
		}
	}
	return err
}
