package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"time"

	"github.com/handfast/handfast/tests/figures"
)

func main() {
	each := flag.Duration("for", 20*time.Second, "how long each target runs")
	only := flag.String("only", "", "run what matches: a regular expression for PACKAGE.TARGET")
	report := flag.String("report", "", "write fuzz.json into this directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *each, *only, *report)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, each time.Duration, only, report string) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	commit := figures.Commit(ctx) // before a crash leaves its input
	list, err := goTool(ctx, "list", "-f", testFiles, "./...")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, list)
	}
	all, err := targets(list, os.ReadFile)
	if err != nil {
		return err
	}
	begun := time.Now()
	r := figures.Run{Name: "fuzz", Command: "go run ./tools/fuzz -for " + each.String(), Commit: commit, Counts: map[string]int64{}}
	if only != "" {
		r.Command += " -only '" + only + "'"
	}
	for _, t := range all {
		if !match.MatchString(t.String()) {
			continue
		}
		out, err := goTool(ctx, "test", t.pkg, "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(),
			"-fuzzminimizetime", "100x") // without a bound one input may take a minute of the time
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c := count(out)
		fmt.Printf("%-60s %9d inputs, %4d new\n", t, c.inputs, c.interesting)
		r.Counts["targets"]++
		r.Counts["inputs"] += c.inputs
		r.Counts["new interesting"] += c.interesting
		if err != nil && !c.late {
			r.Failures = append(r.Failures, t.String()+": "+c.input)
			fmt.Printf("%s\n", out)
		}
	}
	r.Counts["crashes"] = int64(len(r.Failures))
	r.Seconds = int(time.Since(begun).Seconds())
	fmt.Printf("%d targets, %d inputs, %d crashes in %d s\n", r.Counts["targets"], r.Counts["inputs"], r.Counts["crashes"], r.Seconds)
	if report != "" {
		if err := figures.Write(report, r); err != nil {
			return err
		}
	}
	switch {
	case r.Counts["targets"] == 0:
		return fmt.Errorf("no target matches %q", only)
	case len(r.Failures) > 0:
		return fmt.Errorf("%d targets failed:\n%s", len(r.Failures), strings.Join(r.Failures, "\n"))
	}
	return nil
}

// goTool runs the go command and gives what it says.
func goTool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it ends what it started
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}
