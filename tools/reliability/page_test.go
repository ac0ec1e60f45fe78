package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/handfast/handfast/tests/figures"
)

const root = "../.."

// Every fault names a test that exists, and a commit that is in the history.
func TestFaultsNameTestsAndCommitsThatExist(t *testing.T) {
	t.Parallel()
	in, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	whole := history(t)
	seen := map[string]bool{}
	for _, p := range in.Parts {
		for _, f := range p.Faults {
			if seen[f.Fault] {
				t.Errorf("%q is there twice", f.Fault)
			}
			seen[f.Fault] = true
			if pkg, test, ok := strings.Cut(f.Test, " "); ok && !defines(t, pkg, test) {
				t.Errorf("%q: there is no %s in %s", f.Fault, test, pkg)
			}
			if whole && f.Mended != open && exec.CommandContext(t.Context(), "git", "merge-base", "--is-ancestor", f.Mended, "HEAD").Run() != nil {
				t.Errorf("%q: %s is no commit of this branch", f.Fault, f.Mended)
			}
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d faults", len(seen))
	}
}

// history tells whether all commits are there.
func history(t *testing.T) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "rev-parse", "--is-shallow-repository").Output()
	if err != nil || strings.TrimSpace(string(out)) != "false" {
		t.Log("no history here: commits are not looked for")
		return false
	}
	return true
}

func defines(t *testing.T, pkg, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}

// copied is what the page is made of, in a directory where it may be changed.
func copied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "docs"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "docs", "reliability"), os.DirFS(filepath.Join(root, "docs", "reliability"))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "docs", "reliability", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "docs", "guarantees.md"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func keep(t *testing.T, dir string, r figures.Run) {
	t.Helper()
	if err := figures.Write(filepath.Join(dir, "docs", "reliability"), r); err != nil {
		t.Fatal(err)
	}
}

func written(t *testing.T, dir string) string {
	t.Helper()
	if err := do(t.Context(), dir, "", false, false); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestThePageHoldsTheFiguresThatThereAreAndNoOthers(t *testing.T) {
	t.Parallel()
	dir := copied(t)
	empty := written(t, dir)
	in, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range in.Suites {
		if !strings.Contains(empty, "| `"+s.Name+"` | not measured yet | `") {
			t.Errorf("%s is not said to be unmeasured", s.Name)
		}
	}
	for _, p := range in.Promises {
		if !strings.Contains(empty, fmt.Sprintf("| %d | %s |", p.Number, p.Title)) {
			t.Errorf("promise %d is missing", p.Number)
		}
	}
	if strings.Contains(strings.ToLower(empty), "jepsen-tested") {
		t.Error("Jepsen has tested nothing here")
	}
	keep(t, dir, figures.Run{
		Name: "sim", Command: "go test ./tests/sim -run Simulation -seeds 1234567", Commit: "abcdef0+", Date: "2026-01-02", Seconds: 7300,
		Counts: map[string]int64{"seeds": 1234567, "faults: crash of a database": 12}, Failures: []string{"seed 7: a | b\nc"},
	})
	keep(t, dir, figures.Run{Name: "sim-planted", Command: "x", Counts: map[string]int64{"planted": 45, "found": 44}})
	got := written(t, dir)
	for _, want := range []string{
		"| `sim` | 1,234,567 seeds, 12 crash of a database; **not clean**: seed 7: a \\| b c | `go test ./tests/sim -run Simulation -seeds 1234567` | abcdef0+ | 2026-01-02 | 2.0 h |",
		"`sim-planted`: 44 of 45 planted faults found; `sim-source`: not measured yet",
		"| together | 44 of 45 | |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestAStalePageIsNoticed(t *testing.T) {
	t.Parallel()
	dir := copied(t)
	written(t, dir)
	if err := do(t.Context(), dir, "", true, false); err != nil {
		t.Errorf("a fresh page: %v", err)
	}
	keep(t, dir, figures.Run{Name: "fuzz", Command: "x", Counts: map[string]int64{"inputs": 3}})
	if err := do(t.Context(), dir, "", true, false); err == nil || !strings.Contains(err.Error(), "stale") {
		t.Errorf("a stale page: %v", err)
	}
}

func TestSuitesAreRunByName(t *testing.T) {
	t.Parallel()
	dir := copied(t)
	suites := `
- name: fine
  title: Fine
  command: 'echo "{\"name\": \"fine\", \"command\": \"c\", \"counts\": {\"deaths\": 1600}}" >docs/reliability/fine.json'
  takes: no time
  promises: [1]
  real: all
  model: nothing
- {name: fails, title: Fails, command: "false", takes: no time, promises: [2], real: all, model: nothing}
`
	if err := os.WriteFile(filepath.Join(dir, "docs", "reliability", "suites.yaml"), []byte(suites), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := do(t.Context(), dir, "nonsense", false, false); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a suite that is none: %v", err)
	}
	if err := do(t.Context(), dir, "fails,fine", false, false); err == nil || !strings.Contains(err.Error(), "fails: exit status 1") {
		t.Errorf("a suite that fails: %v", err)
	}
	if got := written(t, dir); !strings.Contains(got, "1,600 deaths") {
		t.Error("what the other one counted is not there")
	}
}

func TestWhatThePageCouldNotSayIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, text, want string }{
		"figures of no suite":      {"stray.json", `{"name": "stray", "command": "c"}`, "no suite of that name"},
		"a path of one machine":    {"sim.json", `{"name": "sim", "command": "go test -x /home/me"}`, "one machine"},
		"a fault without a test":   {"faults.yaml", "- part: A\n  faults: [{fault: f, found: x, mended: open}]\n", "either a test or a command"},
		"a commit that is none":    {"faults.yaml", "- part: A\n  faults: [{fault: f, found: x, mended: soon, command: c}]\n", `mended is "soon"`},
		"a field that is none":     {"faults.yaml", "- part: A\n  faults: [{fault: f, finder: x}]\n", "finder"},
		"a promise that is none":   {"suites.yaml", "- {name: a, title: A, command: c, takes: t, promises: [99], real: r, model: m}\n", "no promise 99"},
		"a suite without anything": {"suites.yaml", "- {name: a}\n", "lacks a command"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := copied(t)
			if err := os.WriteFile(filepath.Join(dir, "docs", "reliability", tc.file), []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := do(t.Context(), dir, "", false, false); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
