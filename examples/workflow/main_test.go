package main

import (
	"os"
	"testing"

	"github.com/handfast/handfast/examples/internal/bench"
)

func TestMain(m *testing.M) {
	if settings := os.Getenv(workerEnv); settings != "" {
		workAndExit(settings)
	}
	os.Exit(m.Run())
}

func TestItRunsAndGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		"worker 1: takes teapot",
		"worker 1: pays 30",
		"bank: /charge  amount=30  repeated=false",
		"worker 1 is killed, and worker 2 comes",
		"worker 2: pays 30", // and takes nothing: that is remembered
		"bank: /charge  amount=30  repeated=true",
		"worker 2: ships teapot",
		`done: {"receipt":1}`,
		"afterwards   shop: teapots 4, parcels 1   bank: anna 70, payments 1",
		"worker 2: ships teapot",
		"bank: /refund  amount=-30  repeated=false",
		"worker 2: puts teapot back",
		"rolled back:",
		"compensated   shop: teapots 4, parcels 1   bank: anna 70, payments 3",
	)
}
