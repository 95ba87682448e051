// Package webhook tells backends what happens to their users.
//
// Events are queued in the store by the step that makes them; a Deliverer takes them
// from there and delivers each at least once: until a target has answered 2xx it is
// tried again, with growing pauses, and after a day it becomes a dead letter, which
// can be read and replayed. Events of one user are delivered one after another in
// their order; users, and services, do not wait for each other. Requests are signed,
// go to public addresses only unless networks are allowed, and follow no redirect.
package webhook

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

// Queue is what a Deliverer needs of the stored queues; see redisstore.
type Queue interface {
	Partitions() int
	// ClaimWebhooks takes what is due in partitions, leaving out busy services.
	ClaimWebhooks(ctx context.Context, ps []presence.Partition, busy []string) ([]presence.Claim, []error)
	// SettleWebhooks records what became of it.
	SettleWebhooks(ctx context.Context, ps []presence.Partition, lists [][]presence.Settled, keep time.Duration) ([]presence.Settling, []error)
	AccountWebhooks(ctx context.Context) (presence.Webhooks, error)
}

// Services has the services in use.
type Services interface {
	// Service returns a service, or a copy that may be a little old; presence.ErrNoService.
	Service(ctx context.Context, sid string) (presence.Service, error)
	// Fresh returns a service as it is now; presence.ErrNoService.
	Fresh(ctx context.Context, sid string) (presence.Service, error)
}

// Options tunes a Deliverer. The zero value is ready for use.
type Options struct {
	// AuthToken signs requests.
	AuthToken string
	// AllowedNetworks are networks that may be called though they are not public.
	AllowedNetworks []netip.Prefix
	// TargetConcurrency is how many users' events may be under way at one time for one
	// service, and how many changes it may be asked about. A service whose target does not answer in time has less, down to one.
	// Default 32.
	TargetConcurrency int
	// Concurrency bounds that over all services. Default 1024.
	Concurrency int
	// RetryFor is how long an event is tried before it becomes a dead letter. Default 24h.
	RetryFor time.Duration
	// Resolver resolves the names of targets; nil: the system's.
	Resolver *net.Resolver
	// Metrics is where the metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
}

const (
	// claimPartitions bounds the partitions that are asked for work in one pipeline,
	// and so how long a claim keeps Redis from others: a few milliseconds each where
	// many changes have lasted at one time.
	claimPartitions = 16
	// queueTimeout bounds one exchange with the queue, and queueRetry is the pause
	// after one that failed.
	queueTimeout, queueRetry = 3 * time.Second, 500 * time.Millisecond
	// stale is for how long claimed events may wait for their target to have room;
	// then they are left to be claimed again. With the time that a claimed user's
	// events can take it is less than the claim lasts.
	stale = 5 * time.Second
	// maxWaiting bounds the users whose events are claimed and wait, but for one claim.
	maxWaiting = 8192
	// grace is what attempts under way are given to end when the node goes away.
	grace = 2 * time.Second
	// accountAge is how old the copy of the account's webhooks may be.
	accountAge = time.Second
)

// Deliverer delivers the webhooks of the partitions that it is told are its own. Its
// methods may be called concurrently.
type Deliverer struct {
	queue    Queue
	services Services
	sender   *sender
	guard    guard
	opt      Options
	metrics  *metrics
	kick     chan struct{} // capacity 1: there may be something to claim
	told     chan struct{} // capacity 1: there is something to settle
	workers  sync.WaitGroup

	accountLock chan struct{} // capacity 1; held over reading the following
	account     presence.Webhooks
	accountRead time.Time

	mu       sync.Mutex // guards the following
	parts    []part
	first    int              // in parts, where the next look for work begins: all have their turn
	lanes    map[string]*lane // of services with work
	parked   []*lane          // that have room of their own, but there was none in all
	running  int              // in all lanes
	waiting  int              // in all lanes
	settled  map[presence.Partition][]presence.Settled
	asking   map[string]int // by service: questions before changes that are under way
	stopping bool
}

// part is what a Deliverer knows of one partition.
type part struct {
	mine    bool
	due     time.Time // when there is work; zero: none known
	starved bool      // has work for a service that was left out
}

// New returns a Deliverer, which does nothing before Serve.
func New(queue Queue, services Services, opt Options) *Deliverer {
	if opt.TargetConcurrency <= 0 {
		opt.TargetConcurrency = 32
	}
	if opt.Concurrency <= 0 {
		opt.Concurrency = 1024
	}
	if opt.RetryFor <= 0 {
		opt.RetryFor = 24 * time.Hour
	}
	return &Deliverer{
		queue: queue, services: services, sender: newSender(opt), guard: guard{opt.AllowedNetworks}, opt: opt, metrics: newMetrics(opt.Metrics),
		kick: make(chan struct{}, 1), told: make(chan struct{}, 1), accountLock: make(chan struct{}, 1),
		parts: make([]part, queue.Partitions()), lanes: map[string]*lane{}, settled: map[presence.Partition][]presence.Settled{}, asking: map[string]int{},
	}
}

// CheckURL returns nil for a URL that may be a target, else ErrURL or ErrBlocked.
func (d *Deliverer) CheckURL(url string) error { return d.guard.checkURL(url) }

// Beat takes what a heartbeat of a partition told: whether its webhooks are this
// node's to deliver, and how long until there is one, negative if there is none. It
// does not block.
func (d *Deliverer) Beat(p presence.Partition, mine bool, next time.Duration) {
	d.mu.Lock()
	if q := &d.parts[p]; q.mine != mine {
		q.mine = mine
		if mine {
			d.metrics.partitions.Inc()
		} else {
			d.metrics.partitions.Dec()
		}
	}
	d.dueLocked(p, next)
	d.mu.Unlock()
	poke(d.kick)
}

