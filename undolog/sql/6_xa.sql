-- XA branches: a local transaction that ends phase one prepared. Its fence row
-- lies inside of it, so that it is there exactly when the branch is committed,
-- whoever says COMMIT PREPARED; and one key can't hold both it and a tombstone.
-- To the guard such a transaction is a plain session. PREPARE TRANSACTION,
-- COMMIT PREPARED and ROLLBACK PREPARED can't be called from a function.

-- xa_begin: the first thing after BEGIN, before any savepoint. It takes no
-- transaction id, so that one that only reads is found out.
CREATE OR REPLACE FUNCTION handfast.xa_begin(p_xid text, p_branch uuid, p_begin timestamptz, p_lock_timeout integer)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF length(p_xid) <> 56 OR p_branch IS NULL THEN
    RAISE EXCEPTION 'malformed XID or branch' USING ERRCODE = 'HF005';
  END IF;
  IF p_begin < clock_timestamp() - (SELECT m.max_age FROM handfast.meta m WHERE m.one) THEN
    RAISE EXCEPTION 'global transaction % began at %, too long ago to join', p_xid, p_begin USING ERRCODE = 'HF002';
  END IF;
  -- It ends with this transaction, and so tells whether it is still the one.
  PERFORM set_config('handfast.xa', p_xid || ':' || p_branch, true);
  -- PREPARE is always forced here; this is for synchronous replicas.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF p_lock_timeout > 0 AND current_setting('lock_timeout') = '0' THEN
    PERFORM set_config('lock_timeout', p_lock_timeout::text, true);
  END IF;
  PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_xid, 4263));
  -- The fence comes at the end, so this is what tells that the branch is open.
  PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_xid || ':' || p_branch, 4265));
END $f$;

-- xa_fence: in the same flush as PREPARE TRANSACTION. The row says committed, for
-- nobody sees it before. A branch may lie prepared for longer than fences are
-- kept, so the row is as good as new until xa_done has seen it.
CREATE OR REPLACE FUNCTION handfast.xa_fence(p_xid text, p_branch uuid, p_begin timestamptz, p_store text, p_incarnation bigint, p_position bigint)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
BEGIN
  IF current_setting('handfast.xa', true) IS DISTINCT FROM p_xid || ':' || p_branch THEN
    RAISE EXCEPTION 'this is not the transaction that handfast.xa_begin was called in'
      USING ERRCODE = 'HF005', HINT = 'Something ended that one and began another, or undid the settings.';
  ELSIF current_setting('handfast.xid', true) <> '' THEN
    RAISE EXCEPTION 'this transaction is armed for AT as %, so it can not be prepared', current_setting('handfast.xid')
      USING ERRCODE = 'HF005';
  ELSIF p_begin < clock_timestamp() - (SELECT m.max_age FROM handfast.meta m WHERE m.one) THEN
    RAISE EXCEPTION 'global transaction % began at %, too long ago to join', p_xid, p_begin USING ERRCODE = 'HF002';
  END IF;
  -- A plain insert: the unique index tells of a tombstone at every isolation level.
  BEGIN
    INSERT INTO handfast.fence (xid, branch, state, at, store, incarnation, "position")
      VALUES (p_xid, p_branch, 'C', 'infinity', p_store, p_incarnation, p_position);
  EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'global transaction % is decided: this branch can not be prepared any more', p_xid USING ERRCODE = 'HF002';
  END;
END $f$;

-- xa_done: from now on the fences grow old. commit_batch has locked them.
CREATE OR REPLACE FUNCTION handfast.xa_done(p_xid text[], p_branch uuid[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
  UPDATE handfast.fence f SET at = clock_timestamp() FROM unnest(p_xid, p_branch) AS l (xid, branch)
   WHERE f.xid = l.xid AND f.branch = l.branch AND f.state = 'C' AND f.at = 'infinity'
$f$;

-- xa_closed waits for an open local transaction of the branch, up to lock_timeout
-- (55P03), and keeps others from beginning until the end of this one.
CREATE OR REPLACE FUNCTION handfast.xa_closed(p_xid text, p_branch uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$f$ SELECT pg_advisory_xact_lock(hashtextextended(p_xid || ':' || p_branch, 4265)) $f$;

REVOKE EXECUTE ON FUNCTION handfast.xa_done(text[], uuid[]), handfast.xa_closed(text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION handfast.xa_begin(text, uuid, timestamptz, integer),
  handfast.xa_fence(text, uuid, timestamptz, text, bigint, bigint) TO PUBLIC;
