package saga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ParseJSON reads a definition. Its errors are *ParseError, joined where there are
// several, with line, column and field: unknown fields, fields that come twice, and
// values of another type are refused. Then Validate looks at what it says; its
// errors have the line of their step.
//
// The payload of a step is its input without the spaces between values.
func ParseJSON(b []byte) (*Definition, error) { return parse(b, readJSON) }

// ParseYAML is ParseJSON for YAML: the same fields, and the input as JSON. Aliases are
// followed. What JSON does not have is refused: keys that are no texts, merging,
// numbers without end, several documents.
func ParseYAML(b []byte) (*Definition, error) { return parse(b, readYAML) }

// MarshalYAML gives what yaml.Marshal of go.yaml.in/yaml/v3 needs. YAML is shorter.
func (d *Definition) MarshalYAML() (any, error) {
	b, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	n, err := readJSON(b)
	if err != nil {
		return nil, err
	}
	return n.yaml(), nil
}

// YAML gives what ParseYAML reads.
func (d *Definition) YAML() ([]byte, error) {
	n, err := d.MarshalYAML()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(n), e.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// UnmarshalJSON is ParseJSON.
func (d *Definition) UnmarshalJSON(b []byte) error {
	p, err := ParseJSON(b)
	if err == nil {
		*d = *p
	}
	return err
}

func parse(b []byte, read func([]byte) (*node, error)) (*Definition, error) {
	if len(b) > maxText {
		return nil, &ParseError{Text: fmt.Sprintf("the text is %d bytes long; want at most %d", len(b), maxText)}
	}
	root, err := read(b)
	if err != nil {
		return nil, err
	}
	p := &parser{places: make(map[string]*node)}
	var doc document
	p.into(root, "", reflect.ValueOf(&doc).Elem())
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	d := p.build(&doc)
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	if err := d.Validate(); err != nil {
		p.locate(d, err)
		return nil, err
	}
	return d, nil
}

// parser fills a document and gathers what is wrong.
type parser struct {
	places map[string]*node // of fields
	errs   []error
}

// locate tells the errors of Validate the lines of their steps.
func (p *parser) locate(d *Definition, err error) {
	lines := make(map[string]int, len(d.steps))
	for i := range d.steps {
		n := p.places[fmt.Sprintf("steps[%d]", i)]
		lines[d.steps[i].name], lines[nth(i)] = n.line, n.line // of two with one name, the second
	}
	var visit func(error)
	visit = func(err error) {
		switch e := err.(type) { //nolint:errorlint // each of them is looked at
		case *Error:
			if e.Step != "" {
				e.Line = lines[e.Step]
			}
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				visit(err)
			}
		}
	}
	visit(err)
}

const maxErrors = 20

func (p *parser) fail(field, format string, args ...any) {
	if len(p.errs) >= maxErrors {
		return
	}
	e := &ParseError{Field: field, Text: fmt.Sprintf(format, args...)}
	if n := p.places[field]; n != nil {
		e.Line, e.Column = n.line, n.col
	}
	p.errs = append(p.errs, e)
}

var rawMessage = reflect.TypeFor[json.RawMessage]()

// into puts a node into a value of the documents.
func (p *parser) into(n *node, field string, v reflect.Value) {
	p.places[field] = n
	if v.Type() == rawMessage {
		if path, key := n.twice(); key != nil {
			p.places[field+path] = key
			p.fail(field+path, "it comes twice")
		}
		v.SetBytes(n.appendJSON(nil))
		return
	}
	want := map[reflect.Kind]kind{
		reflect.String: kindString, reflect.Bool: kindBool, reflect.Uint32: kindNumber,
		reflect.Slice: kindArray, reflect.Map: kindObject, reflect.Struct: kindObject,
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		p.into(n, field, v.Elem())
		return
	}
	if n.kind != want[v.Kind()] {
		p.fail(field, "it is %s; want %s", n.kind, want[v.Kind()])
		return
	}
	switch v.Kind() { //nolint:exhaustive // the documents have no others
	case reflect.String:
		v.SetString(n.text)
	case reflect.Bool:
		v.SetBool(n.truth)
	case reflect.Uint32:
		u, err := strconv.ParseUint(n.text, 10, 32)
		if err != nil {
			p.fail(field, "%.40s; want a whole number from 0 to 4294967295", n.text)
		}
		v.SetUint(u)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
		for i, item := range n.items {
			p.into(item, fmt.Sprintf("%s[%d]", field, i), v.Index(i))
		}
	default:
		p.object(n, field, v)
	}
}

func (p *parser) object(n *node, field string, v reflect.Value) {
	var fields map[string]reflect.Value
	if v.Kind() == reflect.Struct {
		fields = make(map[string]reflect.Value)
		gather(v, fields)
	} else {
		v.Set(reflect.MakeMap(v.Type()))
	}
	seen := make(map[string]bool, len(n.keys))
	for i, key := range n.keys {
		at := strings.TrimPrefix(field+"."+short(key.text), ".")
		if seen[key.text] {
			p.places[at] = key
			p.fail(at, "it comes twice")
			continue
		}
		seen[key.text] = true
		if fields == nil {
			s := reflect.New(v.Type().Elem()).Elem()
			p.into(n.items[i], at, s)
			v.SetMapIndex(reflect.ValueOf(key.text), s)
			continue
		}
		f, ok := fields[key.text]
		if !ok {
			p.places[at] = key
			p.fail(at, "there is no such field; want one of %s", known(fields))
			continue
		}
		p.into(n.items[i], at, f)
	}
}

// gather lists the fields of a struct, those of embedded ones among them.
func gather(v reflect.Value, out map[string]reflect.Value) {
	for i := range v.NumField() {
		if t := v.Type().Field(i); t.Anonymous {
			gather(v.Field(i), out)
		} else {
			name, _, _ := strings.Cut(t.Tag.Get("json"), ",")
			out[name] = v.Field(i)
		}
	}
}

func known(fields map[string]reflect.Value) string {
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func short(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "..."
	}
	return s
}
