package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// problems collects what is wrong with a configuration.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %w", key, fmt.Errorf(format, args...)))
}

// between adds a problem unless lo <= v <= hi.
func between[T int | Bytes | time.Duration](p *problems, key string, v, lo, hi T) {
	if v < lo || v > hi {
		p.add(key, "is %v: set it from %v to %v", v, lo, hi)
	}
}

// Validate reports everything in c that cannot work, joined, one line each, that begins with the setting's key and
// says what to change. It reads the certificate files that redis_url names.
func (c *Config) Validate() error {
	var p problems
	c.validateEdge(&p)
	c.validateCredentials(&p)
	c.validateStore(&p)
	c.validateTimers(&p)
	c.validateLimits(&p)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		p.add("log_level", "is %q: set it to debug, info, warn or error", c.LogLevel)
	}
	if !slices.Contains([]string{"json", "console"}, c.LogFormat) {
		p.add("log_format", "is %q: set it to json or console", c.LogFormat)
	}
	return errors.Join(p...)
}

func (c *Config) validateEdge(p *problems) {
	for _, a := range []struct{ key, addr string }{{"addr", c.Addr}, {"admin_addr", c.AdminAddr}} {
		_, port, err := net.SplitHostPort(a.addr)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			p.add(a.key, "is %q: write host:port, like 127.0.0.1:8080 or :8080", a.addr)
		}
	}
	if _, port, err := net.SplitHostPort(c.Addr); err == nil && port != "0" && c.Addr == c.AdminAddr {
		p.add("admin_addr", "is %q, where clients are served too: set another port", c.AdminAddr)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		p.add("tls_cert", "works only together with tls_key: set both or neither")
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil ||
			strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			p.add("public_url", "is %q: write only scheme and host, like https://presence.example.com", c.PublicURL)
		}
	}
	for _, o := range c.AllowedOrigins {
		_, host, hasScheme := strings.Cut(o, "://")
		if !hasScheme {
			host = o
		}
		if _, err := path.Match(o, ""); err != nil || host == "" || strings.ContainsAny(host, "/ ") {
			p.add("allowed_origins", "has %q: write hosts like app.example.com or https://*.example.com", o)
		}
	}
}

var (
	accountSID   = regexp.MustCompile(`^AC[0-9A-Za-z]{32}$`)
	keySID       = regexp.MustCompile(`^SK[0-9A-Za-z]{32}$`)
	alphanumeric = regexp.MustCompile(`^[0-9A-Za-z]+$`)
)

func (c *Config) validateCredentials(p *problems) {
	embedded := "set it, or none of the four credentials with the embedded store for development"
	for _, cred := range []struct {
		key, value string
		shape      *regexp.Regexp
		want       string
	}{
		{"account_sid", c.AccountSID, accountSID, "write AC and 32 letters or digits"},
		{"auth_token", string(c.AuthToken), alphanumeric, "use letters and digits only, as client libraries refuse others"},
		{"api_key_sid", c.APIKeySID, keySID, "write SK and 32 letters or digits"},
		{"api_key_secret", string(c.APIKeySecret), alphanumeric, "use letters and digits only, as client libraries refuse others"},
	} {
		switch {
		case cred.value == "":
			p.add(cred.key, "is required: %s", embedded)
		case !cred.shape.MatchString(cred.value):
			p.add(cred.key, "does not look right: %s", cred.want)
		}
	}
	if c.Development() && c.RedisURL != Embedded {
		p.add("account_sid", "one of the four credentials is a development one, which everybody knows: make your own")
	}
	if c.Development() && !loopback(c.Addr) {
		p.add("addr", "is %q while the development credentials, which everybody knows, are in use: "+
			"set account_sid, auth_token, api_key_sid and api_key_secret, or listen on 127.0.0.1", c.Addr)
	}
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // reported already
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

var nodeID = regexp.MustCompile(`^[0-9A-Za-z._-]{1,64}$`)

func (c *Config) validateStore(p *problems) {
	if c.RedisURL != Embedded {
		if _, err := c.RedisURL.Options(); err != nil {
			p.add("redis_url", "%w", err)
		}
	}
	if len(c.KeyPrefix) > 64 || strings.ContainsFunc(c.KeyPrefix, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("{}*?[]\\", r)
	}) {
		p.add("key_prefix", "is %q: use at most 64 visible ASCII characters, and none of {}*?[]\\", c.KeyPrefix)
	}
	between(p, "partitions", c.Partitions, 1, 4096)
	if !nodeID.MatchString(c.NodeID) {
		p.add("node_id", "is %q: use 1 to 64 letters, digits, dots, dashes or underscores", c.NodeID)
	}
}

// idleLimit is the least time after which common load balancers cut a silent connection (60 s), less a margin.
const idleLimit = 55 * time.Second

