package natsjs_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/message"
	"github.com/handfast/handfast/message/broker"
	"github.com/handfast/handfast/message/natsjs"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
)

// A process that publishes for everybody who names its group, and a message to it.
func Example() {
	ctx := context.Background()
	nc, err := nats.Connect(nats.DefaultURL, nats.MaxReconnects(-1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := client.Dial("localhost:4263", client.WithName("publisher/1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	detach, err := broker.Register(handlers.New("brokers"), natsjs.New(js)).Attach(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer detach() // before the connection is closed

	_, err = message.New("order placed").
		To(broker.To("brokers", "orders.placed", target.Payload(map[string]int{"order": 7}))).
		Send(ctx, tm.New(c))
	fmt.Println(err)
}

// A consumer books each message once, and acknowledges it when that is committed.
func ExampleNew_consumer() {
	consume := func(ctx context.Context, db fence.Beginner, msg jetstream.Msg) error {
		call, err := fence.FromValues(msg.Headers().Values)
		if err != nil {
			return msg.TermWithReason(err.Error()) // nobody sent it by Handfast
		}
		_, err = fence.Run(ctx, db, call, func(ctx context.Context, tx pgx.Tx) ([]byte, error) {
			_, err := tx.Exec(ctx, "INSERT INTO shipment (content) VALUES ($1)", msg.Data())
			return nil, err
		})
		if err != nil {
			return msg.Nak() // it comes again
		}
		return msg.DoubleAck(ctx)
	}
	_ = consume
}
