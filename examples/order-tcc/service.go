package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/target"
)

// Neither service has a connection to the coordinator: it is called over HTTP, and its
// Postgres is used through pgx as it is. Package fence is all that it takes of Handfast.

// stock takes items out of what is free when they are tried, and hands them out when
// they are confirmed.
func stock(db *pgxpool.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /try", once(db, `UPDATE stock SET free = free - $2, reserved = reserved + $2 WHERE item = $1 AND free >= $2`, item.args))
	mux.Handle("POST /confirm", once(db, `UPDATE stock SET reserved = reserved - $2 WHERE item = $1`, item.args))
	mux.Handle("POST /cancel", once(db, `UPDATE stock SET free = free + $2, reserved = reserved - $2 WHERE item = $1`, item.args))
	return mux
}

// payment holds money, and captures it.
func payment(db *pgxpool.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /try", once(db, `UPDATE account SET balance = balance - $2, held = held + $2 WHERE customer = $1 AND balance >= $2`, money.args))
	mux.Handle("POST /confirm", once(db, `UPDATE account SET held = held - $2 WHERE customer = $1`, money.args))
	mux.Handle("POST /cancel", once(db, `UPDATE account SET balance = balance + $2, held = held - $2 WHERE customer = $1`, money.args))
	return mux
}

func (i item) args() []any  { return []any{i.Name, i.Count} }
func (m money) args() []any { return []any{m.Customer, m.Amount} }

var errRefused = fmt.Errorf("there is not enough: %w", target.ErrFailed) // for good, and without an effect

// once answers one action, whose statement has its effect once: however often it is
// called, whether Cancel comes before Try, after it, or without it.
func once[T any](db *pgxpool.Pool, statement string, args func(T) []any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var what T
		call, err := fence.FromHTTP(r)
		if err == nil {
			err = json.NewDecoder(r.Body).Decode(&what)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := fence.Run(r.Context(), db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			changed, err := tx.Exec(ctx, statement, args(what)...)
			if err == nil && changed.RowsAffected() == 0 {
				err = errRefused
			}
			return nil, err
		})
		switch {
		case err != nil:
			http.Error(w, err.Error(), fence.HTTPStatus(err))
		case out.Empty:
			w.WriteHeader(http.StatusNoContent) // Cancel without Try: done, there was nothing to do
		default:
			w.WriteHeader(http.StatusOK)
		}
	})
}