// Wake tells that a partition has work. It does not block.
func (d *Deliverer) Wake(p presence.Partition) {
	d.mu.Lock()
	d.dueLocked(p, 0)
	d.mu.Unlock()
	poke(d.kick)
}

// dueLocked notes that there is work in a partition after next; negative: none.
func (d *Deliverer) dueLocked(p presence.Partition, next time.Duration) {
	q := &d.parts[p]
	if !q.mine {
		q.due = time.Time{}
		return
	}
	if next < 0 {
		return
	}
	if at := time.Now().Add(next); q.due.IsZero() || at.Before(q.due) {
		q.due = at
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Serve delivers until ctx ends. Then it gives attempts under way two seconds to end,
// gives back what it has claimed, and returns nil; nothing of it is left.
func (d *Deliverer) Serve(ctx context.Context) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	settling := make(chan struct{})
	var settler sync.WaitGroup
	settler.Go(func() { d.settle(context.WithoutCancel(ctx), settling) })

	d.claim(ctx, sending)

	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	late := time.AfterFunc(grace, stop)
	d.workers.Wait()
	late.Stop()
	d.mu.Lock()
	for _, l := range d.lanes { // those that had no worker
		for _, j := range l.waiting {
			d.settleLocked(j.partition, j.giveBack())
		}
	}
	d.mu.Unlock()
	close(settling)
	settler.Wait()
	d.sender.client.CloseIdleConnections()
	return nil
}

// claim claims what is due, until ctx ends.
func (d *Deliverer) claim(ctx, sending context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ps, busy, wait := d.ready()
		if len(ps) == 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-d.kick:
			case <-timer.C:
			}
			continue
		}
		// Not given up when ctx ends: what was claimed would be nobody's until the claim lapses.
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
		claims, errs := d.queue.ClaimWebhooks(c, ps, busy)
		cancel()
		d.mu.Lock()
		for i, p := range ps {
			if errs[i] != nil {
				d.metrics.queueErrors.WithLabelValues("claim").Inc()
				d.dueLocked(p, queueRetry)
				continue
			}
			claimed := claims[i]
			d.metrics.dead.WithLabelValues("overflow").Add(float64(claimed.Overflowed))
			d.metrics.lost.Add(float64(claimed.Lost))
			if d.parts[p].starved = claimed.LeftOut; claimed.LeftOut && d.roomLocked(busy) {
				d.dueLocked(p, 0)
			}
			d.dueLocked(p, claimed.Next)
			for _, u := range claimed.Users {
				d.addLocked(sending, job{partition: p, claimed: time.Now(), Claimed: u})
			}
		}
		d.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
	}
}

// ready takes partitions whose work is due, and the services whose lanes are full. If
// there are none, wait is the time until there may be.
func (d *Deliverer) ready() (ps []presence.Partition, busy []string, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = time.Hour
	if d.waiting >= maxWaiting {
		return nil, nil, wait // the end of an attempt tells
	}
	now := time.Now()
	first := d.first
	for i := range d.parts {
		p := (first + i) % len(d.parts)
		q := &d.parts[p]
		switch left := q.due.Sub(now); {
		case q.due.IsZero():
		case left > 0:
			wait = min(wait, left)
		case len(ps) < claimPartitions:
			ps = append(ps, presence.Partition(p))
			q.due, d.first = time.Time{}, p+1
		default: // in the next round
			wait = 0
		}
	}
	for sid, l := range d.lanes {
		l.full = l.full || l.running+len(l.waiting) >= 2*l.limit
		if l.full {
			busy = append(busy, sid)
		}
	}
	return ps, busy, wait
}

// roomLocked reports whether any of the lanes that were left out of a claim has room
// again: it had it before it could be seen that partitions starve for it.
func (d *Deliverer) roomLocked(busy []string) bool {
	return slices.ContainsFunc(busy, func(sid string) bool {
		l := d.lanes[sid]
		return l == nil || !l.full
	})
}

// settle tells the queue what became of events until done is closed and all is told.
func (d *Deliverer) settle(ctx context.Context, done <-chan struct{}) {
	for last := false; ; {
		d.mu.Lock()
		todo := d.settled
		d.settled = map[presence.Partition][]presence.Settled{}
		d.mu.Unlock()
		if len(todo) == 0 {
			if last {
				return
			}
			select {
			case <-d.told:
			case <-done:
				last = true
			}
			continue
		}
		ps, lists := make([]presence.Partition, 0, len(todo)), make([][]presence.Settled, 0, len(todo))
		for p, list := range todo {
			ps, lists = append(ps, p), append(lists, list)
		}
		c, cancel := context.WithTimeout(ctx, queueTimeout)
		settled, errs := d.queue.SettleWebhooks(c, ps, lists, d.opt.RetryFor)
		cancel()
		failed := false
		d.mu.Lock()
		for i, p := range ps {
			if errs[i] != nil {
				// Told again; if it never can be, the claim lapses and the events come again.
				d.metrics.queueErrors.WithLabelValues("settle").Inc()
				failed = true
				if !last {
					d.settled[p] = append(lists[i], d.settled[p]...)
				}
				continue
			}
			d.metrics.dead.WithLabelValues("expired").Add(float64(settled[i].Dead))
			d.dueLocked(p, settled[i].Next)
		}
		d.mu.Unlock()
		poke(d.kick)
		if failed && !last {
			select {
			case <-time.After(queueRetry):
			case <-done:
				last = true
			}
		}
	}
}

// settleLocked has the queue told.
func (d *Deliverer) settleLocked(p presence.Partition, s presence.Settled) {
	d.settled[p] = append(d.settled[p], s)
	poke(d.told)
}
