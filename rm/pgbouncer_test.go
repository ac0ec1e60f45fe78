package rm_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handfast/handfast/internal/child"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/rm"
)

// pgbouncer runs PgBouncer in transaction mode before a database, with few
// connections, so that a client meets another one with nearly every transaction.
func pgbouncer(tb testing.TB, dsn string) (through string) {
	tb.Helper()
	binary, err := osexec.LookPath("pgbouncer")
	if err != nil {
		if binary, err = osexec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			if os.Getenv("HANDFAST_REQUIRE_PGBOUNCER") != "" {
				tb.Fatal("there is no pgbouncer on this machine")
			}
			tb.Skip("SKIPPED: there is no pgbouncer on this machine; Debian's package of that name has it")
		}
	}
	u, err := url.Parse(dsn)
	check(tb, err)
	dir, err := os.MkdirTemp("", "handfast-pgbouncer-")
	check(tb, err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	check(tb, os.Chmod(dir, 0o755)) // for the user that PgBouncer becomes
	host, port, login := u.Hostname(), u.Port(), "user="+u.User.Username()
	if h := u.Query().Get("host"); host == "" {
		host = h
	}
	if password, ok := u.User.Password(); ok {
		login += " password=" + password
	}
	file := filepath.Join(dir, "pgbouncer.ini")
	args := []string{file}
	if os.Geteuid() == 0 {
		args = []string{"-u", "nobody", file} // it refuses to be root
	}
	// Somebody else may take the port between the look and the start.
	for {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		check(tb, err)
		u.Host = lis.Addr().String()
		check(tb, lis.Close())
		config := fmt.Sprintf(`
[databases]
* = host=%s port=%s %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
`, host, port, login, u.Port())
		check(tb, os.WriteFile(file, []byte(config), 0o644))
		text, ready := startPgBouncer(tb, osexec.Command(binary, args...))
		if ready {
			break
		}
		if !strings.Contains(text, "Address already in use") {
			tb.Fatalf("pgbouncer: %s", text)
		}
	}
	q := u.Query()
	q.Del("host")
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return u.String()
}

// startPgBouncer tells what it said where it ends instead of serving.
func startPgBouncer(tb testing.TB, cmd *osexec.Cmd) (log string, ready bool) {
	tb.Helper()
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := child.Start(cmd, syscall.SIGKILL)
	check(tb, err)
	tb.Cleanup(p.Kill)
	until(tb, func() bool {
		select {
		case <-p.Done():
			return true
		default:
			ready = strings.Contains(out.String(), "process up")
			return ready
		}
	})
	return out.String(), ready
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// behindPgBouncer is a world that reaches its database only through PgBouncer,
// for settling, too.
func behindPgBouncer(tb testing.TB, mode string) (w *world, dsn string) {
	tb.Helper()
	w = &world{t: tb, dsn: database(tb)}
	dsn = pgbouncer(tb, w.dsn) + "&default_query_exec_mode=" + mode
	w.tc = dial(tb, coordinator(tb))
	w.look = connect(tb, w.dsn)
	return w, dsn
}

var everyMode = flag.Bool("rm.all", false, "talk to PgBouncer in every way that pgx has, and not in two of four")

// modes are those that need no prepared statement that outlives a transaction: without a
// flag the one that keeps most on its side, and the one that keeps nothing.
func modes() []string {
	if !*everyMode {
		return []string{"cache_describe", "simple_protocol"}
	}
	return []string{"cache_describe", "describe_exec", "exec", "simple_protocol"}
}

func TestPgBouncerWorkIsKeptOrUndone(t *testing.T) {
	t.Parallel()
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w, dsn := behindPgBouncer(t, mode)
			w.pool = open(t, w.tc, dsn)
			exec(t, w.look, payFunction)
			for name, work := range works() {
				t.Run(name, func(t *testing.T) {
					w.undoneThenKept(t, work)
				})
			}
		})
	}
}

