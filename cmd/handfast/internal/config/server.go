package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
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
	Reflection     bool          // serve gRPC reflection
	TLSCert        string        // PEM file; empty: no TLS
	TLSKey         string        // PEM file that belongs to TLSCert
	TLSCA          string        // PEM file of the authorities that clients' certificates must come from; empty: none asked for
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
		{"tls-cert", "PEM `file` of the server's certificate; empty: no TLS", stringValue{&s.TLSCert, nil}},
		{"tls-key", "PEM `file` of the key of --tls-cert", stringValue{&s.TLSKey, nil}},
		{"tls-ca", "PEM `file` of authorities; clients must show a certificate of one", stringValue{&s.TLSCA, nil}},
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
