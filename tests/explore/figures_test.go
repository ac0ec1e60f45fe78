package explore

import (
	"flag"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

var figuresFlag = flag.String("explore.figures", "", "write what was counted into this directory; see package figures")

// keep writes the figures of a test that has searched all that it should, if that is asked for.
func keep(t *testing.T, begun time.Time, name, run string, counts map[string]int, failures ...string) {
	t.Helper()
	if *only != "" || t.Skipped() {
		return
	}
	r := figures.Run{Name: name, Command: "go test ./tests/explore -run " + run, Counts: map[string]int64{}, Failures: failures}
	if *all {
		r.Command += " -explore.all -timeout 2h"
	}
	for what, n := range counts {
		r.Counts[what] = int64(n)
	}
	if t.Failed() && len(failures) == 0 {
		r.Failures = []string{"the test failed"}
	}
	if err := figures.Keep(*figuresFlag, begun, r); err != nil {
		t.Error(err)
	}
}

// found counts the subtests that found what was planted.
type found struct{ all, found atomic.Int64 }

// newFound counts until the test and its subtests have ended.
func newFound(t *testing.T, name, run string) *found {
	t.Helper()
	f, begun := new(found), time.Now()
	t.Cleanup(func() {
		if f.all.Load() > 0 {
			keep(t, begun, name, run, map[string]int{"planted": int(f.all.Load()), "found": int(f.found.Load())})
		}
	})
	return f
}

func (f *found) add(t *testing.T) {
	t.Helper()
	if t.Skipped() {
		return
	}
	f.all.Add(1)
	if !t.Failed() {
		f.found.Add(1)
	}
}
