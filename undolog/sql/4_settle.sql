-- commit_batch settles committed transactions. The arrays run in parallel: one
-- element per registered branch. It returns those it could not settle, and why.
CREATE OR REPLACE FUNCTION handfast.commit_batch(p_xid text[], p_branch uuid[], p_yes boolean[])
RETURNS TABLE (bad text, problem text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
SET enable_hashjoin = off SET enable_mergejoin = off AS $f$
DECLARE
  wrong    text[];
  problems text[];
  good     text[];
BEGIN
  PERFORM handfast.only_read_committed();
  PERFORM FROM handfast.fence f WHERE f.xid = ANY (p_xid) ORDER BY f.xid, f.branch FOR UPDATE;
  -- New statements from here on: they see what was committed while we waited.
  SELECT array_agg(w.xid), array_agg(w.problem) INTO wrong, problems FROM (
    SELECT l.xid, CASE WHEN f.state IS NULL
        THEN format('branch %s voted yes and its fence is gone: the database lost a committed transaction', l.branch)
        ELSE format('branch %s voted yes and its fence is in state %s', l.branch, f.state) END AS problem
      FROM unnest(p_xid, p_branch, p_yes) AS l (xid, branch, yes)
      LEFT JOIN handfast.fence f ON f.xid = l.xid AND f.branch = l.branch
     WHERE l.yes AND (f.state IS NULL OR f.state NOT IN ('L', 'C'))
    UNION ALL
    SELECT f.xid, format('branch %s has a fence in state %s and was not to commit', f.branch, f.state)
      FROM handfast.fence f
     WHERE f.xid = ANY (p_xid) AND f.state <> 'T'
       AND NOT EXISTS (SELECT FROM unnest(p_xid, p_branch, p_yes) AS l (xid, branch, yes)
                        WHERE l.xid = f.xid AND l.branch = f.branch AND l.yes)) w;
  good := ARRAY(SELECT DISTINCT x FROM unnest(p_xid) x WHERE wrong IS NULL OR x <> ALL (wrong));
  WITH gone AS (DELETE FROM handfast.undo u WHERE u.xid = ANY (good) RETURNING u.xid, u.gates)
  DELETE FROM handfast.gate g USING (SELECT DISTINCT gone.xid, unnest(gone.gates) AS k FROM gone) o WHERE g.k = o.k AND g.xid = o.xid;
  UPDATE handfast.fence f SET state = 'C' WHERE f.xid = ANY (good) AND f.state = 'L';
  RETURN QUERY SELECT w.x, w.p FROM unnest(wrong, problems) AS w (x, p);
END $f$;

CREATE OR REPLACE FUNCTION handfast.only_read_committed() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'settle needs READ COMMITTED' USING ERRCODE = 'HF006';
  END IF;
END $f$;

CREATE OR REPLACE FUNCTION handfast.misfit(p_tab text, p_key text, p_what text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RAISE EXCEPTION 'row % % can not be restored: %', p_tab, p_key, p_what USING
    ERRCODE = 'HF003', DETAIL = json_build_object('handfast', 'misfit', 'table', p_tab, 'key', p_key, 'what', p_what)::text;
END $f$;

-- restore_all undoes a transaction in every table. Tables are independent of each
-- other: replica mode switches off what joins them, so that is verified after.
CREATE OR REPLACE FUNCTION handfast.restore_all(p_xid text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  t    integer;
  tabs integer[] := ARRAY(SELECT DISTINCT u.tab FROM handfast.undo u WHERE u.xid = p_xid ORDER BY u.tab);
BEGIN
  FOREACH t IN ARRAY tabs LOOP
    PERFORM handfast.check_unchanged(t);
    EXECUTE format('SELECT handfast.restore_%s($1)', t) USING p_xid;
  END LOOP;
  FOREACH t IN ARRAY tabs LOOP
    EXECUTE format('SELECT handfast.verify_%s($1)', t) USING p_xid;
  END LOOP;
  DELETE FROM handfast.step s WHERE s.xid = p_xid;
  UPDATE handfast.resolution r SET done = clock_timestamp() WHERE r.xid = p_xid AND r.done IS NULL AND r.replaced IS NULL;
END $f$;

-- The three steps of a rollback. Each is a statement of its own at READ
-- COMMITTED, so that each sees what was committed while the one before waited.
-- A tombstone names the branch: one for the XID would not collide with a join.
CREATE OR REPLACE FUNCTION handfast.rollback_lock(p_xid text, p_branch uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
BEGIN
  PERFORM handfast.only_read_committed();
  INSERT INTO handfast.fence (xid, branch, state)
    SELECT p_xid, b, 'T' FROM unnest(p_branch) b ORDER BY b ON CONFLICT DO NOTHING;
END $f$;

CREATE OR REPLACE FUNCTION handfast.rollback_undo(p_xid text, p_branch uuid[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = replica SET jit = off AS $f$
DECLARE
  f    handfast.fence;
  live boolean := false;
BEGIN
  PERFORM handfast.only_read_committed();
  FOR f IN SELECT * FROM handfast.fence t WHERE t.xid = p_xid ORDER BY t.branch FOR UPDATE LOOP
    IF f.state = 'C' THEN
      RAISE EXCEPTION 'branch % of % is settled as committed, and shall be rolled back', f.branch, p_xid USING ERRCODE = 'HF006';
    ELSIF f.branch <> ALL (p_branch) THEN
      RAISE EXCEPTION 'branch % of % has a fence and was never registered', f.branch, p_xid USING ERRCODE = 'HF006';
    END IF;
    live := live OR f.state = 'L';
  END LOOP;
  -- Our own triggers fire in replica mode too, and have to let this pass.
  INSERT INTO handfast.settling (lxid) VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
  PERFORM handfast.restore_all(p_xid);
  DELETE FROM handfast.settling s WHERE s.lxid = pg_current_xact_id();
  -- Keys last: a writer that waits for one must find the restored row.
  WITH gone AS (DELETE FROM handfast.undo u WHERE u.xid = p_xid RETURNING u.gates)
  DELETE FROM handfast.gate g USING (SELECT DISTINCT unnest(gates) AS k FROM gone) o WHERE g.k = o.k AND g.xid = p_xid;
  UPDATE handfast.fence t SET state = 'R' WHERE t.xid = p_xid AND t.state = 'L';
  RETURN live;
END $f$;

-- blockers: backends with an open local transaction of the XID. What is prepared
-- has none.
CREATE OR REPLACE FUNCTION handfast.blockers(p_xid text) RETURNS integer[]
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT coalesce(array_agg(DISTINCT l.pid), '{}') FROM pg_locks l
   WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid IS NOT NULL
     AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
     AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(p_xid, 4263)
$f$;

CREATE OR REPLACE FUNCTION handfast.pending(p_older interval, p_limit integer)
RETURNS TABLE (xid text, branches uuid[], since timestamptz, intents bigint, tables text[])
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT f.xid, array_agg(f.branch ORDER BY f.branch), min(f.at),
         (SELECT count(*) FROM handfast.undo u WHERE u.xid = f.xid),
         (SELECT array_agg(DISTINCT p.rel::text) FROM handfast.undo u JOIN handfast.protected p ON p.id = u.tab WHERE u.xid = f.xid)
    FROM handfast.fence f
   WHERE f.state = 'L' AND f.at <= clock_timestamp() - p_older
   GROUP BY f.xid ORDER BY min(f.at) LIMIT p_limit
$f$;

CREATE OR REPLACE FUNCTION handfast.witnesses() RETURNS TABLE (store text, incarnation bigint, "position" bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT DISTINCT ON (f.store) f.store, f.incarnation, f."position" FROM handfast.fence f
   WHERE f.store IS NOT NULL ORDER BY f.store, f.incarnation DESC, f."position" DESC
$f$;

-- gc drops settled fences that no late message can need any more.
CREATE OR REPLACE FUNCTION handfast.gc(p_limit integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  WITH old AS (
    SELECT f.xid, f.branch FROM handfast.fence f
     WHERE f.state <> 'L' AND f.at < clock_timestamp() - 2 * (SELECT m.max_age FROM handfast.meta m WHERE m.one)
       AND NOT EXISTS (SELECT FROM handfast.undo u WHERE u.xid = f.xid)
       AND NOT EXISTS (SELECT FROM handfast.fence l WHERE l.xid = f.xid AND l.state = 'L')
     LIMIT p_limit),
  gone AS (DELETE FROM handfast.fence f USING old WHERE f.xid = old.xid AND f.branch = old.branch RETURNING 1)
  SELECT count(*) FROM gone
$f$;
