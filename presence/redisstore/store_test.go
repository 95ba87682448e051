package redisstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/presencetest"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

func TestMiniredis(t *testing.T) {
	presencetest.Run(t, func(t *testing.T) *presencetest.Harness {
		_, c := testkit.Mini(t)
		return harness(t, c)
	})
}

func TestRedis(t *testing.T) {
	server := testkit.Redis(t)
	presencetest.Run(t, func(t *testing.T) *presencetest.Harness {
		c := server.Client()
		t.Cleanup(func() { _ = c.Close() })
		return harness(t, c)
	})
}

// On a Cluster the two partitions lie on different servers.
func TestCluster(t *testing.T) {
	cluster := testkit.StartCluster(t, 3, 0)
	presencetest.Run(t, func(t *testing.T) *presencetest.Harness {
		return harness(t, connect(t, cluster.URL()))
	})
}

// connect returns a client as the product makes it.
func connect(t testing.TB, u string) redis.UniversalClient {
	t.Helper()
	opt, err := configs.RedisURL(u).Options()
	if err != nil {
		t.Fatal(err)
	}
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = patience, patience, patience
	c := redisstore.Connect(opt)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Whole nodes on the scripts, in virtual time.
func TestFaults(t *testing.T) { presencetest.Faults(t, presencetest.Histories{N: 40}, openInBubble) }

// Histories that once failed, as they were shrunk.
func TestFaultsFound(t *testing.T) {
	type history = []presencetest.Fault
	ada, bob := presencetest.Who{}, presencetest.Who{Service: 1, User: 1}
	for name, steps := range map[string]history{
		// The epoch is the same before and after, yet the node registered under a switch that was off.
		"failover loses that the switch was turned off": {{Op: "flip"}, {Op: "open", Node: 2, Who: bob}, {Op: "fail over"}},
		// The linger is not put off by the time for which Redis was away before.
		"session ends between an outage and the first heartbeat": {
			{Op: "open", Who: ada}, {Op: "snapshot"}, {Op: "wait", Seconds: 29}, {Op: "fail over"}, {Op: "drain"},
		},
		// The client gave up; its wish, carried out late, is as one that came after the deletion.
		"user connects on a node that hangs, and is deleted": {
			{Op: "open", Who: presencetest.Who{User: 1}},
			{Op: "link", Link: presencetest.LinkHang},
			{Op: "open", Who: presencetest.Who{User: 1}},
			{Op: "delete user", Who: presencetest.Who{User: 1}},
		},
		// No deletion reaches a session that the store has lost, and its node not told of again.
		"user deleted right after a failover": {
			{Op: "open", Who: presencetest.Who{User: 1}},
			{Op: "fail over"},
			{Op: "open", Node: 1, Who: presencetest.Who{User: 1}},
			{Op: "delete user", Who: presencetest.Who{User: 1}},
		},
		// The service is read while the run of the counter is unknown, and is lost before the next heartbeat.
		"data are lost again before a heartbeat": {
			{Op: "lose"}, {Op: "wait", Seconds: 4}, {Op: "fail over"}, {Op: "open", Who: presencetest.Who{Service: 1, User: 2}}, {Op: "lose"},
		},
		// The node knows the service still when it registers its sessions anew, after the last purge.
		"service deleted while a node is cut off": {
			{Op: "open", Who: bob}, {Op: "link", Link: presencetest.LinkCut}, {Op: "wait", Seconds: 20}, {Op: "delete service"}, {Op: "wait", Seconds: 44},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := presencetest.PlayFaults(t, openInBubble, steps); err != nil {
				t.Error(err)
			}
		})
	}
}

