package workflow_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/handlers"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/workflow"
)

// A trip is booked by a function. Where it fails, or its process dies for good, what was
// booked is cancelled.
func ExampleStep() {
	c, err := client.Dial("localhost:4263", client.WithName("trips"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	m := tm.New(c)

	type booking struct{ ID int }
	g := handlers.New("trips")
	workflow.Register(g, m, "book", func(ctx context.Context, w *workflow.W, input []byte) ([]byte, error) {
		hotel, err := workflow.Step(ctx, w, "hotel", func(_ context.Context, step workflow.StepCall) (booking, error) {
			return booking{ID: len(step.Key())}, nil // the key makes it one booking
		}, workflow.Compensate(target.HTTP("http://hotel/cancel", target.Payload(map[string]any{"booking": "${own.ID}"}))))
		if err != nil {
			return nil, err
		}
		return json.Marshal(hotel)
	})
	detach, err := g.Attach(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer detach()

	ctx := context.Background()
	id, err := workflow.Start(ctx, m, "trips", "book", map[string]any{"guest": "Ada"})
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := workflow.Wait(ctx, m, id)
	fmt.Println(string(result), err)
}
