package dtm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/dtm"
)

// asCoordinator makes this program a coordinator over the directory it names. It writes
// where it listens to its standard output.
const asCoordinator = "HANDFAST_DTM_TEST_DIR"

func beCoordinator(dir string) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := tc.NewServer(context.Background(), tc.Config{
		Listener: lis, StoreDir: dir, Log: slog.New(slog.DiscardHandler), DTM: &dtm.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0"},
	})
	if err != nil {
		return err
	}
	_, err = fmt.Println(s.DTMAddrs())
	return errors.Join(err, os.Stdout.Close(), s.Serve(context.Background()))
}

// mortal is a coordinator in a process of its own, over a directory that outlives it.
type mortal struct {
	*world
	dir  string
	proc *child.Process
}

func (m *mortal) start(t *testing.T) {
	t.Helper()
	if m.dir == "" {
		m.dir = t.TempDir()
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asCoordinator+"="+m.dir)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	m.proc, err = child.Start(cmd, syscall.SIGKILL)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.proc.Kill)
	var overHTTP, overGRPC string
	if _, err = fmt.Fscan(r, &overHTTP, &overGRPC); err != nil {
		t.Fatal(err)
	}
	now, err := dial(overHTTP, overGRPC)
	if err != nil {
		t.Fatal(err)
	}
	m.world = now
	t.Cleanup(func() { _ = now.close() })
	eventually(t, func() (bool, string) {
		a, err := m.try(limited(t), http.MethodGet, "/api/ping", "")
		return err == nil && a.status == http.StatusOK, fmt.Sprint(err)
	})
}

// What was stored is there after a kill, and goes on at once: DTM lets it lie for ten
// seconds, and then takes one after the other.
func TestAKillLosesNothing(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be killed that way here")
	}
	b := newBranches(t)
	m := &mortal{}
	m.start(t)
	const many = 100
	held := func(gid string) string { return b.at("/a", "hold", gid) }
	long := []any{"request_timeout", 60, "retry_interval", 1000} // only the kill makes a call be made again
	m.post(t, "submit", with(msg("msg", "", held("all")), long...)).ok(t)
	for _, gid := range []string{"tcc-submitted", "tcc-aborted", "tcc-prepared"} {
		m.post(t, "prepare", with(trans(gid, "tcc"), append(long, "timeout_to_fail", 1000)...)).ok(t)
		m.post(t, "registerBranch", tccBranch(gid, "01", held("all"), held("all"))).ok(t)
	}
	m.post(t, "submit", trans("tcc-submitted", "tcc")).ok(t)
	m.post(t, "abort", trans("tcc-aborted", "tcc")).ok(t)
	m.post(t, "prepareWorkflow", with(workflow("flow", b.at("/back")), long...)).want(t, 200)
	m.post(t, "registerBranch", progress("flow", "01", "succeed", "R1")).ok(t)
	m.post(t, "prepare", with(msg("msg-prepared", b.at("/ask"), b.at("/a")), "timeout_to_fail", 1000)).ok(t)
	m.post(t, "submit", with(saga("later", b.at("/a", "status", "425"), ""), long...)).ok(t)
	m.get(t, "subscribe", "topic", "t", "url", b.at("/topic")).ok(t)
	b.called(t, "msg", 1)
	b.called(t, "tcc-submitted", 1)
	b.called(t, "tcc-aborted", 1)
	b.called(t, "later", 1)
	for n := range many {
		gid := fmt.Sprintf("saga-%d", n)
		m.post(t, "submit", with(saga(gid, b.at("/before"), b.at("/c"), held("all"), b.at("/c")), long...)).ok(t)
	}
	eventually(t, func() (bool, string) { // as many as may be at one host at once
		n := len(b.of(""))
		return n >= 64, fmt.Sprintf("%d calls", n)
	})

	m.proc.Kill()
	b.open("all")
	m.start(t)
	ticks := newBranches(t) // on a busy machine they come slower, as all else does
	clock(t, m.world, ticks)
	for n := range many {
		m.await(t, fmt.Sprintf("saga-%d", n), "succeed")
	}
	for gid, want := range map[string]string{
		"msg": "succeed 01-action:succeed", "tcc-submitted": "succeed 01-cancel:prepared 01-confirm:succeed",
		"tcc-aborted": "failed 01-cancel:succeed 01-confirm:prepared", "tcc-prepared": "prepared 01-cancel:prepared 01-confirm:prepared",
		"flow": "prepared 01-action:succeed", "msg-prepared": "prepared 01-action:prepared", "later": "submitted",
	} {
		m.await(t, gid, want)
	}
	b.called(t, "later", 2)
	last, seconds := slices.MaxFunc(b.of(""), func(a, b call) int { return a.at.Compare(b.at) }), 0
	for _, c := range ticks.of("") {
		if c.at.Before(last.at) {
			seconds++
		}
	}
	if seconds > 9 {
		t.Errorf("it took %d s", seconds)
	}
	// It is the same for clients: options, payloads and topics are there.
	m.post(t, "submit", with(saga("later", b.at("/a", "status", "425"), ""), long...)).ok(t)
	m.post(t, "submit", saga("later", b.at("/other"), "")).want(t, 409, "other content")
	m.post(t, "submit", saga("saga-1", b.at("/a"), "")).want(t, 409, "current status 'succeed', cannot sumbmit. FAILURE")
	m.post(t, "registerBranch", tccBranch("tcc-prepared", "01", held("all"), held("all"))).ok(t)
	m.post(t, "registerBranch", tccBranch("tcc-prepared", "02", b.at("/a"), "")).ok(t)
	m.post(t, "submit", with(trans("tcc-prepared", "tcc"), "wait_result", true)).ok(t)
	b.want(t, "tcc-prepared", "02-confirm", "01-confirm")
	if f := read[flowAnswer](t, m.post(t, "prepareWorkflow", workflow("flow", b.at("/back")))); len(f.Progresses) != 1 || string(f.Progresses[0].BinData) != "R1" {
		t.Errorf("the workflow is %+v", f)
	}
	m.post(t, "submit", with(msg("msg-prepared", b.at("/ask"), b.at("/a")), "wait_result", true)).ok(t)
	m.post(t, "submit", with(msg("to-topic", "", "topic://t"), "wait_result", true)).ok(t)
	b.want(t, "to-topic", "01-action")
}
