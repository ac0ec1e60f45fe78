package undolog

import (
	"fmt"
	"strings"
)

// sql is the trigger function of the table and its triggers.
func (t *table) sql() string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE OR REPLACE FUNCTION handfast.row_%d() RETURNS trigger\n", t.id)
	b.WriteString("LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp\n")
	if !t.safe() {
		// Some columns have a text form that depends on the session.
		b.WriteString("SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 3\n")
		b.WriteString("SET TimeZone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'\n")
	}
	fmt.Fprintf(&b, "AS $handfast$\n%s$handfast$;\n", t.body())
	fmt.Fprintf(&b, "REVOKE EXECUTE ON FUNCTION handfast.row_%d() FROM PUBLIC;\n", t.id)
	trigger := quote(captureTrigger)
	fmt.Fprintf(&b, "CREATE OR REPLACE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION handfast.row_%d();\n", trigger, t.name, t.id)
	fmt.Fprintf(&b, "DROP TRIGGER IF EXISTS handfast_refuse ON %s;\n", t.name)
	fmt.Fprintf(&b, "CREATE OR REPLACE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION handfast.refuse_truncate();\n", truncateTrigger, t.name)
	return b.String()
}

func (t *table) safe() bool {
	for _, c := range t.columns {
		if !c.safe {
			return false
		}
	}
	return true
}

// body is the code of the trigger function. h holds the owner of a key: NULL
// where it was free. Keys are taken in one order: primary key, then unique
// indexes by name, before the value, then after.
func (t *table) body() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("DECLARE")
	p("  me    text := '';")
	p("  gates bigint[] := '{}';")
	p("  cols  smallint[] := '{}';")
	p("  olds  text[] := '{}';")
	p("  news  text[] := '{}';")
	p("  k bigint; k2 bigint; h text;")
	p("BEGIN")
	p("  IF current_setting('handfast.xid', true) <> '' THEN")
	p("    me := handfast.me();")
	p("  END IF;")
	p("  IF TG_OP <> 'INSERT' THEN")
	t.takeKey(p, "k", "OLD")
	p("  END IF;")
	p("  IF TG_OP <> 'DELETE' THEN")
	p("    k2 := %s;", t.hash("NEW", t.keys, 0))
	p("    IF TG_OP = 'INSERT' OR k2 <> k THEN")
	t.takeHashed(p, "k2", "NEW")
	p("    END IF;")
	p("  END IF;")
	for i, u := range t.uniques {
		t.guardUnique(p, u, i+1)
	}
	p("  IF me = '' THEN")
	p("    RETURN NULL;")
	p("  END IF;")
	p("  IF TG_OP = 'INSERT' THEN")
	p("    cols := %s; news := %s;", t.numbers(), t.images("NEW"))
	p("  ELSIF TG_OP = 'DELETE' THEN")
	p("    cols := %s; olds := %s;", t.numbers(), t.images("OLD"))
	p("  ELSE")
	for _, c := range t.columns {
		if c.generated {
			continue
		}
		before, after := c.image("OLD"), c.image("NEW")
		// Byte by byte: a collation may call different texts equal.
		p("    IF %s COLLATE \"C\" IS DISTINCT FROM %s COLLATE \"C\" THEN", before, after)
		p("      cols := cols || %d::smallint; olds := olds || %s; news := news || %s;", c.num, before, after)
		p("    END IF;")
	}
	p("  END IF;")
	p("  INSERT INTO handfast.undo (xid, branch, tab, op, was, is_now, cols, old, new, gates)")
	p("  VALUES (me, current_setting('handfast.branch')::uuid, %d, left(TG_OP, 1)::\"char\",", t.id)
	p("    CASE WHEN TG_OP <> 'INSERT' THEN %s END, CASE WHEN TG_OP <> 'DELETE' THEN %s END, cols, olds, news, gates);", t.keyImage("OLD"), t.keyImage("NEW"))
	p("  RETURN NULL;")
	p("END")
	return b.String()
}

func (t *table) takeKey(p func(string, ...any), v, row string) {
	p("    %s := %s;", v, t.hash(row, t.keys, 0))
	t.takeHashed(p, v, row)
}

func (t *table) takeHashed(p func(string, ...any), v, row string) {
	p("    h := handfast.take(%s, me);", v)
	p("    IF h IS NULL THEN")
	p("      gates := gates || %s;", v)
	p("    ELSIF h <> me THEN")
	p("      PERFORM handfast.conflict(h, %s, %s);", literal(t.name), keyText(row, t.keys))
	p("    END IF;")
}

