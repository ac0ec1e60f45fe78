package tc

import (
	"log/slog"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/handfast/handfast/tc/api"
	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
)

// DefaultListen is where a coordinator listens unless told otherwise.
const DefaultListen = ":4263"

// CrashPointEnv is the environment variable that makes a coordinator kill
// itself at a point: engine.BeforeDecision or engine.AfterDecision. It is there
// for demonstrations and tests of crashes.
const CrashPointEnv = "HANDFAST_CRASH_POINT"

// Config of a Server. Only StoreDir has to be set.
type Config struct {
	// Listen is host:port; empty: DefaultListen.
	Listen string
	// Listener is used instead of Listen, if set. The server closes it.
	Listener net.Listener
	// StoreDir is the directory of the store; made if missing.
	StoreDir string
	// Store is used instead of StoreDir, if set. The server closes it.
	Store store.Store

	// Engine and API hold what is seldom changed. Their Log, and
	// Engine.Fatal, are set by the server.
	Engine engine.Config
	API    api.Config
	// Calls is about outgoing calls to URLs and gRPC methods.
	Calls caller.Config

	// DrainTimeout bounds a shutdown; 0: 30 s.
	DrainTimeout time.Duration
	// NoReflection switches gRPC reflection off.
	NoReflection bool
	// Credentials secure the connections; nil: plain text.
	Credentials credentials.TransportCredentials
	// Log; nil: slog.Default.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Engine.CrashPoint == nil {
		if want := os.Getenv(CrashPointEnv); want != "" {
			c.Engine.CrashPoint = killAt(want, c.Log)
		}
	}
	c.Engine.Log, c.API.Log = c.Log, c.Log
	return c
}

// killAt ends the process without any goodbye when the point is reached.
func killAt(want string, log *slog.Logger) func(string) {
	log.Warn("this coordinator will kill itself", "at", want, "because_of", CrashPointEnv)
	return func(point string) {
		if point != want {
			return
		}
		if p, err := os.FindProcess(os.Getpid()); err == nil {
			_ = p.Kill() // SIGKILL where there are signals
		}
		select {} // the decision must not get any further meanwhile
	}
}
