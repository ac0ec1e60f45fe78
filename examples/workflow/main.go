// Command workflow carries out orders with a Go function whose steps the coordinator
// remembers. A process that runs it is killed in the middle, and another one goes on. It
// brings everything along that it needs: run it with
//
//	go run ./examples/workflow
//
// The interesting parts are order.go, which has the workflow, and bank.go, which it calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/workflow"
)

func main() {
	if settings := os.Getenv(workerEnv); settings != "" {
		workAndExit(settings)
	}
	bench.Main("workflow", stage)
}

func workAndExit(settings string) {
	if err := work(settings); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func stage(ctx context.Context, b *bench.Bench) error {
	at, way, err := open(ctx, b)
	if err != nil {
		return err
	}
	b.Title("An order, and its process is killed before it learns that it has paid")
	first, err := hire(b, "worker 1", at)
	if err != nil {
		return err
	}
	id, err := workflow.Start(ctx, b.Tx, "desk", "order", order{Item: "teapot", Customer: "anna", Address: "Mill Lane 1"})
	if err != nil {
		return err
	}
	if err := way.kill(ctx, first); err != nil {
		return err
	}
	b.Say("worker 1 is killed, and worker 2 comes")
	if _, err := hire(b, "worker 2", at); err != nil {
		return err
	}
	result, err := workflow.Wait(ctx, b.Tx, id)
	if err != nil {
		return err
	}
	b.Say("done: %s", result)
	if err := b.Show(ctx, "afterwards"); err != nil {
		return err
	}
	b.Title("An order without an address, as shows when it is paid")
	if id, err = workflow.Start(ctx, b.Tx, "desk", "order", order{Item: "teapot", Customer: "anna"}); err != nil {
		return err
	}
	_, err = workflow.Wait(ctx, b.Tx, id)
	cause, err := b.Undone(ctx, err)
	if err != nil {
		return err
	}
	b.Say("rolled back: %v", cause)
	return b.Show(ctx, "compensated")
}

func open(ctx context.Context, b *bench.Bench) (at place, w *way, err error) {
	shop, err := b.Database(ctx, bench.Database{
		Name: "shop",
		Schema: `CREATE TABLE stock (item text PRIMARY KEY, price int, n int); INSERT INTO stock VALUES ('teapot', 30, 5);
			CREATE TABLE parcel (item text, address text, receipt int)`,
		Look: `SELECT format('teapots %s, parcels %s', (SELECT n FROM stock), (SELECT count(*) FROM parcel))`,
	})
	if err != nil {
		return at, nil, err
	}
	accounts, err := b.Database(ctx, bench.Database{
		Name: "bank",
		Schema: `CREATE TABLE account (customer text PRIMARY KEY, balance int); INSERT INTO account VALUES ('anna', 100);
			CREATE TABLE payment (id int GENERATED ALWAYS AS IDENTITY, customer text, amount int)`,
		Look: `SELECT format('anna %s, payments %s', (SELECT balance FROM account), (SELECT count(*) FROM payment))`,
	})
	if err != nil {
		return at, nil, err
	}
	plain, err := b.Plain(ctx, accounts)
	if err != nil {
		return at, nil, err
	}
	w = &way{to: bank(plain, b.Log()), charged: make(chan struct{})}
	at = place{Coordinator: b.Address, Database: shop.DSN}
	at.Bank, err = b.Serve(ctx, w)
	return at, w, err
}

// way is what lies before the bank. It keeps the first answer until the caller is dead.
type way struct {
	to      http.Handler
	once    sync.Once
	charged chan struct{} // closed when the first charge is through
}

func (w *way) ServeHTTP(answer http.ResponseWriter, r *http.Request) {
	first := false
	w.once.Do(func() { first = true })
	if !first {
		w.to.ServeHTTP(answer, r)
		return
	}
	w.to.ServeHTTP(bench.Nobody(), r)
	close(w.charged)
	<-r.Context().Done() // the connection broke
}

// kill waits until the bank has charged, and kills the one who waits for its answer.
func (w *way) kill(ctx context.Context, p *child.Process) error {
	select {
	case <-w.charged:
		p.Kill()
		return nil
	case <-p.Done():
		return errors.Join(errors.New("the worker ended by itself"), p.Err())
	case <-ctx.Done():
		return ctx.Err()
	}
}
