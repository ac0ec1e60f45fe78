package histories

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tests/figures"
)

var (
	longFlag    = flag.Duration("histories.for", 0, "how long histories of outcomes, and those of isolation, are made; 0: some seconds")
	reportFlag  = flag.String("histories.report", "", "write what was counted into this directory")
	plantedFlag = flag.Bool("histories.planted", false, "plant every fault of XA and of DTM's clients, and not only a few of each")
	seedFlag    = flag.Uint64("histories.seed", 0, "of what the clients do; 0: by the clock. What happens to them is never the same again")
	cluster     = pgtest.New(pgserver.Options{Settings: map[string]string{"max_connections": "300", "max_prepared_transactions": "300"}})
)

// asCoordinator makes this program a coordinator over the directory it names, on the
// listeners that it inherits.
const asCoordinator = "HANDFAST_HISTORIES_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asCoordinator); dir != "" {
		if err := beCoordinator(dir); err != nil {
			fmt.Fprintln(os.Stderr, "histories:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	// They wait for each other, and for disks, most of the time.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if *seedFlag == 0 {
		*seedFlag = uint64(time.Now().UnixNano()) % 1_000_000
	}
	code := cluster.Run(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func beCoordinator(dir string) error {
	var lis [2]net.Listener
	for i := range lis {
		var err error
		if lis[i], err = net.FileListener(os.NewFile(uintptr(3+i), "listener")); err != nil {
			return err
		}
	}
	cfg := settings()
	cfg.Listener, cfg.StoreDir = lis[0], dir
	cfg.DTM = &dtm.Config{Listener: lis[1], GRPC: "127.0.0.1:0"}
	s, err := tc.NewServer(context.Background(), cfg)
	if err != nil {
		return err
	}
	return s.Serve(context.Background())
}

// settings make a coordinator do soon what it would do later: deadlines after a
// restart, and questions for votes.
func settings() tc.Config {
	return tc.Config{
		DrainTimeout: 5 * time.Second, Log: quiet(),
		Engine: engine.Config{Core: core.Config{
			RestartGrace: 20 * time.Millisecond, CollectGrace: 5 * time.Millisecond,
			RetryFirst: 20 * time.Millisecond, AnswerTimeout: 500 * time.Millisecond,
		}},
	}
}

// fewFaults are planted where not all are asked for.
const fewFaults = 3

// someOf gives the names of the faults to plant.
func someOf[F any](faults map[string]F) []string {
	names := slices.Sorted(maps.Keys(faults))
	if !*plantedFlag {
		newRand(1<<41).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:fewFaults]
	}
	return names
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// lasts is how long histories are made.
func lasts(short time.Duration) time.Duration {
	if *longFlag > 0 {
		return *longFlag
	}
	return short
}

// counts adds up what happened. It is safe for concurrent use.
type counts struct {
	mu sync.Mutex
	n  map[string]int64
}

func (c *counts) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int64)
	}
	c.n[what] += int64(n)
}

func (c *counts) get(what string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

func (c *counts) all() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// report writes what a test counted, where that is asked for.
func (c *counts) report(t *testing.T, name, command string, since time.Time, failures []string) {
	t.Helper()
	t.Logf("seed %d: %v", *seedFlag, c.all())
	if *reportFlag == "" {
		return
	}
	if err := figures.Write(*reportFlag, figures.Run{
		Name: name, Command: command, Commit: figures.Commit(t.Context()),
		Seconds: int(time.Since(since).Seconds()), Counts: c.all(), Failures: failures,
	}); err != nil {
		t.Error(err)
	}
}
