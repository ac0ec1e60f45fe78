package target

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// References gives the names of the steps whose results are used, each once, and
// whether the branch's own result is. A "${" that begins no reference is an *Error.
func (a Target) References() (steps []string, own bool, err error) {
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
	d := json.NewDecoder(bytes.NewReader(a.Payload))
	d.UseNumber()
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return steps, own, nil
		}
		if err != nil {
			return nil, false, wrong("payload", "%v", err)
		}
		if s, ok := t.(string); ok {
			if err := add("payload", s); err != nil {
				return nil, false, err
			}
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
