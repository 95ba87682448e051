package fanout_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/presence"
)

const sid = "IS1"

func key(identity string) presence.Key { return presence.Key{Service: sid, Identity: identity} }

// start returns a node of a world with an enabled service, whose hub serves until
// the test ends.
func start(t *testing.T, opt fanout.Options) *node {
	w := fanouttest.NewWorld(4)
	w.Flip(sid, true)
	n := newNode(w, opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Serve(ctx); err != nil {
			t.Errorf("Serve = %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return n
}

func (c *client) must(t *testing.T, identities ...string) {
	t.Helper()
	if err := c.subscribe(t.Context(), identities...); err != nil {
		t.Fatalf("Subscribe(%v) = %v", identities, err)
	}
}

// got drains the mailbox and returns what the client was told since the last time.
func (c *client) got(t *testing.T) []string {
	t.Helper()
	c.drain()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.errs...); err != nil {
		t.Error(err)
	}
	log := c.log
	c.log = nil
	return log
}

func expect(t *testing.T, what string, c *client, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, c.got(t)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// A reader that is slow gets one update for many, with all that changed.
func TestConflation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		n.publish(n.world.Online(key("ann"), false))
		c := newClient(n.Hub, sid, 0)
		c.must(t, "ann", "bob")
		c.got(t)
		for range 50 {
			n.publish(n.world.Online(key("ann"), true))
			n.publish(n.world.Online(key("ann"), false))
		}
		n.publish(n.world.Attributes(key("ann"), `{"a":1}`))
		n.publish(n.world.Online(key("bob"), true))
		n.publish(n.world.Name(key("ann"), "Ann"))
		n.publish(n.world.Online(key("ann"), true))
		if got := c.box.Len(); got != 2 {
			t.Errorf("Len() = %d; want 2", got)
		}
		items := c.box.Next(nil)
		if len(items) != 2 || items[1].Update == nil || items[1].Update.Reasons != presence.ReasonOnline|presence.ReasonFriendlyName|presence.ReasonAttributes {
			t.Fatalf("Next() = %v; want bob's update and then ann's, of three reasons", items)
		}
		for _, item := range items {
			c.take(item)
		}
		expect(t, "updates", c,
			"bob online=true notifiable=null name=- attributes={}",
			`ann online=true notifiable=null name=Ann attributes={"a":1}`)
		if s := n.Stats(); s.Conflated != 102 || s.Delivered != 104 {
			t.Errorf("Stats: conflated %d, delivered %d; want 102, 104", s.Conflated, s.Delivered)
		}
		n.Detach(&c.box)
	})
}

// That a user was made or deleted is told with whatever else waits, until it is taken.
func TestConflationOfAnotherUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		n.publish(n.world.Name(key("ann"), "Ann"))
		n.publish(n.world.Attributes(key("ann"), `{"a":1}`))
		c := newClient(n.Hub, sid, 0)
		c.must(t, "ann")
		c.got(t)
		one := func(what string, another bool, reasons presence.Reasons, view string) {
			t.Helper()
			items := c.box.Next(nil)
			if len(items) != 1 || items[0].Update == nil {
				t.Fatalf("%s: Next() = %v; want one update", what, items)
			}
			if u := items[0].Update; u.Another != another || u.Reasons != reasons {
				t.Errorf("%s: Another = %v, Reasons = %b; want %v, %b", what, u.Another, u.Reasons, another, reasons)
			}
			c.take(items[0])
			expect(t, what, c, view)
		}
		const profile = presence.ReasonFriendlyName | presence.ReasonAttributes

		n.publish(n.world.Name(key("ann"), "An"))
		n.publish(n.world.Delete(key("ann")))
		one("deleted, whose name changed before", true, 0, "ann gone")

		n.publish(n.world.Online(key("ann"), true))
		n.publish(n.world.Name(key("ann"), "Anna"))
		n.publish(n.world.Online(key("ann"), false))
		one("made, and named", true, presence.ReasonOnline|presence.ReasonFriendlyName, "ann online=false notifiable=null name=Anna attributes={}")

		n.publish(n.world.Online(key("ann"), true))
		one("the same user as before", false, presence.ReasonOnline, "ann online=true notifiable=null name=Anna attributes={}")

		n.publish(n.world.Delete(key("ann")))
		n.publish(n.world.Online(key("ann"), true))
		one("deleted and made again, as it was", true, presence.ReasonOnline, online)

		n.publish(n.world.Attributes(key("ann"), `{"b":2}`))
		n.publish(n.world.Delete(key("ann")))
		n.publish(n.world.Name(key("ann"), "Ann"))
		n.publish(n.world.Attributes(key("ann"), `{"c":3}`))
		one("another with a profile", true, presence.ReasonOnline|profile, `ann online=null notifiable=null name=Ann attributes={"c":3}`)
		n.Detach(&c.box)
	})
}

