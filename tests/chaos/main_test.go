//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/internal/child"
)

var (
	lasting   = flag.Duration("chaos", 0, "how long faults happen; what comes to rest and is judged after them takes its own time")
	seed      = flag.Uint64("chaos.seed", 1, "of the order of the faults")
	inDocker  = flag.Bool("chaos.containers", false, "run Postgres and the coordinator in containers")
	onlyKinds = flag.String("chaos.kinds", "", "only these kinds of faults, separated by commas")
	planting  = flag.Bool("chaos.planted", false, "plant faults in the services, too, and see that they are found; it takes a minute")
	reportDir = flag.String("chaos.report", "", "write what was counted into this `directory`, as seen from here: ../../docs/reliability")
)

const dirPrefix = "handfast-chaos-run-"

func makeDir() (string, error) {
	child.Sweep("", dirPrefix)
	return child.MakeDir("", dirPrefix)
}

func TestMain(m *testing.M) {
	if text := os.Getenv(asRole); text != "" {
		if err := play(text); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// play is what a process of another role does.
func play(text string) error {
	var p part
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch p.Role {
	case "service":
		return p.serve(ctx)
	case "caller":
		return p.call(ctx)
	default:
		return errors.New("no such role: " + p.Role)
	}
}

// interruptible ends with Ctrl-C, so that what runs can be ended in order.
func interruptible(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	return ctx
}
