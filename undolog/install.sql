-- The handfast schema of one database. Run as a whole, in one transaction, by
-- a superuser or by the owner of the protected tables. Running it again
-- upgrades functions and keeps data.

CREATE SCHEMA IF NOT EXISTS handfast;
REVOKE ALL ON SCHEMA handfast FROM PUBLIC;
-- To call arm() and seal(); the tables stay closed.
GRANT USAGE ON SCHEMA handfast TO PUBLIC;

-- One row: the identity of this database as a resource.
CREATE TABLE IF NOT EXISTS handfast.meta (
  one      boolean PRIMARY KEY DEFAULT true CHECK (one),
  resource uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
  version  integer NOT NULL,
  max_age  interval NOT NULL DEFAULT '24 hours', -- of an XID that may still join
  -- Every table without capture refuses by a trigger, and new ones get theirs
  -- by themselves; where that could not be set up, seal() has to look at locks.
  refusing boolean NOT NULL DEFAULT false
);
INSERT INTO handfast.meta (version) VALUES (1) ON CONFLICT (one) DO UPDATE SET version = 1;

-- Tables with capture. The id, not the oid, seeds key hashes: it survives a dump.
CREATE TABLE IF NOT EXISTS handfast.protected (
  id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  rel         regclass NOT NULL UNIQUE,
  keys        smallint[] NOT NULL, -- column numbers of the primary key, in key order
  fingerprint text NOT NULL        -- of the columns and unique indexes the functions were made for
);

-- Key owners: whoever inserts first owns, until settled. A unique index sees
-- past every snapshot and waits for owners in progress; a SELECT does neither.
CREATE TABLE IF NOT EXISTS handfast.gate (
  k   bigint PRIMARY KEY,
  xid text COLLATE "C" NOT NULL
);

-- One row per branch, and a branch is one local transaction. States:
-- L live (voted yes), T tombstone (can never join), C committed, R rolled back.
CREATE TABLE IF NOT EXISTS handfast.fence (
  xid         text COLLATE "C" NOT NULL,
  branch      uuid NOT NULL,
  state       "char" NOT NULL CHECK (state IN ('L', 'T', 'C', 'R')),
  lxid        xid8,               -- of the local transaction, for L
  who         name NOT NULL DEFAULT session_user,
  at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  store       text,               -- the witness: where the coordinator's log was
  incarnation bigint,
  "position"  bigint,
  PRIMARY KEY (xid, branch)
);
CREATE UNIQUE INDEX IF NOT EXISTS fence_lxid ON handfast.fence (lxid) WHERE state = 'L';
CREATE INDEX IF NOT EXISTS fence_done ON handfast.fence (at) WHERE state <> 'L';

-- The intents. seq is one order for the whole database: it is drawn after the
-- row is locked, so CACHE has to stay 1.
CREATE SEQUENCE IF NOT EXISTS handfast.undo_seq CACHE 1;
CREATE TABLE IF NOT EXISTS handfast.undo (
  xid     text COLLATE "C" NOT NULL,
  seq     bigint NOT NULL DEFAULT pg_catalog.nextval('handfast.undo_seq'),
  branch  uuid NOT NULL,
  tab     integer NOT NULL,
  op      "char" NOT NULL,   -- I, U, D
  was     text[],            -- key before, for U and D
  is_now  text[],            -- key after, for I and U
  cols    smallint[] NOT NULL, -- column numbers: all for I and D, the changed ones for U
  old     text[],
  new     text[],
  gates   bigint[] NOT NULL, -- the keys that this row took
  PRIMARY KEY (xid, seq)
);
CREATE INDEX IF NOT EXISTS undo_tab ON handfast.undo (tab);
-- They live for milliseconds and must not wait for the global thresholds.
ALTER TABLE handfast.undo SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE handfast.gate SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

REVOKE ALL ON ALL TABLES IN SCHEMA handfast FROM PUBLIC;

-- Many functions below switch sequential scans off: these tables look empty to
-- the planner and are full of dead rows, which such a scan would read each time.

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
  IF length(p_xid) <> 56 OR p_branch IS NULL THEN
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

