package undolog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/xid"
)

// Image is the text form of one value.
type Image struct {
	Text string
	Null bool
	Cut  bool // Text is only its beginning
}

// ColumnDiff is a column that the transaction changed.
type ColumnDiff struct {
	Name               string
	Before, After, Now Image
	// Contradicts tells that the row does not fit, and that this column has a share in it.
	Contradicts bool
}

// RowDiff is a row that the transaction changed: before it, as it left it, and now.
type RowDiff struct {
	Table      string // as SQL, with its schema
	KeyColumns []string
	Key        []string // as Resolve takes it
	// Whether the row was there before, was there after, and is there now.
	Before, After, Now bool
	// Contradicts tells that it is not what the transaction left.
	Contradicts bool
	// Problem says why the rows of the whole table can't be compared. The fields
	// below are empty then, and so is the key.
	Problem string
	Columns []ColumnDiff
	Seen    string    // stands for what is there now; see Resolution
	Choice  *Decision // recorded and not carried out yet
}

// Decision is what a person chose for a row.
type Decision struct {
	Choice Choice
	Who    string
	Why    string
	At     time.Time
	// Stale tells that the row changed since: the choice will not be carried out.
	Stale bool
	// There tells whether the row will be there, with Values in these columns and
	// the others as they are. Keep has no values.
	There  bool
	Values []Edit
}

// Difference is what a rollback meets in one database.
type Difference struct {
	// Rows are those that don't fit, then the others; cut off at a limit.
	Rows []RowDiff
	// Total counts all rows, Contradictions those that don't fit, and Undecided
	// those of them without a choice that holds for what is there now.
	Total, Contradictions, Undecided int
}

// DiffOptions bound the answer of Diff.
type DiffOptions struct {
	Rows       int // 0: 1,000
	ValueRunes int // of one value, in characters; 0: 4,096
	Bytes      int // of all values together, about; 0: 1 MiB
}

func (o DiffOptions) withDefaults() DiffOptions {
	if o.Rows <= 0 {
		o.Rows = 1000
	}
	if o.ValueRunes <= 0 {
		o.ValueRunes = 4096
	}
	if o.Bytes <= 0 {
		o.Bytes = 1 << 20
	}
	return o
}

// Diff compares the rows that a transaction changed in this database with what
// it left there. It changes and locks nothing. Of an undecided transaction it
// says what a rollback would meet at this moment; what a local transaction has
// not committed is not in it. Empty where nothing is to be undone. Needs Grant.
func Diff(ctx context.Context, db DB, id xid.ID, o DiffOptions) (Difference, error) {
	o = o.withDefaults()
	var d Difference
	rows, err := db.Query(ctx, "SELECT * FROM handfast.diff($1, $2, $3)", id.String(), o.Rows, o.ValueRunes)
	if err != nil {
		return d, explain("diff", err)
	}
	defer rows.Close()
	bytes := 0
	for rows.Next() {
		r, size, err := scanRow(rows, &d, o.ValueRunes)
		if err != nil {
			return d, fmt.Errorf("diff %s: %w", id, err)
		}
		if bytes += size; bytes > o.Bytes && len(d.Rows) > 0 {
			break
		}
		d.Rows = append(d.Rows, r)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return d, explain("diff", err)
	}
	return d, nil
}

