//go:build unix

package child

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const parentMode = "HANDFAST_CHILD_TEST_PARENT"

// TestMain can also play a parent that is killed.
func TestMain(m *testing.M) {
	mode := os.Getenv(parentMode)
	if mode == "" {
		os.Exit(m.Run())
	}
	if err := beParent(mode); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// beParent starts a child that sleeps, tells its id, and waits to be killed.
func beParent(mode string) error {
	cmd := exec.Command("sleep", "60")
	if mode == "guard" {
		if err := cmd.Start(); err != nil {
			return err
		}
		if _, err := guard(cmd.Process.Pid, syscall.SIGTERM); err != nil {
			return err
		}
		fmt.Println(cmd.Process.Pid)
		return cmd.Wait()
	}
	p, err := Start(cmd, syscall.SIGTERM)
	if err != nil {
		return err
	}
	fmt.Println(p.PID())
	<-p.Done()
	return p.Err()
}

// The guard is what systems without a signal of the kernel rely on.
func TestChildDiesWithItsParent(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"guard", "start"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), parentMode+"="+mode)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			lines.Scan()
			pid, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			if !alive(pid) {
				t.Fatal("the child does not run")
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			for deadline := time.Now().Add(20 * time.Second); running(pid); {
				if time.Now().After(deadline) {
					t.Fatal("the child outlives its parent")
				}
				time.Sleep(10 * time.Millisecond) // an outside process ends on its own time
			}
		})
	}
}

// running is alive, not counting what only waits to be collected.
func running(pid int) bool {
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && len(out) > 0 && out[0] != 'Z'
}

func TestGuardEndsWithTheChild(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release, err := guard(cmd.Process.Pid, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	release() // waits for the shell
	if !running(cmd.Process.Pid) {
		t.Fatal("the guard killed a child whose parent lives")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestKillTakesTheGroup(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if p.Err() == nil {
		t.Fatal("a killed child ended well")
	}
	for deadline := time.Now().Add(20 * time.Second); running(pid); {
		if time.Now().After(deadline) {
			t.Fatal("what the child started goes on")
		}
		time.Sleep(10 * time.Millisecond) // an outside process ends on its own time
	}
}

func TestProgramThatDoesNotExistIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := Start(exec.Command("/nonexistent"), syscall.SIGKILL); err == nil {
		t.Fatal("started")
	}
}
