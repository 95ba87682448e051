// Package fanouttest has what tests of fan-out need: the suite that every
// fanout.Bus passes, a bus in memory that passes it, and a world of users that a
// fanout.Hub can be run against.
package fanouttest

import (
	"context"
	"sync"

	"github.com/rollcall-presence/rollcall/fanout"
	"github.com/rollcall-presence/rollcall/presence"
)

// Bus is a fanout.Bus in memory, for one node. It is safe for concurrent use, but
// delivers one call at a time.
type Bus struct {
	delivering sync.Mutex // held while the handler is called
	handler    fanout.Handler

	mu        sync.Mutex // guards the following
	listeners map[presence.Partition]int
	cut       chan struct{} // closed when mended; nil while the bus works
}

// NewBus returns a bus that delivers to a handler.
func NewBus(h fanout.Handler) *Bus {
	return &Bus{handler: h, listeners: map[presence.Partition]int{}}
}

// Watch implements fanout.Bus. It waits while the bus is cut off.
func (b *Bus) Watch(ctx context.Context, ps ...presence.Partition) error {
	for {
		b.mu.Lock()
		cut := b.cut
		if cut == nil {
			for _, p := range ps {
				b.listeners[p]++
			}
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		select {
		case <-cut:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unwatch implements fanout.Bus.
func (b *Bus) Unwatch(ps ...presence.Partition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range ps {
		if b.listeners[p]--; b.listeners[p] == 0 {
			delete(b.listeners, p)
		}
	}
}

// Listeners is how many listeners a partition has.
func (b *Bus) Listeners(p presence.Partition) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.listeners[p]
}

// Deliver hands an event over, unless the bus is cut off or nobody listens.
func (b *Bus) Deliver(p presence.Partition, run string, seq uint64, e presence.Event) {
	b.delivering.Lock()
	defer b.delivering.Unlock()
	if b.hears(p) {
		b.handler.Event(p, run, seq, e)
	}
}

// DeliverService hands over that a service changed.
func (b *Bus) DeliverService(run string, seq uint64, sid string) {
	b.delivering.Lock()
	defer b.delivering.Unlock()
	if b.hears(presence.Services) {
		b.handler.ServiceEvent(run, seq, sid)
	}
}

func (b *Bus) hears(p presence.Partition) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cut == nil && (p == presence.Services || b.listeners[p] > 0)
}

// Cut loses all that is delivered until Mend.
func (b *Bus) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut == nil {
		b.cut = make(chan struct{})
	}
}

// Mend ends Cut and tells that events may have been lost.
func (b *Bus) Mend() {
	b.mu.Lock()
	if b.cut == nil {
		b.mu.Unlock()
		return
	}
	close(b.cut)
	b.cut = nil
	lost := []presence.Partition{presence.Services}
	for p := range b.listeners {
		lost = append(lost, p)
	}
	b.mu.Unlock()
	b.delivering.Lock()
	defer b.delivering.Unlock()
	for _, p := range lost {
		b.handler.Resync(p)
	}
}
