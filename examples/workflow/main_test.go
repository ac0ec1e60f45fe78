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
	const killed = "worker 1 is killed, and worker 2 comes"
	bench.CheckEach(t, stage, []string{
		"worker 1: takes teapot",
		"worker 1: pays 30",
		killed,
		"worker 2: pays 30", // and takes nothing: that is remembered
		"worker 2: ships teapot",
		"worker 2: ships teapot",
		"worker 2: puts teapot back",
	}, []string{
		"bank: /charge  amount=30  repeated=false",
		killed,
		"bank: /charge  amount=30  repeated=true",
		`done: {"receipt":1}`,
		"afterwards   shop: teapots 4, parcels 1   bank: anna 70, payments 1",
		"bank: /refund  amount=-30  repeated=false",
		"rolled back:",
		"compensated   shop: teapots 4, parcels 1   bank: anna 70, payments 3",
	})
}
