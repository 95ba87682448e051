package webhook

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-presence/rollcall/presence"
)

type metrics struct {
	attempts    *prometheus.CounterVec
	seconds     prometheus.Histogram
	delay       prometheus.Histogram
	dropped     *prometheus.CounterVec
	dead        *prometheus.CounterVec
	lost        prometheus.Counter
	queueErrors *prometheus.CounterVec
	running     prometheus.Gauge
	waiting     prometheus.Gauge
	partitions  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_webhook_attempts_total", Help: "Requests made of webhook targets, by event and outcome.",
		}, []string{"event", "outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rollcall_webhook_attempt_seconds", Help: "How long requests of webhook targets took.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rollcall_webhook_delay_seconds", Help: "From an event's being queued to its delivery.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 3600, 86400},
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_webhook_dropped_total", Help: "Events that were queued and that nobody was to be told of any more, by reason.",
		}, []string{"reason"}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_webhook_dead_letters_total", Help: "Events that became dead letters, by reason: expired after failing for long, or overflow of a user's queue.",
		}, []string{"reason"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_webhook_dead_letters_lost_total", Help: "Dead letters that made room for newer ones.",
		}),
		queueErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_webhook_queue_errors_total", Help: "Partitions whose queue could not be asked or told, by operation; it is tried again.",
		}, []string{"operation"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_webhook_running", Help: "Users whose events this node is delivering, at most webhook_concurrency.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_webhook_waiting", Help: "Users whose events this node has claimed and whose target is busy.",
		}),
		partitions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_webhook_partitions", Help: "Partitions whose webhooks this node delivers.",
		}),
	}
	for _, event := range []string{presence.EventUserAdded, presence.EventUserUpdate, presence.EventUserUpdated, presence.EventReachabilityChanged} {
		for _, outcome := range outcomes {
			m.attempts.WithLabelValues(event, outcome)
		}
	}
	for _, reason := range drops {
		m.dropped.WithLabelValues(reason)
	}
	for _, reason := range []string{"expired", "overflow"} {
		m.dead.WithLabelValues(reason)
	}
	for _, operation := range []string{"claim", "settle"} {
		m.queueErrors.WithLabelValues(operation)
	}
	if reg != nil {
		reg.MustRegister(m.attempts, m.seconds, m.delay, m.dropped, m.dead, m.lost, m.queueErrors, m.running, m.waiting, m.partitions)
	}
	return m
}
