package redisbus_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/fanout/redisbus"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// cluster is a Redis Cluster and a client as the product makes it.
func cluster(t *testing.T, replicas int) (*testkit.Cluster, redis.UniversalClient) {
	t.Helper()
	s := testkit.StartCluster(t, 3, replicas)
	return s, product(t, s.URL())
}

// product is a client as the product makes it.
func product(t *testing.T, u string) redis.UniversalClient {
	t.Helper()
	opt, err := configs.RedisURL(u).Options()
	if err != nil {
		t.Fatal(err)
	}
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = time.Second, time.Second, time.Second
	c := redisstore.Connect(opt)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// spublish publishes as the store's scripts do on a Cluster.
func spublish(c redis.UniversalClient) func(*testing.T, presence.Partition, string, uint64, presence.Event) {
	return func(t *testing.T, p presence.Partition, run string, seq uint64, e presence.Event) {
		text := message(t, run, seq, e)
		until(t, "published", func() bool { return c.SPublish(t.Context(), names.Channel(p), text).Err() == nil })
	}
}

func event(identity string, rev int64) presence.Event {
	return presence.Event{User: presence.User{Key: presence.Key{Service: "IS0", Identity: identity}, Rev: rev}}
}

func TestCluster(t *testing.T) {
	s, c := cluster(t, 0)
	fanouttest.Run(t, func(t *testing.T, h fanout.Handler) fanouttest.Harness {
		return fanouttest.Harness{
			Bus: serve(t, c, h, redisbus.Options{}), Publish: spublish(c),
			Cut: func(t *testing.T) {
				for _, server := range s.Servers {
					own := server.Client()
					if err := own.Do(t.Context(), "client", "kill", "type", "pubsub").Err(); err != nil {
						t.Fatal(err)
					}
					_ = own.Close()
				}
			},
			Mend: func(*testing.T) {},
		}
	})
}

// follows checks, for as long as it takes, that each channel is subscribed at the primary of its slot and
// nowhere else, with one connection to each and one for plain channels, and that an event
// arrives in each.
func follows(t *testing.T, when string, s *testkit.Cluster, c redis.UniversalClient, reg *prometheus.Registry, r *fanouttest.Recorder, ps []presence.Partition, seq uint64) {
	t.Helper()
	owners := map[*testkit.Server]bool{s.Owner(t, s.Slot(t, names.Channel(presence.Services))): true}
	clients := map[*testkit.Server]*redis.Client{}
	owner := map[presence.Partition]*testkit.Server{}
	for _, p := range ps {
		owner[p] = s.Owner(t, s.Slot(t, names.Channel(p)))
		owners[owner[p]] = true
	}
	for _, server := range s.Servers {
		clients[server] = server.Client()
		defer func() { _ = clients[server].Close() }()
	}
	why := ""
	until(t, when, func() bool {
		if got := gather(t, reg)["rollcall_bus_connections"]; got != float64(1+len(owners)) {
			why = fmt.Sprintf("%v connections to %d primaries", got, len(owners))
			return false
		}
		for server, own := range clients {
			for _, p := range ps {
				n, err := own.PubSubShardNumSub(t.Context(), names.Channel(p)).Result()
				want := int64(0)
				if server == owner[p] {
					want = 1
				}
				if err == nil && n[names.Channel(p)] != want {
					why = fmt.Sprintf("%s has %d subscribers of %d; want %d", server.Addr, n[names.Channel(p)], p, want)
					return false
				}
			}
		}
		return true
	}, &why)
	publish := spublish(c)
	before := len(r.Events(t, 0))
	for _, p := range ps {
		publish(t, p, "run", seq, event("ann", int64(seq)))
	}
	got := map[presence.Partition]bool{}
	for _, e := range r.Events(t, before+len(ps))[before:] {
		got[e.P] = e.Seq == seq
	}
	for _, p := range ps {
		if !got[p] {
			t.Errorf("%s, the event of partition %d did not arrive", when, p)
		}
	}
}

// Channels go where their slots go: when one is moved, when a replica takes over in good
// order, and when a primary dies. Whatever was subscribed anew is resynced.
func TestClusterFollowsSlots(t *testing.T) {
	s, c := cluster(t, 1)
	r, reg := fanouttest.NewRecorder(), prometheus.NewRegistry()
	b := serve(t, c, r, redisbus.Options{Metrics: reg, Probe: 200 * time.Millisecond})
	var ps []presence.Partition
	for p := range presence.Partition(24) {
		ps = append(ps, p)
	}
	if err := b.Watch(t.Context(), ps...); err != nil {
		t.Fatal(err)
	}
	follows(t, "at the start", s, c, reg, r, ps, 1)
	if got := r.Resyncs(); len(got) != 0 {
		t.Errorf("resync of %v before anything was lost", got)
	}

	slot := s.Slot(t, names.Channel(ps[0]))
	from := s.Owner(t, slot)
	to := s.Servers[0]
	if to == from {
		to = s.Servers[1]
	}
	s.Move(t, slot, to)
	r.AwaitResync(t, ps[0])
	follows(t, "after a slot has moved", s, c, reg, r, ps, 2)
	if got := r.Resyncs(); len(got) != 1 {
		t.Errorf("resync of %v after a slot has moved; want partition %d alone", got, ps[0])
	}

	heir := s.Failover(t, to)
	follows(t, "after a failover in good order", s, c, reg, r, ps, 3)
	before := len(r.Resyncs())
	heir.Kill()
	s.AwaitFailover(t, slot, heir)
	follows(t, "after the death of a primary", s, c, reg, r, ps, 4)
	if got := r.Resyncs(); len(got) == before {
		t.Error("nothing is resynced after the death of a primary")
	}
	until(t, "healthy", b.Healthy)
}

// A connection to one primary that dies without a word is noticed by its own probe, and only what it
// carried is resynced.
func TestClusterBlackHole(t *testing.T) {
	s, _ := cluster(t, 0)
	var d net.Dialer
	var mu sync.Mutex // guards conns
	conns := map[string][]*hole{}
	opt := &redis.ClusterOptions{Addrs: []string{s.Servers[0].Addr}, MaxRetries: -1, DialerRetries: 1, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		h := &hole{Conn: raw}
		mu.Lock()
		conns[addr] = append(conns[addr], h)
		mu.Unlock()
		return h, nil
	}}
	c := redis.NewClusterClient(opt)
	defer func() { _ = c.Close() }()
	r, reg := fanouttest.NewRecorder(), prometheus.NewRegistry()
	b := serve(t, c, r, redisbus.Options{Probe: 100 * time.Millisecond, Metrics: reg})
	var ps []presence.Partition
	for p := range presence.Partition(12) {
		ps = append(ps, p)
	}
	if err := b.Watch(t.Context(), ps...); err != nil {
		t.Fatal(err)
	}
	until(t, "healthy", b.Healthy)
	victim := s.Owner(t, s.Slot(t, names.Channel(ps[0])))
	mu.Lock()
	for _, h := range conns[victim.Addr] {
		if h.subscribed.Load() {
			h.swallow.Store(true)
		}
	}
	mu.Unlock()
	want := 0
	for _, p := range append(ps, presence.Services) {
		if s.Owner(t, s.Slot(t, names.Channel(p))) == victim {
			want++
		}
	}
	r.AwaitResyncs(t, want)
	if got := gather(t, reg)["rollcall_bus_reconnects_total silent"]; got < 1 {
		t.Errorf("rollcall_bus_reconnects_total silent = %v; want at least 1", got)
	}
	until(t, "healthy again", b.Healthy)
	publish := spublish(c)
	for i, p := range ps {
		publish(t, p, "run", 1, event("ann", 1))
		r.Events(t, i+1)
	}
	for _, p := range r.Resyncs() {
		if s.Owner(t, s.Slot(t, names.Channel(p))) != victim {
			t.Errorf("resync of %d, which another connection carries", p)
		}
	}
}

