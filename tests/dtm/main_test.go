package dtm

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/logger"
	_ "github.com/lib/pq" // the driver "postgres", which XA of this client needs

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/tests/dtm/server"
)

var (
	long = flag.Bool("long", false, "the whole endurance test, not a tenth of it")
	// Where the endurance test writes what it counted; see package figures.
	reportDir = flag.String("dtm.report", "", "write the figures of the endurance test into this directory")
	cluster   = pgtest.New(pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "100", "max_connections": "300"}})
)

func TestMain(m *testing.M) {
	logger.InitLog("fatal") // the client's: it logs each call
	dtmcli.SetCurrentDBType(dtmcli.DBTypePostgres)
	if text := os.Getenv(asWorker); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	// Most tests wait for the next attempt of the coordinator's most of the time.
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(server.Run(run(func() int { return cluster.Run(m) })))
}

// betterThanDTM skips a test of what DTM's own server gets wrong where that one is
// tested.
func betterThanDTM(t *testing.T, why string) {
	t.Helper()
	if server.Reference() {
		t.Skip("DTM: " + why)
	}
}

// run is a testing.M with something around it.
type run func() int

func (f run) Run() int { return f() }
