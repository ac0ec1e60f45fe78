{{- /* The guard of foreign keys, for both of their ends. Its trigger has to fire
after those of Postgres itself: they wait for the other transaction, and only
then is its key to be seen. */ -}}
CREATE OR REPLACE FUNCTION handfast.fk_{{.ID}}() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp{{.Pins}} AS @body@
#variable_conflict use_column
DECLARE
  hf_me     text := '';
  hf_strict boolean := current_setting('transaction_isolation') <> 'read committed';
  hf_holder text;
BEGIN
  IF current_setting('session_replication_role') = 'replica' AND handfast.settles() THEN
    RETURN NULL;
  END IF;
  IF current_setting('handfast.xid', true) <> '' THEN
    hf_me := handfast.me();
{{- if not .Enforce}}
  ELSE
    RETURN NULL; -- the guard is off for others
{{- end}}
  END IF;
{{- range .ChildOf}}
  -- {{comment .Constraint}}: a parent that may vanish must not get children.
  IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NOT ({{.SameRef "OLD" "NEW"}}) THEN
    IF {{.Complete "NEW"}} THEN
      SELECT l.holder INTO hf_holder FROM handfast.look(hf_me, ARRAY[{{.NewOf "NEW"}}], hf_strict{{if .Deferrable}} OR true{{end}}) l;
      IF hf_holder IS NOT NULL THEN
        PERFORM handfast.conflict(hf_holder, {{lit .Parent}}, {{.NewLabel "NEW"}});
      END IF;
    END IF;
  END IF;
{{- end}}
{{- range .References}}
  -- A row that an undone child needs must not go.
  IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND NOT ({{.Same "OLD" "NEW"}}) THEN
    IF {{.Complete "OLD"}} THEN
      hf_holder := handfast.needed(hf_me, {{.Need "OLD"}}, hf_strict{{if .Deferrable}} OR true{{end}});
      IF hf_holder IS NOT NULL THEN
        PERFORM handfast.conflict(hf_holder, {{lit $.Name}}, {{.Label "OLD"}});
      END IF;
    END IF;
  END IF;
{{- end}}
  RETURN NULL;
END
@body@;
REVOKE EXECUTE ON FUNCTION handfast.fk_{{.ID}}() FROM PUBLIC;
