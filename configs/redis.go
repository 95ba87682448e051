package configs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Embedded is the RedisURL of the store that lives inside the process. It holds one node and forgets all at exit.
const Embedded RedisURL = "embedded"

// RedisURL says where the store is: [Embedded], or
//
//	redis://[user:password@]host[:6379][/db]
//	rediss://...                                 over TLS
//	redis+sentinel://[user:password@]host1[:26379],host2/master[?db=0]
//	redis+cluster://[user:password@]host1[:6379],host2
//
// rediss+sentinel and rediss+cluster are the same over TLS. TLS takes the PEM files ?ca= (default: the system's),
// and ?cert= with ?key= to identify this node. Sentinels with a password of their own take ?sentinel_username= and
// ?sentinel_password=. It prints without its passwords.
type RedisURL string

// String returns u with its passwords masked, and only the scheme of a URL that cannot be parsed.
func (u RedisURL) String() string {
	if u == Embedded || u == "" {
		return string(u)
	}
	p, err := parseRedis(string(u))
	if err != nil {
		scheme, _, _ := strings.Cut(string(u), "://")
		if _, known := redisSchemes[scheme]; !known {
			return "********"
		}
		return scheme + "://********"
	}
	auth := ""
	if p.username != "" || p.password != "" {
		auth = url.PathEscape(p.username) + ":********@"
	}
	if p.query.Has("sentinel_password") {
		p.query.Set("sentinel_password", "********")
	}
	out := p.scheme + "://" + auth + strings.Join(p.hosts, ",")
	if p.path != "" {
		out += "/" + url.PathEscape(p.path)
	}
	if len(p.query) > 0 {
		out += "?" + p.query.Encode()
	}
	return out
}

// GoString masks u for %#v too.
func (u RedisURL) GoString() string { return strconv.Quote(u.String()) }

