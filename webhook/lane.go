package webhook

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/url"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

// lane is the work for one service, and so for one target. What a target does holds
// up its own lane only.
type lane struct {
	service string
	// limit is how many users' events may be under way: the target's share while it
	// answers in time, less while it does not.
	limit   int
	running int
	waiting []job // claimed, but the target or this node is busy
	full    bool  // was left out of a claim
	parked  bool  // is in Deliverer.parked
}

// job is what was claimed of one user.
type job struct {
	presence.Claimed
	partition presence.Partition
	claimed   time.Time
}

// giveBack is the settling of a job that was not begun.
func (j job) giveBack() presence.Settled {
	s := presence.Settled{Key: j.Key, Retry: -1}
	if len(j.Events) > 0 {
		s.Failed = j.Events[0].SID
	}
	return s
}

// addLocked has a job done when there is room for it. Lanes of targets that do not
// answer in time keep no more than their next few, lest many of them fill this node.
func (d *Deliverer) addLocked(ctx context.Context, j job) {
	l := d.lanes[j.Service]
	if l == nil {
		l = &lane{service: j.Service, limit: d.opt.TargetConcurrency}
		d.lanes[j.Service] = l
	}
	if l.limit < d.opt.TargetConcurrency && l.running+len(l.waiting) >= 2*l.limit {
		d.settleLocked(j.partition, j.giveBack())
		return
	}
	l.waiting = append(l.waiting, j)
	d.waiting++
	d.metrics.waiting.Inc()
	d.startLocked(ctx, l)
}

// startLocked starts another worker of a lane if it has jobs and there is room. A
// lane with jobs has a worker, or is parked.
func (d *Deliverer) startLocked(ctx context.Context, l *lane) {
	switch {
	case len(l.waiting) == 0 || l.running >= l.limit || l.parked:
	case d.running >= d.opt.Concurrency:
		if l.running == 0 {
			l.parked = true
			d.parked = append(d.parked, l)
		}
	default:
		l.running++
		d.running++
		d.metrics.running.Inc()
		d.workers.Go(func() { d.work(ctx, l) })
	}
}

// work does a lane's jobs while there are any for it.
func (d *Deliverer) work(ctx context.Context, l *lane) {
	for first := true; ; first = false {
		j, ok := d.take(ctx, l, first)
		if !ok {
			return
		}
		s, outcome := d.deliver(ctx, j)
		d.mu.Lock()
		d.settleLocked(j.partition, s)
		switch outcome {
		case outcomeTimeout:
			l.limit = max(1, l.limit/2)
		case outcomeOK:
			if l.limit < d.opt.TargetConcurrency {
				l.limit++
				d.startLocked(ctx, l)
			}
		}
		d.mu.Unlock()
	}
}

// take takes the next job of a lane, or signs its worker off. Lanes that are parked
// have their turn before a worker's second job.
func (d *Deliverer) take(ctx context.Context, l *lane, first bool) (j job, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(l.waiting) > 0 && l.running <= l.limit && (first || len(d.parked) == 0) && !ok {
		j, l.waiting = l.waiting[0], l.waiting[1:]
		d.waiting--
		d.metrics.waiting.Dec()
		if d.waiting == maxWaiting-1 {
			poke(d.kick)
		}
		if d.stopping {
			d.settleLocked(j.partition, j.giveBack())
		} else {
			ok = time.Since(j.claimed) < stale // else it will be claimed anew
		}
	}
	if l.full && len(l.waiting) <= l.limit/2 {
		l.full = false
		for p := range d.parts {
			if d.parts[p].starved {
				d.parts[p].starved = false
				d.dueLocked(presence.Partition(p), 0)
			}
		}
		poke(d.kick)
	}
	if ok {
		return j, true
	}
	l.running--
	d.running--
	d.metrics.running.Dec()
	for len(d.parked) > 0 && d.running < d.opt.Concurrency {
		next := d.parked[0]
		d.parked, next.parked = d.parked[1:], false
		d.startLocked(ctx, next)
	}
	if l.running == 0 {
		d.startLocked(ctx, l) // it may have jobs left: behind those that were parked
		if l.running == 0 && len(l.waiting) == 0 && l.limit == d.opt.TargetConcurrency {
			delete(d.lanes, l.service)
		}
	}
	poke(d.kick) // there is room
	return job{}, false
}