// openInBubble is a store on a miniredis that talks over pipes.
func openInBubble(t *testing.T, hear func(presence.Event)) *presencetest.Harness {
	ctx := t.Context()
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	m.Seed(1)
	c := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Protocol: 2, DisableIdentity: true, MaxRetries: -1,
		Dialer: func(context.Context, string, string) (net.Conn, error) { return m.Dial() },
	})
	s := redisstore.New(c, redisstore.Options{
		Partitions: 2, Lease: presencetest.FaultLease, Stall: presencetest.FaultStall, Rand: rand.NewChaCha8([32]byte{}),
	})
	if err := s.Init(ctx, account); err != nil {
		t.Fatal(err)
	}
	sub := m.NewSubscriber()
	for p := range presence.Partition(s.Partitions()) {
		sub.Subscribe(s.Keys().Channel(p))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for msg := range sub.Messages() {
			hear(decode(t, msg.Message))
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		sub.Close()
		<-done
		m.Close()
	})
	return &presencetest.Harness{
		Store:    s,
		Wipe:     func() { c.FlushAll(ctx) },
		Snapshot: func() func() { return snapshot(t, c) },
	}
}

const account = "AC0123456789abcdef0123456789abcdef"

func harness(t *testing.T, c redis.UniversalClient) *presencetest.Harness {
	ctx := context.Background()
	var offset atomic.Int64
	random := rand.NewChaCha8([32]byte{})
	s := redisstore.New(c, redisstore.Options{Partitions: 2, Lease: presencetest.Lease, Stall: presencetest.Stall, Offset: &offset, Rand: random})
	reset := func() {
		offset.Store(0)
		random.Seed([32]byte{})
		flush(t, c)
		if err := s.Init(ctx, account); err != nil {
			t.Fatal(err)
		}
	}
	reset()
	return &presencetest.Harness{
		Store:    s,
		Reset:    reset,
		Wipe:     func() { flush(t, c) },
		Snapshot: func() func() { return snapshot(t, c) },
		Advance:  func(d time.Duration) { offset.Add(d.Milliseconds()) },
		Events:   listen(t, c, s.Keys().Channel(0), s.Keys().Channel(1)),
		Apart:    clustered(c),
	}
}

func clustered(c redis.UniversalClient) bool { _, ok := c.(*redis.ClusterClient); return ok }

// newService makes a service, and names a user that it may have.
func newService(t testing.TB, h *presencetest.Harness) (presence.Service, presence.Key) {
	t.Helper()
	service, err := h.Store.CreateService(t.Context(), presence.Service{})
	if err != nil {
		t.Fatal(err)
	}
	return service, presence.Key{Service: service.SID, Identity: "ada"}
}

