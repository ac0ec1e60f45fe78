package tc

import (
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/handfast/handfast/tc/api"
	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/tc/store"
)

// DefaultListen is where a coordinator listens unless told otherwise.
const DefaultListen = ":4263"

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

	// DTM serves the clients of DTM as well; nil: they are not served. Its Log is
	// set by the server.
	DTM *dtm.Config

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
	c.Engine.Log, c.API.Log = c.Log, c.Log
	return c
}
