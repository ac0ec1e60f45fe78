package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/cmd/handfast/internal/demo/shopv1"
	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/undolog"
)

// databases are the services' databases, and the services' names.
var databases = []string{"orders", "stock", "accounts"}

// tables are those of each service. The one with its name is protected. Reservations
// are written by TCC alone, never in AT mode, so they need no protection.
var tables = map[string]string{
	"orders": `CREATE TABLE orders (id int PRIMARY KEY, item text NOT NULL, count int NOT NULL, account text NOT NULL,
		amount int NOT NULL CONSTRAINT too_much CHECK (amount <= 10000))`,
	"stock":    "CREATE TABLE stock (item text PRIMARY KEY, count int NOT NULL);" + reservations,
	"accounts": "CREATE TABLE accounts (name text PRIMARY KEY, balance int NOT NULL);" + reservations,
}

const reservations = "CREATE TABLE reserved (name text PRIMARY KEY, count int NOT NULL)"

// noSlots is why scenarios with XA are skipped.
const noSlots = "the server has max_prepared_transactions = 0; set it to at least max_connections in postgresql.conf and restart the server"

// cluster is everything that runs.
type cluster struct {
	pg       *pgserver.Server // nil: somebody else's server
	admin    string           // DSN to create databases with
	suffix   string
	dsn      map[string]string    // by service
	db       map[string]*pgx.Conn // plain sessions, as psql would be
	storeDir string
	tc       *node
	services map[string]*node
	conns    map[string]*grpc.ClientConn // of the coordinator, too
	orders   shopv1.OrdersClient
	client   *client.Client
	tm       *tm.Manager // to ask for outcomes
	slots    int         // places for prepared transactions
}

// start starts everything; on an error nothing is left.
func start(ctx context.Context, dsn string) (c *cluster, err error) {
	c = &cluster{
		admin: dsn, suffix: fmt.Sprintf("_%d", os.Getpid()), dsn: map[string]string{}, db: map[string]*pgx.Conn{},
		services: map[string]*node{}, conns: map[string]*grpc.ClientConn{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	if dsn == "" {
		if c.pg, err = pgserver.Start(ctx, pgserver.Options{
			Durable: true, Settings: map[string]string{"max_prepared_transactions": "20"}, // the default is 0
		}); err != nil {
			return c, err
		}
		c.admin, c.suffix = c.pg.DSN("postgres"), ""
	}
	for _, name := range databases {
		if err := c.createDatabase(ctx, name); err != nil {
			return c, fmt.Errorf("database %s: %w", name, err)
		}
	}
	if err := c.db["orders"].QueryRow(ctx, "SELECT current_setting('max_prepared_transactions')::int").Scan(&c.slots); err != nil {
		return c, err
	}
	child.Sweep(os.TempDir(), dirPrefix)
	if c.storeDir, err = child.MakeDir("", dirPrefix); err != nil {
		return c, err
	}
	return c, c.startNodes(ctx)
}

func (c *cluster) startNodes(ctx context.Context) (err error) {
	addr := map[string]string{}
	for _, name := range append([]string{"coordinator"}, databases...) {
		if addr[name], err = freeAddress(ctx); err != nil {
			return err
		}
	}
	c.tc = &node{name: "coordinator", addr: addr["coordinator"], args: []string{
		"server", "--listen", addr["coordinator"], "--store-dir", c.storeDir, "--log-level", "info"}}
	if err := c.tc.start(ctx); err != nil {
		return err
	}
	for _, name := range databases {
		n := &node{name: name, addr: addr[name], args: []string{
			serviceCommand, "--name", name, "--dsn", c.dsn[name], "--listen", addr[name], "--server", c.tc.addr,
			"--stock", addr["stock"], "--accounts", addr["accounts"]}}
		c.services[name] = n
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return c.connect()
}

// connect gives the demo what it asks the processes with. It outlives their deaths.
func (c *cluster) connect() (err error) {
	for _, n := range c.nodes() {
		if c.conns[n.name], err = dial(n.addr); err != nil {
			return err
		}
	}
	c.orders = shopv1.NewOrdersClient(c.conns["orders"])
	if c.client, err = client.Dial(c.tc.addr, client.WithName("demo"), client.WithLogger(slog.New(slog.DiscardHandler))); err != nil {
		return err
	}
	c.tm = tm.New(c.client)
	return nil
}

func (c *cluster) createDatabase(ctx context.Context, service string) error {
	name := "handfast_demo_" + service + c.suffix
	u, err := url.Parse(c.admin)
	if err != nil {
		return err
	}
	if err := adminExec(ctx, c.admin, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return err
	}
	u.Path = "/" + name
	c.dsn[service] = u.String() // from here on stop drops it
	conn, err := pgx.Connect(ctx, c.dsn[service])
	if err != nil {
		return err
	}
	c.db[service] = conn
	if _, err := conn.Exec(ctx, tables[service]); err != nil {
		return err
	}
	if err := undolog.Install(ctx, conn); err != nil {
		return err
	}
	_, err = undolog.Protect(ctx, conn, service)
	return err
}

const dirPrefix = "handfast-demo-"

// checkDSN refuses what the demo can't put its own databases into: it has to be
// a URL, because the name of a database in it gets replaced.
func checkDSN(dsn string) error {
	if dsn == "" {
		return nil
	}
	u, err := url.Parse(dsn)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		// The parser's error would show the password.
		return errors.New("--dsn or DATABASE_URL: want a URL such as postgres://user:password@host/postgres")
	}
	return nil
}

func adminExec(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the work is done or has failed
	_, err = conn.Exec(ctx, sql)
	return err
}

func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (c *cluster) describe() string {
	return fmt.Sprintf("coordinator pid %d, orders pid %d, stock pid %d, accounts pid %d; databases on %s",
		c.tc.pid(), c.services["orders"].pid(), c.services["stock"].pid(), c.services["accounts"].pid(), hostOf(c.admin))
}

func hostOf(dsn string) string {
	if u, err := url.Parse(dsn); err == nil {
		return u.Host
	}
	return "the given server"
}

// nodes are all processes, in the order in which they are started.
func (c *cluster) nodes() []*node {
	all := []*node{c.tc}
	for _, name := range databases {
		all = append(all, c.services[name])
	}
	return all
}

// logs are what the processes printed, for when a scenario did not hold.
func (c *cluster) logs() []string {
	var out []string
	for _, n := range c.nodes() {
		if text := n.log.String(); text != "" {
			out = append(out, fmt.Sprintf("--- %s\n%s\n", n.name, strings.TrimSpace(text)))
		}
	}
	return out
}

// stop ends everything and removes it. It may be called on half a cluster.
func (c *cluster) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var errs []error
	if c.client != nil {
		errs = append(errs, c.client.Close())
	}
	for _, conn := range c.conns {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	for _, n := range c.services {
		n.kill()
	}
	if c.tc != nil {
		c.tc.kill()
	}
	for _, conn := range c.db {
		errs = append(errs, conn.Close(ctx))
	}
	if c.pg != nil {
		errs = append(errs, c.pg.Stop(ctx))
	} else {
		for service := range c.dsn {
			name := pgx.Identifier{"handfast_demo_" + service + c.suffix}.Sanitize()
			errs = append(errs, adminExec(ctx, c.admin, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"))
		}
	}
	if c.storeDir != "" {
		errs = append(errs, os.RemoveAll(c.storeDir))
	}
	return errors.Join(errs...)
}
