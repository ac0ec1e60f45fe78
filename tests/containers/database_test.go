package containers

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// database is one Postgres server with one table of counters.
type database struct {
	*node
	inside string // DSN for containers
}

const password = "only-for-this-test"

func (e *engine) postgres(t *testing.T, name string) *database {
	t.Helper()
	image := cmp.Or(os.Getenv("HANDFAST_TEST_POSTGRES_IMAGE"), "postgres:15-bookworm")
	n := e.run(t, "db-"+name, image,
		testcontainers.WithEnv(map[string]string{"POSTGRES_USER": "app", "POSTGRES_PASSWORD": password, "POSTGRES_DB": name}),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithWaitStrategyAndDeadline(90*time.Second,
			// The first time it is only ready for the scripts that initialise it.
			wait.ForLog("database system is ready to accept connections").WithOccurrence(2),
			wait.ForListeningPort("5432/tcp")))
	return &database{node: n, inside: fmt.Sprintf("postgres://app:%s@db-%s:5432/%s?sslmode=disable", password, name, name)}
}

// connect gives a plain session, as psql would have it, outside of any
// global transaction.
func (d *database) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	host, err := d.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port, err := d.MappedPort(t.Context(), "5432/tcp")
	if err != nil {
		t.Fatal(err)
	}
	name := d.name[len("db-"):]
	conn, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://app:%s@%s/%s?sslmode=disable",
		password, net.JoinHostPort(host, port.Port()), name))
	if err != nil {
		t.Fatalf("connect to %s: %v", d.name, err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs statements in a plain session.
func (d *database) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := d.connect(t).Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
}
