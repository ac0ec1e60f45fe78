package pgserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestTakenPortIsLeftForAnother(t *testing.T) {
	t.Parallel()
	first, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, first) })
	asked := 0
	second, err := start(t.Context(), Options{}, func(ctx context.Context) (int, error) {
		asked++
		if asked == 1 {
			return first.port, nil
		}
		return freePort(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, second) })
	if asked != 2 || second.port == first.port {
		t.Fatalf("asked %d times, ports %d and %d", asked, first.port, second.port)
	}
}

func TestPortThatStaysTakenIsTold(t *testing.T) {
	t.Parallel()
	first, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, first) })
	if _, err := start(t.Context(), Options{}, func(context.Context) (int, error) { return first.port, nil }); !errors.Is(err, errPortTaken) {
		t.Fatalf("got %v", err)
	}
}

// A crash ends backends in the middle of a statement as well.
func TestKillEndsBackends(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // its server was killed
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$")
		ended <- err
	}()
	if err := awaitBusy(t.Context(), s.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	select {
	case err := <-ended:
		if err == nil {
			t.Fatal("an endless statement ended well")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the backend goes on")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// awaitBusy waits until another session runs a statement.
func awaitBusy(ctx context.Context, dsn string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it only looked
	for busy := false; !busy; {
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE state = 'active' AND query LIKE 'DO %' AND pid <> pg_backend_pid())`).Scan(&busy)
		if err != nil {
			return err
		}
	}
	return nil
}

func TestNewestVersionIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, v := range []string{"9", "15", "16", "17"} {
		bin := filepath.Join(dir, "pg-"+v, "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"initdb", "postgres", "initdb.exe", "postgres.exe"} {
			if v == "17" && name == "postgres" {
				continue // only the client's part is installed
			}
			if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := newestOf([]string{filepath.Join(dir, "none-*")}); !errors.Is(err, ErrNoBinaries) {
		t.Fatalf("got %v", err)
	}
	got, err := newestOf([]string{filepath.Join(dir, "pg-*", "bin")})
	if err != nil || got != filepath.Join(dir, "pg-16", "bin") {
		t.Fatalf("got %s, %v; want that of version 16", got, err)
	}
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}
