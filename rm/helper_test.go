package rm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/handfast/handfast/client"
	"github.com/handfast/handfast/internal/faketc"
	"github.com/handfast/handfast/internal/hftest"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

const patience = 20 * time.Second

var cluster = pgtest.New(pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "100"}})

func TestMain(m *testing.M) {
	code := cluster.Run(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const schema = `
CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL, balance int NOT NULL);
INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i;
CREATE TABLE entry (account int, n int, note text, PRIMARY KEY (account, n));
`

var protected = []string{"account", "entry"}

// database makes a database with two protected tables.
func database(tb testing.TB) (dsn string) {
	tb.Helper()
	dsn = cluster.DSN(tb)
	conn := connect(tb, dsn)
	if err := undolog.Install(limited(tb), conn); err != nil {
		tb.Fatal(err)
	}
	exec(tb, conn, schema)
	if _, err := undolog.Protect(limited(tb), conn, protected...); err != nil {
		tb.Fatal(err)
	}
	return dsn
}

func connect(tb testing.TB, dsn string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(limited(tb), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(limited(tb), sql, args...); err != nil {
		tb.Fatal(err)
	}
}

// limited gives a context that ends when a test has waited long enough.
func limited(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func coordinator(tb testing.TB, change ...func(*tc.Config)) (addr string) {
	tb.Helper()
	return hftest.Coordinator(tb, change...)
}

func dial(tb testing.TB, addr string) *client.Client {
	tb.Helper()
	return hftest.Dial(tb, addr)
}

func open(tb testing.TB, c *client.Client, dsn string, opts ...rm.Option) *rm.Pool {
	tb.Helper()
	p, err := rm.Open(limited(tb), c, dsn, append([]rm.Option{rm.WithLogger(quiet())}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}

// world is a coordinator, a database and a service on both.
type world struct {
	t    testing.TB
	addr string // of the coordinator
	tc   *client.Client
	dsn  string
	pool *rm.Pool
	look *pgx.Conn // a plain session
}

func newWorld(tb testing.TB, opts ...rm.Option) *world {
	tb.Helper()
	w := &world{t: tb, dsn: database(tb), addr: coordinator(tb)}
	w.tc = dial(tb, w.addr)
	w.pool = open(tb, w.tc, w.dsn, opts...)
	w.look = connect(tb, w.dsn)
	return w
}

// begin begins a global transaction and gives a context of it.
func (w *world) begin() (context.Context, xid.ID) {
	w.t.Helper()
	a, err := w.tc.Begin(limited(w.t), &pb.BeginRequest{Name: w.t.Name()})
	if err != nil {
		w.t.Fatal(err)
	}
	x, err := xid.Parse(a.GetXid())
	if err != nil {
		w.t.Fatal(err)
	}
	return xid.NewContext(limited(w.t), x), x
}

// commit commits and waits until everything is settled.
func (w *world) commit(x xid.ID) pb.Outcome {
	w.t.Helper()
	a, err := w.tc.Commit(limited(w.t), &pb.CommitRequest{Xid: x.String(), WaitSettled: true})
	if err != nil {
		w.t.Fatalf("commit: %v", err)
	}
	return a.GetOutcome()
}

func (w *world) rollback(x xid.ID) {
	w.t.Helper()
	if _, err := w.tc.Rollback(limited(w.t), &pb.RollbackRequest{Xid: x.String(), WaitSettled: true}); err != nil {
		w.t.Fatalf("rollback: %v", err)
	}
}

// value reads one value with a plain session.
func value[T any](w *world, sql string, args ...any) (v T) {
	w.t.Helper()
	if err := w.look.QueryRow(limited(w.t), sql, args...).Scan(&v); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// contents is all data of the protected tables.
func (w *world) contents() string {
	w.t.Helper()
	return value[string](w, `SELECT coalesce(string_agg(r, E'\n' ORDER BY r), '') FROM (
		SELECT 'account ' || a::text AS r FROM account a UNION ALL SELECT 'entry ' || e::text FROM entry e) x`)
}

// intents counts what is undecided.
func (w *world) intents() int {
	w.t.Helper()
	return value[int](w, `SELECT (SELECT count(*) FROM handfast.undo) + (SELECT count(*) FROM handfast.gate)
		+ (SELECT count(*) FROM handfast.fence WHERE state = 'L')`)
}

func (w *world) branches(x xid.ID) []*pb.Branch {
	w.t.Helper()
	a, err := w.tc.Get(limited(w.t), &pb.GetRequest{Xid: x.String()})
	if err != nil {
		w.t.Fatal(err)
	}
	return a.GetTransaction().GetBranches()
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantError(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("got error %v, want %v", err, want)
	}
}

func equal[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// errorFrame is a refusal of the coordinator.
func errorFrame(tb testing.TB, message string, r pb.ErrorReason) *pb.ServerFrame {
	tb.Helper()
	st := (&client.Error{Reason: r, Code: codes.FailedPrecondition, Message: message}).GRPCStatus().Proto()
	return &pb.ServerFrame{Kind: &pb.ServerFrame_Error{Error: &pb.Error{
		Code: st.GetCode(), Message: st.GetMessage(), Details: st.GetDetails(),
	}}}
}

// undoneThenKept does the work twice: it is rolled back, and then committed.
func (w *world) undoneThenKept(t *testing.T, work func(context.Context, db) error) {
	t.Helper()
	before := w.contents()
	ctx, x := w.begin()
	check(t, work(ctx, w.pool))
	after := w.contents()
	if after == before {
		t.Fatal("nothing was done")
	}
	equal(t, "branches", len(w.branches(x)), 1)
	w.rollback(x)
	equal(t, "after rollback", w.contents(), before)
	equal(t, "intents after rollback", w.intents(), 0)

	ctx, x = w.begin()
	check(t, work(ctx, w.pool))
	equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
	equal(t, "after commit", w.contents(), after)
	equal(t, "intents after commit", w.intents(), 0)
	exec(t, w.look, "TRUNCATE account, entry")
	exec(t, w.look, "INSERT INTO account SELECT i, 'owner ' || i, 100 FROM generate_series(1, 100) i")
}

// answers is a coordinator that tells about transactions what it was told to.
type answers struct {
	branches chan string   // that were registered
	asked    chan struct{} // something was
	answer   atomic.Pointer[pb.ServerFrame]
}

func answering(s *faketc.Server) *answers {
	a := &answers{branches: make(chan string, 16), asked: make(chan struct{}, 1)}
	s.On(func(n *faketc.Session, f *pb.ClientFrame) bool {
		if r := f.GetRegisterBranch(); r != nil {
			a.branches <- r.GetBranchId()
		}
		if f.GetGet() == nil {
			return false
		}
		select {
		case a.asked <- struct{}{}:
		default:
		}
		n.Send(&pb.ServerFrame{Id: f.GetId(), Kind: a.answer.Load().GetKind()})
		return true
	})
	return a
}

// transaction is the answer to a question about one.
func transaction(o pb.Outcome, x xid.ID, bs ...*pb.Branch) *pb.ServerFrame {
	return &pb.ServerFrame{Kind: &pb.ServerFrame_Get{Get: &pb.GetResponse{
		Transaction: &pb.Transaction{Xid: x.String(), Outcome: o, Branches: bs},
	}}}
}
