package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// resolveFlags are those of tx resolve.
type resolveFlags struct {
	operator, why, resource, table, seen string
	key, edit, null                      []string
	restore, keep, all                   bool
}

func newTxResolve(s Streams, r *remote) *cobra.Command {
	var f resolveFlags
	cmd := &cobra.Command{
		Use:   "resolve XID (--table T --key K... | --all) (--restore | --keep | --edit C=V...)",
		Short: "Choose what becomes of rows that a rollback can't restore",
		Long: `Chooses what becomes of a row that a rollback can't restore, because it is not
what the transaction left: see 'handfast tx show XID'.

  --restore      what was there before the transaction
  --keep         what is there now
  --edit C=V     like --restore, with other values in these columns; where the row
                 was not there before, the other columns stay as they are now

The choice is kept in the database, with who chose, when and why. As soon as all
rows have one, the rollback is tried again. A choice holds for what is there when
it is made: where the row changes again before the rollback gets to it, nothing
is overwritten, and a new choice is asked for.`,
		Args: oneXID,
		RunE: func(cmd *cobra.Command, a []string) error {
			choose, err := f.choose()
			if err != nil {
				return err
			}
			return r.dial(cmd.Context(), false, func(ctx context.Context, c handfastv1.AdminClient) error {
				return resolve(ctx, s, c, &handfastv1.ResolveRequest{Xid: a[0], ResourceId: f.resource, Choose: choose})
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.resource, "resource", "", "`UUID` of the database; needed where several are not settled")
	fs.StringVar(&f.table, "table", "", "name of the table, with its schema where several have one of that name")
	fs.StringArrayVar(&f.key, "key", nil, "primary key of the row; one --key for each of its columns, in their order")
	fs.BoolVar(&f.all, "all", false, "every row that has no choice yet")
	fs.BoolVar(&f.restore, "restore", false, "what was there before the transaction")
	fs.BoolVar(&f.keep, "keep", false, "what is there now")
	fs.StringArrayVar(&f.edit, "edit", nil, "`column=value` that the row gets; may be repeated")
	fs.StringArrayVar(&f.null, "null", nil, "`column` that becomes NULL; goes with --edit, or stands for it")
	fs.StringVar(&f.seen, "seen", "", "SEEN of 'tx show': refuse where the row is another by now")
	fs.StringVar(&f.why, "why", "", "why, in words; kept with the choice")
	operatorFlag(cmd, &f.operator)
	return cmd
}

// choose checks the flags, so that a wrong one is named before anything is sent.
func (f *resolveFlags) choose() (*handfastv1.ChooseRows, error) {
	op, err := operatorName(f.operator)
	if err != nil {
		return nil, err
	}
	c := &handfastv1.ChooseRows{Operator: op, Why: f.why, All: f.all, Table: f.table, Key: f.key, Seen: f.seen}
	n := 0
	for choice, set := range map[handfastv1.Choice]bool{
		handfastv1.Choice_CHOICE_RESTORE: f.restore, handfastv1.Choice_CHOICE_KEEP: f.keep, handfastv1.Choice_CHOICE_EDIT: len(f.edit)+len(f.null) > 0,
	} {
		if set {
			n++
			c.Choice = choice
		}
	}
	if n != 1 {
		return nil, usagef("--restore, --keep, --edit: choose one of them, got %d", n)
	}
	if len(f.why) > 1024 {
		return nil, usagef("--why: %d bytes long, at most 1024 fit", len(f.why))
	}
	if f.resource != "" {
		if _, err := xid.ParseResourceID(f.resource); err != nil {
			return nil, usagef("--resource: %v", err)
		}
	}
	switch {
	case f.all && c.Choice == handfastv1.Choice_CHOICE_EDIT:
		return nil, usagef("--edit: is for one row; with --all go --restore and --keep")
	case f.all && (f.table != "" || len(f.key) > 0 || f.seen != ""):
		return nil, usagef("--all: goes without --table, --key and --seen")
	case !f.all && f.table == "":
		return nil, usagef("--table: is missing; name the table of the row, or give --all")
	case !f.all && len(f.key) == 0:
		return nil, usagef("--key: is missing; give the primary key, one --key for each of its columns")
	}
	for _, e := range f.edit {
		column, value, ok := strings.Cut(e, "=")
		if !ok || column == "" {
			return nil, usagef("--edit: %q is not column=value; for NULL use --null column", e)
		}
		c.Values = append(c.Values, &handfastv1.ColumnValue{Column: column, Text: &value})
	}
	for _, column := range f.null {
		if column == "" {
			return nil, usagef("--null: is empty; name a column")
		}
		c.Values = append(c.Values, &handfastv1.ColumnValue{Column: column})
	}
	return c, nil
}

func resolve(ctx context.Context, s Streams, c handfastv1.AdminClient, req *handfastv1.ResolveRequest) error {
	resp, err := c.Resolve(ctx, req)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.Out, "%s chosen for %d rows\n", word(req.GetChoose().GetChoice()), resp.GetChosen()); err != nil {
		return err
	}
	rows := slices.DeleteFunc(slices.Clone(resp.GetRows().GetRows()), func(r *handfastv1.RowDiff) bool {
		return r.GetChoice() == nil || !req.GetChoose().GetAll() && !slices.Equal(r.GetKey(), req.GetChoose().GetKey())
	})
	if len(rows) > 0 {
		if err := rowTable(s.Out, "CHOICE", rows, choiceText); err != nil {
			return err
		}
	}
	if n := resp.GetRows().GetUndecided(); n > 0 {
		_, err := fmt.Fprintf(s.Out, "%d rows are still without a choice: see 'handfast tx show %s'\n", n, req.GetXid())
		return err
	}
	if _, err := c.RetryNow(ctx, &handfastv1.RetryNowRequest{Xid: req.GetXid()}); err != nil {
		return fmt.Errorf("the choice is on record; the rollback could not be tried at once, and will be later: %w", err)
	}
	_, err = fmt.Fprintf(s.Out, "the rollback is tried again now: see 'handfast tx show %s'\n", req.GetXid())
	return err
}
