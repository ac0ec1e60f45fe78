package caller_test

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
)

func TestAddressesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{})
	for _, host := range []string{
		"169.254.169.254:80", "169.254.0.1:80", "[fe80::1]:80", "[fe80::1%25lo]:80", "[::ffff:169.254.169.254]:80", "[64:ff9b::a9fe:a9fe]:80",
		"[fd00:ec2::254]:80", "[fd00:ec2::23]:80", "[fd20:ce::254]:80", "[fd00:42::42]:80", "100.100.100.200:80", "168.63.129.16:80", "192.0.0.192:80",
	} {
		for _, c := range []core.Call{post("http://"+host+"/latest/meta-data", ""), post("https://"+host, ""), unary(strings.Replace(host, "%25", "%", 1)+"/a.B/C", nil)} {
			a := w.do(within(patience, c))
			if a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "not allowed") {
				t.Errorf("%s: got %+v", c.Action.Address, a)
			}
		}
	}
}

// Where the configuration says so, they are.
func TestAddressesThatAreRefusedMayBeAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, caller.Config{LinkLocal: true, Allow: func(_ string, ip netip.Addr) bool { return ip.Is4() }})
	for host, refused := range map[string]bool{"169.254.0.1:1": false, "192.0.0.192:1": false, "[fe80::1%25lo]:1": true} {
		timeout := short
		if refused {
			timeout = patience
		}
		a := w.do(within(timeout, post("http://"+host+"/", "")))
		if a.Verdict != core.Unsure || strings.Contains(a.Text, "not allowed") != refused {
			t.Errorf("%s: got %+v", host, a)
		}
	}
}

func TestOnlyAllowedTargetsAreCalled(t *testing.T) {
	t.Parallel()
	url := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	byName := strings.Replace(url, "127.0.0.1", "LocalHost", 1)
	for _, tt := range []struct {
		patterns      []string
		address, name bool // are allowed
	}{
		{[]string{"127.0.0.0/8"}, true, true},
		{[]string{"127.0.0.1"}, true, true},
		{[]string{"localhost."}, false, true},
		{[]string{"10.0.0.0/8", "*.localhost"}, false, false},
		{nil, false, false},
	} {
		allow, err := caller.AllowList(tt.patterns...)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, caller.Config{Allow: allow})
		for address, allowed := range map[string]bool{url: tt.address, byName: tt.name} {
			a := w.do(post(address, ""))
			if (a.Verdict == core.Done) != allowed || a.NeedsAttention != !allowed {
				t.Errorf("%s, %v: got %+v", address, tt.patterns, a)
			}
			a = w.do(unary(hostOf(address)+"/a.B/C", nil))
			if strings.Contains(a.Text, "not allowed") != !allowed {
				t.Errorf("%s over gRPC, %v: got %+v", address, tt.patterns, a)
			}
		}
	}
}

