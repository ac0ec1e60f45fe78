package undolog_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// A rollback stopped at rows that somebody changed behind the triggers. Whether
// the transaction is to be rolled back, the coordinator knows; most do this with
// "handfast tx show" and "handfast tx resolve".
func ExampleResolve() {
	keepEdits := func(ctx context.Context, conn *pgx.Conn, id xid.ID) error {
		d, err := undolog.Diff(ctx, conn, id, undolog.DiffOptions{})
		if err != nil {
			return err
		}
		for _, row := range d.Rows {
			if !row.Contradicts {
				continue
			}
			for _, c := range row.Columns {
				log.Printf("%s %v: %s was %s, became %s, is %s", row.Table, row.Key, c.Name, c.Before.Text, c.After.Text, c.Now.Text)
			}
			err := undolog.Resolve(ctx, conn, id, undolog.Resolution{
				Table: row.Table, Key: row.Key, Choice: undolog.ChoiceKeep, Who: "ann", Why: "counted again", Seen: row.Seen,
			})
			if err != nil {
				return fmt.Errorf("row %v: %w", row.Key, err)
			}
		}
		return nil
	}
	_ = keepEdits
}
