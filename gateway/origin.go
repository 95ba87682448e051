package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
)

// address is whom a connection counts for: an IPv4 address or an IPv6 /64.
type address = netip.Addr

// household is the address that counts for a: one customer has all of an IPv6 /64.
func household(a netip.Addr) address {
	if p, err := a.Prefix(64); err == nil && a.Is6() {
		return p.Addr()
	}
	return a
}

// Proxies are networks whose machines are trusted to say, in X-Forwarded-For and
// X-Forwarded-Proto, for whom they speak. The zero value trusts nobody.
type Proxies []netip.Prefix

// Client is the address of the client behind r: the last in X-Forwarded-For that
// is not itself a trusted proxy, or the peer where the peer is not one.
func (p Proxies) Client(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	addr := peer.Addr().Unmap()
	if !p.trusts(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return addr // what is left of here was written by somebody else
		}
		if addr = hop.Unmap(); !p.trusts(addr) {
			break
		}
	}
	return addr
}

// Household is whom limits on the client behind r count for: its address, or the
// IPv6 /64 that one customer has all of.
func (p Proxies) Household(r *http.Request) netip.Addr { return household(p.Client(r)) }

// Origin is the scheme and host under which the client reached us, such as
// "https://rollcall.example.com".
func (p Proxies) Origin(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	if p.trusts(peer.Addr().Unmap()) {
		if proto := r.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
			scheme = proto
		}
	}
	return scheme + "://" + r.Host
}

func (p Proxies) trusts(a netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

func checkOrigin(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("origin pattern %q: %w", pattern, path.ErrBadPattern)
	}
	return nil
}

// originAllowed reports whether a browser page of the request's Origin may connect.
// Requests without one do not come from browsers.
func originAllowed(r *http.Request, patterns []string) bool {
	origin := strings.ToLower(r.Header.Get("Origin"))
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err == nil && u.Host != "" && sameHost(u, r.Host) {
		return true
	}
	for _, pattern := range patterns {
		pattern = strings.ToLower(pattern)
		if pattern == "*" {
			return true
		}
		if err != nil || u.Host == "" {
			continue
		}
		target := u.Host
		if strings.Contains(pattern, "://") {
			target = u.Scheme + "://" + u.Host
		}
		if ok, _ := path.Match(pattern, target); ok {
			return true
		}
	}
	return false
}

// sameHost compares an origin with a Host header; a default port may be left out.
func sameHost(origin *url.URL, host string) bool {
	if strings.EqualFold(origin.Host, host) {
		return true
	}
	port := map[string]string{"http": "80", "https": "443"}[origin.Scheme]
	return origin.Port() == "" && port != "" && strings.EqualFold(net.JoinHostPort(origin.Hostname(), port), host)
}
