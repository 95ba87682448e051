package main

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// onWrite is a writer that only tells that it was written to.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// What config check calls good, serve serves with.
func TestServeTakesWhatCheckTakes(t *testing.T) {
	for name, args := range map[string][]string{
		"short pong":      {"--pong-timeout=50ms", "--ping-interval=1s"},
		"medium pong":     {"--pong-timeout=5s"},
		"long pong":       {"--ping-interval=25s", "--pong-timeout=24s"},
		"slow rates":      {"--request-rate=1", "--request-burst=1", "--accept-rate=1", "--accept-burst=1"},
		"no drain":        {"--drain-timeout=0s"},
		"small limits":    {"--max-frame=1KiB", "--max-connections=1", "--max-subscriptions=1", "--max-identities=1"},
		"short heartbeat": {"--heartbeat=50ms", "--lease-ttl=101ms", "--linger=0s"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, errs := invoke(t, append([]string{"config", "check"}, args...)); code != exitOK {
				t.Fatalf("config check exits with %d: %s", code, errs)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var errs strings.Builder
			args := append([]string{"serve", "--addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--log-level=error"}, args...)
			if code := run(ctx, args, nil, onWrite(stop), &errs); code != exitOK || errs.Len() > 0 {
				t.Errorf("serve exits with %d and errors\n%s", code, errs.String())
			}
			if ctx.Err() == nil {
				t.Error("serve never said that it is up")
			}
		})
	}
}

// While Redis is away the client has the same to say again and again.
func TestRedisLogIsBounded(t *testing.T) {
	core, seen := observer.New(zapcore.WarnLevel)
	log := newRedisLog(zap.New(core))
	for range 10 * redisLogLines {
		log.Printf(t.Context(), "failed to dial %s", "127.0.0.1:6379")
	}
	if got := seen.Len(); got != redisLogLines {
		t.Errorf("%d lines logged of %d; want %d", got, 10*redisLogLines, redisLogLines)
	}
}
