{{- /* Whether a row of one table is settled. Its key is enough: the row may be made
of nothing else, and need not exist. */ -}}
CREATE OR REPLACE FUNCTION handfast.settled_{{.ID}}(p_row record) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp{{.Pins}} AS @body@
DECLARE
  hf_holder text;
BEGIN
  SELECT l.holder INTO hf_holder FROM handfast.look(coalesce(current_setting('handfast.xid', true), ''),
    ARRAY[{{.RowKey "p_row"}}], current_setting('transaction_isolation') <> 'read committed') l;
  IF hf_holder IS NOT NULL THEN
    PERFORM handfast.conflict(hf_holder, {{lit .Name}}, {{.KeyLabel "p_row"}});
  END IF;
  RETURN true;
END
@body@;
REVOKE EXECUTE ON FUNCTION handfast.settled_{{.ID}}(record) FROM PUBLIC;

{{- /* The same, as of the snapshot of the query that asks. */}}
CREATE OR REPLACE FUNCTION handfast.settled_then_{{.ID}}(p_row record) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off{{.Pins}} AS @body@
DECLARE
  hf_holder text := (SELECT g.xid FROM handfast.gate g WHERE g.k = {{.RowKey "p_row"}} AND g.xid <> coalesce(current_setting('handfast.xid', true), ''));
BEGIN
  IF hf_holder IS NOT NULL THEN
    PERFORM handfast.conflict(hf_holder, {{lit .Name}}, {{.KeyLabel "p_row"}});
  END IF;
  RETURN true;
END
@body@;
REVOKE EXECUTE ON FUNCTION handfast.settled_then_{{.ID}}(record) FROM PUBLIC;
