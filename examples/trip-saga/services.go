package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
)

// service is one of the four, each with a database of its own.
type service struct {
	db  *pgxpool.Pool
	log *slog.Logger
}

// places is the hotel, and the airline: both have places that are booked and cancelled.
func (s *service) places(name string) *handlers.Group {
	return handlers.New(name).
		Handle("book", s.once(func(ctx context.Context, tx pgx.Tx, c handlers.Call) (any, error) {
			var in struct{ Guest string }
			if err := c.Decode(&in); err != nil {
				return nil, err
			}
			var place struct {
				ID    string `json:"id"`
				Price int    `json:"price"`
			}
			err := tx.QueryRow(ctx, `UPDATE place SET guest = $1, booking = $2
				WHERE id = (SELECT id FROM place WHERE guest IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
				RETURNING id, price`, in.Guest, c.Branch.String()).Scan(&place.ID, &place.Price)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil, fmt.Errorf("no place is free: %w", handlers.ErrFailed)
			}
			return place, err
		})).
		Handle("cancel", s.once(func(ctx context.Context, tx pgx.Tx, c handlers.Call) (any, error) {
			// By the branch, and not by what book has answered: the answer may have been lost.
			_, err := tx.Exec(ctx, `UPDATE place SET guest = NULL, booking = NULL WHERE booking = $1`, c.Branch.String())
			return nil, err
		}))
}

func (s *service) payments() *handlers.Group {
	return handlers.New("payment").
		Handle("charge", s.once(func(ctx context.Context, tx pgx.Tx, c handlers.Call) (any, error) {
			var in struct {
				Guest  string
				Prices []int
			}
			if err := c.Decode(&in); err != nil {
				return nil, err
			}
			sum := 0
			for _, p := range in.Prices {
				sum += p
			}
			paid, err := tx.Exec(ctx, `UPDATE account SET balance = balance - $2 WHERE guest = $1 AND balance >= $2`, in.Guest, sum)
			if err == nil && paid.RowsAffected() == 0 {
				err = fmt.Errorf("%s can't pay %d: %w", in.Guest, sum, handlers.ErrFailed)
			}
			return map[string]int{"paid": sum}, err
		}))
}

func (s *service) mails() *handlers.Group {
	return handlers.New("mail").
		Handle("send", s.once(func(ctx context.Context, tx pgx.Tx, c handlers.Call) (any, error) {
			var in struct{ To, Text string }
			if err := c.Decode(&in); err != nil {
				return nil, err
			}
			_, err := tx.Exec(ctx, `INSERT INTO mail (guest, text) VALUES ($1, $2)`, in.To, in.Text)
			return nil, err
		}))
}

// once makes a function's effect happen once, however often and in whatever order the
// coordinator calls: a repeated call gets the first answer, and a compensation without
// its action does nothing.
func (s *service) once(do func(context.Context, pgx.Tx, handlers.Call) (any, error)) handlers.Func {
	return func(ctx context.Context, c handlers.Call) ([]byte, error) {
		out, err := fence.Run(ctx, s.db, c.Identity, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			result, err := do(ctx, tx, c)
			if err != nil || result == nil {
				return nil, err
			}
			return json.Marshal(result)
		})
		s.log.InfoContext(ctx, c.Step+": "+c.Handler, "answer", string(out.Result), "error", err)
		return out.Result, err
	}
}
