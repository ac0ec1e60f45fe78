package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/handfast/handfast/tc/dtm"
)

// Server is how the coordinator runs.
type Server struct {
	Listen         string        // host:port of the gRPC listener
	StoreDir       string        // directory of the store
	Shards         int           // loops that share the transactions; 0: one per CPU
	Retention      time.Duration // how long the outcome of a finished transaction is kept
	DefaultTimeout time.Duration // of a transaction that names none
	DrainTimeout   time.Duration // how long calls in flight may take to finish at shutdown
	LogFormat      string        // "text" or "json"
	LogLevel       string        // "debug", "info", "warn" or "error"
	PayloadMemory  int64         // bytes that open transactions may hold; 0: see engine.Config.Core
	Reflection     bool          // serve gRPC reflection
	TLSCert        string        // PEM file; empty: no TLS
	TLSKey         string        // PEM file that belongs to TLSCert
	TLSCA          string        // PEM file of the authorities that clients' certificates must come from; empty: none asked for
	Calls          Calls
	DTM            DTM
}

// DTM is about serving the clients of DTM, who can't authenticate.
type DTM struct {
	Serve bool
	HTTP  string // host:port of HTTP and JSON-RPC
	GRPC  string // host:port of gRPC
}

// Calls is about what the coordinator itself calls.
type Calls struct {
	Allow       string        // patterns, separated by commas; empty: everything
	Deny        string        // patterns that win over Allow
	LinkLocal   bool          // call link-local addresses and those that tell secrets in a cloud
	TLSCA       string        // PEM file of authorities; empty: those of the system
	TLSCert     string        // PEM file to show to whoever is called
	TLSKey      string        // PEM file that belongs to TLSCert
	Max         int           // under way at a time
	MaxPerHost  int           // of those to one host and port
	MaxWaiting  int           // that wait for one host and port
	DialTimeout time.Duration // to resolve a name and connect
}

// Defaults are the settings of "handfast server" when nothing is set.
func Defaults() Server {
	return Server{
		Listen:         ":4263",
		StoreDir:       "handfast-data",
		Retention:      7 * day,
		DefaultTimeout: time.Minute,
		DrainTimeout:   30 * time.Second,
		LogFormat:      "text",
		LogLevel:       "info",
		Reflection:     true,
		Calls:          Calls{Max: 4096, MaxPerHost: 64, MaxWaiting: 1024, DialTimeout: 5 * time.Second},
		DTM:            DTM{HTTP: dtm.DefaultHTTP, GRPC: dtm.DefaultGRPC},
	}
}

type setting struct {
	name  string
	usage string
	value pflag.Value
}

// settings binds every setting to its field of s. What the limits are for:
// the coordinator itself refuses a transaction longer than 12 h, and outcomes
// kept for less than a minute would be gone before a client can ask again.
func settings(s *Server) []setting {
	return []setting{
		{"listen", "`host:port` to serve gRPC on", stringValue{&s.Listen, checkAddress}},
		{"store-dir", "`directory` of the store; made if missing", stringValue{&s.StoreDir, checkNotEmpty}},
		{"shards", "loops that share the transactions; 0: one per CPU", intValue{&s.Shards, 0, 1024}},
		{"retention", "how long outcomes are kept after a transaction finished", durationValue{&s.Retention, time.Minute, 3650 * day}},
		{"default-timeout", "timeout of a transaction that names none", durationValue{&s.DefaultTimeout, time.Millisecond, 12 * time.Hour}},
		{"drain-timeout", "how long calls in flight may take to finish at shutdown", durationValue{&s.DrainTimeout, time.Millisecond, time.Hour}},
		{"log-format", "how the log is written", choiceValue{&s.LogFormat, []string{"text", "json"}}},
		{"log-level", "the lowest level that is logged", choiceValue{&s.LogLevel, []string{"debug", "info", "warn", "error"}}},
		{"reflection", "serve gRPC reflection", boolValue{&s.Reflection}},
		{"payload-memory", "`bytes` of payloads and results that open transactions may hold, such as 2GiB; 0: a quarter of GOMEMLIMIT, or 1GiB", sizeValue{&s.PayloadMemory, 16 << 20, 1 << 44}},
		{"tls-cert", "PEM `file` of the server's certificate; empty: no TLS", stringValue{&s.TLSCert, nil}},
		{"tls-key", "PEM `file` of the key of --tls-cert", stringValue{&s.TLSKey, nil}},
		{"tls-ca", "PEM `file` of authorities; clients must show a certificate of one", stringValue{&s.TLSCA, nil}},
		{"call-allow", "`hosts` (shop.example, *.shop.example) and networks (10.0.0.0/8) that may be called, separated by commas; empty: all", listValue{&s.Calls.Allow, checkPatterns}},
		{"call-deny", "`hosts` and networks that may not be called, even if --call-allow names them", listValue{&s.Calls.Deny, checkPatterns}},
		{"call-link-local", "call link-local addresses and metadata services of clouds, too", boolValue{&s.Calls.LinkLocal}},
		{"call-tls-ca", "PEM `file` of the authorities of services that are called; empty: those of the system", stringValue{&s.Calls.TLSCA, nil}},
		{"call-tls-cert", "PEM `file` of the certificate to show to services that are called", stringValue{&s.Calls.TLSCert, nil}},
		{"call-tls-key", "PEM `file` of the key of --call-tls-cert", stringValue{&s.Calls.TLSKey, nil}},
		{"call-max", "calls under way at a time", intValue{&s.Calls.Max, 1, 1 << 16}},
		{"call-max-per-host", "calls under way to one host and port", intValue{&s.Calls.MaxPerHost, 1, 1 << 16}},
		{"call-max-waiting", "calls that wait until others to the same host and port end", intValue{&s.Calls.MaxWaiting, 1, 1 << 16}},
		{"dtm", "serve the clients of DTM, too; see docs/from-dtm.md", boolValue{&s.DTM.Serve}},
		{"dtm-http", "`host:port` for DTM's clients over HTTP and JSON-RPC; they can't authenticate", stringValue{&s.DTM.HTTP, checkAddress}},
		{"dtm-grpc", "`host:port` for DTM's clients over gRPC; they can't authenticate", stringValue{&s.DTM.GRPC, checkAddress}},
		{"call-dial-timeout", "how long it may take to resolve a name and connect", durationValue{&s.Calls.DialTimeout, time.Millisecond, 10 * time.Minute}},
	}
}

// check looks at settings that depend on each other.
func (s *Server) check() error {
	switch {
	case s.TLSCert != "" && s.TLSKey == "":
		return errors.New("tls-cert is set but tls-key is not: set both or none")
	case s.TLSKey != "" && s.TLSCert == "":
		return errors.New("tls-key is set but tls-cert is not: set both or none")
	case s.TLSCA != "" && s.TLSCert == "":
		return errors.New("tls-ca is set but tls-cert is not: clients can only show a certificate over TLS")
	case s.Calls.TLSCert != "" && s.Calls.TLSKey == "":
		return errors.New("call-tls-cert is set but call-tls-key is not: set both or none")
	case s.Calls.TLSKey != "" && s.Calls.TLSCert == "":
		return errors.New("call-tls-key is set but call-tls-cert is not: set both or none")
	}
	return nil
}

// Error is a setting that cannot be used.
type Error struct {
	Setting string // its name, such as "store-dir"
	Source  string // where the value stood, such as "HANDFAST_STORE_DIR"
	Err     error
}

// Error names the place before the problem.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Source, e.Err) }

// Unwrap gives the problem alone.
func (e *Error) Unwrap() error { return e.Err }
