package redisstore

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

// slowRedis stands for a Redis that takes a while for each pipeline, and keeps how many commands
// each had.
type slowRedis struct {
	redis.Hook
	takes time.Duration
	mu    sync.Mutex
	sizes []int
}

func (r *slowRedis) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.mu.Lock()
		r.sizes = append(r.sizes, len(cmds))
		r.mu.Unlock()
		select {
		case <-time.After(r.takes):
		case <-ctx.Done():
			for _, cmd := range cmds {
				cmd.SetErr(ctx.Err())
			}
			return ctx.Err()
		}
		for _, cmd := range cmds {
			if key := cmd.Args()[1].(string); key == "bad" {
				cmd.SetErr(errors.New("refused"))
			} else {
				cmd.(*redis.StringCmd).SetVal("of " + key)
			}
		}
		return nil
	}
}

func (r *slowRedis) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (r *slowRedis) DialHook(next redis.DialHook) redis.DialHook          { return next }

// TestJoint: who asks alone is not held up; who asks while others do goes with them, and has the
// answer, or the error, to its own question.
func TestJoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, Dialer: undialled})
		defer func() { _ = client.Close() }()
		r := &slowRedis{takes: time.Millisecond}
		client.AddHook(r)
		j := &joint{client: client}
		ask := func(ctx context.Context, keys ...string) {
			cmds := make([]*redis.StringCmd, len(keys))
			own, err := j.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				for i, key := range keys {
					cmds[i] = pipe.Get(ctx, key)
				}
				return nil
			})
			if (err != nil) != slices.Contains(keys, "bad") || len(own) != len(keys) {
				t.Errorf("Pipelined = %d commands, %v; want %d", len(own), err, len(keys))
			}
			for i, key := range keys {
				if got, err := cmds[i].Result(); (err != nil) != (key == "bad") || err == nil && got != "of "+key {
					t.Errorf("answer to %s = %q, %v", key, got, err)
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		for range 3 {
			ask(ctx, "a")
		}
		if took := time.Since(begin); took != 3*time.Millisecond {
			t.Errorf("three asked in turn: %v; want that nobody waited for more than Redis", took)
		}
		time.Sleep(time.Second)
		begin = time.Now()
		var all sync.WaitGroup
		all.Go(func() { ask(ctx, "first") })
		synctest.Wait()
		for range 5 {
			all.Go(func() { ask(ctx, "a", "b") })
		}
		all.Go(func() { ask(ctx, "bad") })
		all.Wait()
		if took := time.Since(begin); took != jointPause+r.takes {
			t.Errorf("seven asked at once: %v; want the pause, and what Redis takes", took)
		}
		all.Go(func() { ask(ctx, "first") })
		synctest.Wait()
		for range jointMost + 1 {
			all.Go(func() { ask(ctx, "a") })
		}
		synctest.Wait()
		ask(ctx, make([]string, jointAsk+1)...) // too many to go with others
		ask(t.Context(), "a")                   // for as long as it takes
		all.Wait()
		slices.Sort(r.sizes)
		if diff := cmp.Diff([]int{1, 1, 1, 1, 1, 1, 1, 11, jointAsk + 1, jointMost}, r.sizes); diff != "" {
			t.Errorf("pipelines (-want +got):\n%s", diff)
		}
		if j.flying != 0 || j.next != nil {
			t.Errorf("at rest: %d under way, next = %v", j.flying, j.next)
		}
	})
}

// TestJointDeadline: that who sends for all has little time takes nobody's answer away.
func TestJointDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, Dialer: undialled})
		defer func() { _ = client.Close() }()
		client.AddHook(&slowRedis{takes: time.Second})
		j := &joint{client: client}
		ask := func(patience time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := j.Pipelined(ctx, func(pipe redis.Pipeliner) error { return pipe.Get(ctx, "a").Err() })
			return err
		}
		var all sync.WaitGroup
		for _, patience := range []time.Duration{time.Minute, time.Millisecond, time.Minute} {
			all.Go(func() {
				if err := ask(patience); err != nil {
					t.Errorf("who waits for up to %v: %v; want an answer", patience, err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		for range 2 { // the second waits for others
			all.Go(func() { _ = ask(time.Minute) })
			synctest.Wait()
		}
		if err := ask(0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who has no time left: %v; want its deadline", err)
		}
		all.Wait()
		if err := ask(time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who asks alone, and has a millisecond: %v; want its deadline", err)
		}
	})
}

func undialled(context.Context, string, string) (net.Conn, error) {
	panic("nobody connects to it")
}
