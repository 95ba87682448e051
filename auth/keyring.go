package auth

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

// AccessStore is where API keys and revocations live.
type AccessStore interface {
	// ReadAccess returns what is newer than the mark.
	ReadAccess(ctx context.Context, have presence.AccessMark) (presence.AccessChange, error)
	// RestoreAccess writes back what the store lost with its data. It is idempotent,
	// and does not bring back what was deleted.
	RestoreAccess(ctx context.Context, keys []presence.APIKey, revocations []presence.Revocation) error
}

// KeyringOptions tunes a Keyring. The zero value is ready for use.
type KeyringOptions struct {
	// Every is how often the store is asked whether anything changed, in case nobody
	// told. Default 3s.
	Every time.Duration
	// Withdrawn is called when keys went or tokens were revoked, after Key and Revoked
	// say so. Calls do not overlap. May be nil.
	Withdrawn func()
	// Metrics is where the metrics are registered. May be nil.
	Metrics prometheus.Registerer
}

// Keyring is a node's copy of the API keys and revocations: Keys and a Revoker that
// answer from memory. It reads what changed when it is told, and asks once in a
// while in case it was not; while the store does not answer, copies stay as they
// are. What the store lost with its data is written back. Key, Revoked and Changed
// are safe for concurrent use.
type Keyring struct {
	fixed   StaticKeys
	store   AccessStore
	opt     KeyringOptions
	changed chan struct{} // capacity 1

	// The following are owned by Refresh.
	mark    presence.AccessMark
	records []presence.APIKey

	held, inForce prometheus.Gauge
	failures      prometheus.Counter

	mu      sync.RWMutex // guards the following
	keys    map[string]Key
	revoked map[presence.Key]presence.Revocation // an empty identity is everybody
}

// NewKeyring returns a Keyring of fixed keys, which nobody can revoke, and those in
// the store, once Refresh or Serve have read them.
func NewKeyring(fixed StaticKeys, store AccessStore, opt KeyringOptions) *Keyring {
	if opt.Every <= 0 {
		opt.Every = 3 * time.Second
	}
	if opt.Withdrawn == nil {
		opt.Withdrawn = func() {}
	}
	r := &Keyring{
		fixed: fixed, store: store, opt: opt, changed: make(chan struct{}, 1), keys: map[string]Key{}, revoked: map[presence.Key]presence.Revocation{},
		held:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "rollcall_api_keys", Help: "API keys made at run time that this node knows."}),
		inForce:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "rollcall_revocations", Help: "Revocations of tokens that this node knows."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "rollcall_access_read_failures_total", Help: "Reads of API keys and revocations that the store did not answer; they are repeated."}),
	}
	if opt.Metrics != nil {
		opt.Metrics.MustRegister(r.held, r.inForce, r.failures)
	}
	return r
}

// Key implements Keys.
func (r *Keyring) Key(sid string) (Key, bool) {
	if k, ok := r.fixed[sid]; ok {
		return k, true
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.keys[sid]
	return k, ok
}

// Revoked implements Revoker.
func (r *Keyring) Revoked(c Claims) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.revoked) == 0 {
		return false
	}
	for _, k := range []presence.Key{c.Key(), {Service: c.Service}} {
		if v, ok := r.revoked[k]; ok && c.Issued.Before(v.Before) {
			return true
		}
	}
	return false
}

// Changed tells the Keyring that something may have changed; it does not block.
func (r *Keyring) Changed() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Serve keeps the copies fresh until ctx ends, and returns nil then.
func (r *Keyring) Serve(ctx context.Context) error {
	tick := time.NewTicker(r.opt.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		case <-tick.C:
		}
		c, cancel := context.WithTimeout(ctx, r.opt.Every)
		if err := r.Refresh(c); err != nil && ctx.Err() == nil {
			r.failures.Inc() // with the next tick it is tried again
		}
		cancel()
	}
}

// Refresh reads what changed. It must not be called while Serve runs.
func (r *Keyring) Refresh(ctx context.Context) error {
	withdrawn := false
	for more := true; more; {
		c, err := r.store.ReadAccess(ctx, r.mark)
		if err == nil && c.Lost {
			if err = r.store.RestoreAccess(ctx, r.records, r.known()); err == nil {
				r.mark = presence.AccessMark{}
				continue
			}
		}
		if err != nil {
			if withdrawn {
				r.opt.Withdrawn()
			}
			return err
		}
		withdrawn = r.take(c) || withdrawn
		r.mark, more = c.Mark, c.More
	}
	if withdrawn {
		r.opt.Withdrawn()
	}
	return nil
}

func (r *Keyring) known() []presence.Revocation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Values(r.revoked))
}

// take takes in a change, and reports whether it withdrew anything.
func (r *Keyring) take(c presence.AccessChange) (withdrawn bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.NewKeys {
		keys := make(map[string]Key, len(c.Keys))
		for _, k := range c.Keys {
			keys[k.SID] = Key{SID: k.SID, Secret: k.Secret, Account: k.Account}
		}
		for sid := range r.keys {
			if _, stays := keys[sid]; !stays {
				withdrawn = true
			}
		}
		r.keys, r.records = keys, c.Keys
	}
	for _, v := range c.Revocations {
		k := presence.Key{Service: v.Service, Identity: v.Identity}
		if was, ok := r.revoked[k]; !ok || was.Before.Before(v.Before) {
			withdrawn = true
		}
		r.revoked[k] = v
	}
	now := time.Now()
	maps.DeleteFunc(r.revoked, func(_ presence.Key, v presence.Revocation) bool { return now.After(v.Expires()) })
	r.held.Set(float64(len(r.keys)))
	r.inForce.Set(float64(len(r.revoked)))
	return withdrawn
}
