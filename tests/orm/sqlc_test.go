package orm_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tests/orm/sqlcgen/pgxdb"
	"github.com/handfast/handfast/tests/orm/sqlcgen/stddb"
)

func addSQLC(t *testing.T, w *hftest.World, to map[string]bank) {
	t.Helper()
	db := openDB(t, w)
	to["sqlc for database/sql"] = stdBank{db, stddb.New(db)}
	prepared, err := stddb.Prepare(w.Limited(), db)
	w.Check(err)
	t.Cleanup(func() { w.Check(prepared.Close()) })
	to["sqlc for database/sql, prepared"] = stdBank{db, prepared}
	to["sqlc for pgx"] = pgxBank{w.Pool}
}

type stdBank struct {
	db *sql.DB
	q  *stddb.Queries
}

func (b stdBank) Transfer(ctx context.Context, from, to, amount int64, last func() error) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	q := b.q.WithTx(tx)
	_, err = q.AddBalance(ctx, stddb.AddBalanceParams{Amount: -amount, ID: from})
	if err == nil {
		_, err = q.CreateEntry(ctx, stddb.CreateEntryParams{AccountID: from, Note: "transfer"})
	}
	if err == nil {
		_, err = q.AddBalanceReturning(ctx, stddb.AddBalanceReturningParams{Amount: amount, ID: to})
	}
	if err == nil {
		err = last()
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (b stdBank) Add(ctx context.Context, id, amount int64) error {
	_, err := b.q.AddBalance(ctx, stddb.AddBalanceParams{Amount: amount, ID: id})
	return err
}

func (b stdBank) Note(ctx context.Context, id int64, note string) (int64, error) {
	e, err := b.q.CreateEntry(ctx, stddb.CreateEntryParams{AccountID: id, Note: note})
	return e.ID, err
}

func (b stdBank) Balance(ctx context.Context, id int64) (int64, error) {
	a, err := b.q.GetAccount(ctx, id)
	return a.Balance, err
}

func (b stdBank) Notes(ctx context.Context, id int64) (notes []string, err error) {
	entries, err := b.q.ListEntries(ctx, id)
	for _, e := range entries {
		notes = append(notes, e.Note)
	}
	return notes, err
}

type pgxBank struct{ pool *rm.Pool }

func (b pgxBank) Transfer(ctx context.Context, from, to, amount int64, last func() error) error {
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		q := pgxdb.New(b.pool).WithTx(tx)
		if _, err := q.AddBalance(ctx, pgxdb.AddBalanceParams{Amount: -amount, ID: from}); err != nil {
			return err
		}
		if _, err := q.CreateEntry(ctx, pgxdb.CreateEntryParams{AccountID: from, Note: "transfer"}); err != nil {
			return err
		}
		if _, err := q.AddBalanceReturning(ctx, pgxdb.AddBalanceReturningParams{Amount: amount, ID: to}); err != nil {
			return err
		}
		return last()
	})
}

func (b pgxBank) Add(ctx context.Context, id, amount int64) error {
	_, err := pgxdb.New(b.pool).AddBalance(ctx, pgxdb.AddBalanceParams{Amount: amount, ID: id})
	return err
}

func (b pgxBank) Note(ctx context.Context, id int64, note string) (int64, error) {
	e, err := pgxdb.New(b.pool).CreateEntry(ctx, pgxdb.CreateEntryParams{AccountID: id, Note: note})
	return e.ID, err
}

func (b pgxBank) Balance(ctx context.Context, id int64) (int64, error) {
	a, err := pgxdb.New(b.pool).GetAccount(ctx, id)
	return a.Balance, err
}

func (b pgxBank) Notes(ctx context.Context, id int64) (notes []string, err error) {
	entries, err := pgxdb.New(b.pool).ListEntries(ctx, id)
	for _, e := range entries {
		notes = append(notes, e.Note)
	}
	return notes, err
}
