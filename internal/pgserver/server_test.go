package pgserver_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
)

const parentMode = "HANDFAST_PGSERVER_TEST_PARENT"

// TestMain can also play a parent that starts a server and is then killed.
func TestMain(m *testing.M) {
	if os.Getenv(parentMode) == "" {
		os.Exit(m.Run())
	}
	s, err := pgserver.Start(context.Background(), pgserver.Options{})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(s.DSN("postgres"))
	select {}
}

func start(t *testing.T) *pgserver.Server {
	t.Helper()
	s, err := pgserver.Start(t.Context(), pgserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func one(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func TestServerSurvivesKillAndRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	dsn, err := s.CreateDatabase(t.Context(), `a "b"`)
	if err != nil {
		t.Fatal(err)
	}
	if err := one(t.Context(), dsn, "CREATE TABLE x (a int)"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if err := one(t.Context(), dsn, "SELECT 1"); err == nil {
		t.Fatal("still answers after Kill")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := one(t.Context(), dsn, "SELECT * FROM x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Fatal("restarted while running")
	}
}

func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), parentMode+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the parent said nothing")
	}
	dsn := lines.Text()
	if err := one(t.Context(), dsn, "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for one(ctx, dsn, "SELECT 1") == nil {
		if ctx.Err() != nil {
			t.Fatal("the server outlives its parent")
		}
	}
	start(t) // sweeps
	left, _ := filepath.Glob(fmt.Sprintf("/tmp/handfast-pg-%d-*", pid))
	if len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestBadBinariesAreNamed(t *testing.T) {
	t.Parallel()
	if _, err := pgserver.Start(t.Context(), pgserver.Options{Binaries: "/nonexistent"}); err == nil {
		t.Fatal("started")
	}
}
