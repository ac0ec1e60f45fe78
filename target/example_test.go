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

// A saga whose services have DTM's barrier, and stay as they are.
func ExampleDTM() {
	out := target.HTTP("http://bank/out", target.Payload(map[string]int{"amount": 30}), target.DTM())
	fmt.Println(out.Validate(), out.Proto().GetDialect())

	// What the service gets:
	//	POST /out?branch_id=...&gid=...&op=action&trans_type=saga
	//	{"amount":30}

	fmt.Println(target.Handler("payments", "charge", target.DTM()).Validate())
	// Output:
	// <nil> DIALECT_DTM
	// dtm: a handler has no dialect; want http or grpc
}
