package undolog

import (
	"regexp"
	"slices"
)

// Parts of the queries.
const (
	userTables = `pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
		AND n.nspname NOT IN ('handfast', 'information_schema') AND n.nspname !~ '^pg_'`
	// ownedTables are those that a person made, and no extension.
	ownedTables = userTables + ` AND NOT c.relispartition
		AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`
	// members are the tables that have functions, and the partitions below them.
	members = `WITH RECURSIVE member (id, capture, root, rel) AS (
		SELECT p.id, p.capture, p.rel::oid, p.rel::oid FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel WHERE p.fingerprint <> ''
		UNION ALL SELECT m.id, m.capture, m.root, i.inhrelid FROM member m JOIN pg_inherits i ON i.inhparent = m.rel
			JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition) `
	// ours are our triggers. Their names hold a control character, and are written
	// without it.
	ours = `(SELECT t.tgrelid, t.tgname, t.tgenabled, f.proname,
			CASE WHEN t.tgname LIKE chr(1) || '%' THEN format('U&"\0001%s"', substr(t.tgname, 2)) ELSE quote_ident(t.tgname) END AS name
		FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
		WHERE f.pronamespace = 'handfast'::regnamespace AND NOT t.tgisinternal)`
)

// shell quotes a name for a shell.
func shell(name string) string {
	return `(SELECT CASE WHEN s ~ '^[a-z0-9_.]+$' THEN s ELSE '''' || replace(s, '''', '''\''''') || '''' END FROM (SELECT ` + name + `::text) x (s))`
}

func protect(name string) string { return `'handfast pg protect ' || ` + shell(name) }

// schemaComplete looks for what Install makes and somebody dropped.
func schemaComplete() check {
	sql := InstallSQL()
	names := func(pattern string) []string {
		var out []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(sql, -1) {
			if !slices.Contains(out, m[1]) {
				out = append(out, m[1])
			}
		}
		return out
	}
	return check{
		name: "schema", severity: SeverityError,
		sql: `SELECT 'function handfast.' || f, 'is missing', 'handfast pg install' FROM unnest($1::text[]) f
			WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'handfast'::regnamespace AND p.proname = f)
			UNION ALL SELECT 'table or index handfast.' || r, 'is missing', 'handfast pg install' FROM unnest($2::text[]) r
			WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'handfast'::regnamespace AND c.relname = r)`,
		args: []any{
			names(`FUNCTION handfast\.(\w+)\(`),
			append(names(`(?:TABLE|SEQUENCE) IF NOT EXISTS handfast\.(\w+)`), names(`INDEX IF NOT EXISTS (\w+)`)...),
		},
	}
}

// checks are in the order in which they are shown: what is broken first.
func checks(l limits) []check {
	return slices.Concat(tableChecks(), triggerChecks(), rightsChecks(), leftoverChecks(l), settingChecks(), sizeChecks(l))
}