// TestPgBouncerManyAtOnce: transactions that share few connections do not mix.
func TestPgBouncerManyAtOnce(t *testing.T) {
	t.Parallel()
	const workers, rounds = 8, 10
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w, dsn := behindPgBouncer(t, mode)
			// The janitor looks all the time; what it or a settler could not do is in the log.
			var log lockedBuffer
			w.pool = open(t, w.tc, dsn+"&pool_max_conns=8", rm.WithJanitorInterval(time.Millisecond),
				rm.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
			var wg sync.WaitGroup
			errs := make(chan error, workers)
			for id := range workers {
				wg.Go(func() {
					for n := range rounds {
						if err := w.round(id+1, n%2 == 0); err != nil {
							errs <- err
							return
						}
					}
				})
			}
			wg.Wait()
			close(errs)
			for err := range errs {
				t.Error(err)
			}
			equal(t, "sum", value[int](w, "SELECT sum(balance)::int FROM account WHERE id <= $1", workers), workers*(100-2*rounds/2))
			equal(t, "intents", w.intents(), 0)
			equal(t, "log", log.String(), "")
		})
	}
}

// round takes 2 from a row in two branches and commits or rolls back.
func (w *world) round(id int, commit bool) error {
	ctx, x := w.begin()
	take := "UPDATE account SET balance = balance - 1 WHERE id = $1"
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT balance FROM account WHERE id = $1", id).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, take, id)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := w.pool.Exec(ctx, take, id); err != nil {
		return err
	}
	if !commit {
		_, err = w.tc.Rollback(ctx, &pb.RollbackRequest{Xid: x.String(), WaitSettled: true})
		return err
	}
	a, err := w.tc.Commit(ctx, &pb.CommitRequest{Xid: x.String(), WaitSettled: true})
	if err == nil && a.GetOutcome() != pb.Outcome_OUTCOME_COMMITTED {
		err = fmt.Errorf("transaction %s ended as %s", x, a.GetOutcome())
	}
	return err
}

func TestPgBouncerConflicts(t *testing.T) {
	t.Parallel()
	for _, mode := range modes() {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w, dsn := behindPgBouncer(t, mode)
			w.pool = open(t, w.tc, dsn)
			update := "UPDATE account SET balance = balance + 1 WHERE id = $1"
			first, holder := w.begin()
			_, err := w.pool.Exec(first, update, 1)
			check(t, err)
			ctx, x := w.begin()
			err = pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, update, 1)
				return err
			})
			var c *rm.LockConflictError
			if !errors.As(err, &c) || c.Holder != holder {
				t.Fatalf("got %v", err)
			}
			done := make(chan error, 1)
			before := len(w.branches(x))
			go func() {
				_, err := w.pool.Exec(ctx, update, 1)
				done <- err
			}()
			for len(w.branches(x)) == before {
				select {
				case err := <-done:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
			}
			w.rollback(holder)
			check(t, <-done)
			equal(t, "outcome", w.commit(x), pb.Outcome_OUTCOME_COMMITTED)
			equal(t, "balance", value[int](w, "SELECT balance FROM account WHERE id = 1"), 101)
		})
	}
}

// TestPgBouncerWithoutPreparedStatements: pgx's default mode needs a PgBouncer
// that knows prepared statements. One that does not gets an error that says so.
func TestPgBouncerWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	w, dsn := behindPgBouncer(t, "cache_statement")
	p, err := rm.Open(limited(t), w.tc, dsn, rm.WithLogger(quiet()))
	if err == nil {
		t.Cleanup(p.Close)
		for id := range 20 {
			ctx, x := w.begin()
			err = pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
				for i := range 3 {
					if _, err := tx.Exec(ctx, "UPDATE account SET balance = balance - $1 WHERE id = $2", i, id+1); err != nil {
						return err
					}
				}
				return nil
			})
			_, _ = w.tc.Rollback(limited(t), &pb.RollbackRequest{Xid: x.String()})
			if err != nil {
				break
			}
		}
	}
	if err == nil {
		t.Log("this PgBouncer knows prepared statements")
		return
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); !ok || !strings.Contains(err.Error(), "default_query_exec_mode") {
		t.Errorf("the error does not help: %v", err)
	}
}
