package testkit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/configs"
	"github.com/rollcall-presence/rollcall/internal/testkit"
)

// What is written before a failover is there after it; what is written after Sever is lost.
func TestSentinels(t *testing.T) {
	t.Parallel()
	s := testkit.StartSentinels(t)
	c := client(t, s.URL())
	set := func(key string) {
		t.Helper()
		eventually(t, func() error { return c.Set(t.Context(), key, key, 0).Err() })
	}
	set("before")
	if got := s.Failover(t); got != s.Servers[1] {
		t.Errorf("the new primary is %s; want %s", got.Addr, s.Servers[1].Addr)
	}
	set("between")
	s.Sever(t)
	set("lost")
	old := s.Primary(t)
	old.Kill()
	s.Servers[0].Cont(t)
	if got := s.AwaitFailover(t, old); got != s.Servers[0] {
		t.Errorf("the new primary is %s; want %s", got.Addr, s.Servers[0].Addr)
	}
	eventually(t, func() error {
		n, err := c.Exists(t.Context(), "before", "between").Result()
		if err == nil && n != 2 {
			t.Errorf("%d of 2 keys are there after two failovers", n)
		}
		return err
	})
	if n := c.Exists(t.Context(), "lost").Val(); n != 0 {
		t.Error("what was written after Sever is there")
	}
}

// Keys stay readable over the move of their slot, over an orderly failover and over the death of a
// primary.
func TestCluster(t *testing.T) {
	t.Parallel()
	s := testkit.StartCluster(t, 3, 1)
	c := s.Client()
	t.Cleanup(func() { _ = c.Close() })
	const n = 30
	for i := range n {
		eventually(t, func() error { return c.Set(t.Context(), fmt.Sprintf("{a}%d", i), i, 0).Err() })
	}
	all := func(when string) {
		t.Helper()
		for i := range n {
			eventually(t, func() error {
				got, err := c.Get(t.Context(), fmt.Sprintf("{a}%d", i)).Int()
				if err == nil && got != i {
					t.Errorf("%s key %d is %d", when, i, got)
				}
				return err
			})
		}
	}
	slot := s.Slot(t, "{a}")
	from := s.Owner(t, slot)
	to := s.Servers[0]
	if to == from {
		to = s.Servers[1]
	}
	s.Move(t, slot, to)
	if got := s.Owner(t, slot); got != to {
		t.Errorf("after the move the slot is %s's; want %s", got.Addr, to.Addr)
	}
	all("after the move")
	heir := s.Failover(t, to)
	all("after a failover")
	heir.Kill()
	if got := s.AwaitFailover(t, slot, heir); got != to {
		t.Errorf("after the death of %s the slot is %s's; want its replica's, %s", heir.Addr, got.Addr, to.Addr)
	}
	all("after the death of a primary")
	heir.Start(t)
	s.Replica(t, to)
}

func TestSecured(t *testing.T) {
	t.Parallel()
	s := testkit.StartSecured(t, "~a:* +set")
	c := client(t, s.URL())
	if err := c.Set(t.Context(), "a:1", 1, 0).Err(); err != nil {
		t.Errorf("what the rules allow = %v", err)
	}
	if err := c.Get(t.Context(), "a:1").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("what they do not = %v; want NOPERM", err)
	}
}

// client reads the URL as the product does.
func client(t *testing.T, u string) redis.UniversalClient {
	t.Helper()
	o, err := configs.RedisURL(u).Options()
	if err != nil {
		t.Fatal(err)
	}
	o.DialTimeout, o.ReadTimeout, o.DialerRetries = time.Second, time.Second, 1
	c := redis.NewUniversalClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
