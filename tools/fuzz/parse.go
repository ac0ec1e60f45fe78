package main

import (
	"bufio"
	"bytes"
	"regexp"
	"strconv"
	"strings"
)

// target is one function that is fuzzed.
type target struct{ pkg, name string }

func (t target) String() string { return t.pkg + "." + t.name }

// testFiles is a template for go list: a package, and the files of its tests.
const testFiles = `{{.ImportPath}}{{$d := .Dir}}{{range .TestGoFiles}}|{{$d}}/{{.}}{{end}}{{range .XTestGoFiles}}|{{$d}}/{{.}}{{end}}`

var function = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// targets reads the files that go list names. To ask go test for a list would link every
// test of the module.
func targets(list []byte, read func(string) ([]byte, error)) (all []target, err error) {
	for s := bufio.NewScanner(bytes.NewReader(list)); s.Scan(); {
		files := strings.Split(s.Text(), "|")
		for _, file := range files[1:] {
			b, err := read(file)
			if err != nil {
				return nil, err
			}
			for _, m := range function.FindAllSubmatch(b, -1) {
				all = append(all, target{files[0], string(m[1])})
			}
		}
	}
	return all, nil
}

// counted is what a run of one target says at its end.
type counted struct {
	inputs, interesting int64
	// input is the file with what it failed on, or that there is none.
	input string
	// late: it failed only because its time ended while an input was running, which go test
	// takes for a failure now and then (go.dev/issue/75804, mended in Go 1.27).
	late bool
}

var (
	progress = regexp.MustCompile(`(?m)^fuzz: elapsed: .* execs: (\d+) .* new interesting: (\d+)`)
	ended    = regexp.MustCompile(`(?m)^--- FAIL: \w+ \([\d.]+s\)\n    context deadline exceeded\nFAIL$`)
	written  = regexp.MustCompile(`Failing input written to (\S+)`)
)

func count(out []byte) (c counted) {
	if all := progress.FindAllSubmatch(out, -1); len(all) > 0 {
		last := all[len(all)-1]
		c.inputs, _ = strconv.ParseInt(string(last[1]), 10, 64)
		c.interesting, _ = strconv.ParseInt(string(last[2]), 10, 64)
	}
	c.input = "failed without an input of its own"
	if m := written.FindSubmatch(out); m != nil {
		c.input = string(m[1])
	}
	c.late = ended.Match(out) && !written.Match(out)
	return c
}
