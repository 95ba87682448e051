package redisbus

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/presence"
)

// link is one connection that receives, made anew whenever it ends or falls silent.
type link struct {
	b    *Bus
	addr string        // of the Redis node whose sharded channels it carries; "" for plain ones
	kick chan struct{} // capacity 1: there is something to subscribe

	// guarded by Bus.mu
	redis   *redis.Client      // of the Redis node; nil for plain channels
	end     context.CancelFunc // ends serve; nil for plain channels
	pubsub  *redis.PubSub
	leave   []string // channels that have gone elsewhere
	probe   string   // channel of the probes; "" while there is none
	probing string   // the one that was asked for on this connection
	probeNo int      // of the last probe sent
	probeAt time.Time
	probeOK bool // it came back
	silent  bool // probes did not, and the receiver has not taken that in yet
	healthy bool
}

func newLink(b *Bus, addr string) *link {
	// One that was just found necessary is not what makes a node unready.
	return &link{b: b, addr: addr, kick: make(chan struct{}, 1), healthy: addr != ""}
}

func (l *link) sharded() bool { return l.addr != "" }

// serve receives until ctx ends.
func (l *link) serve(ctx context.Context, h Handler) {
	stop := context.AfterFunc(ctx, l.drop) // a receiver waits without a deadline
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { l.subscribe(ctx) })
	wg.Go(func() { l.probes(ctx) })
	l.receive(ctx, h)
	wg.Wait()
	l.drop()
}

// receive is the only reader of the connection.
func (l *link) receive(ctx context.Context, h Handler) {
	fails := 0
	ps := l.connection(ctx)
	for ctx.Err() == nil {
		m, err := ps.Receive(ctx)
		if err != nil {
			_, refused := errors.AsType[redis.Error](err)
			refused = refused && l.sharded()
			if !refused {
				if was, cause := l.lost(); was && ctx.Err() == nil {
					l.b.metrics.restarts.WithLabelValues(cause).Inc()
				}
			}
			if l.sharded() {
				if refused { // a slot is not, or not yet, this Redis node's; the others' channels are as they were
					l.askAgain()
				} else { // the client would ask for all channels in one command, which only those of one slot may be
					l.drop()
				}
				l.b.look(ctx)
			}
			// At once the first time; while Redis is away, with patience.
			if fails++; fails > 1 || refused {
				sleep(ctx, min(50*time.Millisecond<<min(max(fails-2, 0), 5), time.Second))
			}
			poke(l.kick)
			ps = l.connection(ctx)
			continue
		}
		fails = 0
		l.b.delivering.Lock()
		switch m := m.(type) {
		case *redis.Message:
			l.b.message(l, h, m)
		case *redis.Subscription:
			l.subscribed(ctx, h, m)
		}
		l.b.delivering.Unlock()
	}
}

// connection returns the connection in use, made anew if it was dropped.
func (l *link) connection(ctx context.Context) *redis.PubSub {
	l.b.mu.Lock()
	ps := l.pubsub
	if ps == nil {
		if l.sharded() {
			ps = l.redis.Subscribe(ctx) // to no channel: does not connect yet
		} else {
			ps = l.b.client.Subscribe(ctx)
		}
		l.pubsub = ps
		poke(l.kick)
	}
	l.b.mu.Unlock()
	if ctx.Err() != nil { // serve's drop may have come before
		_ = ps.Close()
	}
	return ps
}

// drop ends the connection; the receiver makes another.
func (l *link) drop() {
	l.b.mu.Lock()
	ps := l.pubsub
	l.pubsub, l.probing, l.leave = nil, "", nil
	for _, c := range l.b.channels {
		if c.link == l {
			c.asked = false
		}
	}
	l.b.mu.Unlock()
	if ps != nil {
		_ = ps.Close()
	}
}

