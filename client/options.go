package client

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// DefaultPort is where a coordinator listens unless told otherwise.
const DefaultPort = "4263"

type config struct {
	name           string
	log            *slog.Logger
	creds          credentials.TransportCredentials
	dial           []grpc.DialOption
	maxInFlight    int
	attachError    func(resourceID string, err error)
	handshake      time.Duration
	drain          time.Duration
	backoffFirst   time.Duration
	backoffMax     time.Duration
	settledAfter   time.Duration
	maxFrames      int
	maxBytes       int
	maxFrameBytes  int
	maxResults     int
	maxResultBytes int
	maxCommands    int
}

func defaults() config {
	return config{
		log:            slog.Default(),
		creds:          insecure.NewCredentials(),
		maxInFlight:    4096,
		handshake:      10 * time.Second,
		drain:          5 * time.Second,
		backoffFirst:   50 * time.Millisecond,
		backoffMax:     3 * time.Second,
		settledAfter:   time.Second,
		maxFrames:      256,
		maxBytes:       256 << 10,
		maxFrameBytes:  2 << 20,
		maxResults:     4096,
		maxResultBytes: 16 << 20,
		maxCommands:    256,
	}
}

// Option changes how Dial connects.
type Option func(*config) error

// WithName names this process in the coordinator's logs and lists, such as
// "stock/7f3a". Empty by default, at most 256 bytes.
func WithName(name string) Option {
	return func(c *config) error {
		if len(name) > 256 {
			return fmt.Errorf("handfast: client name is %d bytes long, want at most 256", len(name))
		}
		if strings.ToValidUTF8(name, "") != name {
			return fmt.Errorf("handfast: client name %.40q is not valid UTF-8", name)
		}
		c.name = name
		return nil
	}
}

// WithLogger sets where the client logs lost and regained sessions. The
// default is slog.Default.
func WithLogger(log *slog.Logger) Option {
	return func(c *config) error {
		if log == nil {
			return fmt.Errorf("handfast: WithLogger: the logger is nil")
		}
		c.log = log
		return nil
	}
}

// WithTransportCredentials sets how the connection is secured. The default is
// not at all.
func WithTransportCredentials(creds credentials.TransportCredentials) Option {
	return func(c *config) error {
		if creds == nil {
			return fmt.Errorf("handfast: WithTransportCredentials: the credentials are nil")
		}
		c.creds = creds
		return nil
	}
}

// WithDialOptions adds gRPC options behind the client's own, so they win.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(c *config) error {
		c.dial = append(c.dial, opts...)
		return nil
	}
}

// WithMaxInFlight bounds the requests that wait for an answer at the same
// time; more of them wait for a place, with their contexts. The default is 4096.
func WithMaxInFlight(n int) Option {
	return func(c *config) error {
		if n < 1 {
			return fmt.Errorf("handfast: WithMaxInFlight: %d, want at least 1", n)
		}
		c.maxInFlight = n
		return nil
	}
}

// WithAttachError sets a function that is told each time the coordinator
// refuses to attach a resource, and nil when it accepts after a refusal. The
// client goes on trying. It is called from the client's goroutines and must
// not block. The client logs the refusal only where this is not set.
func WithAttachError(f func(resourceID string, err error)) Option {
	return func(c *config) error {
		if f == nil {
			return fmt.Errorf("handfast: WithAttachError: the function is nil")
		}
		c.attachError = f
		return nil
	}
}

// withPort adds the default port where the target is a bare host.
func withPort(target string) (string, error) {
	if target == "" {
		return "", fmt.Errorf("handfast: the coordinator's address is empty, want host:port")
	}
	if strings.Contains(target, "/") || strings.HasPrefix(target, "unix:") {
		return target, nil
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		bare := target
		if strings.HasPrefix(bare, "[") && strings.HasSuffix(bare, "]") {
			bare = bare[1 : len(bare)-1]
		}
		host, port, err = net.SplitHostPort(net.JoinHostPort(bare, DefaultPort))
		if err != nil || (strings.ContainsAny(bare, ":[]") && net.ParseIP(bare) == nil) {
			return "", fmt.Errorf("handfast: the coordinator's address %q is not host:port", target)
		}
	}
	if port == "" {
		port = DefaultPort
	}
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}
