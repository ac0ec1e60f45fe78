package broker_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/message/broker"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/target"
)

// A target is data: who publishes it, and how, is a matter of the group.
func ExampleTo() {
	to := broker.To("brokers", "orders.placed",
		target.Payload(map[string]int{"order": 7}), target.Header("tenant", "blue"))
	fmt.Println(to, to.Headers, string(to.Payload), to.Validate())
	fmt.Println(broker.To("brokers", "orders placed").Validate())
	// Output:
	// brokers/publish map[Broker-Subject:orders.placed tenant:blue] {"order":7} <nil>
	// subject: "orders placed"; want printable ASCII characters without a space
}

// The message is published if the order is committed.
func ExampleTo_publish() {
	place := func(ctx context.Context, pool *rm.Pool, order int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO orders VALUES ($1)", order); err != nil {
				return err
			}
			return rm.Publish(ctx, tx, broker.To("brokers", "orders.placed", target.Payload(order)))
		})
	}
	_ = place
}

// A consumer, of whatever broker, books each message once.
func ExampleRegister_consumer() {
	consume := func(ctx context.Context, db fence.Beginner, headers map[string][]string, payload []byte) error {
		call, err := fence.FromValues(func(name string) []string { return headers[name] })
		if err != nil {
			return err
		}
		_, err = fence.Run(ctx, db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			_, err := tx.Exec(ctx, "INSERT INTO shipment (content) VALUES ($1)", payload)
			return nil, err
		})
		return err // nil, also for a repetition: acknowledge it
	}
	_ = consume
}
