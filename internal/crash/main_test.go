package crash

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
)

// asRole makes this program play a part: its value is a part as JSON.
const asRole = "HANDFAST_CRASH_ROLE"

var (
	everything = flag.Bool("crash.all", false, "die at every point, and not at some")
	cluster    = pgtest.New(pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "100", "max_connections": "300"}})
)

func TestMain(m *testing.M) {
	if text := os.Getenv(asRole); text != "" {
		if err := play(text); err != nil {
			fmt.Fprintln(os.Stderr, "crash:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	// The processes wait for each other most of the time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	begun := time.Now()
	code := cluster.Run(m)
	err := goleak.Find()
	if err != nil && code == 0 {
		code = 1
	}
	if err = errors.Join(err, keep(begun, code)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// part is one process of the three, and what it has to know.
type part struct {
	Role        string // coordinator, participant, caller
	Crash       string // the coordinator's point
	At          int64  // at which message a participant or a caller dies; 0: never
	Coordinator string
	DTM         string // URL of the coordinator's API for DTM's clients
	Gid         string // of the next transaction over it
	Participant string // URL
	StoreDir    string
	DSN         [2]string
	Scenario    string
	Refuse      bool
	Timeout     int // of the transaction, in ms
	Delays      int // how often the machine was too slow for what a caller sets
}

// patient gives more time than d to a machine that was too slow before.
func (p part) patient(d time.Duration) time.Duration { return d << min(p.Delays, 2) }

// timeout is that of the transaction.
func (p part) timeout() time.Duration { return p.patient(time.Duration(p.Timeout) * time.Millisecond) }

func play(text string) error {
	var p part
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	ctx := context.Background()
	if p.Role == "caller" {
		// What was told is read by the test, also where this dies after it.
		return p.call(ctx, func(told string) { fmt.Println(told) })
	}
	var lis []net.Listener
	for i := range listeners[p.Role] {
		l, err := net.FileListener(os.NewFile(3+uintptr(i), "listener"))
		if err != nil {
			return err
		}
		lis = append(lis, l)
	}
	switch p.Role {
	case "coordinator":
		return p.coordinate(ctx, lis)
	case "participant":
		return p.takePart(ctx, lis)
	default:
		return errors.New("no such role: " + p.Role)
	}
}

// listeners is how many addresses a part has.
var listeners = map[string]int{"coordinator": 2, "participant": 1}

// start starts the part as a process. Its addresses outlive it: who calls while it is
// dead waits for the next one.
func (p part) start(lis []*os.File, out io.Writer) (*child.Process, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asRole+"="+string(text))
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.ExtraFiles = lis
	return child.Start(cmd, syscall.SIGKILL)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// kill ends this process, and nothing of it gets any further.
func kill() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {}
}