// Options turns u into options for a client, and reads the certificate files that u names. It must
// not be called on [Embedded]. Errors never hold a password.
func (u RedisURL) Options() (*redis.UniversalOptions, error) {
	p, err := parseRedis(string(u))
	if err != nil {
		return nil, err
	}
	o := &redis.UniversalOptions{
		Addrs:                 p.hosts,
		Username:              p.username,
		Password:              p.password,
		ContextTimeoutEnabled: true,
	}
	switch p.kind() {
	case "sentinel":
		o.MasterName = p.path
		o.DB = p.db
		o.SentinelUsername = p.query.Get("sentinel_username")
		o.SentinelPassword = p.query.Get("sentinel_password")
	case "cluster":
		o.IsClusterMode = true
	default:
		o.DB = p.db
	}
	if p.tls() {
		if o.TLSConfig, err = p.tlsConfig(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// redisSchemes maps each scheme to its default port.
var redisSchemes = map[string]string{
	"redis": "6379", "rediss": "6379",
	"redis+sentinel": "26379", "rediss+sentinel": "26379",
	"redis+cluster": "6379", "rediss+cluster": "6379",
}

type parsedRedis struct {
	scheme             string
	username, password string
	hosts              []string // host:port
	path               string   // the master's name for sentinel, the database otherwise
	db                 int
	query              url.Values
}

func (p *parsedRedis) kind() string {
	_, kind, _ := strings.Cut(p.scheme, "+")
	return kind
}

func (p *parsedRedis) tls() bool { return strings.HasPrefix(p.scheme, "rediss") }

// parseRedis does by hand what net/url cannot: several hosts with ports in one URL.
func parseRedis(s string) (*parsedRedis, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	port, known := redisSchemes[scheme]
	if !ok || !known {
		return nil, errors.New("is not a store: write embedded, redis://host:6379, rediss://host:6379, " +
			"redis+sentinel://host1,host2/master or redis+cluster://host1,host2")
	}
	p := &parsedRedis{scheme: scheme}
	rest, rawQuery, _ := strings.Cut(rest, "?")
	authority, rawPath, _ := strings.Cut(rest, "/")
	if strings.Contains(rawPath, "@") || strings.Contains(rawQuery, "@") {
		// Most likely a password with a bare / or ? in it: no later error may quote a piece of it.
		return nil, errors.New("has an @ after the hosts: in a password write / as %2F and ? as %3F, elsewhere @ as %40")
	}

	var err error
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, pass, _ := strings.Cut(authority[:at], ":")
		if p.username, err = url.PathUnescape(user); err != nil {
			return nil, errors.New("has a user name with a stray %: write % as %25")
		}
		if p.password, err = url.PathUnescape(pass); err != nil {
			return nil, errors.New("has a password with a stray %: write % as %25, / as %2F, ? as %3F")
		}
		authority = authority[at+1:]
	}
	for host := range strings.SplitSeq(authority, ",") {
		addr, err := hostPort(host, port)
		if err != nil {
			return nil, err
		}
		p.hosts = append(p.hosts, addr)
	}
	if p.path, err = url.PathUnescape(rawPath); err != nil {
		return nil, errors.New("has a path with a stray %: write % as %25")
	}
	if p.query, err = url.ParseQuery(rawQuery); err != nil {
		return nil, errors.New("has a query that cannot be parsed: write it like ?db=0&ca=/etc/ssl/redis.pem")
	}
	return p, p.check()
}

// check refuses what the scheme has no use for, so that a setting in the wrong place is never ignored.
func (p *parsedRedis) check() error {
	allowed := ""
	db := p.path
	switch p.kind() {
	case "sentinel":
		allowed = " db sentinel_username sentinel_password "
		if p.path == "" || strings.Contains(p.path, "/") {
			return errors.New("needs the name of the master after the sentinels, like redis+sentinel://host1,host2/mymaster")
		}
		db = p.query.Get("db")
	case "cluster":
		if p.path != "" {
			return errors.New("names a database, but a cluster has only one: remove what follows the hosts")
		}
	default:
		allowed = " db "
		if len(p.hosts) > 1 {
			return errors.New("names several hosts: use redis+sentinel:// or redis+cluster://")
		}
		if p.query.Has("db") {
			if db != "" {
				return errors.New("names its database twice: keep either /0 or ?db=0")
			}
			db = p.query.Get("db")
		}
	}
	if p.tls() {
		allowed += " ca cert key "
	}
	for name, values := range p.query {
		if name == "" || !strings.Contains(allowed, " "+name+" ") {
			return fmt.Errorf("has the parameter %q, which %s:// does not know: remove it", name, p.scheme)
		}
		if len(values) != 1 {
			return fmt.Errorf("has the parameter %q more than once: keep one", name)
		}
	}
	if p.query.Has("cert") != p.query.Has("key") {
		return errors.New("has only one of ?cert= and ?key=: give both or neither")
	}
	if db != "" {
		n, err := strconv.Atoi(db)
		if err != nil || n < 0 {
			return fmt.Errorf("names the database %q: write a number from 0", db)
		}
		p.db = n
	}
	return nil
}

func hostPort(s, defaultPort string) (string, error) {
	host, port := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), defaultPort
	if strings.LastIndexByte(s, ':') > strings.LastIndexByte(s, ']') {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", fmt.Errorf("has the host %q: write it like host:6379, or [::1]:6379", s)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || strings.ContainsAny(host, " []@#%\\") {
		return "", fmt.Errorf("has the host %q: write it like host:6379", s)
	}
	return net.JoinHostPort(host, port), nil
}

func (p *parsedRedis) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12} // no ServerName: each host is verified by the name it is dialled by
	if ca := p.query.Get("ca"); ca != "" {
		pem, err := os.ReadFile(ca) //nolint:gosec // G304: the operator names the file
		if err != nil {
			return nil, fmt.Errorf("names a ?ca= that cannot be read: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("names a ?ca= without a certificate in it: %s must be PEM", ca)
		}
	}
	if cert := p.query.Get("cert"); cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, p.query.Get("key"))
		if err != nil {
			return nil, fmt.Errorf("names a ?cert= or ?key= that cannot be used: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