// wake is called when there is something to take, and not again before Next
// returned nothing.
func TestWake(t *testing.T) {
	var b fanout.Mailbox
	wakes := 0
	b.Init(sid, 0, func(bool) { wakes++ })
	put := func(s string) {
		if err := b.Control([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	put("b")
	if wakes != 1 {
		t.Errorf("after two frames: %d wakes; want 1", wakes)
	}
	batch := make([]fanout.Item, 0, 1)
	for _, want := range []string{"a", "b"} {
		if items := b.Next(batch); len(items) != 1 || string(items[0].Frame) != want {
			t.Errorf("Next() = %v; want frame %s", items, want)
		}
	}
	put("c")
	if wakes != 1 {
		t.Errorf("before Next returned nothing: %d wakes; want 1", wakes)
	}
	b.Next(batch)
	if items := b.Next(batch); len(items) != 0 {
		t.Errorf("Next() = %v; want nothing", items)
	}
	put("d")
	if wakes != 2 {
		t.Errorf("after Next returned nothing: %d wakes; want 2", wakes)
	}
}

func TestFullOfControl(t *testing.T) {
	var b fanout.Mailbox
	wakes := 0
	b.Init(sid, 4096, func(bool) { wakes++ })
	frame := make([]byte, 1000)
	n := 0
	for b.Control(frame) == nil {
		n++
	}
	if n != 3 {
		t.Errorf("%d frames of 1000 bytes fit into 4096; want 3", n)
	}
	if err := b.Control(nil); !errors.Is(err, fanout.ErrFull) || !b.Full() || wakes != 2 {
		t.Errorf("Control = %v, Full = %v, %d wakes; want ErrFull, true, 2", err, b.Full(), wakes)
	}
	if items := b.Next(nil); len(items) != 0 {
		t.Errorf("Next() of a full mailbox = %d items; want none", len(items))
	}
}

// Changes of reachability alone never make a mailbox full; profiles may.
func TestFullOfUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		c := newClient(n.Hub, sid, 0)
		var names []string
		for i := range 1000 {
			names = append(names, "user"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+strings.Repeat("y", i/26))
		}
		c.must(t, names...)
		c.got(t)
		for range 3 {
			for _, name := range names {
				n.publish(n.world.Online(key(name), true))
				n.publish(n.world.Online(key(name), false))
			}
		}
		if c.box.Full() {
			t.Error("full of changes of reachability")
		}
		if got := len(c.got(t)); got != len(names) {
			t.Errorf("%d updates; want %d", got, len(names))
		}
		big := strings.Repeat("a", presence.DefaultAttributes)
		for _, name := range names[:20] {
			n.publish(n.world.Attributes(key(name), big))
		}
		<-c.wakes
		if !c.box.Full() || c.box.Len() != 0 {
			t.Errorf("Full = %v, Len = %d after 320 KiB of attributes; want true, 0", c.box.Full(), c.box.Len())
		}
		if err := c.subscribe(t.Context(), names[0]); !errors.Is(err, fanout.ErrFull) {
			t.Errorf("Subscribe = %v; want ErrFull", err)
		}
		n.Detach(&c.box)
	})
}

