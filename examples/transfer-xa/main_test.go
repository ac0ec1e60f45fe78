package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestItRunsAndShowsBothHalvesOrNone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out strings.Builder
	if err := run(ctx, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, line := range []string{
		"both prepared       north: 100, prepared: 1   south:   0, prepared: 1",
		"afterwards          north:  70, prepared: 0   south:  30, prepared: 0",
		"rolled back",
		"after the restart   north:  70, prepared: 1   south:  30, prepared: 1",
		"afterwards          north:  50, prepared: 0   south:  50, prepared: 0",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), strings.Join(strings.Fields(line), " ")) {
			t.Errorf("no %q in\n%s", line, out.String())
		}
	}
}
