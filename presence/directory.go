package presence

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ServiceStore is what a Directory needs of the shared state.
type ServiceStore interface {
	// Service returns a service; ErrNoService.
	Service(ctx context.Context, sid string) (Service, error)
	// BeatServices returns the run and number of the services' event counter.
	BeatServices(ctx context.Context) (run string, seq uint64, err error)
	// RestoreService writes a service back that the store lost with its data, or the
	// switch of one whose last flip it lost (its revision is lower than the one given),
	// and returns what it has. It fails with ErrNoService for one that was deleted: the
	// counter's run is still the one given, under which the service was known.
	RestoreService(ctx context.Context, s Service, run string) (Service, error)
}

// Directory is a node's copy of the services in use. It reads a service once, then
// again whenever it hears that it changed; events that were lost are made up for
// with the next heartbeat, so a copy is at most one heartbeat old while the store
// answers. While it does not, copies stay as they are. A service that the store lost
// with all its data is written back from the copy, and so is a flip of the switch that it
// lost in a failover: readers have heard of it, under a revision that must not go back.
type Directory struct {
	store     ServiceStore
	heartbeat time.Duration
	changed   chan string // services to read again; "" for all

	mu       sync.RWMutex // guards the following
	entries  map[string]*entry
	run      string // of the services' counter, under which the copies were made; "" while unknown
	watchers []func(was, is Service, exists bool)
}

// entry is one service. Its lock is a channel so that waiting for it ends with
// the context; it is held over reading and telling, which so happen in order.
type entry struct {
	lock    chan struct{}
	service Service // guarded by Directory.mu, like the next
	known   bool
}

// NewDirectory returns a Directory that compares notes with store once a heartbeat
// while it is served.
func NewDirectory(store ServiceStore, heartbeat time.Duration) *Directory {
	return &Directory{store: store, heartbeat: heartbeat, changed: make(chan string, 64), entries: map[string]*entry{}}
}

// Watch has f called after the copy of a service changed; exists is false if the
// service was deleted. Calls for one service come in order, and not concurrently;
// f must not call the Directory for that service's refresh. To be called before Serve.
func (d *Directory) Watch(f func(was, is Service, exists bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watchers = append(d.watchers, f)
}

// Service returns a service: its copy, or what the store has if there is none yet.
// It fails with ErrNoService, or KindUnavailable.
func (d *Directory) Service(ctx context.Context, sid string) (Service, error) {
	if v, ok := d.Cached(sid); ok {
		return v, nil
	}
	return d.refresh(ctx, sid, d.entry(sid), false)
}

// Fresh returns a service as the store has it now, and keeps that copy. It fails as
// Service does.
func (d *Directory) Fresh(ctx context.Context, sid string) (Service, error) {
	return d.refresh(ctx, sid, d.entry(sid), true)
}

func (d *Directory) entry(sid string) *entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[sid]
	if e == nil {
		e = &entry{lock: make(chan struct{}, 1)}
		d.entries[sid] = e
	}
	return e
}

// Cached returns the copy of a service, if there is one. It does not block.
func (d *Directory) Cached(sid string) (Service, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if e := d.entries[sid]; e != nil && e.known {
		return e.service, true
	}
	return Service{}, false
}

// refresh reads a service under its lock and tells the watchers of a difference.
// Without again, a copy that another call made meanwhile will do.
func (d *Directory) refresh(ctx context.Context, sid string, e *entry, again bool) (Service, error) {
	select {
	case e.lock <- struct{}{}:
		defer func() { <-e.lock }()
	case <-ctx.Done():
		return Service{}, &Error{Op: "service", Kind: KindUnavailable, Err: ctx.Err()}
	}
	if v, ok := d.Cached(sid); ok && !again {
		return v, nil
	}
	v, err := d.store.Service(ctx, sid)
	d.mu.RLock()
	old, known, run, watchers := e.service, e.known, d.run, d.watchers
	d.mu.RUnlock()
	if known && (errors.Is(err, ErrNoService) || err == nil && v.Rev < old.Rev) {
		v, err = d.store.RestoreService(ctx, old, run)
	}
	gone := errors.Is(err, ErrNoService)
	if err != nil && !gone {
		return Service{}, err
	}
	d.mu.Lock()
	if gone {
		delete(d.entries, sid)
	} else {
		e.service, e.known = v, true
	}
	d.mu.Unlock()
	if !known && !gone && run == "" {
		d.Changed(sid) // has Serve ask for the run, without which a copy cannot be written back
	}
	if known && (gone || old != v) {
		for _, f := range watchers {
			f(old, v, !gone)
		}
	}
	return v, err
}

// Changed tells the Directory that a service may have changed; it does not block.
func (d *Directory) Changed(sid string) {
	select {
	case d.changed <- sid:
	default:
		// The queue is full; the next heartbeat sees that the counter moved.
	}
}

// Resync tells the Directory that any service may have changed; it does not block.
func (d *Directory) Resync() { d.Changed("") }

// Serve keeps the copies fresh until ctx ends.
func (d *Directory) Serve(ctx context.Context) error {
	ticker := time.NewTicker(d.heartbeat)
	defer ticker.Stop()
	var seq uint64
	stale := map[string]bool{} // read failed; to be tried again
	told := false              // of a change since the last heartbeat, with which seq moved
	for {
		if d.heard() == "" { // at first, and after a loss
			seq, told = d.beat(ctx, seq, told, stale)
		}
		select {
		case <-ctx.Done():
			return nil
		case sid := <-d.changed:
			d.read(ctx, sid, stale)
			told = true
		case <-ticker.C:
			seq, told = d.beat(ctx, seq, told, stale)
		}
	}
}

func (d *Directory) heard() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.run
}

// beat compares the services' counter with what was heard, of which seq is the
// number; it returns the new one. A counter that stands although a change was told of
// has lost that change, in a failover.
func (d *Directory) beat(ctx context.Context, seq uint64, told bool, stale map[string]bool) (uint64, bool) {
	c, cancel := context.WithTimeout(ctx, d.heartbeat)
	run, n, err := d.store.BeatServices(c)
	cancel()
	if err != nil {
		return seq, told
	}
	if run != d.heard() || n != seq || told {
		d.read(ctx, "", stale)
	}
	for sid := range stale {
		d.read(ctx, sid, stale)
	}
	if len(stale) > 0 {
		return seq, told // what is lost can be told from what was deleted under the old run only
	}
	d.mu.Lock()
	d.run = run
	d.mu.Unlock()
	return n, false
}

// read refreshes one service, or all for "", and notes which could not be read.
func (d *Directory) read(ctx context.Context, sid string, stale map[string]bool) {
	d.mu.RLock()
	todo := map[string]*entry{}
	for s, e := range d.entries {
		if sid == "" || s == sid {
			todo[s] = e
		}
	}
	d.mu.RUnlock()
	delete(stale, sid)
	for s, e := range todo {
		c, cancel := context.WithTimeout(ctx, d.heartbeat)
		if _, err := d.refresh(c, s, e, true); err != nil && !errors.Is(err, ErrNoService) {
			stale[s] = true
		} else {
			delete(stale, s)
		}
		cancel()
	}
}
