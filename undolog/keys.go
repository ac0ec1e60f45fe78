package undolog

import (
	"fmt"
	"strings"
)

// Keys of the gate are hashes with a seed that says what they are. A seed is the
// id of a table, and below it one of these with a number.
const (
	seedRow    = 0       // a row, by its primary key
	seedUnique = 1 << 16 // plus the number of the unique index
	seedNew    = 1 << 24 // plus the reference: a value that may vanish again
	seedNeed   = 2 << 24 // plus the reference: a value that a row may need again
)

func seed(id, kind int) int64 { return int64(id)<<32 | int64(kind) }

// hashOf follows the equality of the types, so that 1.0 and 1.00 are one key.
func hashOf(id, kind int, parts []string) string {
	return fmt.Sprintf("hash_record_extended(ROW(%s), %d)", strings.Join(parts, ", "), seed(id, kind))
}

// hashable is the part of a hash that stands for a column.
func (c column) hashable(expr string) string {
	if c.hashes {
		return expr
	}
	return expr + "::text"
}

// RowKey is the key of a row.
func (t *table) RowKey(row string) string {
	var parts []string
	for _, c := range t.Keys {
		parts = append(parts, c.hashable(row+"."+quote(c.Name)))
	}
	return hashOf(t.ID, seedRow, parts)
}

// uniqueKey is the key of a row's value in a unique index; NULL where the index
// does not keep it unique.
func (t *table) uniqueKey(u unique, row string) string {
	if u.columns == nil {
		complete := "true"
		if !u.nullsEqual {
			complete = "num_nulls(" + u.exprs + ") = 0"
		}
		where := ""
		if u.predicate != "" {
			where = " WHERE " + u.predicate
		}
		return fmt.Sprintf("(SELECT CASE WHEN %s THEN hash_record_extended(ROW(%s), %d) END FROM (SELECT %s.*) r%s)",
			complete, u.exprs, seed(t.ID, seedUnique+u.number), row, where)
	}
	var parts, complete []string
	for _, c := range u.columns {
		parts = append(parts, c.hashable(row+"."+quote(c.Name)))
		complete = append(complete, notNull(row, c))
	}
	key := hashOf(t.ID, seedUnique+u.number, parts)
	if u.nullsEqual {
		return key
	}
	return fmt.Sprintf("CASE WHEN %s THEN %s END", strings.Join(complete, " AND "), key)
}

// LooksOfNew is the query for the keys of all new rows. The plain form for the usual
// table saves a tenth of what the guard costs.
func (t *table) LooksOfNew() string {
	if t.Enforce && len(t.Uniques) == 0 {
		return "SELECT " + t.RowKey("n") + " FROM " + t.New() + " n WHERE hf.hf_me = ''"
	}
	return "SELECT g.k FROM " + t.New() + " n, LATERAL unnest(ARRAY[" + t.looks("n") + "]::bigint[]) g (k) WHERE g.k IS NOT NULL"
}

// looks are the keys that a new row must not find with another: an immediate
// unique index holds them from now on. A session without XID owns nothing, so it
// looks for all of them.
func (t *table) looks(row string) string {
	var keys []string
	if t.Enforce {
		keys = append(keys, "CASE WHEN hf.hf_me = '' THEN "+t.RowKey(row)+" END")
	}
	for _, u := range t.Uniques {
		switch {
		case !u.Deferrable:
			keys = append(keys, t.uniqueKey(u, row))
		case t.Enforce:
			keys = append(keys, "CASE WHEN hf.hf_me = '' THEN "+t.uniqueKey(u, row)+" END")
		}
	}
	return strings.Join(keys, ", ")
}

// InsertTakes are the keys that a new row takes: its own; a value that might
// vanish while others refer to it; and one of a deferrable index, which does not
// make this statement wait for a competitor.
func (t *table) InsertTakes() string {
	keys := []string{t.RowKey("n")}
	for _, u := range t.Uniques {
		if u.Deferrable {
			keys = append(keys, t.uniqueKey(u, "n"))
		}
	}
	for _, r := range t.References {
		keys = append(keys, "CASE WHEN "+r.Complete("n")+" THEN "+r.New("n")+" END")
	}
	return strings.Join(keys, ", ")
}

// DeleteTakes are the keys that a row keeps while it is gone.
func (t *table) DeleteTakes() string {
	keys := []string{t.RowKey("o")}
	for _, u := range t.Uniques {
		keys = append(keys, t.uniqueKey(u, "o"))
	}
	return strings.Join(keys, ", ")
}

// UpdateTakes are those of a row that stays: its own, the values that it gives
// up, and those that it gets.
func (t *table) UpdateTakes() string {
	keys := []string{t.RowKey("o")}
	for _, u := range t.Uniques {
		before, after := t.uniqueKey(u, "o"), t.uniqueKey(u, "n")
		keys = append(keys, fmt.Sprintf("CASE WHEN %s IS DISTINCT FROM %s THEN %s END", before, after, before))
		if u.Deferrable {
			keys = append(keys, fmt.Sprintf("CASE WHEN %s IS DISTINCT FROM %s THEN %s END", before, after, after))
		}
	}
	for _, r := range t.References {
		keys = append(keys, fmt.Sprintf("CASE WHEN %s AND NOT (%s) THEN %s END", r.Complete("n"), r.Same("o", "n"), r.New("n")))
	}
	return strings.Join(keys, ", ")
}

// AnyDeferrable tells whether sessions without XID have to take part in the gate.
func (t *table) AnyDeferrable() bool {
	for _, u := range t.Uniques {
		if u.Deferrable {
			return true
		}
	}
	return false
}

// Labels are the keys of a row with what a person calls them.
func (t *table) Labels(row string) string {
	labels := []string{"(" + t.RowKey(row) + ", " + keyText(row, t.Keys) + ")"}
	for _, u := range t.Uniques {
		labels = append(labels, "("+t.uniqueKey(u, row)+", "+literal("(unique "+u.name+")")+")")
	}
	return strings.Join(labels, ", ")
}

// KeyLabel is what a person calls a row.
func (t *table) KeyLabel(row string) string { return keyText(row, t.Keys) }

// keyText is the key as a person reads it, as Postgres writes it in its errors.
func keyText(row string, cols []column) string {
	var names, values []string
	for _, c := range cols {
		names = append(names, c.Name)
		values = append(values, row+"."+quote(c.Name)+"::text")
	}
	return fmt.Sprintf("%s || concat_ws(', ', %s) || ')'", literal("("+strings.Join(names, ", ")+")=("), strings.Join(values, ", "))
}

// Twin is whether two rows have one value of a deferrable constraint.
func (u unique) Twin(a, b string) string {
	within := ""
	if u.ofPartition {
		within = fmt.Sprintf("%s.tableoid = %s.tableoid AND ", a, b)
	}
	return within + each(u.columns, " AND ", func(c column) string { return c.equal(a+"."+quote(c.Name), b+"."+quote(c.Name)) })
}

// HasValue says what does not fit.
func (u unique) HasValue() string { return "another row has its value (" + u.name + ")" }
