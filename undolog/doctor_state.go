package undolog

func leftoverChecks(l limits) []check {
	// One snapshot: a branch and its fence come, and go, in one transaction.
	const orphan = `NOT EXISTS (SELECT FROM handfast.fence f WHERE f.xid = r.xid AND f.state = 'L')`
	return []check{
		{name: "leftover", severity: SeverityWarning, sql: `SELECT 'transaction ' || p.xid, format('has %s undo rows since %s', p.intents, to_char(p.since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
				'handfast tx retry ' || p.xid || '  # where it is undecided: handfast tx rollback ' || p.xid
			FROM handfast.pending($1, $2) p`, args: []any{l.leftover, maxPending}},
		{name: "orphan", severity: SeverityError, sql: `SELECT 'transaction ' || r.xid, format('has %s undo rows and %s keys, and no live branch: they are in everybody''s way, and nothing takes them away; '
					|| 'first see what it changed: SELECT * FROM handfast.undo WHERE xid = %L', sum(r.undo), sum(r.gate), r.xid),
				format('WITH u AS (DELETE FROM handfast.undo r WHERE r.xid = %1$L AND %2$s) DELETE FROM handfast.gate r WHERE r.xid = %1$L AND %2$s', r.xid, $1::text)
			FROM (SELECT u.xid, 1 AS undo, 0 AS gate FROM handfast.undo u UNION ALL SELECT g.xid, 0, 1 FROM handfast.gate g) r
			WHERE ` + orphan + ` GROUP BY r.xid ORDER BY r.xid LIMIT 100`, args: []any{orphan}},
		{name: "old-fences", severity: SeverityWarning, sql: `SELECT 'handfast.fence', format('has fences of settled transactions since %s that nothing needs any more: no service drops them', to_char(f.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
				'handfast pg gc'
			FROM handfast.fence f WHERE f.state <> 'L' AND f.at < clock_timestamp() - 2 * (SELECT m.max_age FROM handfast.meta m) - interval '10 minutes'
				AND NOT EXISTS (SELECT FROM handfast.undo u WHERE u.xid = f.xid) AND NOT EXISTS (SELECT FROM handfast.fence l WHERE l.xid = f.xid AND l.state = 'L')
			ORDER BY f.at LIMIT 1`},
	}
}

func settingChecks() []check {
	// What the command line says, ALTER SYSTEM does not change.
	const mend = `CASE s.source WHEN 'command line' THEN format('# start the server without -c %s=off', s.name)
		ELSE format('ALTER SYSTEM SET %s = on; SELECT pg_reload_conf()', s.name) END`
	return []check{
		{name: "durability", severity: SeverityError, sql: `SELECT 'setting ' || s.name, 'is off: a crash of the server can lose what was committed', ` + mend + `
			FROM pg_settings s WHERE s.name IN ('fsync', 'full_page_writes') AND s.setting = 'off'`},
		{name: "autovacuum", severity: SeverityWarning, sql: `SELECT 'setting ' || s.name, 'is off: the tables of Handfast, and all others, only grow', ` + mend + `
			FROM pg_settings s WHERE s.name = 'autovacuum' AND s.setting = 'off'
			UNION ALL SELECT c.oid::regclass::text, 'has autovacuum switched off, and only grows', format('ALTER TABLE %s RESET (autovacuum_enabled)', c.oid::regclass)
			FROM pg_class c WHERE c.relnamespace = 'handfast'::regnamespace
			AND EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean)`},
	}
}

func sizeChecks(l limits) []check {
	return []check{
		{name: "held-back", severity: SeverityWarning, sql: `SELECT 'backend ' || a.pid, format('has a transaction open since %s: dead rows can not be cleared away meanwhile',
				to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), format('SELECT pg_terminate_backend(%s)', a.pid)
			FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.datname = current_database() AND a.pid <> pg_backend_pid()
			AND a.xact_start < clock_timestamp() - $1::interval AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)`, args: []any{l.held}},
		// Statistics are lost in a crash, what VACUUM counted is not. VACUUM FULL
		// writes the little that is alive anew, with its indexes.
		{name: "bloat", severity: SeverityWarning, sql: `WITH t AS (
				SELECT c.oid, s.n_dead_tup AS dead, greatest(s.n_live_tup, c.reltuples, 0)::bigint AS alive, pg_relation_size(c.oid) AS size
				  FROM pg_class c JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.relnamespace = 'handfast'::regnamespace AND c.relkind = 'r'),
			v AS (SELECT t.*, t.dead > greatest($1::bigint, t.alive) AS vacuum, t.size > greatest($2::bigint, t.alive * 2000) AS large FROM t)
			SELECT v.oid::regclass::text, CASE WHEN v.vacuum THEN format('has %s dead rows beside %s others', v.dead, v.alive)
					ELSE format('takes up %s for %s rows', pg_size_pretty(v.size), v.alive) END,
				CASE WHEN v.vacuum THEN 'VACUUM ' ELSE 'VACUUM FULL ' END || v.oid::regclass
			FROM v WHERE v.vacuum OR v.large
			UNION ALL
			SELECT i.indexrelid::regclass::text, format('takes up %s for %s rows of %s', pg_size_pretty(pg_relation_size(i.indexrelid)), v.alive, v.oid::regclass),
				'REINDEX INDEX CONCURRENTLY ' || i.indexrelid::regclass
			FROM v JOIN pg_index i ON i.indrelid = v.oid WHERE NOT v.vacuum AND NOT v.large
			AND pg_relation_size(i.indexrelid) > greatest($3::bigint, v.alive * 1000)`, args: []any{l.dead, l.heap, l.index}},
	}
}
