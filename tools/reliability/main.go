package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

const page = "docs/reliability.md"

func main() {
	check := flag.Bool("check", false, "write nothing; fail if "+page+" is not what would be written")
	list := flag.Bool("list", false, "name the suites")
	runs := flag.String("run", "", "run these suites before, by name, with commas between them; all: every one")
	root := flag.String("root", ".", "the top of the repository")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := do(ctx, *root, *runs, *check, *list)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "reliability:", err)
		os.Exit(1)
	}
}

func do(ctx context.Context, root, runs string, check, list bool) error {
	in, err := load(root)
	if err != nil {
		return err
	}
	if list {
		for _, s := range in.Suites {
			fmt.Printf("%-18s %-28s %s\n", s.Name, s.Takes, s.Command)
		}
		return nil
	}
	chosen, err := choose(in.Suites, runs)
	if err != nil {
		return err
	}
	var failed error
	for _, s := range chosen {
		// What one suite finds must not keep the others from being measured.
		if err := run(ctx, root, s); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.Name, err))
		}
	}
	if len(chosen) > 0 {
		if in, err = load(root); err != nil {
			return errors.Join(failed, err)
		}
	}
	text := in.page()
	file := filepath.Join(root, page)
	if check {
		have, err := os.ReadFile(file)
		if err == nil && !bytes.Equal(have, text) {
			err = fmt.Errorf("%s is stale: run go run ./tools/reliability", page)
		}
		return errors.Join(failed, err)
	}
	return errors.Join(failed, os.WriteFile(file, text, 0o644)) //nolint:gosec // a page for everybody
}

// choose finds suites by their names.
func choose(all []suite, names string) (chosen []suite, err error) {
	switch names {
	case "":
		return nil, nil
	case "all":
		return all, nil
	}
	byName := map[string]suite{}
	for _, s := range all {
		byName[s.Name] = s
	}
	for _, n := range strings.Split(names, ",") {
		s, ok := byName[n]
		if !ok {
			return nil, fmt.Errorf("-run %s: no such suite in docs/reliability/suites.yaml; -list names them", n)
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

// run runs a suite, which writes its figures itself.
func run(ctx context.Context, root string, s suite) error {
	fmt.Printf("== %s, about %s\n%s\n", s.Name, s.Takes, s.Command)
	cmd := exec.CommandContext(ctx, "sh", "-c", s.Command)
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, os.Stdout, os.Stderr
	return cmd.Run()
}
