-- What guards the tables themselves: writes without capture, TRUNCATE, and DDL.
-- Queries of the catalogue look dear to the planner, and compiling them takes longer
-- than running them: hence jit = off.

-- refuse_write sits on every table without capture: what a global transaction
-- does there could not be undone. Other sessions pass.
CREATE OR REPLACE FUNCTION handfast.refuse_write() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF current_setting('handfast.xid', true) <> '' THEN
    RAISE EXCEPTION '% of table % without capture in global transaction %', TG_OP, TG_RELID::regclass, current_setting('handfast.xid')
      USING ERRCODE = 'HF004', HINT = 'Run: handfast pg protect ' || TG_RELID::regclass::text;
  END IF;
  RETURN NULL;
END $f$;

-- root is the table whose functions serve a partition; of any other table itself.
CREATE OR REPLACE FUNCTION handfast.root(p_rel oid) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
$f$ SELECT coalesce(pg_partition_root(p_rel), p_rel)::regclass $f$;

-- arrange gives every table the triggers that its place asks for: those without
-- capture refuse; partitions of protected tables refuse TRUNCATE.
CREATE OR REPLACE FUNCTION handfast.arrange() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $f$
DECLARE
  r record;
BEGIN
  PERFORM set_config('handfast.arranging', pg_current_xact_id()::text, true);
  FOR r IN
    SELECT c.oid::regclass AS t,
           -- Before Postgres 16 foreign tables have no triggers for TRUNCATE.
           c.relkind <> 'f' OR current_setting('server_version_num')::int >= 160000 AS truncates,
           EXISTS (SELECT FROM handfast.protected p WHERE p.rel = handfast.root(c.oid) AND p.capture AND p.fingerprint <> '') AS captured,
           EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'handfast_refuse') AS refuses,
           EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'handfast_refuse_row') AS refuses_rows,
           EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'handfast_truncate') AS keeps,
           -- What is done to the parent reaches this table without its statement triggers.
           NOT c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS inherits
      FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND s.nspname <> 'handfast'
       AND s.nspname <> 'information_schema' AND s.nspname !~ '^pg_'
  LOOP
    IF r.captured AND NOT r.keeps THEN
      EXECUTE format('CREATE TRIGGER handfast_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION handfast.refuse_truncate()', r.t);
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER handfast_truncate', r.t);
    ELSIF r.keeps AND NOT r.captured THEN
      EXECUTE format('DROP TRIGGER handfast_truncate ON %s', r.t);
    END IF;
    IF r.captured AND r.refuses THEN
      EXECUTE format('DROP TRIGGER handfast_refuse ON %s', r.t);
    ELSIF NOT r.captured AND NOT r.refuses THEN
      EXECUTE format('CREATE TRIGGER handfast_refuse BEFORE INSERT OR UPDATE OR DELETE %s ON %s
        FOR EACH STATEMENT EXECUTE FUNCTION handfast.refuse_write()', CASE WHEN r.truncates THEN 'OR TRUNCATE' END, r.t);
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER handfast_refuse', r.t);
    END IF;
    IF r.refuses_rows AND (r.captured OR NOT r.inherits) THEN
      EXECUTE format('DROP TRIGGER handfast_refuse_row ON %s', r.t);
    ELSIF r.inherits AND NOT r.captured AND NOT r.refuses_rows THEN
      EXECUTE format('CREATE TRIGGER handfast_refuse_row AFTER INSERT OR UPDATE OR DELETE ON %s
        FOR EACH ROW EXECUTE FUNCTION handfast.refuse_write()', r.t);
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER handfast_refuse_row', r.t);
    END IF;
  END LOOP;
  -- Nobody switches ours off, or to the ordinary way of firing, by the way.
  FOR r IN SELECT g.tgrelid::regclass AS t, g.tgname FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
            WHERE f.pronamespace = 'handfast'::regnamespace AND g.tgenabled <> 'A' LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', r.t, r.tgname);
  END LOOP;
  PERFORM set_config('handfast.arranging', '', true);
END $f$;

-- ours tells whether a trigger is one of ours, by its name: it may be gone.
CREATE OR REPLACE FUNCTION handfast.ours(p_trigger name) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
$f$ SELECT p_trigger IN ('handfast_refuse', 'handfast_refuse_row', 'handfast_truncate', '~handfast', E'\x01handfast_i', E'\x01handfast_u', E'\x01handfast_d') $f$;

-- only_fresh refuses what rests on there being no intents, where the snapshot may
-- be older than one.
CREATE OR REPLACE FUNCTION handfast.only_fresh(p_tag text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION '% of a protected table needs READ COMMITTED: above it intents are not to be seen', p_tag USING ERRCODE = 'HF004';
  END IF;
END $f$;

CREATE OR REPLACE FUNCTION handfast.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  holder text;
BEGIN
  IF current_setting('handfast.xid', true) <> '' THEN
    RAISE EXCEPTION 'TRUNCATE of % can not be undone, so a global transaction may not do it', TG_RELID::regclass
      USING ERRCODE = 'HF004', HINT = 'Use DELETE.';
  END IF;
  PERFORM handfast.only_fresh(TG_OP);
  SELECT u.xid INTO holder FROM handfast.undo u JOIN handfast.protected p ON p.id = u.tab WHERE p.rel = handfast.root(TG_RELID) LIMIT 1;
  IF FOUND THEN
    PERFORM handfast.conflict(holder, TG_RELID::regclass::text, '(all rows)');
  END IF;
  RETURN NULL;
END $f$;

-- base_type is what a domain, or a domain over domains, is made of.
CREATE OR REPLACE FUNCTION handfast.base_type(p_type oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  WITH RECURSIVE b (oid, base) AS (
    SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = p_type
    UNION ALL
    SELECT t.oid, t.typbasetype FROM b JOIN pg_type t ON t.oid = b.base)
  SELECT b.oid FROM b WHERE b.base = 0
$f$;

-- type_fingerprint is what text forms and checks of a user's type rest on.
CREATE OR REPLACE FUNCTION handfast.type_fingerprint(p_type oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $f$
  WITH RECURSIVE t (oid) AS (
    SELECT p_type WHERE p_type >= 16384
    UNION
    SELECT n.oid FROM t JOIN pg_type y ON y.oid = t.oid
      CROSS JOIN LATERAL (SELECT y.typbasetype UNION SELECT y.typelem UNION SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0
                    UNION SELECT r.rngsubtype FROM pg_range r WHERE y.oid IN (r.rngtypid, r.rngmultitypid)) n (oid)
     WHERE n.oid >= 16384)
  SELECT string_agg(concat_ws(',', t.oid, y.typnotnull,
           (SELECT string_agg(pg_get_constraintdef(c.oid), ';' ORDER BY c.oid) FROM pg_constraint c WHERE c.contypid = t.oid),
           (SELECT string_agg(e.oid || e.enumlabel, ';' ORDER BY e.oid) FROM pg_enum e WHERE e.enumtypid = t.oid),
           (SELECT string_agg(a.attnum || a.attname || a.atttypid || a.attisdropped, ';' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0)), ';' ORDER BY t.oid)
    FROM t JOIN pg_type y ON y.oid = t.oid
$f$;

-- fires_always names a trigger or rule of a user, on a table or its partitions,
-- that would act while a rollback restores; NULL where there is none.
CREATE OR REPLACE FUNCTION handfast.fires_always(p_rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  WITH t (oid) AS (SELECT p_rel UNION SELECT relid FROM pg_partition_tree(p_rel))
  SELECT string_agg(x.name, ', ' ORDER BY x.name) FROM (
    SELECT 'trigger ' || g.tgname FROM pg_trigger g JOIN t ON t.oid = g.tgrelid JOIN pg_proc f ON f.oid = g.tgfoid
     WHERE g.tgenabled IN ('A', 'R') AND f.pronamespace <> 'handfast'::regnamespace
    UNION SELECT 'rule ' || r.rulename FROM pg_rewrite r JOIN t ON t.oid = r.ev_class WHERE r.ev_enabled IN ('A', 'R')) x (name)
$f$;

-- fingerprint of what the functions of a table rest on.
CREATE OR REPLACE FUNCTION handfast.fingerprint(p_rel regclass) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET quote_all_identifiers = off AS $f$
  SELECT md5(concat_ws('|', p_rel::text,
    (SELECT string_agg(concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated, a.attidentity, a.attnotnull,
           CASE WHEN a.atttypid >= 16384 THEN handfast.type_fingerprint(a.atttypid) END), ';' ORDER BY a.attnum)
       FROM pg_attribute a WHERE a.attrelid = p_rel AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT string_agg(pg_get_indexdef(i.indexrelid), ';' ORDER BY pg_get_indexdef(i.indexrelid))
       FROM pg_index i WHERE i.indisunique AND i.indisvalid AND (i.indrelid = p_rel OR i.indrelid IN (SELECT t.relid FROM pg_partition_tree(p_rel) t)
        AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid))),
    (SELECT string_agg(c.conname || ' ' || c.conrelid::regclass || ' ' || pg_get_constraintdef(c.oid), ';' ORDER BY c.conname, c.conrelid::regclass::text)
       FROM pg_constraint c
      WHERE c.contype <> 't' AND c.conparentid = 0 AND (c.conrelid = p_rel OR c.contype = 'f' AND handfast.root(c.conrelid) = p_rel OR c.contype = 'f' AND handfast.root(c.confrelid) = p_rel)),
    EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE NOT c.relispartition AND p_rel IN (i.inhrelid, i.inhparent)),
    EXISTS (SELECT FROM pg_class c WHERE c.relpersistence <> 'p' AND c.oid = p_rel),
    handfast.fires_always(p_rel),
    -- Its worker fires no triggers for statements.
    (SELECT 'subscribed' WHERE EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = p_rel))))
$f$;

-- take_off removes our triggers from a table that is not what its functions were
-- made for. It is refused in global transactions until it is protected again.
CREATE OR REPLACE FUNCTION handfast.take_off(p_id integer) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  p handfast.protected;
  g name;
BEGIN
  PERFORM set_config('handfast.arranging', pg_current_xact_id()::text, true);
  UPDATE handfast.protected t SET fingerprint = '' WHERE t.id = p_id RETURNING t.* INTO p;
  FOR g IN SELECT t.tgname FROM pg_trigger t WHERE t.tgrelid = p.rel AND t.tgparentid = 0
             AND t.tgfoid IN (to_regproc(format('handfast.row_%s', p_id)), to_regproc(format('handfast.fk_%s', p_id))) LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', g, p.rel);
  END LOOP;
  PERFORM set_config('handfast.arranging', '', true);
END $f$;

-- always makes our triggers fire in sessions that apply what was replicated, and
-- in those of superusers that have switched ordinary triggers off.
CREATE OR REPLACE FUNCTION handfast.always(p_id integer) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  r record;
BEGIN
  PERFORM set_config('handfast.arranging', pg_current_xact_id()::text, true);
  FOR r IN SELECT t.tgname, t.tgrelid::regclass AS rel FROM pg_trigger t JOIN handfast.protected p ON p.rel = t.tgrelid
            WHERE p.id = p_id AND t.tgparentid = 0 AND t.tgfoid IN (to_regproc(format('handfast.row_%s', p_id)), to_regproc(format('handfast.fk_%s', p_id))) LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', r.rel, r.tgname);
  END LOOP;
  PERFORM set_config('handfast.arranging', '', true);
END $f$;

-- on_ddl runs after every DDL command. What a global transaction does there
-- could not be undone; what anybody does to a table with intents could make
-- their undo impossible; and what makes our functions stale takes them off.
CREATE OR REPLACE FUNCTION handfast.on_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $f$
DECLARE
  p      record;
  holder text;
BEGIN
  IF current_setting('handfast.xid', true) <> '' AND current_setting('handfast.lxid', true) = pg_current_xact_id()::text
     AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c WHERE c.schema_name IS DISTINCT FROM 'pg_temp') THEN
    RAISE EXCEPTION '% can not be undone, so a global transaction may not do it', tg_tag USING ERRCODE = 'HF004',
      HINT = 'Run it outside of global transactions.';
  END IF;
  IF tg_tag = 'ALTER TRIGGER' AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c JOIN pg_trigger t ON t.oid = c.objid JOIN pg_proc f ON f.oid = t.tgfoid
                                           WHERE f.pronamespace = 'handfast'::regnamespace) THEN
    RAISE EXCEPTION 'the triggers of Handfast keep their names, for they have to fire in a certain order' USING ERRCODE = 'HF004';
  END IF;
  IF tg_tag !~ '^ALTER |^CREATE (TABLE|FOREIGN TABLE|INDEX|TYPE|DOMAIN|SCHEMA|EXTENSION|SUBSCRIPTION)|^SELECT INTO|^IMPORT|^DROP (?!TRIGGER|FUNCTION|VIEW)' THEN
    RETURN;
  END IF;
  -- Not for what we do to tables ourselves.
  IF current_setting('handfast.arranging', true) = pg_current_xact_id()::text THEN
    RETURN;
  END IF;
  -- What a partition alone gets is no business of the functions, which serve all
  -- of them, but may be in the way of an undo.
  IF tg_tag IN ('ALTER TABLE', 'CREATE INDEX') THEN
    SELECT t.id, t.rel::text AS name INTO p FROM pg_event_trigger_ddl_commands() c
      LEFT JOIN pg_index i ON c.classid = 'pg_class'::regclass AND i.indexrelid = c.objid
      JOIN handfast.protected t ON t.rel = handfast.root(coalesce(i.indrelid, c.objid)) AND t.rel <> coalesce(i.indrelid, c.objid)
     WHERE c.classid = 'pg_class'::regclass AND t.capture AND t.fingerprint <> '' AND (i.indexrelid IS NULL OR i.indisunique) LIMIT 1;
    IF FOUND THEN
      PERFORM handfast.only_fresh(tg_tag);
      SELECT u.xid INTO holder FROM handfast.undo u WHERE u.tab = p.id LIMIT 1;
      IF FOUND THEN
        PERFORM handfast.conflict(holder, p.name, '(' || tg_tag || ' of a partition)');
      END IF;
    END IF;
  END IF;
  PERFORM handfast.settle_ddl(tg_tag);
END $f$;

-- on_start refuses what on_ddl would see too late: DETACH ... CONCURRENTLY is two
-- transactions, and refusing the second leaves the partition half detached. At its
-- start a command tells no table, so the text has to. The command can only be all of
-- it: CONCURRENTLY runs neither in a function nor beside other statements.
CREATE OR REPLACE FUNCTION handfast.on_start() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  command text := current_query();
  name    text;
BEGIN
  IF command !~* '^(\s|--[^\n]*\n|/\*.*\*/)*ALTER\s+TABLE\M([^''"]|"[^"]*")*\mDETACH\M([^''"]|"[^"]*")*\mCONCURRENTLY\M' THEN
    RETURN;
  END IF;
  SELECT p.rel::text INTO name FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel
   WHERE c.relkind = 'p' AND strpos(lower(command), lower(c.relname)) > 0 LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'DETACH ... CONCURRENTLY would leave % half detached where one of its rows is undecided', name
      USING ERRCODE = 'HF004', HINT = 'Use DETACH without CONCURRENTLY; it takes a moment.';
  END IF;
END $f$;

CREATE OR REPLACE FUNCTION handfast.on_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $f$
DECLARE
  p      record;
  holder text;
BEGIN
  IF current_setting('handfast.xid', true) <> '' AND current_setting('handfast.lxid', true) = pg_current_xact_id()::text
     AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() c WHERE NOT c.is_temporary) THEN
    RAISE EXCEPTION '% can not be undone, so a global transaction may not do it', tg_tag USING ERRCODE = 'HF004',
      HINT = 'Run it outside of global transactions.';
  END IF;
  IF tg_tag = 'DROP TRIGGER' AND current_setting('handfast.arranging', true) IS DISTINCT FROM pg_current_xact_id()::text
     AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() o WHERE o.object_type = 'trigger' AND handfast.ours(o.address_names[3])) THEN
    RAISE EXCEPTION 'without the triggers of Handfast nothing would guard the table, nor capture what is done to it' USING ERRCODE = 'HF004',
      HINT = 'Run: handfast pg unprotect';
  END IF;
  FOR p IN SELECT t.id, o.object_identity AS name FROM pg_event_trigger_dropped_objects() o
             JOIN handfast.protected t ON t.rel = o.objid WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 LOOP
    PERFORM handfast.only_fresh(tg_tag);
    SELECT u.xid INTO holder FROM handfast.undo u WHERE u.tab = p.id LIMIT 1;
    IF FOUND THEN
      PERFORM handfast.conflict(holder, p.name, '(' || tg_tag || ')');
    END IF;
    DELETE FROM handfast.protected t WHERE t.id = p.id;
    PERFORM handfast.drop_functions(p.id);
  END LOOP;
  -- A table that had our trigger and was not protected itself was a partition.
  IF tg_tag <> 'DROP TRIGGER' AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() o WHERE o.object_type = 'trigger' AND o.object_identity LIKE 'handfast\_truncate on %') THEN
    PERFORM handfast.only_fresh(tg_tag);
  END IF;
  FOR p IN SELECT u.xid, t.rel::text AS name FROM pg_event_trigger_dropped_objects() o, handfast.undo u JOIN handfast.protected t ON t.id = u.tab
             JOIN pg_class c ON c.oid = t.rel AND c.relkind = 'p'
            WHERE o.object_type = 'trigger' AND o.object_identity LIKE 'handfast\_truncate on %' AND tg_tag NOT IN ('DROP TRIGGER') LIMIT 1 LOOP
    PERFORM handfast.conflict(p.xid, p.name, '(' || tg_tag || ' of a partition)');
  END LOOP;
