package bench

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"
)

// TB is what Check needs of a *testing.T.
type TB interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Check runs the stage of an example, whose output has to have the lines in this order.
// How many spaces there are between words does not matter.
func Check(tb TB, stage Stage, lines ...string) {
	tb.Helper()
	CheckEach(tb, stage, lines)
}

// CheckEach is Check for lines of several processes: which of two comes first that
// different ones say is chance, so only those of one list have an order.
func CheckEach(tb TB, stage Stage, lists ...[]string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 3*time.Minute)
	defer cancel()
	var out strings.Builder
	if err := Run(ctx, &out, stage); err != nil {
		tb.Fatalf("%v\n%s", err, out.String())
	}
	for _, lines := range lists {
		rest := words(out.String())
		for _, line := range lines {
			_, after, found := strings.Cut(rest, words(line))
			if !found {
				tb.Errorf("no %q, or not there, in\n%s", line, out.String())
				continue
			}
			rest = after
		}
	}
}

// Play runs something on a bench of a test's own, which says nothing.
func Play(tb TB, stage Stage) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 3*time.Minute)
	defer cancel()
	if err := Run(ctx, io.Discard, stage); err != nil {
		tb.Fatalf("%v", err)
	}
}

// Want compares what plain sessions see in all databases, in their order.
func (b *Bench) Want(ctx context.Context, tb TB, want ...string) {
	tb.Helper()
	var got []string
	for _, d := range b.databases {
		text, err := d.Seen(ctx)
		if err != nil {
			tb.Fatalf("database %s: %v", d.Name, err)
		}
		got = append(got, words(text))
	}
	if !slices.Equal(got, want) {
		tb.Errorf("seen %q, want %q", got, want)
	}
}

func words(s string) string { return strings.Join(strings.Fields(s), " ") }
