package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
)

// build makes the real binary: the demo starts itself several times.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "handfast")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/handfast/handfast/cmd/handfast").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

func TestEveryScenarioHolds(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), build(t), "demo", "--json")
	cmd.Env = append(os.Environ(), "DATABASE_URL=")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errs.String())
	}
	var got struct {
		Scenarios []struct {
			Scenario, XID, Outcome, Problem string
			Held                            bool
			Before, After                   []string
		}
		Held, Total int
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.Total != 6 || got.Held != got.Total || len(got.Scenarios) != got.Total {
		t.Fatalf("%s", out)
	}
	for _, s := range got.Scenarios {
		if !s.Held || s.Problem != "" || len(s.XID) != 56 || len(s.Before) != 2 || len(s.After) < 2 {
			t.Errorf("%+v", s)
		}
	}
}

func TestWrongInputIsNamed(t *testing.T) {
	t.Parallel()
	bin := build(t)
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no such scenario": {[]string{"--scenario", "picnic"}, 2, "crash-coordinator"},
		"an argument":      {[]string{"commit"}, 2, "--scenario"},
		"no such flag":     {[]string{"--speed"}, 2, "--speed"},
		"dead server":      {[]string{"--dsn", "postgres://127.0.0.1:1/postgres?connect_timeout=2"}, 1, "127.0.0.1"},
		"not a URL":        {[]string{"--dsn", "host=127.0.0.1 password=secret"}, 2, "want a URL"},
		"another protocol": {[]string{"--dsn", "mysql://127.0.0.1/x"}, 2, "want a URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), bin, append([]string{"demo"}, tt.args...)...)
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != tt.code || !strings.Contains(string(out), tt.says) {
				t.Fatalf("exit code %d, want %d and %q in:\n%s", cmd.ProcessState.ExitCode(), tt.code, tt.says, out)
			}
			if strings.Contains(string(out), "secret") {
				t.Fatalf("the password is shown:\n%s", out)
			}
		})
	}
}

func TestServerOfOthersIsLeftAsItWas(t *testing.T) {
	t.Parallel()
	pg, err := pgserver.Start(t.Context(), pgserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := pg.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	before := databaseNames(t, pg.DSN("postgres"))
	// In the environment, so that it is seen there as well.
	cmd := exec.CommandContext(t.Context(), build(t), "demo", "--scenario", "crash-participant")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+pg.DSN("postgres"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "\ndemo: 1 of 1 scenarios held\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if u, err := url.Parse(pg.DSN("postgres")); err != nil || !strings.Contains(string(out), "databases on "+u.Host) {
		t.Fatalf("%v; another server was used:\n%s", err, out)
	}
	if after := databaseNames(t, pg.DSN("postgres")); !slices.Equal(before, after) {
		t.Fatalf("databases %v before, %v after", before, after)
	}
}

func databaseNames(t *testing.T, dsn string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // it only looked
	rows, err := conn.Query(t.Context(), "SELECT datname FROM pg_database ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Whatever ends the demo, nothing that it started goes on.
func TestNothingOutlivesTheDemo(t *testing.T) {
	t.Parallel()
	bin := build(t)
	for name, sig := range map[string]os.Signal{"kill -9": os.Kill, "Ctrl-C": os.Interrupt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A name of its own, so that its processes can be told from others.
			own := filepath.Join(t.TempDir(), "hf-demo")
			if err := os.Link(bin, own); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), own, "demo", "--scenario", "commit", "--keep")
			out := &watched{want: "keeps running", seen: make(chan struct{})}
			cmd.Stdout = out
			cmd.Env = append(os.Environ(), "DATABASE_URL=")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait()
				close(ended)
			}()
			select {
			case <-out.seen:
			case <-ended:
				t.Fatalf("ended early:\n%s", out.buf.String())
			}
			if n := running(t, own); n != 5 {
				t.Fatalf("%d processes of the demo, want 5", n)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			<-ended
			deadline := time.Now().Add(20 * time.Second)
			for running(t, own) > 0 {
				if time.Now().After(deadline) {
					t.Fatalf("%d processes outlive the demo", running(t, own))
				}
				time.Sleep(10 * time.Millisecond) // outside processes end on their own time
			}
		})
	}
}

// running counts the processes of a binary.
func running(t *testing.T, bin string) int {
	t.Helper()
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		t.Skip("needs /proc")
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range dirs {
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err == nil && strings.HasPrefix(string(line), bin+"\x00") {
			n++
		}
	}
	return n
}

// watched closes seen when its text appears.
type watched struct {
	want string
	seen chan struct{}
	done bool
	buf  bytes.Buffer
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	w.buf.Write(p)
	if !w.done && strings.Contains(w.buf.String(), w.want) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}
