package pgserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
)

const (
	parentMode = "HANDFAST_PGSERVER_TEST_PARENT"
	ordinary   = "ordinary"
	scratch    = "scratch"
)

// TestMain can also play a parent that starts a server and is then killed.
func TestMain(m *testing.M) {
	if os.Getenv(parentMode) == "" {
		os.Exit(m.Run())
	}
	s, err := pgserver.Start(context.Background(), pgserver.Options{Scratch: os.Getenv(parentMode) == scratch})
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
	defer conn.Close(ctx) //nolint:errcheck // the statement's error counts
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

// parent runs this binary as a parent of a server, and gives what it says.
func parent(t *testing.T, cmd *exec.Cmd, mode string) string {
	t.Helper()
	cmd.Env = append(os.Environ(), parentMode+"="+mode)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the parent said nothing")
	}
	return lines.Text()
}

// gone waits until nothing of a killed parent is left.
func gone(t *testing.T, pid int, dsn string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		var left []string
		for _, base := range []string{"/tmp", "/dev/shm"} {
			found, err := filepath.Glob(fmt.Sprintf("%s/handfast-pg-%d-*", base, pid))
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, found...)
		}
		answer := one(ctx, dsn, "SELECT 1")
		if answer != nil && len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("left behind: %v; connecting: %v", left, answer)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// diesWithParent kills the parent of a server, and waits until nothing of both is left.
func diesWithParent(t *testing.T, cmd *exec.Cmd, mode string) {
	t.Helper()
	dsn := parent(t, cmd, mode)
	if err := one(t.Context(), dsn, "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, cmd.Process.Pid, dsn)
}

func TestNothingOutlivesAKilledParent(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{ordinary, scratch} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			diesWithParent(t, exec.CommandContext(t.Context(), os.Args[0]), mode)
		})
	}
}

func TestServerThatIsLeftOutByStopIsRemovedAtExit(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	dsn := parent(t, cmd, ordinary)
	if err := cmd.Process.Signal(os.Interrupt); err != nil { // ends it without Stop
		t.Fatal(err)
	}
	gone(t, cmd.Process.Pid, dsn)
}

func TestSettingThatDoesNotExistIsTold(t *testing.T) {
	t.Parallel()
	_, err := pgserver.Start(t.Context(), pgserver.Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") || !strings.Contains(err.Error(), "it exited") {
		t.Fatalf("got %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pgserver.Start(ctx, pgserver.Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestStopTwiceIsOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBadBinariesAreNamed(t *testing.T) {
	t.Parallel()
	if _, err := pgserver.Start(t.Context(), pgserver.Options{Binaries: "/nonexistent"}); err == nil {
		t.Fatal("started")
	}
}
