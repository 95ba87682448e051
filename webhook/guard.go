package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"unicode/utf8"
)

// MaxURL is the longest URL of a target, in bytes.
const MaxURL = 2048

// Why a target is refused.
var (
	// ErrURL tells that a URL is not an absolute http or https URL of at most MaxURL bytes.
	ErrURL = errors.New("not an absolute http or https URL")
	// ErrBlocked tells that an address is not a public one, nor in an allowed network.
	ErrBlocked = errors.New("address is not public")
)

// special are the networks that are not, or may not be, on the public Internet,
// beside those that netip names: https://www.iana.org/assignments/iana-ipv4-special-registry
// and its IPv6 sister.
var special = prefixes(
	"0.0.0.0/8",       // this network
	"100.64.0.0/10",   // carrier-grade NAT
	"192.0.0.0/24",    // protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"240.0.0.0/4",     // reserved, broadcast
	"::/96",           // IPv4-compatible
	"64:ff9b:1::/48",  // NAT64, local
	"100::/64",        // discard
	"2001::/23",       // protocol assignments, Teredo
	"2001:db8::/32",   // documentation
	"3fff::/20",       // documentation
	"5f00::/16",       // segment routing
	"fec0::/10",       // site-local
)

// The networks that carry an IPv4 address, and where in theirs it lies.
var carriers = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // IPv4-translated
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// guard decides which addresses may be called.
type guard struct{ allowed []netip.Prefix }

// check returns nil for an address that may be called, else ErrBlocked.
func (g guard) check(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	for _, p := range g.allowed {
		if p.Contains(a) {
			return nil
		}
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return fmt.Errorf("%w: %v", ErrBlocked, a)
	}
	for _, p := range special {
		if p.Contains(a) {
			return fmt.Errorf("%w: %v", ErrBlocked, a)
		}
	}
	for _, c := range carriers {
		if c.prefix.Contains(a) {
			b := a.As16()
			return g.check(netip.AddrFrom4([4]byte(b[c.at : c.at+4])))
		}
	}
	return nil
}

// control is a net.Dialer's hook: it sees the address that is about to be called, after
// the name was resolved, so that a name cannot lead elsewhere than was checked.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", ErrBlocked, address)
	}
	return g.check(a.Addr())
}

// checkURL returns ErrURL, or ErrBlocked for a URL whose host is an address that may
// not be called. A name is resolved, and checked, each time it is called.
func (g guard) checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || len(s) > MaxURL || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return ErrURL
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return ErrURL
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		return g.check(a)
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return g.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return nil
}