func scanRow(rows pgx.Rows, d *Difference, limit int) (r RowDiff, size int, err error) {
	var problem, choice, who, why *string
	var at *time.Time
	var stale, there *bool
	var fits bool
	var names, edited []string
	var before, after, now, vals []*string
	var wrong []bool
	err = rows.Scan(&d.Total, &d.Contradictions, &d.Undecided, &r.Table, &problem, &r.KeyColumns, &r.Key,
		&r.Before, &r.After, &r.Now, &fits, &r.Seen, &names, &before, &after, &now, &wrong,
		&choice, &who, &why, &at, &stale, &there, &edited, &vals)
	if err != nil {
		return r, 0, err
	}
	r.Contradicts = !fits
	if problem != nil {
		r.Problem = *problem
	}
	for _, k := range r.Key {
		size += len(k)
	}
	for i, name := range names {
		c := ColumnDiff{Name: name, Before: image(before[i], limit), After: image(after[i], limit), Now: image(now[i], limit), Contradicts: wrong[i]}
		size += len(name) + len(c.Before.Text) + len(c.After.Text) + len(c.Now.Text)
		r.Columns = append(r.Columns, c)
	}
	if choice == nil {
		return r, size, nil
	}
	r.Choice = &Decision{Choice: Choice(*choice), Who: *who, Why: *why, At: *at, Stale: *stale, There: *there}
	for i, name := range edited {
		e := Edit{Column: name, Value: vals[i]}
		if e.Value != nil {
			v := image(e.Value, limit)
			e.Value = &v.Text
			size += len(v.Text)
		}
		r.Choice.Values = append(r.Choice.Values, e)
	}
	return r, size, nil
}

// image cuts a text at limit characters. The database gives one more where
// there is more, and not all of a long one.
func image(s *string, limit int) Image {
	if s == nil {
		return Image{Null: true}
	}
	if len(*s) <= limit || utf8.RuneCountInString(*s) <= limit {
		return Image{Text: *s}
	}
	n := 0
	for i := range *s {
		if n == limit {
			return Image{Text: (*s)[:i], Cut: true}
		}
		n++
	}
	return Image{Text: *s}
}

// Choice is what is to become of a row.
type Choice string

// The choices.
const (
	ChoiceRestore Choice = "restore" // what was there before the transaction
	ChoiceKeep    Choice = "keep"    // what is there now
	// ChoiceEdit is restore with other values in some columns. Where the row was
	// not there before, the others stay as they are now.
	ChoiceEdit Choice = "edit"
)

// Edit is a value for a column, as text; nil is NULL.
type Edit struct {
	Column string
	Value  *string
}

// Resolution is a choice for one row.
type Resolution struct {
	// Table is the name of the table, with its schema where there are several.
	Table string
	// Key is the primary key, as text, in the order of its columns.
	Key    []string
	Choice Choice
	Values []Edit // for ChoiceEdit
	// Who chose, and why, in words. Who is required.
	Who, Why string
	// Seen is that of the RowDiff the choice was made from: where the row is
	// another by now, it is refused. Empty: what is there when it is recorded.
	Seen string
}

// Bounds of what is kept with a choice.
const (
	maxWho = 256
	maxWhy = 1024
)

// Resolve records a choice for a row of a transaction that is to be rolled back;
// whether it is, the caller has to know from the coordinator. It changes no row:
// the next Settle carries the choices out, when there is one for every row that
// contradicts. A choice holds for what was there when it was recorded. Where the
// row changed again after that, Settle fails as if there were no choice, unless
// the row had become what the transaction left: then the choice is not needed.
//
// The same choice again changes nothing, another one takes its place. The table
// handfast.resolution keeps them all: who, when, why, the row before, after and
// now, and what became of it. Any row of the transaction can be chosen for, as
// another one may be what is in the way of a foreign key. conn must be outside
// of a transaction. Needs Grant. Errors: *ChoiceError, *MisfitError where the
// table was altered, *BlockedError.
func Resolve(ctx context.Context, conn *pgx.Conn, id xid.ID, r Resolution) error {
	if err := checkChoice(conn, id, r); err != nil {
		return err
	}
	cols, vals := make([]string, len(r.Values)), make([]*string, len(r.Values))
	for i, e := range r.Values {
		cols[i], vals[i] = e.Column, e.Value
	}
	err := inTx(ctx, conn, SettleOptions{}, "on", func(b *pgx.Batch) {
		b.Queue("SELECT handfast.choose($1, $2, $3, $4, $5, $6, $7, $8, $9)", id.String(), r.Table, r.Key, string(r.Choice), cols, vals, r.Who, r.Why, r.Seen)
	})
	return explainChoice(ctx, conn, id, err)
}

