package handlers_test

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
)

// A service without a database offers two functions.
func ExampleGroup() {
	c, err := client.Dial("localhost:4263", client.WithName("payments/1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()

	detach, err := handlers.New("payments").
		Handle("charge", func(_ context.Context, call handlers.Call) ([]byte, error) {
			var order struct{ Amount int }
			if err := call.Decode(&order); err != nil {
				return nil, err // unsure: tried again
			}
			if order.Amount > 1000 {
				return nil, fmt.Errorf("%d is over the limit: %w", order.Amount, handlers.ErrFailed)
			}
			// call.Key() is the same for every attempt: a payment provider takes it as
			// its idempotency key.
			return []byte(`{"receipt":"r-` + call.Key() + `"}`), nil
		}).
		Handle("refund", func(context.Context, handlers.Call) ([]byte, error) { return nil, nil }).
		Attach(c, client.WithMaxCalls(16))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer detach()
}
