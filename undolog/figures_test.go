package undolog_test

import (
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

var report = flag.String("undolog.report", "", "write what was counted into this directory; see package figures")

// judged counts the scripts whose rollback and commit were compared with the database
// before them, and with what plain Postgres makes of them.
var judged, settlements atomic.Int64

// keepAll keeps what a run of all tests has counted.
func keepAll(begun time.Time, code int) error {
	if !*everything || judged.Load() == 0 {
		return nil
	}
	run := figures.Run{
		Name: "undolog", Command: "go test ./undolog -undolog.all -timeout 1h",
		Counts: map[string]int64{"scripts": judged.Load(), "settlements compared byte by byte": settlements.Load()},
	}
	if code != 0 {
		run.Failures = []string{"a test failed"}
	}
	return figures.Keep(*report, begun, run)
}

// keepPlanted keeps how many planted faults were found, and what that took.
func keepPlanted(t *testing.T, begun time.Time, found int, tried tally) {
	t.Helper()
	run := figures.Run{
		Name: "undolog-planted", Command: plantedEnvironment + "=all go test ./undolog -run FindsPlantedFaults -timeout 20m",
		Counts: map[string]int64{"planted": int64(len(faults)), "found": int64(found), "cases that it took": int64(tried.cases), "rounds that it took": int64(tried.rounds)},
	}
	if found < len(faults) {
		run.Failures = []string{fmt.Sprintf("%d were not found", len(faults)-found)}
	}
	if err := figures.Keep(*report, begun, run); err != nil {
		t.Error(err)
	}
}

func TestMain(m *testing.M) {
	begun := time.Now()
	code := cluster.Run(m)
	if err := keepAll(begun, code); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
