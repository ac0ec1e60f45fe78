package hftest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/pgtest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// Patience is how long a test waits for what has to happen.
const Patience = 20 * time.Second

// World is a coordinator, a database and a service on both.
type World struct {
	TB     testing.TB
	Client *client.Client
	DSN    string // of the database, as its owner
	Pool   *rm.Pool
	Look   *pgx.Conn // a plain session
}

// New makes a world whose database has the schema and protects the tables. All
// of it ends with the test.
func New(tb testing.TB, c *pgtest.Cluster, schema string, tables []string, opts ...rm.Option) *World {
	tb.Helper()
	w := &World{TB: tb, DSN: c.DSN(tb)}
	w.Look = w.Connect(w.DSN)
	w.Check(undolog.Install(w.Limited(), w.Look))
	w.Exec(schema)
	_, err := undolog.Protect(w.Limited(), w.Look, tables...)
	w.Check(err)
	w.Client = Dial(tb, Coordinator(tb))
	w.Pool = w.Open(w.DSN, opts...)
	return w
}

// Open opens one more pool.
func (w *World) Open(dsn string, opts ...rm.Option) *rm.Pool {
	w.TB.Helper()
	p, err := w.TryOpen(dsn, opts...)
	w.Check(err)
	return p
}

// TryOpen is Open for what may fail.
func (w *World) TryOpen(dsn string, opts ...rm.Option) (*rm.Pool, error) {
	w.TB.Helper()
	p, err := rm.Open(w.Limited(), w.Client, dsn, append([]rm.Option{rm.WithLogger(quiet())}, opts...)...)
	if err != nil {
		return nil, err
	}
	w.TB.Cleanup(p.Close)
	return p, nil
}

// Connect opens a plain session.
func (w *World) Connect(dsn string) *pgx.Conn {
	w.TB.Helper()
	conn, err := pgx.Connect(w.Limited(), dsn)
	w.Check(err)
	w.TB.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// Limited gives a context that ends when the test has waited long enough.
func (w *World) Limited() context.Context {
	w.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	w.TB.Cleanup(cancel)
	return ctx
}

// Begin begins a global transaction and gives a context of it.
func (w *World) Begin() (context.Context, xid.ID) {
	w.TB.Helper()
	a, err := w.Client.Begin(w.Limited(), &pb.BeginRequest{Name: w.TB.Name()})
	w.Check(err)
	x, err := xid.Parse(a.GetXid())
	w.Check(err)
	return xid.NewContext(w.Limited(), x), x
}

// Commit commits and waits until everything is settled. It fails the test where
// the transaction rolls back.
func (w *World) Commit(x xid.ID) {
	w.TB.Helper()
	a, err := w.Client.Commit(w.Limited(), &pb.CommitRequest{Xid: x.String(), WaitSettled: true})
	w.Check(err)
	if a.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED {
		w.TB.Fatalf("transaction %s ended as %s", x, a.GetOutcome())
	}
}

// Rollback rolls back and waits until everything is settled.
func (w *World) Rollback(x xid.ID) {
	w.TB.Helper()
	_, err := w.Client.Rollback(w.Limited(), &pb.RollbackRequest{Xid: x.String(), WaitSettled: true})
	w.Check(err)
}

// Branches counts the branches of a transaction.
func (w *World) Branches(x xid.ID) int {
	w.TB.Helper()
	a, err := w.Client.Get(w.Limited(), &pb.GetRequest{Xid: x.String()})
	w.Check(err)
	return len(a.GetTransaction().GetBranches())
}

// Exec runs something in the plain session.
func (w *World) Exec(sql string, args ...any) {
	w.TB.Helper()
	_, err := w.Look.Exec(w.Limited(), sql, args...)
	w.Check(err)
}

// Value reads one value with the plain session.
func Value[T any](w *World, sql string, args ...any) (v T) {
	w.TB.Helper()
	if err := w.Look.QueryRow(w.Limited(), sql, args...).Scan(&v); err != nil {
		w.TB.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Settled fails the test where anything in the database is undecided.
func (w *World) Settled() {
	w.TB.Helper()
	n := Value[int](w, `SELECT (SELECT count(*) FROM handfast.undo) + (SELECT count(*) FROM handfast.gate)
		+ (SELECT count(*) FROM handfast.fence WHERE state = 'L')`)
	Equal(w.TB, "undecided rows", n, 0)
}

// Conflict fails the test where err is no conflict with the holder.
func (w *World) Conflict(err error, holder xid.ID) {
	w.TB.Helper()
	c, ok := errors.AsType[*rm.LockConflictError](err)
	if !ok {
		w.TB.Fatalf("got error %v, want a lock conflict", err)
	}
	Equal(w.TB, "holder", c.Holder, holder)
}

// Check ends the test after an error.
func (w *World) Check(err error) {
	w.TB.Helper()
	if err != nil {
		w.TB.Fatal(err)
	}
}

// Equal ends the test where two values differ.
func Equal[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Coordinator starts a real one on loopback, with a store on disk, and gives its
// address. It ends with the test.
func Coordinator(tb testing.TB, change ...func(*tc.Config)) (addr string) {
	tb.Helper()
	lis, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	cfg := tc.Config{Listener: lis, StoreDir: tb.TempDir(), DrainTimeout: 5 * time.Second, Log: quiet()}
	for _, c := range change {
		c(&cfg)
	}
	s, err := tc.NewServer(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return s.Addr().String()
}

// Dial gives a client of the coordinator, which is closed with the test.
func Dial(tb testing.TB, addr string) *client.Client {
	tb.Helper()
	c, err := client.Dial(addr, client.WithLogger(quiet()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}