func TestAllowList(t *testing.T) {
	t.Parallel()
	allow, err := caller.AllowList("shop.example", "*.Pay.example", "10.1.0.0/16", "2001:db8::/32", "192.0.2.7")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := netip.MustParseAddr("198.51.100.1")
	for host, want := range map[string]bool{
		"shop.example": true, "SHOP.example.": true, "a.shop.example": false, "pay.example": false, "a.pay.example": true, "a.b.PAY.example": true,
		"evilpay.example": false, "shop.example.evil": false, "": false,
	} {
		if allow(host, elsewhere) != want {
			t.Errorf("%s: want %v", host, want)
		}
	}
	for ip, want := range map[string]bool{"10.1.255.1": true, "10.2.0.1": false, "2001:db8::1": true, "192.0.2.7": true, "192.0.2.8": false} {
		if allow("x", netip.MustParseAddr(ip)) != want {
			t.Errorf("%s: want %v", ip, want)
		}
	}
	for _, bad := range []string{"", "*", "*.", "a.*.b", "http://x", "10.0.0.0/99", "x:80", "a b", "%%", "a,b", "a..b", ".a", "10.0.0.256", "10.1", "[::1]", "a\x00b"} {
		if _, err := caller.AllowList(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestWhatIsDeniedIsNotCalledWhateverIsAllowed(t *testing.T) {
	t.Parallel()
	url := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	named := strings.Replace(url, "127.0.0.1", "localhost", 1)
	nowhere := strings.Replace(url, "127.0.0.1", "0.0.0.0", 1) // is loopback, too
	for _, tt := range []struct {
		allow, deny              []string
		address, name, noAddress bool // are allowed
	}{
		{nil, nil, true, true, true},
		{nil, []string{"10.0.0.0/8"}, true, true, true},
		{nil, []string{"127.0.0.0/8", "::1"}, false, false, false},
		{nil, []string{"::ffff:127.0.0.0/104", "::1"}, false, false, false},
		{nil, []string{"localhost"}, true, false, true},
		{[]string{"127.0.0.1"}, []string{"LOCALHOST."}, true, false, true},
		{[]string{"localhost"}, []string{"127.0.0.0/8", "::1/128"}, false, false, false},
		{[]string{"10.0.0.0/8"}, []string{"192.0.2.1"}, false, false, false},
	} {
		allow, err := caller.Rules(tt.allow, tt.deny)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, caller.Config{Allow: allow})
		for address, allowed := range map[string]bool{url: tt.address, named: tt.name, nowhere: tt.noAddress} {
			a := w.do(post(address, ""))
			if (a.Verdict == core.Done) != allowed || a.NeedsAttention != !allowed {
				t.Errorf("%s, allow %v, deny %v: got %+v", address, tt.allow, tt.deny, a)
			}
			a = w.do(unary(hostOf(address)+"/a.B/C", nil))
			if strings.Contains(a.Text, "not allowed") != !allowed {
				t.Errorf("%s over gRPC, allow %v, deny %v: got %+v", address, tt.allow, tt.deny, a)
			}
		}
	}
	// To no address of IPv6 is loopback as well, where there is any.
	if lis, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		defer func() { _ = lis.Close() }()
		deny, err := caller.Rules(nil, []string{"::1"})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, caller.Config{Allow: deny})
		at := strings.Replace(lis.Addr().String(), "[::1]", "[::]", 1)
		for _, c := range []core.Call{post("http://"+at, ""), unary(at+"/a.B/C", nil)} {
			if a := w.do(c); !strings.Contains(a.Text, "not allowed") {
				t.Errorf("%s: got %+v", c.Action.Address, a)
			}
		}
	}
	for _, lists := range [][2][]string{{{"a b"}, nil}, {nil, {"10.0.0.0/99"}}} {
		if _, err := caller.Rules(lists[0], lists[1]); err == nil {
			t.Errorf("%q were taken", lists)
		}
	}
}

// What is looked for is always the IPv4 address, so a rule that is written otherwise
// would be about nothing, and nobody would know.
func TestRulesInTheClothesOfIPv6AreAboutIPv4(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"192.0.2.0/24", "::ffff:192.0.2.0/120", "64:ff9b::c000:200/120"} {
		allow, err := caller.AllowList(p)
		if err != nil {
			t.Fatal(err)
		}
		if !allow("x", netip.MustParseAddr("192.0.2.7")) || allow("x", netip.MustParseAddr("192.0.3.7")) {
			t.Errorf("%s: it is not 192.0.2.0/24", p)
		}
	}
	for _, p := range []string{"::ffff:192.0.2.7", "64:ff9b::c000:207"} {
		if allow, err := caller.AllowList(p); err != nil || !allow("x", netip.MustParseAddr("192.0.2.7")) {
			t.Errorf("%s: it is not 192.0.2.7 (%v)", p, err)
		}
	}
	if allow, err := caller.AllowList("::/0"); err != nil || !allow("x", netip.MustParseAddr("2001:db8::1")) {
		t.Errorf("::/0 (%v)", err)
	}
}
