// Package redisbus is the bus between nodes on Redis pub/sub.
//
// Redis delivers a message at most once. The bus tells where it may have lost some:
// each time a channel's subscription is made anew, its handler is asked to resync
// that partition. That messages arrive at all is proven end to end: the bus
// publishes to a channel of its own every few seconds, and when that does not come
// back it makes its connection anew, so that a connection which died without a word
// is noticed.
//
// One connection carries all channels. On a Cluster the channels of partitions are sharded ones:
// there is one connection to each primary that has any, with probes of its own, and
// a channel goes where its slot goes.
package redisbus

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/internal/keys"
	"github.com/rollcall-presence/rollcall/presence"
)

// Handler is what a Bus delivers to, one call at a time.
type Handler interface {
	fanout.Handler
	// Woken tells that a partition has work of a kind: WakeEnd, WakeWebhooks, or one that this node
	// does not know and is to ignore. It does not block. A call may be lost, and is not
	// made up for: that work is found by the next heartbeat too.
	Woken(kind byte, p presence.Partition)
}

// The kinds of wake.
const (
	WakeEnd      = 'e' // sessions of the partition are to be ended
	WakeWebhooks = 'w' // webhooks of the partition are to be delivered
)

// Options tunes a Bus. The zero value is ready for use.
type Options struct {
	// Probe is how often the bus publishes to itself over each connection, one command each;
	// two that do not come back make it unhealthy. Default 2s.
	Probe time.Duration
	// Idle is how long a channel nobody listens to stays subscribed at least, so that
	// listeners who come and go cost Redis nothing. Default 10s.
	Idle time.Duration
	// Metrics is where the bus registers its metrics; nil: nowhere.
	Metrics prometheus.Registerer
}

// Bus is a fanout.Bus on Redis pub/sub. It is safe for concurrent use.
type Bus struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // nil unless channels are sharded
	keys    keys.Keys
	node    presence.NodeID
	wake    string // channel that tells of work to do
	opt     Options
	metrics *metrics
	plain   *link         // carries what is not sharded
	moved   chan struct{} // capacity 1: channels are to be placed anew

	healthy    atomic.Bool
	delivering sync.Mutex // held while the handler is called, so that it is by one connection at a time

	mu       sync.Mutex       // guards the following, and what links say that it guards
	links    map[string]*link // that carry sharded channels, by the address of the Redis node
	channels map[string]*channel
}

// channel is a partition's. It exists from the first Watch until its subscription
// is given up.
type channel struct {
	p         presence.Partition
	name      string
	link      *link // that carries it; nil while it is not known which is to
	listeners int
	idle      bool          // had no listener at the last look
	asked     bool          // on this connection
	confirmed chan struct{} // closed while subscribed on this connection
	before    bool          // was subscribed on an earlier one
	run       string        // of the last message, so that equal ones share memory; guarded by Bus.delivering
}

// New returns a bus for a node; it carries nothing until Serve runs. The client's
// pub/sub connection is the bus's alone.
func New(client redis.UniversalClient, k keys.Keys, node presence.NodeID, opt Options) *Bus {
	if opt.Probe <= 0 {
		opt.Probe = 2 * time.Second
	}
	if opt.Idle <= 0 {
		opt.Idle = 10 * time.Second
	}
	if opt.Metrics == nil {
		opt.Metrics = prometheus.NewRegistry()
	}
	b := &Bus{
		client: client, keys: k, node: node, wake: k.Wake(), opt: opt, metrics: newMetrics(opt.Metrics),
		moved: make(chan struct{}, 1), links: map[string]*link{}, channels: map[string]*channel{},
	}
	b.cluster, _ = client.(*redis.ClusterClient)
	b.plain = newLink(b, "")
	b.plain.probe = k.Node(node)
	services := b.channelLocked(presence.Services)
	services.listeners = 1 // always
	return b
}

// Healthy reports whether the bus's own messages come back.
func (b *Bus) Healthy() bool { return b.healthy.Load() }

// Watch implements fanout.Bus. While the connection is down it waits for the next.
func (b *Bus) Watch(ctx context.Context, ps ...presence.Partition) error {
	b.mu.Lock()
	waits := make([]chan struct{}, len(ps))
	for i, p := range ps {
		c := b.channelLocked(p)
		c.listeners++
		c.idle = false
		waits[i] = c.confirmed
	}
	b.mu.Unlock()
	b.poke()
	for _, confirmed := range waits {
		select {
		case <-confirmed:
		case <-ctx.Done():
			b.Unwatch(ps...)
			return &presence.Error{Op: "subscribe to events", Kind: presence.KindUnavailable, Err: context.Cause(ctx)}
		}
	}
	return nil
}

