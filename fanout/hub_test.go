package fanout_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/presence"
)

const (
	online  = "ann online=true notifiable=null name=- attributes={}"
	offline = "ann online=false notifiable=null name=- attributes={}"
	unknown = "ann online=null notifiable=null name=- attributes={}"
)

// listening returns a node and a client that is subscribed to ann, who is online.
func listening(t *testing.T) (*node, *client) {
	n := start(t, fanout.Options{})
	n.publish(n.world.Online(key("ann"), true))
	c := newClient(n.Hub, sid, 0)
	c.must(t, "ann")
	n.beat()
	time.Sleep(3 * time.Second) // the hub has heard where the counters stand
	expect(t, "snapshot", c, "="+online)
	t.Cleanup(func() { n.Detach(&c.box) })
	return n, c
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{MaxSubscriptions: 3})
		n.publish(n.world.Name(key("bob"), "Bob"))
		c := newClient(n.Hub, sid, 0)
		c.must(t, "bob", "ann", "bob")
		expect(t, "snapshots in the order asked", c,
			"=bob online=null notifiable=null name=Bob attributes={}", "=ann gone", "=bob online=null notifiable=null name=Bob attributes={}")
		if err := c.subscribe(t.Context(), "cyd", "dee"); !errors.Is(err, fanout.ErrTooMany) {
			t.Errorf("a third and a fourth user: %v; want ErrTooMany", err)
		}
		if got := c.box.Subscriptions(); got != 2 {
			t.Errorf("Subscriptions() = %d; want 2", got)
		}
		c.must(t, "cyd", "ann", "cyd")
		if s := n.Stats(); s.Subscriptions != 3 {
			t.Errorf("Stats().Subscriptions = %d; want 3", s.Subscriptions)
		}
		c.got(t)
		n.publish(n.world.Online(key("cyd"), true))
		c.unsubscribe("cyd", "ann", "nobody")
		n.publish(n.world.Online(key("ann"), true))
		n.publish(n.world.Online(key("bob"), true))
		expect(t, "after unsubscribing", c, "bob online=true notifiable=null name=Bob attributes={}")

		other := newClient(n.Hub, "IS2", 0)
		if err := other.subscribe(t.Context(), "bob"); !errors.Is(err, presence.ErrNoService) {
			t.Errorf("in a service that does not exist: %v; want ErrNoService", err)
		}
		n.world.Flip("IS2", true)
		other.must(t, "bob")
		n.publish(n.world.Online(key("bob"), false))
		expect(t, "in another service", other, "=bob gone")
		n.Detach(&other.box)
		n.Detach(&c.box)
		for p := range presence.Partition(n.world.Parts) {
			if got := n.bus.Listeners(p); got != 0 {
				t.Errorf("after the last session: %d listeners of partition %d", got, p)
			}
		}
	})
}

// An update says whether the user is another than before: made, deleted, or found to be so
// when what was lost is read again.
func TestAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		step := func(what string, another bool, do func()) {
			t.Helper()
			do()
			synctest.Wait()
			items := c.box.Next(nil)
			if len(items) != 1 || items[0].Update == nil || items[0].Update.Another != another {
				t.Errorf("%s: %+v; want one update, of another user: %v", what, items, another)
			}
			for _, item := range items {
				c.take(item)
			}
			c.got(t)
		}
		lost := func([]fanouttest.Published) {
			n.publish(n.world.Online(key("nan"), true))
			n.publish(n.world.Online(key("nan"), false))
		}
		step("changed", false, func() { n.publish(n.world.Online(key("ann"), false)) })
		step("renamed", false, func() { n.publish(n.world.Name(key("ann"), "Ann")) })
		step("deleted", true, func() { n.publish(n.world.Delete(key("ann"))) })
		step("made", true, func() { n.publish(n.world.Name(key("ann"), "Ann")) })
		step("changed again", false, func() { n.publish(n.world.Online(key("ann"), true)) })
		step("changed, and it was lost", false, func() { lost(n.world.Online(key("ann"), false)) })
		step("deleted, and it was lost", true, func() { lost(n.world.Delete(key("ann"))) })
		step("made, and it was lost", true, func() { lost(n.world.Online(key("ann"), true)) })
		step("deleted and made, and both were lost", true, func() { lost(append(n.world.Delete(key("ann")), n.world.Online(key("ann"), true)...)) })
		n.flip(sid, false)
		if items := c.box.Next(nil); len(items) != 2 || items[1].Update == nil || items[1].Update.Another {
			t.Errorf("the switch is off: %+v; want an update, of the same user", items)
		}
	})
}

