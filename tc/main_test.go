package tc_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain can also play a coordinator that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(asCoordinator); dir != "" {
		fmt.Fprintln(os.Stderr, "coordinator:", beCoordinator(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
