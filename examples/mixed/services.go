package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tcc"
)

// fenced is a service that is called, by the coordinator or by others, and has the effect
// of each call once.
type fenced struct{ db *pgxpool.Pool }

const (
	hold    = `UPDATE account SET balance = balance - $2, held = held + $2 WHERE customer = $1 AND balance >= $2`
	capture = `UPDATE account SET held = held - $2 WHERE customer = $1`
	release = `UPDATE account SET balance = balance + $2, held = held - $2 WHERE customer = $1`
)

// try reserves money. It is called in the caller's process here, and could be an HTTP
// request as well (tcc.Post).
func (s *fenced) try(o order) tcc.Try {
	return func(ctx context.Context, id target.Identity) ([]byte, error) {
		return nil, s.run(ctx, id, hold, o.Customer, o.Price)
	}
}

// account confirms and cancels what try has reserved.
func (s *fenced) account() *handlers.Group {
	money := func(o order, _ string) []any { return []any{o.Customer, o.Price} }
	return handlers.New("money").
		Handle("confirm", s.on(capture, money)).
		Handle("cancel", s.on(release, money))
}

// courier is a step of a saga. It does not go to everybody.
func (s *fenced) courier() *handlers.Group {
	return handlers.New("courier").
		Handle("book", s.on(`INSERT INTO tour (branch, address) SELECT $1, $2 WHERE $2 NOT LIKE '%island%'`,
			func(o order, branch string) []any { return []any{branch, o.Address} })).
		Handle("cancel", s.on(`DELETE FROM tour WHERE branch = $1`,
			func(_ order, branch string) []any { return []any{branch} })) // the branch is that of book
}

// mail receives messages.
func (s *fenced) mail() *handlers.Group {
	return handlers.New("mail").
		Handle("send", s.on(`INSERT INTO mail (text) VALUES ('Thanks, ' || $1)`,
			func(o order, _ string) []any { return []any{o.Customer} }))
}

// on makes a handler of one statement.
func (s *fenced) on(statement string, args func(o order, branch string) []any) handlers.Func {
	return func(ctx context.Context, c handlers.Call) ([]byte, error) {
		var o order
		if err := json.Unmarshal(c.Payload, &o); err != nil {
			return nil, err
		}
		return nil, s.run(ctx, c.Identity, statement, args(o, c.Branch.String())...)
	}
}

func (s *fenced) run(ctx context.Context, call fence.Call, statement string, args ...any) error {
	_, err := fence.Run(ctx, s.db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		changed, err := tx.Exec(ctx, statement, args...)
		if err == nil && changed.RowsAffected() == 0 {
			err = fmt.Errorf("refused: %w", target.ErrFailed) // for good, and without an effect
		}
		return nil, err
	})
	return err
}
