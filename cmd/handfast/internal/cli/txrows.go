package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

func rowsFlag(cmd *cobra.Command, p *int) {
	cmd.Flags().IntVar(p, "rows", 100, "how many rows of a database to print at most, 1 to 1000")
}

func checkRows(n int) error {
	if n < 1 || n > 1000 {
		return usagef("--rows: %d is outside of 1 to 1000", n)
	}
	return nil
}

// contradictions asks for the rows of a rollback that needs a person. Where they
// can't be had, the rest is shown all the same.
func contradictions(ctx context.Context, s Streams, c handfastv1.AdminClient, t *handfastv1.Transaction, rows int) *handfastv1.DiffResponse {
	if !t.GetAttention() || t.GetOutcome() != handfastv1.Outcome_OUTCOME_ROLLED_BACK {
		return nil
	}
	d, err := c.Diff(ctx, &handfastv1.DiffRequest{Xid: t.GetXid(), MaxRows: int32(rows)})
	if err != nil {
		s.say("handfast: the rows can't be shown: %s\n", clean(status.Convert(err).Message()))
		return nil
	}
	return d
}

// printShown adds the rows to the fields of the transaction.
func printShown(w io.Writer, t *handfastv1.Transaction, d *handfastv1.DiffResponse) error {
	if d == nil {
		return printProto(w, t, true)
	}
	opts := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
	tx, err := opts.Marshal(t)
	if err != nil {
		return err
	}
	rows, err := opts.Marshal(d)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	joined := slices.Concat(bytes.TrimSuffix(bytes.TrimSpace(tx), []byte("}")), []byte(`,"diff":`), rows, []byte("}"))
	if err := json.Indent(&b, joined, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = w.Write(b.Bytes())
	return err
}

// showContradictions prints the rows that hold up a rollback.
func showContradictions(w io.Writer, xid string, d *handfastv1.DiffResponse) error {
	for _, r := range d.GetResources() {
		if r.GetError() != "" {
			if _, err := fmt.Fprintf(w, "\nRows in %s can't be shown: %s\n", clean(r.GetResourceId()), clean(r.GetError())); err != nil {
				return err
			}
			continue
		}
		var shown []*handfastv1.RowDiff
		for _, row := range r.GetRows() {
			if row.GetContradicts() || row.GetChoice() != nil {
				shown = append(shown, row)
			}
		}
		if _, err := fmt.Fprintf(w, "\nIn %s %d of %d rows are not what the transaction left; %d of them without a choice%s\n", clean(r.GetResourceId()),
			r.GetContradictions(), r.GetTotal(), r.GetUndecided(), cutNote(r)); err != nil {
			return err
		}
		if len(shown) == 0 {
			continue
		}
		if err := rowTable(w, "CHOICE", shown, choiceText); err != nil {
			return err
		}
		if i := slices.IndexFunc(shown, needsChoice); i >= 0 {
			if err := hint(w, xid, r.GetResourceId(), shown[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func needsChoice(r *handfastv1.RowDiff) bool {
	return r.GetContradicts() && r.GetProblem() == "" && (r.GetChoice() == nil || r.GetChoice().GetStale())
}

// hint is the command for one of the rows, ready to be changed. There is none for a row
// that a terminal can't name: it would be about another one.
func hint(w io.Writer, xid, resource string, r *handfastv1.RowDiff) error {
	for _, s := range append([]string{xid, resource, r.GetTable(), r.GetSeen()}, r.GetKey()...) {
		if clean(s) != s {
			_, err := fmt.Fprintln(w, "\nThe key of this row, or another word of its command, has characters that are not shown here: take it from --json.")
			return err
		}
	}
	args := []string{"handfast tx resolve", shellQuote(xid), "--resource", shellQuote(resource), "--table", shellQuote(r.GetTable())}
	for _, k := range r.GetKey() {
		args = append(args, "--key", shellQuote(k))
	}
	args = append(args, "--seen", shellQuote(r.GetSeen()), "--restore")
	_, err := fmt.Fprintf(w, "\nChoose --restore (before), --keep (now), or --edit COLUMN=VALUE, such as\n  %s\n", strings.Join(args, " "))
	return err
}

// shellQuote makes one word for a shell.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:@,+/", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// cutNote says that not all rows are shown.
func cutNote(r *handfastv1.RowsToSettle) string {
	if left := r.GetTotal() - int64(len(r.GetRows())); left > 0 {
		return fmt.Sprintf(" (%d rows are not shown: --rows, --json)", left)
	}
	return ""
}

// rowTable prints one line for each column of each row.
func rowTable(w io.Writer, last string, rows []*handfastv1.RowDiff, say func(*handfastv1.RowDiff) string) error {
	var lines [][]string
	for _, r := range rows {
		name := []string{clean(r.GetTable()), keyText(r), orDash(r.GetSeen())}
		if len(r.GetColumns()) == 0 {
			lines = append(lines, append(name, "-", "-", "-", "-", "-", say(r)))
			continue
		}
		for i, c := range r.GetColumns() {
			differs, tail := "", ""
			if c.GetContradicts() {
				differs = "!"
			}
			if i == 0 {
				tail = say(r)
			} else {
				name = []string{"", "", ""}
			}
			lines = append(lines, append(slices.Clone(name), clean(c.GetName()), imageText(c.GetBefore(), r.GetBefore()),
				imageText(c.GetAfter(), r.GetAfter()), imageText(c.GetNow(), r.GetNow()), differs, tail))
		}
	}
	return table(w, []string{"TABLE", "KEY", "SEEN", "COLUMN", "BEFORE", "AFTER", "NOW", "!", last}, lines)
}

func keyText(r *handfastv1.RowDiff) string {
	var parts []string
	for i, k := range r.GetKey() {
		name := "?"
		if i < len(r.GetKeyColumns()) {
			name = r.GetKeyColumns()[i]
		}
		parts = append(parts, clean(name)+"="+plain(k))
	}
	return orDash(strings.Join(parts, ", "))
}

// maxShown is how much of a value a table shows.
const maxShown = 60

// imageText is a value on one line: NULL is not 'NULL', and no row is neither.
func imageText(i *handfastv1.Image, there bool) string {
	switch {
	case !there:
		return "(no row)"
	case i == nil || i.Text == nil:
		return "NULL"
	}
	t, cut := i.GetText(), i.GetCut()
	if utf8.RuneCountInString(t) > maxShown {
		t, cut = string([]rune(t)[:maxShown]), true
	}
	t = plain(t)
	if cut {
		t += "..."
	}
	return t
}

// plain shows a text as it is, or quoted where that could be taken for something else.
func plain(s string) string {
	q := strconv.Quote(s)
	if s == "" || s == "NULL" || s == "(no row)" || strings.TrimSpace(s) != s || q != `"`+s+`"` {
		return q
	}
	return s
}

func choiceText(r *handfastv1.RowDiff) string {
	c := r.GetChoice()
	if r.GetProblem() != "" {
		return clean(r.GetProblem())
	}
	if c == nil {
		return "-"
	}
	text := fmt.Sprintf("%s, by %s at %s", word(c.GetChoice()), clean(c.GetOperator()), stamp(c.GetTime()))
	if c.GetChoice() == handfastv1.Choice_CHOICE_EDIT {
		var values []string
		for _, v := range c.GetValues() {
			values = append(values, clean(v.GetColumn())+"="+imageText(&handfastv1.Image{Text: v.Text}, true))
		}
		text += " (" + strings.Join(values, ", ") + ")"
	}
	if c.GetWhy() != "" {
		text += ": " + clean(c.GetWhy())
	}
	if c.GetStale() {
		text = "VOID, the row changed since: " + text
	}
	return text
}

// dryRollback prints what a rollback would do at this moment.
func dryRollback(ctx context.Context, s Streams, r *remote, xid string, rows int, asJSON bool) error {
	if err := checkRows(rows); err != nil {
		return err
	}
	return r.dial(ctx, false, func(ctx context.Context, c handfastv1.AdminClient) error {
		d, err := c.Diff(ctx, &handfastv1.DiffRequest{Xid: xid, MaxRows: int32(rows)})
		if err != nil {
			return err
		}
		if asJSON {
			err = printProto(s.Out, d, true)
		} else {
			err = showDryRun(s.Out, d)
		}
		if err != nil {
			return err
		}
		for _, x := range d.GetResources() {
			if x.GetError() != "" {
				return fmt.Errorf("not all databases could be asked: %s", clean(x.GetError()))
			}
		}
		return nil
	})
}

func showDryRun(w io.Writer, d *handfastv1.DiffResponse) error {
	if len(d.GetResources()) == 0 {
		_, err := fmt.Fprintln(w, "nothing is left that a rollback would restore")
		return err
	}
	for i, r := range d.GetResources() {
		if r.GetError() != "" {
			continue // said at the end
		}
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		what := fmt.Sprintf("restore %d rows", r.GetTotal())
		if n := r.GetUndecided(); n > 0 {
			what = fmt.Sprintf("restore nothing, and stop at %d of %d rows, which somebody changed since", n, r.GetTotal())
		}
		if _, err := fmt.Fprintf(w, "In %s a rollback would %s%s\n", clean(r.GetResourceId()), what, cutNote(r)); err != nil {
			return err
		}
		if len(r.GetRows()) == 0 {
			continue
		}
		if err := rowTable(w, "WOULD", r.GetRows(), would); err != nil {
			return err
		}
	}
	return nil
}

// would says what a rollback does to a row.
func would(r *handfastv1.RowDiff) string {
	c := r.GetChoice()
	switch {
	case r.GetProblem() != "":
		return "stop: " + clean(r.GetProblem())
	case c != nil && !c.GetStale():
		return choiceText(r)
	case r.GetContradicts():
		return "stop: not what the transaction left"
	case r.GetBefore() && r.GetNow():
		return "set it back"
	case r.GetBefore():
		return "put it back"
	case r.GetNow():
		return "delete it"
	default:
		return "nothing"
	}
}
