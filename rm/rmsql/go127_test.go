//go:build go1.27

package rmsql_test

import (
	"context"
	"fmt"
	"testing"
)

// TestArraysAreScannedAsStdlibDoes: from Go 1.27 on stdlib scans into more than
// the types of database/sql, and goes from row to row by another method.
func TestArraysAreScannedAsStdlibDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	scan := func(query string) work {
		return func(ctx context.Context, d db) error {
			rows, err := d.QueryContext(ctx, query)
			if err != nil {
				return err
			}
			defer rows.Close() //nolint:errcheck // read to the end
			n := 0
			for rows.Next() {
				var id int
				var list []int64
				if err := rows.Scan(&id, &list); err != nil {
					return err
				}
				if n++; fmt.Sprint(list) != fmt.Sprint([]int64{1, int64(id)}) {
					return fmt.Errorf("got %v", list)
				}
			}
			if err := rows.Err(); err != nil || n != 3 {
				return fmt.Errorf("%d rows: %w", n, err)
			}
			return nil
		}
	}
	ctx, x := w.Begin()
	for _, c := range []context.Context{w.Limited(), ctx} {
		for _, query := range []string{
			"SELECT id, ARRAY[1, id] FROM account WHERE id < 4",
			"UPDATE account SET balance = balance - 1 WHERE id < 4 RETURNING id, ARRAY[1, id]",
		} {
			w.Check(scan(query)(c, w.db))
			w.Check(inTx("", scan(query))(c, w.db))
		}
	}
	if n := w.Branches(x); n != 3 { // one of the first query, which only reads, in a transaction
		t.Errorf("%d branches", n)
	}
	w.Rollback(x)
	if n := w.balance(1); n != 98 {
		t.Errorf("balance %d", n)
	}
	w.Settled()
}
