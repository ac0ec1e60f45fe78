package caller

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/handfast/handfast/internal/address"
)

// grpcCalls makes the calls over gRPC, and owns the connections.
//
//	get ──► in use ── put ──► idle ──► closed: too old, too many, broken, or all is over
//	           ▲                │
//	           └────── get ─────┘
type grpcCalls struct {
	dial        *dialer
	dialTimeout time.Duration
	idleTimeout time.Duration
	maxIdle     int
	tls         *tls.Config

	mu     sync.Mutex
	conns  map[connKey]*grpcConn // what get gives
	idle   list.List             // of *grpcConn that nobody uses, the longest idle first
	sweep  *time.Timer           // nil where none is idle
	closed bool
}

type connKey struct {
	host string
	tls  bool
}

// grpcConn is a connection that all calls to a target share.
type grpcConn struct {
	key     connKey
	cc      *grpc.ClientConn
	answers atomic.Uint64 // that came, good or bad
	refused atomic.Bool   // the last dial was not allowed

	// Guarded by grpcCalls.mu.
	users int
	since time.Time     // idle since
	place *list.Element // in idle
}

func newGRPCCalls(cfg Config, d *dialer) *grpcCalls {
	return &grpcCalls{
		dial: d, dialTimeout: cfg.DialTimeout, idleTimeout: cfg.IdleTimeout, maxIdle: cfg.MaxIdle,
		tls: tlsConfig(cfg.TLS), conns: make(map[connKey]*grpcConn),
	}
}

// get gives the connection to a target, which may not be connected yet. Give it back
// with put.
func (g *grpcCalls) get(to address.Address) (*grpcConn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := connKey{to.Host, to.TLS}
	if c := g.conns[key]; c != nil {
		if c.place != nil {
			g.idle.Remove(c.place)
			c.place = nil
		}
		c.users++
		return c, nil
	}
	if g.closed {
		return nil, errors.New(closing)
	}
	c := &grpcConn{key: key, users: 1}
	creds := insecure.NewCredentials()
	if to.TLS {
		creds = credentials.NewTLS(g.tls)
	}
	// The dialer resolves the name, so that it sees what is connected to.
	cc, err := grpc.NewClient("passthrough:///"+strings.ReplaceAll(to.Host, "%", "%25"), append(g.options(),
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: g.dialTimeout,
		}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := g.dial.dial(ctx, "tcp", address)
			c.refused.Store(errors.Is(err, errNotAllowed))
			return conn, err
		}),
	)...)
	if err != nil {
		return nil, err
	}
	c.cc = cc
	g.conns[key] = c
	return c, nil
}

// put gives a connection back. A doubtful one serves no further calls; a broken one goes
// with its last user, for the next should try anew and not wait for a pause to end.
func (g *grpcCalls) put(c *grpcConn, doubtful bool) {
	g.mu.Lock()
	var out []*grpcConn
	c.users--
	if g.conns[c.key] == c && (doubtful || c.users == 0 && c.cc.GetState() != connectivity.Ready) {
		delete(g.conns, c.key)
	}
	switch {
	case c.users > 0:
	case g.conns[c.key] != c || g.closed:
		out = append(out, c)
	default:
		c.since = time.Now()
		c.place = g.idle.PushBack(c)
		if g.idle.Len() > g.maxIdle {
			out = append(out, g.drop(g.idle.Front()))
		}
		if g.sweep == nil {
			g.sweep = time.AfterFunc(g.idleTimeout, g.closeIdle)
		}
	}
	g.mu.Unlock()
	closeAll(out)
}

// drop forgets an idle connection.
func (g *grpcCalls) drop(e *list.Element) *grpcConn {
	c := g.idle.Remove(e).(*grpcConn)
	c.place = nil
	delete(g.conns, c.key)
	return c
}

// closeIdle closes what was idle for too long.
func (g *grpcCalls) closeIdle() {
	g.mu.Lock()
	var out []*grpcConn
	now := time.Now()
	g.sweep = nil
	for e := g.idle.Front(); e != nil; e = g.idle.Front() {
		c := e.Value.(*grpcConn)
		if left := g.idleTimeout - now.Sub(c.since); left > 0 && !g.closed {
			g.sweep = time.AfterFunc(left, g.closeIdle)
			break
		}
		out = append(out, g.drop(e))
	}
	g.mu.Unlock()
	closeAll(out)
}

// close closes every connection. No call is under way any more.
func (g *grpcCalls) close() {
	g.mu.Lock()
	g.closed = true
	if g.sweep != nil {
		g.sweep.Stop()
	}
	g.mu.Unlock()
	g.closeIdle()
}

func closeAll(conns []*grpcConn) {
	for _, c := range conns {
		_ = c.cc.Close() // it can only say that it is closed already
	}
}
