package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Each line has to be there, in this order. The same lines come with DTM's server:
//
//	go test . -args -dtm http://127.0.0.1:36789/api/dtmsvr
func TestItRunsAndMovesAllOrNothing(t *testing.T) {
	t.Parallel()
	lines := []string{
		"at first north: anna 100 south: bert 0, carl 0",
		"A saga: 30 from anna to bert succeed north: anna 70 south: bert 30, carl 0",
		"carl, whose account is closed the client is told that it failed failed north: anna 70 south: bert 30, carl 0",
		"tried north: anna 50 and 20 held south: bert 30 and 20 held, carl 0 succeed north: anna 50 south: bert 50, carl 0",
		"to carl the client is told that it failed failed north: anna 50 south: bert 50, carl 0",
		"A message: 10 from anna to bert succeed north: anna 40 south: bert 60, carl 0",
		"dies between commit and submit succeed north: anna 35 south: bert 65, carl 0",
	}
	if *dtmURL == "" {
		lines = append(lines,
			"committed north: anna 30 south: bert 70, carl 0",
			"rolled back north: anna 30 south: bert 70, carl 0")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out strings.Builder
	if err := run(ctx, &out, *dtmURL); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	rest := strings.Join(strings.Fields(out.String()), " ")
	for _, line := range lines {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Errorf("no %q, or not there, in\n%s", line, out.String())
			continue
		}
		rest = after
	}
}

func TestWithoutCoordinatorThereIsAnError(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := run(ctx, new(strings.Builder), "http://127.0.0.1:1/api/dtmsvr")
	if err == nil || !strings.Contains(err.Error(), "no coordinator there") {
		t.Errorf("got %v", err)
	}
}
