package undolog

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"
)

//go:embed generated/*.sql
var generatedFS embed.FS

// generate fills in one of the templates in generated/ for the table.
func (t *table) generate(name string) (string, error) {
	text, err := fs.ReadFile(generatedFS, "generated/"+name+".sql")
	if err != nil {
		return "", err
	}
	tmpl, err := template.New(name).Funcs(template.FuncMap{
		"lit": literal, "ident": quote,
		"comment": func(s string) string { return strings.Join(strings.Fields(s), " ") },
	}).Parse(string(text))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, t); err != nil {
		return "", fmt.Errorf("generate %s for %s: %w", name, t.Name, err)
	}
	// The quotes of the body must be nothing that a name of the user holds.
	body, mark := b.String(), "$handfast$"
	for strings.Contains(body, mark) {
		mark = mark[:len(mark)-1] + "_$"
	}
	return strings.ReplaceAll(body, "@body@", mark), nil
}

// Pins are the settings that the text form of the columns depends on, where any
// does: each costs about a microsecond a call.
func (t *table) Pins() string {
	for _, c := range t.Columns {
		if !c.safe {
			return t.AllPins()
		}
	}
	return ""
}

// AllPins are the settings under which every image is written and read.
func (t *table) AllPins() string {
	return "\nSET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 3 SET TimeZone = 'UTC'" +
		" SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' SET array_nulls = on SET quote_all_identifiers = off"
}

// Old and New are the rows before and after, for FROM.
func (t *table) Old() string { return t.source("o", "OLD") }

// New is like Old.
func (t *table) New() string { return t.source("n", "NEW") }

func (t *table) source(transition, row string) string {
	if t.RowPath {
		return "(SELECT (" + row + ").* OFFSET 0)"
	}
	return transition
}

// PairedOld and PairedNew number the rows of one key, where there can be several:
// Postgres puts the rows of all actions of foreign keys that a statement set off
// into the same transition tables. Which is paired with which does not matter.
func (t *table) PairedOld() string { return t.paired(t.Old()) }

// PairedNew is like PairedOld.
func (t *table) PairedNew() string { return t.paired(t.New()) }

func (t *table) paired(source string) string {
	if t.RowPath || !t.actedOn() {
		return source
	}
	return fmt.Sprintf("(SELECT t.*, row_number() OVER (PARTITION BY %s) AS hf_nth FROM %s t)",
		each(t.Keys, ", ", func(c column) string { return "t." + quote(c.Name) }), source)
}

// SamePair is SameKey for those.
func (t *table) SamePair(a, b string) string {
	if t.RowPath || !t.actedOn() {
		return t.SameKey(a, b)
	}
	return t.SameKey(a, b) + fmt.Sprintf(" AND %s.hf_nth = %s.hf_nth", a, b)
}

// actedOn tells whether a foreign key may change rows of the table.
func (t *table) actedOn() bool {
	for _, f := range t.ChildOf {
		if f.acts {
			return true
		}
	}
	return false
}

// Only keeps to the table itself where others may inherit from it.
func (t *table) Only() string { return only(t.partitioned) }

func only(partitioned bool) string {
	if partitioned {
		return ""
	}
	return "ONLY "
}

// Stored are the columns that have a value of their own.
func (t *table) Stored() []column {
	var out []column
	for _, c := range t.Columns {
		if c.generated == "" {
			out = append(out, c)
		}
	}
	return out
}

// Computed are the columns that Postgres generates.
func (t *table) Computed() []column {
	var out []column
	for _, c := range t.Columns {
		if c.generated != "" {
			out = append(out, c)
		}
	}
	return out
}

// each joins what f says of columns.
func each(cols []column, sep string, f func(column) string) string {
	parts := make([]string, len(cols))
	for i, c := range cols {
		parts[i] = f(c)
	}
	return strings.Join(parts, sep)
}

// sparse is an array with a place for each column number.
func (t *table) sparse(f func(column) string) string {
	parts := make([]string, t.maxNum)
	for i := range parts {
		parts[i] = "NULL"
	}
	for _, c := range t.Stored() {
		parts[c.Num-1] = f(c)
	}
	return "ARRAY[" + strings.Join(parts, ", ") + "]::text[]"
}