END $f$;

CREATE OR REPLACE FUNCTION handfast.drop_functions(p_id integer) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN SELECT r.oid FROM pg_proc r WHERE r.pronamespace = 'handfast'::regnamespace
             AND r.proname ~ ('^(row|fk|plan|restore|verify|committed|settled|settled_then)_' || p_id || '$') LOOP
    EXECUTE format('DROP FUNCTION %s', f);
  END LOOP;
  EXECUTE format('DROP INDEX IF EXISTS handfast.gone_%s', p_id);
END $f$;

-- settle_ddl compares every protected table with what its functions were made for.
CREATE OR REPLACE FUNCTION handfast.settle_ddl(p_tag text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $f$
DECLARE
  p      record;
  holder text;
  stale  integer[];
BEGIN
  stale := ARRAY(SELECT t.id FROM handfast.protected t
    WHERE t.fingerprint <> '' AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.rel) AND t.fingerprint <> handfast.fingerprint(t.rel));
  -- A partition that left its table still refuses TRUNCATE, and is a stranger.
  IF EXISTS (SELECT FROM pg_trigger g WHERE g.tgname = 'handfast_truncate' AND g.tgfoid = 'handfast.refuse_truncate'::regproc
              AND NOT EXISTS (SELECT FROM handfast.protected t WHERE t.capture AND t.fingerprint <> '' AND t.rel = handfast.root(g.tgrelid))) THEN
    PERFORM handfast.only_fresh(p_tag);
    SELECT u.xid INTO holder FROM handfast.undo u JOIN handfast.protected t ON t.id = u.tab
      JOIN pg_class c ON c.oid = t.rel WHERE c.relkind = 'p' LIMIT 1;
    IF FOUND THEN
      PERFORM handfast.conflict(holder, 'a partitioned table', '(' || p_tag || ')');
    END IF;
  END IF;
  IF cardinality(stale) > 0 THEN
    PERFORM handfast.only_fresh(p_tag);
    -- Foreign keys are guarded at both ends or not at all.
    stale := ARRAY(SELECT t.id FROM handfast.protected t WHERE t.fingerprint <> '' AND (t.id = ANY (stale) OR t.capture AND EXISTS (
      SELECT FROM pg_constraint c JOIN handfast.protected o ON o.rel IN (handfast.root(c.conrelid), handfast.root(c.confrelid)) AND o.id = ANY (stale)
       WHERE c.contype = 'f' AND t.rel IN (handfast.root(c.conrelid), handfast.root(c.confrelid)))));
    -- Only then look for intents: DDL has locked one table, and to take off the
    -- triggers of the others may have waited for those who write there.
    PERFORM handfast.take_off(i) FROM unnest(stale) i ORDER BY i;
    SELECT u.xid, t.rel::text AS name INTO p FROM handfast.undo u JOIN handfast.protected t ON t.id = u.tab WHERE u.tab = ANY (stale) LIMIT 1;
    IF FOUND THEN
      PERFORM handfast.conflict(p.xid, p.name, '(' || p_tag || ')');
    END IF;
  END IF;
  PERFORM handfast.arrange();
