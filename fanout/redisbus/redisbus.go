// Package redisbus is the bus between nodes on Redis pub/sub.
//
// Redis delivers a message at most once. The bus tells where it may have lost some:
// each time a channel's subscription is made anew, its handler is asked to resync
// that partition. That messages arrive at all is proven end to end: the bus
// publishes to a channel of its own every few seconds, and when that does not come
// back it makes its connection anew, so that a connection which died without a word
// is noticed.
//
// All channels are plain ones, which a Cluster carries to every node of it.
package redisbus

import (
	"context"
	"errors"
	"slices"
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
	// Probe is how often the bus publishes to itself, one command each; two that do
	// not come back make it unhealthy. Default 2s.
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
	keys    keys.Keys
	self    string // channel of the probes
	wake    string // channel that tells of work to do
	opt     Options
	metrics *metrics
	kick    chan struct{} // capacity 1: there is something to subscribe

	healthy atomic.Bool

	mu       sync.Mutex // guards the following
	pubsub   *redis.PubSub
	channels map[string]*channel
	probeNo  int // of the last probe sent
	probeAt  time.Time
	probeOK  bool // it came back
}

// channel is a partition's. It exists from the first Watch until its subscription
// is given up.
type channel struct {
	p         presence.Partition
	name      string
	listeners int
	idle      bool          // had no listener at the last look
	asked     bool          // on this connection
	confirmed chan struct{} // closed while subscribed on this connection
	before    bool          // was subscribed on an earlier one
	run       string        // of the last message, so that equal ones share memory; owned by receive
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
		client: client, keys: k, self: k.Node(node), wake: k.Wake(), opt: opt, metrics: newMetrics(opt.Metrics),
		kick: make(chan struct{}, 1), channels: map[string]*channel{},
	}
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
		b.channels[name] = c
	}
	return c
}

func (b *Bus) poke() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// Serve carries events to a handler until ctx ends, and returns nil then. While
// Redis is away it tries again and again.
func (b *Bus) Serve(ctx context.Context, h Handler) error {
	stop := context.AfterFunc(ctx, b.drop) // a receiver waits without a deadline
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { b.subscribe(ctx) })
	wg.Go(func() { b.probe(ctx) })
	b.receive(ctx, h)
	wg.Wait()
	b.drop()
	b.health(false)
	return nil
}

// receive is the only reader of the connection.
func (b *Bus) receive(ctx context.Context, h Handler) {
	fails := 0
	ps := b.connection(ctx)
	for ctx.Err() == nil {
		m, err := ps.Receive(ctx)
		if err != nil {
			if b.lost() && ctx.Err() == nil {
				cause := causeLost
				if errors.Is(err, redis.ErrClosed) {
					cause = causeSilent
				}
				b.metrics.restarts.WithLabelValues(cause).Inc()
			}
			// At once the first time; while Redis is away, with patience.
			if fails++; fails > 1 {
				sleep(ctx, min(50*time.Millisecond<<min(fails-2, 5), time.Second))
			}
			ps = b.connection(ctx)
			continue
		}
		fails = 0
		switch m := m.(type) {
		case *redis.Message:
			b.message(h, m)
		case *redis.Subscription:
			b.subscribed(h, m)
		}
	}
}

// connection returns the connection in use, made anew if it was dropped.
func (b *Bus) connection(ctx context.Context) *redis.PubSub {
	b.mu.Lock()
	ps := b.pubsub
	if ps == nil {
		ps = b.client.Subscribe(ctx) // to no channel: does not connect yet
		b.pubsub = ps
		b.poke()
	}
	b.mu.Unlock()
	if ctx.Err() != nil { // Serve's drop may have come before
		_ = ps.Close()
	}
	return ps
}

// drop ends the connection; the receiver makes another.
func (b *Bus) drop() {
	b.mu.Lock()
	ps := b.pubsub
	b.pubsub = nil
	for _, c := range b.channels {
		c.asked = false
	}
	b.mu.Unlock()
	if ps != nil {
		_ = ps.Close()
	}
}

