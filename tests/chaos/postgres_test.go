//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
)

// database is a server of Postgres with one database.
type database interface {
	node
	dsn() string                           // past the links
	address() string                       // what the links lead to
	crash(ctx context.Context) error       // at once, and up again
	backend(pid int) error                 // kill -9 of one
	severable() (sever, mend func() error) // off its network; nil where that can't be
}

var pgSettings = map[string]string{
	"max_prepared_transactions": "300", "max_connections": "200",
	// A session whose client was cut off is found by the server soon.
	"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
	"idle_in_transaction_session_timeout": "60s",
}

// server is a database in processes.
type server struct {
	called string
	srv    *pgserver.Server
	url    string
	data   string
	log    lastLines

	mu   sync.Mutex
	cont func(bool)
}

func newServer(ctx context.Context, name string) (*server, error) {
	s := &server{called: name}
	var err error
	if s.srv, err = pgserver.Start(ctx, pgserver.Options{Settings: pgSettings, Output: &s.log}); err != nil {
		return nil, err
	}
	if s.url, err = s.srv.CreateDatabase(ctx, name); err != nil {
		return s, err
	}
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return s, err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	return s, conn.QueryRow(ctx, "SHOW data_directory").Scan(&s.data)
}

func (s *server) name() string                            { return s.called }
func (s *server) tail() string                            { return s.log.text() }
func (s *server) dsn() string                             { return s.url }
func (s *server) exited() <-chan struct{}                 { return never } // nobody ends it but us
func (s *server) quiet(bool)                              {}
func (s *server) kill()                                   { s.srv.Kill() }
func (s *server) severable() (func() error, func() error) { return nil, nil }

func (s *server) address() string {
	c, err := pgx.ParseConfig(s.url)
	if err != nil {
		panic(err) // it is ours
	}
	return fmt.Sprintf("%s:%d", c.Host, c.Port)
}

func (s *server) postmaster() (int, error) {
	b, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(line)
}

// start brings a dead server up again. Its port may be somebody's for a moment, as the
// near end of a connection.
func (s *server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := s.srv.Restart(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// crash is an immediate shutdown, after which the log has to be replayed.
func (s *server) crash(ctx context.Context) error {
	pid, err := s.postmaster()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		return err
	}
	for range 500 {
		if syscall.Kill(pid, 0) != nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // a process of somebody else ends on its own time
	}
	s.srv.Kill()
	return s.start(ctx)
}

func (s *server) backend(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// pause stops the server and then its children, as it could start others. Whoever
// resumes them also does so when this process dies: they would stay for ever.
func (s *server) pause() error {
	pid, err := s.postmaster()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	pids := []string{strconv.Itoa(pid)}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[1] == strconv.Itoa(pid) {
			pids = append(pids, f[0])
		}
	}
	cont, err2 := keep(`kill -CONT "$@"`, pids...)
	if err := errors.Join(err, err2); err != nil {
		return errors.Join(err, syscall.Kill(pid, syscall.SIGCONT))
	}
	s.mu.Lock()
	s.cont = cont
	s.mu.Unlock()
	for _, p := range pids[1:] {
		if n, err := strconv.Atoi(p); err == nil {
			_ = syscall.Kill(n, syscall.SIGSTOP)
		}
	}
	return nil
}

func (s *server) resume() {
	s.mu.Lock()
	cont := s.cont
	s.cont = nil
	s.mu.Unlock()
	if cont != nil {
		cont(true)
	}
}

// terminate ends the sessions of a database, as a failover does: all, or one of them
// with kill -9, after which Postgres restarts all of its processes.
func terminate(ctx context.Context, d database, all bool, r *rand.Rand) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.dsn())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(ctx, `SELECT pid, CASE WHEN $1 THEN pg_terminate_backend(pid) END FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`, all)
	if err != nil {
		return 0, err
	}
	pids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pid int, err error) {
		var done *bool
		return pid, row.Scan(&pid, &done)
	})
	if err != nil || all || len(pids) == 0 {
		return len(pids), err
	}
	return 1, d.backend(pids[r.IntN(len(pids))])
}
