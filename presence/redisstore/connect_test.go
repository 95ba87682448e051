package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/internal/testkit"
	"github.com/rollcall-presence/rollcall/presence"
	"github.com/rollcall-presence/rollcall/presence/redisstore"
)

// While Redis refuses new connections, as when its password was changed, nobody is said to be unknown.
func TestConnectionRefused(t *testing.T) {
	m, _ := testkit.Mini(t)
	m.RequireAuth("new")
	s := redisstore.New(connect(t, "redis://:old@"+m.Addr()), redisstore.Options{})
	ada := presence.Key{Service: "IS1", Identity: "ada"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // as all callers have one
	defer cancel()
	for op, ask := range map[string]func(context.Context) error{
		"ReadUsers": func(ctx context.Context) error { _, err := s.ReadUsers(ctx, []presence.Key{ada}); return err },
		"Open": func(ctx context.Context) error {
			_, _, err := s.Open(ctx, 0, "node", presence.Held{Key: ada, ID: "session"})
			return err
		},
		"User": func(ctx context.Context) error {
			_, _, err := s.User(ctx, ada.Service, "US00000000000000000000000000000000")
			return err
		},
	} {
		if err := ask(ctx); !redis.HasErrorPrefix(err, "WRONGPASS") {
			t.Errorf("%s = %v; want Redis's own words", op, err)
		}
	}
}

// When the primary at an address is demoted, the first write that it refuses ends all connections, those that
// receive too; and while it is a replica nothing is read from it.
func TestDemotedPrimary(t *testing.T) {
	server := testkit.Redis(t)
	c := connect(t, "redis://"+server.Addr)
	ctx := t.Context()
	own := server.Client()
	defer func() { _ = own.Close() }()

	var wg sync.WaitGroup
	for range 8 { // as many connections
		wg.Go(func() {
			for range 20 {
				if err := c.Set(ctx, "key", "old", 0).Err(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sub := c.Subscribe(ctx, "channel")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	others := func() (ids []string) {
		for line := range strings.Lines(own.ClientList(ctx).Val()) {
			if id, _, _ := strings.Cut(line, " "); !strings.Contains(line, "cmd=client|list") {
				ids = append(ids, id)
			}
		}
		return ids
	}
	before := others()
	if len(before) < 3 {
		t.Fatalf("%d connections; the test shows nothing", len(before))
	}

	if err := own.Do(ctx, "replicaof", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(ctx, "key", "lost", 0).Err(); !redis.IsReadOnlyError(err) {
		t.Errorf("a write to a demoted primary = %v; want READONLY", err)
	}
	s := redisstore.New(c, redisstore.Options{Partitions: 1})
	for range 10 {
		_, err := s.ReadUsers(ctx, []presence.Key{{Service: "IS0", Identity: "ada"}})
		if presence.KindOf(err) != presence.KindUnavailable || err == nil {
			t.Errorf("a read from a replica = %v; want unavailable", err)
		}
	}
	if _, err := sub.Receive(ctx); err == nil {
		t.Error("the connection that receives is still there")
	}
	until(t, func() bool {
		now := fmt.Sprint(others())
		for _, id := range before {
			if strings.Contains(now, id+" ") || strings.Contains(now, id+"]") {
				return false
			}
		}
		return true
	})

	if err := own.Do(ctx, "replicaof", "no", "one").Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "key").Result(); got != "old" || err != nil {
		t.Errorf("from a primary again = %q, %v; want old", got, err)
	}
}

// patience is how long the clients of these tests wait for an answer.
const patience = time.Second

// A command that is not answered in time is not sent again, alone or in a pipeline, though a Cluster's client
// would.
func TestSentOnce(t *testing.T) {
	cluster := testkit.StartCluster(t, 3, 0)
	single := testkit.Redis(t)
	for name, u := range map[string]string{"cluster": cluster.URL(), "single": "redis://" + single.Addr} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, u)
			ctx := t.Context()
			for _, key := range []string{"alone", "piped"} { // by which its connections are there
				_, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error { pipe.Set(ctx, key, 0, 0); return nil })
				if err != nil || c.Get(ctx, key).Err() != nil {
					t.Fatal(err)
				}
			}
			servers := cluster.Servers
			if name == "single" {
				servers = []*testkit.Server{single}
			}
			// They stand still for a little longer than the client waits, so that one that asks
			// again is heard twice.
			for what, ask := range map[string]func() error{
				"alone": func() error { return c.Incr(ctx, "alone").Err() },
				"piped": func() error {
					_, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error { pipe.Incr(ctx, "piped"); return nil })
					return err
				},
			} {
				// on a connection that is there: one that is yet to be made would wait for that
				until(t, func() bool { return c.Get(ctx, what).Err() == nil })
				for _, server := range servers {
					server.Stop(t)
				}
				asked := make(chan error)
				go func() { asked <- ask() }()
				<-time.After(patience + patience/4)
				for _, server := range servers {
					server.Cont(t)
				}
				if err := <-asked; err == nil {
					t.Errorf("%s: answered, though the client waits for less than that", what)
				}
			}
			for _, key := range []string{"alone", "piped"} {
				until(t, func() bool { // once it answers, it has done what was sent before
					n, err := c.Get(ctx, key).Int()
					if err == nil && n != 1 {
						t.Errorf("%s was carried out %d times; want once", key, n)
					}
					return err == nil
				})
			}
		})
	}
}

