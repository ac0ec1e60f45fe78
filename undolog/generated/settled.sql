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
