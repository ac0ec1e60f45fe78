package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/child"
)

// Options say how to run a server. The zero value is good for tests.
type Options struct {
	// Binaries is the directory with initdb and postgres; empty: Find, then fetch.
	Binaries string
	// Settings are set on the command line, over those of this package.
	Settings map[string]string
	// Durable keeps fsync on. Off, a crash of the machine, but not of the
	// server, may lose data.
	Durable bool
	// Scratch lets the data lie in memory where the machine has plenty. Tests make and
	// drop so many tables that the file system is a sixth of their time.
	Scratch bool
	// Output receives the server's log as well; nil: only kept for errors.
	Output io.Writer
}

// Server is a running PostgreSQL server. Its methods may be called by several
// goroutines, but only one at a time changes whether it runs.
type Server struct {
	opts Options
	bin  string
	dir  string // holds data, sockets and the log
	port int
	user *account // nil: the own user
	free func(context.Context) (int, error)
	// follows is the port of the server that this one is a replica of.
	follows int

	release func() error // ends the watchdog

	mu   sync.Mutex
	proc *child.Process
}

const superuser = "postgres"

// Start makes a cluster in a temporary directory and runs it on a free port of
// 127.0.0.1. ctx bounds the start only.
func Start(ctx context.Context, opts Options) (*Server, error) {
	return start(ctx, opts, freePort)
}

func start(ctx context.Context, opts Options, free func(context.Context) (int, error)) (s *Server, err error) {
	for _, base := range bases() {
		child.Sweep(base, dirPrefix)
	}
	s = &Server{opts: opts, bin: opts.Binaries, free: free}
	if s.user, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.bin == "" {
		if s.bin, err = binaries(ctx, s.user); err != nil {
			return nil, err
		}
	}
	if s.dir, err = makeDir(s.user, opts.Scratch); err != nil {
		return nil, err
	}
	if s.release, err = guard(s.user, s.dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err = s.initdb(ctx); err == nil {
		err = s.firstLaunch(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.discard())
	}
	return s, nil
}

// firstLaunch picks the port. Another program may take it between the look and
// the start.
func (s *Server) firstLaunch(ctx context.Context) (err error) {
	for range 5 {
		if s.port, err = s.free(ctx); err != nil {
			return err
		}
		if err = s.launch(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// discard removes what a server that does not run has left.
func (s *Server) discard() error { return errors.Join(os.RemoveAll(s.dir), s.release()) }

var (
	errPortTaken = errors.New("port is taken")
	errStillHeld = errors.New("processes of the former server hold its memory")
)

func (s *Server) initdb(ctx context.Context) error {
	out := &logBuffer{}
	p, err := startServer(s.user, s.dir, out, filepath.Join(s.bin, "initdb"),
		"-D", s.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("initdb: %w", ctx.Err())
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, tail(out.String()))
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// arguments are the server's command line.
func (s *Server) arguments() []string {
	set := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": s.socketDir(),
		"port":                    strconv.Itoa(s.port),
		"max_connections":         "200",
		"logging_collector":       "off",
		"shared_buffers":          "64MB",
	}
	if !s.opts.Durable {
		set["fsync"], set["full_page_writes"] = "off", "off"
	}
	if s.opts.Scratch {
		set["max_wal_size"] = "256MB"
	}
	if s.follows != 0 {
		set["primary_conninfo"] = fmt.Sprintf("host=127.0.0.1 port=%d user=%s sslmode=disable", s.follows, superuser)
	}
	maps.Copy(set, s.opts.Settings)
	args := []string{"-D", s.data()}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "-c", k+"="+set[k])
	}
	return args
}

// socketDir is empty where the path would be too long for a socket.
func (s *Server) socketDir() string {
	if len(s.dir) > 80 {
		return ""
	}
	return s.dir
}

// launch starts the server and waits until it answers. The processes of a killed
// server take a moment to vanish.
func (s *Server) launch(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := s.launchOnce(ctx)
		if attempt == 50 || !errors.Is(err, errStillHeld) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Server) launchOnce(ctx context.Context) error {
	log := &logBuffer{also: s.opts.Output}
	p, err := startServer(s.user, s.dir, log, filepath.Join(s.bin, "postgres"), s.arguments()...)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	if err := s.awaitReady(ctx, p); err != nil {
		p.Kill()
		text := log.String()
		switch {
		case strings.Contains(text, "could not bind"), strings.Contains(text, "Address already in use"):
			return fmt.Errorf("postgres: %w: %d", errPortTaken, s.port)
		case strings.Contains(text, "shared memory block"):
			return fmt.Errorf("postgres: %w\n%s", errStillHeld, tail(text))
		}
		return fmt.Errorf("postgres did not become ready: %w\n%s", err, tail(text))
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	return nil
}

func (s *Server) awaitReady(ctx context.Context, p *child.Process) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return errors.New("it exited")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers tells whether it is this server that answers on the port, and not
// another one that was there before.
func (s *Server) answers(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the question is answered
	var dir string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir); err != nil {
		return err
	}
	if filepath.Clean(dir) != filepath.Clean(s.data()) {
		return fmt.Errorf("%w by another server, of %s", errPortTaken, dir)
	}
	return nil
}

// DSN is how to connect to a database as superuser.
func (s *Server) DSN(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(superuser), Path: "/" + database,
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes an empty database and gives its DSN.
func (s *Server) CreateDatabase(ctx context.Context, name string) (string, error) {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the work is done or has failed
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return s.DSN(name), nil
}

// Stop ends the server, dropping its clients, and removes its directory. When
// ctx ends the server is killed.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	p := s.proc
	s.proc = nil
	s.mu.Unlock()
	if p != nil {
		p.Interrupt()
		select {
		case <-p.Done():
		case <-ctx.Done():
			crash(p)
		}
	}
	return s.discard()
}

// Kill ends the server as a crash would, with SIGKILL to all of its processes.
// The directory stays, for Restart.
func (s *Server) Kill() {
	s.mu.Lock()
	p := s.proc
	s.proc = nil
	s.mu.Unlock()
	if p != nil {
		crash(p)
	}
}

func crash(p *child.Process) {
	select {
	case <-p.Done(): // its id may be another's by now
	default:
		killFamily(p.PID())
		p.Kill()
	}
}

// Restart runs the server again on the same directory and port.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	running := s.proc != nil
	s.mu.Unlock()
	if running {
		return errors.New("restart: the server is running")
	}
	return s.launch(ctx)
}

func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // nothing was accepted
	return l.Addr().(*net.TCPAddr).Port, nil
}

// logBuffer keeps the last part of the server's log.
type logBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	also io.Writer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 64<<10 {
		l.buf.Reset()
	}
	l.buf.Write(p)
	if l.also != nil {
		_, _ = l.also.Write(p)
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