// deliver tells a backend of a user's events, in order, until one fails. The outcome
// is that of the last attempt; empty if there was none.
func (d *Deliverer) deliver(ctx context.Context, j job) (s presence.Settled, outcome string) {
	s.Key = j.Key
	drop := func(e presence.Owed, why string) {
		d.metrics.dropped.WithLabelValues(why).Inc()
		s.Delivered = append(s.Delivered, e.SID)
	}
	service, hooks, err := d.hooks(ctx, j.Service, false)
	for i, fresh := 0, false; i < len(j.Events); i++ {
		e := j.Events[i]
		p, why := d.about(service, hooks, err, e)
		// What is known here may be older than the event: nothing is dropped for it.
		if !fresh && why != dropUnreadable && (why != "" || outdated(service, e)) {
			fresh = true
			service, hooks, err = d.hooks(ctx, j.Service, true)
			p, why = d.about(service, hooks, err, e)
		}
		if err != nil && !errors.Is(err, presence.ErrNoService) {
			return s, outcome // the store is away; the claim lapses
		}
		if why != "" {
			drop(e, why)
			continue
		}
		failed := 0
		if i == 0 {
			failed = j.Failed
		}
		outcome = d.attempt(ctx, hooks.Method, hooks.PostURL, e.SID, failed+1, p)
		if outcome == outcomeOK {
			d.metrics.delay.Observe(max(0, time.Since(e.Queued).Seconds()))
			s.Delivered = append(s.Delivered, e.SID)
			continue
		}
		s.Failed, s.Retry, s.Why = e.SID, backoff(failed), outcome
		if outcome == outcomeAborted {
			s.Retry = -1
		}
		break
	}
	return s, outcome
}

// about is what a backend is told of an event, or why it is not; err is that of
// reading the service and its webhooks.
func (d *Deliverer) about(s presence.Service, hooks presence.Webhooks, err error, e presence.Owed) (p url.Values, drop string) {
	switch {
	case err != nil:
		return nil, dropNoService
	case e.Event == "":
		return nil, dropUnreadable
	case hooks.PostURL == "" || !hooks.Fires(e.Event):
		return nil, dropUnwanted
	}
	return params(s, e)
}

// outdated reports whether a service is older than an event of it.
func outdated(s presence.Service, e presence.Owed) bool {
	return max(e.User.Epoch, e.User.NotifiableEpoch) > s.Epoch
}

// attempt makes one request and counts it.
func (d *Deliverer) attempt(ctx context.Context, method, target, sid string, n int, params url.Values) string {
	start := time.Now()
	outcome := d.sender.send(ctx, method, target, sid, n, params)
	d.metrics.attempts.WithLabelValues(params.Get("EventType"), outcome).Inc()
	d.metrics.seconds.Observe(time.Since(start).Seconds())
	return outcome
}

const minBackoff, maxBackoff = time.Second, 5 * time.Minute

// backoff is how long to wait after an attempt that failed, with that many failed
// before it: a second, doubled each time up to five minutes, give or take a fifth.
func backoff(failed int) time.Duration {
	d := maxBackoff
	if failed < 9 {
		d = min(maxBackoff, minBackoff<<failed)
	}
	return d*4/5 + rand.N(d*2/5) //nolint:gosec // G404: jitter is no secret
}

// hooks are a service and the webhooks that hold for it. Unless they are to be fresh
// the copies that this node has will do.
func (d *Deliverer) hooks(ctx context.Context, sid string, fresh bool) (presence.Service, presence.Webhooks, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	read := d.services.Service
	if fresh {
		read = d.services.Fresh
	}
	service, err := read(ctx, sid)
	if err != nil || service.Webhooks.Own() {
		return service, service.Webhooks, err
	}
	select {
	case d.accountLock <- struct{}{}:
		defer func() { <-d.accountLock }()
	case <-ctx.Done():
		return service, presence.Webhooks{}, ctx.Err()
	}
	if fresh || time.Since(d.accountRead) > accountAge {
		if d.account, err = d.queue.AccountWebhooks(ctx); err != nil {
			return service, presence.Webhooks{}, err
		}
		d.accountRead = time.Now()
	}
	return service, d.account, nil
}

// BeforeUserUpdate asks the backend of a service whether a user may be changed, if it
// wants to be asked. ErrRejected is a 4xx or 5xx of its; without an answer within five
// seconds the change may go on. ErrAsking tells that Options.TargetConcurrency changes
// are being asked about already.
func (d *Deliverer) BeforeUserUpdate(ctx context.Context, s presence.Service, u presence.User, update presence.UserUpdate) error {
	_, hooks, err := d.hooks(ctx, s.SID, false)
	if err != nil || hooks.PreURL == "" || !hooks.Fires(presence.EventUserUpdate) {
		return nil
	}
	if !d.ask(s.SID) {
		return presence.ErrAsking
	}
	defer d.asked(s.SID)
	sid := "EV" + rand32()
	switch d.attempt(ctx, hooks.Method, hooks.PreURL, sid, 1, updateParams(s, u, update, time.Now())) {
	case outcomeClient, outcomeServer:
		return presence.ErrRejected
	}
	return nil
}

// ask counts a question to a service's backend, until asked; false if there are too many.
func (d *Deliverer) ask(service string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asking[service] >= d.opt.TargetConcurrency {
		return false
	}
	d.asking[service]++
	return true
}

func (d *Deliverer) asked(service string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asking[service]--; d.asking[service] == 0 {
		delete(d.asking, service)
	}
}

// rand32 is the random part of a SID.
func rand32() string {
	var b [16]byte
	_, _ = crand.Read(b[:])
	return hex.EncodeToString(b[:])
}