END $f$;

-- Only a superuser may have an event trigger. Where there is none, tables made
-- later would be without their refuse trigger, so seal() goes on looking.
DO $f$
BEGIN
  PERFORM handfast.arrange();
  DROP EVENT TRIGGER IF EXISTS handfast_ddl;
  CREATE EVENT TRIGGER handfast_ddl ON ddl_command_end EXECUTE FUNCTION handfast.on_ddl();
  DROP EVENT TRIGGER IF EXISTS handfast_drop;
  CREATE EVENT TRIGGER handfast_drop ON sql_drop EXECUTE FUNCTION handfast.on_drop();
  DROP EVENT TRIGGER IF EXISTS handfast_start;
  CREATE EVENT TRIGGER handfast_start ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION handfast.on_start();
  UPDATE handfast.meta SET refusing = true;
EXCEPTION WHEN insufficient_privilege THEN
  UPDATE handfast.meta SET refusing = false;
END $f$;

-- Taking part needs an XID, which nobody can guess; deciding what happens to
-- one is for resource managers: see undolog.Grant.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA handfast FROM PUBLIC;
GRANT EXECUTE ON FUNCTION handfast.info(), handfast.arm(text, uuid, timestamptz, integer),
  handfast.seal(text, bigint, bigint, boolean), handfast.settled(anyelement),
  handfast.settled_then(anyelement), handfast.settled_now(anyelement) TO PUBLIC;
