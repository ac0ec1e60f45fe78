package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
)

// desk is a process that carries out orders. There may be many, and each may die at any
// time.
type desk struct {
	tx   *tm.Manager   // tm.New(coordinator)
	db   *pgxpool.Pool // the stock and the parcels
	bank string        // URL of another service
	log  *slog.Logger
}

type order struct {
	Item     string `json:"item"`
	Customer string `json:"customer"`
	Address  string `json:"address"`
}

// offers is what the coordinator may call here. Every desk attaches the same.
func (d *desk) offers() *handlers.Group {
	g := handlers.New("desk").Handle("put-back", d.putBack)
	workflow.Register(g, d.tx, "order", d.order)
	return g
}

// order is the workflow. Where its process dies it is called again, from the beginning,
// by any desk: a step that is remembered gives its result, and does not run. Where it
// returns an error its steps are compensated, the last first.
func (d *desk) order(ctx context.Context, w *workflow.W, input []byte) ([]byte, error) {
	var o order
	if err := json.Unmarshal(input, &o); err != nil {
		return nil, err
	}
	price, err := workflow.Step(ctx, w, "take", func(ctx context.Context, step workflow.StepCall) (int, error) {
		return d.take(ctx, step, o.Item)
	}, workflow.Compensate(target.Handler("desk", "put-back", target.Payload(o))))
	if err != nil {
		return nil, err
	}
	bill := payment{Customer: o.Customer, Amount: price}
	receipt, err := workflow.Step(ctx, w, "pay", func(ctx context.Context, step workflow.StepCall) (receipt, error) {
		return d.pay(ctx, step, bill)
	}, workflow.Compensate(target.HTTP(d.bank+"/refund", target.Payload(bill))))
	if err != nil {
		return nil, err
	}
	_, err = workflow.Step(ctx, w, "ship", func(ctx context.Context, step workflow.StepCall) (any, error) {
		return nil, d.ship(ctx, step, o, receipt)
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(receipt)
}

// take is the first step. The fence gives a run that comes again the first one's answer,
// where that died between its local commit and the coordinator's memory.
func (d *desk) take(ctx context.Context, step workflow.StepCall, item string) (price int, err error) {
	d.log.InfoContext(ctx, "takes "+item)
	out, err := fence.Run(ctx, d.db, step, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		err := tx.QueryRow(ctx, `UPDATE stock SET n = n - 1 WHERE item = $1 AND n > 0 RETURNING price`, item).Scan(&price)
		if errors.Is(err, pgx.ErrNoRows) {
			err = fmt.Errorf("no %s is left: %w", item, target.ErrFailed) // without an effect
		}
		if err != nil {
			return nil, err
		}
		return json.Marshal(price)
	})
	if err != nil {
		return 0, err
	}
	return price, json.Unmarshal(out.Result, &price)
}

// putBack compensates take. The coordinator calls it at any desk.
func (d *desk) putBack(ctx context.Context, c handlers.Call) ([]byte, error) {
	var o order
	if err := c.Decode(&o); err != nil {
		return nil, err
	}
	d.log.InfoContext(ctx, "puts "+o.Item+" back")
	call := fence.Call{XID: c.XID, Branch: c.Branch, Action: fence.Rollback, Attempt: c.Attempt}
	_, err := fence.Run(ctx, d.db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		_, err := tx.Exec(ctx, `UPDATE stock SET n = n + 1 WHERE item = $1`, o.Item)
		return nil, err
	})
	return nil, err
}

// pay asks the bank. The identity of the step goes along, and is the same in every run:
// the bank makes one payment of it, and finds it again for a refund.
func (d *desk) pay(ctx context.Context, step workflow.StepCall, bill payment) (paid receipt, err error) {
	d.log.InfoContext(ctx, fmt.Sprintf("pays %d", bill.Amount))
	body, err := json.Marshal(bill)
	if err != nil {
		return paid, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.bank+"/charge", bytes.NewReader(body))
	if err != nil {
		return paid, err
	}
	step.Set(r.Header)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return paid, fmt.Errorf("%w: %w", err, workflow.ErrRetry) // it may have happened: ask again
	}
	defer func() { _ = answer.Body.Close() }()
	body, err = io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return paid, fmt.Errorf("%w: %w", err, workflow.ErrRetry)
	case answer.StatusCode == http.StatusConflict:
		return paid, fmt.Errorf("the bank says %s: %w", body, target.ErrFailed)
	case answer.StatusCode != http.StatusOK:
		return paid, fmt.Errorf("the bank says %s: %w", answer.Status, workflow.ErrRetry)
	}
	return paid, json.Unmarshal(body, &paid)
}

func (d *desk) ship(ctx context.Context, step workflow.StepCall, o order, paid receipt) error {
	d.log.InfoContext(ctx, "ships "+o.Item)
	if o.Address == "" {
		return fmt.Errorf("there is no address: %w", target.ErrFailed)
	}
	_, err := fence.Run(ctx, d.db, step, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
		_, err := tx.Exec(ctx, `INSERT INTO parcel (item, address, receipt) VALUES ($1, $2, $3)`, o.Item, o.Address, paid.Receipt)
		return nil, err
	})
	return err
}
