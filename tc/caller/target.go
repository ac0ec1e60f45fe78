package caller

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/handfast/handfast/tc/caller/refs"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid/action"
)

// target is where an action is called.
type target struct {
	kind   core.Target
	host   string // host:port, in lower case: what the limits are for
	tls    bool
	method string // /package.Service/Method; for GRPC
}

// parseTarget reads the address of an action, as far as it says where that is.
func parseTarget(a *core.Action) (target, error) {
	if a == nil {
		return target{}, errors.New("there is no action to call")
	}
	switch a.Kind {
	case core.TargetHTTP:
		return parseHTTP(a.Address)
	case core.TargetGRPC:
		return parseGRPC(a.Address)
	case core.TargetNone, core.TargetHandler:
	}
	return target{}, fmt.Errorf("an action of kind %d is not called over HTTP or gRPC", a.Kind)
}

// parseHTTP looks no further than the host: there may be references behind it.
func parseHTTP(address string) (target, error) {
	scheme, rest, ok := strings.Cut(address, "://")
	scheme = strings.ToLower(scheme)
	if !ok || (scheme != "http" && scheme != "https") {
		return target{}, fmt.Errorf("url %.200q: want http:// or https://", address)
	}
	if i := strings.IndexAny(rest, `/?#\`); i >= 0 {
		rest = rest[:i]
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Hostname() == "" {
		return target{}, fmt.Errorf("url %.200q: want a host, or a host and a port", redact(address))
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	host, err := hostPort(u.Hostname(), port)
	if err != nil {
		return target{}, fmt.Errorf("url %.200q: %w", redact(address), err)
	}
	return target{kind: core.TargetHTTP, host: host, tls: scheme == "https"}, nil
}

// redact takes a password out of a URL that can't be read as one.
func redact(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		rest = "..." + rest[at:]
	}
	return scheme + "://" + rest
}

// parseGRPC reads host:port/package.Service/Method, with grpc:// or grpcs:// before it or
// nothing.
func parseGRPC(address string) (target, error) {
	t := target{kind: core.TargetGRPC}
	rest := address
	if scheme, after, ok := strings.Cut(address, "://"); ok {
		switch strings.ToLower(scheme) {
		case "grpcs":
			t.tls = true
		case "grpc":
		default:
			return t, fmt.Errorf("grpc %.200q: want grpc://, grpcs:// or no scheme", address)
		}
		rest = after
	}
	fail := func() (target, error) {
		return target{}, fmt.Errorf("grpc %.200q: want host:port/package.Service/Method", address)
	}
	authority, method, ok := strings.Cut(rest, "/")
	service, name, ok2 := strings.Cut(method, "/")
	if !ok || !ok2 || service == "" || name == "" || strings.Contains(name, "/") || !plain(method) {
		return fail()
	}
	host, port, err := net.SplitHostPort(authority)
	if err != nil || host == "" || strings.ContainsAny(host, "@ ") {
		return fail()
	}
	if t.host, err = hostPort(host, port); err != nil {
		return target{}, fmt.Errorf("grpc %.200q: %w", address, err)
	}
	t.method = "/" + method
	return t, nil
}

func hostPort(host, port string) (string, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %.20q: want a number from 1 to 65535", port)
	}
	if len(host) > 255 || !plain(host) {
		return "", errors.New("want a host of at most 255 ASCII characters; write others as Punycode")
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}

// plain tells whether a text is visible ASCII.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// outgoing is what is sent for an action, with values for its references.
type outgoing struct {
	url     string // for HTTP
	payload []byte
}

func expand(j *job) (outgoing, error) {
	var out outgoing
	var err error
	a := j.call.Action
	if out.payload, err = refs.Expand(a.Payload, j.call.Before, j.call.Own); err != nil {
		return out, fmt.Errorf("the payload can't be sent: %w", err)
	}
	if j.to.kind == core.TargetHTTP {
		if out.url, err = refs.ExpandURL(a.Address, j.call.Before, j.call.Own); err != nil {
			return out, fmt.Errorf("the url can't be called: %w", err)
		}
	}
	for _, h := range a.Header {
		if err := checkHeader(j.to.kind, h); err != nil {
			return out, err
		}
	}
	return out, nil
}

// transportHeaders belong to a connection and not to an action, in lower case.
var transportHeaders = map[string]bool{
	"connection": true, "content-length": true, "expect": true, "host": true, "keep-alive": true,
	"proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
}

func checkHeader(kind core.Target, h core.Header) error {
	name := strings.ToLower(h.Name)
	switch {
	case !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value):
		return fmt.Errorf("header %.100q can't be sent: its name or value has characters that must not be there", h.Name)
	case strings.HasPrefix(name, action.Prefix):
		return fmt.Errorf("header %.100q can't be sent: names that begin with %s are the coordinator's", h.Name, action.Prefix)
	case transportHeaders[name]:
		return fmt.Errorf("header %.100q can't be sent: it belongs to the connection", h.Name)
	case kind == core.TargetGRPC && (strings.HasPrefix(name, "grpc-") || name == "content-type" || name == "user-agent"):
		return fmt.Errorf("header %.100q can't be sent: it belongs to gRPC", h.Name)
	case kind == core.TargetGRPC && !grpcName(name):
		return fmt.Errorf("header %.100q can't be sent: gRPC knows only letters, digits, -, _ and . in names", h.Name)
	case kind == core.TargetGRPC && !strings.HasSuffix(name, "-bin") && !printable(h.Value):
		return fmt.Errorf("header %.100q can't be sent: gRPC knows only visible ASCII and blanks in values, unless the name ends with -bin", h.Name)
	}
	return nil
}

func grpcName(name string) bool {
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

func printable(v string) bool { return plain(strings.ReplaceAll(v, " ", "")) }

// headers gives what goes along with every call of the job.
func headers(j *job, set func(name, value string)) {
	c := &j.call
	// Both number them as the wire does.
	action.Call{XID: c.XID, Branch: c.Branch, Action: action.Action(c.Op), Attempt: c.Attempt}.Each(set)
}
