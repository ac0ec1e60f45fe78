package saga_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
)

// A hotel and a flight are booked, then paid. Where the payment fails both bookings are
// cancelled, the flight first; where it succeeds the mail is sent, however long it takes.
func ExampleDefinition_Run() {
	c, err := client.Dial("localhost:4263", client.WithName("trips"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()

	trip := saga.New("trip").
		Step("hotel", target.HTTP("http://hotel/book"), saga.Input(map[string]any{"guest": "Ada"}),
			saga.Compensate(target.HTTP("http://hotel/cancel")), saga.Retry(target.RetryPolicy{Attempts: 5})).
		Step("flight", target.GRPC("air:443/air.v1.Flights/Book"),
			saga.Compensate(target.GRPC("air:443/air.v1.Flights/Cancel"))).
		Step("pay", target.Handler("payments", "charge"), saga.Input(map[string]any{"booking": "${steps.hotel.id}"}), saga.Pivot()).
		Step("mail", target.HTTP("http://mail/send"))

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch id, err := trip.Run(ctx, tm.New(c)); {
	case err == nil:
		fmt.Println("paid", id)
	case errors.Is(err, tm.ErrRolledBack):
		fmt.Println("cancelled:", err)
	case errors.Is(err, tm.ErrOutcomeUnknown):
		fmt.Println("it goes on; ask later for", id)
	default:
		fmt.Println("not begun:", err)
	}
}

func ExampleParseYAML() {
	_, err := saga.ParseYAML([]byte(`
name: trip
steps:
  - name: hotel
    http: http://hotel/book
    compensat: {http: http://hotel/cancel}
`))
	fmt.Println(err)

	trip, err := saga.ParseYAML([]byte(`
name: trip
steps:
  - name: hotel
    http: http://hotel/book
    input: {guest: Ada}
    compensate: {http: http://hotel/cancel}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	b, _ := trip.MarshalJSON()
	fmt.Println(string(b))
	// Output:
	// saga: line 6, column 5: steps[0].compensat: there is no such field; want one of after, compensate, database, delay, dtm, group, grpc, handler, headers, http, input, input_base64, name, no_compensation, pivot, retry, timeout
	// {"name":"trip","steps":[{"name":"hotel","http":"http://hotel/book","input":{"guest":"Ada"},"compensate":{"http":"http://hotel/cancel"}}]}
}

func ExampleDefinition_Validate() {
	fmt.Println(saga.New("trip").
		Step("hotel", target.HTTP("http://hotel/book")).
		Validate())
	// Output:
	// saga "trip": step "hotel": it has no compensation; add one, or say that nothing needs to be undone with no_compensation
}
