package target

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"
)

// References gives the names of the steps whose results are used, each once, and
// whether the branch's own result is. A "${" that begins no reference is an *Error. A
// target with DTM has none.
func (a Target) References() (steps []string, own bool, err error) {
	if a.DTM {
		return nil, false, nil
	}
	add := func(field, s string) error {
		refs, err := split(s)
		if err != nil {
			return wrong(field, "%.80q: %v", s, err)
		}
		for _, r := range refs {
			name, isStep := strings.CutPrefix(r, "steps.")
			if !isStep {
				own = true
				continue
			}
			name, _, _ = strings.Cut(name, ".")
			if !slices.Contains(steps, name) {
				steps = append(steps, name)
			}
		}
		return nil
	}
	if err := add("http", a.HTTP); err != nil {
		return nil, false, err
	}
	if a.GRPC != "" || !bytes.Contains(a.Payload, []byte("{")) || !json.Valid(a.Payload) {
		return steps, own, nil
	}
	for i, end := range textsIn(a.Payload) {
		if err := add("payload", string(a.Payload[i:end])); err != nil {
			return nil, false, err
		}
	}
	return steps, own, nil
}

// textsIn gives where the strings of valid JSON are, without their quotes. References are
// looked for in them as they are written, as the coordinator does: a dollar that is
// written \u0024 begins none.
func textsIn(b []byte) iter.Seq2[int, int] {
	return func(yield func(i, end int) bool) {
		for i := 0; i < len(b); i++ {
			if b[i] != '"' {
				continue
			}
			end := i + 1
			for ; b[end] != '"'; end++ {
				if b[end] == '\\' {
					end++
				}
			}
			if !yield(i+1, end) {
				return
			}
			i = end
		}
	}
}

var errReference = errors.New("want ${steps.NAME}, ${steps.NAME.FIELD}, ${own}, ${own.FIELD}, or $${ for the two characters ${")

// split gives what is between "${" and "}".
func split(s string) (refs []string, err error) {
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			return refs, nil
		}
		if i > 0 && s[i-1] == '$' { // "$${" stands for itself
			s = s[i+2:]
			continue
		}
		ref, rest, closed := strings.Cut(s[i+2:], "}")
		if !closed || !isReference(ref) {
			return nil, errReference
		}
		refs, s = append(refs, ref), rest
	}
}

func isReference(ref string) bool {
	parts := strings.Split(ref, ".")
	if slices.Contains(parts, "") {
		return false
	}
	switch parts[0] {
	case "own":
		return true
	case "steps":
		return len(parts) > 1 && CheckName(parts[1]) == nil
	default:
		return false
	}
}