// A session that does not take its answers is not given more of them.
func TestSubscribeWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		var b fanout.Mailbox
		b.Init(sid, 1000, func(bool) {})
		n.Attach(&b)
		large := func([]presence.Snapshot) []byte { return make([]byte, 5000) }
		if err := n.Subscribe(t.Context(), &b, []string{"ann"}, nil, large); err != nil {
			t.Fatalf("the first answer, larger than the mailbox: %v", err)
		}
		if err := b.Control(make([]byte, 100)); err != nil {
			t.Errorf("Control behind a large answer = %v", err)
		}
		second := make(chan error, 1)
		go func() { second <- n.Subscribe(t.Context(), &b, []string{"bob"}, nil, large) }()
		synctest.Wait()
		select {
		case err := <-second:
			t.Fatalf("the second Subscribe returned %v before the first answer was taken", err)
		default:
		}
		b.Next(nil)
		if err := <-second; err != nil {
			t.Errorf("the second Subscribe = %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("over"))
		if err := n.Subscribe(ctx, &b, []string{"cyd"}, nil, large); err == nil || err.Error() != "over" {
			t.Errorf("Subscribe without room = %v; want the context's cause", err)
		}
		n.Detach(&b)
		if err := n.Subscribe(t.Context(), &b, []string{"cyd"}, nil, large); !errors.Is(err, fanout.ErrDetached) {
			t.Errorf("Subscribe after Detach = %v; want ErrDetached", err)
		}
		if err := b.Control(nil); !errors.Is(err, fanout.ErrDetached) {
			t.Errorf("Control after Detach = %v; want ErrDetached", err)
		}
	})
}

// All that is put in line while an answer is being made waits behind it.
func TestAnswerKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, fanout.Options{})
		c := newClient(n.Hub, sid, 0)
		n.publish(n.world.Online(key("ann"), true))
		var asked atomic.Bool // later reads are repairs
		n.world.Latency(func() {
			if asked.Swap(true) {
				return
			}
			n.publish(n.world.Online(key("ann"), false)) // since it was read
			n.publish(n.world.Name(key("ann"), "Ann"))
			if err := c.box.Control([]byte("pong")); err != nil {
				t.Error(err)
			}
			if items := c.box.Next(nil); len(items) != 0 {
				t.Errorf("Next() = %v before the answer is made; want nothing", items)
			}
		})
		c.must(t, "ann")
		<-c.wakes
		items := c.box.Next(nil)
		if len(items) != 2 || string(items[0].Frame) != "1" || string(items[1].Frame) != "pong" {
			t.Fatalf("Next() = %v; want the answer and the pong: the update is part of the answer", items)
		}
		c.take(items[0])
		expect(t, "answer", c, "=ann online=false notifiable=null name=Ann attributes={}")
		n.Detach(&c.box)
	})
}

func TestFrameIsEncodedOncePerSlot(t *testing.T) {
	u := &fanout.Update{}
	calls := 0
	encode := func(s string) func(*fanout.Update) []byte {
		return func(*fanout.Update) []byte { calls++; return []byte(s) }
	}
	got := []string{
		string(u.Frame(0, encode("native"))), string(u.Frame(1, encode("other"))),
		string(u.Frame(0, encode("again"))), string(u.Frame(1, encode("again"))),
	}
	if want := []string{"native", "other", "native", "other"}; !slices.Equal(got, want) || calls != 2 {
		t.Errorf("frames %v in %d calls; want %v in 2", got, calls, want)
	}
	fail := func(*fanout.Update) []byte { panic("encoded again") }
	if n := testing.AllocsPerRun(100, func() { u.Frame(0, fail) }); n != 0 {
		t.Errorf("%v allocations for a frame that is there; want 0", n)
	}
}
