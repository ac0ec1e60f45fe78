package main

import (
	_ "embed" // for trip.yaml

	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
)

// trip books a room and a seat, pays for both, and sends a mail. Where a step fails for
// good before the payment, what was booked is cancelled, the last first. The payment is
// the pivot: it can't be undone, so the mail after it is tried until it is sent.
//
// "${steps.hotel.id}" is what the step hotel has answered by then.
func trip(guest string) *saga.Definition {
	return saga.New("trip").
		Step("hotel", target.Handler("hotel", "book"),
			saga.Input(map[string]any{"guest": guest}),
			saga.Compensate(target.Handler("hotel", "cancel"))).
		Step("flight", target.Handler("airline", "book"),
			saga.Input(map[string]any{"guest": guest, "note": "stays in ${steps.hotel.id}"}),
			saga.Compensate(target.Handler("airline", "cancel"))).
		Step("pay", target.Handler("payment", "charge"),
			saga.Input(map[string]any{"guest": guest, "prices": []any{"${steps.hotel.price}", "${steps.flight.price}"}}),
			saga.Pivot()).
		Step("mail", target.Handler("mail", "send"),
			saga.Input(map[string]any{"text": "Room ${steps.hotel.id}, seat ${steps.flight.id}, paid ${steps.pay.paid}.", "to": guest}))
}

// The same trip for one guest, written down as data: saga.ParseYAML reads it.
//
//go:embed trip.yaml
var tripYAML []byte
