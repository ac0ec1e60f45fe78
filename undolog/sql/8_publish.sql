-- Messages of a plain local transaction.

-- vouch: the fence of a branch that captures nothing. It is there exactly if this
-- local transaction commits, and so is its vote. Called again, in the same local
-- transaction, for another XID it does the same for that.
CREATE OR REPLACE FUNCTION handfast.vouch(p_xid text, p_branch uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  me text := current_setting('handfast.xid', true);
BEGIN
  IF p_xid !~ '^[0-9a-v]{56}$' OR p_xid ~ '^0*$' OR p_branch IS NULL THEN
    RAISE EXCEPTION 'malformed XID or branch' USING ERRCODE = 'HF005';
  END IF;
  IF me <> '' AND current_setting('handfast.lxid', true) = pg_current_xact_id()::text THEN
    RAISE EXCEPTION 'this transaction is armed for global transaction %', me
      USING ERRCODE = 'HF005', HINT = 'Messages of a global transaction are registered under its XID.';
  ELSIF current_setting('handfast.xa', true) <> '' THEN
    RAISE EXCEPTION 'this transaction is to be prepared for global transaction %', split_part(current_setting('handfast.xa'), ':', 1)
      USING ERRCODE = 'HF005', HINT = 'Messages of a global transaction are registered under its XID.';
  END IF;
  -- A yes vote must survive a crash of this server.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  -- The first row has the id of the local transaction, which keeps arm from working
  -- beside it; only one may have it. A plain insert: the unique index tells of a
  -- tombstone at every isolation level.
  BEGIN
    INSERT INTO handfast.fence (xid, branch, state, lxid)
      SELECT p_xid, p_branch, 'L', CASE WHEN NOT EXISTS (SELECT FROM handfast.fence f
        WHERE f.lxid = pg_current_xact_id() AND f.state = 'L') THEN pg_current_xact_id() END;
  EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'global transaction % is decided: nothing can be published under it any more', p_xid USING ERRCODE = 'HF002';
  END;
END $f$;

GRANT EXECUTE ON FUNCTION handfast.vouch(text, uuid) TO PUBLIC;
