{{- /* The trigger function of capture and guard for one table. o and n are its
rows before and after: transition tables, or the one row of a row trigger. */ -}}
CREATE OR REPLACE FUNCTION handfast.row_{{.ID}}() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off{{.Pins}} AS @body@
#variable_conflict use_column
<<hf>>
DECLARE
  hf_me     text := '';
  hf_strict boolean := current_setting('transaction_isolation') <> 'read committed';
  hf_looks  bigint[];  -- keys that must not be another's
  hf_takes  bigint[];  -- keys that are ours from now on
  hf_seqs   bigint[];  -- of their undo rows, 0 for those that are no row's
  hf_needs  bigint[];
  hf_key    bigint;
  hf_holder text;
  hf_label  text;
BEGIN
  -- Where columns of the table are in sight, variables have the label before them.
  IF current_setting('session_replication_role') = 'replica' AND handfast.settles() THEN
    RETURN NULL;
  END IF;
  IF current_setting('handfast.xid', true) <> '' THEN
{{- if not .RowPath}}
    -- A statement that changes no row must not leave a fence.
    IF TG_OP = 'DELETE' THEN
      IF NOT EXISTS (SELECT FROM o) THEN RETURN NULL; END IF;
    ELSIF NOT EXISTS (SELECT FROM n) THEN RETURN NULL;
    END IF;
{{- end}}
    hf_me := handfast.me();
{{- if not .Enforce}}
  ELSE
    RETURN NULL; -- the guard is off for others
{{- end}}
  END IF;
{{- range .Unproven}}
  -- {{comment .Name}} is NOT VALID: what breaks it could not be put back.
  IF hf_me <> '' AND TG_OP <> 'INSERT' THEN
    IF EXISTS (SELECT FROM {{$.Old}} r WHERE ({{.Expr}}) IS FALSE) THEN
      RAISE EXCEPTION '%', {{lit (printf "a row of %s breaks %s, which is not validated: it could not be put back in that state, so a global transaction may not change it" $.Name .Name)}}
        USING ERRCODE = 'HF004', HINT = 'Mend the row outside of global transactions.';
    END IF;
  END IF;
{{- end}}
  IF TG_OP = 'INSERT' THEN
    hf_looks := ARRAY({{.LooksOfNew}});
  ELSIF TG_OP = 'UPDATE' AND hf_me = '' THEN
    hf_looks := ARRAY(SELECT {{.RowKey "o"}} FROM {{.Old}} o UNION ALL {{.LooksOfNew}});
{{- if .Uniques}}
  ELSIF TG_OP = 'UPDATE' THEN
    hf_looks := ARRAY({{.LooksOfNew}});
{{- end}}
  ELSIF hf_me = '' THEN
    hf_looks := ARRAY(SELECT {{.RowKey "o"}} FROM {{.Old}} o);
  END IF;
  IF cardinality(hf_looks) > 0 THEN
    IF hf_strict{{if .AnyDeferrable}} OR hf_me = ''{{end}} THEN
      SELECT l.k, l.holder INTO hf_key, hf_holder FROM handfast.look(hf_me, hf_looks, true) l;
    ELSE
      -- What look does then; a call costs as much as all the rest.
      SELECT g.k, g.xid INTO hf_key, hf_holder
        FROM unnest(hf_looks) u (k), LATERAL (SELECT t.k, t.xid FROM handfast.gate t WHERE t.k = u.k AND t.xid <> hf.hf_me OFFSET 0) g LIMIT 1;
    END IF;
  END IF;
  IF hf_me <> '' AND hf_holder IS NULL THEN
    IF TG_OP = 'INSERT' THEN
      WITH ins AS (
        INSERT INTO handfast.undo (xid, branch, tab, op, key, cols, new, gates)
        SELECT hf.hf_me, current_setting('handfast.branch')::uuid, {{.ID}}, 'I', {{.KeyImage "n"}}, {{.Numbers}}, {{.Images "n"}},
               array_remove(ARRAY[{{.InsertTakes}}], NULL)
          FROM {{.New}} n RETURNING seq, gates)
      SELECT array_agg(g.k), array_agg(CASE g.i WHEN 1 THEN ins.seq ELSE 0 END) INTO hf_takes, hf_seqs
        FROM ins, unnest(ins.gates) WITH ORDINALITY g (k, i);
    ELSIF TG_OP = 'DELETE' THEN
      WITH ins AS (
        INSERT INTO handfast.undo (xid, branch, tab, op, key, cols, old, gates)
        SELECT hf.hf_me, current_setting('handfast.branch')::uuid, {{.ID}}, 'D', {{.KeyImage "o"}}, {{.Numbers}}, {{.Images "o"}},
               array_remove(ARRAY[{{.DeleteTakes}}], NULL)
          FROM {{.Old}} o RETURNING seq, gates)
      SELECT array_agg(g.k), array_agg(CASE g.i WHEN 1 THEN ins.seq ELSE 0 END) INTO hf_takes, hf_seqs
        FROM ins, unnest(ins.gates) WITH ORDINALITY g (k, i);
    ELSE
      -- Rows are paired by key: one that changes its key is a row that goes and
      -- one that comes.
      WITH ins AS (
        INSERT INTO handfast.undo (xid, branch, tab, op, key, cols, old, new, gates)
        SELECT hf.hf_me, current_setting('handfast.branch')::uuid, {{.ID}},
               CASE WHEN {{.Absent "o"}} THEN 'I' WHEN {{.Absent "n"}} THEN 'D' ELSE 'U' END,
               CASE WHEN {{.Absent "o"}} THEN {{.KeyImage "n"}} ELSE {{.KeyImage "o"}} END,
               CASE WHEN {{.Absent "o"}} OR {{.Absent "n"}} THEN {{.Numbers}} ELSE {{.ChangedNumbers}} END,
               CASE WHEN {{.Absent "o"}} THEN NULL WHEN {{.Absent "n"}} THEN {{.Images "o"}} ELSE {{.ChangedImages "o"}} END,
               CASE WHEN {{.Absent "n"}} THEN NULL WHEN {{.Absent "o"}} THEN {{.Images "n"}} ELSE {{.ChangedImages "n"}} END,
               array_remove(CASE WHEN {{.Absent "o"}} THEN ARRAY[{{.InsertTakes}}] WHEN {{.Absent "n"}} THEN ARRAY[{{.DeleteTakes}}]
                                 ELSE ARRAY[{{.UpdateTakes}}] END, NULL)
          FROM {{.PairedOld}} o FULL JOIN {{.PairedNew}} n ON {{.SamePair "o" "n"}}
          CROSS JOIN LATERAL (SELECT {{.Differences}} OFFSET 0) d RETURNING seq, gates)
      SELECT array_agg(g.k), array_agg(CASE g.i WHEN 1 THEN ins.seq ELSE 0 END) INTO hf_takes, hf_seqs
        FROM ins, unnest(ins.gates) WITH ORDINALITY g (k, i);
    END IF;
    SELECT l.k, l.holder INTO hf_key, hf_holder FROM handfast.take(hf_me, hf_takes, hf_seqs) l;
{{- range .ChildOf}}
    -- {{comment .Constraint}}: while the row may come back, its parent has to stay.
    IF hf_holder IS NULL AND TG_OP <> 'INSERT' THEN
      IF TG_OP = 'DELETE' THEN
        hf_needs := ARRAY(SELECT DISTINCT {{.NeedOf "o"}} FROM {{$.Old}} o WHERE {{.Complete "o"}});
      ELSE
        hf_needs := ARRAY(SELECT DISTINCT {{.NeedOf "o"}} FROM {{$.Old}} o WHERE {{.Complete "o"}}
          AND NOT EXISTS (SELECT FROM {{$.New}} n WHERE {{$.SameKey "o" "n"}} AND {{.SameRef "o" "n"}}));
      END IF;
      hf_holder := handfast.need(hf_me, {{$.ID}}, hf_needs);
      hf_label := CASE WHEN hf_holder IS NOT NULL THEN {{lit .NeedLabel}} END;
    END IF;
{{- end}}
  END IF;
  IF hf_holder IS NULL THEN
    RETURN NULL;
  END IF;
  -- Whose key it is, is looked up only now: the text costs more than the guard.
  IF hf_label IS NULL AND TG_OP <> 'INSERT' THEN
    SELECT l.label INTO hf_label FROM {{.Old}} o, LATERAL (VALUES {{.Labels "o"}}) l (k, label) WHERE l.k = hf.hf_key LIMIT 1;
  END IF;
  IF hf_label IS NULL AND TG_OP <> 'DELETE' THEN
    SELECT l.label INTO hf_label FROM {{.New}} n, LATERAL (VALUES {{.Labels "n"}}) l (k, label) WHERE l.k = hf.hf_key LIMIT 1;
  END IF;
  PERFORM handfast.conflict(hf_holder, {{lit .Name}}, coalesce(hf_label, '(the key of another row)'));
  RETURN NULL;
END
@body@;
REVOKE EXECUTE ON FUNCTION handfast.row_{{.ID}}() FROM PUBLIC;