// lost takes it that nothing is subscribed any more. It reports whether anything was, and why it
// is not.
func (l *link) lost() (was bool, cause string) {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	cause = causeLost
	if l.silent {
		cause, l.silent = causeSilent, false
	}
	for _, c := range l.b.channels {
		if c.link == l {
			asked := c.asked
			was = l.b.loseLocked(c) || was
			c.asked = asked && !l.sharded() // the client asks for plain ones again by itself
		}
	}
	return was, cause
}

// askAgain has the channels asked for again for which no answer came.
func (l *link) askAgain() {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	for _, c := range l.b.channels {
		if c.link == l && !c.isConfirmed() {
			c.asked = false
		}
	}
	l.probing = ""
}

// subscribed takes in that Redis has made a subscription, or ended one because the channel's slot
// is another Redis node's now.
func (l *link) subscribed(ctx context.Context, h Handler, m *redis.Subscription) {
	l.b.mu.Lock()
	c := l.b.channels[m.Channel]
	resync, gone := false, false
	if c != nil && c.link == l {
		switch m.Kind {
		case "subscribe", "ssubscribe":
			resync = l.b.confirmLocked(c)
		case "sunsubscribe": // before it was confirmed: what this bus had asked for earlier
			gone = c.isConfirmed() && l.b.loseLocked(c)
		}
	}
	l.b.mu.Unlock()
	if gone {
		l.b.metrics.moves.Inc()
		l.b.look(ctx)
		poke(l.kick)
	}
	if resync {
		h.Resync(c.p)
	}
}

// subscribe asks for the channels that are wanted and gives up those that were not
// for a while.
func (l *link) subscribe(ctx context.Context) {
	idle := time.NewTicker(l.b.opt.Idle)
	defer idle.Stop()
	for {
		look := false
		select {
		case <-ctx.Done():
			return
		case <-l.kick:
		case <-idle.C:
			look = true
		}
		l.b.mu.Lock()
		ps := l.pubsub
		if ps == nil {
			l.b.mu.Unlock()
			continue // the receiver pokes when it has made one
		}
		var wanted []string
		unwanted := l.leave
		l.leave = nil
		for name, c := range l.b.channels {
			switch {
			case c.link != l:
			case !c.asked:
				c.asked = true
				wanted = append(wanted, name)
			case !look || c.listeners > 0 || !c.isConfirmed():
			case !c.idle:
				c.idle = true
			default:
				unwanted = append(unwanted, name)
				delete(l.b.channels, name)
				l.b.count(c, -1)
			}
		}
		if l.probing != l.probe {
			if l.probing != "" {
				unwanted = append(unwanted, l.probing)
			}
			l.probing = l.probe
			wanted = append(wanted, l.probe)
			if !l.sharded() { // a new connection
				wanted = append(wanted, l.b.wake)
			}
		}
		l.b.mu.Unlock()
		if !l.sharded() { // each in one command; errors are the receiver's
			if len(unwanted) > 0 {
				_ = ps.Unsubscribe(ctx, unwanted...) // a lost connection forgets them by itself
			}
			if len(wanted) > 0 {
				_ = ps.Subscribe(ctx, wanted...) // the client keeps them for its next connection
			}
			continue
		}
		slices.Sort(wanted)
		for _, name := range unwanted {
			_ = ps.SUnsubscribe(ctx, name)
		}
		for _, name := range wanted { // of several slots: one command each
			if ps.SSubscribe(ctx, name) != nil {
				break
			}
		}
	}
}