// Unwatch implements fanout.Bus.
func (b *Bus) Unwatch(ps ...presence.Partition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range ps {
		b.channels[b.keys.Channel(p)].listeners--
	}
}

func (b *Bus) channelLocked(p presence.Partition) *channel {
	name := b.keys.Channel(p)
	c := b.channels[name]
	if c == nil {
		c = &channel{p: p, name: name, confirmed: make(chan struct{})}
		if b.cluster == nil {
			c.link = b.plain
		}
		b.channels[name] = c
	}
	return c
}

// poke has what is new subscribed.
func (b *Bus) poke() {
	if b.cluster == nil {
		poke(b.plain.kick)
	} else {
		poke(b.moved)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Serve carries events to a handler until ctx ends, and returns nil then. While
// Redis is away it tries again and again.
func (b *Bus) Serve(ctx context.Context, h Handler) error {
	var wg sync.WaitGroup
	wg.Go(func() { b.plain.serve(ctx, h) })
	if b.cluster != nil {
		wg.Go(func() { b.place(ctx, func(l *link, ctx context.Context) { wg.Go(func() { l.serve(ctx, h) }) }) })
	}
	wg.Wait()
	b.health(b.plain, false)
	return nil
}

// confirm notes that the channel is subscribed, and reports whether it is to be resynced.
func (b *Bus) confirmLocked(c *channel) (resync bool) {
	if c.isConfirmed() {
		// Made anew by the client itself. It does not do so with sharded ones: then
		// it was asked twice.
		return b.cluster == nil
	}
	close(c.confirmed)
	b.count(c, 1)
	return c.before
}

// lose notes that the channel is not subscribed any more, and reports whether it was.
func (b *Bus) loseLocked(c *channel) (was bool) {
	c.asked = false
	if was = c.isConfirmed(); was {
		c.confirmed = make(chan struct{})
		c.before = true
		b.count(c, -1)
	}
	return was
}

// count keeps the number of partitions whose channel is subscribed.
func (b *Bus) count(c *channel, n float64) {
	if c.p != presence.Services {
		b.metrics.watched.Add(n)
	}
}

// message takes in what came on a link.
func (b *Bus) message(l *link, h Handler, m *redis.Message) {
	if m.Channel == b.wake {
		b.woken(h, m.Payload)
		return
	}
	b.mu.Lock()
	probe := m.Channel == l.probe
	c := b.channels[m.Channel]
	gone := c == nil || c.link != l
	b.mu.Unlock()
	if probe {
		l.came(m.Payload)
		return
	}
	if gone {
		return // given up, or carried by another link
	}
	msg, err := decode(m.Payload)
	if err != nil || c.p != presence.Services && msg.event.User.Identity == "" {
		// The gap in the numbers makes up for what it said.
		b.metrics.malformed.Inc()
		return
	}
	if msg.run != c.run {
		c.run = strings.Clone(msg.run)
	}
	if c.p == presence.Services {
		h.ServiceEvent(c.run, msg.seq, msg.event.User.Service)
		return
	}
	h.Event(c.p, c.run, msg.seq, msg.event)
}

// woken takes in a wake: the kind, one byte, and the partition's number.
func (b *Bus) woken(h Handler, payload string) {
	if payload == "" {
		b.metrics.malformed.Inc()
		return
	}
	p, err := strconv.ParseUint(payload[1:], 10, 16)
	if err != nil || int(p) >= b.keys.Partitions {
		b.metrics.malformed.Inc()
		return
	}
	h.Woken(payload[0], presence.Partition(p))
}

func (c *channel) isConfirmed() bool {
	select {
	case <-c.confirmed:
		return true
	default:
		return false
	}
}

// health notes whether a link works; the bus does if all do.
func (b *Bus) health(l *link, ok bool) {
	b.mu.Lock()
	l.healthy = ok
	ok = b.plain.healthy
	for _, l := range b.links {
		ok = ok && l.healthy
	}
	b.mu.Unlock()
	b.healthy.Store(ok)
	v := 0.0
	if ok {
		v = 1
	}
	b.metrics.healthy.Set(v)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
