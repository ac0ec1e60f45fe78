package orm_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/handfast/handfast/internal/hftest"
)

func addSQLX(t *testing.T, w *hftest.World, to map[string]bank) {
	t.Helper()
	to["sqlx"] = sqlxBank{sqlx.NewDb(openDB(t, w), "pgx")}
}

type sqlxBank struct{ db *sqlx.DB }

func (b sqlxBank) Transfer(ctx context.Context, from, to, amount int64, last func() error) error {
	tx, err := b.db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	err = func() error {
		if _, err := tx.NamedExecContext(ctx, "UPDATE accounts SET balance = balance - :amount WHERE id = :id",
			map[string]any{"amount": amount, "id": from}); err != nil {
			return err
		}
		s, err := tx.PreparexContext(ctx, "UPDATE accounts SET balance = balance + $1 WHERE id = $2 RETURNING *")
		if err != nil {
			return err
		}
		var a account
		if err := s.GetContext(ctx, &a, amount, to); err != nil {
			return err
		}
		// Without a context.
		if _, err := tx.NamedExec("INSERT INTO entries (account_id, note) VALUES (:account_id, :note)", entry{AccountID: from, Note: "transfer"}); err != nil {
			return err
		}
		return last()
	}()
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (b sqlxBank) Add(ctx context.Context, id, amount int64) error {
	_, err := b.db.ExecContext(ctx, b.db.Rebind("UPDATE accounts SET balance = balance + ? WHERE id = ?"), amount, id)
	return err
}

func (b sqlxBank) Note(ctx context.Context, id int64, note string) (key int64, err error) {
	err = b.db.GetContext(ctx, &key, "INSERT INTO entries (account_id, note) VALUES ($1, $2) RETURNING id", id, note)
	return key, err
}

func (b sqlxBank) Balance(ctx context.Context, id int64) (int64, error) {
	var a account
	err := b.db.GetContext(ctx, &a, "SELECT * FROM accounts WHERE id = $1", id)
	return a.Balance, err
}

func (b sqlxBank) Notes(ctx context.Context, id int64) (notes []string, err error) {
	query, args, err := sqlx.In("SELECT note FROM entries WHERE account_id IN (?) ORDER BY id", []int64{id})
	if err != nil {
		return nil, err
	}
	err = b.db.SelectContext(ctx, &notes, b.db.Rebind(query), args...)
	return notes, err
}