// lost takes it that nothing is subscribed any more. It reports whether anything was.
func (b *Bus) lost() (was bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.channels {
		select {
		case <-c.confirmed:
			c.confirmed = make(chan struct{})
			c.before, was = true, true
		default:
		}
	}
	b.metrics.watched.Set(0)
	return was
}

// subscribed takes in that Redis has made a subscription.
func (b *Bus) subscribed(h fanout.Handler, m *redis.Subscription) {
	if m.Kind != "subscribe" {
		return
	}
	b.mu.Lock()
	c := b.channels[m.Channel]
	resync := false
	if c != nil {
		select {
		case <-c.confirmed: // made anew by the client itself
			resync = true
		default:
			resync = c.before
			close(c.confirmed)
			b.count(c, 1)
		}
	}
	b.mu.Unlock()
	if resync {
		h.Resync(c.p)
	}
}

// count keeps the number of partitions whose channel is subscribed.
func (b *Bus) count(c *channel, n float64) {
	if c.p != presence.Services {
		b.metrics.watched.Add(n)
	}
}

func (b *Bus) message(h Handler, m *redis.Message) {
	switch m.Channel {
	case b.self:
		b.came(m.Payload)
		return
	case b.wake:
		b.woken(h, m.Payload)
		return
	}
	b.mu.Lock()
	c := b.channels[m.Channel]
	b.mu.Unlock()
	if c == nil {
		return // given up
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

// subscribe asks for the channels that are wanted and gives up those that were not
// for a while, each in one command.
func (b *Bus) subscribe(ctx context.Context) {
	idle := time.NewTicker(b.opt.Idle)
	defer idle.Stop()
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-b.kick:
		case <-idle.C:
			look = true
		}
		b.mu.Lock()
		ps := b.pubsub
		var wanted, unwanted []string
		for name, c := range b.channels {
			switch {
			case !c.asked && ps != nil:
				c.asked = true
				wanted = append(wanted, name)
			case !look || c.listeners > 0 || !c.isConfirmed():
			case !c.idle:
				c.idle = true
			default:
				unwanted = append(unwanted, name)
				delete(b.channels, name)
				b.count(c, -1)
			}
		}
		b.mu.Unlock()
		if len(unwanted) > 0 {
			_ = ps.Unsubscribe(ctx, unwanted...) // a lost connection forgets them by itself
		}
		if len(wanted) > 0 {
			if slices.Contains(wanted, b.keys.Channel(presence.Services)) { // a new connection
				wanted = append(wanted, b.self, b.wake)
			}
			_ = ps.Subscribe(ctx, wanted...) // the client keeps them for its next connection
		}
	}
}

func (c *channel) isConfirmed() bool {
	select {
	case <-c.confirmed:
		return true
	default:
		return false
	}
}

// probe publishes to the bus's own channel, and makes the connection anew when two
// probes in a row did not come back.
func (b *Bus) probe(ctx context.Context) {
	for missed := 0; ; {
		b.mu.Lock()
		b.probeNo++
		b.probeAt, b.probeOK = time.Now(), false
		n := b.probeNo
		b.mu.Unlock()
		due, cancel := context.WithTimeout(ctx, b.opt.Probe)
		_ = b.client.Publish(due, b.self, n).Err() // an error is a probe that does not come back
		<-due.Done()
		cancel()
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		ok := b.probeOK
		b.mu.Unlock()
		if ok {
			missed = 0
			continue
		}
		if missed++; missed == 2 {
			missed = 0
			b.health(false)
			b.drop()
		}
	}
}

// came takes in a probe that came back. One that is overtaken by the next was missed.
func (b *Bus) came(payload string) {
	b.mu.Lock()
	ok := payload == strconv.Itoa(b.probeNo) && !b.probeOK
	took := time.Since(b.probeAt)
	b.probeOK = b.probeOK || ok
	b.mu.Unlock()
	if ok {
		b.metrics.probe.Observe(took.Seconds())
		b.health(true)
	}
}

func (b *Bus) health(ok bool) {
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
