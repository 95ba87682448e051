package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollcall-presence/rollcall/auth"
	"github.com/rollcall-presence/rollcall/client"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// once connects a client that has a token for one session only: it does not come back.
func once(t *testing.T, n *rig.Node, sid, identity string, life time.Duration) *client.Client {
	t.Helper()
	var asked atomic.Bool
	opt := client.Options{Token: func(context.Context) (string, error) {
		if asked.Swap(true) {
			return "", errors.New("no more tokens")
		}
		return auth.Mint(rig.Key, sid, identity, time.Now(), life)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, n.WS(), opt)
	if err != nil {
		t.Fatalf("connecting %s: %v", identity, err)
	}
	t.Cleanup(c.Drop)
	return c
}

// Each way to leave is measured once, on whatever node published it, and is within its
// bound; subscribers see each user leave once.
func TestDepartures(t *testing.T) {
	redis := testkit.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	env := []string{
		"ROLLCALL_HEARTBEAT=1s", "ROLLCALL_LEASE_TTL=3s", "ROLLCALL_LINGER=1s", "ROLLCALL_PING_INTERVAL=2s", "ROLLCALL_PONG_TIMEOUT=1500ms",
		"ROLLCALL_DRAIN_TIMEOUT=1s", "ROLLCALL_HANDOVER=6s",
	}
	a, b, c := rig.Start(t, "redis://"+redis.Addr, env...), rig.Start(t, "redis://"+redis.Addr, env...), rig.Start(t, "redis://"+redis.Addr, env...)
	sid := a.NewService()
	ways := []string{"bye", "lost", "reload", "silent", "expired", "operator", "drained", "node_lost", "redis_away"}
	w := rig.Watch(t, a.WS(), sid, "watcher", ways...)
	left := func(nodes []*rig.Node, ways ...string) {
		t.Helper()
		rig.Eventually(t, fmt.Sprintf("all of %v are measured", ways), func() error {
			for _, way := range ways {
				if h := w.History(way); h != "true false" {
					return fmt.Errorf("of %s was seen %q", way, h)
				}
				label := `{departure="` + way + `"}`
				count, sum, bound := 0., 0., a.Metrics()["rollcall_staleness_bound_seconds"+label]
				for _, n := range nodes {
					m := n.Metrics()
					count, sum = count+m["rollcall_departure_seconds_count"+label], sum+m["rollcall_departure_seconds_sum"+label]
				}
				if count == 0 {
					return fmt.Errorf("%s is not measured yet", way)
				}
				if count != 1 || bound == 0 {
					t.Fatalf("%s is measured %v times, with a bound of %v s; want once", way, count, bound)
				}
			}
			return nil
		})
		for _, way := range ways {
			label, sum := `{departure="`+way+`"}`, 0.
			for _, n := range nodes {
				sum += n.Metrics()["rollcall_departure_seconds_sum"+label]
			}
			bound := a.Metrics()["rollcall_staleness_bound_seconds"+label]
			t.Logf("%s: %.3f s, bound %v s", way, sum, bound)
			if sum > bound && way != "redis_away" { // which counts the outage, and its bound does not
				t.Errorf("%s took %.3f s; the bound is %v s", way, sum, bound)
			}
		}
	}

	bye := a.Session(t, sid, "bye")
	bye.Text(`{"type":"bye"}`)
	bye.Ends(1000)
	_ = a.Session(t, sid, "lost").Close()
	a.Session(t, sid, "reload").Bytes(rig.Frame(rig.OpClose, []byte{1001 >> 8, 1001 & 0xff}))
	_ = a.Session(t, sid, "silent") // it answers no ping
	once(t, a, sid, "expired", 2*time.Second)
	once(t, a, sid, "operator", time.Hour)
	if code := a.REST("POST", "/v1/Services/"+sid+"/Revocations", url.Values{"Identity": {"operator"}}, nil); code != http.StatusCreated {
		t.Fatalf("revoking: %d", code)
	}
	left([]*rig.Node{a, b, c}, "bye", "lost", "reload", "silent", "expired", "operator")

	once(t, b, sid, "drained", time.Hour)
	once(t, c, sid, "node_lost", time.Hour)
	b.Stop()
	c.Kill()
	left([]*rig.Node{a}, "drained", "node_lost")

	away := once(t, a, sid, "redis_away", time.Hour)
	rig.Eventually(t, "it is seen", func() error {
		if h := w.History("redis_away"); h != "true" {
			return errors.New(h)
		}
		return nil
	})
	redis.Kill()
	away.Drop()
	rig.Elapse(t, 3*time.Second)
	redis.Start(t)
	begin := time.Now()
	left([]*rig.Node{a}, "redis_away")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it was offline %v after Redis was back; the bound is 5 s", took)
	}
	if log := a.Log(); !strings.Contains(log, "A user who left is shown offline at the latest after") || !strings.Contains(log, `"msg":"staleness bounds"`) {
		t.Error("the bounds were not told at start")
	}
}
