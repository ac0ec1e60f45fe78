package undolog

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`
	Problem  string   `json:"problem"`
	Fix      string   `json:"fix"`
}

// leftover is how long a settled transaction's intents take at the most, when
// everything works.
const leftover = time.Minute

// checks are queries that each give object, problem and fix.
var checks = []struct {
	severity Severity
	sql      string
}{
	{SeverityError, `SELECT p.rel::text, 'was altered since its functions were made', 'handfast pg protect ' || p.rel::text
		FROM handfast.protected p WHERE p.fingerprint <> handfast.fingerprint(p.rel)`},
	{SeverityError, `SELECT p.rel::text, 'its capture trigger is missing', 'handfast pg protect ' || p.rel::text
		FROM handfast.protected p WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = p.rel AND t.tgname LIKE chr(1) || 'handfast%')`},
	{SeverityError, `SELECT p.rel::text, 'its trigger ' || quote_ident(t.tgname) || ' is disabled', 'ALTER TABLE ' || p.rel::text || ' ENABLE TRIGGER USER'
		FROM handfast.protected p JOIN pg_trigger t ON t.tgrelid = p.rel
		WHERE (t.tgname LIKE chr(1) || 'handfast%' OR t.tgname IN ('handfast_truncate', '~handfast')) AND t.tgenabled IN ('D', 'R')`},
	{SeverityError, `SELECT 'role ' || quote_ident(r.rolname), 'owns the schema and may not set session_replication_role, so nothing can be rolled back',
			'GRANT SET ON PARAMETER session_replication_role TO ' || quote_ident(r.rolname)
		FROM pg_proc f JOIN pg_roles r ON r.oid = f.proowner
		WHERE f.oid = 'handfast.rollback_undo(text, uuid[])'::regprocedure AND NOT r.rolsuper
		AND NOT has_parameter_privilege(r.oid, 'session_replication_role', 'SET')`},
	{SeverityError, `SELECT 'role ' || quote_ident(current_user), 'may not settle', 'handfast pg install --grant ' || quote_ident(current_user)
		WHERE NOT has_function_privilege('handfast.rollback_undo(text, uuid[])', 'EXECUTE')`},
	{SeverityWarning, `SELECT c.oid::regclass::text, 'has no primary key and can not be protected', 'ALTER TABLE ' || c.oid::regclass::text || ' ADD PRIMARY KEY (...)'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('handfast', 'information_schema') AND n.nspname NOT LIKE 'pg\_%'
		AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)`},
	{SeverityWarning, `SELECT c.oid::regclass::text, 'is not protected: a global transaction that writes to it is refused', 'handfast pg protect ' || c.oid::regclass::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('handfast', 'information_schema') AND n.nspname NOT LIKE 'pg\_%'
		AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
		AND NOT EXISTS (SELECT FROM handfast.protected p WHERE p.rel = c.oid)`},
	{SeverityError, `SELECT 'setting ' || s.name, 'is ' || s.setting || ': a crash of the server can lose what was committed', 'ALTER SYSTEM SET ' || s.name || ' = on'
		FROM pg_settings s WHERE s.name IN ('fsync', 'full_page_writes') AND s.setting = 'off'`},
}

// Doctor looks for what keeps the promises from holding in this database. An
// empty result is a healthy one. Needs the rights of the schema's owner.
func Doctor(ctx context.Context, db DB) ([]Finding, error) {
	if _, err := Inspect(ctx, db); err != nil {
		return nil, err
	}
	var out []Finding
	for _, c := range checks {
		rows, err := db.Query(ctx, c.sql)
		if err != nil {
			return nil, explain("doctor", err)
		}
		var object, problem, fix string
		if _, err := pgx.ForEachRow(rows, []any{&object, &problem, &fix}, func() error {
			out = append(out, Finding{Severity: c.severity, Object: object, Problem: problem, Fix: fix})
			return nil
		}); err != nil {
			return nil, explain("doctor", err)
		}
	}
	left, err := Pending(ctx, db, leftover)
	if err != nil {
		return nil, explain("doctor", err)
	}
	for _, p := range left {
		out = append(out, Finding{
			Severity: SeverityWarning, Object: "transaction " + p.XID.String(),
			Problem: fmt.Sprintf("has %d intents since %s", p.Intents, p.Since.UTC().Format(time.RFC3339)),
			Fix:     "handfast tx show " + p.XID.String(),
		})
	}
	return out, nil
}
