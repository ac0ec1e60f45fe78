package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/handfast/handfast/tests/figures"
)

const head = "# Reliability\n\n" +
	"<!-- Made by `go run ./tools/reliability` from docs/reliability. Do not edit. -->\n\n" +
	"This page is made by `go run ./tools/reliability`; do not edit it. `go run ./tools/reliability -run all`\n" +
	"runs everything on it first, which takes some hours; `-run NAME,NAME` runs some, and `-list` names\n" +
	"them. The figures are in [docs/reliability](reliability), a file for each run.\n\n" +
	"The harnesses are our own, Jepsen-style. Nobody else has audited them.\n"

func (in *input) page() []byte {
	b := bytes.NewBufferString(head)
	in.promised(b)
	in.tested(b)
	in.measured(b)
	in.planted(b)
	in.untested(b)
	in.found(b)
	return b.Bytes()
}

// to writes text to the page; writing to memory does not fail.
func to(b *bytes.Buffer, format string, args ...any) { _, _ = fmt.Fprintf(b, format, args...) }

func (in *input) promised(b *bytes.Buffer) {
	to(b, "\n## What is promised\n\n")
	to(b, "These are the first words of each promise. [The page on guarantees](guarantees.md#guaranteed) has the\n"+
		"exact sentences, [what is not guaranteed](guarantees.md#not-guaranteed), and the [tests](guarantees.md#how-each-is-tested)\n"+
		"that would fail without each. These come beside the suites below.\n\n| | promise | suites that look at it |\n|---:|---|---|\n")
	for _, p := range in.Promises {
		var by []string
		for _, s := range in.Suites {
			if slices.Contains(s.Promises, p.Number) {
				by = append(by, "`"+s.Name+"`")
			}
		}
		to(b, "| %d | %s | %s |\n", p.Number, p.Title, strings.Join(by, ", "))
	}
}

func (in *input) tested(b *bytes.Buffer) {
	to(b, "\n## How it is tested\n\n| suite | | what is real | what is a model, or left out | it can fail |\n|---|---|---|---|---|\n")
	for _, s := range in.Suites {
		if s.Finds == "" {
			to(b, "| %s | `%s` | %s | %s | %s |\n", s.Title, s.Name, s.Real, s.Model, in.canFail(s))
		}
	}
}

// canFail tells how it is known that a suite can fail.
func (in *input) canFail(s suite) string {
	if s.Planted == "" {
		return ""
	}
	var all []string
	for _, name := range strings.Split(s.Planted, ", ") {
		i := slices.IndexFunc(in.Suites, func(o suite) bool { return o.Name == name })
		if i < 0 {
			return s.Planted // a sentence
		}
		text := "`" + name + "`: not measured yet"
		if r, ok := in.Figures[name]; ok {
			text = fmt.Sprintf("`%s`: %d of %d planted faults found", name, r.Counts["found"], r.Counts["planted"])
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func (in *input) measured(b *bytes.Buffer) {
	to(b, "\n## Figures\n\nEach row is the newest run of its command. A commit with a + had changes beside it.\n\n"+
		"| suite | what was counted | command | commit | date | took |\n|---|---|---|---|---|---:|\n")
	for _, s := range in.Suites {
		r, ok := in.Figures[s.Name]
		if !ok {
			to(b, "| `%s` | not measured yet | `%s` | | | |\n", s.Name, command(s.Command))
			continue
		}
		to(b, "| `%s` | %s | `%s` | %s | %s | %s |\n", s.Name, counted(s, r), r.Command, r.Commit, r.Date, took(r.Seconds))
	}
}

// command is what runs a suite, without where its figures go: that is of no use here.
func command(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		if strings.HasSuffix(w, ".figures") || strings.HasSuffix(w, "report") && strings.HasPrefix(w, "-") {
			return strings.Join(slices.Delete(words, i, min(i+2, len(words))), " ")
		}
	}
	return s
}

func counted(s suite, r figures.Run) string {
	names := s.Counts
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(r.Counts))
	}
	var all []string
	for _, n := range names {
		if c, ok := r.Counts[n]; ok {
			all = append(all, thousands(c)+" "+strings.TrimPrefix(n, "faults: "))
		}
	}
	text := strings.Join(all, ", ")
	if len(r.Failures) > 0 {
		text += fmt.Sprintf("; **not clean**: %s", cell(strings.Join(r.Failures, "; ")))
	}
	return text
}

// cell makes a text fit into a table.
func cell(s string) string {
	s = strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func took(seconds int) string {
	switch {
	case seconds < 120:
		return strconv.Itoa(seconds) + " s"
	case seconds < 7200:
		return strconv.Itoa((seconds+30)/60) + " min"
	}
	return fmt.Sprintf("%.1f h", float64(seconds)/3600)
}

func (in *input) planted(b *bytes.Buffer) {
	to(b, "\n## Planted faults\n\nA check that can't fail shows nothing. So faults are planted, one at a time, and each has to be found.\n\n"+
		"| suite | found | which they are |\n|---|---:|---|\n")
	var found, all int64
	for _, s := range in.Suites {
		if s.Finds == "" {
			continue
		}
		r, ok := in.Figures[s.Name]
		if !ok {
			to(b, "| %s, `%s` | not measured yet | %s |\n", s.Title, s.Name, s.Finds)
			continue
		}
		found, all = found+r.Counts["found"], all+r.Counts["planted"]
		to(b, "| %s, `%s` | %d of %d | %s |\n", s.Title, s.Name, r.Counts["found"], r.Counts["planted"], s.Finds)
	}
	if all > 0 {
		to(b, "| together | %d of %d | |\n", found, all)
	}
}

func (in *input) untested(b *bytes.Buffer) {
	to(b, "\n## What has not been tested\n\n")
	for _, u := range in.Untested {
		to(b, "- %s\n", u)
	}
}

func (in *input) found(b *bytes.Buffer) {
	to(b, "\n## Every fault that was found\n\nEach correctness fault of Handfast itself that was ever found, by whatever means, oldest first within its\n"+
		"part. *Review* is somebody who read the code, by *experiment* who tried to break it by hand. The last\n"+
		"column is what fails without the mend, or what shows the fault where it is open.\n\n")
	to(b, "| part | found | open |\n|---|---:|---:|\n")
	total, opened := 0, 0
	for _, p := range in.Parts {
		n := 0
		for _, f := range p.Faults {
			if f.Mended == open {
				n++
			}
		}
		total, opened = total+len(p.Faults), opened+n
		to(b, "| [%s](#%s) | %d | %d |\n", p.Part, anchor(p.Part), len(p.Faults), n)
	}
	to(b, "| together | %d | %d |\n", total, opened)
	for _, p := range in.Parts {
		to(b, "\n### %s\n\n| what went wrong | found by | mended | shown by |\n|---|---|---|---|\n", p.Part)
		for _, f := range p.Faults {
			mended := "`" + f.Mended + "`"
			if f.Mended == open {
				mended = "**open**"
			}
			to(b, "| %s | %s | %s | `%s` |\n", cell(f.Fault), cell(f.Found), mended, in.shown(f))
		}
	}
}

func anchor(title string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(title))
}

// shown is the command that shows a fault, or that it stays mended.
func (in *input) shown(f fault) string {
	pkg, test, ok := strings.Cut(f.Test, " ")
	switch {
	case !ok:
		return f.Command
	case in.modules[pkg]:
		return "cd " + pkg + " && go test . -run " + test
	}
	return "go test ./" + pkg + " -run " + test
}
