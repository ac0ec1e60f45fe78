package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/target"
)

type payment struct {
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

type receipt struct {
	Receipt int `json:"receipt"`
}

var errMoney = fmt.Errorf("there is not enough money: %w", target.ErrFailed)

// bank is another service, with plain HTTP and a database of its own. Charges and refunds
// name their call in the headers, from which the fence knows what belongs together.
func bank(db *pgxpool.Pool, log *slog.Logger) http.Handler {
	act := func(w http.ResponseWriter, r *http.Request) {
		var p payment
		call, err := fence.FromHTTP(r)
		if err == nil {
			err = json.NewDecoder(r.Body).Decode(&p)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if call.Action == fence.Rollback {
			p.Amount = -p.Amount
		}
		out, err := fence.Run(r.Context(), db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			var paid receipt
			err := tx.QueryRow(ctx, `WITH a AS (UPDATE account SET balance = balance - $2 WHERE customer = $1 AND balance >= $2 RETURNING customer)
				INSERT INTO payment (customer, amount) SELECT customer, $2 FROM a RETURNING id`, p.Customer, p.Amount).Scan(&paid.Receipt)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil, errMoney
			}
			if err != nil {
				return nil, err
			}
			return json.Marshal(paid)
		})
		log.InfoContext(r.Context(), "bank: "+r.URL.Path, "amount", p.Amount, "repeated", out.Repeated, "error", err)
		if err != nil {
			http.Error(w, err.Error(), fence.HTTPStatus(err))
			return
		}
		_, _ = w.Write(out.Result)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charge", act)
	mux.HandleFunc("POST /refund", act)
	return mux
}
