package orm_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/sqlgraph"
	"entgo.io/ent/schema/field"

	"github.com/handfast/handfast/internal/hftest"
)

// addEnt uses what the code that ent generates (5,700 lines for two tables)
// calls: all of its statements go through sqlgraph and the driver.
func addEnt(t *testing.T, w *hftest.World, to map[string]bank) {
	t.Helper()
	to["ent"] = entBank{entsql.OpenDB(dialect.Postgres, openDB(t, w))}
}

type entBank struct{ db *entsql.Driver }

var idColumn = &sqlgraph.FieldSpec{Column: "id", Type: field.TypeInt64}

// entAdd is Account.Update().Where(account.ID(id)).AddBalance(amount).
func entAdd(ctx context.Context, d dialect.Driver, id, amount int64) error {
	spec := sqlgraph.NewUpdateSpec("accounts", []string{"id", "owner", "balance"}, idColumn)
	spec.Predicate = func(s *entsql.Selector) { s.Where(entsql.EQ("id", id)) }
	spec.AddField("balance", field.TypeInt64, amount)
	_, err := sqlgraph.UpdateNodes(ctx, d, spec)
	return err
}

// entNote is Entry.Create().
func entNote(ctx context.Context, d dialect.Driver, id int64, note string) (int64, error) {
	spec := sqlgraph.NewCreateSpec("entries", sqlgraph.NewFieldSpec("id", field.TypeInt64))
	spec.SetField("account_id", field.TypeInt64, id)
	spec.SetField("note", field.TypeString, note)
	spec.SetField("at", field.TypeTime, time.Now())
	if err := sqlgraph.CreateNode(ctx, d, spec); err != nil {
		return 0, err
	}
	key, ok := spec.ID.Value.(int64)
	if !ok {
		return 0, errors.New("no key")
	}
	return key, nil
}

func (b entBank) Transfer(ctx context.Context, from, to, amount int64, last func() error) error {
	tx, err := b.db.Tx(ctx)
	if err != nil {
		return err
	}
	d := inTx{Driver: b.db, tx: tx}
	err = entAdd(ctx, d, from, -amount)
	if err == nil {
		_, err = entNote(ctx, d, from, "transfer")
	}
	if err == nil {
		err = entAdd(ctx, d, to, amount)
	}
	if err == nil {
		err = last()
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// inTx is ent's own txDriver, which it generates: a driver whose transactions
// are the one that is open.
type inTx struct {
	dialect.Driver
	tx dialect.Tx
}

func (d inTx) Tx(context.Context) (dialect.Tx, error) { return dialect.NopTx(d), nil }

func (d inTx) Exec(ctx context.Context, query string, args, v any) error {
	return d.tx.Exec(ctx, query, args, v)
}

func (d inTx) Query(ctx context.Context, query string, args, v any) error {
	return d.tx.Query(ctx, query, args, v)
}

func (b entBank) Add(ctx context.Context, id, amount int64) error {
	return entAdd(ctx, b.db, id, amount)
}

func (b entBank) Note(ctx context.Context, id int64, note string) (int64, error) {
	return entNote(ctx, b.db, id, note)
}

func (b entBank) Balance(ctx context.Context, id int64) (n int64, err error) {
	var rows entsql.Rows
	query, args := entsql.Dialect(dialect.Postgres).Select("balance").From(entsql.Table("accounts")).Where(entsql.EQ("id", id)).Query()
	if err := b.db.Query(ctx, query, args, &rows); err != nil {
		return 0, err
	}
	defer rows.Close() //nolint:errcheck // ScanInt64 has read to the end
	return entsql.ScanInt64(rows)
}

func (b entBank) Notes(ctx context.Context, id int64) (notes []string, err error) {
	var rows entsql.Rows
	query, args := entsql.Dialect(dialect.Postgres).Select("note").From(entsql.Table("entries")).
		Where(entsql.EQ("account_id", id)).OrderBy("id").Query()
	if err := b.db.Query(ctx, query, args, &rows); err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // ScanSlice has read to the end
	err = entsql.ScanSlice(rows, &notes)
	return notes, err
}
