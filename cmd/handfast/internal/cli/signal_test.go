package cli

import (
	"bufio"
	"os"
	"os/exec"
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
	os.Exit(m.Run())
}

// startProcess runs "handfast dev" as a process, with a session open to it.
func startProcess(t *testing.T) (*exec.Cmd, grpc.BidiStreamingClient[handfastv1.ClientMessage, handfastv1.ServerMessage]) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "dev", "--listen", "127.0.0.1:0", "--drain-timeout", "1m")
	cmd.Env = append(os.Environ(), asHandfast+"=1", "TMPDIR="+t.TempDir())
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
	session, err := handfastv1.NewCoordinatorClient(conn).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hello := &handfastv1.ClientFrame{Id: 1, Kind: &handfastv1.ClientFrame_Hello{Hello: &handfastv1.Hello{ClientName: "test"}}}
	if err := session.Send(&handfastv1.ClientMessage{Frames: []*handfastv1.ClientFrame{hello}}); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Recv(); err != nil {
		t.Fatal(err)
	}
	return cmd, session
}

func TestFirstSignalDrains(t *testing.T) {
	t.Parallel()
	cmd, session := startProcess(t)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitDrain(t, session)
	if err := session.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// The client stays, so draining would take its whole minute.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	cmd, session := startProcess(t)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitDrain(t, session)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

// awaitDrain reads until the coordinator says that it goes away.
func awaitDrain(t *testing.T, session grpc.BidiStreamingClient[handfastv1.ClientMessage, handfastv1.ServerMessage]) {
	t.Helper()
	for {
		m, err := session.Recv()
		if err != nil {
			t.Fatalf("no word of draining: %v", err)
		}
		for _, f := range m.GetFrames() {
			if f.GetDrain() != nil {
				return
			}
		}
	}
}