// Images are those of all stored columns of a row.
func (t *table) Images(row string) string {
	return t.sparse(func(c column) string { return c.image(row) })
}

// ImagesOf are those of the columns that an array names.
func (t *table) ImagesOf(row, nums string) string {
	return t.sparse(func(c column) string {
		return fmt.Sprintf("CASE WHEN %d = ANY (%s) THEN %s END", c.Num, nums, c.image(row))
	})
}

// ChangedImages are those of the columns that Differences found.
func (t *table) ChangedImages(row string) string {
	return t.sparse(func(c column) string { return fmt.Sprintf("CASE WHEN d.c%d THEN %s END", c.Num, c.image(row)) })
}

// MergedImages are a row with the values of a step in place of its own.
func (t *table) MergedImages(row, step string) string {
	return "ARRAY[" + each(t.Stored(), ", ", func(c column) string {
		place := fmt.Sprintf("array_position(%s.cols, %d::smallint)", step, c.Num)
		return fmt.Sprintf("CASE WHEN %s IS NULL THEN %s ELSE %s.before[%s] END", place, c.image(row), step, place)
	}) + "]::text[]"
}

// Numbers are those of all stored columns.
func (t *table) Numbers() string {
	return "ARRAY[" + each(t.Stored(), ", ", func(c column) string { return fmt.Sprint(c.Num) }) + "]::smallint[]"
}

// ChangedNumbers are those of the columns that Differences found.
func (t *table) ChangedNumbers() string {
	return "array_remove(ARRAY[" + each(t.Stored(), ", ", func(c column) string {
		return fmt.Sprintf("CASE WHEN d.c%d THEN %d END", c.Num, c.Num)
	}) + "]::smallint[], NULL)"
}

// IdentityNumbers are the columns that UPDATE may not set; empty without any.
func (t *table) IdentityNumbers() string {
	var nums []string
	for _, c := range t.Stored() {
		if c.identityAlways {
			nums = append(nums, fmt.Sprint(c.Num))
		}
	}
	if nums == nil {
		return ""
	}
	return "ARRAY[" + strings.Join(nums, ", ") + "]::smallint[]"
}

// Differences compare o and n.
func (t *table) Differences() string {
	return each(t.Stored(), ", ", func(c column) string {
		return fmt.Sprintf("%s AS c%d", c.differs("o", "n"), c.Num)
	})
}

// differs compares byte by byte: a collation, or a number, may call different
// values equal.
func (c column) differs(a, b string) string {
	return fmt.Sprintf("record_image_ne(ROW(%s.%s), ROW(%s.%s))", a, quote(c.Name), b, quote(c.Name))
}

func (c column) same(a, b string) string { return "NOT " + c.differs(a, b) }

// SameKey is whether two rows have one primary key.
func (t *table) SameKey(a, b string) string {
	return each(t.Keys, " AND ", func(c column) string { return c.equal(a+"."+quote(c.Name), b+"."+quote(c.Name)) })
}

// Absent is whether the outer join found no row.
func (t *table) Absent(row string) string { return isNull(row, t.Keys[0]) }

// isNull is not IS NULL, which is true of a row type full of NULLs.
func isNull(row string, c column) string {
	return row + "." + quote(c.Name) + " IS NOT DISTINCT FROM NULL"
}

func notNull(row string, c column) string {
	return row + "." + quote(c.Name) + " IS DISTINCT FROM NULL"
}

// Present is the opposite of Absent.
func (t *table) Present(row string) string { return notNull(row, t.Keys[0]) }

// KeyImage are the images of the primary key, in the order of its index.
func (t *table) KeyImage(row string) string {
	return "ARRAY[" + each(t.Keys, ", ", func(c column) string { return c.image(row) }) + "]::text[]"
}

