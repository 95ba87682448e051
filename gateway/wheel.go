package gateway

import (
	"context"
	"sync"
	"time"
)

const (
	wheelTick  = 100 * time.Millisecond
	wheelSlots = 512 // one turn is longer than the default ping interval
)

// wheel keeps the deadlines of all sessions with one goroutine and one timer. A
// session is on it once, under the earliest time at which it wants to be looked at.
type wheel struct {
	start time.Time

	mu    sync.Mutex // guards the following and the link of every session
	slots [wheelSlots]*Session
	done  int64 // ticks that were handled
}

// link is a session's place on the wheel; guarded by wheel.mu.
type link struct {
	next, prev *Session
	due        int64 // tick; 0 when not on the wheel
	gone       bool  // never to be put on again
}

func newWheel() *wheel { return &wheel{start: time.Now()} }

// now is the time on the wheel's clock, which never steps.
func (w *wheel) now() time.Duration { return time.Since(w.start) }

// schedule has s looked at when at has passed, or earlier if it already was to be.
// It is never early, and late by a tick and a bit.
func (w *wheel) schedule(s *Session, at time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	tick := max(int64((at+wheelTick-1)/wheelTick), w.done+1)
	switch {
	case s.link.gone, s.link.due != 0 && s.link.due <= tick:
		return
	case s.link.due != 0:
		w.unlinkLocked(s)
	}
	slot := &w.slots[tick%wheelSlots]
	s.link.due, s.link.next, s.link.prev = tick, *slot, nil
	if *slot != nil {
		(*slot).link.prev = s
	}
	*slot = s
}

// remove takes s off the wheel for good.
func (w *wheel) remove(s *Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.link.due != 0 {
		w.unlinkLocked(s)
	}
	s.link.gone = true
}

func (w *wheel) unlinkLocked(s *Session) {
	if s.link.prev != nil {
		s.link.prev.link.next = s.link.next
	} else {
		w.slots[s.link.due%wheelSlots] = s.link.next
	}
	if s.link.next != nil {
		s.link.next.link.prev = s.link.prev
	}
	s.link.due, s.link.next, s.link.prev = 0, nil, nil
}

// run looks at each session when it is due, until ctx ends.
func (w *wheel) run(ctx context.Context) {
	t := time.NewTicker(wheelTick)
	defer t.Stop()
	var due []*Session
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := w.now()
		for {
			var more bool
			if due, more = w.advance(due[:0], now); !more {
				break
			}
			for _, s := range due {
				if next := s.check(now); next > 0 {
					w.schedule(s, next)
				}
			}
			clear(due)
		}
	}
}

// advance takes the sessions of the next tick up to now off the wheel; more is
// false when there is no such tick left.
func (w *wheel) advance(due []*Session, now time.Duration) (_ []*Session, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done >= int64(now/wheelTick) {
		return due, false
	}
	w.done++
	for s := w.slots[w.done%wheelSlots]; s != nil; {
		next := s.link.next
		if s.link.due <= w.done {
			w.unlinkLocked(s)
			due = append(due, s)
		}
		s = next
	}
	return due, true
}
