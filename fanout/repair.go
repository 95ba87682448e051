package fanout

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rollcall-presence/rollcall/presence"
)

const (
	repairers   = 4                      // partitions read again at a time
	readTimeout = 5 * time.Second        // of one round
	minBackoff  = 100 * time.Millisecond // after a failed repair, doubling
	maxBackoff  = time.Second            // so that views are true again soon after the store is back
)

// lateBeat is a heartbeat that knew of more events than had arrived.
type lateBeat struct {
	p   presence.Partition
	run string
	seq uint64
	due time.Time
	at  presence.Cursor // when the heartbeat came
}

// Serve repairs what the bus lost, until ctx ends, and returns nil then. Partitions
// are read again a few at a time, and again and again while the store is away.
func (h *Hub) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	for range repairers {
		wg.Go(func() { h.repairAll(ctx) })
	}
	wg.Go(func() { h.awaitLate(ctx) })
	wg.Wait()
	return nil
}

// Resync takes it that events of a partition may have been lost: the bus was cut off.
func (h *Hub) Resync(p presence.Partition) {
	if p < 0 || int(p) >= len(h.parts) {
		return
	}
	part := &h.parts[p]
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.held {
		h.counters.resubscribed.Add(1)
		h.repairLocked(p)
	}
}

// Beat compares what the store has published in a partition with what has arrived.
// What is missing may be on its way; if it does not come, it is repaired.
func (h *Hub) Beat(p presence.Partition, run string, seq uint64) {
	if p < 0 || int(p) >= len(h.parts) {
		return
	}
	part := &h.parts[p]
	part.mu.Lock()
	behind, at := part.held && part.cursor.Behind(run, seq), part.cursor
	part.mu.Unlock()
	if !behind {
		return
	}
	select {
	case h.late <- lateBeat{p, run, seq, time.Now().Add(h.opt.Late), at}:
	default: // the next heartbeat asks again
	}
}

func (h *Hub) awaitLate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-h.late:
			if !sleep(ctx, time.Until(l.due)) {
				return
			}
			part := &h.parts[l.p]
			part.mu.Lock()
			if part.held {
				h.gapLocked(l.p, part.cursor.Skip(l.run, l.seq, l.at))
			}
			part.mu.Unlock()
		}
	}
}

// gapLocked counts a gap and queues the repair it asks for.
func (h *Hub) gapLocked(p presence.Partition, g presence.Gap) {
	if g != presence.NoGap {
		h.counters.gaps[g].Add(1)
		h.repairLocked(p)
	}
}

func (h *Hub) repairLocked(p presence.Partition) {
	if part := &h.parts[p]; !part.queued {
		part.queued = true
		h.dirty <- p
	}
}

func (h *Hub) repairAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-h.dirty:
			if err := h.repair(ctx, p); err == nil {
				h.counters.repairs.Add(1)
				h.failing.Store(0)
				continue
			}
			if ctx.Err() != nil {
				return
			}
			h.counters.failed.Add(1)
			wait := min(minBackoff<<min(h.failing.Add(1)-1, 8), maxBackoff)
			ok := sleep(ctx, wait/2+rand.N(wait/2)) //nolint:gosec // jitter
			part := &h.parts[p]
			part.mu.Lock()
			h.repairLocked(p)
			part.mu.Unlock()
			if !ok {
				return
			}
		}
	}
}

// repair reads the users of a partition's topics again and dispatches what differs.
func (h *Hub) repair(ctx context.Context, p presence.Partition) error {
	part := &h.parts[p]
	part.mu.Lock()
	part.queued = false // what is lost from here on asks for another repair
	keys := make([]presence.Key, 0, len(part.topics))
	for k := range part.topics {
		keys = append(keys, presence.Key{Service: k.tenant.sid, Identity: k.identity})
	}
	part.mu.Unlock()
	for len(keys) > 0 {
		n := min(len(keys), maxRead)
		again, err := h.repairSome(ctx, part, keys[:n])
		if err != nil {
			return err
		}
		keys = append(keys[n:], again...)
	}
	return nil
}

// repairSome is repair for a round of users. It returns those of which something
// else was heard while they were read.
func (h *Hub) repairSome(ctx context.Context, part *partition, keys []presence.Key) (again []presence.Key, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	part.mu.Lock()
	began := part.clock
	part.mu.Unlock()
	users, err := h.store.ReadUsers(ctx, keys)
	if err != nil {
		return nil, err
	}
	w := h.gather()
	defer h.call(w)
	part.mu.Lock()
	defer part.mu.Unlock()
	for i, k := range keys {
		ten := h.tenant(k.Service)
		if ten == nil {
			continue
		}
		t := part.topics[topicKey{ten, k.Identity}]
		if t == nil {
			continue
		}
		o := t.read(&users[i], began, nil)
		if o.stale {
			again = append(again, k)
		}
		if u := part.took(t, o); u != nil {
			h.dispatch(t, u, w)
		}
	}
	return again, nil
}

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
