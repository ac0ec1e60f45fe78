package server

import (
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/handfast/handfast/internal/child"
)

// The servers there are.
const (
	handfast = "handfast"
	dtm      = "dtm"
)

var (
	kind = flag.String("server", handfast, "which server to test: handfast, or dtm to see what DTM's own does")
	from = flag.String("binary", "", "a binary of that server; empty: build it")
)

// Reference tells whether it is DTM's own server that is tested.
func Reference() bool { return *kind == dtm }

const prefix = "handfast-dtm-"

var built struct {
	once sync.Once
	dir  string
	bin  string
	err  error
}

// Run runs the tests, ends the shared server, and removes what was built. m is a
// testing.M, or what runs one. The result is for os.Exit.
func Run(m interface{ Run() int }) int {
	code := m.Run()
	if shared.server != nil {
		shared.server.Kill()
		_ = shared.server.log.Close()
	}
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// binary builds the server, once per test process.
func binary(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() { built.bin, built.err = build() })
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return built.bin
}

func build() (string, error) {
	if *kind != handfast && *kind != dtm {
		return "", fmt.Errorf("-server=%s: want %s or %s", *kind, handfast, dtm)
	}
	child.Sweep("", prefix)
	var err error
	if built.dir, err = child.MakeDir("", prefix); err != nil {
		return "", err
	}
	if *from != "" {
		return filepath.Abs(*from)
	}
	_, here, _, _ := runtime.Caller(0)
	suite := filepath.Dir(filepath.Dir(here))
	bin := filepath.Join(built.dir, *kind)
	cmd := exec.Command("go", "build", "-o", bin) //nolint:noctx // go test has a deadline
	if Reference() {
		cmd.Dir = filepath.Join(suite, "reference")
		cmd.Args = append(cmd.Args, "github.com/dtm-labs/dtm")
	} else {
		cmd.Dir = filepath.Dir(filepath.Dir(suite))
		cmd.Args = append(cmd.Args, "./cmd/handfast")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", *kind, err, out)
	}
	return bin, nil
}

// host is the host and port of a URL.
func host(of string) string {
	u, err := url.Parse(of)
	if err != nil {
		panic(err) // it is one of ours
	}
	return u.Host
}

// port is that of a URL or an address.
func port(of string) string {
	if u, err := url.Parse(of); err == nil && u.Host != "" {
		of = u.Host
	}
	_, p, err := net.SplitHostPort(of)
	if err != nil {
		panic(err) // it is one of ours
	}
	return p
}