// TypedKeys are the values of a key's images, named k1 and so on.
func (t *table) TypedKeys(images string) string {
	var parts []string
	for i, c := range t.Keys {
		parts = append(parts, fmt.Sprintf("%s AS k%d", c.typed(fmt.Sprintf("%s[%d]", images, i+1)), i+1))
	}
	return strings.Join(parts, ", ")
}

// TypedSame compares two keys given as images.
func (t *table) TypedSame(a, b string) string {
	var parts []string
	for i, c := range t.Keys {
		parts = append(parts, c.equal(c.typed(fmt.Sprintf("%s[%d]", a, i+1)), c.typed(fmt.Sprintf("%s[%d]", b, i+1))))
	}
	return strings.Join(parts, " AND ")
}

// KeyNames are the columns that TypedKeys named.
func (t *table) KeyNames(rel string) string {
	var parts []string
	for i := range t.Keys {
		parts = append(parts, fmt.Sprintf("%s.k%d", rel, i+1))
	}
	return strings.Join(parts, ", ")
}

// KeyIs compares a row of the table with the columns of TypedKeys.
func (t *table) KeyIs(row, rel string) string {
	var parts []string
	for i, c := range t.Keys {
		parts = append(parts, c.equal(row+"."+quote(c.Name), fmt.Sprintf("%s.k%d", rel, i+1)))
	}
	return strings.Join(parts, " AND ")
}

// KeyTwin compares the columns of TypedKeys of two relations.
func (t *table) KeyTwin(a, b string) string {
	var parts []string
	for i, c := range t.Keys {
		parts = append(parts, c.equal(fmt.Sprintf("%s.k%d", a, i+1), fmt.Sprintf("%s.k%d", b, i+1)))
	}
	return strings.Join(parts, " AND ")
}

// StepIs compares a row of the table with the column key of a step or undo row.
func (t *table) StepIs(row, step string) string {
	var parts []string
	for i, c := range t.Keys {
		parts = append(parts, c.equal(row+"."+quote(c.Name), c.typed(fmt.Sprintf("%s.key[%d]", step, i+1))))
	}
	return strings.Join(parts, " AND ")
}

// fromStep is the value of a column in a step, or else another expression.
func fromStep(c column, step, otherwise string) string {
	place := fmt.Sprintf("array_position(%s.cols, %d::smallint)", step, c.Num)
	return fmt.Sprintf("CASE WHEN %s IS NULL THEN %s ELSE %s END", place, otherwise, c.typed(step+".before["+place+"]"))
}

// SetBefore is the list of SET.
func (t *table) SetBefore(row, step string) string {
	var settable []column
	for _, c := range t.Stored() {
		if !c.identityAlways {
			settable = append(settable, c)
		}
	}
	return each(settable, ", ", func(c column) string {
		return quote(c.Name) + " = " + fromStep(c, step, row+"."+quote(c.Name))
	})
}

// FromStep is the list of VALUES for a row that is put back.
func (t *table) FromStep(step string) string {
	return each(t.Stored(), ", ", func(c column) string { return fromStep(c, step, "NULL") })
}

// ColumnNames are the stored columns, for INSERT.
func (t *table) ColumnNames() string {
	return each(t.Stored(), ", ", func(c column) string { return quote(c.Name) })
}

// AllNames are all columns of a relation.
func (t *table) AllNames(rel string) string {
	return each(t.Columns, ", ", func(c column) string { return rel + "." + quote(c.Name) })
}

// KeysThenRow takes the key from one relation, so that a condition on it reaches
// the index, and the rest from the other.
func (t *table) KeysThenRow(keys, rest string) string {
	return t.keysThenRow(rest, func(_ int, c column) string { return keys + "." + quote(c.Name) })
}

// UndoKeysThenRow is the same with the images of the key, which keyIndex is on.
func (t *table) UndoKeysThenRow(undo, rest string) string {
	return t.keysThenRow(rest, func(i int, c column) string { return c.typed(fmt.Sprintf("%s.key[%d]", undo, i+1)) })
}

func (t *table) keysThenRow(rest string, key func(int, column) string) string {
	return each(t.Columns, ", ", func(c column) string {
		if i := slices.IndexFunc(t.Keys, func(k column) bool { return k.Num == c.Num }); i >= 0 {
			return key(i, t.Keys[i]) + " AS " + quote(c.Name)
		}
		return rest + "." + quote(c.Name)
	})
}

