package redisstore

import (
	"context"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// Latency is a hook of the Redis client that measures its round trips.
type Latency struct {
	seconds  *prometheus.HistogramVec
	commands prometheus.Counter
}

// NewLatency registers rollcall_redis_seconds and rollcall_redis_commands_total.
func NewLatency(reg prometheus.Registerer) *Latency {
	l := &Latency{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rollcall_redis_seconds", Help: "Round trips to Redis, by kind and outcome.",
			Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"kind", "outcome"}),
		commands: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_redis_commands_total", Help: "Commands sent to Redis; those inside scripts are not counted.",
		}),
	}
	reg.MustRegister(l.seconds, l.commands)
	for _, kind := range []string{"command", "pipeline"} {
		for _, outcome := range []string{"ok", "error"} {
			l.seconds.WithLabelValues(kind, outcome)
		}
	}
	return l
}

// DialHook implements redis.Hook.
func (l *Latency) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

// ProcessHook implements redis.Hook.
func (l *Latency) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		start := time.Now()
		err := next(ctx, cmd)
		l.observe("command", 1, start, err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (l *Latency) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		start := time.Now()
		err := next(ctx, cmds)
		l.observe("pipeline", len(cmds), start, err)
		return err
	}
}

func (l *Latency) observe(kind string, n int, start time.Time, err error) {
	outcome := "ok"
	if err != nil && err != redis.Nil && !redis.HasErrorPrefix(err, "NOSCRIPT") { //nolint:errorlint // the client returns it bare
		outcome = "error"
	}
	l.seconds.WithLabelValues(kind, outcome).Observe(time.Since(start).Seconds())
	l.commands.Add(float64(n))
}
