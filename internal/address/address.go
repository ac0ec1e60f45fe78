package address

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// MaxLen is the length of the longest address, in bytes.
const MaxLen = 2048

// Kind is how something is called.
type Kind uint8

// The kinds.
const (
	HTTP Kind = iota + 1
	GRPC
	Handler // a function that a client has attached
)

// Address is where something is called.
type Address struct {
	Kind   Kind
	Host   string // host:port, in lower case
	TLS    bool
	Method string // /package.Service/Method; of GRPC
}

const wantURL = "want a URL such as http://host:port/path"

// ParseHTTP reads a URL. References may stand behind its host.
func ParseHTTP(s string) (Address, error) {
	a, tail, err := parseURL(s)
	if err == nil && strings.Contains(tail, "${") && climbs(tail) {
		return Address{}, fmt.Errorf("%.80q has an element \".\" or \"..\" in its path, which can't be along with references", s)
	}
	return a, err
}

// ParsePlainHTTP reads a URL that is called as it is: it has no references.
func ParsePlainHTTP(s string) (Address, error) {
	a, _, err := parseURL(s)
	return a, err
}

// parseURL gives what stands behind the host as well.
func parseURL(s string) (a Address, tail string, err error) {
	scheme, rest, _ := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return Address{}, "", fmt.Errorf("%.80q; %s", s, wantURL)
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.Contains(authority, "@") {
		return Address{}, "", errors.New("it holds credentials; send them in a header")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return Address{}, "", fmt.Errorf("%.80q: %w; %s", s, err, wantURL)
	case u.Hostname() == "":
		return Address{}, "", fmt.Errorf("%.80q has no host; %s", s, wantURL)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	host, err := hostPort(u.Hostname(), port)
	if err != nil {
		return Address{}, "", fmt.Errorf("%.80q: %w", s, err)
	}
	return Address{Kind: HTTP, Host: host, TLS: scheme == "https"}, tail, nil
}

// climbs tells whether a path has an element "." or "..".
func climbs(tail string) bool {
	path, _, _ := strings.Cut(tail, "?")
	path, _, _ = strings.Cut(path, "#")
	for element := range strings.SplitSeq(path, "/") {
		if element == "." || element == ".." {
			return true
		}
	}
	return false
}

var methodForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*$`)

const wantMethod = "want host:port/package.Service/Method, or grpcs:// before it for TLS"

// ParseGRPC reads host:port/package.Service/Method, with grpc:// or grpcs:// before it or
// nothing.
func ParseGRPC(s string) (Address, error) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "grpc", s
	}
	scheme = strings.ToLower(scheme)
	if scheme != "grpc" && scheme != "grpcs" {
		return Address{}, fmt.Errorf("%.80q; %s", s, wantMethod)
	}
	authority, method, _ := strings.Cut(rest, "/")
	if strings.Contains(authority, "@") {
		return Address{}, errors.New("it holds credentials; send them in a header")
	}
	host, port, err := net.SplitHostPort(authority)
	if err != nil || host == "" || port == "" || !methodForm.MatchString(method) {
		return Address{}, fmt.Errorf("%.80q; %s", s, wantMethod)
	}
	if host, err = hostPort(host, port); err != nil {
		return Address{}, fmt.Errorf("%.80q: %w", s, err)
	}
	return Address{Kind: GRPC, Host: host, TLS: scheme == "grpcs", Method: "/" + method}, nil
}

func hostPort(host, port string) (string, error) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("the port is %.20q; want a number from 1 to 65535", port)
	}
	switch {
	case len(host) > 255 || !Visible(host):
		return "", errors.New("want a host of at most 255 ASCII characters; write others as Punycode")
	case strings.Contains(host, "$"):
		return "", errors.New("the host holds a \"$\"; references can only stand behind it")
	case !httpguts.ValidHostHeader(host) || strings.ContainsAny(host, "/\\"):
		return "", errors.New("the host holds a character that no host may hold")
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}

// Visible tells whether a text is visible ASCII.
func Visible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
