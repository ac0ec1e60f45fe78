-- A branch: arm, the fence, seal. Many functions here switch sequential scans
-- off: these tables look empty to the planner and are full of dead rows, which
-- such a scan would read each time.

-- The identity, for everybody who may connect.
CREATE OR REPLACE FUNCTION handfast.info(OUT resource uuid, OUT version integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$f$ SELECT m.resource, m.version FROM handfast.meta m $f$;

-- arm: the first thing after BEGIN, before any savepoint. It only leaves local
-- settings: the fence row comes with the first captured write.
CREATE OR REPLACE FUNCTION handfast.arm(p_xid text, p_branch uuid, p_begin timestamptz, p_lock_timeout integer)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  me  text := current_setting('handfast.xid', true);
  lx  text := pg_current_xact_id()::text;
BEGIN
  IF p_xid !~ '^[0-9a-v]{56}$' OR p_xid ~ '^0*$' OR p_branch IS NULL THEN
    RAISE EXCEPTION 'malformed XID or branch' USING ERRCODE = 'HF005';
  END IF;
  IF me <> '' AND current_setting('handfast.lxid', true) = lx AND me <> p_xid THEN
    RAISE EXCEPTION 'this transaction is armed for global transaction % already', me USING ERRCODE = 'HF005';
  END IF;
  IF p_begin < clock_timestamp() - (SELECT m.max_age FROM handfast.meta m WHERE m.one) THEN
    RAISE EXCEPTION 'global transaction % began at %, too long ago to join', p_xid, p_begin USING ERRCODE = 'HF002';
  END IF;
  PERFORM set_config('handfast.xid', p_xid, true), set_config('handfast.branch', p_branch::text, true),
          set_config('handfast.lxid', lx, true);
  -- A yes vote must survive a crash of this server.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF p_lock_timeout > 0 AND current_setting('lock_timeout') = '0' THEN
    PERFORM set_config('lock_timeout', p_lock_timeout::text, true);
  END IF;
  -- So that pg_locks can name the XID of whoever blocks.
  PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_xid, 4263));
END $f$;

-- me: the XID that this local transaction works for. The settings are a hint
-- that any session can forge; the fence row with the own transaction id is not.
CREATE OR REPLACE FUNCTION handfast.me() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  x  text := current_setting('handfast.xid', true);
  r  text;
BEGIN
  SELECT f.xid INTO r FROM handfast.fence f WHERE f.lxid = pg_current_xact_id() AND f.state = 'L';
  IF FOUND THEN
    IF r <> x THEN
      RAISE EXCEPTION 'this transaction works for %, not for %', r, x USING ERRCODE = 'HF005';
    END IF;
    RETURN r;
  END IF;
  IF current_setting('handfast.lxid', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
    RAISE EXCEPTION 'the setting handfast.xid was not made by handfast.arm in this transaction'
      USING ERRCODE = 'HF005', HINT = 'Call handfast.arm first after BEGIN; never set handfast.xid for a session.';
  END IF;
  -- The settings may be forged as a whole. Whoever knows an XID may join it; one
  -- that is none would stand in the way of all who read the fences.
  IF x !~ '^[0-9a-v]{56}$' OR x ~ '^0*$' THEN
    RAISE EXCEPTION 'malformed XID' USING ERRCODE = 'HF005';
  END IF;
  -- A plain insert: where the branch is decided, its fence row is there, and
  -- the unique index says so at every isolation level.
  BEGIN
    INSERT INTO handfast.fence (xid, branch, state, lxid)
      VALUES (x, current_setting('handfast.branch')::uuid, 'L', pg_current_xact_id());
  EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'global transaction % is decided: this branch can not write any more', x USING ERRCODE = 'HF002';
  END;
  RETURN x;
END $f$;

-- seal: in the same flush as COMMIT. Tells whether this transaction wrote.
CREATE OR REPLACE FUNCTION handfast.seal(p_store text, p_incarnation bigint, p_position bigint, p_check boolean)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  x    text := current_setting('handfast.xid', true);
  bare text;
BEGIN
  IF x IS NULL OR x = '' OR current_setting('handfast.lxid', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
    RAISE EXCEPTION 'this transaction is not armed any more'
      USING ERRCODE = 'HF005', HINT = 'Something undid or overwrote the settings of handfast.arm.';
  END IF;
  IF p_check AND NOT (SELECT m.refusing FROM handfast.meta m WHERE m.one) THEN
    SELECT c.oid::regclass::text INTO bare
      FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
     WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation >= 16384
       AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
       AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND c.relnamespace <> 'handfast'::regnamespace
       AND NOT EXISTS (SELECT FROM handfast.protected p
                        WHERE p.rel = handfast.root(c.oid) AND p.capture AND p.fingerprint = handfast.fingerprint(p.rel))
     LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'table % was written in global transaction % without capture', bare, x
        USING ERRCODE = 'HF004', HINT = 'Run: handfast pg protect ' || bare;
    END IF;
  END IF;
  -- Large objects have no triggers, and the locks that tell of them are dear to read:
  -- only where there is, or was, one.
  IF pg_relation_size('pg_catalog.pg_largeobject_metadata') > 0 AND EXISTS (
    SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND (l.locktype = 'relation' AND l.relation = 'pg_largeobject'::regclass AND l.mode = 'RowExclusiveLock'
       OR l.locktype = 'object' AND l.classid = 'pg_largeobject'::regclass)) THEN
    RAISE EXCEPTION 'large objects can not be undone, so global transaction % may not use them', x USING ERRCODE = 'HF004',
      HINT = 'Keep the bytes in a bytea column, or use the large object outside of global transactions.';
  END IF;
  UPDATE handfast.fence f SET store = p_store, incarnation = p_incarnation, "position" = p_position
   WHERE f.lxid = pg_current_xact_id() AND f.state = 'L' AND f.xid = x;
  RETURN FOUND;
END $f$;

-- ask: did the branch commit? Puts a tombstone where it did not, so that it
-- never can. Waits for an open local transaction up to lock_timeout (55P03).
CREATE OR REPLACE FUNCTION handfast.ask_lock(p_xid text, p_branch uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS
$f$ INSERT INTO handfast.fence (xid, branch, state) VALUES (p_xid, p_branch, 'T') ON CONFLICT DO NOTHING $f$;
CREATE OR REPLACE FUNCTION handfast.ask_read(p_xid text, p_branch uuid) RETURNS "char"
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS
$f$ SELECT f.state FROM handfast.fence f WHERE f.xid = p_xid AND f.branch = p_branch $f$;
