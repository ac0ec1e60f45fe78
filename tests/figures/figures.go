// Package figures writes down what a long run of tests counted, so that the page about
// reliability is made from what was measured and not from memory.
//
//	tests/sim, tests/chaos, ...  ──Write──►  docs/reliability/NAME.json  ──►  docs/reliability.md
//
// Each file holds the newest run of one command. Files are small, sorted and readable,
// as they are kept beside the code.
package figures

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Run is what one run of one command counted.
type Run struct {
	// Name is the file's name without ".json".
	Name string `json:"name"`
	// Command repeats the run, from the top of the repository.
	Command string `json:"command"`
	// Commit is the one that was checked out; see Commit.
	Commit string `json:"commit"`
	// Date is the day of the run, as 2006-01-02.
	Date string `json:"date"`
	// Seconds is how long it took.
	Seconds int `json:"seconds"`
	// Counts are what the page shows, in the order of their names.
	Counts map[string]int64 `json:"counts"`
	// Failures are what went wrong, a line each; none if the run was clean.
	Failures []string `json:"failures,omitempty"`
}

// Write puts the run into the directory, in place of the last one of its name.
func Write(dir string, run Run) error {
	switch {
	case run.Name == "" || run.Name != filepath.Base(run.Name):
		return fmt.Errorf("name %q: want that of a file", run.Name)
	case run.Command == "":
		return errors.New("command: nobody could repeat this run")
	}
	if run.Date == "" {
		run.Date = time.Now().UTC().Format(time.DateOnly)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // commands have an && to read
	if err := e.Encode(run); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, run.Name+".json"), b.Bytes(), 0o644) //nolint:gosec // a page for everybody
}

// Read gives the newest run of a name.
func Read(dir, name string) (run Run, err error) {
	b, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if err != nil {
		return run, err
	}
	if err := json.Unmarshal(b, &run); err != nil {
		return run, fmt.Errorf("%s.json: %w", name, err)
	}
	if run.Name != name {
		return run, fmt.Errorf("%s.json: it says that it is %q", name, run.Name)
	}
	return run, nil
}
