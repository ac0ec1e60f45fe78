package undolog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // a promise does not hold
	SeverityWarning Severity = "warning" // something to look at
)

// Finding is one thing that Doctor found, with what mends it.
type Finding struct {
	Check    string   `json:"check"` // its name, for programs
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`
	Problem  string   `json:"problem"`
	Fix      string   `json:"fix"` // a command: of handfast for a shell, any other one for psql
}

// limits are from where on something is worth a word.
type limits struct {
	leftover    time.Duration // how long settling takes at the most when everything works
	held        time.Duration // of an open transaction
	dead        int64         // rows
	heap, index int64         // bytes; a busy minute without any VACUUM stays below
}

var usual = limits{leftover: time.Minute, held: 10 * time.Minute, dead: 500_000, heap: 64 << 20, index: 64 << 20}

// check is one look: a query that gives object, problem and fix.
type check struct {
	name     string
	severity Severity
	sql      string
	args     []any
}

// Beginner begins transactions; *pgx.Conn, pgx.Tx and *pgxpool.Pool are one.
type Beginner interface {
	DB
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Doctor looks for what keeps the promises from holding in this database. An
// empty result is a healthy one. It only reads, and waits for no lock longer than
// a moment: what it could not look at because of one is a finding, too. Needs the
// rights of the schema's owner.
func Doctor(ctx context.Context, db Beginner) ([]Finding, error) { return doctor(ctx, db, usual) }

func doctor(ctx context.Context, db Beginner, l limits) ([]Finding, error) {
	if _, err := Inspect(ctx, db); err != nil {
		return nil, err
	}
	// Without the whole schema the other questions can't be asked.
	out, err := examine(ctx, db, schemaComplete())
	if err != nil || len(out) > 0 {
		return out, explain("doctor", err)
	}
	for _, c := range checks(l) {
		found, err := examine(ctx, db, c)
		if err != nil {
			return nil, explain("doctor", fmt.Errorf("%s: %w", c.name, err))
		}
		out = append(out, found...)
	}
	return out, nil
}

// examine makes one look, in a transaction of its own: a lock that is in the way
// of one spares the others.
func examine(ctx context.Context, db Beginner, c check) ([]Finding, error) {
	var out []Finding
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// Names are written with their schema, so that the fix works in any session.
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', '200ms', true), set_config('statement_timeout', '5s', true),
			set_config('search_path', 'pg_catalog, pg_temp', true), set_config('jit', 'off', true)`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, c.sql, c.args...)
		if err != nil {
			return err
		}
		f := Finding{Check: c.name, Severity: c.severity}
		_, err = pgx.ForEachRow(rows, []any{&f.Object, &f.Problem, &f.Fix}, func() error {
			out = append(out, f)
			return nil
		})
		return err
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "55P03" || pg.Code == "57014") && ctx.Err() == nil {
		return []Finding{{
			Check: c.name, Severity: SeverityWarning, Object: "check " + c.name,
			Problem: "could not be made: " + pg.Message, Fix: "handfast pg doctor",
		}}, nil
	}
	return out, err
}
