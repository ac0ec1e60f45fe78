package main

import (
	"context"
	"encoding/json"
	"errors"
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
		call := fence.Call{XID: id.XID, Branch: id.Branch, Action: fence.Forward, Attempt: id.Attempt}
		return nil, s.run(ctx, call, hold, o.Customer, o.Price)
	}
}

// account confirms and cancels what try has reserved.
func (s *fenced) account() *handlers.Group {
	money := func(o order, _ string) []any { return []any{o.Customer, o.Price} }
	return handlers.New("money").
		Handle("confirm", s.on(fence.Commit, capture, money)).
		Handle("cancel", s.on(fence.Rollback, release, money))
}

// courier is a step of a saga. It does not go to everybody.
func (s *fenced) courier() *handlers.Group {
	return handlers.New("courier").
		Handle("book", s.on(fence.Forward, `INSERT INTO tour (branch, address) SELECT $1, $2 WHERE $2 NOT LIKE '%island%'`,
			func(o order, branch string) []any { return []any{branch, o.Address} })).
		Handle("cancel", s.on(fence.Rollback, `DELETE FROM tour WHERE branch = $1`,
			func(_ order, branch string) []any { return []any{branch} })) // the branch is that of book
}

// mail receives messages. A delivery comes as a commit of the transaction, but nothing was
// tried before it: to the fence it is a forward action.
func (s *fenced) mail() *handlers.Group {
	return handlers.New("mail").
		Handle("send", s.on(fence.Forward, `INSERT INTO mail (text) VALUES ('Thanks, ' || $1)`,
			func(o order, _ string) []any { return []any{o.Customer} }))
}

// on makes a handler of one statement.
func (s *fenced) on(action fence.Action, statement string, args func(o order, branch string) []any) handlers.Func {
	return func(ctx context.Context, c handlers.Call) ([]byte, error) {
		var o order
		if err := json.Unmarshal(c.Payload, &o); err != nil {
			return nil, err
		}
		call := fence.Call{XID: c.XID, Branch: c.Branch, Action: action, Attempt: c.Attempt}
		return nil, s.run(ctx, call, statement, args(o, c.Branch.String())...)
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
	if errors.Is(err, fence.ErrLate) {
		err = fmt.Errorf("%w: %w", err, target.ErrFailed)
	}
	return err
}
