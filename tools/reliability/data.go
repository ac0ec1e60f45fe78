package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/handfast/handfast/tests/figures"
)

// input is all that the page is made of.
type input struct {
	Promises []promise
	Suites   []suite
	Untested []string
	Parts    []part
	Figures  map[string]figures.Run // by the name of the suite
	modules  map[string]bool        // directories that are modules of their own
}

// promise is one number of docs/guarantees.md.
type promise struct {
	Number int
	Title  string
}

// suite is an entry of docs/reliability/suites.yaml, which says what each field is.
type suite struct {
	Name     string   `yaml:"name"`
	Title    string   `yaml:"title"`
	Command  string   `yaml:"command"`
	Takes    string   `yaml:"takes"`
	Promises []int    `yaml:"promises"`
	Real     string   `yaml:"real"`
	Model    string   `yaml:"model"`
	Counts   []string `yaml:"counts"`
	Planted  string   `yaml:"planted"`
	// Finds is where the faults are listed that the suite plants; it is about no promise then.
	Finds string `yaml:"finds"`
}

type part struct {
	Part   string  `yaml:"part"`
	Faults []fault `yaml:"faults"`
}

// fault is one that was found.
type fault struct {
	Fault   string `yaml:"fault"`
	Found   string `yaml:"found"`
	Mended  string `yaml:"mended"`
	Test    string `yaml:"test"`    // a package and a test
	Command string `yaml:"command"` // or a command
}

const open = "open"

func load(root string) (*input, error) {
	in := &input{Figures: map[string]figures.Run{}, modules: map[string]bool{}}
	dir := filepath.Join(root, "docs", "reliability")
	guarantees, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err != nil {
		return nil, err
	}
	if in.Promises, err = promises(string(guarantees)); err != nil {
		return nil, fmt.Errorf("docs/guarantees.md: %w", err)
	}
	for name, into := range map[string]any{"suites": &in.Suites, "untested": &in.Untested, "faults": &in.Parts} {
		if err := readYAML(filepath.Join(dir, name+".yaml"), into); err != nil {
			return nil, err
		}
	}
	for _, s := range in.Suites {
		run, err := figures.Read(dir, s.Name)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, err
		case ownPath.MatchString(run.Command):
			return nil, fmt.Errorf("%s.json: its command has a path that is there on one machine only: %s", s.Name, run.Command)
		default:
			in.Figures[s.Name] = run
		}
	}
	for _, p := range in.Parts {
		for _, f := range p.Faults {
			pkg, _, _ := strings.Cut(f.Test, " ")
			if _, err := os.Stat(filepath.Join(root, pkg, "go.mod")); pkg != "" && err == nil {
				in.modules[pkg] = true
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	return in, in.check(files)
}

func readYAML(file string, into any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return nil
}

var numbered = regexp.MustCompile(`(?m)^(\d+)\. \*\*([^*]+)\*\*`)

// promises reads the numbers of the page about guarantees, each with its first words.
func promises(page string) (all []promise, err error) {
	_, text, _ := strings.Cut(page, "\n## Guaranteed\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for _, m := range numbered.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n != len(all)+1 {
			return nil, fmt.Errorf("promise %s comes after %d", m[1], len(all))
		}
		all = append(all, promise{n, strings.TrimSuffix(strings.Join(strings.Fields(m[2]), " "), ".")})
	}
	if len(all) == 0 {
		return nil, errors.New("no promises under \"## Guaranteed\"")
	}
	return all, nil
}

var ownPath = regexp.MustCompile(`(^|[\s="'])/`)

var commit = regexp.MustCompile(`^[0-9a-f]{7,40}$`)

// check refuses what the page could not say: files are those with figures.
func (in *input) check(files []string) error {
	suites := map[string]bool{}
	for _, s := range in.Suites {
		switch {
		case s.Name == "" || suites[s.Name]:
			return fmt.Errorf("suites.yaml: name %q is missing, or there twice", s.Name)
		case s.Command == "" || s.Title == "" || s.Takes == "":
			return fmt.Errorf("suites.yaml: %s lacks a command, a title or how long it takes", s.Name)
		case s.Finds == "" && (len(s.Promises) == 0 || s.Real == "" || s.Model == ""):
			return fmt.Errorf("suites.yaml: %s lacks its promises, or what is real and what a model", s.Name)
		}
		for _, n := range s.Promises {
			if n < 1 || n > len(in.Promises) {
				return fmt.Errorf("suites.yaml: %s: there is no promise %d", s.Name, n)
			}
		}
		suites[s.Name] = true
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".json"); !suites[name] {
			return fmt.Errorf("%s.json: suites.yaml has no suite of that name", name)
		}
	}
	for _, p := range in.Parts {
		for _, f := range p.Faults {
			switch {
			case f.Fault == "" || f.Found == "":
				return fmt.Errorf("faults.yaml: %q does not say what it was, or what found it", f.Fault)
			case f.Mended != open && !commit.MatchString(f.Mended):
				return fmt.Errorf("faults.yaml: %q: mended is %q; want a commit, or open", f.Fault, f.Mended)
			case (f.Test == "") == (f.Command == ""):
				return fmt.Errorf("faults.yaml: %q: want either a test or a command", f.Fault)
			case f.Test != "" && len(strings.Fields(f.Test)) != 2:
				return fmt.Errorf("faults.yaml: %q: test is %q; want a package and a test", f.Fault, f.Test)
			}
		}
	}
	return nil
}
