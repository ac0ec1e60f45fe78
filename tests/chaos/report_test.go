//go:build unix

package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

// counts are what a run adds up, by words that a report can show.
type counts struct {
	mu sync.Mutex
	n  map[string]int64
}

func (c *counts) add(what string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int64{}
	}
	c.n[what] += n
}

func (c *counts) most(what string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int64{}
	}
	c.n[what] = max(c.n[what], n)
}

func (c *counts) all() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

func (c *counts) String() string {
	all := c.all()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		_, _ = fmt.Fprintf(&b, "  %-34s %8d\n", k, all[k])
	}
	return b.String()
}

// events is what happened when: the last of it, as it may be a long run.
type events struct {
	mu    sync.Mutex
	begun time.Time
	lines []string
}

const maxEvents = 400

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun.IsZero() {
		e.begun = time.Now()
	}
	now := time.Now()
	e.lines = append(e.lines, fmt.Sprintf("%s %8.3f  %s", now.UTC().Format("15:04:05.000"), now.Sub(e.begun).Seconds(), fmt.Sprintf(format, args...)))
	if len(e.lines) > maxEvents {
		e.lines = slices.Delete(e.lines, 0, len(e.lines)-maxEvents)
	}
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.lines, "\n")
}

// report writes the figures of a run, for the page about reliability.
func report(t *testing.T, dir string, w *world, took time.Duration) {
	t.Helper()
	name, command := "chaos", fmt.Sprintf("go test ./tests/chaos -run Chaos -chaos %s -chaos.seed %d -timeout %s -v", *lasting, w.seed, *lasting+30*time.Minute)
	if w.engine != nil {
		name = "chaos-containers"
		command = strings.Replace(command, " -chaos.seed", " -chaos.containers -chaos.seed", 1)
	}
	run := figures.Run{Name: name, Command: command, Commit: figures.Commit(t.Context()), Seconds: int(took.Seconds()), Counts: w.counts.all(), Failures: w.wrong()}
	if err := figures.Write(dir, run); err != nil {
		t.Error(err)
	}
}
