package rm_test

import (
	"context"
	"errors"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/rm"
)

// A service opens one client and one pool, and uses the pool as it would use
// pgx's. Whether a call is part of a global transaction is up to its context.
func ExamplePool() {
	run := func(ctx context.Context) error {
		coordinator, err := client.Dial("localhost:4263")
		if err != nil {
			return err
		}
		defer coordinator.Close() //nolint:errcheck // the process ends
		pool, err := rm.Open(ctx, coordinator, "postgres://app@localhost/stock")
		if err != nil {
			return err // says so where the database lacks the handfast schema
		}
		defer pool.Close()

		_, err = pool.Exec(ctx, "UPDATE item SET n = n - $1 WHERE sku = $2", 1, "A-7")
		return err
	}
	_ = run
}

// An explicit transaction is one branch. A conflict is returned at the
// statement and names who holds the row.
func ExamplePool_BeginTx() {
	take := func(ctx context.Context, pool *rm.Pool, sku string) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			var left int
			err := tx.QueryRow(ctx, "UPDATE item SET n = n - 1 WHERE sku = $1 RETURNING n", sku).Scan(&left)
			if err == nil && left < 0 {
				return errors.New("sold out")
			}
			return err
		})
		var held *rm.LockConflictError
		if errors.As(err, &held) {
			log.Printf("%s of %s is held by %s", held.Key, held.Table, held.Holder)
		}
		return err
	}
	_ = take
}

// DBTX is what the code that sqlc generates for pgx asks for. A *rm.Pool is one,
// and so is the transaction that it begins.
type DBTX interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}

// Queries stands for a type that sqlc generates.
type Queries struct{ db DBTX }

// New makes Queries.
func New(db DBTX) *Queries { return &Queries{db: db} }

// WithTx gives Queries that run in a transaction.
func (q *Queries) WithTx(tx pgx.Tx) *Queries { return &Queries{db: tx} }

// Reserve stands for a query that sqlc generates.
func (q *Queries) Reserve(ctx context.Context, sku string) (int32, error) {
	var n int32
	err := q.db.QueryRow(ctx, "UPDATE item SET n = n - 1 WHERE sku = $1 RETURNING n", sku).Scan(&n)
	return n, err
}

// Generated code takes the pool as it is.
func Example_sqlc() {
	reserve := func(ctx context.Context, pool *rm.Pool) error {
		queries := New(pool)
		if _, err := queries.Reserve(ctx, "A-7"); err != nil {
			return err
		}
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx) //nolint:errcheck // after Commit it does nothing
		if _, err := queries.WithTx(tx).Reserve(ctx, "B-1"); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
	_ = reserve
}
