package cli

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

// asHandfast makes the test binary behave as handfast, so that a test can
// have it as a process of its own.
const asHandfast = "HANDFAST_CLI_TEST_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(asHandfast) != "" {
		os.Exit(Main(os.Args[1:], Streams{Out: os.Stdout, Err: os.Stderr, Environ: os.Environ()}))
	}
	os.Exit(cluster.Run(m))
}

type session struct {
	grpc.BidiStreamingClient[handfastv1.ClientMessage, handfastv1.ServerMessage]
}

// send writes one frame.
func (s session) send(t *testing.T, f *handfastv1.ClientFrame) {
	t.Helper()
	if err := s.Send(&handfastv1.ClientMessage{Frames: []*handfastv1.ClientFrame{f}}); err != nil {
		t.Fatal(err)
	}
}

// await reads until a frame is as wanted.
func (s session) await(t *testing.T, what string, ok func(*handfastv1.ServerFrame) bool) *handfastv1.ServerFrame {
	t.Helper()
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("no %s: %v", what, err)
		}
		for _, f := range m.GetFrames() {
			if f.GetError() != nil {
				t.Fatalf("no %s: %v", what, f)
			}
			if ok(f) {
				return f
			}
		}
	}
}

func isDrain(f *handfastv1.ServerFrame) bool { return f.GetDrain() != nil }

// startProcess runs "handfast dev" as a process, with a session open to it.
func startProcess(t *testing.T) (*exec.Cmd, session) {
	t.Helper()
	return startProcessIn(t, t.TempDir())
}

// startProcessIn has its store in dir.
func startProcessIn(t *testing.T, dir string) (*exec.Cmd, session) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "dev", "--listen", "127.0.0.1:0", "--drain-timeout", "1m")
	cmd.Env = append(os.Environ(), asHandfast+"=1", "TMPDIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	m := banner.FindStringSubmatch(first)
	if err != nil || m == nil {
		t.Fatalf("dev said %q, %v", first, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+m[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := handfastv1.NewCoordinatorClient(conn).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := session{stream}
	s.send(t, &handfastv1.ClientFrame{Id: 1, Kind: &handfastv1.ClientFrame_Hello{Hello: &handfastv1.Hello{ClientName: "test"}}})
	s.await(t, "answer to hello", func(f *handfastv1.ServerFrame) bool { return f.GetHello() != nil })
	return cmd, s
}

// commitWithoutVote leaves a commit in flight: its branch never votes.
func (s session) commitWithoutVote(t *testing.T) {
	t.Helper()
	s.send(t, &handfastv1.ClientFrame{Id: 2, Kind: &handfastv1.ClientFrame_Begin{Begin: &handfastv1.BeginRequest{}}})
	id := s.await(t, "XID", func(f *handfastv1.ServerFrame) bool { return f.GetBegin() != nil }).GetBegin().GetXid()
	s.send(t, &handfastv1.ClientFrame{Id: 3, Kind: &handfastv1.ClientFrame_RegisterBranch{RegisterBranch: &handfastv1.RegisterBranchRequest{
		Xid: id, BranchId: strings.Repeat("ab", 16), ResourceId: aUUID, Mode: handfastv1.Mode_MODE_AT}}})
	s.send(t, &handfastv1.ClientFrame{Id: 4, Kind: &handfastv1.ClientFrame_Commit{Commit: &handfastv1.CommitRequest{Xid: id}}})
	s.send(t, &handfastv1.ClientFrame{Id: 5, Kind: &handfastv1.ClientFrame_Get{Get: &handfastv1.GetRequest{Xid: id}}})
	f := s.await(t, "state", func(f *handfastv1.ServerFrame) bool { return f.GetGet() != nil })
	if f.GetGet().GetTransaction().GetPhase() != handfastv1.Phase_PHASE_COLLECTING {
		t.Fatalf("the commit is not in flight: %v", f)
	}
}

func TestFirstSignalDrains(t *testing.T) {
	t.Parallel()
	cmd, s := startProcess(t)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.await(t, "word of draining", isDrain)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// A commit is in flight, so draining would take its whole minute.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	cmd, s := startProcess(t)
	s.commitWithoutVote(t)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.await(t, "word of draining", isDrain)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGINT) {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

func TestDevSweepsTheStoresOfTheKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stores := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	first, _ := startProcessIn(t, dir)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	left := stores()
	second, _ := startProcessIn(t, dir)
	running := stores()
	if len(left) != 1 || len(running) != 1 || left[0] == running[0] {
		t.Errorf("the first left %q, the second has %q", left, running)
	}
	third, _ := startProcessIn(t, dir)
	if both := stores(); len(both) != 2 {
		t.Errorf("two have %q", both)
	}
	for _, p := range []*exec.Cmd{second, third} {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
	if end := stores(); len(end) != 0 {
		t.Errorf("%q stay", end)
	}
}
