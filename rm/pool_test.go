package rm_test

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/rm"
)

// db is what the generated code of sqlc asks for, and more.
type db interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	Begin(context.Context) (pgx.Tx, error)
}

var (
	_ db = (*rm.Pool)(nil)
	_ db = (*rm.Conn)(nil)
	_ db = (*rm.Tx)(nil)
)

// works are ways to change data: each must be undone or kept as a whole.
func works() map[string]func(ctx context.Context, d db) error {
	type fn = func(ctx context.Context, d db) error
	move := "UPDATE account SET balance = balance - $1 WHERE id = $2"
	m := map[string]fn{
		"Exec": func(ctx context.Context, d db) error {
			tag, err := d.Exec(ctx, move, 7, 1)
			if err == nil && tag.String() != "UPDATE 1" {
				return fmt.Errorf("tag %q", tag)
			}
			return err
		},
		"Exec without arguments": func(ctx context.Context, d db) error {
			tag, err := d.Exec(ctx, "DELETE FROM account WHERE id < 4")
			if err == nil && tag.String() != "DELETE 3" {
				return fmt.Errorf("tag %q", tag)
			}
			return err
		},
		"Exec of several statements": func(ctx context.Context, d db) error {
			_, err := d.Exec(ctx, "INSERT INTO entry VALUES (1, 1, 'a;b'); UPDATE account SET balance = 1 WHERE id = 1; ")
			return err
		},
		"Exec with named arguments": func(ctx context.Context, d db) error {
			_, err := d.Exec(ctx, "UPDATE account SET owner = @o WHERE id = @id", pgx.NamedArgs{"o": "x", "id": 2})
			return err
		},
		"Exec in another mode": func(ctx context.Context, d db) error {
			_, err := d.Exec(ctx, move, pgx.QueryExecModeSimpleProtocol, 7, 1)
			return err
		},
		"Query": func(ctx context.Context, d db) error {
			rows, err := d.Query(ctx, "UPDATE account SET balance = balance + $1 WHERE id <= 10 RETURNING id", 1)
			if err != nil {
				return err
			}
			ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
			if err == nil && len(ids) != 10 {
				return fmt.Errorf("%d rows", len(ids))
			}
			return err
		},
		"Query closed early": func(ctx context.Context, d db) error {
			rows, err := d.Query(ctx, "UPDATE account SET balance = balance + $1 WHERE id <= 10 RETURNING id", 1)
			if err != nil {
				return err
			}
			rows.Next()
			rows.Close()
			return rows.Err()
		},
		"Query of a selecting CTE that writes": func(ctx context.Context, d db) error {
			rows, err := d.Query(ctx, "WITH u AS (DELETE FROM account WHERE id = 5 RETURNING id) SELECT id FROM u")
			if err != nil {
				return err
			}
			_, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
			return err
		},
		"QueryRow": func(ctx context.Context, d db) error {
			var n int
			err := d.QueryRow(ctx, "INSERT INTO entry VALUES ($1, $2, 'q') RETURNING n", 1, 5).Scan(&n)
			if err == nil && n != 5 {
				return fmt.Errorf("n = %d", n)
			}
			return err
		},
		"QueryRow of a function that writes": func(ctx context.Context, d db) error {
			return d.QueryRow(ctx, "SELECT pay($1)", 3).Scan(nil)
		},
		"SendBatch": func(ctx context.Context, d db) error {
			b := &pgx.Batch{}
			b.Queue(move, 1, 1)
			called := false
			b.Queue("INSERT INTO entry VALUES (9, 9, 'b') RETURNING note").QueryRow(func(row pgx.Row) error {
				var s string
				called = true
				return row.Scan(&s)
			})
			b.Queue(move, 1, 2)
			if err := d.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
			if !called {
				return fmt.Errorf("the batch's function was not called")
			}
			return nil
		},
		"SendBatch read one by one": func(ctx context.Context, d db) error {
			b := &pgx.Batch{}
			b.Queue(move, 1, 1)
			b.Queue("SELECT balance FROM account WHERE id = $1", 1)
			b.Queue("UPDATE account SET balance = 0 WHERE id > 98 RETURNING id")
			br := d.SendBatch(ctx, b)
			if _, err := br.Exec(); err != nil {
				return err
			}
			var n int
			if err := br.QueryRow().Scan(&n); err != nil || n != 99 {
				return fmt.Errorf("balance %d: %w", n, err)
			}
			rows, err := br.Query()
			if err != nil {
				return err
			}
			if ids, err := pgx.CollectRows(rows, pgx.RowTo[int]); err != nil || len(ids) != 2 {
				return fmt.Errorf("%v: %w", ids, err)
			}
			return br.Close()
		},
		"CopyFrom": func(ctx context.Context, d db) error {
			rows := [][]any{{1, 1, "x"}, {1, 2, "y"}, {2, 1, nil}}
			n, err := d.CopyFrom(ctx, pgx.Identifier{"entry"}, []string{"account", "n", "note"}, pgx.CopyFromRows(rows))
			if err == nil && n != 3 {
				return fmt.Errorf("%d rows", n)
			}
			return err
		},
	}
	for name, work := range maps.Clone(m) {
		m["Tx: "+name] = func(ctx context.Context, d db) error {
			return pgx.BeginFunc(ctx, d, func(tx pgx.Tx) error { return work(ctx, tx) })
		}
		m["Tx: second, "+name] = func(ctx context.Context, d db) error {
			return pgx.BeginFunc(ctx, d, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "UPDATE account SET balance = 5 WHERE id = $1", 50); err != nil {
					return err
				}
				return work(ctx, tx)
			})
		}
		m["Savepoint: "+name] = func(ctx context.Context, d db) error {
			return pgx.BeginFunc(ctx, d, func(tx pgx.Tx) error {
				if err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error { return work(ctx, sp) }); err != nil {
					return err
				}
				sp, err := tx.Begin(ctx)
				if err != nil {
					return err
				}
				if _, err := sp.Exec(ctx, "DELETE FROM account WHERE id > 90"); err != nil {
					return err
				}
				return sp.Rollback(ctx)
			})
		}
	}
	return m
}

const payFunction = `CREATE FUNCTION pay(i int) RETURNS void LANGUAGE sql AS 'UPDATE account SET balance = balance - 1 WHERE id = i'`

func TestWorkIsKeptOrUndoneAsTheDecisionSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exec(t, w.look, payFunction)
	plain := database(t)
	model := &world{t: t, look: connect(t, plain)}
	exec(t, model.look, payFunction)
	for name, work := range works() { //nolint:paralleltest // one database, looked at as a whole
		t.Run(name, func(t *testing.T) {
			w.undoneThenKept(t, work)
		})
	}
}

func TestWithoutXIDThePoolIsThePlainPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exec(t, w.look, payFunction)
	other := &world{t: t, look: connect(t, database(t))}
	exec(t, other.look, payFunction)
	for name, work := range works() { //nolint:paralleltest // one database, looked at as a whole
		t.Run(name, func(t *testing.T) {
			check(t, work(limited(t), w.pool))
			check(t, work(limited(t), other.look))
			equal(t, "contents", w.contents(), other.contents())
			equal(t, "intents", w.intents(), 0)
			for _, o := range []*world{w, other} {
				exec(t, o.look, "TRUNCATE account, entry")
				exec(t, o.look, "INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i")
			}
		})
	}
}