func tableChecks() []check {
	return []check{
		// Only where event triggers could not be made: else the drop forgets it.
		{name: "gone", severity: SeverityError, sql: `SELECT 'table ' || p.rel::oid, 'was protected and is gone', 'handfast pg protect'
			FROM handfast.protected p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.rel)`},
		{name: "altered", severity: SeverityError, sql: `WITH stale AS (
				SELECT p.rel, p.capture FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel WHERE p.fingerprint <> handfast.fingerprint(p.rel)
				AND handfast.fires_always(p.rel) IS NULL) -- see acts-on-rollback, which goes first
			SELECT p.rel::text, 'was altered, or a table without capture that a foreign key joins to it, since its functions were made: global transactions are refused there, or not guarded',
				` + protect("p.rel") + `
			FROM handfast.protected p WHERE p.capture AND (p.rel IN (SELECT s.rel FROM stale s) OR EXISTS (
				SELECT FROM pg_constraint k JOIN stale s ON NOT s.capture AND s.rel IN (handfast.root(k.conrelid), handfast.root(k.confrelid))
				 WHERE k.contype = 'f' AND p.rel IN (handfast.root(k.conrelid), handfast.root(k.confrelid)))) ORDER BY 1`},
		{name: "incomplete", severity: SeverityError, sql: members + `, part (root, name) AS (
			SELECT m.root, 'function ' || w || '_' || m.id FROM member m, unnest('{row,plan,restore,verify}'::text[]) w
			 WHERE m.rel = m.root AND m.capture AND to_regproc(format('handfast.%I', w || '_' || m.id)) IS NULL
			UNION ALL
			SELECT m.root, format('triggers of %s_%s on %s', w.name, m.id, m.rel::regclass)
			  FROM member m, LATERAL (SELECT 'row', 3 WHERE m.capture
				UNION ALL SELECT 'fk', 1 WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND m.root IN (handfast.root(k.conrelid), handfast.root(k.confrelid)))) w (name, n)
			 WHERE w.n > (SELECT count(*) FROM ` + ours + ` t WHERE t.tgrelid = m.rel AND t.proname = w.name || '_' || m.id))
			SELECT p.root::regclass::text, 'lacks ' || string_agg(p.name, ', ' ORDER BY p.name) || ': what global transactions write there is not guarded, or can not be undone',
				CASE WHEN (SELECT t.capture FROM handfast.protected t WHERE t.rel = p.root) THEN ` + protect("p.root::regclass") + `
				-- A neighbour is made with what it is joined to.
				ELSE (SELECT ` + protect("o.rel") + ` FROM pg_constraint k JOIN handfast.protected o ON o.capture AND o.rel IN (handfast.root(k.conrelid), handfast.root(k.confrelid))
					WHERE k.contype = 'f' AND p.root IN (handfast.root(k.conrelid), handfast.root(k.confrelid)) LIMIT 1) END
			FROM part p GROUP BY p.root ORDER BY 1`},
		{name: "guard-off", severity: SeverityWarning, sql: `SELECT p.rel::text, 'is not guarded against sessions without a global transaction: a rollback can meet what they wrote, and stops',
				'handfast pg protect --guard enforce ' || ` + shell("p.rel") + `
			FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel WHERE p.capture AND NOT p.enforce`},
		// A partition that is found by an expression leaves no place for a key.
		{name: "no-key", severity: SeverityWarning, sql: `SELECT c.oid::regclass::text, 'has no primary key and can not be protected', format('ALTER TABLE %s ADD %s', c.oid::regclass, coalesce(
				-- A unique index without NULLs will do; else a new column.
				(SELECT format('PRIMARY KEY (%s)', string_agg(quote_ident(a.attname), ', ' ORDER BY k.n))
				   FROM (SELECT i.* FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
				           AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) AND NOT a.attnotnull) ORDER BY i.indnkeyatts LIMIT 1) i
				   CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (num, n) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
				  WHERE k.n <= i.indnkeyatts GROUP BY i.indexrelid),
				(SELECT format('%1$s uuid DEFAULT gen_random_uuid(), ADD PRIMARY KEY (%1$s, %2$s)', f.name, string_agg(quote_ident(a.attname), ', '))
				   FROM pg_partitioned_table t JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (t.partattrs) WHERE t.partrelid = c.oid HAVING count(*) > 0),
				f.name || ' bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY'))
			FROM (SELECT c.*, CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'id') THEN 'row_id' ELSE 'id' END AS name FROM (
				SELECT c.oid FROM ` + ownedTables + ` AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
				AND NOT EXISTS (SELECT FROM pg_partitioned_table t WHERE t.partrelid = c.oid AND t.partexprs IS NOT NULL)) c) f
			JOIN pg_class c ON c.oid = f.oid ORDER BY 1`},
		// What protect would refuse has no fix, and needs none: writes are refused.
		{name: "not-protected", severity: SeverityWarning, sql: `SELECT c.oid::regclass::text, 'is not protected: a global transaction that writes to it is refused', ` + protect("c.oid::regclass") + `
			FROM ` + ownedTables + ` AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
			AND NOT EXISTS (SELECT FROM pg_constraint x WHERE handfast.root(x.conrelid) = c.oid AND x.contype = 'x')
			AND NOT EXISTS (SELECT FROM handfast.protected p WHERE p.rel = c.oid AND p.capture) ORDER BY 1`},
	}
}

// enable makes triggers fire always, in one statement for each table.
func enable(name, problem, states string, severity Severity) check {
	return check{name: name, severity: severity, sql: `SELECT t.tgrelid::regclass::text, '` + problem + `: ' || string_agg(t.name, ', ' ORDER BY t.name),
			format('ALTER TABLE %s %s', t.tgrelid::regclass, string_agg('ENABLE ALWAYS TRIGGER ' || t.name, ', ' ORDER BY t.name))
		FROM ` + ours + ` t WHERE t.tgenabled IN (` + states + `) GROUP BY t.tgrelid ORDER BY 1`}
}

