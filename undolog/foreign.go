package undolog

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// reference is a set of columns of one table that foreign keys refer to.
type reference struct {
	id         int      // of the table
	columns    []column // ascending
	Deferrable bool     // one of the foreign keys is
}

// number tells the references of a table apart, whatever others come or go.
func (r reference) number() int {
	h := fnv.New32a()
	for _, c := range r.columns {
		_, _ = fmt.Fprintf(h, "%d,", c.Num) // never fails
	}
	return int(h.Sum32() & 0xffffff)
}

func (r reference) parts(row string) []string {
	var parts []string
	for _, c := range r.columns {
		parts = append(parts, c.hashable(row+"."+quote(c.Name)))
	}
	return parts
}

// New is the key of a value that may vanish again.
func (r reference) New(row string) string { return hashOf(r.id, seedNew+r.number(), r.parts(row)) }

// Need is the first of the 64 keys of a value that a row may need again.
func (r reference) Need(row string) string {
	return "(" + hashOf(r.id, seedNeed+r.number(), r.parts(row)) + " & -64)"
}

// Complete is whether a row can be referred to.
func (r reference) Complete(row string) string {
	return each(r.columns, " AND ", func(c column) string { return notNull(row, c) })
}

// Same is whether two rows have the same value for it.
func (r reference) Same(a, b string) string {
	return each(r.columns, " AND ", func(c column) string { return c.same(a, b) })
}

// Label is the value as a person reads it.
func (r reference) Label(row string) string { return keyText(row, r.columns) }

// foreignKey is one, seen from either end.
type foreignKey struct {
	Constraint        string
	Child, Parent     string // as SQL
	child, parent     uint32
	childPartitioned  bool
	parentPartitioned bool
	columns           []column // of the child, in the order of ref.columns
	operators         []string // parent = child
	ref               reference
	Deferrable        bool
	acts              bool // CASCADE, SET NULL or SET DEFAULT
	Valid             bool // no: there may have been orphans before
}

// cast are the child's values as the parent's types, so that both hash alike.
func (f foreignKey) cast(row string) []string {
	var parts []string
	for i, c := range f.columns {
		r := f.ref.columns[i]
		value := "(" + row + "." + quote(c.Name) + ")::" + r.base
		if r.collation != "" {
			value = "(" + value + " COLLATE " + r.collation + ")"
		}
		parts = append(parts, r.hashable(value))
	}
	return parts
}

// NewOf is the key of the parent's value, where that may vanish again.
func (f foreignKey) NewOf(row string) string {
	return hashOf(f.ref.id, seedNew+f.ref.number(), f.cast(row))
}

// NeedOf is the first of the keys of the parent's value that this row needs.
func (f foreignKey) NeedOf(row string) string {
	return "(" + hashOf(f.ref.id, seedNeed+f.ref.number(), f.cast(row)) + " & -64)"
}

// Complete is whether a row refers to a parent.
func (f foreignKey) Complete(row string) string {
	return each(f.columns, " AND ", func(c column) string { return notNull(row, c) })
}

// SameRef is whether two rows refer to the same.
func (f foreignKey) SameRef(a, b string) string {
	return each(f.columns, " AND ", func(c column) string { return c.same(a, b) })
}

// Joined is whether a row of the parent is that of a child.
func (f foreignKey) Joined(parent, child string) string {
	var parts []string
	for i, c := range f.columns {
		parts = append(parts, fmt.Sprintf("%s.%s OPERATOR(%s) %s.%s", parent, quote(f.ref.columns[i].Name), f.operators[i], child, quote(c.Name)))
	}
	return strings.Join(parts, " AND ")
}

// Values are those of the referred columns after a change that is undone.
func (f foreignKey) Values(undo, row string) string {
	var parts []string
	for i, c := range f.ref.columns {
		parts = append(parts, fmt.Sprintf("CASE WHEN %[2]d = ANY (%[1]s.cols) THEN %[3]s ELSE %[4]s.%[5]s END AS v%[6]d",
			undo, c.Num, c.typed(fmt.Sprintf("%s.new[%d]", undo, c.Num)), row, quote(c.Name), i+1))
	}
	return strings.Join(parts, ", ")
}

// JoinedValues compares those with a child.
func (f foreignKey) JoinedValues(values, child string) string {
	var parts []string
	for i, c := range f.columns {
		parts = append(parts, fmt.Sprintf("%s.v%d OPERATOR(%s) %s.%s", values, i+1, f.operators[i], child, quote(c.Name)))
	}
	return strings.Join(parts, " AND ")
}

