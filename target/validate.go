package target

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/handfast/handfast/internal/address"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/xid"
)

// Error is a target, or a part of what is made of targets, that the coordinator would
// not take.
type Error struct {
	Field string // such as "http" or "steps[2].compensate.timeout"
	Text  string // what is wrong, and what would be right
}

// Error names the field and what would be right.
func (e *Error) Error() string { return e.Field + ": " + e.Text }

func wrong(field, format string, args ...any) error {
	return &Error{Field: field, Text: fmt.Sprintf(format, args...)}
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// CheckName tells what is wrong with the name of a step. The error has no field.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the name is empty; want letters, digits, \"_\" and \"-\"")
	case len(name) > MaxName:
		return fmt.Errorf("the name is %d bytes long; want at most %d", len(name), MaxName)
	case !nameForm.MatchString(name):
		return fmt.Errorf("the name %.40q; want letters, digits, \"_\" and \"-\"", name)
	}
	return nil
}

// CheckHandler tells what is wrong with a group and the name of a handler in it. The
// name of a handler is that of a step, or several joined with "/".
func CheckHandler(group, name string) error {
	switch {
	case group == "":
		return wrong("group", "empty; want the name of a group of services, such as \"payments\"")
	case len(group) > MaxName || !oneLine(group):
		return wrong("group", "%.40q; want one line of at most %d bytes", group, MaxName)
	}
	return checkHandlerName(name)
}

func checkHandlerName(name string) error {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || len(name) > MaxName || !nameForm.MatchString(part) {
			return wrong("handler", "%.40q; want at most %d letters, digits, \"_\", \"-\", and \"/\" between them", name, MaxName)
		}
	}
	return nil
}

// Validate tells whether the coordinator will take the target. Its errors are *Error.
func (a Target) Validate() error {
	if a.invalid != nil {
		return a.invalid
	}
	if a.err != nil {
		return wrong("payload", "%v", a.err)
	}
	if a.Handler == "" && (a.Group != "" || a.Resource != (xid.ResourceID{})) {
		return wrong("handler", "empty, although a group or a database is named")
	}
	set := 0
	for _, s := range []string{a.HTTP, a.GRPC, a.Handler} {
		if s != "" {
			set++
		}
	}
	switch {
	case set == 0:
		return wrong("target", "has no address; want one of http, grpc and handler")
	case set > 1:
		return wrong("target", "has %d addresses; want one of http, grpc and handler", set)
	}
	if a.DTM && a.Handler != "" {
		return wrong("dtm", "a handler has no dialect; want http or grpc")
	}
	if err := a.checkAddress(); err != nil {
		return err
	}
	if err := a.checkHeaders(); err != nil {
		return err
	}
	switch {
	case len(a.Payload) > MaxPayload:
		return wrong("payload", "%d bytes long; want at most %d", len(a.Payload), MaxPayload)
	case a.Timeout != 0 && (a.Timeout < time.Millisecond || a.Timeout > MaxTimeout):
		return wrong("timeout", "%v; want from 1ms to %v, or 0 for 10s", a.Timeout, MaxTimeout)
	case a.Delay < 0 || a.Delay > MaxDelay:
		return wrong("delay", "%v; want from 0 to %v", a.Delay, MaxDelay)
	}
	_, _, err := a.References()
	return err
}

func (a Target) checkAddress() error {
	switch {
	case len(a.HTTP)+len(a.GRPC) > MaxAddress:
		return wrong("address", "%d bytes long; want at most %d", len(a.HTTP)+len(a.GRPC), MaxAddress)
	case a.HTTP != "":
		parse := address.ParseHTTP
		if a.DTM {
			parse = address.ParsePlainHTTP
		}
		if _, err := parse(a.HTTP); err != nil {
			return wrong("http", "%v", err)
		}
	case a.GRPC != "":
		if _, err := address.ParseGRPC(a.GRPC); err != nil {
			return wrong("grpc", "%v", err)
		}
	case a.Resource != (xid.ResourceID{}):
		if a.Group != "" {
			return wrong("group", "%.40q, and a database is named as well; want one of them", a.Group)
		}
		return checkHandlerName(a.Handler)
	default:
		return CheckHandler(a.Group, a.Handler)
	}
	return nil
}

func (a Target) checkHeaders() error {
	if len(a.Headers) > MaxHeaders {
		return wrong("headers", "%d of them; want at most %d", len(a.Headers), MaxHeaders)
	}
	seen, size := make(map[string]string, len(a.Headers)), 0
	for _, name := range a.headerNames() {
		value, lower := a.Headers[name], strings.ToLower(name)
		size += len(name) + len(value)
		switch other, twice := seen[lower]; {
		case twice:
			return wrong("headers", "%q and %q are the same header", other, name)
		default:
			if err := address.CheckHeader(a.kind(), name, value); err != nil {
				return wrong("headers", "%v", err)
			}
		}
		seen[lower] = name
	}
	if size > address.MaxHeaderBytes {
		return wrong("headers", "%d bytes long; want at most %d", size, address.MaxHeaderBytes)
	}
	return nil
}

func (a Target) kind() address.Kind {
	switch {
	case a.HTTP != "":
		return address.HTTP
	case a.GRPC != "":
		return address.GRPC
	default:
		return address.Handler
	}
}

func (a Target) headerNames() []string {
	names := make([]string, 0, len(a.Headers))
	for n := range a.Headers {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func oneLine(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Proto gives the target as it is sent to the coordinator; nil for none. It has to be
// valid.
func (a Target) Proto() *pb.Action {
	if a.IsZero() {
		return nil
	}
	p := &pb.Action{Url: a.HTTP, Grpc: a.GRPC, Handler: a.Handler, Payload: a.Payload}
	if a.Handler != "" {
		r := a.Resource
		if a.Group != "" {
			r, p.HandlerGroup = xid.ResourceOf(a.Group), a.Group
		}
		p.HandlerResource = r.String()
	}
	if a.DTM {
		p.Dialect = pb.Dialect_DIALECT_DTM
	}
	for _, n := range a.headerNames() {
		p.Headers = append(p.Headers, &pb.Header{Name: n, Value: a.Headers[n]})
	}
	if a.Timeout > 0 {
		p.Timeout = durationpb.New(a.Timeout)
	}
	if a.Delay > 0 {
		p.Delay = durationpb.New(a.Delay)
	}
	return p
}
