package refs

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/handfast/handfast/tc/core"
)

// maxDepth bounds the fields of a reference, as each costs a look at all that is in it.
const maxDepth = 32

// scope is what references may name. It belongs to one expansion.
type scope struct {
	before []core.Result
	own    []byte
	roots  map[string]*node // by "own" or "steps." and the name
}

func newScope(before []core.Result, own []byte) *scope { return &scope{before: before, own: own} }

// resolve finds the value for "${...}".
func (s *scope) resolve(ref string) (*node, error) {
	path := ref[len("${") : len(ref)-len("}")]
	v, rest, err := s.root(ref, path)
	if err != nil || rest == "" {
		return v, err
	}
	fields := strings.Split(rest[1:], ".")
	if len(fields) > maxDepth {
		return nil, failed(ref, "it is more than %d fields deep", maxDepth)
	}
	if !v.isJSON {
		return nil, failed(ref, "the result is not JSON, so it has no fields")
	}
	for _, f := range fields {
		next, why := v.field(f)
		if why != "" {
			return nil, failed(ref, "%s", why)
		}
		v = next
	}
	return v, nil
}

// root finds the result that a path begins with, and what is left of the path: nothing,
// or a dot and fields.
func (s *scope) root(ref, path string) (*node, string, error) {
	if rest, ok := after(path, "own"); ok {
		if s.own == nil {
			return nil, "", failed(ref, "the branch has no result of its own")
		}
		return s.node("own", s.own), rest, nil
	}
	path, ok := strings.CutPrefix(path, "steps.")
	if !ok {
		return nil, "", failed(ref, `want ${steps.NAME}, ${steps.NAME.FIELD}, ${own} or ${own.FIELD}; where no reference is meant, "$${"`)
	}
	best, twice, rest := -1, false, ""
	for i := range s.before {
		name := s.before[i].Name
		r, ok := after(path, name)
		switch {
		case !ok || name == "":
		case best < 0 || len(name) > len(s.before[best].Name):
			best, twice, rest = i, false, r
		case len(name) == len(s.before[best].Name):
			twice = true
		}
	}
	switch {
	case best < 0:
		return nil, "", failed(ref, "this step comes after none of that name that has a result; there are: %s", s.names())
	case twice:
		return nil, "", failed(ref, "this step comes after two that are named %q", s.before[best].Name)
	}
	b := &s.before[best]
	return s.node("steps."+b.Name, b.Value), rest, nil
}

// after gives what follows name in path: nothing, or a dot and more.
func after(path, name string) (string, bool) {
	rest, ok := strings.CutPrefix(path, name)
	return rest, ok && (rest == "" || rest[0] == '.')
}

// names lists what can be referred to, for an error.
func (s *scope) names() string {
	const most = 10
	var names []string
	for i := range s.before {
		if n := s.before[i].Name; n != "" {
			names = append(names, strconv.Quote(n))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return "none"
	}
	if len(names) > most {
		names = append(names[:most], "...")
	}
	return strings.Join(names, ", ")
}

func (s *scope) node(key string, value []byte) *node {
	n := s.roots[key]
	if n == nil {
		n = &node{raw: bytes.TrimSpace(value), isJSON: json.Valid(value)}
		if !n.isJSON {
			n.raw = value
		}
		if s.roots == nil {
			s.roots = make(map[string]*node)
		}
		s.roots[key] = n
	}
	return n
}

// node is a value. What is in it is read once, when it is first asked for.
type node struct {
	raw    []byte // if isJSON, without white space around it
	isJSON bool
	object map[string]*node
	array  []*node
}

// field finds a field or an element; why is empty if there is one.
func (n *node) field(name string) (next *node, why string) {
	switch n.raw[0] {
	case '{':
		if n.object == nil {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(n.raw, &fields); err != nil {
				return nil, "the result can't be read: " + err.Error()
			}
			n.object = make(map[string]*node, len(fields))
			for k, v := range fields {
				n.object[k] = &node{raw: v, isJSON: true}
			}
		}
		if next = n.object[name]; next == nil {
			return nil, "there is no field " + quote(name)
		}
		return next, ""
	case '[':
		if n.array == nil {
			var elements []json.RawMessage
			if err := json.Unmarshal(n.raw, &elements); err != nil {
				return nil, "the result can't be read: " + err.Error()
			}
			n.array = make([]*node, len(elements))
			for i, v := range elements {
				n.array[i] = &node{raw: v, isJSON: true}
			}
		}
		i, err := strconv.ParseUint(name, 10, 31)
		if err != nil || int(i) >= len(n.array) {
			return nil, "there is no element " + quote(name) + " in an array of " + strconv.Itoa(len(n.array))
		}
		return n.array[i], ""
	default:
		return nil, "what should have the field " + quote(name) + " is neither an object nor an array"
	}
}

func quote(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.Quote(s)
}

// json is the value as JSON.
func (n *node) json() []byte {
	if n.isJSON {
		return n.raw
	}
	return encode(n.raw)
}

// inString is the value as a part of a JSON string, without quotes.
func (n *node) inString() []byte {
	j := n.raw
	if !n.isJSON || n.raw[0] != '"' {
		j = encode(n.raw)
	}
	return j[1 : len(j)-1]
}

// plain is the value as text.
func (n *node) plain() string {
	if !n.isJSON || n.raw[0] != '"' {
		return string(n.raw)
	}
	var s string
	if err := json.Unmarshal(n.raw, &s); err != nil {
		return string(n.raw) // can't be: it is valid JSON
	}
	return s
}

// encode makes a JSON string of a text.
func encode(text []byte) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(string(text)) // a string into memory can't fail
	return bytes.TrimRight(b.Bytes(), "\n")
}
