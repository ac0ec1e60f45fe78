package refs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/handfast/handfast/tc/core"
)

// MaxSize bounds what references may make of a payload, in bytes.
const MaxSize = 4 << 20

// Error says why something can't be sent. Trying again does not help.
type Error struct {
	Reference string // as it was written, possibly cut
	Why       string
}

func (e *Error) Error() string { return fmt.Sprintf("reference %s: %s", e.Reference, e.Why) }

func failed(ref, format string, args ...any) error {
	const most = 200
	if len(ref) > most {
		ref = strings.ToValidUTF8(ref[:most], "") + "..."
	}
	return &Error{Reference: strings.ToValidUTF8(ref, "\uFFFD"), Why: fmt.Sprintf(format, args...)}
}

// Expand replaces the references in a payload. before are the results of the steps that
// this one comes after, own is the branch's own result. The payload is never changed; a
// payload without references is given back itself. Errors are *Error.
func Expand(payload []byte, before []core.Result, own []byte) ([]byte, error) {
	if !bytes.Contains(payload, []byte("${")) || !json.Valid(payload) {
		return payload, nil
	}
	s := newScope(before, own)
	var out []byte
	done := 0 // payload[:done] is in out
	for i := 0; i < len(payload); {
		if payload[i] != '"' {
			i++
			continue
		}
		end := stringEnd(payload, i)
		raw := payload[i+1 : end-1]
		if bytes.Contains(raw, []byte("${")) {
			out = append(out, payload[done:i]...)
			var err error
			if out, err = s.str(out, string(raw), isKey(payload, end)); err != nil {
				return nil, err
			}
			done = end
		}
		i = end
	}
	if done == 0 {
		return payload, nil
	}
	out = append(out, payload[done:]...)
	if len(out) > MaxSize {
		return nil, tooLong()
	}
	return out, nil
}

// stringEnd is the index behind the string that begins at b[i], in valid JSON.
func stringEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// isKey tells whether the string that ends before b[i] is the key of an object.
func isKey(b []byte, i int) bool {
	b = bytes.TrimLeft(b[i:], " \t\r\n")
	return len(b) > 0 && b[0] == ':'
}

// str appends what becomes of the JSON string with the given text between its quotes.
func (s *scope) str(out []byte, raw string, key bool) ([]byte, error) {
	parts, err := split(raw)
	if err != nil {
		return nil, err
	}
	if len(parts) == 1 && parts[0].ref && !key {
		v, err := s.fromJSON(parts[0].text)
		if err != nil {
			return nil, err
		}
		return s.bounded(append(out, v.json()...))
	}
	out = append(out, '"')
	for _, p := range parts {
		switch {
		case !p.ref:
			out = append(out, p.text...)
		case key:
			return nil, failed(p.text, "the key of an object can't be a reference")
		default:
			v, err := s.fromJSON(p.text)
			if err != nil {
				return nil, err
			}
			if out, err = s.bounded(append(out, v.inString()...)); err != nil {
				return nil, err
			}
		}
	}
	return append(out, '"'), nil
}

// fromJSON resolves a reference that is written in a JSON string.
func (s *scope) fromJSON(ref string) (*node, error) {
	if strings.Contains(ref, `\`) {
		var text string
		if err := json.Unmarshal([]byte(`"`+ref+`"`), &text); err != nil {
			return nil, failed(ref, "an escape is broken")
		}
		ref = text
	}
	v, err := s.resolve(ref)
	if err == nil && !v.isJSON && !utf8.Valid(v.raw) {
		return nil, failed(ref, "the result is neither JSON nor UTF-8, so it can't stand in JSON")
	}
	return v, err
}

func (s *scope) bounded(out []byte) ([]byte, error) {
	if len(out) > MaxSize {
		return nil, tooLong()
	}
	return out, nil
}

func tooLong() error {
	return failed("${...}", "the payload is longer than %d bytes with all values in their places", MaxSize)
}

// ExpandText replaces the references in a name. Values stand as they are.
func ExpandText(text string, before []core.Result, own []byte) (string, error) {
	return newScope(before, own).text(text, func(v string) string { return v })
}

// ExpandURL replaces the references in an absolute URL, behind its host. It fails where
// a value would change the host, or the depth of the path.
func ExpandURL(url string, before []core.Result, own []byte) (string, error) {
	if !strings.Contains(url, "${") {
		return url, nil
	}
	rest := strings.Index(url, "://") + len("://")
	if rest < len("://") {
		rest = 0
	}
	if n := strings.IndexAny(url[rest:], "/?#"); n >= 0 {
		rest += n
	} else {
		rest = len(url)
	}
	if host := url[:rest]; strings.Contains(host, "${") {
		return "", failed(host, "a reference can't stand for the scheme or the host of a URL")
	}
	tail, err := newScope(before, own).text(url[rest:], escape)
	if err != nil {
		return "", err
	}
	path, _, _ := strings.Cut(tail, "?")
	path, _, _ = strings.Cut(path, "#")
	for element := range strings.SplitSeq(path, "/") {
		if element == "." || element == ".." {
			return "", failed(url[rest:], "an element of the path became %q", element)
		}
	}
	return url[:rest] + tail, nil
}

// escape leaves only what RFC 3986 calls unreserved: nothing of the rest is the
// same in a path and in a query.
func escape(v string) string {
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(v))
	for i := range len(v) {
		switch c := v[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			out = append(out, c)
		default:
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

func (s *scope) text(text string, as func(string) string) (string, error) {
	if !strings.Contains(text, "${") {
		return text, nil
	}
	parts, err := split(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, p := range parts {
		if !p.ref {
			out.WriteString(p.text)
			continue
		}
		v, err := s.resolve(p.text)
		if err != nil {
			return "", err
		}
		out.WriteString(as(v.plain()))
		if out.Len() > MaxSize {
			return "", tooLong()
		}
	}
	return out.String(), nil
}

// part is text, or a reference with its braces.
type part struct {
	text string
	ref  bool
}

// split finds the references of a text, and takes the second dollar of "$${" out.
func split(text string) ([]part, error) {
	var parts []part
	for text != "" {
		i := strings.Index(text, "${")
		switch {
		case i < 0:
			return append(parts, part{text: text}), nil
		case i > 0 && text[i-1] == '$':
			parts = append(parts, part{text: text[:i-1] + "${"})
			text = text[i+2:]
			continue
		case i > 0:
			parts = append(parts, part{text: text[:i]})
			text = text[i:]
		}
		end := strings.IndexByte(text, '}')
		if end < 0 {
			return nil, failed(text, `it has no end; want "}", or "$${" where no reference is meant`)
		}
		if ref := text[:end+1]; !utf8.ValidString(ref) {
			return nil, failed(ref, "it is not UTF-8")
		}
		parts = append(parts, part{text: text[:end+1], ref: true})
		text = text[end+1:]
	}
	return parts, nil
}
