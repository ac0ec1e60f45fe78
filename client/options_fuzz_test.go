package client

import (
	"net"
	"strings"
	"testing"
)

// An address of a coordinator has a host and a port in the end, or there is an error.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"", "h", "h:1", ":1", "h:", ":", "[::1]", "::1", "[::1]:1", "[", "]", "[]", "[]:", "a:b:c", "unix:x", "dns:///h:1", "h/", "[fe80::1%eth0]", "[h]", "[[::1]]", "\x00", "h:http"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := withPort(s)
		if err != nil {
			if got != "" || !strings.HasPrefix(err.Error(), "handfast: ") {
				t.Fatalf("%q: %q, %v", s, got, err)
			}
			return
		}
		if strings.Contains(s, "/") || strings.HasPrefix(s, "unix:") {
			return // gRPC reads it
		}
		host, port, err := net.SplitHostPort(got)
		if err != nil || host == "" || port == "" {
			t.Fatalf("%q becomes %q: %v", s, got, err)
		}
		if again, err := withPort(got); err != nil || again != got {
			t.Fatalf("%q becomes %q, and that %q: %v", s, got, again, err)
		}
	})
}
