package main

import (
	"testing"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/saga"
)

func TestItRunsAndBooksAllOrNothing(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		`hotel: book  answer={"id":"room-1","price":120}`,
		`flight: book  answer={"id":"seat-1","price":80}`,
		`pay: charge  answer={"paid":200}`,
		"mail: send",
		"booked   hotel: 1 of 3 taken   airline: 1 of 9 taken   payment: anna 300, bert 200   mail: 1 sent",
		"booked   hotel: 2 of 3 taken   airline: 2 of 9 taken   payment: anna 100, bert 200   mail: 2 sent",
		"pay: charge  error=anna can't pay 200",
		"flight: cancel",
		"hotel: cancel",
		"rolled back:",
		"compensated   hotel: 2 of 3 taken   airline: 2 of 9 taken   payment: anna 100, bert 200   mail: 2 sent",
		"submitted, and the caller is gone",
		"flight: book",
		"booked   hotel: 3 of 3 taken   airline: 3 of 9 taken   payment: anna 100, bert 0   mail: 3 sent",
	)
}

// Both have the fields of an input in the order of their names, as Go writes maps.
func TestTheTripInYAMLIsTheOneInGo(t *testing.T) {
	t.Parallel()
	written, err := saga.ParseYAML(tripYAML)
	if err != nil {
		t.Fatal(err)
	}
	got, err := written.YAML()
	if err != nil {
		t.Fatal(err)
	}
	want, err := trip("anna").YAML()
	if err != nil || string(got) != string(want) {
		t.Errorf("trip.yaml says\n%s\nand trip.go\n%s%v", got, want, err)
	}
}
