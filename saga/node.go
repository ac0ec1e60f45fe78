package saga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// node is a value of JSON or YAML with its place in the text.
type node struct {
	kind      kind
	line, col int
	text      string // of a string; of a number, as JSON has it
	truth     bool
	keys      []*node // of an object, in their order; strings
	items     []*node // of an array; of an object, the values
}

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

func (k kind) String() string {
	return [...]string{"null", "true or false", "a number", "a text", "a list", "an object"}[k]
}

// Bounds of a text, against small texts that become large.
const (
	maxText  = 4 << 20
	maxDepth = 64
	maxNodes = 1 << 20
)

// ParseError is a text that is no definition.
type ParseError struct {
	Line, Column int    // from 1; 0 where they are not known
	Field        string // such as "steps[2].compensate.timeout"; may be empty
	Text         string
}

// Error tells the place, the field, and what is wrong.
func (e *ParseError) Error() string {
	s := "saga: "
	switch {
	case e.Line > 0 && e.Column > 0:
		s += fmt.Sprintf("line %d, column %d: ", e.Line, e.Column)
	case e.Line > 0:
		s += fmt.Sprintf("line %d: ", e.Line)
	}
	if e.Field != "" {
		s += e.Field + ": "
	}
	return s + e.Text
}

// jsonReader makes nodes of JSON.
type jsonReader struct {
	text  []byte
	d     *json.Decoder
	nodes int
	line  int // of offset at
	start int // offset where that line begins
	at    int
}

func readJSON(b []byte) (*node, error) {
	r := &jsonReader{text: b, d: json.NewDecoder(bytes.NewReader(b)), line: 1}
	r.d.UseNumber()
	if i := invalidUTF8(b); i >= 0 {
		line, col := r.place(i)
		return nil, &ParseError{Line: line, Column: col, Text: "it is not UTF-8"}
	}
	if bytes.HasPrefix(b, []byte("\ufeff")) {
		return nil, &ParseError{Line: 1, Column: 1, Text: "it begins with a byte order mark, which JSON must not have; save it as UTF-8 without one"}
	}
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.d.Token(); !errors.Is(err, io.EOF) {
		line, col := r.place(int(r.d.InputOffset()))
		return nil, &ParseError{Line: line, Column: col, Text: "there is more after the end"}
	}
	return n, nil
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// place gives line and column of an offset. Offsets mostly grow.
func (r *jsonReader) place(offset int) (line, col int) {
	if offset < r.at {
		r.line, r.start, r.at = 1, 0, 0
	}
	offset = min(offset, len(r.text))
	for ; r.at < offset; r.at++ {
		if r.text[r.at] == '\n' {
			r.line++
			r.start = r.at + 1
		}
	}
	return r.line, utf8.RuneCount(r.text[r.start:offset]) + 1
}

// token gives the next token and where it begins.
func (r *jsonReader) token() (json.Token, *node, error) {
	i := int(r.d.InputOffset())
	for i < len(r.text) && bytes.IndexByte([]byte(" \t\r\n,:"), r.text[i]) >= 0 {
		i++
	}
	n := &node{}
	n.line, n.col = r.place(i)
	t, err := r.d.Token()
	if err == nil {
		if s, ok := t.(string); ok && strings.ContainsRune(s, utf8.RuneError) {
			if at := halfEscape(r.text[i:r.d.InputOffset()]); at >= 0 {
				n.line, n.col = r.place(i + at)
				return nil, nil, &ParseError{Line: n.line, Column: n.col, Text: fmt.Sprintf("%s is half of a character; want both halves, or the character itself", r.text[i+at:i+at+6])}
			}
		}
		if r.nodes++; r.nodes > maxNodes {
			return nil, nil, &ParseError{Line: n.line, Column: n.col, Text: fmt.Sprintf("it has more than %d values", maxNodes)}
		}
		return t, n, nil
	}
	text := err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		n.line, n.col = r.place(len(r.text))
		text = "the text ends too early"
	}
	return nil, nil, &ParseError{Line: n.line, Column: n.col, Text: text}
}

// halfEscape gives where in a valid JSON string an escape is half of a surrogate pair and
// the other half is not there, or -1. The decoder makes U+FFFD of it.
func halfEscape(s []byte) int {
	unit := func(i int) uint64 {
		if i+6 > len(s) || s[i] != '\\' || s[i+1] != 'u' {
			return 0
		}
		v, _ := strconv.ParseUint(string(s[i+2:i+6]), 16, 16) // the decoder has read it
		return v
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		switch v := unit(i); {
		case v >= 0xd800 && v < 0xdc00 && unit(i+6) >= 0xdc00 && unit(i+6) < 0xe000:
			i += 11
		case v >= 0xd800 && v < 0xe000:
			return i
		default:
			i++
		}
	}
	return -1
}

