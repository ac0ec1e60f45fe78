package dtm_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain can also play a coordinator that is killed. No test may depend on the time
// zone of the machine, so it is an odd one.
func TestMain(m *testing.M) {
	time.Local = time.FixedZone("odd", 5*3600+45*60)
	if dir := os.Getenv(asCoordinator); dir != "" {
		fmt.Fprintln(os.Stderr, "coordinator:", beCoordinator(dir))
		os.Exit(1)
	}
	// Most tests wait for something most of the time.
	flag.Parse()
	if err := flag.Set("test.parallel", "32"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "handfast-dtm-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		shared, err = startWorld(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code = m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
