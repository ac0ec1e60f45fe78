package main

import (
	"testing"

	"github.com/handfast/handfast/examples/internal/bench"
)

func TestItRunsAndShowsBothHalvesOrNone(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		"both prepared       north: 100, prepared: 1   south:   0, prepared: 1",
		"afterwards          north:  70, prepared: 0   south:  30, prepared: 0",
		"rolled back",
		"afterwards          north:  70, prepared: 0   south:  30, prepared: 0",
		"after the restart   north:  70, prepared: 1   south:  30, prepared: 1",
		"afterwards          north:  50, prepared: 0   south:  50, prepared: 0",
	)
}
