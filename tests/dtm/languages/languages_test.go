// Package languages_test runs DTM's clients of other languages, as their registries
// have them, against the server:
//
//	../python/scenarios.py   ─┐                       ┌─► server ─┐
//	../java/Scenarios.java   ─┴─ client's library ────┘           │
//	     branches on a free port ◄── calls, each one checked ─────┘
//
// What a program needs is fetched once and kept in the user's cache.
package languages_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/dtm/server"
)

const (
	// fetching is how long the libraries of a language may take to come.
	fetching = 5 * time.Minute
	// attempts is how often it is tried.
	attempts = 3
	// running is how long a program may take. On DTM's own server it waits
	// some 20 seconds for a branch to be asked again.
	running = 3 * time.Minute
)

// require makes a language that cannot be had a failure instead of a skip.
const require = "HANDFAST_REQUIRE_LANGUAGES"

func TestMain(m *testing.M) { os.Exit(server.Run(m)) }

func TestPythonClient(t *testing.T) {
	t.Parallel()
	python := python(t)
	wants := "../python/requirements.txt"
	dir := prepare(t, "python", wants, []string{python, version(t, python, "-VV")}, func(ctx context.Context, dir string) error {
		if err := command(ctx, python, "-m", "venv", dir); err != nil {
			return err
		}
		return command(ctx, inVenv(dir), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
			"--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", wants)
	})
	run(t, inVenv(dir), "-I", "-B", "../python/scenarios.py", "--dtm", server.Start(t).HTTP)
}

func TestJavaClient(t *testing.T) {
	t.Parallel()
	maven := java(t)
	wants := "../java/pom.xml"
	dir := prepare(t, "java", wants, nil, func(ctx context.Context, dir string) error {
		return command(ctx, maven, "-q", "-B", "-f", wants, "-Doutput="+dir, "validate")
	})
	run(t, "java", "-Dfile.encoding=UTF-8", "-cp", filepath.Join(dir, "lib", "*"), "../java/Scenarios.java",
		"--dtm", server.Start(t).HTTP)
}

// run runs a program of scenarios.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), running)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", args[len(args)-3], err, out)
	}
	if !bytes.Contains(out, []byte("ok   saga succeeds")) {
		t.Fatalf("ran nothing:\n%s", out)
	}
	t.Logf("\n%s", out)
}

// python is a Python that is new enough for the libraries and can make an
// environment for them.
func python(t *testing.T) string {
	t.Helper()
	const check = `import sys, venv, ensurepip; sys.exit("it is " + sys.version if sys.version_info < (3, 10) else 0)`
	var errs []error
	for _, name := range []string{"python3", "python"} {
		err := command(t.Context(), name, "-c", check)
		if err == nil {
			return name
		}
		errs = append(errs, err)
	}
	missing(t, fmt.Errorf("no Python 3.10 or later with venv: %w", errors.Join(errs...)))
	return ""
}

func inVenv(dir string) string { return filepath.Join(dir, "bin", "python") }

// java looks for a JDK of 17 or later and gives Maven.
func java(t *testing.T) (maven string) {
	t.Helper()
	// Asked for by name, since a runtime alone cannot compile the program.
	out, err := exec.CommandContext(t.Context(), "java", "--list-modules").CombinedOutput()
	if err != nil {
		missing(t, fmt.Errorf("no Java 17 or later: %w\n%s", err, out))
	}
	var major int
	_, after, found := strings.Cut(string(out), "jdk.compiler@")
	if _, err := fmt.Sscanf(after, "%d", &major); !found || err != nil || major < 17 {
		missing(t, errors.New("java is no JDK of 17 or later"))
	}
	if maven, err = exec.LookPath("mvn"); err != nil {
		missing(t, err)
	}
	return maven
}

// version is what a program says about itself.
func version(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		missing(t, err)
	}
	return string(out)
}

// missing skips the test, or fails it where the languages have to be there.
func missing(t *testing.T, err error) {
	t.Helper()
	if os.Getenv(require) == "1" {
		t.Fatalf("%s=1, but: %v", require, err)
	}
	t.Skip(err)
}

// prepare gives the directory that fill fills with the libraries of a language,
// as the file wants says. It is filled again only when that file or one of the
// other things changes that it depends on.
func prepare(t *testing.T, language, wants string, others []string, fill func(context.Context, string) error) string {
	t.Helper()
	text, err := os.ReadFile(wants)
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%q", text, others))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir() // nobody has said where to keep anything
	}
	cache = filepath.Join(cache, "handfast", "dtm-clients")
	dir := filepath.Join(cache, fmt.Sprintf("%s-%x", language, key[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	half, err := os.MkdirTemp(cache, language+"-half-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(half) //nolint:errcheck // it is in a cache
	ctx, cancel := context.WithTimeout(t.Context(), fetching)
	defer cancel()
	err = fill(ctx, half)
	for n := 1; err != nil && n < attempts && ctx.Err() == nil; n++ { // a registry may be away for a moment
		t.Logf("the libraries of %s, attempt %d: %v", language, n, err)
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
		err = fill(ctx, half)
	}
	if err != nil {
		missing(t, fmt.Errorf("the libraries of %s cannot be had: %w", language, err))
	}
	// Another process may have been faster.
	if err := os.Rename(half, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return dir
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
