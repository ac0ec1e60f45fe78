package caller_test

import (
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
		"[fd00:ec2::254]:80", "100.100.100.200:80", "168.63.129.16:80",
	} {
		for _, c := range []core.Call{post("http://"+host+"/latest/meta-data", ""), post("https://"+host, ""), unary(strings.Replace(host, "%25", "%", 1)+"/a.B/C", nil)} {
			a := w.do(within(patience, c))
			if a.Verdict != core.Unsure || !a.NeedsAttention || !strings.Contains(a.Text, "not allowed") {
				t.Errorf("%s: got %+v", c.Action.Address, a)
			}
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
	for _, bad := range []string{"", "*", "*.", "a.*.b", "http://x", "10.0.0.0/99", "x:80", "a b"} {
		if _, err := caller.AllowList(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
