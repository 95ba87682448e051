package gateway

import (
	"context"
	"sync"
)

// crew runs what is short and takes a deep stack, on goroutines that are kept for the next:
// to grow a fresh stack step by step, from the 2 KiB that waiting takes, costs more than what
// is run. A goroutine beyond those kept is started where all are busy, and ends when it is done.
type crew struct {
	jobs chan job
	kept chan struct{} // a slot for each that waits for a job
	stop chan struct{} // closed by end
	all  sync.WaitGroup
}

// job is what a crew runs.
type job interface{ run(ctx context.Context) }

// maxKept is how many goroutines a crew keeps. The collector halves their stacks while they
// wait, down to 2 KiB.
const maxKept = 32

func newCrew() *crew {
	return &crew{jobs: make(chan job), kept: make(chan struct{}, maxKept), stop: make(chan struct{})}
}

// do has j run, with ctx, of which a Server has one only. It does not block.
func (c *crew) do(ctx context.Context, j job) {
	select {
	case c.jobs <- j:
	default:
		c.all.Go(func() { c.work(ctx, j) })
	}
}

func (c *crew) work(ctx context.Context, j job) {
	for {
		j.run(ctx)
		select {
		case c.kept <- struct{}{}:
		default:
			return
		}
		select {
		case j = <-c.jobs:
			<-c.kept
		case <-c.stop:
			return
		}
	}
}

// end ends the goroutines that wait, and returns when all have ended. There must be nothing left
// to be done.
func (c *crew) end() {
	close(c.stop)
	c.all.Wait()
}
