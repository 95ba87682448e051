package redisstore

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// jointPause is the least time between two pipelines while there are always some under way.
	jointPause = time.Millisecond
	// jointMost is how many commands are in one before no more join it, some 5 ms of Redis, and
	// jointAsk how many somebody may ask for who joins.
	jointMost, jointAsk = 64, 16
)

// joint sends what many ask at the same time in few pipelines: a round trip of its own costs
// the node some 40 us and Redis 30, most of it for going to sleep and waking up. Who asks while
// nobody else does is not held up; who asks while a pipeline is under way waits for others
// to ask, for jointPause at most.
type joint struct {
	client redis.UniversalClient
	alone  bool // on a Cluster nobody is to wait for the servers of others

	mu     sync.Mutex // guards the following
	flying int        // pipelines under way
	sent   time.Time  // when the newest was sent
	next   *gathered  // nil while nobody waits
}

// gathered is what goes together. Who came first sends it.
type gathered struct {
	cmds     []redis.Cmder // guarded by joint.mu until it is sent
	deadline time.Time     // the latest of those who asked; guarded in the same way
	done     chan struct{} // closed when all commands have their answers
}

// Pipelined is that of the client: it returns the commands that ask added, with their answers, and
// the first error of them. It returns when all who go together have their answers, at the latest when
// the longest of their deadlines has passed; that ctx is cancelled meanwhile is not noticed, as the client does not once it
// has a connection.
func (j *joint) Pipelined(ctx context.Context, ask func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	pipe := j.client.Pipeline()
	if err := ask(pipe); err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if !ok || j.alone || pipe.Len() > jointAsk || ctx.Err() != nil { // what nobody waits for is not to be carried out
		return pipe.Exec(ctx)
	}
	own := pipe.Cmds()
	j.exec(ctx, deadline, pipe)
	for _, cmd := range own {
		if err := cmd.Err(); err != nil {
			return own, err
		}
	}
	return own, nil
}

// exec has the commands of a pipeline carried out.
func (j *joint) exec(ctx context.Context, deadline time.Time, pipe redis.Pipeliner) {
	j.mu.Lock()
	now := time.Now()
	pause := j.sent.Add(jointPause).Sub(now)
	switch g := j.next; {
	case g != nil:
		g.cmds = append(g.cmds, pipe.Cmds()...)
		if deadline.After(g.deadline) {
			g.deadline = deadline
		}
		if len(g.cmds) >= jointMost {
			j.next = nil
		}
		j.mu.Unlock()
		<-g.done
		return
	case j.flying == 0 || pause <= 0:
		j.flying++
		j.sent = now
		j.mu.Unlock()
		_, _ = pipe.Exec(ctx)
	default:
		g = &gathered{cmds: pipe.Cmds(), deadline: deadline, done: make(chan struct{})}
		j.next = g
		j.mu.Unlock()
		<-time.After(pause) // a millisecond at most
		j.mu.Lock()
		if j.next == g {
			j.next = nil
		}
		j.flying++
		j.sent = time.Now()
		cmds, deadline := g.cmds, g.deadline
		j.mu.Unlock()
		ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
		defer cancel()
		all := j.client.Pipeline()
		for _, cmd := range cmds {
			_ = all.Process(ctx, cmd) // adds it
		}
		_, _ = all.Exec(ctx)
		close(g.done)
	}
	j.mu.Lock()
	j.flying--
	j.mu.Unlock()
}