// RefNumbers are the columns of the parent.
func (f foreignKey) RefNumbers() string {
	return "ARRAY[" + each(f.ref.columns, ", ", func(c column) string { return fmt.Sprint(c.Num) }) + "]::smallint[]"
}

// ParentOnly and ChildOnly keep to the tables themselves.
func (f foreignKey) ParentOnly() string { return only(f.parentPartitioned) }

// ChildOnly is like ParentOnly.
func (f foreignKey) ChildOnly() string { return only(f.childPartitioned) }

// NewLabel names a parent that may vanish.
func (f foreignKey) NewLabel(row string) string {
	return literal("(parent of "+f.Child+", "+f.Constraint+") ") + " || " + keyText(row, f.columns)
}

// NeedLabel names a parent that too many need.
func (f foreignKey) NeedLabel() string {
	return "(" + f.Constraint + ": 64 undecided transactions took children from one parent)"
}

// ParentGone and Refers say what does not fit after a restore.
func (f foreignKey) ParentGone() string { return "its parent is gone (" + f.Constraint + ")" }

// Refers is like ParentGone.
func (f foreignKey) Refers() string {
	return "a row of " + f.Child + " refers to it (" + f.Constraint + ")"
}

// foreignKeys reads those that the table is an end of.
func (p *protector) foreignKeys(ctx context.Context, t *table) error {
	rows, err := p.tx.Query(ctx, `SELECT x.conname, x.condeferrable, x.convalidated, x.confupdtype NOT IN ('a', 'r') OR x.confdeltype NOT IN ('a', 'r'), c.oid, c.oid::regclass::text, cc.relkind = 'p', p.oid, p.oid::regclass::text, pc.relkind = 'p',
			ARRAY(SELECT a.attname::text FROM unnest(x.conkey, x.confkey) k (ck, pk) JOIN pg_attribute a ON a.attrelid = x.conrelid AND a.attnum = k.ck ORDER BY k.pk),
			ARRAY(SELECT a.attname::text FROM unnest(x.confkey) k (pk) JOIN pg_attribute a ON a.attrelid = x.confrelid AND a.attnum = k.pk ORDER BY k.pk),
			ARRAY(SELECT format('%I.%s', n.nspname, o.oprname) FROM unnest(x.confkey, x.conpfeqop) k (pk, op) JOIN pg_operator o ON o.oid = k.op JOIN pg_namespace n ON n.oid = o.oprnamespace ORDER BY k.pk)
		FROM pg_constraint x, LATERAL (SELECT handfast.root(x.conrelid)::oid) c (oid), LATERAL (SELECT handfast.root(x.confrelid)::oid) p (oid), pg_class cc, pg_class pc
		WHERE x.contype = 'f' AND x.conparentid = 0 AND cc.oid = c.oid AND pc.oid = p.oid AND $1::oid IN (c.oid, p.oid) ORDER BY x.conname, x.oid`, t.oid)
	if err != nil {
		return err
	}
	type found struct {
		foreignKey
		childCols, refCols []string
	}
	fks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (found, error) {
		var f found
		err := row.Scan(&f.Constraint, &f.Deferrable, &f.Valid, &f.acts, &f.child, &f.Child, &f.childPartitioned, &f.parent, &f.Parent, &f.parentPartitioned,
			&f.childCols, &f.refCols, &f.operators)
		return f, err
	})
	if err != nil {
		return err
	}
	for _, f := range fks {
		// A neighbour guards what joins it to tables with capture, nothing else.
		if !t.Capture {
			other := f.child
			if other == t.oid {
				other = f.parent
			}
			var captured bool
			if err := p.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM handfast.protected r WHERE r.rel = $1 AND r.capture)", other).Scan(&captured); err != nil {
				return err
			}
			if !captured {
				continue
			}
		}
		child, err := p.other(ctx, t, f.child)
		if err != nil {
			return err
		}
		parent, err := p.other(ctx, t, f.parent)
		if err != nil {
			return err
		}
		f.columns = child.named(f.childCols)
		f.ref = reference{id: parent.ID, columns: parent.named(f.refCols), Deferrable: f.Deferrable}
		if err := p.resolveHashes(ctx, parent, f.ref.columns); err != nil {
			return err
		}
		if f.child == t.oid {
			t.ChildOf = append(t.ChildOf, f.foreignKey)
		}
		if f.parent == t.oid {
			t.ParentOf = append(t.ParentOf, f.foreignKey)
			t.addReference(f.ref)
		}
	}
	return nil
}

// addReference keeps one of each set of columns.
func (t *table) addReference(r reference) {
	for i := range t.References {
		if t.References[i].number() == r.number() {
			t.References[i].Deferrable = t.References[i].Deferrable || r.Deferrable
			return
		}
	}
	t.References = append(t.References, r)
}
