package rmsql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/hftest"
)

// db is what a *sql.DB, a *sql.Conn and a *sql.Tx have in common, and what the
// code asks for that sqlc generates.
type db interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

const move = "UPDATE account SET balance = balance - $1 WHERE id = $2"

type work = func(ctx context.Context, d db) error

func affected(want int64) func(sql.Result, error) error {
	return func(r sql.Result, err error) error {
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n != want {
			return fmt.Errorf("%d rows, want %d: %w", n, want, err)
		}
		if _, err := r.LastInsertId(); err == nil {
			return errors.New("there is a last id")
		}
		return nil
	}
}

func ids(rows *sql.Rows, err error) (ids []int, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // read to the end
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// works are ways to change data: each must be undone or kept as a whole.
func works() map[string]work {
	m := map[string]work{
		"Exec": func(ctx context.Context, d db) error {
			return affected(1)(d.ExecContext(ctx, move, 7, 1))
		},
		"Exec without arguments": func(ctx context.Context, d db) error {
			return affected(3)(d.ExecContext(ctx, "DELETE FROM account WHERE id < 4"))
		},
		"Exec of several statements": func(ctx context.Context, d db) error {
			_, err := d.ExecContext(ctx, "INSERT INTO entry VALUES (1, 1, 'a;b'); UPDATE account SET balance = 1 WHERE id = 1; ")
			return err
		},
		"Exec in another mode": func(ctx context.Context, d db) error {
			return affected(1)(d.ExecContext(ctx, move, pgx.QueryExecModeSimpleProtocol, 7, 1))
		},
		"Query": func(ctx context.Context, d db) error {
			got, err := ids(d.QueryContext(ctx, "UPDATE account SET balance = balance + $1 WHERE id <= 10 RETURNING id", 1))
			if err == nil && len(got) != 10 {
				return fmt.Errorf("%d rows", len(got))
			}
			return err
		},
		"Query of no rows": func(ctx context.Context, d db) error {
			rows, err := d.QueryContext(ctx, "INSERT INTO entry VALUES (3, 3, 'x')")
			if err != nil {
				return err
			}
			if rows.Next() {
				return errors.New("there is a row")
			}
			return errors.Join(rows.Err(), rows.Close())
		},
		"Query closed early": func(ctx context.Context, d db) error {
			rows, err := d.QueryContext(ctx, "UPDATE account SET balance = balance + $1 WHERE id <= 10 RETURNING id", 1)
			if err != nil {
				return err
			}
			rows.Next()
			return errors.Join(rows.Close(), rows.Err())
		},
		"Query of a selecting CTE that writes": func(ctx context.Context, d db) error {
			_, err := ids(d.QueryContext(ctx, "WITH u AS (DELETE FROM account WHERE id = 5 RETURNING id) SELECT id FROM u"))
			return err
		},
		"QueryRow": func(ctx context.Context, d db) error {
			var n int
			return d.QueryRowContext(ctx, "INSERT INTO entry VALUES ($1, $2, 'q') RETURNING n", 1, 5).Scan(&n)
		},
		"QueryRow of a function that writes": func(ctx context.Context, d db) error {
			var n int
			return d.QueryRowContext(ctx, "SELECT pay($1)", 3).Scan(&n)
		},
		"Stmt": func(ctx context.Context, d db) error {
			s, err := d.PrepareContext(ctx, move)
			if err != nil {
				return err
			}
			err = affected(1)(s.ExecContext(ctx, 5, 7))
			return errors.Join(err, s.Close())
		},
		"Stmt that returns rows": func(ctx context.Context, d db) error {
			s, err := d.PrepareContext(ctx, "INSERT INTO entry VALUES ($1, $2, 'p') RETURNING n")
			if err != nil {
				return err
			}
			var n int
			err = s.QueryRowContext(ctx, 8, 9).Scan(&n)
			if err == nil && n != 9 {
				err = fmt.Errorf("n = %d", n)
			}
			return errors.Join(err, s.Close())
		},
	}
	for name, work := range maps.Clone(m) {
		for _, before := range []string{"", "UPDATE account SET balance = 5 WHERE id = 50"} {
			after := ""
			if before != "" {
				after = "second, "
			}
			m["Tx: "+after+name] = inTx(before, work)
			m["Tx without context: "+after+name] = inTx(before, func(_ context.Context, d db) error {
				return work(context.Background(), d)
			})
		}
		m["Savepoint: "+name] = inTx("SAVEPOINT a", func(ctx context.Context, d db) error {
			if err := work(ctx, d); err != nil {
				return err
			}
			for _, s := range []string{"SAVEPOINT b", "DELETE FROM account WHERE id > 90", "ROLLBACK TO SAVEPOINT b", "RELEASE SAVEPOINT a"} {
				if _, err := d.ExecContext(ctx, s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return m
}

type beginner interface {
	db
	BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
}

// inTx does work in a transaction, after another statement.
func inTx(before string, work work) work {
	return func(ctx context.Context, d db) error {
		tx, err := d.(beginner).BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if before != "" {
			_, err = tx.Exec(before)
		}
		if err == nil {
			err = work(ctx, tx)
		}
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	}
}

func TestWorkIsKeptOrUndoneAsTheDecisionSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pinned, err := w.db.Conn(w.Limited())
	w.Check(err)
	t.Cleanup(func() { w.Check(pinned.Close()) })
	for on, d := range map[string]beginner{"DB": w.db, "Conn": pinned} { //nolint:paralleltest // one database, looked at as a whole
		for name, work := range works() {
			t.Run(on+"/"+name, func(t *testing.T) {
				before := w.contents()
				ctx, x := w.Begin()
				w.Check(work(ctx, d))
				after := w.contents()
				if after == before {
					t.Fatal("nothing was done")
				}
				hftest.Equal(t, "branches", w.Branches(x), 1)
				w.Rollback(x)
				hftest.Equal(t, "after rollback", w.contents(), before)
				w.Settled()

				ctx, x = w.Begin()
				w.Check(work(ctx, d))
				w.Commit(x)
				hftest.Equal(t, "after commit", w.contents(), after)
				w.Settled()
				w.Exec("TRUNCATE account, entry")
				w.Exec("INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i")
			})
		}
	}
}

func TestWithoutXIDItIsStdlib(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	std := stdlibDB(t, other)
	for name, work := range works() { //nolint:paralleltest // one database, looked at as a whole
		t.Run(name, func(t *testing.T) {
			w.Check(work(w.Limited(), w.db))
			w.Check(work(w.Limited(), std))
			hftest.Equal(t, "contents", w.contents(), other.contents())
			w.Settled()
			for _, o := range []*world{w, other} {
				o.Exec("TRUNCATE account, entry")
				o.Exec("INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i")
			}
		})
	}
}
