package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgserver"
)

// binDir is where the binary is built, once for all tests.
var binDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hf-demo-bin-")
	if err != nil {
		panic(err)
	}
	binDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var buildOnce = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(binDir, "handfast")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/handfast/handfast/cmd/handfast").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return bin, err
})

// build makes the real binary: the demo starts itself several times.
func build(t *testing.T) string {
	t.Helper()
	bin, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// told is what the demo prints with --json.
type told struct {
	Scenarios []struct {
		Scenario, XID, Outcome, Problem, Skipped string
		Held                                     bool
		Before, After, Events                    []string
	}
	Held, Skipped, Total int
}

// play runs the demo, which has to succeed, on its own server where dsn is empty.
// It has a TMPDIR of its own.
func play(t *testing.T, dsn, tmp string, args ...string) (got told) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), build(t), append([]string{"demo", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn, "TMPDIR="+tmp)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errs.String())
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return got
}

func TestEveryScenarioHolds(t *testing.T) {
	t.Parallel()
	tmp := openDir(t)
	got := play(t, "", tmp)
	want := []string{
		"commit", "rollback", "crash-participant", "crash-coordinator-after-decision", "crash-coordinator-before-decision", "contention",
		"xa", "tcc-confirm", "tcc-cancel", "saga-crash", "saga-compensate", "message-crash", "message-rollback", "workflow",
		"mixed-crash", "mixed-rollback",
	}
	if got.Total != len(want) || got.Held != got.Total || got.Skipped != 0 || len(got.Scenarios) != got.Total {
		t.Fatalf("%+v", got)
	}
	for i, s := range got.Scenarios {
		if s.Scenario != want[i] || !s.Held || s.Problem != "" || len(s.XID) != 56 || len(s.Before) != 2 || len(s.After) < 2 || len(s.Events) == 0 {
			t.Errorf("%+v, want %s", s, want[i])
		}
		if strings.Contains(s.Scenario, "crash") && !strings.Contains(strings.Join(s.Events, ""), "pid ") {
			t.Errorf("%s tells of no process that was killed: %q", s.Scenario, s.Events)
		}
	}
	wantEmpty(t, tmp)
}

// A family is all of its scenarios and no other.
func TestAFamilyIsPlayedAlone(t *testing.T) {
	t.Parallel()
	got := play(t, "", openDir(t), "--scenario", "tcc")
	if got.Held != 2 || len(got.Scenarios) != 2 || got.Scenarios[0].Scenario != "tcc-confirm" || got.Scenarios[1].Scenario != "tcc-cancel" {
		t.Fatalf("%+v", got)
	}
}

// Most servers have no places for prepared transactions, and that is no failure.
func TestXAIsSkippedWhereTheServerHasNoPlaces(t *testing.T) {
	t.Parallel()
	dsn := startServer(t)
	got := play(t, dsn, openDir(t), "--scenario", "mixed")
	if got.Held != 0 || got.Skipped != 2 || got.Total != 2 {
		t.Fatalf("%+v", got)
	}
	for _, s := range got.Scenarios {
		if s.Held || s.Problem != "" || !strings.Contains(s.Skipped, "max_prepared_transactions") {
			t.Errorf("%+v", s)
		}
	}
	cmd := exec.CommandContext(t.Context(), build(t), "demo", "--scenario", "xa", "--dsn", dsn)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SKIPPED: the server has max_prepared_transactions = 0; set it") ||
		!strings.HasSuffix(string(out), "\ndemo: 0 of 1 scenarios held, 1 skipped\n") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestHelpTellsEveryScenario(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), build(t), "demo", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range []string{"contention", "xa", "tcc-confirm", "saga-crash", "message-crash", "workflow", "mixed-rollback", "--scenario", "--json"} {
		if !strings.Contains(string(out), s) {
			t.Errorf("no %s in\n%s", s, out)
		}
	}
}