// keyIndex lets the view find a deleted row by its key. It is possible for types
// whose text form is the same under all settings.
func (t *table) keyIndex() string {
	var parts []string
	for i, c := range t.Keys {
		parts = append(parts, "("+c.typed(fmt.Sprintf("key[%d]", i+1))+")")
	}
	return fmt.Sprintf("CREATE INDEX IF NOT EXISTS gone_%d ON handfast.undo (%s) WHERE tab = %[1]d AND op = 'D'", t.ID, strings.Join(parts, ", "))
}

// ViewName is that of the view of committed rows.
func (t *table) ViewName() string { return quote(t.schema) + "." + quote(t.relation+"_committed") }

// equal compares two values with the operator of the key's index: those of an
// extension's type are not on the search path.
func (c column) equal(a, b string) string { return a + " OPERATOR(" + c.operator + ") " + b }

// typed turns an image into a value.
func (c column) typed(image string) string {
	s := c.Typed(image)
	if c.collation != "" {
		s = "(" + s + " COLLATE " + c.collation + ")"
	}
	return s
}

// Typed is typed without collation. A cast is what the input function of the
// type makes of a text, unless there is one for text that does something else:
// then it has to be the function itself, and where that can't be named in SQL,
// the function that reads JSON, which calls it.
func (c column) Typed(image string) string {
	switch {
	case c.input != "":
		return "(" + fmt.Sprintf(c.input, "textout("+image+")") + ")::" + c.kind
	case c.viaJSON != "":
		return fmt.Sprintf("(jsonb_populate_record(NULL::%s, jsonb_build_object(%s, %s))).%s", c.viaJSON, literal(c.Name), image, quote(c.Name))
	default:
		return "(" + image + ")::" + c.kind
	}
}

// Expression is that of a generated column.
func (c column) Expression() string { return c.generated }

// image is the text of a column: what its type's output function says. A cast
// may say something else.
func (c column) image(row string) string {
	if c.output == "" { // borrowed from another type, and not to be called
		return row + "." + quote(c.Name) + "::text"
	}
	return "textin(" + c.output + "(" + row + "." + quote(c.Name) + "))"
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal holds whatever standard_conforming_strings is in the session that runs
// the function.
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return "E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

// triggers are the statements that put the functions on the table.
func (t *table) triggers() string {
	var b strings.Builder
	if t.Capture {
		for _, e := range []struct{ suffix, event, tables string }{
			{"_d", "DELETE", "OLD TABLE AS o"}, {"_i", "INSERT", "NEW TABLE AS n"}, {"_u", "UPDATE", "OLD TABLE AS o NEW TABLE AS n"},
		} {
			if t.RowPath {
				fmt.Fprintf(&b, "CREATE TRIGGER %s AFTER %s ON %s FOR EACH ROW EXECUTE FUNCTION handfast.row_%d();\n",
					captureName(e.suffix), e.event, t.Name, t.ID)
			} else {
				fmt.Fprintf(&b, "CREATE TRIGGER %s AFTER %s ON %s REFERENCING %s FOR EACH STATEMENT EXECUTE FUNCTION handfast.row_%d();\n",
					captureName(e.suffix), e.event, t.Name, e.tables, t.ID)
			}
		}
	}
	if events := t.guardEvents(); events != "" {
		fmt.Fprintf(&b, "CREATE TRIGGER %s AFTER %s ON %s FOR EACH ROW EXECUTE FUNCTION handfast.fk_%d();\n", quote(guardTrigger), events, t.Name, t.ID)
	}
	return b.String()
}

func (t *table) guardEvents() string {
	var events []string
	if len(t.ChildOf) > 0 {
		events = append(events, "INSERT")
	}
	if len(t.References) > 0 {
		events = append(events, "DELETE")
	}
	if events != nil {
		events = append(events, "UPDATE")
	}
	sort.Strings(events)
	return strings.Join(events, " OR ")
}
