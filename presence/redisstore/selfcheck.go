package redisstore

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

// checkPace is how often a script of a self-check runs, of all nodes together: it, and
// not the number of users, is what self-checks cost Redis.
const checkPace = 100 * time.Millisecond

// SelfCheckOptions tunes a SelfCheck. Node, Compare and Metrics are required.
type SelfCheckOptions struct {
	Node presence.NodeID
	// Every is how long after the start of a round the next begins, if the round is over
	// by then. Default 15m.
	Every time.Duration
	// Confirm and Linger are as in VerifyOptions.
	Confirm, Linger time.Duration
	// Repair mends what is found.
	Repair bool
	// Compare compares this node's own sessions with what the store has of them, and
	// counts the differences that last for a while.
	Compare func(ctx context.Context, p presence.Partition, while time.Duration) (presence.Compared, error)
	Metrics prometheus.Registerer
	// Found is called after each round with what it found.
	Found func(Verified)
	// pace in place of checkPace; for tests.
	pace time.Duration
}

// SelfCheck verifies a node's share of the partitions again and again, slowly, and the
// node's own sessions in all of them, and shows what it finds as metrics.
type SelfCheck struct {
	store *Store
	opt   SelfCheckOptions

	drift    *prometheus.GaugeVec
	rounds   *prometheus.CounterVec
	repaired *prometheus.CounterVec
	own      *prometheus.CounterVec
	last     prometheus.Gauge
}

// NewSelfCheck returns a SelfCheck, which does nothing before Serve.
func NewSelfCheck(store *Store, opt SelfCheckOptions) *SelfCheck {
	if opt.Every == 0 {
		opt.Every = 15 * time.Minute
	}
	if opt.pace == 0 {
		opt.pace = checkPace
	}
	c := &SelfCheck{
		store: store, opt: opt,
		drift: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rollcall_drift_users", Help: "Disagreements between records that the last full round of the self-check found in this node's share of the partitions, by kind.",
		}, []string{"kind"}),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_verify_rounds_total", Help: "Rounds of the self-check, by outcome.",
		}, []string{"outcome"}),
		repaired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_verify_repaired_total", Help: "Disagreements that the self-check repaired, by kind.",
		}, []string{"kind"}),
		own: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_drift_sessions_total", Help: "Sessions of this node that the store had lost (missing) or had too many (surplus), or that had no socket (closed). They are mended.",
		}, []string{"kind"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_verify_last_round_timestamp_seconds", Help: "When the last full round of the self-check ended; 0 before the first.",
		}),
	}
	opt.Metrics.MustRegister(c.drift, c.rounds, c.repaired, c.own, c.last)
	for _, kind := range Kinds() {
		c.drift.WithLabelValues(kind)
		c.repaired.WithLabelValues(kind)
	}
	for _, outcome := range []string{"ok", "failed"} {
		c.rounds.WithLabelValues(outcome)
	}
	for _, kind := range []string{"missing", "surplus", "closed"} {
		c.own.WithLabelValues(kind)
	}
	return c
}

// Serve checks until ctx ends. A round that Redis does not answer is begun anew after
// the usual time.
func (c *SelfCheck) Serve(ctx context.Context) error {
	timer := time.NewTimer(min(c.opt.Every, time.Minute)) // a node that starts has other work
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		next := time.Now().Add(c.opt.Every)
		c.round(ctx)
		timer.Reset(time.Until(next))
	}
}

func (c *SelfCheck) round(ctx context.Context) {
	tick := time.NewTicker(c.opt.pace)
	defer tick.Stop()
	known := 1
	pause := func(ctx context.Context, nodes int) error {
		if nodes > known {
			known = nodes
			tick.Reset(c.opt.pace * time.Duration(known))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			return nil
		}
	}
	found, err := c.store.Verify(ctx, VerifyOptions{Node: c.opt.Node, Repair: c.opt.Repair, Confirm: c.opt.Confirm, Linger: c.opt.Linger, Pause: pause})
	for p := presence.Partition(0); err == nil && p < presence.Partition(c.store.Partitions()); p++ {
		if err = pause(ctx, known); err != nil {
			break
		}
		var own presence.Compared
		own, err = c.opt.Compare(ctx, p, c.store.opt.Stall)
		c.own.WithLabelValues("missing").Add(float64(own.Missing))
		c.own.WithLabelValues("surplus").Add(float64(own.Surplus))
		c.own.WithLabelValues("closed").Add(float64(own.Closed))
	}
	if err != nil {
		if ctx.Err() == nil {
			c.rounds.WithLabelValues("failed").Inc()
		}
		return
	}
	drift := map[string]int{}
	for _, d := range found.Disagreements {
		if d.Repaired {
			c.repaired.WithLabelValues(d.Kind).Inc()
		}
		drift[d.Kind]++
	}
	for _, kind := range Kinds() {
		c.drift.WithLabelValues(kind).Set(float64(drift[kind]))
	}
	c.rounds.WithLabelValues("ok").Inc()
	c.last.SetToCurrentTime()
	if c.opt.Found != nil {
		c.opt.Found(found)
	}
}
