package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/fanout/fanouttest"
	"github.com/rollcall-presence/rollcall/presence"
)

// node is a hub that listens to a world.
type node struct {
	*fanout.Hub
	world *fanouttest.World
	bus   *fanouttest.Bus
}

func (n *node) ServiceEvent(string, uint64, string) {}

func newNode(w *fanouttest.World, opt fanout.Options) *node {
	n := &node{world: w}
	n.bus = fanouttest.NewBus(n)
	n.Hub = fanout.NewHub(n.bus, w, w, opt)
	return n
}

func (n *node) publish(list []fanouttest.Published) {
	for _, e := range list {
		n.bus.Deliver(e.P, e.Run, e.Seq, e.Event)
	}
}

func (n *node) flip(sid string, enabled bool) {
	old, changed := n.world.Flip(sid, enabled)
	n.ServiceChanged(old, changed, true)
}

func (n *node) beat() {
	for p := range presence.Partition(n.world.Parts) {
		run, seq := n.world.Counter(p)
		n.Beat(p, run, seq)
	}
}

// client is a session that believes what it is sent, and complains where a revision
// does not grow.
type client struct {
	service string
	box     fanout.Mailbox
	hub     *fanout.Hub
	wakes   chan struct{}

	wanted map[string]bool // owned by who subscribes: what the session is subscribed to

	mu      sync.Mutex // guards the following
	answers map[string]reply
	sent    int
	seen    map[string]presence.Snapshot
	log     []string
	errs    []error
}

type reply struct {
	list  []presence.Snapshot
	known map[string]bool // was subscribed before, so that revisions must go on
}

func newClient(h *fanout.Hub, service string, maxBytes int) *client {
	c := &client{
		service: service, hub: h, wakes: make(chan struct{}, 1),
		wanted: map[string]bool{}, answers: map[string]reply{}, seen: map[string]presence.Snapshot{},
	}
	c.box.Init(service, maxBytes, func(bool) {
		select {
		case c.wakes <- struct{}{}:
		default:
		}
	})
	h.Attach(&c.box)
	return c
}

func (c *client) subscribe(ctx context.Context, identities ...string) error {
	known := maps.Clone(c.wanted)
	err := c.hub.Subscribe(ctx, &c.box, identities, nil, func(list []presence.Snapshot) []byte {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sent++
		id := strconv.Itoa(c.sent)
		c.answers[id] = reply{slices.Clone(list), known}
		return []byte(id)
	})
	if err == nil {
		for _, identity := range identities {
			c.wanted[identity] = true
		}
	}
	return err
}

func (c *client) unsubscribe(identities ...string) {
	c.hub.Unsubscribe(&c.box, identities)
	for _, identity := range identities {
		delete(c.wanted, identity)
	}
}

// drain takes all that waits.
func (c *client) drain() {
	for {
		items := c.box.Next(nil)
		if len(items) == 0 {
			return
		}
		c.mu.Lock()
		for _, item := range items {
			c.take(item)
		}
		c.mu.Unlock()
	}
}

func (c *client) take(item fanout.Item) {
	switch {
	case item.Update != nil:
		v := item.Update.View
		last := c.seen[v.Identity]
		if v.Rev <= last.Rev {
			c.errs = append(c.errs, fmt.Errorf("update of %s has revision %d after %d", v.Identity, v.Rev, last.Rev))
		}
		if v.SID != last.SID && !item.Update.Another {
			c.errs = append(c.errs, fmt.Errorf("update of %s has SID %q after %q, and does not say so", v.Identity, v.SID, last.SID))
		}
		if item.Update.Another { // of its profile nothing is known but what the update says
			last.FriendlyName, last.Attributes = nil, "{}"
		}
		if item.Update.Reasons&presence.ReasonFriendlyName == 0 {
			v.FriendlyName = last.FriendlyName
		}
		if item.Update.Reasons&presence.ReasonAttributes == 0 {
			v.Attributes = last.Attributes
		}
		c.seen[v.Identity] = v
		c.log = append(c.log, show(v))
	case item.Frame != nil:
		r := c.answers[string(item.Frame)]
		for _, v := range r.list {
			if last := c.seen[v.Identity]; r.known[v.Identity] && v.Rev < last.Rev {
				c.errs = append(c.errs, fmt.Errorf("snapshot of %s has revision %d after %d", v.Identity, v.Rev, last.Rev))
			}
			c.seen[v.Identity] = v
			c.log = append(c.log, "="+show(v))
		}
	default:
		c.log = append(c.log, "switch "+item.ServiceEnabled.String())
	}
}

// show is a view without its revision and dates.
func show(v presence.Snapshot) string {
	if v.SID == "" {
		return v.Identity + " gone"
	}
	name := "-"
	if v.FriendlyName != nil {
		name = *v.FriendlyName
	}
	return fmt.Sprintf("%s online=%s notifiable=%s name=%s attributes=%s", v.Identity, v.Online, v.Notifiable, name, v.Attributes)
}

const (
	opOnline = iota
	opNotifiable
	opName
	opAttributes
	opDelete
	opFlip
	opSubscribe
	opUnsubscribe
	opRead
	opBeat
	opCut
	opMend
	opFlush
	opRestore
	opPause
	opCount
)

const (
	arrive = iota // most events do
	drop
	double
	defer1 // comes after the next one
)

