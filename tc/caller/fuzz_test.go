package caller_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/handfast/handfast/tc/caller"
)

// Rules of any patterns refuse what they deny, a trailing dot and capital letters or not,
// and allow nothing that none of them names.
func FuzzAllowList(f *testing.F) {
	f.Add("shop.example", "shop.example", "10.0.0.1")
	f.Add("*.shop.example", "a.shop.example.", "10.0.0.1")
	f.Add("10.0.0.0/8", "h", "10.1.2.3")
	f.Add("::ffff:10.0.0.0/104", "h", "::ffff:10.1.2.3")
	f.Add("fe80::1%eth0", "h", "fe80::1")
	f.Add("*.", "x", "::")
	f.Add("64:ff9b::/96", "h", "64:ff9b::a00:1")
	f.Fuzz(func(t *testing.T, pattern, host, address string) {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			ip = netip.Addr{}
		}
		allow, err := caller.AllowList(pattern)
		if err != nil {
			if allow != nil {
				t.Fatal("both rules and an error")
			}
			return
		}
		deny, err := caller.Rules(nil, []string{pattern})
		if err != nil {
			t.Fatalf("%q is a pattern, and not one to deny: %v", pattern, err)
		}
		fits := allow(host, ip)
		if deny(host, ip) == fits {
			t.Fatalf("%q: allowed and denied are the same for %q, %s", pattern, host, ip)
		}
		if allow(strings.ToUpper(host), ip) != fits && strings.EqualFold(strings.ToUpper(host), host) {
			t.Fatalf("%q: %q in capitals is another host", pattern, host)
		}
		if strings.HasSuffix(host, ".") || host == "" {
			return
		}
		if allow(host+".", ip) != fits {
			t.Fatalf("%q: %q with a dot behind it is another host", pattern, host)
		}
	})
}