// probes publishes to the link's own channel, and makes the connection anew when two
// probes in a row did not come back.
func (l *link) probes(ctx context.Context) {
	for missed := 0; ; {
		l.b.mu.Lock()
		l.probeNo++
		l.probeAt, l.probeOK = time.Now(), false
		n, channel := l.probeNo, l.probe
		l.b.mu.Unlock()
		due, cancel := context.WithTimeout(ctx, l.b.opt.Probe)
		switch { // an error is a probe that does not come back
		case channel == "":
		case l.sharded():
			_ = l.b.client.SPublish(due, channel, n).Err()
		default:
			_ = l.b.client.Publish(due, channel, n).Err()
		}
		<-due.Done()
		cancel()
		if ctx.Err() != nil {
			return
		}
		l.b.mu.Lock()
		ok := l.probeOK || channel == ""
		l.b.mu.Unlock()
		if ok {
			missed = 0
			continue
		}
		if missed++; missed == 2 {
			missed = 0
			l.b.health(l, false)
			l.b.mu.Lock()
			l.silent = true
			l.b.mu.Unlock()
			l.drop()
			l.b.look(ctx)
		}
	}
}

// came takes in a probe that came back. One that is overtaken by the next was missed.
func (l *link) came(payload string) {
	l.b.mu.Lock()
	ok := payload == strconv.Itoa(l.probeNo) && !l.probeOK
	took := time.Since(l.probeAt)
	l.probeOK = l.probeOK || ok
	l.b.mu.Unlock()
	if ok {
		l.b.metrics.probe.Observe(took.Seconds())
		l.b.health(l, true)
	}
}

// look has the client find out who has which slot now, and channels go there.
func (b *Bus) look(ctx context.Context) {
	if b.cluster != nil {
		b.cluster.ReloadState(ctx)
		poke(b.moved)
	}
}

// place has each channel carried by a link to the Redis node that has its slot, and starts links
// for it, until ctx ends. As nothing tells of every change, it looks as often as links are
// probed.
func (b *Bus) place(ctx context.Context, start func(*link, context.Context)) {
	tick := time.NewTicker(b.opt.Probe)
	defer tick.Stop()
	for {
		owners := b.owners(ctx)
		b.mu.Lock()
		carries := map[*link]presence.Partition{} // links with any channel, and the lowest of its partitions
		for name, c := range b.channels {
			owner := owners[name]
			if owner != nil {
				addr := owner.Options().Addr
				l := b.links[addr]
				if l == nil {
					l = newLink(b, addr)
					l.redis = owner
					var serving context.Context
					serving, l.end = context.WithCancel(ctx)
					b.links[addr] = l
					start(l, serving)
				}
				l.redis = owner // one whose client was ended for want of slots gets another
				b.carryLocked(c, l)
			}
			if c.link != nil {
				if p, ok := carries[c.link]; !ok || c.p < p {
					carries[c.link] = c.p
				}
			}
		}
		for addr, l := range b.links {
			if p, ok := carries[l]; !ok {
				l.end()
				delete(b.links, addr)
			} else if name := b.keys.Probe(p, b.node); l.probe != name {
				l.probe = name
				poke(l.kick)
			}
		}
		b.metrics.connections.Set(float64(1 + len(b.links)))
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-b.moved:
		case <-tick.C:
		}
	}
}

// carryLocked has a link carry a channel.
func (b *Bus) carryLocked(c *channel, l *link) {
	if c.link == l {
		if !c.asked {
			poke(l.kick)
		}
		return
	}
	if old := c.link; old != nil {
		if c.asked {
			old.leave = append(old.leave, c.name)
			poke(old.kick)
		}
		if b.loseLocked(c) {
			b.metrics.moves.Inc()
		}
	}
	c.link, c.asked = l, false
	poke(l.kick)
}

// owners are the clients of the Redis nodes that have the channels' slots, as far as is known.
func (b *Bus) owners(ctx context.Context) map[string]*redis.Client {
	b.mu.Lock()
	owners := make(map[string]*redis.Client, len(b.channels))
	for name := range b.channels {
		owners[name] = nil
	}
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, b.opt.Probe)
	defer cancel()
	for name := range owners {
		c, err := b.cluster.MasterForKey(ctx, name)
		if err != nil {
			break // not one slot is known
		}
		owners[name] = c
	}
	return owners
}