// A subscription that fails leaves nothing behind.
func TestSubscribeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		c := newClient(n.Hub, sid, 0)
		away := &presence.Error{Op: "read users", Kind: presence.KindUnavailable}
		n.world.Down(away)
		if err := c.subscribe(t.Context(), "ann", "bob"); !errors.Is(err, away) {
			t.Errorf("Subscribe = %v; want %v", err, away)
		}
		if s := n.Stats(); s.Subscriptions != 0 || s.Partitions != 0 || c.box.Len() != 0 || n.bus.Listeners(n.world.Partition(key("ann"))) != 0 {
			t.Errorf("left behind: %+v, %d waiting, or a listener", s, c.box.Len())
		}
		n.world.Down(nil)
		c.must(t, "ann")
		expect(t, "after it works again", c, "=ann gone")
		n.Detach(&c.box)
	})
}

// A message that was lost is made up for as soon as the next one shows it.
func TestGapBySeq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		n.world.Online(key("ann"), false) // lost
		n.publish(n.world.Online(key("nan"), true))
		synctest.Wait()
		expect(t, "repaired", c, offline)
		if g := n.Stats().Gaps; g != (fanout.Gaps{Seq: 1}) {
			t.Errorf("Gaps = %+v; want one by seq", g)
		}
	})
}

// A lost message that no other follows shows at the next heartbeat; one that is
// only late does not count as lost.
func TestGapByBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		late := n.world.Online(key("ann"), false)
		n.beat()
		time.Sleep(200 * time.Millisecond)
		n.publish(late)
		time.Sleep(time.Second)
		expect(t, "late", c, offline)
		if g := n.Stats().Gaps; g != (fanout.Gaps{}) {
			t.Errorf("Gaps = %+v after a late message; want none", g)
		}
		n.world.Online(key("ann"), true) // lost
		n.beat()
		time.Sleep(249 * time.Millisecond)
		expect(t, "too early to say", c)
		time.Sleep(2 * time.Millisecond)
		expect(t, "repaired", c, online)
		if g := n.Stats().Gaps; g != (fanout.Gaps{Beat: 1}) {
			t.Errorf("Gaps = %+v; want one by beat", g)
		}
	})
}

// A bus that was cut off makes the hub read again; while the store is away it tries
// again, and is done soon after it is back.
func TestResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		n.bus.Cut()
		n.publish(n.world.Attributes(key("ann"), "1"))
		n.world.Down(errors.New("away"))
		n.bus.Mend()
		time.Sleep(30 * time.Second)
		expect(t, "while the store is away", c)
		n.world.Down(nil)
		time.Sleep(time.Second)
		expect(t, "repaired", c, "ann online=true notifiable=null name=- attributes=1")
		s := n.Stats()
		if s.Gaps != (fanout.Gaps{Resubscribe: 1}) || s.Failed < 25 || s.Failed > 80 {
			t.Errorf("Stats = %+v; want one gap, and a failed repair or two a second", s)
		}
	})
}

// A store that lost everything is believed, and what it makes anew as well.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		n.world.Flush()
		n.beat()
		time.Sleep(time.Second)
		expect(t, "flushed", c, "ann gone")
		n.publish(n.world.Online(key("ann"), true))
		expect(t, "made anew", c, online)
	})
}

// A store that lost the last minute is believed: views go back, revisions do not.
func TestLostMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		restore := n.world.Backup()
		n.publish(n.world.Online(key("ann"), false))
		expect(t, "offline", c, offline)
		restore()
		n.beat()
		time.Sleep(time.Second)
		expect(t, "went back", c, online)
	})
}

func TestSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		n.flip(sid, false)
		expect(t, "off", c, "switch false", unknown)
		n.flip(sid, true)
		n.flip(sid, false)
		n.flip(sid, true)
		synctest.Wait()
		expect(t, "on, as the last of several", c, "switch true", online)
		n.flip(sid, false)
		c.got(t)
		if out := n.world.Online(key("ann"), false); out != nil {
			t.Fatal("a transition was published while the switch is off")
		}
		n.flip(sid, true)
		synctest.Wait()
		expect(t, "on, having left in between", c, "switch true")
		n.publish(n.world.Online(key("ann"), true))
		n.publish(n.world.Online(key("ann"), false))
		expect(t, "left", c, offline)
	})
}

