package caller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// errNotAllowed: an address must not be connected to.
var errNotAllowed = errors.New("not allowed")

// dialer opens connections, for HTTP and for gRPC.
type dialer struct {
	ctx       context.Context // of the Caller
	base      net.Dialer
	allow     func(host string, ip netip.Addr) bool
	linkLocal bool

	mu    sync.Mutex
	dials sync.WaitGroup // none is added once ctx has ended
}

func newDialer(ctx context.Context, cfg Config) *dialer {
	return &dialer{
		ctx: ctx, allow: cfg.Allow, linkLocal: cfg.LinkLocal,
		base: net.Dialer{
			Timeout:         cfg.DialTimeout,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		},
	}
}

// dial connects to a host and port. http.Transport dials on when a request is given up,
// in case another wants the connection; the end of the Caller ends that, too.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer d.dials.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	nd := d.base
	// Control sees every address that the name stands for right before it is
	// connected to, so a name can't be turned over in between.
	nd.Control = func(_, resolved string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(resolved)
		if err != nil {
			return fmt.Errorf("%w: it is no address", errNotAllowed)
		}
		return d.check(host, ap.Addr())
	}
	c, err := nd.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, stop: context.AfterFunc(d.ctx, func() { _ = c.Close() })}, nil
}

// conn is a connection that ends with the Caller, whatever it is in the middle of.
type conn struct {
	net.Conn
	stop func() bool
}

func (c *conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (d *dialer) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ctx.Err(); err != nil {
		return err
	}
	d.dials.Add(1)
	return nil
}

// wait waits for all dials, once the Caller's context has ended.
func (d *dialer) wait() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials.Wait()
}

func (d *dialer) check(host string, ip netip.Addr) error {
	ip = embedded(ip.Unmap().WithZone(""))
	// To no address in particular connects to this machine, so a rule about that counts.
	switch ip {
	case netip.IPv4Unspecified():
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		ip = netip.IPv6Loopback()
	}
	switch {
	case !d.linkLocal && (ip.IsLinkLocalUnicast() || secrets[ip]):
		return fmt.Errorf("%w: it is link-local, or tells the secrets of machines in a cloud", errNotAllowed)
	case d.allow != nil && !d.allow(host, ip):
		return fmt.Errorf("%w: the configuration does not name it", errNotAllowed)
	}
	return nil
}

// secrets are the addresses, beside link-local ones, where clouds tell a machine what it
// is and what it may do.
var secrets = map[netip.Addr]bool{
	netip.MustParseAddr("fd00:ec2::254"):   true, // AWS
	netip.MustParseAddr("fd00:ec2::23"):    true, // AWS, for pods
	netip.MustParseAddr("fd20:ce::254"):    true, // Google
	netip.MustParseAddr("fd00:42::42"):     true, // Scaleway
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// embedded gives the IPv4 address that a gateway makes of an address.
func embedded(ip netip.Addr) netip.Addr {
	if !nat64.Contains(ip) {
		return ip
	}
	b := ip.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// plainPrefix gives the IPv4 prefix where a prefix is one in the clothes of IPv6: the
// addresses that are looked for wear none.
func plainPrefix(p netip.Prefix) netip.Prefix {
	if a := embedded(p.Addr().Unmap()); p.Bits() >= 96 && a.Is4() && !p.Addr().Is4() {
		return netip.PrefixFrom(a, p.Bits()-96).Masked()
	}
	return p.Masked()
}

// Rules makes a Config.Allow of two lists, each as for AllowList: what one of deny fits
// is refused, and so is what none of allow fits, if there are any.
func Rules(allow, deny []string) (func(host string, ip netip.Addr) bool, error) {
	denied, err := AllowList(deny...)
	if err != nil {
		return nil, err
	}
	allowed, err := AllowList(allow...)
	if err != nil {
		return nil, err
	}
	if len(allow) == 0 && len(deny) == 0 {
		return nil, nil //nolint:nilnil // all is allowed
	}
	return func(host string, ip netip.Addr) bool {
		return !denied(host, ip) && (len(allow) == 0 || allowed(host, ip))
	}, nil
}

// hostName tells whether a name may be a host's. What ends in a number would be an
// address, so it is a mistyped one, which fits nothing: in a list of what is denied nobody
// would notice.
func hostName(name string) bool {
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || strings.ContainsFunc(l, func(r rune) bool {
			return r != '-' && r != '_' && !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Nd)
		}) {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// AllowList makes a Config.Allow of patterns: a host ("shop.example"), all hosts below
// one ("*.shop.example"), an address or a prefix ("10.1.0.0/16"). What fits one of them is
// allowed. A host pattern trusts whoever answers for the name, whatever the address.
func AllowList(patterns ...string) (func(host string, ip netip.Addr) bool, error) {
	hosts := make(map[string]bool)
	var below []string
	var prefixes []netip.Prefix
	for _, p := range patterns {
		p = strings.ToLower(strings.TrimSuffix(p, "."))
		if prefix, err := netip.ParsePrefix(p); err == nil {
			prefixes = append(prefixes, plainPrefix(prefix))
			continue
		}
		if ip, err := netip.ParseAddr(p); err == nil {
			ip = embedded(ip.Unmap().WithZone(""))
			prefixes = append(prefixes, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		name, wild := strings.CutPrefix(p, "*.")
		if !hostName(name) {
			return nil, fmt.Errorf("pattern %.100q: want a host, *. and a host, an address, or a prefix such as 10.0.0.0/8", p)
		}
		if wild {
			below = append(below, "."+name)
		} else {
			hosts[name] = true
		}
	}
	return func(host string, ip netip.Addr) bool {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if hosts[host] {
			return true
		}
		for _, suffix := range below {
			if strings.HasSuffix(host, suffix) {
				return true
			}
		}
		for _, p := range prefixes {
			if p.Contains(ip) {
				return true
			}
		}
		return false
	}, nil
}
