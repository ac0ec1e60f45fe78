package address_test

import (
	"bytes"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/handfast/handfast/internal/address"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]address.Address{
		"http://Hotel/a?b#c":            {Kind: address.HTTP, Host: "hotel:80"},
		"HTTPS://hotel":                 {Kind: address.HTTP, Host: "hotel:443", TLS: true},
		"http://hotel:/x":               {Kind: address.HTTP, Host: "hotel:80"},
		"http://[::1]:81/${steps.a}":    {Kind: address.HTTP, Host: "[::1]:81"},
		"http://h/../x":                 {Kind: address.HTTP, Host: "h:80"},
		"http://h/x?q=../${own}":        {Kind: address.HTTP, Host: "h:80"},
		"Hotel:65535/hotel.v1.Room/Get": {Kind: address.GRPC, Host: "hotel:65535", Method: "/hotel.v1.Room/Get"},
		"grpc://h:1/S/M":                {Kind: address.GRPC, Host: "h:1", Method: "/S/M"},
		"grpcs://[::1]:1/S/M":           {Kind: address.GRPC, Host: "[::1]:1", TLS: true, Method: "/S/M"},
	} {
		parse := address.ParseHTTP
		if want.Kind == address.GRPC {
			parse = address.ParseGRPC
		}
		if got, err := parse(s); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", s, got, err, want)
		}
	}
}

// What is called as it is may hold what would be a reference, anywhere behind the host.
func TestPlainURLs(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"https://Hotel/../${own}?q=${steps.a}": "hotel:443",
		"http://h/x?q=${":                      "h:80",
		"http://h/a":                           "h:80",
		"http://${own}/":                       "",
		"http://user:secret@h/":                "",
		"ftp://h/":                             "",
	} {
		if got, err := address.ParsePlainHTTP(s); (err == nil) != (want != "") || got.Host != want {
			t.Errorf("%s: got %+v, %v, want %q", s, got, err, want)
		}
	}
}

func TestWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"":                          "want a URL",
		"ftp://h":                   "want a URL",
		"http:///x":                 "has no host",
		"http://:80/":               "has no host",
		"http://h:0/":               `the port is "0"; want a number from 1 to 65535`,
		"http://127.0.0.1:99999/":   `the port is "99999"`,
		"http://h:x/":               "invalid port",
		"http://hötel.localhost/":   "Punycode",
		"http://h%C3%B6tel/":        "Punycode",
		"http://a<b/":               "no host may hold",
		"http://$x/":                "behind it",
		"http://${own}/":            "want a URL",
		"http://h/../${own}":        `element "." or ".."`,
		"http://h/%zz":              "invalid URL escape",
		"http://user:secret@h:x/":   "credentials",
		"http://user:secret@h":      "credentials",
		"grpc:h":                    "want host:port/package.Service/Method",
		"dns://h:1/S/M":             "want host:port",
		"h:1/S":                     "want host:port",
		"h:1/S/M/N":                 "want host:port",
		"h:1/S/${own}":              "want host:port",
		"h/S/M":                     "want host:port",
		":1/S/M":                    "want host:port",
		"h:/S/M":                    "want host:port",
		"h:99999/S/M":               `the port is "99999"`,
		"hötel:1/S/M":               "Punycode",
		"grpc://u:secret@h:1/S/M":   "credentials",
		"${own}:1/S/M":              "references",
		"h:1/package.Service/M\xff": "want host:port",
	} {
		parse := address.ParseGRPC
		if strings.HasPrefix(s, "http") || s == "" || s == "ftp://h" {
			parse = address.ParseHTTP
		}
		if got, err := parse(s); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %+v, %v, want %q", s, got, err, want)
		}
	}
}

// What is accepted can be made a request.
func FuzzHTTP(f *testing.F) {
	for _, s := range []string{"http://h:1/x y?z", "https://[fe80::1%25a]/", "http://h\\x", "http://a\"b/", "http://h/\x7f", "http://h:+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := address.ParseHTTP(s)
		if err != nil {
			return
		}
		r, err := http.NewRequest(http.MethodPost, s, http.NoBody)
		if err == nil {
			err = r.Write(&bytes.Buffer{})
		}
		if err != nil || a.Host == "" {
			t.Errorf("%q: %+v, and then %v", s, a, err)
		}
	})
}

// What is accepted is a method at one host and port, and can be read again.
func FuzzGRPC(f *testing.F) {
	for _, s := range []string{"h:1/p.S/M", "grpcs://[::1]:2/S/M", "GRPC://h:65535/a.b.C/d", "h:0/S/M", "[fe80::1%25a]:1/S/M", "a@h:1/S/M", "h:1//M", "://h:1/S/M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := address.ParseGRPC(s)
		if err != nil {
			if a != (address.Address{}) {
				t.Fatalf("%q: both %+v and %v", s, a, err)
			}
			return
		}
		if host, port, err := net.SplitHostPort(a.Host); err != nil || host == "" || port == "" || strings.ContainsAny(host, "/@\\ ") {
			t.Fatalf("%q: host %q, %v", s, a.Host, err)
		}
		if a.Kind != address.GRPC || strings.Count(a.Method, "/") != 2 {
			t.Fatalf("%q: %+v", s, a)
		}
		again := "grpc://" + a.Host + a.Method
		if a.TLS {
			again = "grpcs://" + a.Host + a.Method
		}
		if b, err := address.ParseGRPC(again); err != nil || a != b {
			t.Fatalf("%q is %+v, and %q is %+v, %v", s, a, again, b, err)
		}
	})
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind        address.Kind
		name, value string
		want        string // "" where it is right
	}{
		{address.HTTP, "X-A_b.c", "a\tb", ""},
		{address.HTTP, "Content-Type", "text/xml", ""},
		{address.HTTP, "User-Agent", "us", ""},
		{address.HTTP, "Grpc-Timeout", "1S", ""},
		{address.HTTP, "", "", "no name"},
		{address.HTTP, "a b", "", "no name"},
		{address.HTTP, "ä", "", "no name"},
		{address.HTTP, "Handfast-Xid", "", `begin with "handfast-"`},
		{address.HTTP, "a", "b\nc", `the value of "a" holds a character that no header may hold, at byte 1`},
		{address.HTTP, "a", "ä", "no header may hold"},
		{address.HTTP, "a", "\xff", "no header may hold"},
		{address.HTTP, "Expect", "", "connection"},
		{address.HTTP, "TE", "", "connection"},
		{address.HTTP, "Keep-Alive", "", "connection"},
		{address.HTTP, "Proxy-Connection", "", "connection"},
		{address.HTTP, "Host", "", "connection"},
		{address.GRPC, "A-Bin", "\x00ä\n", ""},
		{address.GRPC, "a-bin", "\xff", "no header may hold"},
		{address.HTTP, "a-bin", "\x00", "no header may hold"},
		{address.GRPC, "content-type", "", "belongs to gRPC"},
		{address.GRPC, "User-Agent", "", "belongs to gRPC"},
		{address.GRPC, "grpc-timeout", "", "belongs to gRPC"},
		{address.GRPC, "te", "", "connection"},
		{address.GRPC, "a", "\t", "a tab"},
		{address.Handler, "Content-Type", "x", ""},
		{address.Handler, "handfast-a", "x", "begin with"},
	} {
		err := address.CheckHeader(c.kind, c.name, c.value)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s: got %v, want %q", c.name, c.value, err, c.want)
		}
	}
}
