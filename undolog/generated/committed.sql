{{- /* The committed rows of one table: those that no undecided transaction
touched, and the others as they were before it. */ -}}
CREATE OR REPLACE FUNCTION handfast.committed_{{.ID}}(p_xid text, p_k bigint, p_seq bigint, p_more boolean, p_row {{.Name}}) RETURNS SETOF {{.Name}}
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp{{.AllPins}} SET row_security = off AS @body@
#variable_conflict use_column
DECLARE
  hf_u handfast.undo;
  hf_s handfast.step;
  hf_r {{.Name}} := p_row;
  hf_i integer;
BEGIN
  SELECT * INTO hf_u FROM handfast.undo t WHERE t.xid = p_xid AND t.seq = p_seq AND t.tab = {{.ID}} AND t.gates[1] = p_k;
  IF NOT p_more THEN
    IF hf_u.op = 'I' THEN RETURN; END IF;
{{- range .Stored}}
    IF {{.Num}}::smallint = ANY (hf_u.cols) THEN hf_r.{{ident .Name}} := {{.Typed (printf "hf_u.old[%d]" .Num)}}; END IF;
{{- end}}
{{- range .Computed}}
    hf_r.{{ident .Name}} := (SELECT {{.Expression}} FROM (SELECT (hf_r).*) r);
{{- end}}
    RETURN NEXT hf_r;
    RETURN;
  END IF;
  SELECT * INTO hf_s FROM handfast.plan_{{.ID}}(p_xid, hf_u.key) t;
  IF NOT hf_s.was THEN RETURN; END IF;
{{- range .Stored}}
  hf_i := array_position(hf_s.cols, {{.Num}}::smallint);
  IF hf_i IS NOT NULL THEN hf_r.{{ident .Name}} := {{.Typed "hf_s.before[hf_i]"}}; END IF;
{{- end}}
{{- range .Computed}}
  hf_r.{{ident .Name}} := (SELECT {{.Expression}} FROM (SELECT (hf_r).*) r);
{{- end}}
  RETURN NEXT hf_r;
END
@body@;
REVOKE EXECUTE ON FUNCTION handfast.committed_{{.ID}}(text, bigint, bigint, boolean, {{.Name}}) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION handfast.committed_{{.ID}}(text, bigint, bigint, boolean, {{.Name}}) TO PUBLIC;
CREATE OR REPLACE VIEW {{.ViewName}} AS
SELECT {{.AllNames "t"}} FROM {{.Only}}{{.Name}} t
 WHERE NOT EXISTS (SELECT FROM handfast.gate g WHERE g.k = {{.RowKey "t"}})
UNION ALL
SELECT {{.KeysThenRow "t" "b"}} FROM {{.Only}}{{.Name}} t JOIN handfast.gate g ON g.k = {{.RowKey "t"}},
       LATERAL handfast.committed_{{.ID}}(g.xid, g.k, g.seq, g.more, t) b
UNION ALL
SELECT {{.UndoKeysThenRow "u" "b"}} FROM handfast.undo u JOIN handfast.gate g ON g.k = u.gates[1] AND g.xid = u.xid,
       LATERAL handfast.committed_{{.ID}}(g.xid, g.k, g.seq, g.more, NULL) b
 WHERE u.tab = {{.ID}} AND u.op = 'D' AND NOT EXISTS (SELECT FROM {{.Only}}{{.Name}} t WHERE {{.StepIs "t" "u"}})
   AND (NOT g.more OR u.seq = (SELECT max(l.seq) FROM handfast.undo l WHERE l.xid = u.xid AND l.tab = u.tab AND l.op = 'D' AND l.gates[1] = u.gates[1]));
