package auth

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/presence"
)

// GuardOptions tunes a Guard. Zero fields take the default.
type GuardOptions struct {
	// Credential is the rate of each account or API key, Address that of each client
	// address. Default 2,000 a second and 4,000 at once.
	Credential, Address rate.Limit
	// Failures is how many wrong guesses from one address within Lockout lock that
	// address out for Lockout. Default 10 in a minute. To say the same again is no other
	// guess: a caller that goes on with a key that was withdrawn does not lock out others
	// behind the same proxy.
	Failures int
	Lockout  time.Duration
	// Addresses bounds the addresses that are told apart; further ones share one rate, and
	// are not locked out, until others were quiet for a while. Default 65,536, of about 200 bytes each.
	Addresses int
	// LockedOut is called when an address is locked out. May be nil.
	LockedOut func(netip.Addr)
	// Metrics is where the metrics are registered. May be nil.
	Metrics prometheus.Registerer
}

// The reasons for which a Guard refuses, and the labels of its metric.
const (
	refusedCredentials    = "credentials"
	refusedLockedOut      = "locked_out"
	refusedAddressRate    = "address_rate"
	refusedCredentialRate = "credential_rate" //nolint:gosec // the name of a reason
)

// Guard lets callers of the REST API in: with good credentials, at a bounded rate,
// and not after too many wrong guesses. All is counted on this node alone. It is
// safe for concurrent use.
type Guard struct {
	basic   Basic
	opt     GuardOptions
	start   time.Time
	seed    maphash.Seed // of the guesses remembered
	refused *prometheus.CounterVec
	locks   prometheus.Counter

	mu          sync.Mutex // guards the following
	visitors    map[netip.Addr]*visitor
	others      visitor // all addresses beyond opt.Addresses; never locked
	swept       time.Duration
	credentials map[string]*rate.Bucket // of good ones only
}

// visitor is what is known of an address. Times are since Guard.start.
type visitor struct {
	bucket   rate.Bucket
	failures int
	guesses  [4]uint64     // hashes of the last few of them
	since    time.Duration // the first of the failures
	locked   time.Duration // until then
}

// NewGuard returns a Guard of what basic lets in.
func NewGuard(basic Basic, opt GuardOptions) *Guard {
	for _, l := range []*rate.Limit{&opt.Credential, &opt.Address} {
		if *l == (rate.Limit{}) {
			*l = rate.Limit{PerSecond: 2000, Burst: 4000}
		}
	}
	if opt.Failures <= 0 {
		opt.Failures = 10
	}
	if opt.Lockout <= 0 {
		opt.Lockout = time.Minute
	}
	if opt.Addresses <= 0 {
		opt.Addresses = 1 << 16
	}
	if opt.LockedOut == nil {
		opt.LockedOut = func(netip.Addr) {}
	}
	g := &Guard{
		basic: basic, opt: opt, start: time.Now(), seed: maphash.MakeSeed(), visitors: map[netip.Addr]*visitor{}, credentials: map[string]*rate.Bucket{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rollcall_auth_refused_total", Help: "REST and console requests not let in, by reason."}, []string{"reason"}),
		locks:   prometheus.NewCounter(prometheus.CounterOpts{Name: "rollcall_auth_lockouts_total", Help: "Addresses locked out for wrong passwords."}),
	}
	for _, reason := range []string{refusedCredentials, refusedLockedOut, refusedAddressRate, refusedCredentialRate} {
		g.refused.WithLabelValues(reason)
	}
	if opt.Metrics != nil {
		opt.Metrics.MustRegister(g.refused, g.locks)
	}
	return g
}

// errCredentials tells that user name and password are not good.
var errCredentials = &presence.Error{Op: "credentials refused", Kind: presence.KindUnauthenticated}

// Admit lets a request from an address in, and returns its account. The error is
// KindUnauthenticated for wrong credentials, or KindLimited, with Retry, for good and
// wrong ones alike while the address is locked out, and for one request too many.
func (g *Guard) Admit(from netip.Addr, user, password string) (account string, err error) {
	if err := g.arrive(from); err != nil {
		return "", err
	}
	account, ok := g.basic.Check(user, password)
	if !ok {
		g.refused.WithLabelValues(refusedCredentials).Inc()
		if user != "" || password != "" { // who says nothing does not guess
			g.fail(from, maphash.Comparable(g.seed, [2]string{user, password}))
		}
		return "", errCredentials
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Since(g.start)
	b := g.credentials[user]
	if b == nil {
		if len(g.credentials) > presence.MaxAPIKeys+1 { // some are of keys that are gone
			maps.DeleteFunc(g.credentials, func(_ string, b *rate.Bucket) bool { return b.Full(now) })
		}
		b = &rate.Bucket{}
		g.credentials[user] = b
	}
	if wait, ok := b.Take(now, g.opt.Credential); !ok {
		return "", g.limited(refusedCredentialRate, wait)
	}
	return account, nil
}

// Good reports whether the password still is the user's. It counts for nothing, and
// is for callers that were let in and stay.
func (g *Guard) Good(user, password string) bool {
	_, ok := g.basic.Check(user, password)
	return ok
}

func (g *Guard) limited(reason string, wait time.Duration) error {
	g.refused.WithLabelValues(reason).Inc()
	return &presence.Error{Op: reason, Kind: presence.KindLimited, Retry: wait}
}

func (g *Guard) arrive(from netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Since(g.start)
	v := g.visitorLocked(from, now)
	if now < v.locked {
		return g.limited(refusedLockedOut, v.locked-now)
	}
	if wait, ok := v.bucket.Take(now, g.opt.Address); !ok {
		return g.limited(refusedAddressRate, wait)
	}
	return nil
}

// fail counts a wrong guess, unless it is one of the last few again.
func (g *Guard) fail(from netip.Addr, guess uint64) {
	g.mu.Lock()
	now := time.Since(g.start)
	v := g.visitorLocked(from, now)
	if v.failures == 0 || now-v.since > g.opt.Lockout {
		v.failures, v.since, v.guesses = 0, now, [4]uint64{}
	}
	if slices.Contains(v.guesses[:], guess) {
		g.mu.Unlock()
		return
	}
	v.guesses[v.failures%len(v.guesses)] = guess
	v.failures++
	// Who fills the table could else lock out everybody who comes after; the guesses that
	// the others' one rate lets through are few beside those of a tableful of addresses.
	locks := v.failures >= g.opt.Failures && v != &g.others
	if locks {
		v.failures, v.locked = 0, now+g.opt.Lockout
	}
	g.mu.Unlock()
	if locks {
		g.locks.Inc()
		g.opt.LockedOut(from)
	}
}

// sweepEvery is how often, at most, quiet addresses are looked for.
const sweepEvery = time.Second

func (g *Guard) visitorLocked(from netip.Addr, now time.Duration) *visitor {
	if v := g.visitors[from]; v != nil {
		return v
	}
	if len(g.visitors) >= g.opt.Addresses {
		if now-g.swept >= sweepEvery {
			g.swept = now
			for a, v := range g.visitors {
				if v.bucket.Full(now) && now >= v.locked && (v.failures == 0 || now-v.since > g.opt.Lockout) {
					delete(g.visitors, a)
				}
			}
		}
		if len(g.visitors) >= g.opt.Addresses {
			return &g.others
		}
	}
	v := &visitor{}
	g.visitors[from] = v
	return v
}
