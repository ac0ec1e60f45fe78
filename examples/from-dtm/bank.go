package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/dtm-labs/client/dtmcli"
)

// money is what a bank is sent, whatever it is to do with it.
type money struct {
	Owner  string `json:"owner"`
	Amount int    `json:"amount"`
}

// bank is a service with a database of its own. DTM's barrier is in that database: it
// makes each call have its effect once.
type bank struct{ db *sql.DB }

// statements are what a bank does: $1 is the owner, $2 the amount. Where no row fits,
// the bank refuses.
var statements = map[string]string{
	"/withdraw":      `UPDATE account SET balance = balance - $2 WHERE owner = $1 AND open AND balance >= $2`,
	"/withdraw/undo": `UPDATE account SET balance = balance + $2 WHERE owner = $1`,
	"/deposit":       `UPDATE account SET balance = balance + $2 WHERE owner = $1 AND open`,
	"/deposit/undo":  `UPDATE account SET balance = balance - $2 WHERE owner = $1`,

	"/withdraw/try":     `UPDATE account SET balance = balance - $2, held = held + $2 WHERE owner = $1 AND open AND balance >= $2`,
	"/withdraw/confirm": `UPDATE account SET held = held - $2 WHERE owner = $1`,
	"/withdraw/cancel":  `UPDATE account SET balance = balance + $2, held = held - $2 WHERE owner = $1`,
	"/deposit/try":      `UPDATE account SET held = held + $2 WHERE owner = $1 AND open`,
	"/deposit/confirm":  `UPDATE account SET balance = balance + $2, held = held - $2 WHERE owner = $1`,
	"/deposit/cancel":   `UPDATE account SET held = held - $2 WHERE owner = $1`,
}

func (b *bank) handler() http.Handler {
	mux := http.NewServeMux()
	for path, statement := range statements {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			answer(w, b.branch(r, statement))
		})
	}
	mux.HandleFunc("GET /sent", func(w http.ResponseWriter, r *http.Request) {
		answer(w, b.sent(r))
	})
	return mux
}

// branch runs one statement behind the barrier.
func (b *bank) branch(r *http.Request, statement string) error {
	barrier, err := dtmcli.BarrierFromQuery(r.URL.Query())
	if err != nil {
		return err
	}
	var m money
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		return err
	}
	return barrier.CallWithDB(b.db, func(tx *sql.Tx) error { return change(tx, statement, m) })
}

// change refuses with 409 where no row fits. Nothing is done then: the barrier rolls
// back.
func change(tx *sql.Tx, statement string, m money) error {
	changed, err := tx.Exec(statement, m.Owner, m.Amount) //nolint:noctx // the barrier has begun tx without a context
	if err != nil {
		return err
	}
	if n, err := changed.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("%s can't: %w", m.Owner, dtmcli.ErrFailure)
	}
	return nil
}

// sent tells what became of the local transaction that a message was prepared for.
func (b *bank) sent(r *http.Request) error {
	barrier, err := dtmcli.BarrierFromQuery(r.URL.Query())
	if err != nil {
		return err
	}
	return barrier.QueryPrepared(b.db)
}

func answer(w http.ResponseWriter, err error) {
	code, body := dtmcli.Result2HttpJSON(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // whoever asked may have gone, and asks again
}
