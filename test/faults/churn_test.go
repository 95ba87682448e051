package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/internal/testkit/rig"
)

// churn has users come and go: on any node, with several devices at a time, by bye, by cutting the connection, and by
// doing so and coming back at once as the reload of a page does.
type churn struct {
	w       *World
	ctx     context.Context //nolint:containedctx // of what start starts
	quit    chan struct{}   // closed by stop
	acting  sync.WaitGroup  // the driver and what it began
	devices sync.WaitGroup

	fickle map[string]bool // users who may not come back when they are cut off

	mu   sync.Mutex // guards the following
	open map[string][]*device
	made int
}

func newChurn(w *World, faithful bool) *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{w: w, ctx: ctx, quit: make(chan struct{}), open: map[string][]*device{}, fickle: map[string]bool{}}
	w.Cleanup(func() { cancel(); c.acting.Wait(); c.devices.Wait() })
	random := rand.New(rand.NewPCG(w.Rand.Uint64(), w.Rand.Uint64()))
	// Two thirds of the others are there from the start.
	for _, user := range w.steady {
		c.connect(user, random)
	}
	for _, user := range w.coming {
		c.fickle[user] = !faithful
		if random.IntN(3) > 0 {
			c.connect(user, random)
		}
	}
	rig.Within(w, 3*time.Minute, "the first users are connected", c.connected)
	c.acting.Go(func() { c.drive(w.coming, random) })
	return c
}

// drive acts until stop.
func (c *churn) drive(users []string, random *rand.Rand) {
	ticker := time.NewTicker(c.w.pick(100*time.Millisecond, 40*time.Millisecond))
	defer ticker.Stop()
	for len(users) > 0 {
		select {
		case <-c.quit:
			return
		case <-c.ctx.Done():
			return
		case <-ticker.C:
		}
		user, dice := users[random.IntN(len(users))], random.IntN(100)
		c.mu.Lock()
		open := slices.Clone(c.open[user])
		c.mu.Unlock()
		how := Bye
		if random.IntN(2) == 0 {
			how = Drop
		}
		switch {
		case len(open) == 0, dice < 10 && len(open) < 3:
			c.connect(user, random)
		case dice < 50: // all leave
			for _, d := range open {
				c.end(d, how)
			}
		case dice < 60: // one leaves
			c.end(open[random.IntN(len(open))], how)
		default: // the page is loaded again
			d := open[random.IntN(len(open))]
			next := c.device(user, random)
			c.forget(d)
			c.acting.Go(func() { d.end(Drop); c.devices.Go(next.run) })
		}
	}
}

// stop lets nobody come or go any more; who is connected stays so.
func (c *churn) stop() {
	close(c.quit)
	c.acting.Wait()
}

// device makes a client of a user, which is yet to run.
func (c *churn) device(user string, random *rand.Rand) *device {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	d := &device{c: c, user: user, name: fmt.Sprintf("%s.%d", user, c.made), random: rand.New(rand.NewPCG(random.Uint64(), 0))}
	d.ctx, d.cancel = context.WithCancel(c.ctx)
	c.open[user] = append(c.open[user], d)
	return d
}

func (c *churn) connect(user string, random *rand.Rand) *device {
	d := c.device(user, random)
	c.devices.Go(d.run)
	return d
}

// end has a device leave, without waiting for it.
func (c *churn) end(d *device, how string) {
	c.forget(d)
	c.acting.Go(func() { d.end(how) })
}

func (c *churn) forget(d *device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[d.user] = slices.DeleteFunc(c.open[d.user], func(o *device) bool { return o == d })
}

// connected tells whether each device that is to be connected is.
func (c *churn) connected() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	missing, of := 0, 0
	for _, open := range c.open {
		for _, d := range open {
			d.mu.Lock()
			if d.peer == nil {
				missing++
			}
			d.mu.Unlock()
			of++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d devices are not connected", missing, of)
	}
	return nil
}

// device is a client of a user that stays connected, on whatever node, until it is told otherwise.
type device struct {
	c      *churn
	user   string
	name   string
	random *rand.Rand      // owned by run
	ctx    context.Context //nolint:containedctx // ended by end
	cancel context.CancelFunc

	mu      sync.Mutex    // guards the following
	peer    *peer         // nil while it is not connected
	over    chan struct{} // of peer: closed when its end is recorded
	session string        // its name
	leave   string        // how it was told to leave
}

func (d *device) run() {
	rec, retry := d.c.w.Rec, time.Duration(0)
	for attempt, n := 0, 1; ; n++ {
		if !sleep(d.ctx, retry) {
			return
		}
		session := fmt.Sprintf("%s#%d", d.name, n)
		node, url := d.c.w.place(d.random)
		rec.Add(Entry{Kind: Began, User: d.user, Session: session, Node: node})
		ctx, cancel := context.WithTimeout(d.ctx, 15*time.Second)
		p, _, err := dial(ctx, url, d.c.w.Service, d.user, map[string]any{})
		cancel()
		if err != nil {
			rec.Add(Entry{Kind: Ended, User: d.user, Session: session, How: Refused, What: err.Error()})
			_, retry = ending(err)
			retry += d.backoff(attempt)
			attempt++
			continue
		}
		attempt = 0
		hint, again := d.hold(p, session)
		if !again || hint == 0 && d.c.fickle[d.user] && d.random.IntN(3) == 0 {
			d.c.forget(d)
			return
		}
		if retry = hint; hint == 0 {
			retry = d.backoff(0)
		}
	}
}

// backoff is a random time that grows with the attempts.
func (d *device) backoff(attempt int) time.Duration {
	return time.Duration(d.random.Int64N(int64(100*time.Millisecond) << min(attempt, 5)))
}

// hold stays connected until the connection ends; again tells that it was not told to leave.
func (d *device) hold(p *peer, session string) (retry time.Duration, again bool) {
	rec := d.c.w.Rec
	over := make(chan struct{})
	defer close(over)
	d.mu.Lock()
	rec.Add(Entry{Kind: Opened, User: d.user, Session: session})
	d.peer, d.over = p, over
	if d.leave != "" { // told so while it was connecting
		rec.Add(Entry{Kind: Leaving, User: d.user, Session: session, How: Drop})
		p.conn.CloseNow()
	}
	d.session = session
	d.mu.Unlock()
	var err error
	for err == nil {
		_, err = p.read(d.c.ctx)
	}
	p.conn.CloseNow()
	d.mu.Lock()
	defer d.mu.Unlock()
	how, retry := ending(err)
	if d.leave == Drop {
		how = Drop
	}
	d.peer = nil
	rec.Add(Entry{Kind: Ended, User: d.user, Session: session, How: how, What: err.Error()})
	return retry, d.leave == "" && how != Kicked && d.c.ctx.Err() == nil
}

// end has the device leave and returns when it has.
func (d *device) end(how string) {
	d.mu.Lock()
	d.leave = how
	p, over := d.peer, d.over
	if p != nil {
		d.c.w.Rec.Add(Entry{Kind: Leaving, User: d.user, Session: d.session, How: how})
	}
	d.mu.Unlock()
	defer d.cancel()
	switch {
	case p == nil: // connecting, or about to: run finds out
	case how == Bye:
		p.bye(over)
		<-over
	default:
		p.conn.CloseNow()
		<-over
	}
}

// place is where a client connects: straight to a node, or half of the time through the balancer.
func (w *World) place(random *rand.Rand) (name, url string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := random.IntN(2 * len(w.Nodes)); i < len(w.Nodes) && !w.balanced {
		return fmt.Sprint("node ", i), w.Nodes[i].WS()
	}
	return "the balancer", w.Balancer.WS()
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
