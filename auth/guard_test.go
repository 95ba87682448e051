package auth_test

import (
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/internal/rate"
	"github.com/rollcall-presence/rollcall/presence"
)

var (
	home   = netip.MustParseAddr("192.0.2.1")
	abroad = netip.MustParseAddr("192.0.2.2")
)

// wantLimited fails unless err is a limit that ends after about d.
func wantLimited(t *testing.T, what string, err error, d time.Duration) {
	t.Helper()
	e, ok := errors.AsType[*presence.Error](err)
	if !ok || e.Kind != presence.KindLimited || e.Retry <= 0 || e.Retry > d || e.Retry < d-time.Millisecond {
		t.Errorf("%s: %v; want it limited for %v", what, err, d)
	}
}

// refused is the count of each reason.
func refused(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			if len(m.GetLabel()) > 0 {
				name = m.GetLabel()[0].GetValue()
			}
			counts[name] = m.GetCounter().GetValue()
		}
	}
	return counts
}

func TestGuardLocksOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		var locked []netip.Addr
		g := auth.NewGuard(auth.Basic{Account: account, Token: "tok", Keys: keys}, auth.GuardOptions{
			Failures: 3, Lockout: time.Minute, Metrics: reg, LockedOut: func(a netip.Addr) { locked = append(locked, a) },
		})
		admit := func(from netip.Addr, password string) error {
			_, err := g.Admit(from, account, password)
			return err
		}
		guesses := 0
		wrong := func() {
			t.Helper()
			guesses++
			if err := admit(home, "guess"+strconv.Itoa(guesses)); presence.KindOf(err) != presence.KindUnauthenticated {
				t.Errorf("a wrong password = %v; want unauthenticated", err)
			}
		}
		for range 5 { // who says nothing does not guess
			if _, err := g.Admit(home, "", ""); presence.KindOf(err) != presence.KindUnauthenticated {
				t.Errorf("no credentials = %v; want unauthenticated", err)
			}
		}
		wrong()
		wrong()
		time.Sleep(time.Minute + time.Second) // those are forgotten
		wrong()
		wrong()
		if acc, err := g.Admit(home, account, "tok"); err != nil || acc != account {
			t.Fatalf("Admit = %q, %v; want it let in after a few mistakes", acc, err)
		}
		wrong()
		if len(locked) != 1 || locked[0] != home {
			t.Errorf("told of %v; want %v", locked, home)
		}
		wantLimited(t, "a good password while locked out", admit(home, "tok"), time.Minute)
		wantLimited(t, "a wrong one", admit(home, "guess"), time.Minute)
		if err := admit(abroad, "tok"); err != nil {
			t.Errorf("another address = %v; want it let in", err)
		}
		time.Sleep(40 * time.Second)
		wantLimited(t, "later", admit(home, "tok"), 20*time.Second)
		time.Sleep(20 * time.Second)
		if err := admit(home, "tok"); err != nil {
			t.Errorf("after the lock-out = %v; want it let in", err)
		}
		want := map[string]float64{"credentials": 10, "locked_out": 3, "address_rate": 0, "credential_rate": 0, "rollcall_auth_lockouts_total": 1}
		for name, n := range refused(t, reg) {
			if n != want[name] {
				t.Errorf("%s = %v; want %v", name, n, want[name])
			}
		}
	})
}

func TestGuardLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		g := auth.NewGuard(auth.Basic{Account: account, Token: "tok", Keys: keys}, auth.GuardOptions{
			Credential: rate.Limit{PerSecond: 10, Burst: 4}, Address: rate.Limit{PerSecond: 10, Burst: 6}, Failures: 100, Metrics: reg,
		})
		for i := range 4 {
			if _, err := g.Admit(home, account, "tok"); err != nil {
				t.Fatalf("request %d = %v", i, err)
			}
		}
		_, err := g.Admit(home, account, "tok")
		wantLimited(t, "a request too many of the account", err, 100*time.Millisecond)
		if _, err := g.Admit(home, key.SID, key.Secret); err != nil {
			t.Errorf("another credential = %v; want it let in", err)
		}
		_, err = g.Admit(home, key.SID, key.Secret)
		wantLimited(t, "a request too many of the address", err, 100*time.Millisecond)
		_, err = g.Admit(home, key.SID, "guess")
		wantLimited(t, "a guess too many of the address", err, 100*time.Millisecond)
		if _, err := g.Admit(abroad, key.SID, key.Secret); err != nil {
			t.Errorf("another address = %v; want it let in", err)
		}
		time.Sleep(100 * time.Millisecond)
		if _, err := g.Admit(home, account, "tok"); err != nil {
			t.Errorf("after the wait = %v; want it let in", err)
		}
		want := map[string]float64{"credential_rate": 1, "address_rate": 2}
		for name, n := range refused(t, reg) {
			if n != want[name] {
				t.Errorf("%s = %v; want %v", name, n, want[name])
			}
		}
	})
}

