package rm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// Pool is a pgxpool.Pool that takes part in global transactions. It is safe for
// concurrent use. A process needs one for each database.
type Pool struct {
	executor // Exec, Query, QueryRow, SendBatch, CopyFrom, Begin, BeginTx

	cfg      config
	log      *slog.Logger
	client   *client.Client
	plain    *pgxpool.Pool
	owned    bool
	resource string // canonical UUID

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	agent  *agent
	detach func()
	xa     atomic.Pointer[undolog.XAInfo] // nil until the first XA branch

	mu       sync.Mutex
	closed   bool
	branches sync.WaitGroup
}

// Open connects to a database that has the handfast schema and offers to the
// coordinator to settle for it. It fails where the database does not answer, or
// lacks the schema. It does not wait for the coordinator.
func Open(ctx context.Context, c *client.Client, dsn string, opts ...Option) (*Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("handfast: the database's address: %w", err)
	}
	plain, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("handfast: %w", err)
	}
	p, err := New(ctx, c, plain, opts...)
	if err != nil {
		plain.Close()
		return nil, err
	}
	p.owned = true
	return p, nil
}

// New is Open for a pool that exists. Close leaves that pool open.
func New(ctx context.Context, c *client.Client, plain *pgxpool.Pool, opts ...Option) (*Pool, error) {
	if c == nil || plain == nil {
		return nil, errors.New("handfast: rm.New needs a client and a pool")
	}
	cfg := defaults()
	for _, o := range opts {
		if err := o(&cfg); err != nil {
			return nil, err
		}
	}
	name := cfg.name
	if name == "" {
		name = nameOf(plain.Config().ConnConfig)
	}
	if err := plain.Ping(ctx); err != nil {
		return nil, fmt.Errorf("handfast: database %s does not answer: %w", name, err)
	}
	info, err := undolog.Inspect(ctx, plain)
	if errors.Is(err, undolog.ErrNotInstalled) {
		return nil, fmt.Errorf("handfast: database %s is not prepared; run: handfast pg install --dsn DSN: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("handfast: database %s: %w", name, explainPooler(err))
	}
	witnesses, err := undolog.Witnesses(ctx, plain)
	if err != nil {
		return nil, fmt.Errorf("handfast: database %s: %w", name, explainPooler(err))
	}
	p := &Pool{cfg: cfg, log: cfg.log, client: c, plain: plain, resource: info.Resource.String()}
	p.executor = executor{p: p, plain: plain, acquire: p.acquire}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.agent = newAgent(p)
	p.detach, err = c.Attach(attached(p.resource, name, witnesses), p.agent)
	if err != nil {
		p.cancel()
		return nil, err
	}
	p.agent.start()
	if cfg.mode == XA {
		if _, err := p.inspectXA(ctx); err != nil {
			p.Close()
			return nil, fmt.Errorf("handfast: database %s: %w", name, explainPooler(err))
		}
	}
	return p, nil
}

func attached(resource, name string, ws []undolog.Witness) *pb.AttachedResource {
	r := &pb.AttachedResource{ResourceId: resource, Name: name}
	for _, w := range ws {
		r.Witnesses = append(r.Witnesses, &pb.Witness{
			StoreId: w.Store.String(), Incarnation: w.Incarnation, Position: w.Position,
		})
	}
	return r
}

func nameOf(c *pgx.ConnConfig) string {
	s := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
	return s[:min(len(s), 256)]
}

// Resource is the identity of the database, the UUID in its handfast schema.
func (p *Pool) Resource() xid.ResourceID {
	r, _ := xid.ParseResourceID(p.resource) // it was one before it was text
	return r
}

// Plain is the pool underneath. What is done with it is never part of a global
// transaction, whatever the context says.
func (p *Pool) Plain() *pgxpool.Pool { return p.plain }

// Ping checks that the database answers.
func (p *Pool) Ping(ctx context.Context) error { return p.plain.Ping(ctx) }

// Stat describes the pool underneath, without the settling connections.
func (p *Pool) Stat() *pgxpool.Stat { return p.plain.Stat() }

// Config is a copy of the configuration of the pool underneath.
func (p *Pool) Config() *pgxpool.Config { return p.plain.Config() }

// Reset closes the connections of the pool underneath, those in use when they
// come back.
func (p *Pool) Reset() { p.plain.Reset() }

// Close waits for votes on their way, stops settling, and closes the pool
// underneath if Open made it. It waits at most 5 s for transactions that are
// still open, and again for connections that are still in use; those are then
// left behind, and their transactions roll back when their connections end.
// Closing again does nothing.
func (p *Pool) Close() {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	p.mu.Unlock()
	if again {
		return
	}
	if !p.within(p.branches.Wait) {
		p.log.Warn("pool is closed while transactions are open or votes undelivered", "resource", p.resource)
	}
	p.detach()
	p.cancel()
	p.branches.Wait()
	p.agent.wait()
	if p.owned && !p.within(p.plain.Close) {
		p.log.Warn("pool is closed while connections are in use", "resource", p.resource)
	}
}

// within runs f and tells whether it ended in time.
func (p *Pool) within(f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	t := time.NewTimer(p.cfg.closeTimeout)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// acquire takes a connection from the pool underneath.
func (p *Pool) acquire(ctx context.Context) (*pgx.Conn, func(), error) {
	c, err := p.plain.Acquire(ctx)
	if err != nil {
		return nil, nil, err
	}
	return c.Conn(), c.Release, nil
}
