package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// While Redis is away, whether it hangs or is gone: the sessions there are stay and are
// told what cannot be done, reads of presence say that they cannot tell, nobody is
// declared offline, and who comes meanwhile waits and is let in when Redis is back. Who
// came and left meanwhile was never there.
func TestRedisAway(t *testing.T) {
	for name, fault := range map[string]struct {
		away, back func(*testing.T, *testkit.Server)
	}{
		"stopped": {func(t *testing.T, s *testkit.Server) { s.Stop(t) }, func(t *testing.T, s *testkit.Server) { s.Cont(t) }},
		"killed":  {func(_ *testing.T, s *testkit.Server) { s.Kill() }, func(t *testing.T, s *testkit.Server) { s.Start(t) }},
	} {
		t.Run(name, func(t *testing.T) { redisAway(t, fault.away, fault.back) })
	}
}

func redisAway(t *testing.T, away, back func(*testing.T, *testkit.Server)) {
	const newcomers, leavers = 500, 20
	redis := testkit.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	env := []string{
		"ROLLCALL_HEARTBEAT=1s", "ROLLCALL_LEASE_TTL=4s", "ROLLCALL_LINGER=2s",
		"ROLLCALL_PING_INTERVAL=30s", "ROLLCALL_PONG_TIMEOUT=24s", // the raw session answers only when it is asked something
	}
	n, other := rig.Start(t, "redis://"+redis.Addr, env...), rig.Start(t, "redis://"+redis.Addr, env...)
	sid := n.NewService()
	residents, coming, leaving := numbered("resident", 20), numbered("newcomer", newcomers), numbered("leaver", leavers)
	for i, id := range residents {
		rig.Connect(t, []*rig.Node{n, other}[i%2].WS(), sid, id, client.Options{OnDisconnect: func(err error, _ time.Duration) { t.Errorf("%s was disconnected: %v", id, err) }})
	}
	w := rig.Watch(t, other.WS(), sid, "watcher", append(append(append([]string{}, residents...), coming...), leaving...)...)
	asks := n.Session(t, sid, "asks")
	rig.Eventually(t, "residents are seen", func() error {
		for _, id := range residents {
			if on := n.Online(sid, id); on == nil || !*on {
				return fmt.Errorf("%s is not online", id)
			}
		}
		return nil
	})
	w.Reset()

	away(t, redis)
	began := time.Now()
	var wg sync.WaitGroup
	failed := make(chan error, newcomers)
	for _, id := range coming {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			c, err := client.Dial(ctx, n.WS(), client.Options{Token: rig.Mint(sid, id)})
			if err != nil {
				failed <- fmt.Errorf("%s: %w", id, err)
				return
			}
			t.Cleanup(c.Drop)
		})
	}
	rig.Eventually(t, "all newcomers wait", func() error {
		if waiting := n.Metric("rollcall_sessions_waiting"); waiting != newcomers {
			return fmt.Errorf("%v wait", waiting)
		}
		return nil
	})
	var raws []*rig.Raw
	for _, id := range leaving {
		token, err := rig.Mint(sid, id)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := n.Raw(t)
		c.Text(`{"type":"hello","token":"` + token + `"}`)
		raws = append(raws, c)
	}
	rig.Eventually(t, "those who will leave wait", func() error {
		if waiting := n.Metric("rollcall_sessions_waiting"); waiting != newcomers+leavers {
			return fmt.Errorf("%v wait", waiting)
		}
		return nil
	})

	// What a session that waits, and one that is open, may ask for.
	for _, c := range []*rig.Raw{raws[0], asks} {
		c.Alive()
		c.Text(`{"type":"subscribe","id":1,"identities":["resident-0"]}`)
		if m := c.Message("error"); m["code"] != 101. || m["id"] != 1. || m["retry_after_ms"] == nil {
			t.Errorf("subscribing is answered with %v; want error 101 and when to try again", m)
		}
		token, _ := rig.Mint(sid, map[*rig.Raw]string{raws[0]: leaving[0], asks: "asks"}[c])(t.Context())
		c.Text(`{"type":"token","id":2,"token":"` + token + `"}`)
		c.Message("token_accepted")
	}
	for i, c := range raws {
		if i%2 == 0 {
			c.Text(`{"type":"bye"}`)
			c.Ends(1000)
		}
		_ = c.Close()
	}
	rig.Eventually(t, "who left waits no more", func() error {
		if m := n.Metrics(); m["rollcall_sessions_waiting"] != newcomers || m[`rollcall_waits_total{outcome="left"}`] != leavers {
			return fmt.Errorf("%v wait, %v left", m["rollcall_sessions_waiting"], m[`rollcall_waits_total{outcome="left"}`])
		}
		return nil
	})

	// No read guesses.
	service, user := "/v1/Services/"+sid, "/v1/Services/"+sid+"/Users/"+residents[0]
	var reads sync.WaitGroup
	for _, path := range []string{
		service + "/Presence?Identity=" + residents[0], service + "/Presence?Online=true", service + "/Presence/Changes", service + "/Presence/Events",
		user, user + "/Sessions", user + "/Bindings", service + "/Users", service + "/Bindings",
		service, "/v1/Services", service + "/Configuration", service + "/Configuration/Presence",
	} {
		reads.Go(func() {
			asked := time.Now()
			a := ask(t, n, rig.Account, rig.AuthToken, "GET", path, nil)
			if a.status != http.StatusServiceUnavailable || a.code != 20503 || a.retry < time.Second || time.Since(asked) > 9*time.Second {
				t.Errorf("GET %s = %d, code %d, Retry-After %v, after %v; want 503, 20503, a time, and soon", path, a.status, a.code, a.retry, time.Since(asked))
			}
		})
	}
	reads.Wait()
	if a := ask(t, n, rig.Account, "wrong", "GET", user, nil); a.status != http.StatusUnauthorized {
		t.Errorf("a wrong password = %d; want 401, which needs no store", a.status)
	}
	if a := ask(t, n, rig.Account, rig.AuthToken, "POST", service+"/Users", url.Values{"Identity": {"new"}}); a.status != http.StatusServiceUnavailable {
		t.Errorf("making a user = %d; want 503", a.status)
	}
	if events := w.Events(); events != 0 {
		t.Errorf("%d events while Redis was away; want none", events)
	}

	t.Logf("Redis was away for %v", time.Since(began).Round(100*time.Millisecond))
	back(t, redis)
	returned := time.Now()
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	t.Logf("%d newcomers were let in %v after Redis was back", newcomers, time.Since(returned).Round(10*time.Millisecond))
	rig.Eventually(t, "the watcher sees who came", func() error {
		for _, id := range coming {
			if h := w.History(id); h != "true" {
				return fmt.Errorf("of %s was seen %q", id, h)
			}
		}
		return nil
	})
	rig.Elapse(t, 5*time.Second) // a linger, and heartbeats
	for _, id := range append(residents, leaving...) {
		if h := w.History(id); h != "" {
			t.Errorf("of %s was seen %q; want nothing", id, h)
		}
	}
	for _, id := range coming {
		if h := w.History(id); h != "true" {
			t.Errorf("of %s was seen %q; want true once", id, h)
		}
	}
	for _, n := range []*rig.Node{n, other} {
		m := n.Metrics()
		t.Logf("stalls %v, lost partitions %v, reaped sessions %v, renewals failed %v", m["rollcall_stalls_total"], m["rollcall_lost_partitions_total"],
			m["rollcall_reaped_sessions_total"], m[`rollcall_lease_renewals_total{outcome="failed"}`])
	}
	m := n.Metrics()
	if m["rollcall_sessions_waiting"] != 0 || m[`rollcall_waits_total{outcome="let_in"}`] != newcomers || m["rollcall_tracked_sessions"] != newcomers+11 {
		t.Errorf("%v wait, %v were let in, %v are tracked; want 0, %d and %d", m["rollcall_sessions_waiting"], m[`rollcall_waits_total{outcome="let_in"}`],
			m["rollcall_tracked_sessions"], newcomers, newcomers+11)
	}
	asks.Alive()
	asks.Text(`{"type":"subscribe","id":3,"identities":["` + residents[0] + `"]}`)
	users, _ := asks.Message("subscribed")["users"].([]any)
	if len(users) != 1 || users[0].(map[string]any)["is_online"] != true {
		t.Errorf("subscribed = %v; want a resident who is online", users)
	}
	if log := n.Log(); strings.Contains(log, "panic") {
		t.Errorf("the node panicked:\n%s", log)
	}
}
