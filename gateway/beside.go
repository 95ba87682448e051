package gateway

import (
	"context"
	"sync"
)

// maxBeside is how much a session may have to do beside its reader.
const maxBeside = 8

// beside does what may take long while the reader goes on: one thing after the other,
// in order.
type beside struct {
	run  func(f func(context.Context)) bool
	stop func() // waits for what is being done, and drops the rest
}

func newBeside(ctx context.Context, s *Session) *beside {
	ctx, cancel := context.WithCancel(ctx)
	slots := make(chan struct{}, maxBeside)
	var before <-chan struct{} // closed when what was given last is done; nil at first
	var all sync.WaitGroup
	return &beside{
		run: func(f func(context.Context)) bool {
			select {
			case slots <- struct{}{}:
			default:
				return false
			}
			turn, done := before, make(chan struct{})
			before = done
			all.Go(func() {
				defer func() { <-slots; close(done) }()
				if turn != nil {
					<-turn
				}
				if ctx.Err() == nil && !s.closing() {
					f(ctx)
				}
			})
			return true
		},
		stop: func() { cancel(); all.Wait() },
	}
}

// Beside runs f while the reader goes on, after what was given to it before; false if
// too much waits already. What has not begun when the session closes is dropped; f's ctx
// ends with the session, which waits for it. Only the reader may call it.
func (s *Session) Beside(ctx context.Context, f func(context.Context)) bool {
	if s.beside == nil {
		s.beside = newBeside(ctx, s)
	}
	return s.beside.run(f)
}
