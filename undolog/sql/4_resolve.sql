-- Rows that are not what the transaction left: what there is to see, what a
-- person chooses, and how the choice gets into the rollback.

-- altered says why the rows of a table can't be compared; NULL where they can.
CREATE OR REPLACE FUNCTION handfast.altered(p_tab integer) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  p handfast.protected;
BEGIN
  SELECT * INTO p FROM handfast.protected t WHERE t.id = p_tab;
  IF NOT FOUND OR to_regclass(p.rel::text) IS NULL THEN
    RETURN 'the table is gone';
  ELSIF p.fingerprint <> handfast.fingerprint(p.rel) THEN
    RETURN 'the table was altered after the change was captured';
  END IF;
  RETURN NULL;
END $f$;

CREATE OR REPLACE FUNCTION handfast.check_unchanged(p_tab integer) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  problem text := handfast.altered(p_tab);
BEGIN
  IF problem IS NOT NULL THEN
    PERFORM handfast.misfit(coalesce((SELECT t.rel::text FROM handfast.protected t WHERE t.id = p_tab), 'table ' || p_tab), '?', problem);
  END IF;
END $f$;

-- seen is short for what is there now, in the columns that are compared.
CREATE OR REPLACE FUNCTION handfast.seen(p_now boolean, p_current text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS
$f$ SELECT left(md5(p_now::text || coalesce(p_current, '{}')::text), 12) $f$;

CREATE OR REPLACE FUNCTION handfast.key_columns(p_rel regclass) RETURNS smallint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT array_agg(k.num ORDER BY k.nth) FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (num, nth)
   WHERE i.indrelid = p_rel AND i.indisprimary AND k.nth <= i.indnkeyatts
$f$;

CREATE OR REPLACE FUNCTION handfast.column_names(p_rel regclass, p_cols smallint[]) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT coalesce(array_agg(a.attname::text ORDER BY c.nth), '{}') FROM unnest(p_cols) WITH ORDINALITY AS c (num, nth)
    JOIN pg_attribute a ON a.attrelid = p_rel AND a.attnum = c.num
$f$;

-- steps is the plan of every table, or of one, or of one row.
CREATE OR REPLACE FUNCTION handfast.steps(p_xid text, p_tab integer, p_key text[]) RETURNS SETOF handfast.step
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  t integer;
BEGIN
  FOR t IN SELECT DISTINCT u.tab FROM handfast.undo u WHERE u.xid = p_xid AND (p_tab IS NULL OR u.tab = p_tab) ORDER BY u.tab LOOP
    IF handfast.altered(t) IS NULL THEN
      RETURN QUERY EXECUTE format('SELECT * FROM handfast.plan_%s($1, $2)', t) USING p_xid, p_key;
    END IF;
  END LOOP;
END $f$;

-- diff is what a rollback would do, row by row: before, after, now. Rows that do
-- not fit come first; values are cut to p_cut characters.
DROP FUNCTION IF EXISTS handfast.diff(text);
CREATE OR REPLACE FUNCTION handfast.diff(p_xid text, p_limit integer, p_cut integer)
RETURNS TABLE (total bigint, misfits bigint, undecided bigint, rel text, problem text, key_names text[], key text[],
  was boolean, is_after boolean, is_now boolean, fits boolean, seen text, names text[], before text[], after text[], current text[], wrong boolean[],
  choice text, who text, why text, at timestamptz, stale boolean, there boolean, edited text[], vals text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
  WITH bad AS (
    SELECT u.tab, handfast.altered(u.tab) AS problem FROM (SELECT DISTINCT t.tab FROM handfast.undo t WHERE t.xid = p_xid) u),
  s AS (
    SELECT s.*, p.rel AS rel, handfast.seen(s.is_now, s.current) AS seen, handfast.key_columns(p.rel) AS keys
      FROM handfast.steps(p_xid, NULL, NULL) s JOIN handfast.protected p ON p.id = s.tab),
  -- A primary key is never NULL in a row that is there.
  a AS (
    SELECT s.*, NOT EXISTS (SELECT FROM unnest(s.cols, s.after) AS c (num, v) WHERE c.num = ANY (s.keys) AND c.v IS NULL) AS is_after FROM s),
  d AS (
    SELECT a.*, r.choice, r.who, r.why, r.at, r.there, r.cols AS rcols, r.vals AS rvals, r.seen <> a.seen AS stale
      FROM a LEFT JOIN handfast.resolution r ON r.xid = p_xid AND r.tab = a.tab AND r.key = a.key AND r.done IS NULL AND r.replaced IS NULL),
  n AS (
    SELECT count(*) + (SELECT count(*) FROM bad b WHERE b.problem IS NOT NULL) AS total,
           count(*) FILTER (WHERE NOT d.fits) + (SELECT count(*) FROM bad b WHERE b.problem IS NOT NULL) AS misfits,
           count(*) FILTER (WHERE NOT d.fits AND d.stale IS DISTINCT FROM false) + (SELECT count(*) FROM bad b WHERE b.problem IS NOT NULL) AS undecided
      FROM d)
  SELECT n.*, o.* FROM n, (
    SELECT coalesce(p.rel::text, 'table ' || b.tab), b.problem, '{}'::text[], '{}'::text[],
           false, false, false, false, '', '{}'::text[], '{}'::text[], '{}'::text[], '{}'::text[], '{}'::boolean[],
           NULL::text, NULL::text, NULL::text, NULL::timestamptz, NULL::boolean, NULL::boolean, NULL::text[], NULL::text[]
      FROM bad b LEFT JOIN handfast.protected p ON p.id = b.tab WHERE b.problem IS NOT NULL
    UNION ALL
    (SELECT d.rel::text, NULL, handfast.column_names(d.rel, d.keys), d.key, d.was, d.is_after, d.is_now, d.fits, d.seen,
           handfast.column_names(d.rel, d.cols), c.before, c.after, c.current, c.wrong,
           d.choice, d.who, d.why, d.at, d.stale, d.there, handfast.column_names(d.rel, d.rcols), d.rvals
      FROM (SELECT * FROM d ORDER BY d.fits, d.tab, d.key LIMIT p_limit) d,
           LATERAL (SELECT coalesce(array_agg(left(v.b, p_cut + 1) ORDER BY v.nth), '{}') AS before, coalesce(array_agg(left(v.a, p_cut + 1) ORDER BY v.nth), '{}') AS after,
                           coalesce(array_agg(left(v.c, p_cut + 1) ORDER BY v.nth), '{}') AS current,
                           coalesce(array_agg(NOT d.fits AND (v.c IS DISTINCT FROM v.a OR d.is_now <> d.is_after) ORDER BY v.nth), '{}') AS wrong
                      FROM unnest(d.before, d.after, d.current) WITH ORDINALITY AS v (b, a, c, nth)) c
     ORDER BY d.fits, d.tab, d.key)) o
$f$;

CREATE OR REPLACE FUNCTION handfast.refuse_choice(p_kind text, p_tab text, p_key text[], p_what text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RAISE EXCEPTION '%', p_what USING ERRCODE = 'HF007',
    DETAIL = json_build_object('handfast', 'choice', 'kind', p_kind, 'table', p_tab, 'key', p_key::text, 'what', p_what)::text;
END $f$;

-- canonical checks a value against the type of a column as an assignment would,
-- and gives its image, which means the same later ('now' would not).
CREATE OR REPLACE FUNCTION handfast.canonical(p_type oid, p_mod integer, p_val text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 3 SET TimeZone = 'UTC'
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' SET array_nulls = on SET quote_all_identifiers = off AS $f$
DECLARE
  base  regtype := handfast.base_type(p_type);
  image text;
  loose text;
BEGIN
  -- A bare literal goes to the input function of the type, concat to its output function.
  EXECUTE format('SELECT concat(%L::%s)', p_val, format_type(p_type, p_mod)) INTO image;
  IF base IN ('varchar'::regtype, 'bpchar'::regtype, 'bit'::regtype, 'varbit'::regtype, 'varchar[]'::regtype, 'varbit[]'::regtype) THEN
    -- A cast cuts or pads where an assignment fails.
    EXECUTE format('SELECT concat(%L::%s)', p_val, format_type(base, -1)) INTO loose;
    IF rtrim(loose) <> rtrim(image) THEN
      RAISE EXCEPTION 'the value does not fit into type %', format_type(p_type, p_mod) USING ERRCODE = 'string_data_right_truncation';
    END IF;
  END IF;
  RETURN CASE WHEN p_val IS NOT NULL THEN image END;
END $f$;

-- outcome_of works out what becomes of a row, for restore and edit.
CREATE OR REPLACE FUNCTION handfast.outcome_of(p_rel regclass, s handfast.step, p_choice text, p_cols text[], p_vals text[],
  OUT there boolean, OUT cols smallint[], OUT vals text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  a       pg_attribute;
  i       integer;
  keys    smallint[] := handfast.key_columns(p_rel);
  given   smallint[] := '{}';
  images  text[] := '{}';
  missing text;
BEGIN
  there := s.was OR p_choice = 'edit';
  cols := '{}';
  vals := '{}';
  IF NOT there THEN
    RETURN;
  END IF;
  FOR i IN 1 .. cardinality(p_cols) LOOP
    SELECT * INTO a FROM pg_attribute t WHERE t.attrelid = p_rel AND t.attname = p_cols[i] AND t.attnum > 0 AND NOT t.attisdropped;
    IF NOT FOUND THEN
      PERFORM handfast.refuse_choice('column', p_rel::text, s.key, format('table %s has no column %s', p_rel, quote_ident(p_cols[i])));
    ELSIF a.attnum = ANY (keys) THEN
      PERFORM handfast.refuse_choice('column', p_rel::text, s.key, format('column %s is part of the key, which stays what it is', quote_ident(a.attname)));
    ELSIF a.attgenerated <> '' THEN
      PERFORM handfast.refuse_choice('column', p_rel::text, s.key, format('column %s is generated and takes no value', quote_ident(a.attname)));
    ELSIF a.attnum = ANY (given) THEN
      PERFORM handfast.refuse_choice('column', p_rel::text, s.key, format('column %s is given twice', quote_ident(a.attname)));
    ELSIF a.attnotnull AND p_vals[i] IS NULL THEN
      PERFORM handfast.refuse_choice('value', p_rel::text, s.key, format('column %s can not be NULL', quote_ident(a.attname)));
    END IF;
    given := given || a.attnum;
    BEGIN
      images := images || handfast.canonical(a.atttypid, a.atttypmod, p_vals[i]);
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
      PERFORM handfast.refuse_choice('value', p_rel::text, s.key, format('column %s: %s', quote_ident(a.attname), SQLERRM));
    END;
  END LOOP;
  -- What is not given is as before, and where there was no row before, as now.
  SELECT coalesce(array_agg(c.num ORDER BY c.num), '{}'), coalesce(array_agg(c.v ORDER BY c.num), '{}') INTO cols, vals FROM (
    SELECT g.num, g.v FROM unnest(given, images) AS g (num, v)
    UNION ALL
    SELECT b.num, b.v FROM unnest(s.cols, CASE WHEN s.was THEN s.before ELSE s.current END) AS b (num, v)
     WHERE (s.was OR s.is_now) AND b.num <> ALL (given)
    UNION ALL
    SELECT k.num, k.v FROM unnest(keys, s.key) AS k (num, v) WHERE NOT s.is_now AND k.num <> ALL (given) AND NOT (s.was AND k.num = ANY (s.cols))) c;
  IF NOT s.is_now THEN
    SELECT string_agg(quote_ident(t.attname), ', ' ORDER BY t.attnum) INTO missing FROM pg_attribute t
     WHERE t.attrelid = p_rel AND t.attnum > 0 AND NOT t.attisdropped AND t.attgenerated = '' AND t.attnum <> ALL (cols);
    IF missing IS NOT NULL THEN
      PERFORM handfast.refuse_choice('value', p_rel::text, s.key,
        format('the row is gone, and what it had in the columns %s is not known: choose edit and give them, or keep', missing));
    END IF;
  END IF;
END $f$;

-- touched_table finds a table of the transaction by its name, quoted or not,
-- with or without its schema.
CREATE OR REPLACE FUNCTION handfast.touched_table(p_xid text, p_table text) RETURNS integer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  found integer[];
  names text;
BEGIN
  SELECT array_agg(p.id), string_agg(p.rel::text, ', ') INTO found, names FROM handfast.protected p
    JOIN pg_class c ON c.oid = p.rel JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE p_table IN (p.rel::text, n.nspname || '.' || c.relname, c.relname, quote_ident(c.relname))
     AND EXISTS (SELECT FROM handfast.undo u WHERE u.xid = p_xid AND u.tab = p.id);
  IF cardinality(found) = 1 THEN
    RETURN found[1];
  ELSIF found IS NOT NULL THEN
    PERFORM handfast.refuse_choice('table', p_table, '{}', format('several tables are called %s: %s', p_table, names));
  END IF;
  SELECT string_agg(p.rel::text, ', ' ORDER BY p.rel::text) INTO names FROM handfast.protected p
   WHERE EXISTS (SELECT FROM handfast.undo u WHERE u.xid = p_xid AND u.tab = p.id);
  PERFORM handfast.refuse_choice('table', p_table, '{}', format('global transaction %s changed no table %s; it changed %s', p_xid, p_table, names));
END $f$;

-- choose_lock keeps settlers out, so that none carries out half of a choice.
CREATE OR REPLACE FUNCTION handfast.choose_lock(p_xid text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM handfast.only_read_committed();
  PERFORM FROM handfast.fence f WHERE f.xid = p_xid ORDER BY f.branch FOR UPDATE;
  IF NOT EXISTS (SELECT FROM handfast.undo u WHERE u.xid = p_xid) THEN
    PERFORM handfast.refuse_choice('xid', '', '{}', format('global transaction %s has nothing to roll back in this database: it changed nothing here, or is settled', p_xid));
  END IF;
END $f$;

-- record_choice puts a choice on record. The same one again changes nothing.
CREATE OR REPLACE FUNCTION handfast.record_choice(s handfast.step, p_choice text, p_cols text[], p_vals text[], p_who text, p_why text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  v_rel regclass := (SELECT p.rel FROM handfast.protected p WHERE p.id = s.tab);
  v_seen text := handfast.seen(s.is_now, s.current);
  o record;
BEGIN
  SELECT s.is_now AS there, '{}'::smallint[] AS cols, '{}'::text[] AS vals INTO o;
  IF p_choice <> 'keep' THEN
    SELECT * INTO o FROM handfast.outcome_of(v_rel, s, p_choice, p_cols, p_vals);
  END IF;
  IF EXISTS (SELECT FROM handfast.resolution r WHERE r.xid = s.xid AND r.tab = s.tab AND r.key = s.key AND r.done IS NULL AND r.replaced IS NULL
              AND r.choice = p_choice AND r.seen = v_seen AND r.there = o.there AND r.cols = o.cols AND r.vals = o.vals) THEN
    RETURN;
  END IF;
  UPDATE handfast.resolution r SET replaced = clock_timestamp()
   WHERE r.xid = s.xid AND r.tab = s.tab AND r.key = s.key AND r.done IS NULL AND r.replaced IS NULL;
  INSERT INTO handfast.resolution (xid, tab, rel, key, choice, who, why, was, is_now, touched, before, after, current, seen, there, cols, vals)
    VALUES (s.xid, s.tab, v_rel::text, s.key, p_choice, p_who, p_why, s.was, s.is_now, s.cols,
            coalesce(s.before, '{}'), coalesce(s.after, '{}'), coalesce(s.current, '{}'), v_seen, o.there, o.cols, o.vals);
END $f$;

-- choose records what a person chose for one row.
CREATE OR REPLACE FUNCTION handfast.choose(p_xid text, p_table text, p_key text[], p_choice text, p_cols text[], p_vals text[], p_who text, p_why text, p_seen text)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  v_tab  integer;
  v_rel  regclass;
  v_keys text[];
  s      handfast.step;
BEGIN
  PERFORM handfast.choose_lock(p_xid);
  v_tab := handfast.touched_table(p_xid, p_table);
  PERFORM handfast.check_unchanged(v_tab);
  SELECT p.rel INTO v_rel FROM handfast.protected p WHERE p.id = v_tab;
  v_keys := handfast.column_names(v_rel, handfast.key_columns(v_rel));
  IF cardinality(p_key) IS DISTINCT FROM cardinality(v_keys) THEN
    PERFORM handfast.refuse_choice('key', v_rel::text, p_key, format('the key of table %s has %s values (%s), not %s',
      v_rel, cardinality(v_keys), array_to_string(v_keys, ', '), coalesce(cardinality(p_key), 0)));
  END IF;
  BEGIN
    SELECT * INTO s FROM handfast.steps(p_xid, v_tab, p_key) LIMIT 1;
  EXCEPTION WHEN data_exception THEN
    PERFORM handfast.refuse_choice('key', v_rel::text, p_key, format('this is no key of table %s: %s', v_rel, SQLERRM));
  END;
  IF s.xid IS NULL THEN
    PERFORM handfast.refuse_choice('row', v_rel::text, p_key, format('global transaction %s changed no row %s of table %s', p_xid, p_key, v_rel));
  ELSIF p_seen <> '' AND p_seen <> handfast.seen(s.is_now, s.current) THEN
    PERFORM handfast.refuse_choice('seen', v_rel::text, s.key, format('row %s of table %s is not what it was when it was looked at (%s, now %s): look again',
      s.key, v_rel, p_seen, handfast.seen(s.is_now, s.current)));
  END IF;
  PERFORM handfast.record_choice(s, p_choice, p_cols, p_vals, p_who, p_why);
END $f$;

-- choose_all records one choice for every row that does not fit and has none
-- that holds for what is there now. It tells how many.
CREATE OR REPLACE FUNCTION handfast.choose_all(p_xid text, p_choice text, p_who text, p_why text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  t integer;
  s handfast.step;
  n bigint := 0;
BEGIN
  PERFORM handfast.choose_lock(p_xid);
  FOR t IN SELECT DISTINCT u.tab FROM handfast.undo u WHERE u.xid = p_xid LOOP
    PERFORM handfast.check_unchanged(t);
  END LOOP;
  FOR s IN SELECT * FROM handfast.steps(p_xid, NULL, NULL) x WHERE NOT x.fits AND NOT EXISTS (
      SELECT FROM handfast.resolution r WHERE r.xid = p_xid AND r.tab = x.tab AND r.key = x.key AND r.done IS NULL AND r.replaced IS NULL
         AND r.seen = handfast.seen(x.is_now, x.current)) LOOP
    PERFORM handfast.record_choice(s, p_choice, '{}', '{}', p_who, p_why);
    n := n + 1;
  END LOOP;
  RETURN n;
END $f$;

-- resolve puts what a person chose into the steps of a rollback, which hold the
-- rows locked: what they compare is what is written.
CREATE OR REPLACE FUNCTION handfast.resolve(p_xid text, p_tab integer) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  r handfast.resolution;
  s handfast.step;
BEGIN
  FOR r IN SELECT * FROM handfast.resolution t WHERE t.xid = p_xid AND t.tab = p_tab AND t.done IS NULL AND t.replaced IS NULL LOOP
    SELECT * INTO s FROM handfast.step x WHERE x.xid = p_xid AND x.tab = p_tab AND x.key = r.key;
    IF r.seen = handfast.seen(s.is_now, s.current) THEN
      UPDATE handfast.step x SET fits = true, was = r.there, cols = r.cols, before = r.vals WHERE x.xid = p_xid AND x.tab = p_tab AND x.key = r.key;
    ELSIF s.fits THEN
      UPDATE handfast.resolution x SET replaced = clock_timestamp() WHERE x.id = r.id; -- somebody put it right
    ELSE
      PERFORM handfast.misfit(r.rel, r.key::text, format('it changed again after %s chose to %s it: look, and choose again', r.who, r.choice));
    END IF;
  END LOOP;
END $f$;
