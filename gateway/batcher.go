package gateway

import (
	"context"
	"sync"
	"time"
)

// batcher has updates wait for others: those of sessions whose client takes batches and was
// written to less than delay ago. A write costs the same whatever its length, so what is
// written together costs little more than one of it. All sessions that wait are woken
// at once, delay after the first of them began to wait.
type batcher struct {
	delay time.Duration // 0: nobody waits
	begun chan struct{} // the first of waiting is there

	mu      sync.Mutex // guards the following
	waiting []*Session
}

func newBatcher(delay time.Duration) *batcher {
	return &batcher{delay: delay, begun: make(chan struct{}, 1)}
}

// add has the session wait. It does not block.
func (b *batcher) add(s *Session) {
	b.mu.Lock()
	b.waiting = append(b.waiting, s)
	first := len(b.waiting) == 1
	b.mu.Unlock()
	if first {
		b.begun <- struct{}{} // there is room: it was taken before waiting was
	}
}

// run wakes those who wait until ctx ends.
func (b *batcher) run(ctx context.Context) {
	var spare []*Session
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.begun:
		}
		if !sleep(ctx, b.delay) {
			return
		}
		b.mu.Lock()
		due := b.waiting
		b.waiting = spare
		b.mu.Unlock()
		for _, s := range due {
			s.wake()
		}
		clear(due)
		spare = due[:0]
	}
}