func (r *jsonReader) value(depth int) (*node, error) {
	t, n, err := r.token()
	if err != nil {
		return nil, err
	}
	return r.rest(t, n, depth)
}

func (r *jsonReader) rest(t json.Token, n *node, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, &ParseError{Line: n.line, Column: n.col, Text: fmt.Sprintf("it is nested more than %d deep", maxDepth)}
	}
	switch t := t.(type) {
	case nil:
	case bool:
		n.kind, n.truth = kindBool, t
	case json.Number:
		n.kind, n.text = kindNumber, t.String()
	case string:
		n.kind, n.text = kindString, t
	case json.Delim:
		n.kind = kindArray
		if t == '{' {
			n.kind = kindObject
		}
		for {
			t, item, err := r.token()
			if err != nil {
				return nil, err
			}
			if t == json.Delim('}') || t == json.Delim(']') {
				return n, nil
			}
			if n.kind == kindObject {
				item.kind, item.text = kindString, t.(string) // the decoder lets nothing else through
				n.keys = append(n.keys, item)
				item, err = r.value(depth + 1)
			} else {
				item, err = r.rest(t, item, depth+1)
			}
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	}
	return n, nil
}

// yamlReader makes nodes of YAML. Aliases are copied, within the bound on nodes.
type yamlReader struct{ nodes int }

func readYAML(b []byte) (*node, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &ParseError{Text: "it is empty"}
		}
		return nil, syntax(b, err)
	}
	var second yaml.Node
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, syntax(b, err)
		}
		return nil, &ParseError{Text: "there is more than one document", Line: second.Line, Column: second.Column}
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, &ParseError{Text: "it is empty"}
	}
	return new(yamlReader).value(doc.Content[0], 0)
}

