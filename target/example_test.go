package target_test

import (
	"fmt"
	"time"

	"github.com/handfast/handfast/target"
)

func ExampleHTTP() {
	t := target.HTTP("https://hotel/book",
		target.Payload(map[string]any{"guest": "Ada", "flight": "${steps.flight.number}"}),
		target.Timeout(3*time.Second))
	fmt.Println(t, string(t.Payload), t.Validate())

	steps, _, _ := t.References()
	fmt.Println(steps)
	// Output:
	// https://hotel/book {"flight":"${steps.flight.number}","guest":"Ada"} <nil>
	// [flight]
}