// flush empties all servers.
func flush(t testing.TB, c redis.UniversalClient) {
	t.Helper()
	each(t, c, func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
}

// each does something on every server that holds keys, at once.
func each(t testing.TB, c redis.UniversalClient, f func(context.Context, *redis.Client) error) {
	t.Helper()
	var err error
	switch c := c.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(t.Context(), f)
	case *redis.Client:
		err = f(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// listen returns a function that tells what was published on the channels since it was last called:
// in order, on a Cluster in that of each channel.
func listen(t *testing.T, c redis.UniversalClient, channels ...string) func() []presence.Event {
	ctx := context.Background()
	subs, subscribe, publish := [][]string{channels}, c.Subscribe, c.Publish
	if clustered(c) {
		subs, subscribe, publish = nil, c.SSubscribe, c.SPublish
		for _, channel := range channels {
			subs = append(subs, []string{channel})
		}
	}
	var all []*redis.PubSub
	for _, channels := range subs {
		sub := subscribe(ctx, channels...)
		t.Cleanup(func() { _ = sub.Close() })
		for range channels {
			if _, err := sub.Receive(ctx); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, sub)
	}
	marks := 0
	return func() (events []presence.Event) {
		marks++
		mark := strconv.Itoa(marks)
		for i, sub := range all {
			if err := publish(ctx, subs[i][0], mark).Err(); err != nil {
				t.Fatal(err)
			}
			for {
				m, err := sub.ReceiveMessage(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if m.Payload == mark {
					break
				}
				events = append(events, decode(t, m.Payload))
			}
		}
		return events
	}
}

// snapshot copies all keys, of the types that are in use; what it returns makes the
// keyspace that again.
func snapshot(t *testing.T, c redis.UniversalClient) (restore func()) {
	ctx := context.Background()
	var keys []string
	var mu sync.Mutex // guards keys
	each(t, c, func(ctx context.Context, c *redis.Client) error {
		some, err := c.Keys(ctx, "*").Result()
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, some...)
		return err
	})
	var back []func(redis.Pipeliner)
	for _, k := range keys {
		switch kind := c.Type(ctx, k).Val(); kind {
		case "string":
			v := c.Get(ctx, k).Val()
			back = append(back, func(p redis.Pipeliner) { p.Set(ctx, k, v, 0) })
		case "hash":
			v := c.HGetAll(ctx, k).Val()
			back = append(back, func(p redis.Pipeliner) { p.HSet(ctx, k, v) })
		case "set":
			v := c.SMembers(ctx, k).Val()
			back = append(back, func(p redis.Pipeliner) { p.SAdd(ctx, k, v) })
		case "zset":
			v := c.ZRangeWithScores(ctx, k, 0, -1).Val()
			back = append(back, func(p redis.Pipeliner) { p.ZAdd(ctx, k, v...) })
		default:
			t.Fatalf("%s is a %s", k, kind)
		}
		if ttl := c.PTTL(ctx, k).Val(); ttl > 0 {
			back = append(back, func(p redis.Pipeliner) { p.PExpire(ctx, k, ttl) })
		}
	}
	return func() {
		flush(t, c)
		for _, f := range back { // one by one: the pipes of a bubble have no room
			if _, err := c.Pipelined(ctx, func(p redis.Pipeliner) error { f(p); return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// decode reads a published event as its description in docs/ARCHITECTURE.md says.
func decode(t *testing.T, payload string) presence.Event {
	var m struct {
		R, Q, S, I, U, V, E, O, L, N, Ne string
		M, D                             int
		F                                *string
		A                                string
	}
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		t.Fatalf("published %q: %v", payload, err)
	}
	num := func(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }
	e := presence.Event{Reasons: presence.Reasons(m.M), Deleted: m.D == 1, User: presence.User{
		Key: presence.Key{Service: m.S, Identity: m.I}, SID: m.U, Rev: num(m.V), Epoch: num(m.E), FriendlyName: m.F, Attributes: m.A,
	}}
	states := map[string]presence.Tri{"1": presence.True, "0": presence.False}
	e.User.Online, e.User.Notifiable, e.User.NotifiableEpoch = states[m.O], states[m.N], num(m.Ne)
	if m.R == "" || num(m.Q) == 0 {
		t.Errorf("published %q without run or seq", payload)
	}
	return e
}

func TestInitRefusesAnotherPartitionCount(t *testing.T) {
	_, c := testkit.Mini(t)
	if err := redisstore.New(c, redisstore.Options{Partitions: 4}).Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	err := redisstore.New(c, redisstore.Options{Partitions: 8}).Init(t.Context(), account)
	if presence.KindOf(err) != presence.KindInvalid {
		t.Errorf("Init with 8 partitions on 4 = %v; want invalid", err)
	}
}

// After a flush the default service is made again, or is the one that a node writes back.
func TestDefaultServiceAfterFlush(t *testing.T) {
	_, c := testkit.Mini(t)
	s := redisstore.New(c, redisstore.Options{Partitions: 4})
	if err := s.Init(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	sid, err := s.DefaultService(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	def, err := s.Service(t.Context(), sid)
	if err != nil {
		t.Fatal(err)
	}
	c.FlushAll(t.Context())
	if _, err := s.RestoreService(t.Context(), def, "an older run"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.DefaultService(t.Context()); got != sid || err != nil {
		t.Errorf("DefaultService after it was written back = %q, %v; want %q", got, err, sid)
	}
	if err := redisstore.New(c, redisstore.Options{Partitions: 8}).Init(t.Context(), account); presence.KindOf(err) != presence.KindInvalid {
		t.Errorf("Init with 8 partitions after the flush = %v; want invalid", err)
	}
	c.FlushAll(t.Context())
	got, err := s.DefaultService(t.Context())
	if v, e := s.Service(t.Context(), got); err != nil || e != nil || v.Account != account {
		t.Errorf("default service after a flush = %+v, %v, %v; want a new one", v, err, e)
	}
}

// Heartbeats go in one script for many partitions; where Redis refuses that, in one each.
func TestBeatsThatOneScriptCannotDo(t *testing.T) {
	ps := []presence.Partition{0, 1, 2, 3}
	t.Run("one partition is damaged", func(t *testing.T) {
		_, c := testkit.Mini(t)
		s := redisstore.New(c, redisstore.Options{Partitions: len(ps)})
		c.Set(t.Context(), s.Keys().Seq(1), "what is no hash", 0)
		_, errs := s.Beat(t.Context(), ps, "n1")
		for p, err := range errs {
			if (err != nil) != (p == 1) {
				t.Errorf("Beat of partition %d = %v", p, err)
			}
		}
	})
	t.Run("the server is of a Cluster", func(t *testing.T) { // as some are whose slots are all behind one address
		s := redisstore.New(connect(t, "redis://"+testkit.StartCluster(t, 1, 0).Servers[0].Addr), redisstore.Options{Partitions: len(ps)})
		for range 2 { // of which the second finds nothing due
			_, errs := s.Beat(t.Context(), ps, "n1")
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
		}
	})
}

// A partition that lost its counters gives no block of one node to another.
func TestBlocksAfterTheirCounterWasLost(t *testing.T) {
	_, c := testkit.Mini(t)
	w := newRecords(t, c)
	w.must(c.HDel(w.ctx, w.at("ada", ":seq"), "block").Err())
	for i := range 10 {
		w.open("n3", fmt.Sprint("fay", i), 100+i)
	}
	if got := w.verify(redisstore.VerifyOptions{}); len(got.Disagreements) > 0 {
		t.Errorf("%+v; want no disagreement", got.Disagreements)
	}
}

// A user with a great many sessions is not in as many blocks, each of which every script about it looks into.
func TestBlocksOfAUser(t *testing.T) {
	_, c := testkit.Mini(t)
	w := newRecords(t, c)
	for i := range 200 {
		w.open(presence.NodeID(fmt.Sprint("n", i%2+1)), "fay", 100+i)
	}
	if n := strings.Count(w.fields("fay")[fieldOn], ",") + 1; n > 15 {
		t.Errorf("200 sessions of 2 nodes are in %d blocks", n)
	}
	if list, err := w.s.UserSessions(w.ctx, w.key("fay")); err != nil || len(list) != 200 {
		t.Errorf("%d sessions, %v; want 200", len(list), err)
	}
	for i := range 200 {
		w.wantSeen("some signed out")
		if w.seen["fay"].Online != presence.True {
			t.Fatalf("offline after %d of 200 sessions ended", i)
		}
		w.end(presence.NodeID(fmt.Sprint("n", i%2+1)), "fay", 100+i, 0)
	}
	w.wantSeen("all signed out")
	if got := w.verify(redisstore.VerifyOptions{}); w.seen["fay"].Online != presence.False || len(got.Disagreements) > 0 {
		t.Errorf("online = %v, %+v; want offline, and no disagreement", w.seen["fay"].Online, got.Disagreements)
	}
}

// The online state has a lifetime, and registering anew renews it.
func TestOnlineTTL(t *testing.T) {
	m, c := testkit.Mini(t)
	s := redisstore.New(c, redisstore.Options{OnlineTTL: time.Minute})
	h := presence.Held{Key: presence.Key{Service: "IS0123456789abcdef0123456789abcdef", Identity: "ada"}, ID: "000000000000000000000001"}
	h.Service.SID = h.Key.Service
	for range 2 {
		if _, err := s.Register(t.Context(), s.Partition(h.Key), "n1", []presence.Held{h}); err != nil {
			t.Fatal(err)
		}
		if ttl := m.TTL(s.Keys().OnBlock(s.Partition(h.Key), h.Key.Service, 1)); ttl != time.Minute {
			t.Errorf("lifetime of the online state = %v; want 1m", ttl)
		}
		m.FastForward(40 * time.Second)
	}
}

// After an outage longer than the online state's lifetime, the first of a user's
// sessions to end does not take the others with it: neither by its node's word nor
// when that node is reaped.
func TestLapsedOnlineState(t *testing.T) {
	_, c := testkit.Mini(t)
	h := harness(t, c)
	ctx := t.Context()
	on := true
	service, err := h.Store.CreateService(ctx, presence.Service{})
	if err == nil {
		service, err = h.Store.UpdateService(ctx, service.SID, presence.ServiceUpdate{Enabled: &on})
	}
	if err != nil {
		t.Fatal(err)
	}
	k := presence.Key{Service: service.SID, Identity: "ada"}
	q := h.Store.Partition(k)
	first := presence.Held{Key: k, ID: "000000000000000000000001", Service: service}
	second := presence.Held{Key: k, ID: "000000000000000000000002", Service: service}
	register := func(n presence.NodeID, s presence.Held) {
		t.Helper()
		if _, err := h.Store.Register(ctx, q, n, []presence.Held{s}); err != nil {
			t.Fatal(err)
		}
	}
	beat := func(n presence.NodeID) {
		t.Helper()
		if _, errs := h.Store.Beat(ctx, []presence.Partition{q}, n); errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	lapse := func() {
		t.Helper()
		beat("n1")
		beat("n2")
		register("n1", first)
		register("n2", second)
		h.Events()
		blocks, err := c.Keys(ctx, "rc:*:on:*").Result()
		if err != nil || len(blocks) < 2 {
			t.Fatalf("blocks of the online state: %q, %v; want one of each node", blocks, err)
		}
		if err := c.Del(ctx, blocks...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	live := func(when string, want int) {
		t.Helper()
		if events := h.Events(); len(events) != want {
			t.Errorf("%s: published %+v; want %d events", when, events, want)
		}
	}

	lapse()
	if _, err := h.Store.End(ctx, q, "n1", []presence.Ended{{Key: k, ID: first.ID, Service: service}}); err != nil {
		t.Fatal(err)
	}
	live("ended", 0)
	register("n2", second)
	h.Advance(presencetest.Lease / 2)
	beat("n2")
	h.Advance(presencetest.Lease / 2)
	beat("n2")
	live("ended, the other is back", 0)

	lapse()
	h.Advance(presencetest.Lease / 2)
	beat("n2")
	h.Advance(presencetest.Lease / 2)
	beat("n2") // reaps n1
	live("reaped", 0)
	h.Advance(presencetest.Lease / 2)
	beat("n2")
	live("reaped, grace", 0)
	h.Advance(presencetest.Lease / 2)
	beat("n2")
	live("the other never came back", 1)
}

// The same where the block of one node has lapsed and that of another has not: each was last renewed at its own time.
func TestPartlyLapsedOnlineState(t *testing.T) {
	const lingers = "lingers for another session, and that is over"
	beat := func(w *records, d time.Duration) {
		w.Advance(d)
		_, errs := w.s.Beat(w.ctx, []presence.Partition{w.s.Partition(w.key("fay"))}, "n2")
		w.must(errs...)
	}
	for name, leave := range map[string]func(w *records){
		"signs out": func(w *records) { w.end("n1", "fay", 11, 0) },
		"is ended by the operator": func(w *records) {
			_, err := w.s.EndSessions(w.ctx, w.key("fay"), w.service, session(11))
			w.must(err)
		},
		"was at a node that is reaped": func(w *records) {
			for range 2 {
				beat(w, presencetest.Lease/2)
			}
		},
		lingers: func(w *records) { beat(w, 31*time.Second) },
	} {
		for _, back := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, back=%v", name, back), func(t *testing.T) {
				_, c := testkit.Mini(t)
				w := newRecords(t, c)
				w.open("n1", "fay", 11)
				w.open("n2", "fay", 12)
				if name == lingers {
					w.end("n1", "fay", 11, 30*time.Second)
				}
				blocks, err := c.Keys(w.ctx, "rc:*:on:*").Result()
				w.must(err)
				for _, b := range blocks {
					if c.HGet(w.ctx, b, "").Val() == "n2" {
						w.must(c.Del(w.ctx, b).Err())
					}
				}
				leave(w)
				w.wantSeen("left")
				if w.seen["fay"].Online != presence.True {
					t.Fatal("shown offline, though n2 is about to register its session anew")
				}
				want := presence.False
				if back {
					w.open("n2", "fay", 12)
					want = presence.True
				}
				for range 3 {
					beat(w, presencetest.Lease/2)
				}
				w.wantSeen("a lease later")
				if got := w.seen["fay"].Online; got != want {
					t.Errorf("online = %v; want %v", got, want)
				}
			})
		}
	}
}

// A block that lapsed and whose sessions ended is no disagreement, and is forgotten when the user's others are renewed: its
// next sign-out is one as any.
func TestLapsedAndEnded(t *testing.T) {
	_, c := testkit.Mini(t)
	w := newRecords(t, c)
	w.open("n1", "fay", 11)
	w.open("n2", "fay", 12)
	blocks, err := c.Keys(w.ctx, "rc:*:on:*").Result()
	w.must(err)
	for _, b := range blocks {
		if c.HGet(w.ctx, b, "").Val() == "n2" {
			w.must(c.Del(w.ctx, b).Err())
		}
	}
	w.open("n2", "ada", 2) // is held still
	w.open("n2", "dee", 5)
	w.end("n2", "fay", 12, 0)
	w.open("n1", "fay", 11)
	w.open("n1", "ada", 1)
	if got := w.verify(redisstore.VerifyOptions{}); len(got.Disagreements) > 0 {
		t.Errorf("%+v; want no disagreement", got.Disagreements)
	}
	w.end("n1", "fay", 11, 0)
	w.wantSeen("signed out")
	if w.seen["fay"].Online != presence.False {
		t.Error("lingers after it signed out")
	}
}

// Of deleted users the last thousand of a partition are remembered, for eight days.
func TestDeletedUsersAreForgotten(t *testing.T) {
	m, c := testkit.Mini(t)
	h := harness(t, c)
	ctx := t.Context()
	_, k := newService(t, h)
	deleted := (keys.Keys{Prefix: "rc:", Partitions: 2}).Base(h.Store.Partition(k)) + ":deleted"
	remove := func() string {
		t.Helper()
		u, err := h.Store.CreateUser(ctx, k, presence.UserUpdate{})
		if err == nil {
			err = h.Store.DeleteUser(ctx, k)
		}
		if err != nil {
			t.Fatal(err)
		}
		return u.SID
	}
	has := func(sid string) bool { return c.ZScore(ctx, deleted, sid).Err() == nil }
	first := remove()
	h.Advance(8*24*time.Hour - time.Minute)
	second := remove()
	if !has(first) || !has(second) {
		t.Error("a deleted user was forgotten within eight days")
	}
	h.Advance(2 * time.Minute)
	third := remove()
	if has(first) || !has(second) || !has(third) {
		t.Errorf("remembered after eight days: %v %v %v; want the last two", has(first), has(second), has(third))
	}
	now := c.ZScore(ctx, deleted, third).Val()
	for i := range 1000 {
		c.ZAdd(ctx, deleted, redis.Z{Score: now, Member: fmt.Sprintf("US%032x", i)})
	}
	last := remove()
	if n := c.ZCard(ctx, deleted).Val(); n != 1000 || has(second) || !has(last) {
		t.Errorf("%d remembered, among them the oldest: %v, the last: %v; want 1000, without and with", n, has(second), has(last))
	}
	if ttl := m.TTL(deleted); ttl != 8*24*time.Hour {
		t.Errorf("lifetime of what is remembered = %v; want 8 days", ttl)
	}
}

func TestUnavailable(t *testing.T) {
	m, c := testkit.Mini(t)
	s := redisstore.New(c, redisstore.Options{})
	m.Close()
	if _, err := s.DefaultService(t.Context()); presence.KindOf(err) != presence.KindUnavailable {
		t.Errorf("with Redis away: %v; want unavailable", err)
	}
	if _, errs := s.Beat(t.Context(), []presence.Partition{0, 1}, "n1"); presence.KindOf(errs[1]) != presence.KindUnavailable {
		t.Errorf("Beat with Redis away: %v; want unavailable", errs)
	}
}

// A Redis that lost its script cache (a restart, a failover, SCRIPT FLUSH) is
// served as before.
func TestScriptsReload(t *testing.T) {
	c := testkit.Redis(t).Client()
	t.Cleanup(func() { _ = c.Close() })
	s := redisstore.New(c, redisstore.Options{Partitions: 4})
	for range 2 {
		_, errs := s.Beat(t.Context(), []presence.Partition{0, 1, 2, 3}, "n1")
		for p, err := range errs {
			if err != nil {
				t.Errorf("Beat of partition %d: %v", p, err)
			}
		}
		if err := c.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// A deletion wakes the nodes that hold the user's sessions, and nobody if there are none.
func TestDeletionWakes(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *redis.Client{
		"miniredis": func(t *testing.T) *redis.Client { _, c := testkit.Mini(t); return c },
		"redis": func(t *testing.T) *redis.Client {
			c := testkit.Redis(t).Client()
			t.Cleanup(func() { _ = c.Close() })
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			s := redisstore.New(c, redisstore.Options{})
			sub := c.Subscribe(t.Context(), s.Keys().Wake(), "test:marker")
			defer func() { _ = sub.Close() }()
			for range 2 {
				if _, err := sub.Receive(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			service, err := s.CreateService(t.Context(), presence.Service{Account: account})
			if err != nil {
				t.Fatal(err)
			}
			key := func(identity string) presence.Key { return presence.Key{Service: service.SID, Identity: identity} }
			open := func(identity string) presence.Partition {
				p := s.Partition(key(identity))
				h := presence.Held{Key: key(identity), ID: presence.SessionID(fmt.Sprintf("%024d", 1)), Service: service}
				if _, err := s.Register(t.Context(), p, "n1", []presence.Held{h}); err != nil {
					t.Fatal(err)
				}
				return p
			}
			want := func(when string, ps ...presence.Partition) {
				t.Helper()
				if err := c.Publish(t.Context(), "test:marker", "").Err(); err != nil {
					t.Fatal(err)
				}
				var got []string
				for {
					m, err := sub.ReceiveMessage(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if m.Channel == "test:marker" {
						break
					}
					got = append(got, m.Payload)
				}
				var texts []string
				for _, p := range ps {
					texts = append(texts, fmt.Sprintf("e%d", p))
				}
				if diff := cmp.Diff(texts, got); diff != "" {
					t.Errorf("%s: wakes (-want +got):\n%s", when, diff)
				}
			}
			if _, err := s.CreateUser(t.Context(), key("off"), presence.UserUpdate{}); err != nil {
				t.Fatal(err)
			}
			if err := s.DeleteUser(t.Context(), key("off")); err != nil {
				t.Fatal(err)
			}
			want("a user without sessions deleted")
			p := open("ada")
			if err := s.DeleteUser(t.Context(), key("ada")); err != nil {
				t.Fatal(err)
			}
			want("a connected user deleted", p)
			p = open("bob")
			if err := s.DeleteService(t.Context(), service.SID); err != nil {
				t.Fatal(err)
			}
			want("the service deleted", p)
		})
	}
}

// docs/redis.md grants each command that a script names. (That nothing else is missing is shown end to end.)
func TestRightsOfScripts(t *testing.T) {
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	granted := map[string]bool{}
	for _, right := range regexp.MustCompile(`\+[a-z]+`).FindAllString(string(page), -1) {
		granted[strings.ToUpper(right[1:])] = true
	}
	files, err := filepath.Glob("*.lua")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range regexp.MustCompile(`[({ ]'([A-Z]{3,})'`).FindAllStringSubmatch(string(text), -1) {
			found[word[1]] = true
		}
	}
	for _, no := range []string{"LIMIT", "WITHSCORES", "COUNT", "SDK", "API", "STATE"} { // words, not commands
		delete(found, no)
	}
	if len(found) < 40 || !found["SPUBLISH"] {
		t.Fatalf("found %v; the test looks at nothing", found)
	}
	for command := range found {
		if !granted[command] {
			t.Errorf("a script uses %s, which docs/redis.md does not grant", command)
		}
	}
}