-- take gives NULL when the key is free (and now owned by p_me, where that is
-- not empty), and the owner's XID otherwise.
CREATE OR REPLACE FUNCTION handfast.take(p_k bigint, p_me text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  owner text;
BEGIN
  IF p_me = '' AND current_setting('transaction_isolation') = 'read committed' THEN
    SELECT g.xid INTO owner FROM handfast.gate g WHERE g.k = p_k;
    RETURN owner;
  END IF;
  FOR i IN 1 .. 3 LOOP
    INSERT INTO handfast.gate (k, xid) VALUES (p_k, p_me) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      IF p_me = '' THEN
        DELETE FROM handfast.gate g WHERE g.k = p_k; -- it was only a probe
      END IF;
      RETURN NULL;
    END IF;
    SELECT g.xid INTO owner FROM handfast.gate g WHERE g.k = p_k;
    IF FOUND THEN
      RETURN owner;
    END IF;
  END LOOP; -- gone between the two statements: once more
  RETURN '?';
END $f$;

-- probe is take for a key that the caller need not own: a value that its own
-- unique index holds from now on.
CREATE OR REPLACE FUNCTION handfast.probe(p_k bigint, p_me text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  owner text;
BEGIN
  IF current_setting('transaction_isolation') = 'read committed' THEN
    SELECT g.xid INTO owner FROM handfast.gate g WHERE g.k = p_k;
    RETURN owner;
  END IF;
  owner := handfast.take(p_k, p_me);
  IF owner IS NULL AND p_me <> '' THEN
    DELETE FROM handfast.gate g WHERE g.k = p_k;
  END IF;
  RETURN owner;
END $f$;

-- conflict says who holds what. At READ COMMITTED a savepoint, a wait and a
-- retry help; above it only a new transaction sees the settle.
CREATE OR REPLACE FUNCTION handfast.conflict(p_holder text, p_tab text, p_key text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RAISE EXCEPTION '% % is held by undecided global transaction %', p_tab, p_key, p_holder USING
    ERRCODE = CASE WHEN current_setting('transaction_isolation') = 'read committed' THEN 'HF001' ELSE '40001' END,
    DETAIL = json_build_object('handfast', 'conflict', 'holder', p_holder, 'table', p_tab, 'key', p_key)::text,
    HINT = 'Wait until it is decided and settled, then try again: handfast tx show ' || p_holder;
END $f$;

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

-- refuse_rest puts it on the tables that have neither it nor capture.
CREATE OR REPLACE FUNCTION handfast.refuse_rest() RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  t regclass;
  n integer := 0;
BEGIN
  FOR t IN
    SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND s.nspname <> 'handfast'
       AND s.nspname <> 'information_schema' AND s.nspname !~ '^pg_'
       AND NOT EXISTS (SELECT FROM handfast.protected p WHERE p.rel = c.oid)
       AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'handfast_refuse')
  LOOP
    EXECUTE format('CREATE TRIGGER handfast_refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
      FOR EACH STATEMENT EXECUTE FUNCTION handfast.refuse_write()', t);
    n := n + 1;
  END LOOP;
  RETURN n;
END $f$;

CREATE OR REPLACE FUNCTION handfast.on_new_table() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM handfast.refuse_rest();
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
       AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
       AND c.relnamespace <> 'handfast'::regnamespace
       AND NOT EXISTS (SELECT FROM handfast.protected p WHERE p.rel = c.oid)
     LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'table % was written in global transaction % without capture', bare, x
        USING ERRCODE = 'HF004', HINT = 'Run: handfast pg protect ' || bare;
    END IF;
  END IF;
  UPDATE handfast.fence f SET store = p_store, incarnation = p_incarnation, "position" = p_position
   WHERE f.lxid = pg_current_xact_id() AND f.state = 'L' AND f.xid = x;
  RETURN FOUND;
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
  SELECT u.xid INTO holder FROM handfast.undo u JOIN handfast.protected p ON p.id = u.tab WHERE p.rel = TG_RELID LIMIT 1;
  IF FOUND THEN
    PERFORM handfast.conflict(holder, TG_RELID::regclass::text, '(all rows)');
  END IF;
  RETURN NULL;
END $f$;

-- ask: did the branch commit? Puts a tombstone where it did not, so that it
-- never can. Waits for an open local transaction up to lock_timeout (55P03).
CREATE OR REPLACE FUNCTION handfast.ask_lock(p_xid text, p_branch uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS
$f$ INSERT INTO handfast.fence (xid, branch, state) VALUES (p_xid, p_branch, 'T') ON CONFLICT DO NOTHING $f$;
CREATE OR REPLACE FUNCTION handfast.ask_read(p_xid text, p_branch uuid) RETURNS "char"
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS
$f$ SELECT f.state FROM handfast.fence f WHERE f.xid = p_xid AND f.branch = p_branch $f$;

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
  WITH gone AS (DELETE FROM handfast.undo u WHERE u.xid = ANY (good) RETURNING u.gates)
  DELETE FROM handfast.gate g USING (SELECT unnest(gates) AS k FROM gone) o WHERE g.k = o.k;
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

-- fingerprint of what the functions of a table rest on.
CREATE OR REPLACE FUNCTION handfast.fingerprint(p_rel regclass) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT md5(concat_ws('|',
    (SELECT string_agg(concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), ';' ORDER BY a.attnum)
       FROM pg_attribute a WHERE a.attrelid = p_rel AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT string_agg(pg_get_indexdef(i.indexrelid), ';' ORDER BY i.indexrelid)
       FROM pg_index i WHERE i.indrelid = p_rel AND i.indisunique)))
$f$;

-- base_type is what a domain, or a domain over domains, is made of.
CREATE OR REPLACE FUNCTION handfast.base_type(p_type oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  WITH RECURSIVE b (oid, base) AS (
    SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = p_type
    UNION ALL
    SELECT t.oid, t.typbasetype FROM b JOIN pg_type t ON t.oid = b.base)
  SELECT b.oid FROM b WHERE b.base = 0
$f$;

-- image is the expression for the text of a column of t. A cast of bpchar to
-- text drops blanks that its output function keeps.
CREATE OR REPLACE FUNCTION handfast.image(p_name name, p_type oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT CASE WHEN handfast.base_type(p_type) = 'bpchar'::regtype THEN format('textin(bpcharout(t.%I))', p_name)
              ELSE format('t.%I::text', p_name) END
$f$;

-- key_match is the condition that the row t of a table has the primary key $1,
-- with the operators of its index: those of an extension's type are elsewhere.
CREATE OR REPLACE FUNCTION handfast.key_match(p_rel regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT string_agg(format('t.%I OPERATOR(%I.%s) $1[%s]::%s', a.attname, n.nspname, o.oprname, k.i, format_type(a.atttypid, a.atttypmod)),
                    ' AND ' ORDER BY k.i)
    FROM pg_index x
    CROSS JOIN LATERAL unnest(x.indkey::int2[], x.indclass::oid[]) WITH ORDINALITY k (n, c, i)
    JOIN pg_attribute a ON a.attrelid = p_rel AND a.attnum = k.n
    JOIN pg_opclass c ON c.oid = k.c
    JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
    JOIN pg_operator o ON o.oid = m.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace
   WHERE x.indrelid = p_rel AND x.indisprimary AND k.i <= x.indnkeyatts
$f$;

-- restore undoes one row: compare with the after image and write, in one
-- statement. Values go from text to the column's type inside the server.
CREATE OR REPLACE FUNCTION handfast.restore(u handfast.undo) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 3 SET TimeZone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C' SET row_security = off AS $f$
DECLARE
  p     handfast.protected;
  tab   text;
  keyed text; -- finds the row by its key after the change
  same  text; -- the row is still its after image
  cmd   text;
  n     bigint;
BEGIN
  SELECT * INTO p FROM handfast.protected t WHERE t.id = u.tab;
  IF NOT FOUND OR to_regclass(p.rel::text) IS NULL THEN
    PERFORM handfast.misfit('table ' || u.tab, coalesce(u.is_now, u.was)::text, 'the table is gone');
  END IF;
  tab := p.rel::text;
  IF p.fingerprint <> handfast.fingerprint(p.rel) THEN
    PERFORM handfast.misfit(tab, coalesce(u.is_now, u.was)::text, 'the table was altered after the change was captured');
  END IF;
  keyed := handfast.key_match(p.rel);
  SELECT coalesce(string_agg(format('AND %s COLLATE "C" IS NOT DISTINCT FROM $2[%s]', handfast.image(a.attname, a.atttypid), c.i), ' ' ORDER BY c.i), '')
    INTO same FROM unnest(u.cols) WITH ORDINALITY c (n, i) JOIN pg_attribute a ON a.attrelid = p.rel AND a.attnum = c.n;
  IF u.op = 'I' THEN
    cmd := format('DELETE FROM %s t WHERE %s %s', tab, keyed, same);
  ELSIF u.op = 'U' THEN
    IF cardinality(u.cols) = 0 THEN
      RETURN;
    END IF;
    SELECT format('UPDATE %s t SET %s WHERE %s %s', tab,
             string_agg(format('%I = $3[%s]::%s', a.attname, c.i, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY c.i), keyed, same)
      INTO cmd FROM unnest(u.cols) WITH ORDINALITY c (n, i) JOIN pg_attribute a ON a.attrelid = p.rel AND a.attnum = c.n;
  ELSE
    SELECT format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)', tab,
             string_agg(format('%I', a.attname), ', ' ORDER BY c.i),
             string_agg(format('$3[%s]::%s', c.i, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY c.i))
      INTO cmd FROM unnest(u.cols) WITH ORDINALITY c (n, i) JOIN pg_attribute a ON a.attrelid = p.rel AND a.attnum = c.n;
  END IF;
  BEGIN
    EXECUTE cmd USING u.is_now, u.new, u.old;
    GET DIAGNOSTICS n = ROW_COUNT;
  EXCEPTION
    WHEN lock_not_available THEN RAISE;
    WHEN integrity_constraint_violation OR data_exception THEN
      PERFORM handfast.misfit(tab, coalesce(u.is_now, u.was)::text, SQLERRM);
  END;
  IF n <> 1 THEN
    PERFORM handfast.misfit(tab, coalesce(u.is_now, u.was)::text,
      format('it is not what global transaction %s left there (%s rows match)', u.xid, n));
  END IF;
END $f$;

-- verify looks at what replica mode does not: foreign keys, and unique
-- constraints that are deferrable. What the guard let through must stick here,
-- visibly, and not become an orphan that nobody notices.
CREATE OR REPLACE FUNCTION handfast.verify(u handfast.undo) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 3 SET TimeZone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C' SET row_security = off AS $f$
DECLARE
  p     handfast.protected;
  c     record;
  keyed text; -- finds the restored row
  bad   boolean;
BEGIN
  SELECT * INTO p FROM handfast.protected t WHERE t.id = u.tab;
  IF NOT EXISTS (SELECT FROM pg_constraint x WHERE p.rel IN (x.conrelid, x.confrelid) AND (x.contype = 'f' OR x.condeferrable)) THEN
    RETURN;
  END IF;
  keyed := handfast.key_match(p.rel);
  FOR c IN
    -- gone: the value that a child may hold and that the undo took away
    SELECT x.conname, x.contype, x.conrelid, x.confrelid,
           string_agg(format('f.%I = r.%I', ca.attname, ra.attname), ' AND ') AS joined,
           string_agg(format('r.%I = t.%I', ra.attname, ca.attname), ' AND ') AS parent,
           string_agg(format('t.%I IS NOT NULL', ca.attname), ' AND ') AS complete,
           string_agg(format('o.%1$I = t.%1$I', ca.attname), ' AND ') AS twin,
           string_agg(format('f.%I = %s', ca.attname, g.value), ' AND ') AS child,
           bool_or(g.changed) AS moved
      FROM pg_constraint x
      CROSS JOIN LATERAL unnest(x.conkey, CASE WHEN x.contype = 'f' THEN x.confkey ELSE x.conkey END) AS k (ck, rk)
      JOIN pg_attribute ca ON ca.attrelid = x.conrelid AND ca.attnum = k.ck
      JOIN pg_attribute ra ON ra.attrelid = CASE WHEN x.contype = 'f' THEN x.confrelid ELSE x.conrelid END AND ra.attnum = k.rk
      CROSS JOIN LATERAL (SELECT array_position(u.cols, ra.attnum) IS NOT NULL AS changed,
             CASE WHEN array_position(u.cols, ra.attnum) IS NULL THEN format('t.%I', ra.attname)
                  ELSE format('$2[%s]::%s', array_position(u.cols, ra.attnum), format_type(ra.atttypid, ra.atttypmod)) END AS value) g
     WHERE p.rel IN (x.conrelid, x.confrelid) AND (x.contype = 'f' OR x.contype IN ('u', 'p') AND x.condeferrable)
     GROUP BY x.oid, x.conname, x.contype, x.conrelid, x.confrelid
  LOOP
    IF c.contype = 'f' AND c.conrelid = p.rel AND u.op IN ('U', 'D') THEN
      EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE %s AND %s AND NOT EXISTS (SELECT FROM %s r WHERE %s))',
        p.rel, keyed, c.complete, c.confrelid::regclass, c.parent) INTO bad USING u.was;
      IF bad THEN
        PERFORM handfast.misfit(p.rel::text, u.was::text, format('its parent is gone (%s)', c.conname));
      END IF;
    END IF;
    IF c.contype = 'f' AND c.confrelid = p.rel AND (u.op = 'I' OR u.op = 'U' AND c.moved) THEN
      EXECUTE format('SELECT EXISTS (SELECT FROM %s f WHERE EXISTS (SELECT FROM (SELECT 1) one %s WHERE %s) AND NOT EXISTS (SELECT FROM %s r WHERE %s))',
        c.conrelid::regclass, CASE WHEN u.op = 'U' THEN format('JOIN %s t ON %s', p.rel, keyed) ELSE '' END, c.child, p.rel, c.joined)
        INTO bad USING u.was, u.new;
      IF bad THEN
        PERFORM handfast.misfit(p.rel::text, u.is_now::text, format('a row of %s refers to it (%s)', c.conrelid::regclass, c.conname));
      END IF;
    END IF;
    IF c.contype <> 'f' AND u.op IN ('U', 'D') THEN
      EXECUTE format('SELECT EXISTS (SELECT FROM %s t JOIN %s o ON %s WHERE %s AND o.ctid <> t.ctid)', p.rel, p.rel, c.twin, keyed)
        INTO bad USING u.was;
      IF bad THEN
        PERFORM handfast.misfit(p.rel::text, u.was::text, format('another row has its value (%s)', c.conname));
      END IF;
    END IF;
  END LOOP;
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
SET search_path = pg_catalog, pg_temp SET session_replication_role = replica SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  f     handfast.fence;
  u     handfast.undo;
  gates bigint[] := '{}';
  live  boolean := false;
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
  FOR u IN SELECT * FROM handfast.undo t WHERE t.xid = p_xid ORDER BY t.seq DESC LOOP
    PERFORM handfast.restore(u);
    gates := gates || u.gates;
  END LOOP;
  FOR u IN SELECT * FROM handfast.undo t WHERE t.xid = p_xid LOOP
    PERFORM handfast.verify(u);
  END LOOP;
  DELETE FROM handfast.undo t WHERE t.xid = p_xid;
  -- Last: a writer that waits for a key must find the restored row.
  DELETE FROM handfast.gate g WHERE g.k = ANY (gates);
  UPDATE handfast.fence t SET state = 'R' WHERE t.xid = p_xid AND t.state = 'L';
  RETURN live;
END $f$;

-- blockers: backends with an open local transaction of the XID.
CREATE OR REPLACE FUNCTION handfast.blockers(p_xid text) RETURNS integer[]
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  SELECT coalesce(array_agg(DISTINCT l.pid), '{}') FROM pg_locks l
   WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
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

-- Only a superuser may have an event trigger. Where there is none, tables made
-- later would be without their refuse trigger, so seal() goes on looking.
DO $f$
BEGIN
  PERFORM handfast.refuse_rest();
  IF NOT EXISTS (SELECT FROM pg_event_trigger e WHERE e.evtname = 'handfast_new_table') THEN
    CREATE EVENT TRIGGER handfast_new_table ON ddl_command_end
      WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA', 'IMPORT FOREIGN SCHEMA')
      EXECUTE FUNCTION handfast.on_new_table();
  END IF;
  UPDATE handfast.meta SET refusing = true;
EXCEPTION WHEN insufficient_privilege THEN
  UPDATE handfast.meta SET refusing = false;
END $f$;

-- Taking part needs an XID, which nobody can guess; deciding what happens to
-- one is for resource managers: see undolog.Grant.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA handfast FROM PUBLIC;
GRANT EXECUTE ON FUNCTION handfast.info(), handfast.arm(text, uuid, timestamptz, integer),
  handfast.seal(text, bigint, bigint, boolean) TO PUBLIC;
