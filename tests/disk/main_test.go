package disk

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

var (
	everything = flag.Bool("disk.all", false, "try every call to the file system, not some")
	repeat     = flag.String("disk.repeat", "", "the point that TestRepeat plays")
	report     = flag.String("disk.report", "", "write what was counted into this directory")
)

func TestMain(m *testing.M) {
	flag.Parse()
	begun := time.Now()
	code := m.Run()
	if *report != "" {
		if err := counted.write(*report, time.Since(begun)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// counts are what this run of the tests has tried.
type counts struct {
	mu       sync.Mutex
	n        map[string]int64
	failures []string
}

var counted = &counts{n: map[string]int64{}}

func (c *counts) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[what] += int64(n)
}

var errnoNames = map[syscall.Errno]string{syscall.ENOSPC: "ENOSPC", syscall.EIO: "EIO"}

// run counts one scenario, unless a fault was planted.
func (c *counts) run(r *run, p point, hits int, err error) {
	if r.planted {
		return
	}
	c.add("scenarios", 1)
	c.add("starts of a coordinator", r.lives)
	c.add("transactions", r.transactions)
	for _, f := range p.faults[:min(hits, len(p.faults))] {
		switch f.what {
		case powerBefore, powerAfter:
			c.add(fmt.Sprintf("power losses, %d%% kept", f.keep), 1)
		case failing:
			c.add(fmt.Sprintf("failed calls, %s %s", f.class, errnoNames[f.errno]), 1)
		case lying, short:
			c.add("disks whose "+string(f.class)+" "+string(f.what), 1)
		}
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failures = append(c.failures, fmt.Sprintf("%s: %v", p, err))
	}
}

func (c *counts) write(dir string, took time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	command := "go test ./tests/disk"
	if *everything {
		command += " -disk.all -timeout 2h"
	}
	return figures.Write(dir, figures.Run{
		Name: "disk", Command: command, Commit: figures.Commit(context.Background()), Seconds: int(took.Seconds()),
		Counts: c.n, Failures: c.failures,
	})
}
