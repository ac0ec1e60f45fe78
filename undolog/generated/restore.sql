{{- /* What a rollback does to one table. plan looks, restore writes, verify looks
again at what restore switched off. */ -}}
-- plan says, for each key that the transaction touched, what was there before it
-- and whether what is there now is what it left. For each column, the values
-- before its changes and the value now, without the values after its changes,
-- are the one value from before: in whatever order the changes were captured.
CREATE OR REPLACE FUNCTION handfast.plan_{{.ID}}(p_xid text, p_key text[]) RETURNS SETOF handfast.step
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp{{.AllPins}} SET row_security = off AS @body@
WITH u AS MATERIALIZED (
  SELECT {{.TypedKeys "u.key"}}, u.key, u.seq, u.op, u.cols, u.old, u.new FROM handfast.undo u
   WHERE u.xid = p_xid AND u.tab = {{.ID}} AND u.op <> 'L'
     AND (p_key IS NULL OR {{.TypedSame "u.key" "p_key"}})),
keys AS (
  SELECT {{.KeyNames "u"}}, min(u.key) AS key, array_agg(DISTINCT c.n) FILTER (WHERE c.n IS NOT NULL) AS cols, bool_or(u.op <> 'U') AS whole,
         (array_agg(u.op ORDER BY u.seq))[1] AS first
    FROM u LEFT JOIN LATERAL unnest(u.cols) c (n) ON true GROUP BY {{.KeyNames "u"}}),
cur AS MATERIALIZED (
  SELECT {{.KeyNames "k"}}, k.key, coalesce(k.cols, '{}') AS cols, k.whole, k.first, {{.Present "t"}} AS there, {{.ImagesOf "t" "k.cols"}} AS img
    FROM keys k LEFT JOIN {{.Only}}{{.Name}} t ON {{.KeyIs "t" "k"}}),
touch AS (
  SELECT {{.KeyNames "u"}}, c.n, CASE WHEN u.op <> 'I' THEN u.old[c.n] END AS v, u.op = 'I' AS gone, 1 AS w FROM u, unnest(u.cols) c (n)
  UNION ALL SELECT {{.KeyNames "u"}}, c.n, CASE WHEN u.op <> 'D' THEN u.new[c.n] END, u.op = 'D', -1 FROM u, unnest(u.cols) c (n)
  UNION ALL SELECT {{.KeyNames "k"}}, c.n, CASE WHEN k.there THEN k.img[c.n] END, NOT k.there, 1 FROM cur k, unnest(k.cols) c (n)
  -- Column 0 stands for the row itself.
  UNION ALL SELECT {{.KeyNames "u"}}, 0, NULL, u.op = 'I', 1 FROM u WHERE u.op <> 'U'
  UNION ALL SELECT {{.KeyNames "u"}}, 0, NULL, u.op = 'D', -1 FROM u WHERE u.op <> 'U'
  UNION ALL SELECT {{.KeyNames "k"}}, 0, NULL, NOT k.there, 1 FROM cur k WHERE k.whole),
net AS (
  SELECT {{.KeyNames "t"}}, t.n, t.v COLLATE "C" AS v, t.gone, sum(t.w) AS s FROM touch t
   GROUP BY {{.KeyNames "t"}}, t.n, t.v COLLATE "C", t.gone HAVING sum(t.w) <> 0),
col AS (
  SELECT {{.KeyNames "t"}}, t.n, count(*) = 1 AND bool_and(t.s = 1) AS fits, bool_and(t.gone) AS gone, min(t.v) AS v
    FROM net t GROUP BY {{.KeyNames "t"}}, t.n),
-- For people, where something does not fit: the first value and the last.
seen AS (
  SELECT {{.KeyNames "u"}}, c.n, (array_agg(u.old[c.n] ORDER BY u.seq))[1] AS old, (array_agg(u.new[c.n] ORDER BY u.seq DESC))[1] AS new
    FROM u, unnest(u.cols) c (n) GROUP BY {{.KeyNames "u"}}, c.n)
SELECT p_xid, {{.ID}}, k.key, coalesce(bool_or(NOT t.gone) FILTER (WHERE t.n = 0 AND t.fits), k.first <> 'I'),
       k.there, coalesce(bool_and(t.fits), true), k.cols,
       array_agg(CASE WHEN t.fits THEN t.v ELSE s.old END ORDER BY t.n) FILTER (WHERE t.n > 0),
       array_agg(s.new ORDER BY t.n) FILTER (WHERE t.n > 0),
       array_agg(CASE WHEN k.there THEN k.img[t.n] END ORDER BY t.n) FILTER (WHERE t.n > 0), false
  FROM cur k LEFT JOIN col t ON {{.KeyTwin "t" "k"}} LEFT JOIN seen s ON {{.KeyTwin "s" "k"}} AND s.n = t.n
 GROUP BY {{.KeyNames "k"}}, k.key, k.there, k.cols, k.first
@body@;

