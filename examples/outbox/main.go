// Command outbox sends a message from a local transaction of Postgres: it goes out
// exactly if that commits. It brings everything along that it needs: run it with
//
//	go run ./examples/outbox
//
// The interesting parts are signup.go, which sends, and mails.go, which receives.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/fence"
)

func main() { bench.Main("outbox", stage) }

func stage(ctx context.Context, b *bench.Bench) error {
	s, way, err := open(ctx, b)
	if err != nil {
		return err
	}
	b.Title("Anna signs up, and the answer to the first delivery is lost")
	way.lossy.Store(true)
	if err := s.add(ctx, "Anna", "TEA-10"); err != nil {
		return err
	}
	if err := settled(ctx, b); err != nil {
		return err
	}
	b.Title("Bert signs up with the same coupon: published, and then rolled back")
	err = s.add(ctx, "Bert", "TEA-10")
	if !errors.Is(err, errCoupon) {
		return fmt.Errorf("want the coupon to be refused, got: %w", err)
	}
	b.Say("rolled back: %v", err)
	return settled(ctx, b)
}

// settled shows what there is when nothing is under way any more.
func settled(ctx context.Context, b *bench.Bench) error {
	if err := b.Settled(ctx); err != nil {
		return err
	}
	return b.Show(ctx, "afterwards")
}

func open(ctx context.Context, b *bench.Bench) (*signup, *way, error) {
	customers, err := b.Database(ctx, bench.Database{
		Name: "signup",
		Schema: `CREATE TABLE customer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
			CREATE TABLE coupon (code text PRIMARY KEY, customer int); INSERT INTO coupon VALUES ('TEA-10')`,
		Look: `SELECT format('%s customer', count(*)) FROM customer`,
	})
	if err != nil {
		return nil, nil, err
	}
	sent, err := b.Database(ctx, bench.Database{
		Name:   "mails",
		Schema: `CREATE TABLE mail (customer int, text text)`,
		Look:   `SELECT format('%s sent', count(*)) FROM mail`,
	})
	if err != nil {
		return nil, nil, err
	}
	plain, err := b.Plain(ctx, sent)
	if err != nil {
		return nil, nil, err
	}
	w := &way{b: b, to: mails(plain)}
	s := &signup{}
	if s.db, err = b.Pool(ctx, customers); err != nil {
		return nil, nil, err
	}
	s.mails, err = b.Serve(ctx, w)
	return s, w, err
}

// way is what lies before the service that receives. It may lose an answer.
type way struct {
	b     *bench.Bench
	to    http.Handler
	lossy atomic.Bool
}

func (w *way) ServeHTTP(answer http.ResponseWriter, r *http.Request) {
	attempt := r.Header.Get(fence.HeaderAttempt)
	if !w.lossy.Swap(false) {
		w.to.ServeHTTP(answer, r)
		w.b.Say("delivery %s: answered", attempt)
		return
	}
	w.to.ServeHTTP(bench.Nobody(), r)
	w.b.Say("delivery %s: done, and the answer gets lost", attempt)
	answer.WriteHeader(http.StatusBadGateway)
}
