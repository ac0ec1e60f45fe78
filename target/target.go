package target

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/xid"
)

// Target is one call of the coordinator. HTTP, GRPC and Handler make one; it is plain
// data, and exactly one of its first three fields is set. The zero Target is none.
type Target struct {
	HTTP    string // http:// or https://; the payload is POSTed
	GRPC    string // host:port/package.Service/Method, or grpcs:// before it for TLS; the payload is the encoded request
	Handler string // the name of a function in Group or in Resource
	// Group is the group of services that has Handler.
	Group string
	// Resource is instead of Group: the database whose services have Handler.
	Resource xid.ResourceID

	Payload []byte            // at most MaxPayload
	Headers map[string]string // at most MaxHeaders; HTTP headers, gRPC metadata, fields of a call
	Timeout time.Duration     // of one call; 0: 10 s. At most MaxTimeout
	Delay   time.Duration     // before the first call, from when it may be made. At most MaxDelay
	DTM     bool              // called as DTM's server would; see the option of that name

	err     error // of Payload
	invalid error // of Invalid
}

// The bounds of the coordinator, checked by Validate.
const (
	MaxPayload = 1 << 20 // bytes
	MaxHeaders = address.MaxHeaders
	MaxAddress = address.MaxLen // bytes
	MaxTimeout = time.Hour
	MaxDelay   = 30 * 24 * time.Hour
	// MaxName is the length of the longest name of a step or a handler, in bytes.
	MaxName = 128
)

// Option changes a target.
type Option func(*Target)

// HTTP is a POST. 2xx is done, 409 failed for good, 425 asks to come back later, and
// everything else is tried again. The answer's body is the result.
func HTTP(url string, opts ...Option) Target { return build(Target{HTTP: url}, opts) }

// GRPC is a unary call of host:port/package.Service/Method, with TLS where "grpcs://" is
// before it. OK is done, ABORTED
// failed for good, FAILED_PRECONDITION asks to come back later, and everything else
// is tried again. The encoded answer is the result.
func GRPC(address string, opts ...Option) Target { return build(Target{GRPC: address}, opts) }

// Handler is a function that services attach under the name of their group; see
// package handlers.
func Handler(group, name string, opts ...Option) Target {
	return build(Target{Handler: name, Group: group}, opts)
}

// DatabaseHandler is a function that the services of one database attach.
func DatabaseHandler(r xid.ResourceID, name string, opts ...Option) Target {
	return build(Target{Handler: name, Resource: r}, opts)
}

func build(a Target, opts []Option) Target {
	for _, o := range opts {
		o(&a)
	}
	return a
}

// Payload is what is sent: a []byte or json.RawMessage as it is, any other value as
// JSON. A value that can't be JSON is an error of Validate.
func Payload(v any) Option {
	return func(a *Target) { a.Payload, a.err = Encode(v) }
}

// Header adds a header. Names that begin with "handfast-" are the coordinator's.
func Header(name, value string) Option {
	return func(a *Target) {
		a.Headers = maps.Clone(a.Headers)
		if a.Headers == nil {
			a.Headers = make(map[string]string, 1)
		}
		a.Headers[name] = value
	}
}

// Timeout sets how long one call may take; then it is tried again. The default is 10 s.
func Timeout(d time.Duration) Option { return func(a *Target) { a.Timeout = d } }

// Delay sets how long to wait before the first call, from when it may be made.
func Delay(d time.Duration) Option { return func(a *Target) { a.Delay = d } }

// DTM has HTTP or GRPC called as the server of DTM (github.com/dtm-labs/dtm) calls
// branches, so that a service with DTM's barrier takes part as it is. It sees
//
//	gid         the XID
//	branch_id   the id of the branch, the same for all its actions
//	trans_type  saga, tcc or msg
//	op          saga: action, compensate; TCC: confirm, cancel; message: action, and msg
//	            for the check-back
//
// in the query of the URL, behind what is there, or as dtm-gid and so on in the metadata
// of gRPC; and no header of Handfast. A call without a payload is a GET.
//
// 200 and OK are done; 409, ABORTED, and FAILURE in the body are the no of a step or of a
// check-back; 425, FAILED_PRECONDITION, and ONGOING in the body ask to come back later;
// everything else is tried again, and so is a no of what has to happen. Redirects are
// followed. There is no result. "${" in the payload and in the URL is nothing special.
//
// The barrier undoes only what it has seen done. So whoever calls Try of TCC by itself has
// to send gid, branch_id, trans_type=tcc and op=try along: XID and Branch of the identity
// that tcc.Call gives. A workflow has no such targets.
func DTM() Option { return func(a *Target) { a.DTM = true } }

// Invalid makes Validate fail with an *Error of this field and text. It is for packages
// that make targets, and find that what they were given can't be one; so that it is told
// where all that is wrong with a target is told, before anything is sent. Of several the
// first counts.
func Invalid(field, text string) Option {
	return func(a *Target) {
		if a.invalid == nil {
			a.invalid = &Error{Field: field, Text: text}
		}
	}
}

// IsZero tells whether this is no target.
func (a Target) IsZero() bool {
	return a.HTTP == "" && a.GRPC == "" && a.Handler == "" && a.Group == "" && a.Resource == (xid.ResourceID{}) &&
		len(a.Payload) == 0 && len(a.Headers) == 0 && a.Timeout == 0 && a.Delay == 0 && !a.DTM && a.err == nil && a.invalid == nil
}

// String gives the address.
func (a Target) String() string {
	switch {
	case a.HTTP != "":
		return a.HTTP
	case a.GRPC != "":
		return a.GRPC
	case a.Group != "":
		return a.Group + "/" + a.Handler
	case a.Handler != "":
		return a.Resource.String() + "/" + a.Handler
	default:
		return "none"
	}
}

// Encode gives the payload for a value: a []byte or json.RawMessage as it is, nil as
// nothing, any other value as JSON without line ends.
func Encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%T as JSON: %w", v, err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