-- restore writes what plan says, all of a table or nothing. Values go from text
-- to the column's type inside the server.
CREATE OR REPLACE FUNCTION handfast.restore_{{.ID}}(p_xid text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp{{.AllPins}} SET row_security = off AS @body@
DECLARE
  s handfast.step;
  n bigint;
  m bigint;
BEGIN
  PERFORM FROM {{.Only}}{{.Name}} t JOIN (SELECT DISTINCT {{.TypedKeys "u.key"}} FROM handfast.undo u WHERE u.xid = p_xid AND u.tab = {{.ID}} AND u.op <> 'L') k
    ON {{.KeyIs "t" "k"}} FOR UPDATE OF t;
  INSERT INTO handfast.step SELECT * FROM handfast.plan_{{.ID}}(p_xid, NULL);
  PERFORM handfast.resolve(p_xid, {{.ID}});
  SELECT * INTO s FROM handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND NOT x.fits LIMIT 1;
  IF FOUND THEN
    PERFORM handfast.misfit({{lit .Name}}, s.key::text, format('it is not what global transaction %s left there', p_xid));
  END IF;
{{- if .IdentityNumbers}}
  UPDATE handfast.step x SET rewrite = x.was AND x.is_now AND x.cols && {{.IdentityNumbers}} WHERE x.xid = p_xid AND x.tab = {{.ID}};
{{- end}}
  -- Rows that were not there go first, and those that were come last: then no
  -- value is taken twice in between.
  BEGIN
    DELETE FROM {{.Only}}{{.Name}} t USING handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND {{.StepIs "t" "x"}} AND NOT x.was;
    UPDATE {{.Only}}{{.Name}} t SET {{.SetBefore "t" "x"}}
      FROM handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND {{.StepIs "t" "x"}} AND x.was AND x.is_now AND NOT x.rewrite AND x.cols <> '{}';
  EXCEPTION WHEN unique_violation THEN
    -- Values that move from row to row: take those rows out and put them back.
    UPDATE handfast.step x SET rewrite = true WHERE x.xid = p_xid AND x.tab = {{.ID}} AND x.was AND x.is_now;
    DELETE FROM {{.Only}}{{.Name}} t USING handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND {{.StepIs "t" "x"}} AND NOT x.was;
  END;
  IF EXISTS (SELECT FROM handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND x.rewrite) THEN
    WITH whole AS (
      SELECT x.key, {{.MergedImages "t" "x"}} AS before FROM handfast.step x JOIN {{.Only}}{{.Name}} t ON {{.StepIs "t" "x"}}
       WHERE x.xid = p_xid AND x.tab = {{.ID}} AND x.rewrite)
    UPDATE handfast.step x SET before = w.before, cols = {{.Numbers}} FROM whole w WHERE x.xid = p_xid AND x.tab = {{.ID}} AND hash_array(x.key) = hash_array(w.key) AND x.key = w.key;
    DELETE FROM {{.Only}}{{.Name}} t USING handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND {{.StepIs "t" "x"}} AND x.rewrite;
  END IF;
  INSERT INTO {{.Name}} ({{.ColumnNames}}) OVERRIDING SYSTEM VALUE
    SELECT {{.FromStep "x"}} FROM handfast.step x WHERE x.xid = p_xid AND x.tab = {{.ID}} AND x.was AND (x.rewrite OR NOT x.is_now);
EXCEPTION
  WHEN integrity_constraint_violation OR data_exception THEN
    GET STACKED DIAGNOSTICS s.xid = PG_EXCEPTION_DETAIL;
    PERFORM handfast.misfit({{lit .Name}}, coalesce(nullif(s.xid, ''), '?'), SQLERRM);
END
@body@;

-- verify looks at what replica mode does not: foreign keys, and unique
-- constraints that are deferrable. What the guard let through must stick here,
-- visibly, and not become an orphan that nobody notices.
CREATE OR REPLACE FUNCTION handfast.verify_{{.ID}}(p_xid text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp{{.AllPins}} SET row_security = off AS @body@
DECLARE
  bad text;
BEGIN
{{- range .ChildOf}}{{if .Valid}}
  SELECT x.key::text INTO bad FROM handfast.step x JOIN {{$.Only}}{{$.Name}} t ON {{$.StepIs "t" "x"}}
   WHERE x.xid = p_xid AND x.tab = {{$.ID}} AND x.was AND {{.Complete "t"}}
     AND NOT EXISTS (SELECT FROM {{.ParentOnly}}{{.Parent}} r WHERE {{.Joined "r" "t"}}) LIMIT 1;
  IF FOUND THEN
    PERFORM handfast.misfit({{lit $.Name}}, bad, {{lit .ParentGone}});
  END IF;
{{- end}}{{end}}
{{- range .ParentOf}}{{if .Valid}}
  SELECT v.key::text INTO bad
    FROM (SELECT u.key, {{.Values "u" "t"}} FROM handfast.undo u LEFT JOIN {{$.Only}}{{$.Name}} t ON {{$.StepIs "t" "u"}}
           WHERE u.xid = p_xid AND u.tab = {{$.ID}} AND (u.op = 'I' OR u.op = 'U' AND u.cols && {{.RefNumbers}})) v
    JOIN {{.ChildOnly}}{{.Child}} f ON {{.JoinedValues "v" "f"}}
   WHERE NOT EXISTS (SELECT FROM {{$.Only}}{{$.Name}} r WHERE {{.Joined "r" "f"}}) LIMIT 1;
  IF FOUND THEN
    PERFORM handfast.misfit({{lit $.Name}}, bad, {{lit .Refers}});
  END IF;
{{- end}}{{end}}
{{- range .Uniques}}{{if .Deferrable}}
  SELECT x.key::text INTO bad FROM handfast.step x JOIN {{$.Only}}{{$.Name}} t ON {{$.StepIs "t" "x"}}
    JOIN {{$.Only}}{{$.Name}} o ON {{.Twin "o" "t"}} AND (o.ctid, o.tableoid) <> (t.ctid, t.tableoid)
   WHERE x.xid = p_xid AND x.tab = {{$.ID}} AND x.was LIMIT 1;
  IF FOUND THEN
    PERFORM handfast.misfit({{lit $.Name}}, bad, {{lit .HasValue}});
  END IF;
{{- end}}{{end}}
  RETURN;
END
@body@;
REVOKE EXECUTE ON FUNCTION handfast.plan_{{.ID}}(text, text[]), handfast.restore_{{.ID}}(text), handfast.verify_{{.ID}}(text) FROM PUBLIC;
