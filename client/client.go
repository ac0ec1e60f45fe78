package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// Client is a connection to a coordinator. It is safe for concurrent use. A
// process needs one.
type Client struct {
	config
	target string
	cc     *grpc.ClientConn
	api    pb.CoordinatorClient

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	slots  chan struct{} // one token per request in flight
	wake   chan struct{} // there may be something to write

	mu          sync.Mutex
	closing     bool // no calls are taken and nothing is attached any more
	closed      bool
	nextID      uint64
	calls       map[uint64]*call // every request without an answer
	queue       []*call          // those of them not yet written to this session
	dead        int              // entries of queue that were given up
	results     []result         // answers to commands, not yet written
	resultBytes int
	flushed     chan struct{} // closed when nothing is left to write; nil: nobody waits
	running     map[callKey]*running
	session     *session      // nil while there is none
	epoch       uint64        // counts sessions
	changed     chan struct{} // closed and replaced when session changes
	connErr     error         // why there is no session
	witness     *pb.Witness   // the highest seen
	attached    map[string][]*attachment
	turn        uint64 // rotates among attachments of one resource
}

// Dial makes a client for the coordinator at target, a host with or without
// port or any target of gRPC. It does not wait for the network: the first
// requests do. It fails only for a target or an option that is wrong.
func Dial(target string, opts ...Option) (*Client, error) {
	cfg := defaults()
	for _, o := range opts {
		if err := o(&cfg); err != nil {
			return nil, err
		}
	}
	addr, err := withPort(target)
	if err != nil {
		return nil, err
	}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(cfg.creds),
		// A peer that vanished without a word is noticed within 15 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: cfg.backoffFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: cfg.backoffMax},
			MinConnectTimeout: 5 * time.Second,
		}),
		// The session is long-lived; an idle timeout would only delay what comes next.
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		// A call brings results of other branches; more than this no coordinator sends.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}, cfg.dial...)
	cc, err := grpc.NewClient(addr, dial...)
	if err != nil {
		return nil, fmt.Errorf("handfast: the coordinator's address %q: %w", target, err)
	}
	c := &Client{
		config:   cfg,
		target:   addr,
		cc:       cc,
		api:      pb.NewCoordinatorClient(cc),
		slots:    make(chan struct{}, cfg.maxInFlight),
		wake:     make(chan struct{}, 1),
		calls:    make(map[uint64]*call),
		changed:  make(chan struct{}),
		attached: make(map[string][]*attachment),
		running:  make(map[callKey]*running),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.wg.Go(c.run)
	return c, nil
}

// Close takes no more calls and lets those under way finish, as a detach does.
// Then it ends the session and fails what is in flight with ErrClosed. It
// returns when every goroutine of the client has ended, handlers included, but
// for calls that do not heed the end of their context. Closing again does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		c.wg.Wait()
		return nil
	}
	c.closing = true
	c.mu.Unlock()
	c.drainCalls()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel(ErrClosed)
	c.wg.Wait()
	return c.cc.Close()
}

// Store tells which store the coordinator of the present session serves, and
// in which incarnation. Without a session it waits for one until ctx ends.
func (c *Client) Store(ctx context.Context) (xid.StoreID, uint32, error) {
	for {
		c.mu.Lock()
		s, changed, conn := c.session, c.changed, c.connErr
		c.mu.Unlock()
		if s != nil {
			return s.store, s.incarnation, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return xid.StoreID{}, 0, &InterruptedError{Op: "Store", Err: context.Cause(ctx), Conn: conn}
		case <-c.ctx.Done():
			return xid.StoreID{}, 0, &InterruptedError{Op: "Store", Err: ErrClosed}
		}
	}
}

// observe keeps the highest witness of the store that answers at present.
func (c *Client) observe(w *pb.Witness) {
	if w == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.witness
	if old != nil && old.GetStoreId() == w.GetStoreId() {
		if w.GetIncarnation() < old.GetIncarnation() ||
			(w.GetIncarnation() == old.GetIncarnation() && w.GetPosition() <= old.GetPosition()) {
			return
		}
	}
	c.witness = w
}

// poke wakes the writer.
func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
