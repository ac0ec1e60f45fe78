package pgtest

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strconv"
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

	mu   sync.Mutex
	n    int
	free []string // databases that are as they were made
}

// New describes a cluster that starts when the first database is asked for. It is a
// scratch one, unless it is durable.
func New(opts pgserver.Options) *Cluster {
	opts.Scratch = opts.Scratch || !opts.Durable
	return &Cluster{opts: opts}
}

// sideBySide bounds how many tests have connections at the same time: some have ten, and
// the server takes two hundred.
const sideBySide = 16

// Run runs the tests and stops the server. Its result is for os.Exit. Tests of databases
// wait a lot, so twice as many run side by side as usual, unless -parallel says otherwise.
func (c *Cluster) Run(m *testing.M) int {
	flag.Parse()
	if n := runtime.GOMAXPROCS(0); flag.Lookup("test.parallel").Value.String() == strconv.Itoa(n) {
		if err := flag.Set("test.parallel", strconv.Itoa(min(2*n, sideBySide))); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
		}
	}
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

// DSN gives an empty database, which goes when the test ends: it is emptied for
// the next test, which is a lot less work than making one, or else dropped.
func (c *Cluster) DSN(tb testing.TB) string {
	tb.Helper()
	c.once.Do(c.start)
	if c.err != nil {
		tb.Fatalf("postgres: %v", c.err)
	}
	name := c.take()
	if name == "" {
		c.mu.Lock()
		c.n++
		name = fmt.Sprintf("hf_%d_%d", os.Getpid(), c.n)
		c.mu.Unlock()
		c.admins(tb, "CREATE DATABASE "+name)
	}
	dsn := withDatabase(tb, c.admin, name)
	tb.Cleanup(func() {
		if c.server == nil || !empty(dsn) {
			c.admins(tb, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
			return
		}
		c.mu.Lock()
		c.free = append(c.free, name)
		c.mu.Unlock()
	})
	return dsn
}

func (c *Cluster) take() (name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.free); n > 0 {
		name, c.free = c.free[n-1], c.free[:n-1]
	}
	return name
}

// empty makes a database as it was when it was made, and tells whether it is:
// nobody else is connected, and nothing of a test is left in it.
func empty(dsn string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return false
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to do
	if _, err := conn.Exec(ctx, wipe); err != nil {
		return false
	}
	var clean bool
	err = conn.QueryRow(ctx, isClean).Scan(&clean)
	return err == nil && clean
}

const wipe = `SET lock_timeout = '1s'; SET client_min_messages = error; SET session_replication_role = replica; DO $$ DECLARE r record; BEGIN
	IF EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()) THEN RAISE 'in use'; END IF;
	FOR r IN SELECT evtname FROM pg_event_trigger LOOP EXECUTE format('DROP EVENT TRIGGER %I', r.evtname); END LOOP;
	FOR r IN SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' LOOP EXECUTE format('DROP EXTENSION %I CASCADE', r.extname); END LOOP;
	FOR r IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', r.nspname); END LOOP;
	CREATE SCHEMA public; ALTER SCHEMA public OWNER TO pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC;
END $$`

// isClean looks at every catalogue in which users' objects can be.
const isClean = `SELECT NOT EXISTS (SELECT FROM pg_class WHERE oid >= 16384)
	AND NOT EXISTS (SELECT FROM pg_proc WHERE oid >= 16384) AND NOT EXISTS (SELECT FROM pg_type WHERE oid >= 16384)
	AND NOT EXISTS (SELECT FROM pg_cast WHERE oid >= 16384) AND NOT EXISTS (SELECT FROM pg_operator WHERE oid >= 16384)
	AND NOT EXISTS (SELECT FROM pg_event_trigger) AND NOT EXISTS (SELECT FROM pg_publication) AND NOT EXISTS (SELECT FROM pg_foreign_data_wrapper)
	AND NOT EXISTS (SELECT FROM pg_collation WHERE oid >= 16384) AND NOT EXISTS (SELECT FROM pg_largeobject_metadata) AND NOT EXISTS (SELECT FROM pg_default_acl)
	AND NOT EXISTS (SELECT FROM pg_opclass WHERE oid >= 16384) AND NOT EXISTS (SELECT FROM pg_language WHERE oid >= 16384)
	AND NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database())
	AND NOT EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database())
	AND NOT EXISTS (SELECT FROM pg_subscription)`

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
