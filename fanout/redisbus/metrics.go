package redisbus

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	healthy     prometheus.Gauge
	probe       prometheus.Histogram
	watched     prometheus.Gauge
	connections prometheus.Gauge
	malformed   prometheus.Counter
	moves       prometheus.Counter
	restarts    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		healthy: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_bus_healthy", Help: "1 while messages that this node publishes to itself come back, else 0.",
		}),
		probe: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rollcall_bus_probe_seconds", Help: "How long a message that this node published to itself took to come back.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		watched: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_partitions_watched", Help: "Partitions whose channel this node is subscribed to.",
		}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_bus_connections", Help: "Connections that receive messages: 1, and on a Cluster one more for each primary that has a watched partition.",
		}),
		moves: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_bus_moves_total", Help: "Channels that went to another connection because their slot went to another primary of the Cluster.",
		}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_bus_malformed_total", Help: "Messages that could not be read and were dropped.",
		}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_bus_reconnects_total", Help: "Times the connection that receives messages was made anew, by cause.",
		}, []string{"cause"}),
	}
	m.restarts.WithLabelValues(causeLost)
	m.restarts.WithLabelValues(causeSilent)
	m.connections.Set(1)
	reg.MustRegister(m.healthy, m.probe, m.watched, m.connections, m.malformed, m.moves, m.restarts)
	return m
}

// Why the receiving connection was made anew.
const (
	causeLost   = "lost"   // it ended
	causeSilent = "silent" // probes did not come back
)