func (c *Config) validateTimers(p *problems) {
	between(p, "heartbeat", c.Heartbeat, 50*time.Millisecond, time.Minute)
	between(p, "linger", c.Linger, 0, time.Minute)
	between(p, "ping_interval", c.PingInterval, time.Second, idleLimit)
	between(p, "pong_timeout", c.PongTimeout, 50*time.Millisecond, idleLimit)
	between(p, "hello_timeout", c.HelloTimeout, 100*time.Millisecond, time.Minute)
	between(p, "batch_delay", c.BatchDelay, 0, time.Second)
	if least := StoreTimeout + time.Second; c.WaitTimeout != 0 && c.WaitTimeout < least {
		p.add("wait_timeout", "is %v, and as long may it take to find out that Redis is away: raise it to %v or more, or set it to 0s for no wait",
			c.WaitTimeout, least)
	}
	between(p, "wait_timeout", c.WaitTimeout, 0, 10*time.Minute)
	between(p, "drain_timeout", c.DrainTimeout, 0, 10*time.Minute)
	between(p, "handover", c.Handover, 0, 10*time.Minute)
	if c.HandoverTime() < c.Linger {
		p.add("handover", "is %v, less than linger (%v), so a restart would show what a broken connection does not: "+
			"raise it to %v or more, lower linger, or set it to 0s", c.Handover, c.Linger, c.Linger)
	}
	if least := c.DrainWindow() + replacement; c.HandoverTime() < least {
		p.add("handover", "is %v, but a drain_timeout of %v closes connections over %v, and where only this node's "+
			"successor takes them, users of the first would be shown offline: raise it to %v or more, lower drain_timeout, or set it to 0s",
			c.Handover, c.DrainTimeout, c.DrainWindow(), least)
	}
	if c.LeaseTTL <= 2*c.Heartbeat {
		p.add("lease_ttl", "is %v, but a node must be able to miss a heartbeat (%v) and keep its lease: "+
			"raise it above %v, or lower heartbeat", c.LeaseTTL, c.Heartbeat, 2*c.Heartbeat)
	}
	if c.LeaseTTL > 10*time.Minute {
		p.add("lease_ttl", "is %v, and as long would users of a dead node stay online: lower it to 10m0s or less", c.LeaseTTL)
	}
	if c.PingInterval+c.PongTimeout >= idleLimit {
		p.add("ping_interval", "and pong_timeout are %v together, and load balancers cut connections that are silent for 60s: "+
			"lower them to less than %v together", c.PingInterval+c.PongTimeout, idleLimit)
	}
	if c.PongTimeout >= c.PingInterval {
		p.add("pong_timeout", "is %v, so the next ping (every %v) would go out before the answer to the last is due: "+
			"make it less than ping_interval", c.PongTimeout, c.PingInterval)
	}
}

func (c *Config) validateLimits(p *problems) {
	const million = 1_000_000
	between(p, "max_frame", c.MaxFrame, 1<<10, 16<<20)
	between(p, "max_subscriptions", c.MaxSubscriptions, 1, million)
	between(p, "max_identities", c.MaxIdentities, 1, million)
	between(p, "request_rate", c.RequestRate, 1, million)
	between(p, "request_burst", c.RequestBurst, 1, million)
	between(p, "mailbox_bytes", c.MailboxBytes, 4<<10, 1<<30)
	between(p, "max_connections", c.MaxConnections, 1, 10*million)
	between(p, "max_waiting", c.MaxWaiting, 1, 10*million)
	between(p, "accept_rate", c.AcceptRate, 1, million)
	between(p, "accept_burst", c.AcceptBurst, 1, million)
	between(p, "max_streams", c.MaxStreams, 1, million)
	between(p, "rest_rate", c.RESTRate, 1, million)
	between(p, "rest_burst", c.RESTBurst, 1, million)
	between(p, "address_rate", c.AddressRate, 1, million)
	between(p, "address_burst", c.AddressBurst, 1, million)
	between(p, "lockout_failures", c.LockoutFailures, 1, million)
	between(p, "lockout_time", c.LockoutTime, time.Second, 24*time.Hour)
	between(p, "max_identity", c.MaxIdentity, 1, presence.MaxIdentity)
	between(p, "max_attributes", c.MaxAttributes, 2, presence.MaxAttributes)
	between(p, "webhook_target_concurrency", c.WebhookTargetConcurrency, 1, 10_000)
	between(p, "webhook_concurrency", c.WebhookConcurrency, 1, 100_000)
	between(p, "webhook_retry_for", c.WebhookRetryFor, time.Minute, 7*24*time.Hour)
	if c.WebhookConcurrency < c.WebhookTargetConcurrency {
		p.add("webhook_concurrency", "is %d, less than webhook_target_concurrency (%d): raise it to that or more",
			c.WebhookConcurrency, c.WebhookTargetConcurrency)
	}
	if c.VerifyInterval != 0 {
		between(p, "verify_interval", c.VerifyInterval, time.Second, 24*time.Hour)
	}
	if c.VerifyRepair && c.VerifyInterval == 0 {
		p.add("verify_repair", "is true, but nothing looks for what to repair: set verify_interval, or verify_repair to false")
	}
	if c.MailboxBytes < 2*c.MaxAttributes {
		p.add("mailbox_bytes", "is %v, too little for an update that carries max_attributes (%v): raise it to %v or more",
			c.MailboxBytes, c.MaxAttributes, 2*c.MaxAttributes)
	}
}