var (
	syntaxForm  = regexp.MustCompile(`^line ([0-9]+): (?s:(.*))$`)
	unknownForm = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntax makes a ParseError of an error of the YAML library, which names the line in its
// text, or not at all where that is the first one.
func syntax(b []byte, err error) error {
	e := &ParseError{Line: 1, Text: strings.TrimPrefix(err.Error(), "yaml: ")}
	at := -1
	if m := syntaxForm.FindStringSubmatch(e.Text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Text = m[2]
	} else if m := unknownForm.FindStringSubmatch(e.Text); m != nil {
		e.Line = 0
		if alias := []byte("*" + m[1]); bytes.Count(b, alias) == 1 {
			at = bytes.Index(b, alias)
		}
		e.Text = fmt.Sprintf("there is no anchor %q", m[1])
	} else if i := invalidUTF8(b); i >= 0 {
		e.Line, e.Text, at = 0, "it is not UTF-8", i
	} else if i := bytes.IndexFunc(b, func(r rune) bool { return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f }); i >= 0 {
		e.Line, e.Text, at = 0, "control characters are not allowed", i
	}
	if at >= 0 {
		e.Line, e.Column = (&jsonReader{text: b, line: 1}).place(at)
	}
	if e.Text == "found character that cannot start any token" {
		e.Text += "; indent with blanks instead of tabs, and put a text that begins with @ or ` in quotes"
	}
	e.Text = "it is no YAML: " + e.Text
	return e
}

func (r *yamlReader) value(y *yaml.Node, depth int) (*node, error) {
	fail := func(format string, args ...any) (*node, error) {
		return nil, &ParseError{Line: y.Line, Column: y.Column, Text: fmt.Sprintf(format, args...)}
	}
	if r.nodes++; r.nodes > maxNodes {
		return fail("it has more than %d values", maxNodes)
	}
	if depth > maxDepth {
		return fail("it is nested more than %d deep", maxDepth)
	}
	n := &node{line: y.Line, col: y.Column}
	switch y.Kind { //nolint:exhaustive // the rest is refused
	case yaml.AliasNode:
		return r.value(y.Alias, depth+1) // a circle ends at the bound
	case yaml.ScalarNode:
		return scalar(n, y)
	case yaml.SequenceNode:
		n.kind = kindArray
		for _, c := range y.Content {
			item, err := r.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		n.kind = kindObject
		for i := 0; i+1 < len(y.Content); i += 2 {
			key, err := r.value(y.Content[i], depth+1)
			if err != nil {
				return nil, err
			}
			if key.kind != kindString {
				return nil, &ParseError{Line: key.line, Column: key.col, Text: fmt.Sprintf("a key is %s; want a text, in quotes where it looks like something else", key.kind)}
			}
			item, err := r.value(y.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			n.keys, n.items = append(n.keys, key), append(n.items, item)
		}
		return n, nil
	default:
		return fail("a value of a kind that JSON does not have")
	}
}

// scalar reads what is a text, a number, true, false or null in YAML.
func scalar(n *node, y *yaml.Node) (*node, error) {
	fail := func(what string) (*node, error) {
		return nil, &ParseError{Line: y.Line, Column: y.Column, Text: fmt.Sprintf("%.40q: %s", y.Value, what)}
	}
	var err error
	switch tag := y.ShortTag(); tag {
	case "!!null":
	case "!!bool":
		n.kind = kindBool
		if err = y.Decode(&n.truth); err != nil {
			return fail("it is neither true nor false")
		}
	case "!!str", "!!timestamp":
		n.kind, n.text = kindString, y.Value
		if !utf8.ValidString(y.Value) {
			return fail("it is not UTF-8")
		}
	case "!!int", "!!float":
		n.kind = kindNumber
		if n.text, err = number(y); err != nil {
			return fail(err.Error())
		}
	case "!!merge":
		return fail("merging is not supported; write the fields out, or use an alias")
	default:
		return fail("values of type " + tag + " are not supported")
	}
	return n, nil
}

// number gives a number as JSON has it: as it is written, where that is JSON.
func number(y *yaml.Node) (string, error) {
	if s := y.Value; json.Valid([]byte(s)) && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') {
		return s, nil
	}
	var i int64
	var u uint64
	var f float64
	switch {
	case y.ShortTag() == "!!int" && y.Decode(&i) == nil:
		return strconv.FormatInt(i, 10), nil
	case y.ShortTag() == "!!int" && y.Decode(&u) == nil:
		return strconv.FormatUint(u, 10), nil
	case y.Decode(&f) == nil && !math.IsInf(f, 0) && !math.IsNaN(f):
		return strconv.FormatFloat(f, 'g', -1, 64), nil
	default:
		return "", errors.New("it is no number that JSON has")
	}
}

// twice gives the first key that an object below the node has twice, and where that is
// below; nil for none.
func (n *node) twice() (path string, key *node) {
	seen := make(map[string]bool, len(n.keys))
	for i, item := range n.items {
		at := fmt.Sprintf("[%d]", i)
		if n.kind == kindObject {
			at = "." + short(n.keys[i].text)
			if seen[n.keys[i].text] {
				return at, n.keys[i]
			}
			seen[n.keys[i].text] = true
		}
		if path, key := item.twice(); key != nil {
			return at + path, key
		}
	}
	return "", nil
}

// appendJSON gives the node as JSON without spaces.
func (n *node) appendJSON(b []byte) []byte {
	switch n.kind {
	case kindNull:
		return append(b, "null"...)
	case kindBool:
		return strconv.AppendBool(b, n.truth)
	case kindNumber:
		return append(b, n.text...)
	case kindString:
		return appendString(b, n.text)
	case kindArray:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	case kindObject:
		b = append(b, '{')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, n.keys[i].text), ':')
			b = item.appendJSON(b)
		}
		return append(b, '}')
	}
	return b
}

func appendString(b []byte, s string) []byte {
	var w bytes.Buffer
	e := json.NewEncoder(&w)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can always be encoded
	return append(b, bytes.TrimRight(w.Bytes(), "\n")...)
}

// yaml gives the node for the YAML encoder.
func (n *node) yaml() *yaml.Node {
	switch n.kind {
	case kindNull:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	case kindBool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(n.truth)}
	case kindNumber:
		tag := "!!float"
		if _, err := strconv.ParseInt(n.text, 10, 64); err == nil {
			tag = "!!int"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: n.text}
	case kindString:
		return text(n.text)
	case kindArray:
		out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range n.items {
			out.Content = append(out.Content, item.yaml())
		}
		return out
	case kindObject:
		out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for i, item := range n.items {
			out.Content = append(out.Content, text(n.keys[i].text), item.yaml())
		}
		return out
	}
	return nil
}

// plain texts are read as they are written; the encoder quotes those of them that would
// be read as something else, such as null.
var plain = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*(://[A-Za-z0-9_./:-]*[A-Za-z0-9_/])?$`)

func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !plain.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
