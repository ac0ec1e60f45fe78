-- What was done for branches whose actions may be called again, late, or in the
-- wrong order: TCC, sagas, messages. Package fence is the client of it. A local
-- transaction calls action_enter, does what it is told, and keeps the result with
-- action_leave:
--
--               enter forward            enter commit
--      (no row) ────────────► F forward ──────────────► C committed
--          │                  │
--          │ enter rollback   │ enter rollback
--          ▼                  ▼
--          T tombstone        R rolled back
--
-- One row is a whole branch, so that its actions collide in one place: the unique
-- index where there is no row yet, the row itself where there is one. Both wait for
-- a transaction in progress, and above READ COMMITTED both answer 40001 for what the
-- snapshot can't see.
CREATE TABLE IF NOT EXISTS handfast.action (
  xid     text COLLATE "C" NOT NULL,
  branch  uuid NOT NULL,
  state   "char" NOT NULL CHECK (state IN ('F', 'C', 'R', 'T')),
  lxid    xid8 NOT NULL,     -- the local transaction that made the state
  at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), -- when it did
  forward bytea CHECK (pg_catalog.octet_length(forward) <= 65536), -- the result of the forward action
  ending  bytea CHECK (pg_catalog.octet_length(ending) <= 65536),  -- of commit or rollback
  -- XIDs sort by the time at which they began, so this serves action_gc too.
  PRIMARY KEY (xid, branch)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- One row: for how long rows are kept, and how far they are gone. A missing row of
-- an XID up to the horizon means nothing.
CREATE TABLE IF NOT EXISTS handfast.action_memory (
  one     boolean PRIMARY KEY DEFAULT true CHECK (one),
  keep    interval NOT NULL DEFAULT '30 days', -- counted from the begin of the XID, and from the last change
  horizon text COLLATE "C" NOT NULL DEFAULT ''
);
INSERT INTO handfast.action_memory DEFAULT VALUES ON CONFLICT DO NOTHING;
REVOKE ALL ON handfast.action, handfast.action_memory FROM PUBLIC;

-- action_enter tells what to do with a call. Only after the verdict 'run' may its
-- effect be made, in this local transaction. The others:
--   done          it was run before; result is what was kept of it
--   empty         rollback without a forward action: remembered; commit, and do nothing
--   late          forward after rollback: never again
--   missing       commit without a forward action
--   contradicted  rollback after commit, or commit after rollback
--   forgotten     the XID is so old that nothing can be told from a missing row
-- p_lock_timeout, in milliseconds, bounds each wait here for another transaction of
-- the branch where the session has no lock_timeout; 0: nothing does. (55P03)
CREATE OR REPLACE FUNCTION handfast.action_enter(p_xid text, p_branch uuid, p_action text, p_lock_timeout integer,
  OUT verdict text, OUT result bytea)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  a       handfast.action;
  bounded boolean := p_lock_timeout > 0 AND current_setting('lock_timeout') = '0';
BEGIN
  IF length(p_xid) IS DISTINCT FROM 56 OR p_branch IS NULL OR coalesce(p_action NOT IN ('forward', 'commit', 'rollback'), true) THEN
    RAISE EXCEPTION 'malformed XID, branch or action' USING ERRCODE = '22023',
      HINT = 'An XID has 56 characters; the actions are forward, commit and rollback.';
  END IF;
  -- What is done for AT is undone by its rollback. The compensation would do it again.
  IF current_setting('handfast.xid', true) <> '' THEN
    RAISE EXCEPTION 'a local transaction is either armed for AT or fenced, never both: this one is armed for %', current_setting('handfast.xid')
      USING ERRCODE = 'HF004', HINT = 'Calls of the coordinator carry no ambient XID; run a fenced action without one.';
  END IF;
  -- What is answered as done must survive a crash of this server.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  IF bounded THEN
    PERFORM set_config('lock_timeout', p_lock_timeout::text, true);
  END IF;
  FOR i IN 1 .. 3 LOOP
    SELECT * INTO a FROM handfast.action t WHERE t.xid = p_xid AND t.branch = p_branch FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO handfast.action (xid, branch, state, lxid)
      VALUES (p_xid, p_branch, CASE p_action WHEN 'rollback' THEN 'T' ELSE 'F' END, pg_current_xact_id()) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      -- There was none. A statement after the insert: whoever took a row away that
      -- the insert did not collide with has moved the horizon, and is seen.
      verdict := CASE WHEN p_xid <= (SELECT m.horizon FROM handfast.action_memory m WHERE m.one) THEN 'forgotten'
                      WHEN p_action = 'commit' THEN 'missing'
                      WHEN p_action = 'rollback' THEN 'empty' ELSE 'run' END;
      IF verdict IN ('forgotten', 'missing') THEN
        DELETE FROM handfast.action t WHERE t.xid = p_xid AND t.branch = p_branch;
      END IF;
      EXIT;
    END IF;
  END LOOP; -- gone between the two statements: once more
  IF bounded THEN
    PERFORM set_config('lock_timeout', '0', true);
  END IF;
  IF verdict IS NOT NULL THEN
    RETURN;
  END IF;
  CASE p_action || ' ' || coalesce(a.state::text, '?')
    WHEN 'forward F', 'forward C' THEN
      verdict := 'done';
      result := a.forward;
    WHEN 'forward R', 'forward T' THEN
      verdict := 'late';
    WHEN 'commit C', 'rollback R' THEN
      verdict := 'done';
      result := a.ending;
    WHEN 'rollback T' THEN
      verdict := 'empty';
    WHEN 'commit R', 'commit T', 'rollback C' THEN
      verdict := 'contradicted';
    WHEN 'commit F', 'rollback F' THEN
      UPDATE handfast.action t SET state = CASE p_action WHEN 'commit' THEN 'C' ELSE 'R' END, lxid = pg_current_xact_id(), at = clock_timestamp()
       WHERE t.xid = p_xid AND t.branch = p_branch;
      verdict := 'run';
    ELSE
      RAISE EXCEPTION 'branch % of % comes and goes', p_branch, p_xid USING ERRCODE = '40001';
  END CASE;