// hole is a connection whose incoming bytes can be lost.
type hole struct {
	net.Conn
	subscribed, swallow atomic.Bool
}

func (h *hole) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "subscribe") {
		h.subscribed.Store(true)
	}
	return h.Conn.Write(b)
}

func (h *hole) Read(b []byte) (int, error) {
	for {
		n, err := h.Conn.Read(b)
		if err != nil || !h.swallow.Load() {
			return n, err
		}
	}
}

// A primary that stands still, with its connections open, is replaced by the sentinels: the bus finds that what it
// publishes now does not come by the old connection, and the new primary's events arrive.
func TestSentinelReplacesSilentPrimary(t *testing.T) {
	s := testkit.StartSentinels(t)
	c := product(t, s.URL())
	r, reg := fanouttest.NewRecorder(), prometheus.NewRegistry()
	b := serve(t, c, r, redisbus.Options{Probe: 300 * time.Millisecond, Metrics: reg})
	if err := b.Watch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	until(t, "healthy", b.Healthy)
	old := s.Primary(t)
	old.Stop(t)
	defer old.Cont(t)
	primary := s.AwaitFailover(t, old)
	r.AwaitResync(t, 1)
	until(t, "healthy again", b.Healthy)
	direct := primary.Client()
	defer func() { _ = direct.Close() }()
	publish(direct)(t, 1, "run", 2, event("ann", 1))
	r.Events(t, 1)
	if got := gather(t, reg)["rollcall_bus_reconnects_total silent"]; got < 1 {
		t.Errorf("rollcall_bus_reconnects_total silent = %v; want at least 1", got)
	}
}