// openDir is a directory that Postgres may use as well, which runs under another
// user where the test is run by root.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hf-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("the demo has left %v", left)
	}
}

// startServer runs a server of somebody else, with the settings it has by default.
func startServer(t *testing.T) (dsn string) {
	t.Helper()
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
	return pg.DSN("postgres")
}

func TestWrongInputIsNamed(t *testing.T) {
	t.Parallel()
	bin := build(t)
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no such scenario":  {[]string{"--scenario", "picnic"}, 2, "crash-coordinator"},
		"half a family":     {[]string{"--scenario", "mix"}, 2, "mixed"},
		"no scenario, JSON": {[]string{"--json", "--scenario", "XA"}, 2, "xa"},
		"an argument":       {[]string{"commit"}, 2, "--scenario"},
		"no such flag":      {[]string{"--speed"}, 2, "--speed"},
		"dead server":       {[]string{"--dsn", "postgres://127.0.0.1:1/postgres?connect_timeout=2"}, 1, "127.0.0.1"},
		"not a URL":         {[]string{"--dsn", "host=127.0.0.1 password=secret"}, 2, "want a URL"},
		"another protocol":  {[]string{"--dsn", "mysql://127.0.0.1/x"}, 2, "want a URL"},
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
	dsn := startServer(t)
	before := databaseNames(t, dsn)
	// In the environment, so that it is seen there as well.
	cmd := exec.CommandContext(t.Context(), build(t), "demo", "--scenario", "crash-participant")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "\ndemo: 1 of 1 scenarios held\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	if u, err := url.Parse(dsn); err != nil || !strings.Contains(string(out), "databases on "+u.Host) {
		t.Fatalf("%v; another server was used:\n%s", err, out)
	}
	if after := databaseNames(t, dsn); !slices.Equal(before, after) {
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
			own := filepath.Join(binDir, "hf-demo-"+strings.ReplaceAll(name, " ", ""))
			if err := os.Link(bin, own); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), own, "demo", "--scenario", "commit", "--keep")
			out := &watched{want: "keeps running", seen: make(chan struct{})}
			cmd.Stdout = out
			tmp := openDir(t)
			cmd.Env = append(os.Environ(), "DATABASE_URL=", "TMPDIR="+tmp)
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
			if n := ofServer(t, fmt.Sprintf("handfast-pg-%d-", cmd.Process.Pid)); n < 2 {
				t.Fatalf("%d things of the private server, want its directory and its process", n)
			}
			if n := running(t, own); n != 5 {
				t.Fatalf("%d processes of the demo, want 5", n)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			<-ended
			server := fmt.Sprintf("handfast-pg-%d-", cmd.Process.Pid)
			deadline := time.Now().Add(20 * time.Second)
			for running(t, own)+ofServer(t, server) > 0 {
				if time.Now().After(deadline) {
					t.Fatalf("%d processes outlive the demo, and %d things of its server", running(t, own), ofServer(t, server))
				}
				time.Sleep(10 * time.Millisecond) // outside processes end on their own time
			}
			if sig == os.Kill {
				play(t, "", tmp, "--scenario", "commit") // the next one removes what nobody could
			}
			wantEmpty(t, tmp)
		})
	}
}

// ofServer counts the processes and directories of a private server.
func ofServer(t *testing.T, name string) int {
	t.Helper()
	n := 0
	for _, base := range []string{os.TempDir(), "/tmp"} {
		dirs, err := filepath.Glob(filepath.Join(base, name+"*"))
		if err != nil {
			t.Fatal(err)
		}
		n += len(dirs)
	}
	return n + processes(t, func(line string) bool { return strings.Contains(line, name) })
}

// running counts the processes of a binary.
func running(t *testing.T, bin string) int {
	t.Helper()
	return processes(t, func(line string) bool { return strings.HasPrefix(line, bin+"\x00") })
}

func processes(t *testing.T, count func(commandLine string) bool) int {
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
		if err == nil && count(string(line)) {
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
