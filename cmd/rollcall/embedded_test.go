package main

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/rollcall-presence/rollcall/configs"
)

// A command to the embedded store costs about the same whatever there is in it.
func TestEmbeddedCost(t *testing.T) {
	client, done, err := openRedis(t.Context(), configs.Config{RedisURL: configs.Embedded})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	fastest := func() time.Duration {
		d := time.Hour
		for range 200 {
			start := time.Now()
			if err := client.Get(t.Context(), "x").Err(); err != redis.Nil { //nolint:errorlint // the client returns it bare
				t.Fatal(err)
			}
			d = min(d, time.Since(start))
		}
		return d
	}
	empty := fastest()
	_, err = client.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
		args := make([]any, 0, 40_000)
		for i := range cap(args) / 2 {
			args = append(args, fmt.Sprint("key", i), i)
		}
		return pipe.MSet(t.Context(), args...).Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if full := fastest(); full > 10*empty {
		t.Errorf("a command takes %v with 20,000 keys, %v with none", full, empty)
	}
}

func TestEmbeddedExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := miniredis.NewMiniRedis()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { age(ctx, m) })
		for _, key := range []string{"soon", "later"} {
			if err := m.Set(key, ""); err != nil {
				t.Fatal(err)
			}
		}
		m.SetTTL("soon", time.Minute)
		m.SetTTL("later", 2*time.Minute)
		time.Sleep(time.Minute - time.Second)
		if !m.Exists("soon") {
			t.Error("a key is gone before its time")
		}
		time.Sleep(agingInterval + time.Second)
		if m.Exists("soon") || !m.Exists("later") {
			t.Errorf("after %v soon exists: %v, later exists: %v", time.Minute+agingInterval, m.Exists("soon"), m.Exists("later"))
		}
		stop()
		wg.Wait()
	})
}
