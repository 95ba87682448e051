package auth_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

func TestIssued(t *testing.T) {
	at := func(c auth.Claims) int64 { return c.Issued.Unix() - noon.Unix() }
	for name, tc := range map[string]struct {
		body object
		want int64
	}{
		"iat before nbf": {with(with(payload(), "iat", noon.Unix()-20), "nbf", noon.Unix()-10), -20},
		"no iat":         {with(with(payload(), "iat", nil), "nbf", noon.Unix()-10), -10},
		"neither":        {with(with(payload(), "iat", nil), "nbf", nil), 3600 - 86400},
	} {
		c, err := auth.NewVerifier(keys).Verify(token(t, header(), tc.body), noon)
		if err != nil || at(c) != tc.want {
			t.Errorf("%s: issued %d s from noon, %v; want %d", name, at(c), err, tc.want)
		}
	}
}

// ring is a Keyring on a store of its own service.
type ring struct {
	*auth.Keyring
	store     *redisstore.Store
	client    *redis.Client
	service   string
	withdrawn int
}

// two is two nodes' keyrings on one store.
func two(t *testing.T) (a, b *ring) {
	t.Helper()
	_, c := testkit.Mini(t)
	store := redisstore.New(c, redisstore.Options{Partitions: 2})
	if err := store.Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	sid, err := store.DefaultService(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := func() *ring {
		r := &ring{store: store, client: c, service: sid}
		r.Keyring = auth.NewKeyring(keys, store, auth.KeyringOptions{Withdrawn: func() { r.withdrawn++ }})
		r.refresh(t)
		return r
	}
	return open(), open()
}

func (r *ring) refresh(t *testing.T) {
	t.Helper()
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (r *ring) knows(sid string) bool {
	_, ok := r.Key(sid)
	return ok
}

func (r *ring) refuses(identity string, issued time.Time) bool {
	return r.Revoked(auth.Claims{KeySID: key.SID, Service: r.service, Identity: identity, Issued: issued})
}

func TestKeyring(t *testing.T) {
	a, b := two(t)
	k, err := a.store.CreateAPIKey(t.Context(), account, "backend")
	if err != nil {
		t.Fatal(err)
	}
	if a.knows(k.SID) || !a.knows(key.SID) {
		t.Error("before it is read the new key is known, or the fixed one is not")
	}
	for _, r := range []*ring{a, b} {
		r.refresh(t)
		if got, ok := r.Key(k.SID); !ok || got.Secret != k.Secret || got.Account != account {
			t.Errorf("Key = %+v, %v; want the new key", got, ok)
		}
		if !r.knows(key.SID) {
			t.Error("the fixed key is gone")
		}
	}
	v := auth.NewVerifier(b)
	tok, err := auth.Mint(auth.Key{SID: k.SID, Secret: k.Secret, Account: account}, b.service, "alice", noon, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := v.Verify(tok, noon)
	if err != nil || v.Check(claims) != nil {
		t.Fatalf("a token of the new key: %v, %v; want it good", err, v.Check(claims))
	}
	if _, err := a.store.UpdateAPIKey(t.Context(), k.SID, "renamed"); err != nil {
		t.Fatal(err)
	}
	b.refresh(t)
	if b.withdrawn != 0 {
		t.Error("a new name withdrew something")
	}
	if err := a.store.DeleteAPIKey(t.Context(), k.SID); err != nil {
		t.Fatal(err)
	}
	b.refresh(t)
	if b.knows(k.SID) || b.withdrawn != 1 {
		t.Errorf("after the deletion: known %v, told %d times; want false, once", b.knows(k.SID), b.withdrawn)
	}
	_, err = v.Verify(tok, noon)
	for what, err := range map[string]error{"Verify": err, "Check": v.Check(claims)} {
		if e, ok := errors.AsType[*auth.Error](err); !ok || e.Code != auth.CodeIssuer {
			t.Errorf("%s after the deletion = %v; want code %d", what, err, auth.CodeIssuer)
		}
	}
}

func TestRevoked(t *testing.T) {
	a, b := two(t)
	t0 := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	revoke := func(identity string, before time.Time) presence.Revocation {
		t.Helper()
		r, err := a.store.Revoke(t.Context(), a.service, identity, before)
		if err != nil {
			t.Fatal(err)
		}
		b.refresh(t)
		return r
	}
	revoke("alice", t0)
	for _, tc := range []struct {
		identity string
		issued   time.Time
		want     bool
	}{
		{"alice", t0.Add(-time.Millisecond), true}, {"alice", t0, false}, {"bob", t0.Add(-time.Hour), false}, {"Alice", t0.Add(-time.Hour), false}, {"", t0.Add(-time.Hour), false},
	} {
		if got := b.refuses(tc.identity, tc.issued); got != tc.want {
			t.Errorf("Revoked(%q issued %v) = %v; want %v", tc.identity, tc.issued.Sub(t0), got, tc.want)
		}
	}
	if b.Revoked(auth.Claims{KeySID: key.SID, Service: other, Identity: "alice", Issued: t0.Add(-time.Hour)}) {
		t.Error("a revocation of one service holds in another")
	}
	if b.withdrawn != 1 {
		t.Errorf("told %d times; want once", b.withdrawn)
	}
	// An older one does not weaken it.
	if r := revoke("alice", t0.Add(-time.Minute)); !r.Before.Equal(t0) || !b.refuses("alice", t0.Add(-time.Second)) {
		t.Errorf("after an older revocation: %+v", r)
	}
	if b.withdrawn != 1 {
		t.Error("an older one withdrew something")
	}
	all := revoke("", time.Time{})
	if since := time.Since(all.Before); since < 0 || since > time.Minute || !b.refuses("anybody", all.Before.Add(-time.Second)) || b.refuses("anybody", all.Before) {
		t.Errorf("of everybody until now: %+v", all)
	}
	v := auth.NewVerifier(b)
	tok, err := auth.Mint(key, b.service, "carol", all.Before.Add(-2*time.Second), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(tok, time.Now()); err == nil || err.Error() != "Invalid Access Token: was revoked" || presence.KindOf(err) != presence.KindUnauthenticated {
		t.Errorf("Verify of a revoked token = %v", err)
	}
}

// What Redis lost with its data comes back from the nodes, but not what was deleted
// before or since.
func TestKeyringRestores(t *testing.T) {
	a, b := two(t)
	stays, err := a.store.CreateAPIKey(t.Context(), account, "stays")
	if err != nil {
		t.Fatal(err)
	}
	goes, err := a.store.CreateAPIKey(t.Context(), account, "goes")
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Minute)
	if _, err := a.store.Revoke(t.Context(), a.service, "alice", before); err != nil {
		t.Fatal(err)
	}
	a.refresh(t)
	b.refresh(t)
	a.withdrawn, b.withdrawn = 0, 0
	if err := a.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	a.refresh(t)
	if got, err := a.store.APIKey(t.Context(), stays.SID); err != nil || got != (presence.APIKey{SID: stays.SID, Account: account, FriendlyName: "stays", Secret: stays.Secret, Created: stays.Created, Updated: stays.Updated}) {
		t.Errorf("written back: %+v, %v; want %+v", got, err, stays)
	}
	if err := a.store.DeleteAPIKey(t.Context(), goes.SID); err != nil {
		t.Fatal(err)
	}
	a.refresh(t)
	b.refresh(t) // it still has the other key
	a.refresh(t)
	for name, r := range map[string]*ring{"a": a, "b": b} {
		if !r.knows(stays.SID) || r.knows(goes.SID) || !r.refuses("alice", before.Add(-time.Second)) || r.refuses("alice", before.Add(time.Second)) {
			t.Errorf("%s after the loss: keys %v and %v, revocation %v; want true, false, true", name, r.knows(stays.SID), r.knows(goes.SID), r.refuses("alice", before.Add(-time.Second)))
		}
		if r.withdrawn != 1 { // for the deletion alone
			t.Errorf("%s was told %d times of something withdrawn; want once", name, r.withdrawn)
		}
	}
	if keys, err := a.store.ListAPIKeys(t.Context(), "", 10); err != nil || len(keys.Items) != 1 {
		t.Errorf("listed %+v, %v; want the one key", keys.Items, err)
	}
}

// away is a store that does not answer.
type away struct{}

var errAway = &presence.Error{Op: "read access", Kind: presence.KindUnavailable}

func (away) ReadAccess(context.Context, presence.AccessMark) (presence.AccessChange, error) {
	return presence.AccessChange{}, errAway
}

func (away) RestoreAccess(context.Context, []presence.APIKey, []presence.Revocation) error {
	return errAway
}

// switched is a store that can be cut off.
type switched struct {
	mu sync.Mutex // guards the following
	auth.AccessStore
	reads int
}

func (s *switched) ReadAccess(ctx context.Context, m presence.AccessMark) (presence.AccessChange, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.AccessStore.ReadAccess(ctx, m)
}

func (s *switched) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// granted is a store with one key.
type granted struct{ sid string }

func (g granted) ReadAccess(_ context.Context, m presence.AccessMark) (presence.AccessChange, error) {
	is := presence.AccessMark{Run: "r", Keys: 1}
	if m == is {
		return presence.AccessChange{Mark: is}, nil
	}
	return presence.AccessChange{Mark: is, NewKeys: true, Keys: []presence.APIKey{{SID: g.sid, Secret: "s", Account: account}}}, nil
}

func (granted) RestoreAccess(context.Context, []presence.APIKey, []presence.Revocation) error {
	return nil
}

// Serve asks by itself, and at once when told; a store that does not answer changes
// nothing but a count.
func TestKeyringServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		s := &switched{AccessStore: granted{"SK1"}}
		r := auth.NewKeyring(nil, s, auth.KeyringOptions{Every: time.Second, Metrics: reg})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Serve(ctx) }()
		synctest.Wait()
		if _, ok := r.Key("SK1"); ok || s.count() != 0 {
			t.Error("known before anything was read")
		}
		r.Changed()
		synctest.Wait()
		if _, ok := r.Key("SK1"); !ok || s.count() != 1 {
			t.Errorf("told of a change: %v after %d reads; want it known after one", ok, s.count())
		}
		s.mu.Lock()
		s.AccessStore = away{}
		s.mu.Unlock()
		time.Sleep(3500 * time.Millisecond)
		if _, ok := r.Key("SK1"); !ok || s.count() != 4 {
			t.Errorf("while the store is away: %v after %d reads; want the copy kept, and a read each second", ok, s.count())
		}
		families, err := reg.Gather()
		if err != nil || len(families) != 3 {
			t.Fatalf("%d metrics, %v; want 3", len(families), err)
		}
		for _, f := range families {
			if want := map[string]float64{"rollcall_api_keys": 1, "rollcall_revocations": 0, "rollcall_access_read_failures_total": 3}[f.GetName()]; f.GetMetric()[0].GetGauge().GetValue()+f.GetMetric()[0].GetCounter().GetValue() != want {
				t.Errorf("%s is not %v", f.GetName(), want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v; want nil", err)
		}
	})
}
