package orm_test

import (
	"context"
	"testing"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/handfast/handfast/internal/hftest"
)

func addBun(t *testing.T, w *hftest.World, to map[string]bank) {
	t.Helper()
	to["bun"] = bunBank{bun.NewDB(openDB(t, w), pgdialect.New())}
}

type bunBank struct{ db *bun.DB }

func (b bunBank) Transfer(ctx context.Context, from, to, amount int64, last func() error) error {
	return b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		e := &entry{AccountID: from, Note: "transfer"}
		if _, err := tx.NewInsert().Model(e).Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewUpdate().Model((*account)(nil)).Set("balance = balance - ?", amount).Where("id = ?", from).Exec(ctx); err != nil {
			return err
		}
		// A transaction inside is a savepoint.
		_ = tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			_, _ = tx.NewDelete().Model((*account)(nil)).Where("id = 9").Exec(ctx)
			return errStop
		})
		var left int64
		if err := tx.NewUpdate().Model((*account)(nil)).Set("balance = balance + ?", amount).Where("id = ?", to).
			Returning("balance").Scan(ctx, &left); err != nil {
			return err
		}
		return last()
	})
}

func (b bunBank) Add(ctx context.Context, id, amount int64) error {
	_, err := b.db.NewUpdate().Model((*account)(nil)).Set("balance = balance + ?", amount).Where("id = ?", id).Exec(ctx)
	return err
}

func (b bunBank) Note(ctx context.Context, id int64, note string) (int64, error) {
	e := &entry{AccountID: id, Note: note}
	_, err := b.db.NewInsert().Model(e).Exec(ctx)
	return e.ID, err
}

func (b bunBank) Balance(ctx context.Context, id int64) (int64, error) {
	var a account
	err := b.db.NewSelect().Model(&a).Where("id = ?", id).Scan(ctx)
	return a.Balance, err
}

func (b bunBank) Notes(ctx context.Context, id int64) (notes []string, err error) {
	err = b.db.NewSelect().Model((*entry)(nil)).Column("note").Where("account_id = ?", id).Order("id").Scan(ctx, &notes)
	return notes, err
}
