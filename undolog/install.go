package undolog

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed sql/*.sql
var installFS embed.FS

// InstallSQL is what Install runs: the files in sql/, in the order of their names.
func InstallSQL() string {
	entries, err := installFS.ReadDir("sql")
	if err != nil {
		return "" // it is part of the program
	}
	var b strings.Builder
	for _, e := range entries {
		text, _ := installFS.ReadFile("sql/" + e.Name()) // the same
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

// Install makes or upgrades the handfast schema of the database, in one
// transaction. It may be called again, and by several processes at once. Errors,
// for errors.Is: ErrServerTooOld, ErrPrivilege.
func Install(ctx context.Context, conn *pgx.Conn) error {
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := checkServer(version); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	err := locked(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, InstallSQL())
		return err
	})
	return explain("install", err)
}

// Grant lets a role settle: read what is pending, answer for branches, carry out
// decisions, and be told which XID holds a row, which waiting for it takes. Services
// that only use tables need nothing but their own rights; a conflict names the row
// to them, and no XID.
func Grant(ctx context.Context, conn *pgx.Conn, role string) error {
	_, err := conn.Exec(ctx, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA handfast TO "+pgx.Identifier{role}.Sanitize())
	return explain("grant", err)
}

// locked runs fn in a transaction that only one process runs at a time.
func locked(ctx context.Context, conn *pgx.Conn, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(4263, 1)"); err != nil {
			return err
		}
		return fn(tx)
	})
}

func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "42501":
			return fmt.Errorf("%s: %w: %w", what, ErrPrivilege, err)
		case "3F000", "42883", "42P01":
			if strings.Contains(pg.Message, "handfast") {
				return fmt.Errorf("%s: %w: %w", what, ErrNotInstalled, err)
			}
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}
