package crash

import (
	"flag"
	"sync"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

var report = flag.String("crash.report", "", "write what was counted into this directory; see package figures")

// deaths counts who died, and in which transactions nobody did.
var deaths = struct {
	sync.Mutex
	n map[string]int64
}{n: map[string]int64{}}

// count counts one run of a scene whose transaction ended as decided.
func (s *scene) count(died bool) {
	deaths.Lock()
	defer deaths.Unlock()
	if !died {
		deaths.n["transactions without a death"]++
		return
	}
	deaths.n["deaths"]++
	deaths.n["deaths of a "+s.victim]++
}

// keep writes the figures of a run of all tests.
func keep(begun time.Time, code int) error {
	run := figures.Run{Name: "crash", Command: "go test ./internal/crash", Counts: deaths.n}
	if *everything {
		run.Command += " -crash.all -timeout 1h"
	}
	if code != 0 {
		run.Failures = []string{"a test failed"}
	}
	if only := flag.Lookup("test.run").Value.String(); only != "" {
		run.Command += " -run '" + only + "'"
	}
	return figures.Keep(*report, begun, run)
}