// guardUnique checks the new value of a unique index and owns the old one,
// where it changes: after a rollback that value has to be free.
func (t *table) guardUnique(p func(string, ...any), u unique, index int) {
	label := literal("(unique " + u.name + ")")
	p("  -- unique index %s", strings.ReplaceAll(u.name, "\n", " "))
	p("  k := NULL; k2 := NULL;")
	for _, side := range []struct{ v, row, not string }{{"k", "OLD", "INSERT"}, {"k2", "NEW", "DELETE"}} {
		p("  IF TG_OP <> '%s' THEN", side.not)
		if u.columns != nil {
			p("    %s := CASE WHEN %s THEN %s END;", side.v, u.complete(side.row), t.hash(side.row, u.columns, index))
		} else {
			where := ""
			if u.predicate != "" {
				where = " WHERE " + u.predicate
			}
			p("    SELECT CASE WHEN %s THEN hash_record_extended(ROW(%s), %d) END INTO %s FROM (SELECT (%s).*) r%s;",
				u.completeExprs(), u.exprs, t.seed(index), side.v, side.row, where)
		}
		p("  END IF;")
	}
	p("  IF k IS DISTINCT FROM k2 THEN")
	p("    IF k2 IS NOT NULL THEN")
	// A deferrable index does not make this statement wait for a competitor:
	// the gate has to.
	if u.deferrable {
		p("      h := handfast.take(k2, me);")
		p("      IF h IS NULL AND me <> '' THEN")
		p("        gates := gates || k2;")
		p("      ELSIF h <> me THEN")
	} else {
		p("      h := handfast.probe(k2, me);")
		p("      IF h <> me THEN")
	}
	p("        PERFORM handfast.conflict(h, %s, %s);", literal(t.name), label)
	p("      END IF;")
	p("    END IF;")
	p("    IF k IS NOT NULL AND me <> '' THEN")
	p("      h := handfast.take(k, me);")
	p("      IF h IS NULL THEN")
	p("        gates := gates || k;")
	p("      ELSIF h <> me THEN")
	p("        PERFORM handfast.conflict(h, %s, %s);", literal(t.name), label)
	p("      END IF;")
	p("    END IF;")
	p("  END IF;")
}

// complete tells whether the index keeps the value unique: not with a NULL.
func (u unique) complete(row string) string {
	if u.nullsEqual {
		return "true"
	}
	var parts []string
	for _, c := range u.columns {
		parts = append(parts, row+"."+quote(c.name)+" IS NOT NULL")
	}
	return strings.Join(parts, " AND ")
}

func (u unique) completeExprs() string {
	if u.nullsEqual {
		return "true"
	}
	return "num_nulls(" + u.exprs + ") = 0"
}

// seed keeps the keys of tables and indexes apart.
func (t *table) seed(index int) int64 { return int64(t.id)<<32 | int64(index) }

// hash follows the equality of the types, so that 1.0 and 1.00 are one key.
func (t *table) hash(row string, cols []column, index int) string {
	var parts []string
	for _, c := range cols {
		e := row + "." + quote(c.name)
		if !c.hashes {
			e += "::text"
		}
		parts = append(parts, e)
	}
	return fmt.Sprintf("hash_record_extended(ROW(%s), %d)", strings.Join(parts, ", "), t.seed(index))
}

// image is the text of a column: what its type's output function says. The cast
// of bpchar to text drops blanks.
func (c column) image(row string) string {
	if c.blank {
		return "textin(bpcharout(" + row + "." + quote(c.name) + "))"
	}
	return row + "." + quote(c.name) + "::text"
}

// keyText is the key as a person reads it, as Postgres writes it in its errors.
func keyText(row string, cols []column) string {
	var names, values []string
	for _, c := range cols {
		names = append(names, c.name)
		values = append(values, row+"."+quote(c.name)+"::text")
	}
	return fmt.Sprintf("%s || concat_ws(', ', %s) || ')'", literal("("+strings.Join(names, ", ")+")=("), strings.Join(values, ", "))
}

func (t *table) keyImage(row string) string {
	var parts []string
	for _, c := range t.keys {
		parts = append(parts, c.image(row))
	}
	return "ARRAY[" + strings.Join(parts, ", ") + "]"
}

func (t *table) numbers() string {
	var parts []string
	for _, c := range t.columns {
		if !c.generated {
			parts = append(parts, fmt.Sprint(c.num))
		}
	}
	return "ARRAY[" + strings.Join(parts, ", ") + "]::smallint[]"
}

func (t *table) images(row string) string {
	var parts []string
	for _, c := range t.columns {
		if !c.generated {
			parts = append(parts, c.image(row))
		}
	}
	return "ARRAY[" + strings.Join(parts, ", ") + "]::text[]"
}