// However many addresses come, what is remembered is bounded: beyond it newcomers
// share one rate, until others were quiet. Guesses of some do not lock all of them out.
// A caller that says the same again and again locks nobody out, but it does if it
// tries something else in between.
func TestGuardSameGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := auth.NewGuard(auth.Basic{Account: account, Token: "tok"}, auth.GuardOptions{Failures: 3, Lockout: time.Minute})
		for range 100 {
			if _, err := g.Admit(home, account, "old"); presence.KindOf(err) != presence.KindUnauthenticated {
				t.Fatalf("the same wrong password again = %v; want unauthenticated", err)
			}
		}
		if _, err := g.Admit(home, account, "tok"); err != nil {
			t.Errorf("a good password from the same address = %v; want it let in", err)
		}
		_, _ = g.Admit(home, account, "other")
		_, _ = g.Admit(home, "SK"+account[2:], "old") // another user is another guess
		_, err := g.Admit(home, account, "tok")
		wantLimited(t, "after three guesses", err, time.Minute)
	})
}

func TestGuardAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := auth.NewGuard(auth.Basic{Account: account, Token: "tok"}, auth.GuardOptions{
			Address: rate.Limit{PerSecond: 1, Burst: 2}, Failures: 2, Lockout: 10 * time.Second, Addresses: 8,
		})
		a := netip.MustParseAddr("2001:db8::")
		for range 8 {
			_, _ = g.Admit(a, account, "guess")
			a = a.Next()
		}
		if n := g.Visitors(); n != 8 {
			t.Fatalf("%d remembered; want 8", n)
		}
		for range 2 {
			_, _ = g.Admit(a, account, "guess"+a.String())
			a = a.Next()
		}
		_, err := g.Admit(a, account, "tok")
		wantLimited(t, "a newcomer, with two requests of other newcomers", err, time.Second)
		time.Sleep(time.Second)
		if _, err := g.Admit(a, account, "tok"); err != nil {
			t.Errorf("a newcomer, with two guesses of other newcomers = %v; want it let in", err)
		}
		if _, err := g.Admit(netip.MustParseAddr("2001:db8::"), account, "tok"); err != nil {
			t.Errorf("one who was there before = %v; want it let in", err)
		}
		time.Sleep(11 * time.Second)
		if _, err := g.Admit(a, account, "tok"); err != nil || g.Visitors() != 1 {
			t.Errorf("a newcomer when all is quiet = %v, %d remembered; want it let in, and the quiet forgotten", err, g.Visitors())
		}
	})
}

// many are more keys than there ever are at a time.
type many struct{}

func (many) Key(sid string) (auth.Key, bool) {
	return auth.Key{SID: sid, Secret: "s", Account: account}, true
}

// The rates of keys that came and went are forgotten.
func TestGuardForgetsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := auth.NewGuard(auth.Basic{Keys: many{}}, auth.GuardOptions{})
		for i := range 3 * presence.MaxAPIKeys {
			if _, err := g.Admit(home, "SK"+strconv.Itoa(i), "s"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := g.Credentials(); n > presence.MaxAPIKeys+2 {
			t.Errorf("%d remembered; want at most %d", n, presence.MaxAPIKeys+2)
		}
	})
}

func TestGuardConcurrently(t *testing.T) {
	g := auth.NewGuard(auth.Basic{Account: account, Token: "tok", Keys: keys}, auth.GuardOptions{Addresses: 4})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			from := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			for range 100 {
				_, _ = g.Admit(from, key.SID, key.Secret)
				_, _ = g.Admit(from, account, "guess")
			}
		})
	}
	wg.Wait()
	if n := g.Visitors(); n != 4 {
		t.Errorf("%d remembered; want 4", n)
	}
}