type step struct {
	op, user, client int
	on               bool
	fate             int
	latency          int // ms of the reads that begin from here on
}

var identities = []string{"ada", "bob", "cyd", "dee", "eve"}

func genStep() *rapid.Generator[step] {
	return rapid.Custom(func(t *rapid.T) step {
		return step{
			op: rapid.IntRange(0, opCount-1).Draw(t, "op"), user: rapid.IntRange(0, len(identities)-1).Draw(t, "user"),
			client: rapid.IntRange(0, 2).Draw(t, "client"), on: rapid.Bool().Draw(t, "on"),
			fate:    rapid.SampledFrom([]int{arrive, arrive, arrive, arrive, drop, double, defer1}).Draw(t, "fate"),
			latency: rapid.SampledFrom([]int{0, 0, 1, 5, 40}).Draw(t, "latency"),
		}
	})
}

// Whatever the bus and the store lose, repeat or delay, each session sees revisions
// grow, and its view is the truth once one heartbeat has passed undisturbed.
func TestViewsHeal(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(genStep(), 1, 60).Draw(rt, "script")
		var err error
		synctest.Test(t, func(t *testing.T) { err = play(t, script) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func play(t *testing.T, script []step) error {
	const sid = "IS1"
	w := fanouttest.NewWorld(2)
	var mu sync.Mutex
	latency := time.Duration(0)
	w.Latency(func() {
		mu.Lock()
		d := latency
		mu.Unlock()
		time.Sleep(d)
	})
	w.Flip(sid, true)
	n := newNode(w, fanout.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = n.Serve(ctx) })

	// Each session asks one thing at a time, beside all others.
	var asking sync.WaitGroup
	clients := make([]*client, 3)
	work := make([]chan func(), len(clients))
	for i := range clients {
		clients[i] = newClient(n.Hub, sid, 0)
		work[i] = make(chan func(), len(script)+1)
		asking.Go(func() {
			for f := range work[i] {
				f()
			}
		})
	}
	restore := w.Backup()
	var held []fanouttest.Published
	for i, s := range script {
		mu.Lock()
		latency = time.Duration(s.latency) * time.Millisecond
		mu.Unlock()
		k := presence.Key{Service: sid, Identity: identities[s.user]}
		var out []fanouttest.Published
		switch s.op {
		case opOnline:
			out = w.Online(k, s.on)
		case opNotifiable:
			out = w.Notifiable(k, s.on)
		case opName:
			out = w.Name(k, "name"+strconv.Itoa(i%4))
		case opAttributes:
			out = w.Attributes(k, strconv.Itoa(i%4))
		case opDelete:
			out = w.Delete(k)
		case opFlip:
			if s.fate == drop { // both flips are heard of as one
				w.Flip(sid, !s.on)
			}
			n.flip(sid, s.on)
		case opSubscribe:
			ask := []string{k.Identity, identities[(s.user+i)%len(identities)]}
			c := clients[s.client]
			work[s.client] <- func() {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				_ = c.subscribe(ctx, ask...)
			}
		case opUnsubscribe:
			c := clients[s.client]
			work[s.client] <- func() { c.unsubscribe(k.Identity) }
		case opRead:
			clients[s.client].drain()
		case opBeat:
			n.beat()
		case opCut:
			n.bus.Cut()
		case opMend:
			n.bus.Mend()
		case opFlush:
			if s.fate == drop {
				w.Flush()
			}
		case opRestore:
			if s.on {
				restore = w.Backup()
			} else if s.fate == drop {
				restore()
			}
		case opPause:
			time.Sleep(time.Duration(1+i%7) * 100 * time.Millisecond)
		}
		late := held
		if s.fate == defer1 {
			held, out = out, nil
		} else {
			held = nil
		}
		if s.fate != drop {
			n.publish(out)
		}
		if s.fate == double {
			n.publish(out)
		}
		if len(late) > 0 {
			n.publish(late)
		}
		time.Sleep(time.Duration(i%3) * time.Millisecond)
	}
	mu.Lock()
	latency = 0
	mu.Unlock()
	n.publish(held)
	n.bus.Mend()
	for _, f := range work {
		close(f)
	}
	asking.Wait()
	time.Sleep(3 * time.Second) // heartbeats are further apart than an event may be late
	n.beat()
	time.Sleep(3 * time.Second)

	var errs []error
	for i, c := range clients {
		c.drain()
		errs = append(errs, c.errs...)
		if got := c.box.Subscriptions(); got != len(c.wanted) {
			errs = append(errs, fmt.Errorf("client %d: Subscriptions() = %d; want %d", i, got, len(c.wanted)))
		}
		for identity := range c.wanted {
			got, want := show(c.seen[identity]), show(w.Truth(presence.Key{Service: sid, Identity: identity}))
			if got != want {
				errs = append(errs, fmt.Errorf("client %d sees %s; want %s; it was sent %q", i, got, want, c.log))
			}
		}
		n.Detach(&c.box)
	}
	if s := n.Stats(); s.Subscriptions != 0 || s.Partitions != 0 {
		errs = append(errs, fmt.Errorf("after all left: %d subscriptions, %d partitions", s.Subscriptions, s.Partitions))
	}
	for p := range presence.Partition(w.Parts) {
		if got := n.bus.Listeners(p); got != 0 {
			errs = append(errs, fmt.Errorf("after all left: partition %d has %d listeners", p, got))
		}
	}
	return errors.Join(errs...)
}
