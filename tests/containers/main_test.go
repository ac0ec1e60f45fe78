package containers

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	dockerclient "github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// noEngine is why there are no containers; empty when there are.
var noEngine string

func TestMain(m *testing.M) {
	noEngine = probeEngine()
	if noEngine != "" {
		fmt.Fprintf(os.Stderr, "\n*** NO CONTAINER ENGINE: the container suite does not run ***\n*** %s ***\n\n", noEngine)
	}
	os.Exit(m.Run())
}

// probeEngine asks the engine whether it is well.
func probeEngine() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err.Error()
	}
	defer func() { _ = p.Close() }()
	info, err := p.Client().Info(ctx, dockerclient.InfoOptions{})
	if err != nil {
		return err.Error()
	}
	// Some machines look like a container from inside (/.dockerenv) and run the
	// engine themselves. testcontainers then looks for published ports at a
	// gateway that is not there.
	const override = "TESTCONTAINERS_HOST_OVERRIDE"
	if host, err := os.Hostname(); err == nil && host == info.Info.Name && os.Getenv(override) == "" {
		if err := os.Setenv(override, "localhost"); err != nil {
			return err.Error()
		}
	}
	return ""
}

// requireEngine skips the test where there is no engine, or fails it where
// the suite has to run.
func requireEngine(t *testing.T) {
	t.Helper()
	if noEngine == "" {
		return
	}
	if os.Getenv("HANDFAST_REQUIRE_CONTAINERS") == "1" {
		t.Fatalf("HANDFAST_REQUIRE_CONTAINERS=1, but there is no container engine: %s", noEngine)
	}
	t.Skipf("no container engine: %s", noEngine)
}
