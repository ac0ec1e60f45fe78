package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
)

// mails is the service that receives: an HTTP server with a Postgres, and no connection to
// the coordinator. A message comes at least once; the fence lets it have one effect.
func mails(db *pgxpool.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /welcome", func(w http.ResponseWriter, r *http.Request) {
		var hello welcome
		call, err := fence.FromHTTP(r)
		if err == nil {
			err = json.NewDecoder(r.Body).Decode(&hello)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, err = fence.Run(r.Context(), db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			_, err := tx.Exec(ctx, `INSERT INTO mail (customer, text) VALUES ($1, 'Welcome, ' || $2)`, hello.Customer, hello.Name)
			return nil, err
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable) // it comes again
		}
	})
	return mux
}