// An event may come before the news of its service's switch.
func TestEventOvertakesSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		n.flip(sid, false)
		c.got(t)
		old, changed := n.world.Flip(sid, true)
		n.publish(n.world.Online(key("ann"), true))
		expect(t, "before the switch is known", c)
		n.ServiceChanged(old, changed, true)
		synctest.Wait()
		expect(t, "after", c, "switch true", online)
	})
}

func TestServiceDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		s, err := n.world.Service(t.Context(), sid)
		if err != nil {
			t.Fatal(err)
		}
		n.ServiceChanged(s, presence.Service{}, false)
		expect(t, "deleted", c, "switch false", unknown)
	})
}

// What comes in while a repair reads makes that read worthless, not the repair.
func TestEventDuringRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		n.world.Attributes(key("ann"), "1") // lost
		var once atomic.Bool
		n.world.Latency(func() {
			if !once.Swap(true) {
				n.publish(n.world.Online(key("ann"), false))
			}
		})
		n.publish(n.world.Online(key("nan"), true))
		synctest.Wait()
		expect(t, "repaired", c, "ann online=false notifiable=null name=- attributes=1")
	})
}

// Of two sessions that subscribe at once the one that read first learns what the
// other read later.
func TestSubscribeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		n.world.Name(key("ann"), "old")
		first, second := newClient(n.Hub, sid, 0), newClient(n.Hub, sid, 0)
		var once atomic.Bool
		n.world.Latency(func() {
			if once.Swap(true) {
				return
			}
			late := n.world.Name(key("ann"), "new")
			second.must(t, "ann")
			n.publish(late)
		})
		first.must(t, "ann")
		const want = "=ann online=null notifiable=null name=new attributes={}"
		expect(t, "read first", first, want)
		expect(t, "read later", second, want)
		n.Detach(&first.box)
		n.Detach(&second.box)
	})
}

// Each update goes to those who are subscribed, whoever came and went before.
func TestManySubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		clients := make([]*client, 300)
		for i := range clients {
			clients[i] = newClient(n.Hub, sid, 0)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for round := range 40 {
			keep := round % 4 // grow, churn, shrink
			for _, i := range r.Perm(len(clients))[:100] {
				c := clients[i]
				switch {
				case c.wanted["ann"] && r.IntN(4) >= keep:
					c.unsubscribe("ann")
				case !c.wanted["ann"] && r.IntN(4) < keep:
					c.must(t, "ann")
				}
				c.got(t)
			}
			n.publish(n.world.Online(key("ann"), round%2 == 0))
			subscribed := 0
			for i, c := range clients {
				var want []string
				if c.wanted["ann"] {
					subscribed++
					want = []string{[]string{online, offline}[round%2]}
				}
				if diff := cmp.Diff(want, c.got(t)); diff != "" {
					t.Fatalf("round %d: client %d (-want +got):\n%s", round, i, diff)
				}
			}
			if got := n.Stats().Subscriptions; got != int64(subscribed) {
				t.Fatalf("round %d: Stats().Subscriptions = %d; want %d", round, got, subscribed)
			}
		}
		for _, c := range clients {
			n.Detach(&c.box)
		}
		if s := n.Stats(); s.Subscriptions != 0 || s.Partitions != 0 {
			t.Errorf("after all left: %+v", s)
		}
	})
}

// What does not concern this node is ignored.
func TestForeignEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := listening(t)
		for _, p := range []presence.Partition{presence.Services, 99} {
			n.Event(p, "run", 1, presence.Event{User: presence.User{Key: key("ann"), Rev: 1 << 60}})
			n.Beat(p, "run", 7)
			n.Resync(p)
		}
		for i := range 4 {
			n.Event(presence.Partition(i), "run9", 1, presence.Event{User: presence.User{Key: presence.Key{Service: "IS9", Identity: fmt.Sprint(i)}, Rev: 1}})
		}
		synctest.Wait()
		expect(t, "updates", c)
	})
}
