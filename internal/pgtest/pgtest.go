package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
)

// Environment is the variable that names a server to use instead of an own one.
const Environment = "HANDFAST_TEST_DSN"

// Cluster is the server of one test process. Make one in TestMain.
type Cluster struct {
	opts pgserver.Options

	once   sync.Once
	err    error
	server *pgserver.Server // nil: somebody else's
	admin  string

	mu sync.Mutex
	n  int
}

// New describes a cluster that starts when the first database is asked for.
func New(opts pgserver.Options) *Cluster { return &Cluster{opts: opts} }

// Run runs the tests and stops the server. Its result is for os.Exit.
func (c *Cluster) Run(m *testing.M) int {
	code := m.Run()
	if c.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.server.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			return 1
		}
	}
	return code
}

func (c *Cluster) start() {
	if c.admin = os.Getenv(Environment); c.admin != "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if c.server, c.err = pgserver.Start(ctx, c.opts); c.err == nil {
		c.admin = c.server.DSN("postgres")
	}
}

// Server is the private server, started now if need be. It fails the test
// where another server is used.
func (c *Cluster) Server(tb testing.TB) *pgserver.Server {
	tb.Helper()
	c.once.Do(c.start)
	if c.err != nil {
		tb.Fatalf("postgres: %v", c.err)
	}
	if c.server == nil {
		tb.Fatalf("this test needs a server of its own; unset %s", Environment)
	}
	return c.server
}

// DSN makes an empty database and drops it when the test ends.
func (c *Cluster) DSN(tb testing.TB) string {
	tb.Helper()
	c.once.Do(c.start)
	if c.err != nil {
		tb.Fatalf("postgres: %v", c.err)
	}
	c.mu.Lock()
	c.n++
	name := fmt.Sprintf("hf_%d_%d", os.Getpid(), c.n)
	c.mu.Unlock()
	c.admins(tb, "CREATE DATABASE "+name)
	tb.Cleanup(func() { c.admins(tb, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	return withDatabase(tb, c.admin, name)
}

func (c *Cluster) admins(tb testing.TB, sql string) {
	tb.Helper()
	// Also called when the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.admin)
	if err != nil {
		tb.Errorf("pgtest: %v", err)
		return
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to do
	if _, err := conn.Exec(ctx, sql); err != nil {
		tb.Errorf("pgtest: %s: %v", sql, err)
	}
}

func withDatabase(tb testing.TB, dsn, name string) string {
	tb.Helper()
	if !strings.Contains(dsn, "://") {
		return dsn + " dbname=" + name
	}
	u, err := url.Parse(dsn)
	if err != nil {
		tb.Fatalf("%s: %v", Environment, err)
	}
	u.Path = "/" + name
	return u.String()
}