// ResolveAll records one choice, restore or keep, for every row that contradicts
// and has none that holds. It tells for how many. See Resolve.
func ResolveAll(ctx context.Context, conn *pgx.Conn, id xid.ID, choice Choice, who, why string) (int, error) {
	if choice == ChoiceEdit {
		return 0, &ChoiceError{XID: id, Field: "choice", What: "edit is for one row: name it", Err: ErrBadChoice}
	}
	if err := checkChoice(conn, id, Resolution{Choice: choice, Who: who, Why: why}); err != nil {
		return 0, err
	}
	var n int
	err := inTx(ctx, conn, SettleOptions{}, "on", func(b *pgx.Batch) {
		b.Queue("SELECT handfast.choose_all($1, $2, $3, $4)", id.String(), string(choice), who, why).QueryRow(func(row pgx.Row) error {
			return row.Scan(&n)
		})
	})
	return n, explainChoice(ctx, conn, id, err)
}

func checkChoice(conn *pgx.Conn, id xid.ID, r Resolution) error {
	bad := func(field, format string, args ...any) error {
		return &ChoiceError{XID: id, Table: r.Table, Field: field, What: fmt.Sprintf(format, args...), Err: ErrBadChoice}
	}
	switch r.Choice {
	case ChoiceRestore, ChoiceKeep:
		if len(r.Values) > 0 {
			return bad("value", "%s takes no values, only edit does", r.Choice)
		}
	case ChoiceEdit:
		if len(r.Values) == 0 {
			return bad("value", "edit needs the value of a column at least")
		}
	default:
		return bad("choice", "%q is none of restore, keep, edit", string(r.Choice))
	}
	switch {
	case r.Who == "":
		return bad("who", "who chooses is empty")
	case len(r.Who) > maxWho:
		return bad("who", "who chooses is %d bytes long, at most %d", len(r.Who), maxWho)
	case len(r.Why) > maxWhy:
		return bad("why", "why is %d bytes long, at most %d", len(r.Why), maxWhy)
	}
	// In another encoding, and in SQL_ASCII, a text may be any other bytes.
	isUTF8 := conn.PgConn().ParameterStatus("client_encoding") == "UTF8"
	for field, text := range texts(&r) {
		switch {
		case strings.ContainsRune(text, 0):
			return bad(field, "%.40q holds a zero byte; no database has such a text", text)
		case isUTF8 && !utf8.ValidString(text):
			return bad(field, "%.40q is not UTF-8, which this connection speaks", text)
		}
	}
	return nil
}

// texts are all that goes to the database, by field.
func texts(r *Resolution) iter.Seq2[string, string] {
	return func(yield func(field, text string) bool) {
		for _, f := range [][2]string{{"who", r.Who}, {"why", r.Why}, {"table", r.Table}, {"seen", r.Seen}} {
			if !yield(f[0], f[1]) {
				return
			}
		}
		for _, k := range r.Key {
			if !yield("key", k) {
				return
			}
		}
		for _, e := range r.Values {
			if !yield("column", e.Column) || e.Value != nil && !yield("value", *e.Value) {
				return
			}
		}
	}
}

func explainChoice(ctx context.Context, conn *pgx.Conn, id xid.ID, err error) error {
	if _, d, ok := detailOf(err, "choice"); ok {
		kind := map[string]error{"xid": ErrNothingToUndo, "table": ErrUnknownRow, "row": ErrUnknownRow, "seen": ErrRowChanged}[d.Kind]
		if kind == nil {
			kind = ErrBadChoice
		}
		return &ChoiceError{XID: id, Table: d.Table, Key: d.Key, Field: d.Kind, What: d.What, Err: kind}
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "42883" || pg.Code == "42P01") {
		return explain("resolve", err)
	}
	return classify(ctx, conn, id, err)
}