// A primary that dies is replaced in a moment for the client too.
func TestClusterFailoverIsSeen(t *testing.T) {
	cluster := testkit.StartCluster(t, 3, 1)
	c := connect(t, cluster.URL())
	ctx := t.Context()
	if err := c.Set(ctx, "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	slot := cluster.Slot(t, "key")
	old := cluster.Owner(t, slot)
	if n := old.Client().Wait(ctx, 1, 5*time.Second).Val(); n != 1 {
		t.Fatalf("%d replicas have the write; want 1", n)
	}
	old.Kill()
	cluster.AwaitFailover(t, slot, old)
	start := time.Now()
	until(t, func() bool {
		got, err := c.Get(ctx, "key").Result()
		if err == nil && got != "value" {
			t.Errorf("read %q after the failover; want value", got)
		}
		return err == nil
	})
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the new primary was found after %v; want at most 3s", took)
	}
}

// What Redis answers while it cannot serve is unavailable; what it will never do is not.
func TestAway(t *testing.T) {
	server := testkit.Redis(t)
	c := connect(t, "redis://"+server.Addr)
	s := redisstore.New(c, redisstore.Options{Partitions: 1})
	k := presence.Key{Service: "IS0123456789abcdef0123456789abcdef", Identity: "ada"}
	open := func() error {
		h := presence.Held{Key: k, ID: "000000000000000000000001"}
		h.Service.SID = k.Service
		_, _, err := s.Open(t.Context(), 0, "n1", h)
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	own := server.Client()
	defer func() { _ = own.Close() }()
	set := func(args ...any) {
		t.Helper()
		if err := own.Do(t.Context(), append([]any{"config", "set"}, args...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		what     string
		on, off  []any
		want     presence.Kind
		contains string
	}{
		{"no replica to write to", []any{"min-replicas-to-write", 1}, []any{"min-replicas-to-write", 0}, presence.KindUnavailable, "NOREPLICAS"},
		{"memory is full", []any{"maxmemory", 1}, []any{"maxmemory", 0}, presence.KindUnavailable, "OOM"},
	} {
		set(test.on...)
		if err := open(); presence.KindOf(err) != test.want || err == nil || !strings.Contains(err.Error(), test.contains) {
			t.Errorf("%s: %v of kind %v; want %s, %v", test.what, err, presence.KindOf(err), test.contains, test.want)
		}
		set(test.off...)
		if err := open(); err != nil {
			t.Errorf("%s, and then not: %v", test.what, err)
		}
	}
	// A user without the right is not helped by waiting.
	if err := own.Do(t.Context(), "acl", "setuser", "default", "-zadd").Err(); err != nil {
		t.Fatal(err)
	}
	if err := open(); presence.KindOf(err) != presence.KindInternal {
		t.Logf("%v", err)
		t.Errorf("without a right: kind %v; want internal", presence.KindOf(err))
	}
}
