-- The gate: who owns a key. A key is the hash of a value with a seed that says
-- what it is: a row, a value of a unique index, a parent that may vanish, a
-- parent that a vanished child may need. A collision of hashes costs a needless
-- wait, never a lost lock.

-- look gives a key that another transaction owns, and its holder; NULL where
-- there is none. A strict look inserts the keys and takes them back: it waits for
-- owners in progress, and sees those that the snapshot does not (then Postgres
-- answers 40001).
CREATE OR REPLACE FUNCTION handfast.look(p_me text, p_keys bigint[], p_strict boolean, OUT k bigint, OUT holder text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  mine tid[];
BEGIN
  IF p_strict THEN
    p_keys := ARRAY(SELECT DISTINCT u.k FROM unnest(p_keys) u (k) ORDER BY u.k);
    WITH ins AS (INSERT INTO handfast.gate (k, xid) SELECT u.k, p_me FROM unnest(p_keys) u (k) ON CONFLICT DO NOTHING RETURNING gate.ctid)
    SELECT array_agg(ins.ctid) INTO mine FROM ins;
    IF cardinality(mine) > 0 THEN
      -- Not by key, and none of the keys is looked at below where all were inserted:
      -- at SERIALIZABLE a look at the index is one at the whole of its page, and
      -- all sessions insert there.
      DELETE FROM handfast.gate g WHERE g.ctid = ANY (mine);
    END IF;
    IF cardinality(mine) = cardinality(p_keys) THEN
      RETURN;
    END IF;
  END IF;
  SELECT g.k, g.xid INTO k, holder
    FROM unnest(p_keys) u (k), LATERAL (SELECT t.k, t.xid FROM handfast.gate t WHERE t.k = u.k AND t.xid <> p_me OFFSET 0) g LIMIT 1;
END $f$;

-- take makes keys p_me's own. Where another one has one of them, it gives that
-- key and its holder. p_seqs are of the undo rows, 0 for keys that are no row's.
CREATE OR REPLACE FUNCTION handfast.take(p_me text, p_keys bigint[], p_seqs bigint[], OUT k bigint, OUT holder text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  n bigint;
BEGIN
  IF cardinality(p_keys) > 64 THEN
    -- Without ON CONFLICT each key costs half; a conflict then undoes them all.
    BEGIN
      INSERT INTO handfast.gate (k, xid, seq) SELECT u.k, p_me, u.seq FROM unnest(p_keys, p_seqs) u (k, seq) ORDER BY u.k;
      RETURN;
    EXCEPTION WHEN unique_violation THEN
      NULL;
    END;
  END IF;
  FOR i IN 1 .. 3 LOOP
    -- In one order, so that two of us wait and do not deadlock.
    INSERT INTO handfast.gate (k, xid, seq) SELECT u.k, p_me, u.seq FROM unnest(p_keys, p_seqs) u (k, seq) ORDER BY u.k, u.seq ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n = cardinality(p_keys) THEN
      RETURN;
    END IF;
    SELECT g.k, g.xid INTO k, holder
      FROM unnest(p_keys) u (k), LATERAL (SELECT t.k, t.xid FROM handfast.gate t WHERE t.k = u.k AND t.xid <> p_me OFFSET 0) g LIMIT 1;
    IF FOUND THEN
      RETURN;
    END IF;
    UPDATE handfast.gate g SET more = true FROM unnest(p_keys, p_seqs) u (k, seq)
     WHERE g.k = u.k AND g.xid = p_me AND u.seq > 0 AND g.seq <> u.seq AND NOT g.more;
    PERFORM FROM unnest(p_keys) u (k) WHERE NOT EXISTS (SELECT FROM handfast.gate g WHERE g.k = u.k AND g.xid = p_me);
    IF NOT FOUND THEN
      RETURN;
    END IF;
  END LOOP; -- gone between the two statements: once more
  holder := '?';
END $f$;

-- need keeps parents in place while their children may come back. A parent has
-- 64 slots, one for each undecided transaction; p_bases are their first keys. It
-- gives a holder where all are taken.
CREATE OR REPLACE FUNCTION handfast.need(p_me text, p_tab integer, p_bases bigint[]) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  first integer := hashtext(p_me) & 63;
  left_ bigint[];
  taken bigint[];
  base  bigint;
  found_ bigint;
  h     text;
BEGIN
  IF coalesce(cardinality(p_bases), 0) = 0 THEN
    RETURN NULL;
  END IF;
  WITH ins AS (INSERT INTO handfast.gate (k, xid) SELECT b + first, p_me FROM unnest(p_bases) b ORDER BY b ON CONFLICT DO NOTHING RETURNING k)
  SELECT array_agg(ins.k) INTO taken FROM ins;
  IF coalesce(cardinality(taken), 0) < cardinality(p_bases) THEN
    left_ := ARRAY(SELECT b FROM unnest(p_bases) b WHERE b + first <> ALL (coalesce(taken, '{}')) AND NOT EXISTS (
      SELECT FROM handfast.gate g WHERE g.k BETWEEN b AND b + 63 AND g.xid = p_me));
    FOREACH base IN ARRAY left_ LOOP
      found_ := NULL;
      FOR i IN 1 .. 63 LOOP
        INSERT INTO handfast.gate (k, xid) VALUES (base + (first + i & 63), p_me) ON CONFLICT DO NOTHING RETURNING k INTO found_;
        EXIT WHEN found_ IS NOT NULL;
      END LOOP;
      IF found_ IS NULL THEN
        SELECT g.xid INTO h FROM handfast.gate g WHERE g.k = base;
        RETURN coalesce(h, '?');
      END IF;
      taken := taken || found_;
    END LOOP;
  END IF;
  IF cardinality(taken) > 0 THEN
    INSERT INTO handfast.undo (xid, branch, tab, op, gates) VALUES (p_me, current_setting('handfast.branch')::uuid, p_tab, 'L', taken);
  END IF;
  RETURN NULL;
END $f$;

-- needed gives another transaction that needs the parent.
CREATE OR REPLACE FUNCTION handfast.needed(p_me text, p_base bigint, p_strict boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $f$
DECLARE
  h text;
BEGIN
  IF p_strict THEN
    SELECT l.holder INTO h FROM handfast.look(p_me, ARRAY(SELECT p_base + i FROM generate_series(0, 63) i), true) l;
  ELSE
    SELECT g.xid INTO h FROM handfast.gate g WHERE g.k BETWEEN p_base AND p_base + 63 AND g.xid <> p_me LIMIT 1;
  END IF;
  RETURN h;
END $f$;

-- conflict says who holds what. At READ COMMITTED a savepoint, a wait and a
-- retry help; above it only a new transaction sees the settle. An XID is all that
-- joining takes, so only who may settle is told it. The setting role is who asks:
-- current_user is the owner of the function that found the conflict.
CREATE OR REPLACE FUNCTION handfast.conflict(p_holder text, p_tab text, p_key text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  told text := CASE WHEN has_function_privilege(coalesce(nullif(current_setting('role'), 'none'), session_user)::name,
                         'handfast.rollback_undo(text, uuid[])', 'EXECUTE') THEN p_holder END;
BEGIN
  RAISE EXCEPTION '% % is held by %', p_tab, p_key, coalesce('undecided global transaction ' || told, 'an undecided global transaction') USING
    ERRCODE = CASE WHEN current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN 'HF001' ELSE '40001' END,
    DETAIL = json_build_object('handfast', 'conflict', 'holder', told, 'table', p_tab, 'key', p_key)::text,
    HINT = 'Wait until it is decided and settled, then try again' || coalesce(': handfast tx show ' || told, '.');
END $f$;

-- settles tells whether this local transaction is a rollback that restores.
CREATE OR REPLACE FUNCTION handfast.settles() RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$f$ SELECT EXISTS (SELECT FROM handfast.settling s WHERE s.lxid = pg_current_xact_id()) $f$;

-- settled is true for a row of a protected table that no other undecided
-- transaction has changed, and fails like a write to it otherwise. It asks twice: whether
-- the row was settled at the moment of the snapshot that it was read with, and whether it
-- is now. The first question is not enough, for SELECT ... FOR UPDATE asks again for a row
-- that changed while it waited, with the snapshot from before. The second is not enough,
-- for a row that was read undecided may have been rolled back since.
--
-- Postgres has to put the body in place of the call: only there is the snapshot that of
-- the query. It does wherever the body has its argument once, does not call itself more
-- stable than it is, and has no SECURITY DEFINER and no SET. It is VOLATILE, or it would
-- be left out where nobody looks at its answer.
CREATE OR REPLACE FUNCTION handfast.settled(p_row anyelement) RETURNS boolean
LANGUAGE sql VOLATILE AS $f$ SELECT handfast.settled_now(handfast.settled_then($1)) $f$;

-- heirs are the protected tables that inherit from a table. A row that was read through
-- the table may be one of theirs, which nothing in it tells, and is then owned by their
-- key. told is false where that key has columns that such a row lacks.
CREATE OR REPLACE FUNCTION handfast.heirs(p_rel regclass) RETURNS TABLE (id integer, rel regclass, told boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $f$
  WITH RECURSIVE heir (rel) AS (
    SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = p_rel
     UNION SELECT i.inhrelid FROM pg_inherits i JOIN heir h ON i.inhparent = h.rel)
  SELECT p.id, p.rel, NOT EXISTS (
           SELECT FROM pg_index x, unnest(x.indkey) k (num) JOIN pg_attribute a ON a.attnum = k.num
            WHERE x.indrelid = p.rel AND x.indisprimary AND a.attrelid = p.rel AND NOT EXISTS (
              SELECT FROM pg_attribute o WHERE o.attrelid = p_rel AND o.attname = a.attname AND o.attnum > 0 AND NOT o.attisdropped))
    FROM heir h JOIN handfast.protected p ON p.rel = h.rel WHERE p.capture
$f$;

-- settled_then looks with the snapshot of the query, and gives the row on. Not at
-- SERIALIZABLE: there every look at the gate is one at a whole page of its index, where
-- everybody inserts, and three transactions of ten would fail for nothing. FOR UPDATE finds
-- there what has changed.
CREATE OR REPLACE FUNCTION handfast.settled_then(p_row anyelement) RETURNS anyelement
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  whose  regclass;
  tab    integer;
  heirs  boolean;
BEGIN
  IF p_row IS NOT DISTINCT FROM NULL OR current_setting('transaction_isolation') = 'serializable' THEN
    RETURN p_row;
  END IF;
  SELECT p.id, p.rel, c.relhassubclass AND c.relkind = 'r' INTO tab, whose, heirs
    FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel WHERE p.capture AND p.fingerprint <> ''
     AND p.rel = (SELECT handfast.root(t.typrelid) FROM pg_type t WHERE t.oid = pg_typeof(p_row) AND t.typrelid <> 0);
  IF NOT FOUND THEN
    RETURN p_row; -- what is no row of a protected table, settled_now refuses
  END IF;
  EXECUTE format('SELECT handfast.settled_then_%s($1)', tab) USING p_row;
  IF heirs THEN
    FOR tab IN SELECT h.id FROM handfast.heirs(whose) h WHERE h.told LOOP
      EXECUTE format('SELECT handfast.settled_then_%s($1)', tab) USING p_row;
    END LOOP;
  END IF;
  RETURN p_row;
END $f$;

-- settled_now looks at what is there at this moment.
CREATE OR REPLACE FUNCTION handfast.settled_now(p_row anyelement) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  whose  regclass := (SELECT handfast.root(t.typrelid) FROM pg_type t WHERE t.oid = pg_typeof(p_row) AND t.typrelid <> 0);
  tab    integer;
  heirs  boolean;
  heir   record;
  answer boolean;
BEGIN
  SELECT p.id, c.relhassubclass AND c.relkind = 'r' INTO tab, heirs
    FROM handfast.protected p JOIN pg_class c ON c.oid = p.rel WHERE p.rel = whose AND p.capture AND p.fingerprint <> '';
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is no row of a protected table: nothing is known of it', coalesce(whose::text, pg_typeof(p_row)::text)
      USING ERRCODE = 'HF004', HINT = 'Use it as in: SELECT ... FROM account a WHERE a.id = 7 AND handfast.settled(a) FOR UPDATE';
  END IF;
  IF p_row IS NOT DISTINCT FROM NULL THEN
    RETURN true; -- of an outer join
  END IF;
  EXECUTE format('SELECT handfast.settled_%s($1)', tab) INTO answer USING p_row;
  IF heirs THEN
    FOR heir IN SELECT h.* FROM handfast.heirs(whose) h LOOP
      IF NOT heir.told THEN
        RAISE EXCEPTION 'a row of % may be one of %, which has its key in other columns: nothing is known of it', whose, heir.rel USING ERRCODE = 'HF004';
      END IF;
      EXECUTE format('SELECT handfast.settled_%s($1)', heir.id) INTO answer USING p_row;
    END LOOP;
  END IF;
  RETURN answer;
END $f$;