func triggerChecks() []check {
	return []check{
		{name: "refuse-trigger", severity: SeverityError, sql: `SELECT c.oid::regclass::text, CASE WHEN c.captured
				THEN 'lacks the trigger that refuses TRUNCATE while rows are undecided' ELSE 'lacks the trigger that refuses writes of global transactions: they would not be undone' END, 'handfast pg protect'
			FROM (SELECT c.oid, EXISTS (SELECT FROM handfast.protected p WHERE p.rel = handfast.root(c.oid) AND p.capture AND p.fingerprint <> '') AS captured FROM ` + userTables + `) c
			WHERE (c.captured OR (SELECT m.refusing FROM handfast.meta m))
			AND NOT EXISTS (SELECT FROM ` + ours + ` t WHERE t.tgrelid = c.oid AND t.tgname = CASE WHEN c.captured THEN 'handfast_truncate' ELSE 'handfast_refuse' END) ORDER BY 1`},
		enable("trigger-disabled", "has disabled triggers of Handfast", "'D', 'R'", SeverityError),
		enable("trigger-not-always", "has triggers of Handfast that do not fire in replica mode, so that what is applied from a publication passes the guard", "'O'", SeverityWarning),
		{name: "event-trigger", severity: SeverityError, sql: `SELECT 'event trigger ' || w.name, CASE WHEN e.oid IS NULL THEN 'is missing' ELSE 'is disabled' END
				|| ': new tables are not refused in global transactions, and altered ones are not noticed',
				CASE WHEN e.oid IS NULL THEN 'handfast pg install' ELSE format('ALTER EVENT TRIGGER %s ENABLE', w.name) END
			FROM unnest('{handfast_ddl,handfast_drop,handfast_start}'::text[]) w (name) LEFT JOIN pg_event_trigger e ON e.evtname = w.name
			WHERE (SELECT m.refusing FROM handfast.meta m) AND (e.oid IS NULL OR e.evtenabled IN ('D', 'R'))`},
		{name: "no-event-triggers", severity: SeverityWarning, sql: `SELECT 'event triggers', 'could not be made, as no superuser installed: each local commit looks at its locks, '
				|| 'and nothing stops DDL on tables with undecided rows', 'handfast pg install  # as a superuser'
			FROM handfast.meta m WHERE NOT m.refusing`},
		// What a rollback writes must not set off anything.
		{name: "acts-on-rollback", severity: SeverityError, sql: `WITH member (capture, rel) AS (
				SELECT p.capture, m.relid FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel,
				LATERAL (SELECT p.rel::oid UNION SELECT t.relid FROM pg_partition_tree(p.rel) t) m (relid))
			SELECT t.tgrelid::regclass::text, format('its trigger %I fires in replica mode, so it acts again when a rollback restores rows', t.tgname),
				format('ALTER TABLE %s ENABLE TRIGGER %I', t.tgrelid::regclass, t.tgname)
			FROM member m JOIN pg_trigger t ON t.tgrelid = m.rel JOIN pg_proc f ON f.oid = t.tgfoid
			WHERE m.capture AND t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND t.tgparentid = 0 AND f.pronamespace <> 'handfast'::regnamespace
			UNION ALL SELECT w.ev_class::regclass::text, format('its rule %I acts in replica mode, so it changes what a rollback restores', w.rulename),
				format('ALTER TABLE %s ENABLE RULE %I', w.ev_class::regclass, w.rulename)
			FROM member m JOIN pg_rewrite w ON w.ev_class = m.rel WHERE m.capture AND w.ev_type <> '1' AND w.ev_enabled IN ('A', 'R')`},
	}
}

func rightsChecks() []check {
	const restorers = `(SELECT p.rel, r.oid AS role, r.rolname, r.rolsuper, r.rolbypassrls FROM handfast.protected p
		JOIN pg_proc f ON f.pronamespace = 'handfast'::regnamespace AND f.proname = 'restore_' || p.id
		JOIN pg_roles r ON r.oid = f.proowner WHERE p.capture) o`
	return []check{
		{name: "replica-role", severity: SeverityError, sql: `SELECT 'role ' || quote_ident(r.rolname), 'owns the schema and may not set session_replication_role, so nothing can be rolled back',
				'GRANT SET ON PARAMETER session_replication_role TO ' || quote_ident(r.rolname)
			FROM pg_proc f JOIN pg_roles r ON r.oid = f.proowner
			WHERE f.oid = 'handfast.rollback_undo(text, uuid[])'::regprocedure AND NOT r.rolsuper
			AND NOT has_parameter_privilege(r.oid, 'session_replication_role', 'SET')`},
		{name: "row-security", severity: SeverityError, sql: `SELECT c.oid::regclass::text, format('has row-level security for role %I, which rolls back: it may not see all rows', o.rolname),
				format('ALTER ROLE %I BYPASSRLS', o.rolname)
			FROM ` + restorers + ` JOIN pg_class c ON c.oid = o.rel
			WHERE c.relrowsecurity AND NOT o.rolsuper AND NOT o.rolbypassrls AND (c.relforcerowsecurity OR NOT pg_has_role(o.role, c.relowner, 'USAGE'))`},
		{name: "table-rights", severity: SeverityError, sql: `SELECT o.rel::text, format('may not be written by role %I, which rolls back', o.rolname),
				format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', o.rel, o.rolname)
			FROM ` + restorers + ` JOIN pg_class c ON c.oid = o.rel
			WHERE NOT (has_table_privilege(o.role, o.rel, 'SELECT') AND has_table_privilege(o.role, o.rel, 'INSERT')
				AND has_table_privilege(o.role, o.rel, 'UPDATE') AND has_table_privilege(o.role, o.rel, 'DELETE'))`},
	}
}