END $f$;

-- action_leave keeps the result of what this local transaction has run.
CREATE OR REPLACE FUNCTION handfast.action_leave(p_xid text, p_branch uuid, p_action text, p_result bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
BEGIN
  UPDATE handfast.action t
     SET forward = CASE p_action WHEN 'forward' THEN p_result ELSE t.forward END,
         ending = CASE p_action WHEN 'forward' THEN t.ending ELSE p_result END
   WHERE t.xid = p_xid AND t.branch = p_branch AND t.lxid = pg_current_xact_id()
     AND t.state = CASE p_action WHEN 'forward' THEN 'F' WHEN 'commit' THEN 'C' WHEN 'rollback' THEN 'R' END;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the % of branch % of % was not entered in this transaction', p_action, p_branch, p_xid
      USING ERRCODE = 'HF005', HINT = 'Call handfast.action_enter, the effect and handfast.action_leave in one transaction.';
  END IF;
END $f$;

-- action_failed makes this local transaction one that can only be rolled back: an
-- effect that is half made must not be committed with the row that calls it done.
CREATE OR REPLACE FUNCTION handfast.action_failed() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RAISE EXCEPTION 'a fenced action failed: this transaction can only be rolled back' USING ERRCODE = '25000';
END $f$;

-- Arming after entering is found here, at the commit.
CREATE OR REPLACE FUNCTION handfast.action_unarmed() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF current_setting('handfast.xid', true) <> '' THEN
    RAISE EXCEPTION 'a local transaction is either armed for AT or fenced, never both: this one was fenced, then armed for %', current_setting('handfast.xid')
      USING ERRCODE = 'HF004';
  END IF;
  RETURN NULL;
END $f$;
DO $f$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = 'handfast.action'::pg_catalog.regclass AND t.tgname = 'unarmed') THEN
    CREATE CONSTRAINT TRIGGER unarmed AFTER INSERT OR UPDATE OF state ON handfast.action
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION handfast.action_unarmed();
    ALTER TABLE handfast.action ENABLE ALWAYS TRIGGER unarmed;
  END IF;
END $f$;

-- action_gc drops branches that nothing has happened to for as long as they are
-- kept, and moves the horizon in the same transaction: from then on a call of so old
-- an XID is answered with 'forgotten' where it finds no row, and never taken for the first.
CREATE OR REPLACE FUNCTION handfast.action_gc(p_limit integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  old timestamptz := clock_timestamp() - (SELECT m.keep FROM handfast.action_memory m WHERE m.one);
  ms  bigint := greatest(floor(extract(epoch FROM old) * 1000), 0)::bigint << 2;
  -- The first 10 characters of an XID that began then: 48 bits, in digits of 5.
  x   text COLLATE "C" := (SELECT string_agg(substr('0123456789abcdefghijklmnopqrstuv', (ms >> 5 * i & 31)::integer + 1, 1), '' ORDER BY i DESC)
                             FROM generate_series(0, 9) i);
  n   bigint;
  top text COLLATE "C";
BEGIN
  WITH gone AS (
    DELETE FROM handfast.action a USING (
      SELECT t.xid, t.branch FROM handfast.action t WHERE t.xid < x AND t.at < old
       ORDER BY t.xid, t.branch LIMIT p_limit FOR UPDATE SKIP LOCKED) o
     WHERE a.xid = o.xid AND a.branch = o.branch RETURNING a.xid)
  SELECT count(*), max(gone.xid) INTO n, top FROM gone;
  IF n > 0 THEN
    UPDATE handfast.action_memory m SET horizon = top WHERE m.one AND m.horizon < top;
  END IF;
  RETURN n;
END $f$;

-- Entering needs an XID and a branch, which nobody can guess, like joining.
REVOKE EXECUTE ON FUNCTION handfast.action_enter(text, uuid, text, integer), handfast.action_leave(text, uuid, text, bytea),
  handfast.action_failed(), handfast.action_unarmed(), handfast.action_gc(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION handfast.action_enter(text, uuid, text, integer), handfast.action_leave(text, uuid, text, bytea),
  handfast.action_failed() TO PUBLIC;
